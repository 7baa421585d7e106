/* Reads a tokenizer.json: tokens first, for all else refers to them; see the header.
 *
 * The parsed file lives only while it is read. Every size allocated here follows from entries that
 * are really in the file; an id may lie beyond their number only within a bound. */
#include "runtime/tokenizer_file.h"

#include "runtime/byte_alphabet.h"
#include "runtime/tokenizer_options.h"
#include "runtime/utf8.h"

#include <jansson.h>
#include <string.h>

/* The table of ids may be this much longer than the list of tokens. */
#define IDS_PER_TOKEN_MAX 4
#define IDS_SPARE         4096

struct reader {
    json_t *vocab;       /* object: token in the byte alphabet -> id */
    const json_t *added; /* array, or NULL */
    const char *path;
    struct sl_tokenizer *tokenizer;
    struct sl_error *error;
    char *scratch; /* [scratch_bytes], as long as the longest token in the file */
    size_t scratch_bytes;
};

static enum sl_status no_memory(const struct reader *reader)
{
    return sl_error_set(reader->error, SL_ERR_NO_MEMORY, 0, "%s: out of memory", reader->path);
}

/* ---- sizes -------------------------------------------------------------------------------- */

struct sizes {
    size_t tokens, text_bytes, longest_bytes;
    int64_t id_max;
};

static enum sl_status size_token(const struct reader *reader, struct sizes *sizes,
                                 const char *token, const json_t *id)
{
    size_t bytes = strlen(token);
    int64_t value = json_is_integer(id) ? json_integer_value(id) : -1;
    if (value < 0 || value >= VOCABULARY_IDS_MAX)
        return sl_error_set(reader->error, SL_ERR_FORMAT, 0,
                            "%s: the id of the token \"%s\" is not a number from 0 to %d",
                            reader->path, token, VOCABULARY_IDS_MAX - 1);
    sizes->tokens++;
    sizes->text_bytes += bytes;
    if (bytes > sizes->longest_bytes) sizes->longest_bytes = bytes;
    if (value > sizes->id_max) sizes->id_max = value;
    return SL_OK;
}

static enum sl_status size_tokens(const struct reader *reader, struct sizes *sizes)
{
    const char *token;
    json_t *id;
    json_object_foreach(reader->vocab, token, id) SL_TRY(size_token(reader, sizes, token, id));
    for (size_t i = 0; i < json_array_size(reader->added); i++) {
        const json_t *entry = json_array_get(reader->added, i);
        const char *content = json_string_value(json_object_get(entry, "content"));
        if (!content)
            return sl_error_set(reader->error, SL_ERR_FORMAT, 0,
                                "%s: added_tokens[%zu] has no \"content\"", reader->path, i);
        SL_TRY(size_token(reader, sizes, content, json_object_get(entry, "id")));
    }
    if ((uint64_t)sizes->id_max >= IDS_PER_TOKEN_MAX * (uint64_t)sizes->tokens + IDS_SPARE)
        return sl_error_set(reader->error, SL_ERR_FORMAT, 0,
                            "%s: the highest id is %lld, but there are only %zu tokens",
                            reader->path, (long long)sizes->id_max, sizes->tokens);
    return SL_OK;
}

/* ---- tokens ------------------------------------------------------------------------------- */

/* The raw bytes of a token written in the byte alphabet, into scratch; a token with other
 * characters (a marker, say) is its own text. Returns their number. */
static size_t token_bytes(const struct reader *reader, const char *token)
{
    size_t length = strlen(token), written = 0;
    SL_ASSERT(length <= reader->scratch_bytes);
    for (size_t at = 0; at < length;) {
        struct utf8_step step = utf8_step(token + at, length - at);
        int32_t byte = step.kind == UTF8_WHOLE ? byte_alphabet_byte(step.code_point) : -1;
        if (byte < 0) {
            memcpy(reader->scratch, token, length);
            return length;
        }
        reader->scratch[written++] = (char)byte;
        at += step.bytes;
    }
    return written;
}

