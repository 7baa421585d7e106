/* Reads the message in a completion; the public call is described in sl.h and docs/chat.md.
 *
 * Strict: the text must be what the encoder would have written, up to white space where the format
 * allows it. Every search is bounded by what it is about to consume, so that the time stays linear
 * in the text. */
#include "kernels/base.h"
#include "runtime/chat.h"
#include "runtime/chat_strings.h"
#include "runtime/sl.h"

#include <string.h>

struct span {
    const char *data;
    size_t bytes;
};

struct completion {
    const char *text;
    size_t bytes, position;
    struct sl_error *error;
};

/* ---- scanning ----------------------------------------------------------------------------- */

/* SIZE_MAX when `mark` does not occur in [from, to); else where it begins. */
static size_t find_mark(const struct completion *completion, size_t from, size_t to,
                        const char *mark)
{
    SL_ASSERT(from <= to && to <= completion->bytes);
    if (from == to) return SIZE_MAX;
    const char *found = memmem(completion->text + from, to - from, mark, strlen(mark));
    return found ? (size_t)(found - completion->text) : SIZE_MAX;
}

static bool skip_mark(struct completion *completion, const char *mark)
{
    size_t bytes = strlen(mark);
    if (completion->bytes - completion->position < bytes) return false;
    if (memcmp(completion->text + completion->position, mark, bytes) != 0) return false;
    completion->position += bytes;
    return true;
}

static struct span span_of(const struct completion *completion, size_t from, size_t to)
{
    return (struct span){completion->text + from, to - from};
}

static bool span_has(struct span span, const char *mark)
{
    return span.bytes > 0 && memmem(span.data, span.bytes, mark, strlen(mark));
}

static enum sl_status malformed(const struct completion *completion, const char *what)
{
    return sl_error_set(completion->error, SL_ERR_FORMAT, 0, "completion, byte %zu of %zu: %s",
                        completion->position, completion->bytes, what);
}

/* ---- tool calls --------------------------------------------------------------------------- */

/* What the tool calls are built with; one for a whole completion. */
struct call_builder {
    struct text_buffer calls;     /* JSON of the calls so far */
    struct text_buffer arguments; /* of the current call */
    struct span *keys;            /* [key_count] of the current call */
    size_t key_count, key_capacity;
};

static int compare_spans(const void *left, const void *right)
{
    const struct span *a = left, *b = right;
    size_t bytes = a->bytes < b->bytes ? a->bytes : b->bytes;
    int order = bytes ? memcmp(a->data, b->data, bytes) : 0;
    if (order != 0) return order;
    return a->bytes < b->bytes ? -1 : a->bytes > b->bytes;
}

static bool has_repeated_key(struct call_builder *builder)
{
    if (builder->key_count < 2) return false;
    qsort(builder->keys, builder->key_count, sizeof *builder->keys, compare_spans);
    for (size_t i = 1; i < builder->key_count; i++)
        if (compare_spans(&builder->keys[i - 1], &builder->keys[i]) == 0) return true;
    return false;
}

static bool remember_key(struct call_builder *builder, struct span key)
{
    if (builder->key_count == builder->key_capacity) {
        size_t capacity = builder->key_capacity ? builder->key_capacity * 2 : 16;
        struct span *keys = realloc(builder->keys, capacity * sizeof *keys);
        if (!keys) return false;
        builder->keys = keys;
        builder->key_capacity = capacity;
    }
    builder->keys[builder->key_count++] = key;
    return true;
}

/* After a parameter tag: name, flag and value, past the closing tag. */
static enum sl_status read_param(struct completion *completion, struct call_builder *builder)
{
    size_t end = find_mark(completion, completion->position, completion->bytes, CHAT_PARAM_END_TAG);
    if (end == SIZE_MAX) return malformed(completion, "a parameter of a tool call does not end");
    if (!skip_mark(completion, " " CHAT_NAME))
        return malformed(completion, "expected ' name=\"' after a parameter tag");

