/* Refuses tokenizer.json files that ask for something this program does not do. */
#ifndef SLUICE_RUNTIME_TOKENIZER_OPTIONS_H
#define SLUICE_RUNTIME_TOKENIZER_OPTIONS_H

#include "kernels/base.h"

#include <jansson.h>

/* Checks everything in the file that is not tokens, merges or split rules. Nothing is kept; `path`
 * is for messages. SL_ERR_FORMAT or SL_ERR_UNSUPPORTED, with the option's name. */
SL_MUST_USE enum sl_status tokenizer_options_check(const json_t *file, const char *path,
                                                   struct sl_error *error);

/* The same for one entry of added_tokens. */
SL_MUST_USE enum sl_status tokenizer_options_check_added(const json_t *token, const char *content,
                                                         const char *path, struct sl_error *error);

/* The same for the ByteLevel step that ends a pre_tokenizer. */
SL_MUST_USE enum sl_status tokenizer_options_check_byte_level(const json_t *step, const char *path,
                                                              struct sl_error *error);

#endif
