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

/* out = x [count <= LOWP_FP8_BLOCK] rounded to e4m3 with one scale: the values of quantise_aq128.
 * Adding 1.5 * 2^(20 + exponent) leaves steps of 2^(exponent - 3), the distance of e4m3 values,
 * rounded to even. */
static inline void expert_values_quantise(const float *x, int32_t count, float *out)
{
    float scale = lowp_fp8_scale(lowp_from_bits(expert_values_amax_bits(x, count)));
    float inverse = 1.0f / scale;
    for (int32_t i = 0; i < count; i++) {
        float value = x[i] * inverse;
        value = value > LOWP_E4M3_MAX ? LOWP_E4M3_MAX : value;
        value = value < -LOWP_E4M3_MAX ? -LOWP_E4M3_MAX : value;
        uint32_t exponent = lowp_bits(value) & 0x7f800000u;
        exponent = exponent > 121u << 23 ? exponent : 121u << 23; /* subnormals: as 2^-6 */
        float shift = lowp_from_bits((exponent + (20u << 23)) | 0x400000u);
        out[i] = ((value + shift) - shift) * scale;
    }
}

/* e^x within 2 ulp for -87 <= x <= 88, as at the nearer bound beyond; NaN stays. */
static inline float expert_values_exp(float x)
{
    x = x > 88.0f ? 88.0f : x;
    x = x < -87.0f ? -87.0f : x;
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
        float u = bf16_round(up[i]);
        g = g > limit ? limit : g;
        u = u > limit ? limit : u;
        u = u < -limit ? -limit : u;
        out[i] = bf16_round(weight * (g / (1.0f + expert_values_exp(-g)) * u));
    }
}

#endif