static enum sl_status read_vocab(const struct reader *reader)
{
    struct vocabulary *vocabulary = &reader->tokenizer->vocabulary;
    const char *token;
    json_t *id_value;
    json_object_foreach(reader->vocab, token, id_value)
    {
        int32_t id = (int32_t)json_integer_value(id_value);
        size_t bytes;
        if (vocabulary_bytes(vocabulary, id, &bytes))
            return sl_error_set(reader->error, SL_ERR_FORMAT, 0,
                                "%s: the id %d of the token \"%s\" belongs to another token, too",
                                reader->path, id, token);
        bytes = token_bytes(reader, token);
        vocabulary_put(vocabulary, id, reader->scratch, bytes);
    }
    return SL_OK;
}

/* Id of a token as the file writes it, or -1. */
static int32_t find_id(const struct reader *reader, const char *token, size_t bytes)
{
    const json_t *id = json_object_getn(reader->vocab, token, bytes);
    return id ? (int32_t)json_integer_value(id) : -1;
}

static enum sl_status read_added_token(const struct reader *reader, const json_t *entry)
{
    struct sl_tokenizer *tokenizer = reader->tokenizer;
    const json_t *normalized = json_object_get(entry, "normalized");
    const char *content = json_string_value(json_object_get(entry, "content"));
    int32_t id = (int32_t)json_integer_value(json_object_get(entry, "id"));
    size_t bytes = strlen(content), taken_bytes;
    SL_TRY(tokenizer_options_check_added(entry, content, reader->path, reader->error));
    if (bytes == 0 || bytes > ADDED_TOKENS_CONTENT_BYTES_MAX || !json_is_boolean(normalized))
        return sl_error_set(reader->error, SL_ERR_FORMAT, 0,
                            "%s: the added token %d needs a content of 1 to %d bytes and "
                            "\"normalized\" true or false",
                            reader->path, id, ADDED_TOKENS_CONTENT_BYTES_MAX);
    for (int32_t pass = 0; pass < TOKENIZER_PASSES; pass++)
        if (added_tokens_find(&tokenizer->added[pass], content, bytes) >= 0)
            return sl_error_set(reader->error, SL_ERR_FORMAT, 0,
                                "%s: the added token \"%s\" is listed twice", reader->path,
                                content);
    int32_t vocab_id = find_id(reader, content, bytes);
    if (vocab_id >= 0 ? vocab_id != id
                      : vocabulary_bytes(&tokenizer->vocabulary, id, &taken_bytes) != NULL)
        return sl_error_set(reader->error, SL_ERR_FORMAT, 0,
                            "%s: the added token \"%s\" has the id %d, which the vocabulary "
                            "contradicts",
                            reader->path, content, id);
    vocabulary_put(&tokenizer->vocabulary, id, content, bytes);
    int32_t pass = json_is_true(normalized) ? 1 : 0;
    if (added_tokens_add(&tokenizer->added[pass], content, bytes, id) != SL_OK)
        return no_memory(reader);
    return SL_OK;
}

static enum sl_status read_tokens(struct reader *reader)
{
    struct sizes sizes = {.id_max = -1};
    SL_TRY(size_tokens(reader, &sizes));
    if (sizes.text_bytes == 0)
        return sl_error_set(reader->error, SL_ERR_FORMAT, 0, "%s: there are no tokens",
                            reader->path);
    SL_ASSERT(sizes.text_bytes <= TOKENIZER_FILE_BYTES_MAX);
    if (vocabulary_init(&reader->tokenizer->vocabulary, (int32_t)sizes.id_max + 1,
                        sizes.text_bytes) != SL_OK)
        return no_memory(reader);
    reader->scratch_bytes = sizes.longest_bytes;
    reader->scratch = malloc(reader->scratch_bytes);
    if (!reader->scratch) return no_memory(reader);

    SL_TRY(read_vocab(reader));
    for (size_t i = 0; i < json_array_size(reader->added); i++)
        SL_TRY(read_added_token(reader, json_array_get(reader->added, i)));
    return SL_OK;
}

/* ---- merges ------------------------------------------------------------------------------- */

