/* UTF-8: steps through bytes character by character, and the repair of text that is not UTF-8.
 *
 * Pure functions; nothing is allocated. What cannot be part of a character counts as the Unicode
 * standard recommends (chapter 3, "maximal subparts"): the longest start of a character that breaks
 * off becomes one U+FFFD, and so does every other stray byte. */
#ifndef SLUICE_RUNTIME_UTF8_H
#define SLUICE_RUNTIME_UTF8_H

#include "kernels/base.h"

#define UTF8_CHARACTER_BYTES_MAX 4
#define UTF8_REPLACEMENT         "\xef\xbf\xbd" /* U+FFFD */
#define UTF8_REPLACEMENT_BYTES   3

enum utf8_kind {
    UTF8_WHOLE,   /* a character */
    UTF8_INVALID, /* bytes no continuation can mend */
    UTF8_CUT,     /* the text ends inside a character that is valid so far */
};

struct utf8_step {
    enum utf8_kind kind;
    uint32_t bytes;      /* taken: 1 to 4 */
    uint32_t code_point; /* of a whole character, else 0 */
};

/* The first character, or the first maximal invalid part, of `text`; bytes > 0. */
struct utf8_step utf8_step(const char *text, size_t bytes);

/* Offset of the first byte that is not part of a whole character, or `bytes` when all are. */
size_t utf8_find_invalid(const char *text, size_t bytes);

/* Bytes of `text` with everything invalid replaced; equal to `bytes` only for valid text or when
 * all invalid parts are 3 bytes long. `*valid` tells whether nothing needs to be replaced. */
size_t utf8_clean_bytes(const char *text, size_t bytes, bool *valid);

/* Writes the cleaned text, utf8_clean_bytes long, to `out`. */
void utf8_clean(const char *text, size_t bytes, char *out);

/* Writes a code point up to U+10FFFF; returns 1 to 4. */
uint32_t utf8_put(uint32_t code_point, char out[UTF8_CHARACTER_BYTES_MAX]);

#endif
