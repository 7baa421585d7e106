/* Fuzz target: the input as a tokenizer.json, and as text for a tokenizer that is sound. Text has
 * to come back from its ids with nothing changed but its invalid UTF-8, and the same when streamed.
 */
#include "runtime/byte_alphabet.h"
#include "runtime/tokenizer.h"
#include "runtime/utf8.h"

#include <jansson.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static const char frame[] =
    "{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["
    "{\"type\":\"Split\",\"behavior\":\"Isolated\",\"invert\":false,"
    "\"pattern\":{\"Regex\":\"\\\\p{N}{1,3}\"}},"
    "{\"type\":\"Split\",\"behavior\":\"Isolated\",\"invert\":false,"
    "\"pattern\":{\"Regex\":\" ?[\\\\p{P}\\\\p{S}]+[\\r\\n]*|[\\\\p{L}\\\\p{M}]+|"
    "\\\\s*[\\r\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}},"
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]},"
    "\"added_tokens\":[{\"id\":261,\"content\":\"<a>\",\"normalized\":true},"
    "{\"id\":262,\"content\":\"<a><\",\"normalized\":false}],"
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"aa\":256,\"aaa\":257,\"ab\":258,\"abaa\":259,"
    "\"\\u0120a\":260},\"merges\":[\"a a\",\"aa a\",\"a b\",\"ab aa\",\"\\u0120 a\"]}}";

static sl_tokenizer *make_sound_tokenizer(void)
{
    json_t *file = json_loads(frame, 0, NULL);
    json_t *vocab = json_object_get(json_object_get(file, "model"), "vocab");
    for (int32_t byte = 0; byte < 256; byte++) {
        char token[UTF8_CHARACTER_BYTES_MAX + 1] = {0};
        utf8_put(byte_alphabet_code_point((uint8_t)byte), token);
        json_object_set_new(vocab, token, json_integer(byte));
    }
    char *text = json_dumps(file, JSON_COMPACT);
    sl_tokenizer *tokenizer = NULL;
    struct sl_error error;
    if (tokenizer_parse(text, strlen(text), "sound", &tokenizer, &error) != SL_OK) {
        fprintf(stderr, "%s\n", error.message);
        abort();
    }
    free(text);
    json_decref(file);
    return tokenizer;
}

/* Streams the bytes of all ids; they must give `clean`. */
static void check_ids(const sl_tokenizer *tokenizer, const int32_t *ids, size_t count,
                      const char *clean, size_t clean_bytes)
{
    struct sl_text_stream stream = {0};
    size_t at = 0;
    for (size_t i = 0; i <= count; i++) {
        char out[3 * (ADDED_TOKENS_CONTENT_BYTES_MAX + 8)];
        size_t token_bytes = 0;
        const char *token = i < count ? sl_tokenizer_bytes(tokenizer, ids[i], &token_bytes) : NULL;
        SL_ASSERT(i == count || (token && token_bytes <= ADDED_TOKENS_CONTENT_BYTES_MAX));
        size_t written = sl_text_stream_push(&stream, token, token_bytes, out);
        SL_ASSERT(written <= clean_bytes - at && memcmp(out, clean + at, written) == 0);
        at += written;
    }
    SL_ASSERT(at == clean_bytes);
}

static void check_text(const sl_tokenizer *tokenizer, const char *text, size_t bytes)
{
    bool valid;
    size_t clean_bytes = utf8_clean_bytes(text, bytes, &valid), count;
    char *clean = malloc(clean_bytes + 1);
    SL_ASSERT(clean);
    utf8_clean(text, bytes, clean);
    int32_t *ids;
    SL_ASSERT(sl_tokenizer_encode(tokenizer, text, bytes, &ids, &count, NULL) == SL_OK);
    check_ids(tokenizer, ids, count, clean, clean_bytes);
    free(ids);
    free(clean);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static sl_tokenizer *sound;
    if (!sound) sound = make_sound_tokenizer();
    check_text(sound, (const char *)data, bytes);

    sl_tokenizer *tokenizer;
    struct sl_error error;
    if (tokenizer_parse((const char *)data, bytes, "input", &tokenizer, &error) == SL_OK) {
        static const char text[] = "a  b1234 <a>\xff\n\xe4\xb8\xad aaaa";
        int32_t *ids;
        size_t count;
        /* Its patterns may give up on the text, which is an error and no more. */
        if (sl_tokenizer_encode(tokenizer, text, sizeof text - 1, &ids, &count, &error) == SL_OK)
            free(ids);
        sl_tokenizer_close(tokenizer);
    } else {
        SL_ASSERT(error.message[0] != 0);
    }
    return 0;
}