/* The two halves of "a b" or ["a", "b"]; false for anything else. */
static bool merge_halves(const json_t *merge, const char *halves[2], size_t bytes[2])
{
    if (json_is_array(merge)) {
        if (json_array_size(merge) != 2) return false;
        for (size_t i = 0; i < 2; i++) {
            halves[i] = json_string_value(json_array_get(merge, i));
            if (!halves[i]) return false;
            bytes[i] = strlen(halves[i]);
        }
        return bytes[0] > 0 && bytes[1] > 0;
    }
    halves[0] = json_string_value(merge);
    const char *space = halves[0] ? strchr(halves[0], ' ') : NULL;
    if (!space) return false;
    halves[1] = space + 1;
    bytes[0] = (size_t)(space - halves[0]);
    bytes[1] = strlen(halves[1]);
    return bytes[0] > 0 && bytes[1] > 0 && !strchr(halves[1], ' ');
}

static enum sl_status merge_error(const struct reader *reader, size_t rank, const char *what,
                                  const char *token, size_t bytes)
{
    return sl_error_set(reader->error, SL_ERR_FORMAT, 0, "%s: merges[%zu]: %s%s%.*s%s",
                        reader->path, rank, what, bytes ? " \"" : "", (int)bytes, token,
                        bytes ? "\"" : "");
}

static enum sl_status read_merge(const struct reader *reader, const json_t *merge, size_t rank)
{
    const char *halves[2];
    size_t bytes[2];
    if (!merge_halves(merge, halves, bytes))
        return merge_error(reader, rank, "expected \"left right\" or [\"left\", \"right\"]", "", 0);
    int32_t ids[2];
    for (int32_t i = 0; i < 2; i++) {
        ids[i] = find_id(reader, halves[i], bytes[i]);
        if (ids[i] < 0)
            return merge_error(reader, rank, "the vocabulary lacks", halves[i], bytes[i]);
    }
    /* Both halves are tokens, so each fits; a sum longer than any token is none. */
    size_t joined_bytes = bytes[0] + bytes[1];
    int32_t result = -1;
    if (joined_bytes <= reader->scratch_bytes) {
        memcpy(reader->scratch, halves[0], bytes[0]);
        memcpy(reader->scratch + bytes[0], halves[1], bytes[1]);
        result = find_id(reader, reader->scratch, joined_bytes);
    }
    if (result < 0)
        return sl_error_set(reader->error, SL_ERR_FORMAT, 0,
                            "%s: merges[%zu]: the vocabulary lacks the result \"%.*s%.*s\"",
                            reader->path, rank, (int)bytes[0], halves[0], (int)bytes[1], halves[1]);
    if (!bpe_add(reader->tokenizer->bpe, ids[0], ids[1], (int32_t)rank, result))
        return merge_error(reader, rank, "the same pair comes earlier in the list", "", 0);
    return SL_OK;
}

static enum sl_status read_merges(const struct reader *reader, const json_t *merges)
{
    int32_t byte_ids[256];
    for (int32_t byte = 0; byte < 256; byte++) {
        char token[UTF8_CHARACTER_BYTES_MAX];
        uint32_t bytes = utf8_put(byte_alphabet_code_point((uint8_t)byte), token);
        byte_ids[byte] = find_id(reader, token, bytes);
        if (byte_ids[byte] < 0)
            return sl_error_set(reader->error, SL_ERR_FORMAT, 0,
                                "%s: the vocabulary has no token \"%.*s\" for the byte 0x%02x",
                                reader->path, (int)bytes, token, (unsigned)byte);
    }
    if (!json_is_array(merges))
        return sl_error_set(reader->error, SL_ERR_FORMAT, 0, "%s: model.merges is not a list",
                            reader->path);
    if (bpe_create(json_array_size(merges), byte_ids, &reader->tokenizer->bpe) != SL_OK)
        return no_memory(reader);
    for (size_t i = 0; i < json_array_size(merges); i++)
        SL_TRY(read_merge(reader, json_array_get(merges, i), i));
    return SL_OK;
}

/* ---- split rules -------------------------------------------------------------------------- */

