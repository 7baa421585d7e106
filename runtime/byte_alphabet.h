/* The alphabet in which byte-level tokenizers write bytes as printable characters.
 *
 * Bytes 33-126, 161-172 and 174-255 stand for themselves as code points; the other 68, in
 * increasing order, are U+0100 and up. Pure functions. */
#ifndef SLUICE_RUNTIME_BYTE_ALPHABET_H
#define SLUICE_RUNTIME_BYTE_ALPHABET_H

#include "kernels/base.h"

static inline uint32_t byte_alphabet_code_point(uint8_t byte)
{
    if (byte <= 32) return 0x100u + byte;
    if (byte >= 127 && byte <= 160) return 0x100u + 33 + (byte - 127u);
    if (byte == 173) return 0x100u + 67;
    return byte;
}

/* The byte a code point stands for, or -1. */
static inline int32_t byte_alphabet_byte(uint32_t code_point)
{
    if (code_point >= 0x100) {
        uint32_t idx = code_point - 0x100;
        if (idx <= 32) return (int32_t)idx;
        if (idx <= 66) return (int32_t)(idx - 33 + 127);
        return idx == 67 ? 173 : -1;
    }
    return byte_alphabet_code_point((uint8_t)code_point) == code_point ? (int32_t)code_point : -1;
}

#endif
