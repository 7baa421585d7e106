/* Translates a split rule of a tokenizer.json, written for the Oniguruma library, to PCRE2.
 *
 * Only what means the same in both is let through; everything else is refused by name, because a
 * pattern that is silently read in another way gives wrong ids. Pure but for the allocated result.
 */
#ifndef SLUICE_RUNTIME_SPLIT_PATTERN_H
#define SLUICE_RUNTIME_SPLIT_PATTERN_H

#include "kernels/base.h"

#define SPLIT_PATTERN_BYTES_MAX 4096

/* The PCRE2 form of `pattern` [bytes] in `*out`, zero-terminated, the caller's to free; `path` is
 * for messages. SL_ERR_UNSUPPORTED names the construct; SL_ERR_NO_MEMORY. */
SL_MUST_USE enum sl_status split_pattern_translate(const char *pattern, size_t bytes,
                                                   const char *path, char **out,
                                                   struct sl_error *error);

#endif