static enum sl_status read_split(const struct reader *reader, const json_t *step, size_t idx)
{
    const char *behavior = json_string_value(json_object_get(step, "behavior"));
    const json_t *pattern = json_object_get(json_object_get(step, "pattern"), "Regex");
    if (!behavior || strcmp(behavior, "Isolated") != 0 ||
        !json_is_false(json_object_get(step, "invert")) || !json_is_string(pattern) ||
        idx >= PRETOKENIZER_RULES_MAX)
        return sl_error_set(reader->error, SL_ERR_UNSUPPORTED, 0,
                            "%s: pre_tokenizer step %zu: only up to %d Split rules with a "
                            "pattern.Regex, behavior \"Isolated\" and invert false are supported",
                            reader->path, idx, PRETOKENIZER_RULES_MAX);
    return pretokenizer_add(reader->tokenizer->pretokenizer, json_string_value(pattern),
                            json_string_length(pattern), reader->path, reader->error);
}

/* A Sequence of Split rules that a ByteLevel step ends. */
static enum sl_status read_pretokenizer(const struct reader *reader, const json_t *pretokenizer)
{
    if (pretokenizer_create(&reader->tokenizer->pretokenizer) != SL_OK) return no_memory(reader);
    const json_t *steps = json_object_get(pretokenizer, "pretokenizers");
    size_t count = json_array_size(steps);
    for (size_t i = 0; i < count; i++) {
        const json_t *step = json_array_get(steps, i);
        const char *type = json_string_value(json_object_get(step, "type"));
        bool last = i + 1 == count;
        if (last && type && strcmp(type, "ByteLevel") == 0)
            return tokenizer_options_check_byte_level(step, reader->path, reader->error);
        if (last || !type || strcmp(type, "Split") != 0) break;
        SL_TRY(read_split(reader, step, i));
    }
    return sl_error_set(reader->error, SL_ERR_UNSUPPORTED, 0,
                        "%s: the pre_tokenizer is not a Sequence of Split rules with ByteLevel at "
                        "its end; no other kind is supported",
                        reader->path);
}

/* ---- file --------------------------------------------------------------------------------- */

static enum sl_status read_parts(struct reader *reader, const json_t *file)
{
    SL_TRY(tokenizer_options_check(file, reader->path, reader->error));
    const json_t *model = json_object_get(file, "model");
    reader->vocab = json_object_get(model, "vocab");
    reader->added = json_object_get(file, "added_tokens");
    if (!json_is_object(reader->vocab))
        return sl_error_set(reader->error, SL_ERR_FORMAT, 0, "%s: model.vocab is not an object",
                            reader->path);
    if (reader->added && !json_is_null(reader->added) && !json_is_array(reader->added))
        return sl_error_set(reader->error, SL_ERR_FORMAT, 0, "%s: added_tokens is not a list",
                            reader->path);
    SL_TRY(read_tokens(reader));
    SL_TRY(read_merges(reader, json_object_get(model, "merges")));
    return read_pretokenizer(reader, json_object_get(file, "pre_tokenizer"));
}

enum sl_status tokenizer_file_read(const char *text, size_t bytes, const char *path,
                                   struct sl_tokenizer *out, struct sl_error *error)
{
    SL_ASSERT(!out->bpe && !out->pretokenizer && !out->vocabulary.tokens);
    if (bytes > TOKENIZER_FILE_BYTES_MAX)
        return sl_error_set(error, SL_ERR_FORMAT, 0,
                            "%s: more than %u bytes; no tokenizer is that large", path,
                            TOKENIZER_FILE_BYTES_MAX);
    json_error_t problem;
    json_t *file = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &problem);
    if (!file) {
        bool memory = json_error_code(&problem) == json_error_out_of_memory;
        return sl_error_set(error, memory ? SL_ERR_NO_MEMORY : SL_ERR_FORMAT, 0,
                            "%s: not valid JSON, line %d, column %d: %s", path, problem.line,
                            problem.column, problem.text);
    }
    struct reader reader = {.path = path, .tokenizer = out, .error = error};
    enum sl_status status = read_parts(&reader, file);
    free(reader.scratch);
    json_decref(file);
    SL_ASSERT(status != SL_OK || (out->bpe && out->pretokenizer));
    return status;
}
