/* Arbitrary bytes through render and parse, and a round trip: what is rendered for an assistant
 * message with tool calls parses back to the same message. The first byte chooses. */
#include "kernels/base.h"
#include "runtime/chat_strings.h"
#include "runtime/json_value.h"
#include "runtime/sl.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

struct slice {
    const char *data;
    size_t bytes;
};

static void check_utf8_json(const char *text, size_t bytes)
{
    struct json_document document;
    SL_ASSERT(json_value_parse(text, bytes, &document, NULL) == SL_OK);
    json_value_release(&document);
}

static void fuzz_render(const char *input, size_t bytes)
{
    char *prompt = NULL;
    size_t prompt_bytes = 0;
    if (sl_chat_render(input, bytes, &prompt, &prompt_bytes, NULL) != SL_OK) {
        SL_ASSERT(!prompt);
        return;
    }
    SL_ASSERT(prompt[prompt_bytes] == 0);
    free(prompt);
}

static void fuzz_parse(const char *input, size_t bytes)
{
    char *message = NULL;
    size_t message_bytes = 0;
    if (sl_chat_parse(input, bytes, &message, &message_bytes, NULL) != SL_OK) {
        SL_ASSERT(!message);
        return;
    }
    check_utf8_json(message, message_bytes);
    free(message);
}

/* The input of parse for a completion. */
static void put_completion(const char *text, size_t bytes, const char *mode,
                           struct text_buffer *out)
{
    text_buffer_append_text(out, "{\"text\": ");
    json_value_write_string(text, bytes, out);
    text_buffer_append_text(out, ", \"thinking_mode\": \"");
    text_buffer_append_text(out, mode);
    text_buffer_append_text(out, "\"}");
}

/* A bare completion, so that the fuzzer need not find its way through JSON escapes. */
static void fuzz_completion(const char *text, size_t bytes, const char *mode)
{
    struct text_buffer input = {0};
    put_completion(text, bytes, mode, &input);
    fuzz_parse(input.data, input.bytes);
    text_buffer_deinit(&input);
}

/* Numbers and all else: what was written reads back and is written the same again. */
static void fuzz_json(const char *text, size_t bytes)
{
    struct json_document first, second;
    struct text_buffer once = {0}, twice = {0};
    if (json_value_parse(text, bytes, &first, NULL) != SL_OK) return;
    json_value_write(first.root, &once);
    SL_ASSERT(json_value_parse(once.data, once.bytes, &second, NULL) == SL_OK);
    json_value_write(second.root, &twice);
    SL_ASSERT(once.bytes == twice.bytes && memcmp(once.data, twice.data, once.bytes) == 0);
    json_value_release(&first);
    json_value_release(&second);
    text_buffer_deinit(&once);
    text_buffer_deinit(&twice);
}

/* Up to the next zero byte. */
static struct slice take_slice(const char **data, size_t *left)
{
    const char *zero = memchr(*data, 0, *left);
    size_t bytes = zero ? (size_t)(zero - *data) : *left;
    struct slice slice = {*data, bytes};
    *data += zero ? bytes + 1 : bytes;
    *left -= zero ? bytes + 1 : bytes;
    return slice;
}

/* What the call's arguments come back as: normalised JSON, or the raw text as one parameter. */
static bool put_expected_arguments(struct slice arguments, struct text_buffer *out)
{
    struct json_document document;
    enum sl_status status = json_value_parse(arguments.data, arguments.bytes, &document, NULL);
    if (status == SL_ERR_FORMAT) {
        text_buffer_append_text(out, "{\"arguments\": ");
        json_value_write_string(arguments.data, arguments.bytes, out);
        text_buffer_append_text(out, "}");
        return true;
    }
    if (status != SL_OK) return false;
    bool is_object = document.root->type == JSON_OBJECT;
    if (is_object) json_value_write(document.root, out);
    json_value_release(&document);
    return is_object;
}

static void put_member(const char *key, struct slice text, struct text_buffer *out)
{
    text_buffer_append_text(out, key);
    json_value_write_string(text.data, text.bytes, out);
}

static void put_message(struct slice content, struct slice reasoning, struct slice name,
                        struct slice arguments, struct text_buffer *out)
{
    put_member("{\"role\": \"assistant\", \"content\": ", content, out);
    put_member(", \"reasoning_content\": ", reasoning, out);
    put_member(", \"tool_calls\": [{\"type\": \"function\", \"function\": {\"name\": ", name, out);
    put_member(", \"arguments\": ", arguments, out);
    text_buffer_append_text(out, "}}]}");
}

static void check_round_trip(struct text_buffer *rendered_from, const struct text_buffer *message)
{
    char *prompt, *parsed;
    size_t prompt_bytes, parsed_bytes;
    if (sl_chat_render(rendered_from->data, rendered_from->bytes, &prompt, &prompt_bytes, NULL) !=
        SL_OK) {
        return; /* arguments may be what no encoder takes, content may not be UTF-8 */
    }
    struct text_buffer input = {0};
    put_completion(prompt, prompt_bytes, "thinking", &input);
    SL_ASSERT(sl_chat_parse(input.data, input.bytes, &parsed, &parsed_bytes, NULL) == SL_OK);
    SL_ASSERT(parsed_bytes == message->bytes);
    SL_ASSERT(memcmp(parsed, message->data, parsed_bytes) == 0);
    text_buffer_deinit(&input);
    free(prompt);
    free(parsed);
}

static void fuzz_round_trip(const char *data, size_t bytes)
{
    /* Markers and a flag inside a key cannot survive: the format has no escapes. */
    if (memmem(data, bytes, "<", 1) || memmem(data, bytes, "string=", 7)) return;
    if (memmem(data, bytes, "\\u", 2) || memmem(data, bytes, CHAT_DSML, strlen(CHAT_DSML))) return;
    struct slice content = take_slice(&data, &bytes), reasoning = take_slice(&data, &bytes);
    struct slice name = take_slice(&data, &bytes), arguments = {data, bytes};
    struct text_buffer expected = {0}, input = {0}, message = {0};
    if (put_expected_arguments(arguments, &expected)) {
        text_buffer_append_text(&input, "{\"thinking_mode\": \"thinking\", \"add_bos\": false, "
                                        "\"messages\": [");
        put_message(content, reasoning, name, arguments, &input);
        text_buffer_append_text(&input, "]}");
        put_message(content, reasoning, name, (struct slice){expected.data, expected.bytes},
                    &message);
        check_round_trip(&input, &message);
    }
    text_buffer_deinit(&expected);
    text_buffer_deinit(&input);
    text_buffer_deinit(&message);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes == 0) return 0;
    const char *rest = (const char *)data + 1;
    bytes--;
    switch (data[0] % 6) {
    case 0: fuzz_render(rest, bytes); break;
    case 1: fuzz_parse(rest, bytes); break;
    case 2: fuzz_completion(rest, bytes, "chat"); break;
    case 3: fuzz_completion(rest, bytes, "thinking"); break;
    case 4: fuzz_json(rest, bytes); break;
    default: fuzz_round_trip(rest, bytes); break;
    }
    return 0;
}
