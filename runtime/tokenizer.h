/* The tokenizer: text to ids and ids to bytes, as a tokenizer.json file says.
 *
 * The public functions (sl_tokenizer_*) are declared in runtime/sl.h; this header is for the file's
 * readers and for tests. A tokenizer owns all its memory and is read only once it is made: nothing
 * borrowed stays, and threads may encode with the same one at once. */
#ifndef SLUICE_RUNTIME_TOKENIZER_H
#define SLUICE_RUNTIME_TOKENIZER_H

#include "runtime/added_tokens.h"
#include "runtime/bpe.h"
#include "runtime/pretokenizer.h"
#include "runtime/sl.h"
#include "runtime/vocabulary.h"

#define TOKENIZER_FILE_BYTES_MAX (64u << 20)
#define TOKENIZER_TEXT_BYTES_MAX (256u << 20)

/* Text is cut at added tokens twice: first at those taken from the text as it is, then at those
 * taken from normalised text. Our files have no normaliser, so only the order matters. */
#define TOKENIZER_PASSES 2

struct sl_tokenizer {
    struct vocabulary vocabulary;
    struct added_tokens added[TOKENIZER_PASSES];
    struct pretokenizer *pretokenizer;
    struct bpe *bpe;
};

/* A tokenizer from the text of a tokenizer.json; `path` is for messages. SL_ERR_FORMAT for a file
 * that contradicts itself, SL_ERR_UNSUPPORTED for an option this program does not have, and
 * SL_ERR_NO_MEMORY. Close with sl_tokenizer_close. */
SL_MUST_USE enum sl_status tokenizer_parse(const char *text, size_t bytes, const char *path,
                                           sl_tokenizer **out, struct sl_error *error);

#endif
