/* Rounding of values between ops: to bf16, and through the blocks of e4m3 ("Activation
 * quantisation") and e2m1 ("Fake quantisation", q4). */
#ifndef SLUICE_KERNELS_CPU_QUANTISE_H
#define SLUICE_KERNELS_CPU_QUANTISE_H

#include "kernels/base.h"
#include "kernels/lowp.h"

#include <math.h>

/* The nearest bf16 value when `round`, else the value itself. */
static inline float quantise_bf16_if(float value, bool round)
{
    return round ? bf16_round(value) : value;
}

/* x to the nearest bf16 values; out may be x. Without branches, for the compiler's vectors. */
static inline void quantise_bf16_row(const float *x, float *out, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        uint32_t bits = lowp_bits(x[i]);
        uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
        uint32_t nan = (bits & 0xffff0000u) | 0x400000u;
        out[i] = lowp_from_bits((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
    }
}

static inline float quantise_amax(const float *x, int32_t count)
{
    float amax = 0.0f;
    for (int32_t i = 0; i < count; i++) {
        float magnitude = fabsf(x[i]);
        amax = magnitude > amax ? magnitude : amax;
    }
    return amax;
}

/* e4m3 codes of one block and its scale. */
static inline float quantise_fp8(const float *x, int32_t count, uint8_t *codes)
{
    float scale = lowp_fp8_scale(quantise_amax(x, count));
    float inverse = 1.0f / scale; /* exact: a power of two */
    for (int32_t i = 0; i < count; i++)
        codes[i] = e4m3_encode(x[i] * inverse);
    return scale;
}

/* e2m1 codes of one block, one a byte, and its scale. */
static inline float quantise_fp4(const float *x, int32_t count, uint8_t *codes)
{
    float scale = lowp_fp4_scale(quantise_amax(x, count));
    float inverse = 1.0f / scale; /* exact, as above */
    for (int32_t i = 0; i < count; i++)
        codes[i] = e2m1_encode(x[i] * inverse);
    return scale;
}

/* out = x rounded to e4m3 per LOWP_FP8_BLOCK elements; out may be x. */
static inline void quantise_aq128(const float *x, float *out, int32_t count)
{
    uint8_t codes[LOWP_FP8_BLOCK];
    for (int32_t first = 0; first < count; first += LOWP_FP8_BLOCK) {
        int32_t length = min_i32(LOWP_FP8_BLOCK, count - first);
        float scale = quantise_fp8(x + first, length, codes);
        for (int32_t i = 0; i < length; i++)
            out[first + i] = e4m3_decode(codes[i]) * scale;
    }
}

/* x rounded to e2m1 per LOWP_FP4_BLOCK elements, in place. */
static inline void quantise_q4(float *x, int32_t count)
{
    uint8_t codes[LOWP_FP4_BLOCK];
    for (int32_t first = 0; first < count; first += LOWP_FP4_BLOCK) {
        int32_t length = min_i32(LOWP_FP4_BLOCK, count - first);
        float scale = quantise_fp4(x + first, length, codes);
        for (int32_t i = 0; i < length; i++)
            x[first + i] = e2m1_decode(codes[i]) * scale;
    }
}

#endif
