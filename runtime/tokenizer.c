/* The public door of the tokenizer: opening, encoding, looking tokens up; see the header. */
#include "runtime/tokenizer.h"

#include "runtime/text_file.h"
#include "runtime/tokenizer_file.h"
#include "runtime/utf8.h"

#include <string.h>

/* ---- opening ------------------------------------------------------------------------------ */

enum sl_status tokenizer_parse(const char *text, size_t bytes, const char *path, sl_tokenizer **out,
                               struct sl_error *error)
{
    struct sl_tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (!tokenizer) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "%s: out of memory", path);
    enum sl_status status = tokenizer_file_read(text, bytes, path, tokenizer, error);
    if (status != SL_OK) {
        sl_tokenizer_close(tokenizer);
        return status;
    }
    *out = tokenizer;
    return SL_OK;
}

enum sl_status sl_tokenizer_open(const char *path, sl_tokenizer **out, struct sl_error *error)
{
    char *text;
    size_t bytes;
    SL_TRY(text_file_read(path, TOKENIZER_FILE_BYTES_MAX, &text, &bytes, error));
    enum sl_status status = tokenizer_parse(text, bytes, path, out, error);
    free(text);
    return status;
}

void sl_tokenizer_close(sl_tokenizer *tokenizer)
{
    if (!tokenizer) return;
    bpe_destroy(tokenizer->bpe);
    pretokenizer_destroy(tokenizer->pretokenizer);
    for (int32_t pass = 0; pass < TOKENIZER_PASSES; pass++)
        added_tokens_deinit(&tokenizer->added[pass]);
    vocabulary_deinit(&tokenizer->vocabulary);
    free(tokenizer);
}

/* ---- encoding ----------------------------------------------------------------------------- */

struct encoding {
    const struct sl_tokenizer *tokenizer;
    struct bpe_ids ids;
    struct sl_error *error;
};

/* The failures of bpe_encode and bpe_ids_reserve, as a message. */
static enum sl_status encode_failed(const struct encoding *encoding, enum sl_status status)
{
    return sl_error_set(encoding->error, status, 0, "cannot tokenize the text: %s",
                        status == SL_ERR_LIMIT ? "a piece of it is too long" : "out of memory");
}

static enum sl_status encode_piece(void *context, const char *piece, size_t bytes)
{
    struct encoding *encoding = context;
    enum sl_status status = bpe_encode(encoding->tokenizer->bpe, piece, bytes, &encoding->ids);
    return status == SL_OK ? SL_OK : encode_failed(encoding, status);
}

/* Text that is cut at the added tokens of the passes before `pass`. */
static enum sl_status encode_stretch(struct encoding *encoding, int32_t pass, const char *text,
                                     size_t bytes)
{
    if (bytes == 0) return SL_OK;
    const struct sl_tokenizer *tokenizer = encoding->tokenizer;
    if (pass == TOKENIZER_PASSES)
        return pretokenizer_split(tokenizer->pretokenizer, text, bytes, encode_piece, encoding,
                                  encoding->error);

    struct added_tokens_match match;
    size_t done = 0;
    while (added_tokens_next(&tokenizer->added[pass], text, bytes, done, &match)) {
        SL_ASSERT(match.start >= done && match.bytes <= bytes - match.start);
        SL_TRY(encode_stretch(encoding, pass + 1, text + done, match.start - done));
        enum sl_status status = bpe_ids_reserve(&encoding->ids, 1);
        if (status != SL_OK) return encode_failed(encoding, status);
        encoding->ids.ids[encoding->ids.count++] = match.id;
        done = match.start + match.bytes;
    }
    return encode_stretch(encoding, pass + 1, text + done, bytes - done);
}

/* `*clean` is the text to encode: `text` itself when it is valid, else a repaired copy, which the
 * caller frees. */
static enum sl_status clean_text(const char *text, size_t bytes, const char **clean,
                                 size_t *clean_bytes, char **copy, struct sl_error *error)
{
    bool valid;
    *clean = text;
    *clean_bytes = utf8_clean_bytes(text, bytes, &valid);
    *copy = NULL;
    if (valid) return SL_OK;
    *copy = malloc(*clean_bytes);
    if (!*copy) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "out of memory for the text");
    utf8_clean(text, bytes, *copy);
    *clean = *copy;
    return SL_OK;
}

enum sl_status sl_tokenizer_encode(const sl_tokenizer *tokenizer, const char *text, size_t bytes,
                                   int32_t **ids, size_t *count, struct sl_error *error)
{
    if (bytes > TOKENIZER_TEXT_BYTES_MAX)
        return sl_error_set(error, SL_ERR_LIMIT, 0,
                            "the text has %zu bytes; at most %u can be tokenized at once", bytes,
                            TOKENIZER_TEXT_BYTES_MAX);
    const char *clean;
    size_t clean_bytes;
    char *copy;
    SL_TRY(clean_text(text, bytes, &clean, &clean_bytes, &copy, error));

    struct encoding encoding = {.tokenizer = tokenizer, .error = error};
    enum sl_status status = bpe_ids_reserve(&encoding.ids, clean_bytes / 4 + 1);
    if (status != SL_OK)
        encode_failed(&encoding, status);
    else
        status = encode_stretch(&encoding, 0, clean, clean_bytes);
    free(copy);
    if (status != SL_OK) {
        free(encoding.ids.ids);
        return status;
    }
    SL_ASSERT(encoding.ids.count <= clean_bytes);
    *ids = encoding.ids.ids;
    *count = encoding.ids.count;
    return SL_OK;
}

/* ---- tokens ------------------------------------------------------------------------------- */

const char *sl_tokenizer_bytes(const sl_tokenizer *tokenizer, int32_t id, size_t *bytes)
{
    return vocabulary_bytes(&tokenizer->vocabulary, id, bytes);
}

int32_t sl_tokenizer_added_id(const sl_tokenizer *tokenizer, const char *text)
{
    int32_t id = -1;
    for (int32_t pass = 0; pass < TOKENIZER_PASSES && id < 0; pass++)
        id = added_tokens_find(&tokenizer->added[pass], text, strlen(text));
    return id;
}

int32_t sl_tokenizer_vocab(const sl_tokenizer *tokenizer)
{
    return tokenizer->vocabulary.ids;
}