    /* The key ends at the first quote that a flag follows. */
    size_t key_start = completion->position, key_end = key_start;
    bool is_text = false;
    for (size_t from = key_start;; from = key_end + 1) {
        key_end = find_mark(completion, from, end, CHAT_PARAM_AFTER_KEY);
        if (key_end == SIZE_MAX)
            return malformed(completion,
                             "expected '\" string=\"true\">' or '\" string=\"false\">'");
        completion->position = key_end;
        is_text = skip_mark(completion, CHAT_PARAM_AFTER_KEY "true" CHAT_PARAM_AFTER_FLAG);
        if (is_text) break;
        if (skip_mark(completion, CHAT_PARAM_AFTER_KEY "false" CHAT_PARAM_AFTER_FLAG)) break;
        completion->position = key_start;
    }
    SL_ASSERT(completion->position <= end);
    struct span key = span_of(completion, key_start, key_end);
    struct span value = span_of(completion, completion->position, end);
    if (builder->key_count > 0) text_buffer_append_text(&builder->arguments, ", ");
    if (!remember_key(builder, key)) {
        return sl_error_set(completion->error, SL_ERR_NO_MEMORY, 0,
                            "out of memory for %zu parameters of a tool call", builder->key_count);
    }
    json_value_write_string(key.data, key.bytes, &builder->arguments);
    text_buffer_append_text(&builder->arguments, ": ");
    if (is_text) {
        json_value_write_string(value.data, value.bytes, &builder->arguments);
    } else {
        text_buffer_append(&builder->arguments, value.data, value.bytes);
    }
    completion->position = end;
    skip_mark(completion, CHAT_PARAM_END_TAG);
    return SL_OK;
}

/* After a call's tag: its name, up to the first parameter or the end of the call. */
static enum sl_status read_call_name(struct completion *completion, struct span *name)
{
    static const char after_name[] = CHAT_CALL_AFTER_NAME;
    size_t end = find_mark(completion, completion->position, completion->bytes, CHAT_CALL_END_TAG);
    if (end == SIZE_MAX) return malformed(completion, "a tool call does not end");
    size_t first_param = find_mark(completion, completion->position, end, CHAT_PARAM_TAG);
    if (first_param != SIZE_MAX) end = first_param;

    static const char space[] = {' ', '\t', '\n', '\r', '\f', '\v'};
    while (completion->position < end &&
           memchr(space, completion->text[completion->position], sizeof space))
        completion->position++;
    if (!skip_mark(completion, CHAT_NAME))
        return malformed(completion, "expected 'name=\"' in a tool call");

    /* The encoder writes one newline more where there are no parameters. */
    size_t length = sizeof after_name - 1, start = completion->position, stop = end;
    if (stop >= start + length + 1 && memcmp(completion->text + stop - 2, "\n\n", 2) == 0) stop--;
    if (stop < start + length || memcmp(completion->text + stop - length, after_name, length) != 0)
        return malformed(completion, "expected '\">' and a newline after the name of a tool call");
    *name = span_of(completion, start, stop - length);
    completion->position = end;
    return SL_OK;
}

/* After a call's tag, past its closing tag. */
static enum sl_status read_call(struct completion *completion, struct call_builder *builder)
{
    struct span name = {0};
    builder->key_count = 0;
    text_buffer_clear(&builder->arguments);
    text_buffer_append_byte(&builder->arguments, '{');
    SL_TRY(read_call_name(completion, &name));
    while (!skip_mark(completion, CHAT_CALL_END_TAG)) {
        if (!skip_mark(completion, CHAT_PARAM_TAG))
            return malformed(completion, "expected a parameter or the end of a tool call");
        SL_TRY(read_param(completion, builder));
        if (!skip_mark(completion, CHAT_TAG_END))
            return malformed(completion, "expected '>' and a newline after a parameter");
    }
    if (has_repeated_key(builder))
        return malformed(completion, "a tool call has two parameters of one name");

    struct text_buffer *calls = &builder->calls;
    struct text_buffer *arguments = &builder->arguments;
    if (calls->bytes > 0) text_buffer_append_text(calls, ", ");
    text_buffer_append_text(calls, "{\"type\": \"function\", \"function\": {\"name\": ");
    json_value_write_string(name.data, name.bytes, calls);
    text_buffer_append_text(calls, ", \"arguments\": ");
    text_buffer_append_byte(arguments, '}');
    if (arguments->failed) {
        calls->failed = true;
        return SL_OK; /* reported when the message is taken */
    }
    json_value_write_string(arguments->data, arguments->bytes, calls);
    text_buffer_append_text(calls, "}}");
    return SL_OK;
}

/* After the opening of the tool block, past its closing tag. */
static enum sl_status read_calls(struct completion *completion, struct call_builder *builder)
{
    for (;;) {
        if (!skip_mark(completion, CHAT_TAG_END))
            return malformed(completion, "expected '>' and a newline in a block of tool calls");
        if (skip_mark(completion, CHAT_CALLS_END_TAG)) return SL_OK;
        if (!skip_mark(completion, CHAT_CALL_TAG))
            return malformed(completion, "expected a tool call or the end of the tool calls");
        SL_TRY(read_call(completion, builder));
    }
}

