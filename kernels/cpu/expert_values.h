/* What production experts do with single values between the products: the rounding of activations
 * and the clamped SwiGLU, as plain loops without branches so that each instruction set's file gets
 * them vectorised. */
#ifndef SLUICE_KERNELS_CPU_EXPERT_VALUES_H
#define SLUICE_KERNELS_CPU_EXPERT_VALUES_H

#include "kernels/base.h"
#include "kernels/lowp.h"

#include <math.h>

/* Bits of the largest magnitude; those of infinities and NaNs are larger than all others. */
static inline uint32_t expert_values_amax_bits(const float *x, int32_t count)
{
    uint32_t amax = 0;
    for (int32_t i = 0; i < count; i++) {
        uint32_t magnitude = lowp_bits(x[i]) & 0x7fffffffu;
        amax = magnitude > amax ? magnitude : amax;
    }
    return amax;
}

/* out = x [count <= LOWP_FP8_BLOCK] rounded to e4m3 with one scale: the values of quantise_aq128,
 * but all NaN where one is not finite. Adding 1.5 * 2^(20 + exponent) leaves steps of
 * 2^(exponent - 3), the distance of e4m3 values, rounded to even. */
static inline void expert_values_quantise(const float *x, int32_t count, float *out)
{
    const uint32_t largest = 0x43e00000u;    /* 448 */
    const uint32_t subnormals = 0x3c800000u; /* 2^-6 and its distances hold below it as well */
    uint32_t amax = expert_values_amax_bits(x, count);
    float scale = lowp_fp8_scale(lowp_from_bits(amax));
    float inverse = 1.0f / scale;
    if (amax >= 0x7f800000u) scale = lowp_from_bits(0x7fc00000u);
    for (int32_t i = 0; i < count; i++) {
        uint32_t bits = lowp_bits(x[i] * inverse);
        uint32_t magnitude = bits & 0x7fffffffu;
        magnitude = magnitude < largest ? magnitude : largest;
        uint32_t exponent = magnitude & 0x7f800000u;
        exponent = exponent > subnormals ? exponent : subnormals;
        float shift = lowp_from_bits((exponent + (20u << 23)) | 0x400000u);
        float rounded = (lowp_from_bits(magnitude) + shift) - shift;
        out[i] = lowp_from_bits(lowp_bits(rounded) | (bits & 0x80000000u)) * scale;
    }
}

/* x within +-limit; NaN stays. One comparison: two would keep the loops from being vectorised. */
static inline float expert_values_clamp(float x, float limit)
{
    float magnitude = fabsf(x);
    magnitude = magnitude > limit ? limit : magnitude;
    return lowp_from_bits(lowp_bits(magnitude) | (lowp_bits(x) & 0x80000000u));
}

/* e^x within 2 ulp for |x| <= 87, beyond as at the nearer bound; NaN stays. */
static inline float expert_values_exp(float x)
{
    x = expert_values_clamp(x, 87.0f);
    float shifted = x * 1.44269504f + 0x1.8p23f; /* the nearest integer in the low bits */
    float whole = shifted - 0x1.8p23f;
    float r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f; /* ln 2 in two parts */
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * lowp_from_bits((lowp_bits(shifted) + 127u) << 23);
}

/* out = bf16(weight * silu(min(gate, limit)) * clamp(up, +-limit)) of bf16-rounded sums. */
static inline void expert_values_activate(const float *gate, const float *up, float weight,
                                          float limit, int32_t count, float *out)
{
    for (int32_t i = 0; i < count; i++) {
        float g = bf16_round(gate[i]);
        float u = expert_values_clamp(bf16_round(up[i]), limit);
        g = g > limit ? limit : g;
        out[i] = bf16_round(weight * (g / (1.0f + expert_values_exp(-g)) * u));
    }
}

#endif
