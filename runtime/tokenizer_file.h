/* Reads the parts of a tokenizer.json into the parts of a tokenizer. */
#ifndef SLUICE_RUNTIME_TOKENIZER_FILE_H
#define SLUICE_RUNTIME_TOKENIZER_FILE_H

#include "runtime/tokenizer.h"

/* Fills `out`, which is all zero; `path` is for messages. What is filled when it fails is the
 * caller's to give back, as with a whole tokenizer. Statuses as tokenizer_parse. */
SL_MUST_USE enum sl_status tokenizer_file_read(const char *text, size_t bytes, const char *path,
                                               struct sl_tokenizer *out, struct sl_error *error);

#endif
