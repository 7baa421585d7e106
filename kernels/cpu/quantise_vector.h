/* The rounding of quantise.h over whole blocks, in loops without branches that a compiler turns
 * into vector code; the results are the same to the last bit. For the instruction-set variants. */
#ifndef SLUICE_KERNELS_CPU_QUANTISE_VECTOR_H
#define SLUICE_KERNELS_CPU_QUANTISE_VECTOR_H

#include "kernels/cpu/quantise.h"

/* One block of LOWP_FP8_BLOCK values through e4m3 and its scale. */
static inline void quantise_vector_fp8(const float *x, float *out)
{
    uint32_t largest = 0; /* magnitudes order as integers; a NaN does not count */
    for (int32_t i = 0; i < LOWP_FP8_BLOCK; i++) {
        uint32_t magnitude = lowp_bits(x[i]) & 0x7fffffffu;
        magnitude = magnitude > 0x7f800000u ? 0 : magnitude;
        largest = magnitude > largest ? magnitude : largest;
    }
    float scale = lowp_fp8_scale(lowp_from_bits(largest));
    float inverse = 1.0f / scale;
    for (int32_t i = 0; i < LOWP_FP8_BLOCK; i++) {
        uint32_t bits = lowp_bits(x[i] * inverse);
        uint32_t magnitude = bits & 0x7fffffffu;
        /* Three mantissa bits, ties to even; below 2^-6 multiples of 2^-9. */
        uint32_t coarse = (magnitude + 0x7ffffu + ((magnitude >> 20) & 1u)) & 0xfff00000u;
        uint32_t fine = lowp_bits((lowp_from_bits(magnitude) + 0x1p14f) - 0x1p14f);
        uint32_t rounded = magnitude < 0x3c800000u ? fine : coarse;
        rounded = magnitude >= 0x43e00000u ? 0x43e00000u : rounded; /* 448 */
        rounded = magnitude > 0x7f800000u ? 0x7fc00000u : rounded;
        out[i] = lowp_from_bits(rounded | (bits & 0x80000000u)) * scale;
    }
}

/* One token's input of a linear: x [count], quantised if asked, zero up to a whole block. */
static inline void quantise_vector_input(const float *x, int32_t count, bool quantise, float *out)
{
    float tail[LOWP_FP8_BLOCK];
    for (int32_t first = 0; first < count; first += LOWP_FP8_BLOCK) {
        const float *block = x + first;
        int32_t length = count - first;
        if (length < LOWP_FP8_BLOCK) {
            memset(tail, 0, sizeof tail);
            memcpy(tail, block, (size_t)length * sizeof *x);
            block = tail;
        }
        if (quantise)
            quantise_vector_fp8(block, out + first);
        else
            memcpy(out + first, block, sizeof tail);
    }
}

#endif
