/* UTF-8 as the JSON reader needs it: checking a text, and writing one character.
 *
 * No state; any thread. */
#ifndef SLUICE_RUNTIME_JSON_UTF8_H
#define SLUICE_RUNTIME_JSON_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Offset of the first byte that is not part of valid UTF-8, or `bytes` when all are. */
size_t json_utf8_find_invalid(const char *text, size_t bytes);

/* Writes one character, code <= 0x10ffff and no surrogate, in 1 to 4 bytes of `out`; returns how
 * many. */
size_t json_utf8_put(uint32_t code, char *out);

#endif
