/* Values of all e4m3 codes and e2m1 pairs, as constants the compiler computes. */
#include "kernels/cpu/code_table.h"

#define SIXTEEN(X, c)                                                                              \
    X((c)), X((c) + 1), X((c) + 2), X((c) + 3), X((c) + 4), X((c) + 5), X((c) + 6), X((c) + 7),    \
        X((c) + 8), X((c) + 9), X((c) + 10), X((c) + 11), X((c) + 12), X((c) + 13), X((c) + 14),   \
        X((c) + 15)
#define POSITIVE_CODES(X)                                                                          \
    SIXTEEN(X, 0), SIXTEEN(X, 16), SIXTEEN(X, 32), SIXTEEN(X, 48), SIXTEEN(X, 64), SIXTEEN(X, 80), \
        SIXTEEN(X, 96), SIXTEEN(X, 112)
#define ALL_CODES(X)                                                                               \
    POSITIVE_CODES(X), SIXTEEN(X, 128), SIXTEEN(X, 144), SIXTEEN(X, 160), SIXTEEN(X, 176),         \
        SIXTEEN(X, 192), SIXTEEN(X, 208), SIXTEEN(X, 224), SIXTEEN(X, 240)

/* Magnitudes in units of the smallest: a mantissa with its hidden bit, shifted by the exponent. */
#define E4M3_EXPONENT(c) (((c) >> 3) & 15)
#define E4M3_UNITS(c)                                                                              \
    (E4M3_EXPONENT(c) == 0 ? ((c)&7) : (8 + ((c)&7)) << ((E4M3_EXPONENT(c) + 15) & 15))
#define E4M3_VALUE(c)                                                                              \
    (((c)&127) == 127 ? __builtin_nanf("") : ((c)&128 ? -0x1p-9f : 0x1p-9f) * (float)E4M3_UNITS(c))

/* The same as bf16 bits: subnormals gain a hidden bit, the NaN code its bf16 form. */
#define E4M3_SUBNORMAL_BF16(m)                                                                     \
    ((m) == 0  ? 0                                                                                 \
     : (m) < 2 ? 118 << 7                                                                          \
     : (m) < 4 ? 119 << 7 | ((m)&1) << 6                                                           \
               : 120 << 7 | ((m)&3) << 5)
#define E4M3_BF16(c)                                                                               \
    ((c) == 127              ? 0x7fc0                                                              \
     : E4M3_EXPONENT(c) == 0 ? E4M3_SUBNORMAL_BF16((c)&7)                                          \
                             : (E4M3_EXPONENT(c) + 120) << 7 | ((c)&7) << 4)
#define E4M3_BF16_LOW(c)  (E4M3_BF16(c) & 255)
#define E4M3_BF16_HIGH(c) (E4M3_BF16(c) >> 8)

#define E2M1_UNITS(n) (((n)&7) < 2 ? ((n)&1) : (2 + ((n)&1)) << ((((n)&7) / 2 + 3) & 3))
#define E2M1_VALUE(n) (((n)&8 ? -0.5f : 0.5f) * (float)E2M1_UNITS(n))
#define E2M1_PAIR(c)                                                                               \
    {                                                                                              \
        E2M1_VALUE((c)&15), E2M1_VALUE((c) >> 4)                                                   \
    }

const float code_table_e4m3[256] = {ALL_CODES(E4M3_VALUE)};
const float code_table_e2m1[256][2] = {ALL_CODES(E2M1_PAIR)};

_Alignas(64) const uint8_t code_table_e4m3_bf16[2][128] = {
    {POSITIVE_CODES(E4M3_BF16_LOW)},
    {POSITIVE_CODES(E4M3_BF16_HIGH)},
};