/* ---- the message -------------------------------------------------------------------------- */

static enum sl_status check_free_of_marks(const struct completion *completion, struct span text,
                                          const char *field)
{
    static const char *const marks[] = {CHAT_BOS, CHAT_EOS, CHAT_THINK_START, CHAT_THINK_END,
                                        CHAT_DSML};
    for (size_t i = 0; i < SL_COUNT_OF(marks); i++) {
        if (!span_has(text, marks[i])) continue;
        return sl_error_set(completion->error, SL_ERR_FORMAT, 0,
                            "completion: the %s contains the marker %s", field, marks[i]);
    }
    return SL_OK;
}

static enum sl_status read_reasoning(struct completion *completion, struct span *reasoning)
{
    size_t end = find_mark(completion, 0, completion->bytes, CHAT_THINK_END);
    if (end == SIZE_MAX)
        return malformed(completion, "the reasoning does not end (" CHAT_THINK_END ")");
    completion->position = find_mark(completion, 0, end, CHAT_CALLS_TAG);
    if (completion->position != SIZE_MAX)
        return malformed(completion, "a block of tool calls begins inside the reasoning");
    *reasoning = span_of(completion, 0, end);
    completion->position = end;
    skip_mark(completion, CHAT_THINK_END);
    return check_free_of_marks(completion, *reasoning, "reasoning");
}

static enum sl_status read_content(struct completion *completion, struct span *content,
                                   bool *has_calls)
{
    size_t start = completion->position;
    size_t eos = find_mark(completion, start, completion->bytes, CHAT_EOS);
    size_t calls =
        find_mark(completion, start, eos == SIZE_MAX ? completion->bytes : eos, CHAT_CALLS_TAG);
    *has_calls = calls != SIZE_MAX;
    size_t end = *has_calls ? calls : eos;
    if (end == SIZE_MAX) return malformed(completion, "the message does not end (" CHAT_EOS ")");
    *content = span_of(completion, start, end);
    completion->position = end;
    return check_free_of_marks(completion, *content, "content");
}

static enum sl_status read_message(struct completion *completion, bool is_thinking,
                                   struct call_builder *builder, struct text_buffer *out)
{
    struct span reasoning = {0}, content = {0};
    bool has_calls;
    if (is_thinking) SL_TRY(read_reasoning(completion, &reasoning));
    SL_TRY(read_content(completion, &content, &has_calls));
    if (has_calls) {
        skip_mark(completion, CHAT_CALLS_TAG);
        SL_TRY(read_calls(completion, builder));
    }
    skip_mark(completion, CHAT_EOS); /* may be missing after tool calls only */
    if (completion->position < completion->bytes)
        return malformed(completion, "text after the end of the message");

    text_buffer_append_text(out, "{\"role\": \"assistant\", \"content\": ");
    json_value_write_string(content.data, content.bytes, out);
    text_buffer_append_text(out, ", \"reasoning_content\": ");
    json_value_write_string(reasoning.data, reasoning.bytes, out);
    text_buffer_append_text(out, ", \"tool_calls\": [");
    text_buffer_append(out, builder->calls.data, builder->calls.bytes);
    text_buffer_append_text(out, "]}");
    out->failed |= builder->calls.failed;
    return SL_OK;
}

static enum sl_status parse_input(const struct json_value *input, struct text_buffer *out,
                                  struct sl_error *error)
{
    bool is_thinking;
    SL_TRY(chat_read_mode(input, &is_thinking, error));
    const struct json_value *text = json_value_find(input, "text");
    if (!text || text->type != JSON_STRING) {
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "text: expected text, found %s",
                            json_value_kind(text));
    }
    struct completion completion = {.text = text->text, .bytes = text->bytes, .error = error};
    struct call_builder builder = {0};
    enum sl_status status = read_message(&completion, is_thinking, &builder, out);
    text_buffer_deinit(&builder.calls);
    text_buffer_deinit(&builder.arguments);
    free(builder.keys);
    return status;
}

enum sl_status sl_chat_parse(const char *input, size_t input_bytes, char **message, size_t *bytes,
                             struct sl_error *error)
{
    SL_ASSERT((input || input_bytes == 0) && message && bytes);
    struct json_document document;
    struct text_buffer out = {0};
    SL_TRY(chat_read_input(input, input_bytes, "input of parse", &document, error));
    enum sl_status status = parse_input(document.root, &out, error);
    if (status == SL_OK) status = text_buffer_take(&out, message, bytes, error);
    text_buffer_deinit(&out);
    json_value_release(&document);
    return status;
}
