/* Low-precision number formats: bf16, e4m3, e2m1 and e8m0, one element at a time.
 *
 * Shared by the CPU and CUDA twins. All functions are exact or round to nearest, ties to even
 * mantissa, as the model's published program does; none depends on the floating-point
 * environment beyond the default rounding mode. */
#ifndef SLUICE_KERNELS_LOWP_H
#define SLUICE_KERNELS_LOWP_H

#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define LOWP_FN static inline __host__ __device__
#else
#define LOWP_FN static inline
#endif

/* Largest magnitudes, and the floors below which a block counts as zero. */
#define LOWP_E4M3_MAX        448.0f
#define LOWP_E2M1_MAX        6.0f
#define LOWP_E4M3_AMAX_FLOOR 1e-4f
#define LOWP_E2M1_AMAX_FLOOR (6.0f * 0x1p-126f)

/* Block lengths: fp8 weights and linear inputs, cached key/value rows, fp4 weights and keys. */
#define LOWP_FP8_BLOCK 128
#define LOWP_KV_BLOCK  64
#define LOWP_FP4_BLOCK 32

LOWP_FN uint32_t lowp_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

LOWP_FN float lowp_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

LOWP_FN float bf16_decode(uint16_t code)
{
    return lowp_from_bits((uint32_t)code << 16);
}

LOWP_FN uint16_t bf16_encode(float value)
{
    uint32_t bits = lowp_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40u); /* NaN */
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/* The nearest bf16 value, as f32. */
LOWP_FN float bf16_round(float value)
{
    return bf16_decode(bf16_encode(value));
}

/* 2^(code - 127); code 0 is the subnormal 2^-127, code 255 is NaN. */
LOWP_FN float e8m0_decode(uint8_t code)
{
    /* The codes at the ends have the first mantissa bit: half the smallest normal, and a NaN. */
    uint32_t is_end = (uint8_t)(code + 1u) < 2;
    return lowp_from_bits((uint32_t)code << 23 | is_end << 22);
}

/* The code of a power of two between 2^-126 and 2^127. */
LOWP_FN uint8_t e8m0_encode(float power_of_two)
{
    return (uint8_t)(lowp_bits(power_of_two) >> 23);
}

/* The smallest power of two >= value, for value > 0 and normal (model: "Power-of-two scale"). */
LOWP_FN float lowp_pow2_up(float value)
{
    uint32_t bits = lowp_bits(value);
    uint32_t exponent = bits >> 23;
    if (bits & 0x7fffffu) exponent++;
    return lowp_from_bits(exponent << 23);
}

/* Scale of a block from its largest magnitude: the fp8 and the fp4 form. */
LOWP_FN float lowp_fp8_scale(float amax)
{
    float floored = amax > LOWP_E4M3_AMAX_FLOOR ? amax : LOWP_E4M3_AMAX_FLOOR;
    return lowp_pow2_up(floored * (1.0f / 448.0f));
}

LOWP_FN float lowp_fp4_scale(float amax)
{
    float floored = amax > LOWP_E2M1_AMAX_FLOOR ? amax : LOWP_E2M1_AMAX_FLOOR;
    return lowp_pow2_up(floored * (1.0f / 6.0f));
}

/* e4m3 ("fn" variant): bias 7, no infinities, 0x7f and 0xff are NaN. */
LOWP_FN float e4m3_decode(uint8_t code)
{
    uint32_t sign = (uint32_t)(code & 0x80u) << 24;
    uint32_t exponent = (code >> 3) & 0xfu;
    uint32_t mantissa = code & 7u;
    if ((code & 0x7fu) == 0x7fu) return lowp_from_bits(sign | 0x7fc00000u);
    if (exponent == 0) {
        float magnitude = (float)mantissa * 0x1p-9f;
        return sign ? -magnitude : magnitude;
    }
    return lowp_from_bits(sign | ((exponent + 120u) << 23) | (mantissa << 20));
}

/* Nearest e4m3 code, saturating at +-448; NaN gives 0x7f. */
LOWP_FN uint8_t e4m3_encode(float value)
{
    uint32_t bits = lowp_bits(value);
    uint8_t sign = (uint8_t)((bits >> 24) & 0x80u);
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return 0x7f;
    if (magnitude >= 0x43e00000u) return (uint8_t)(sign | 0x7eu); /* >= 448 */
    if (magnitude < 0x3c800000u) { /* below 2^-6: multiples of 2^-9 */
        /* Adding 2^14 leaves units of 2^-9 in the last mantissa bits, rounded to even. */
        float shifted = lowp_from_bits(magnitude) + 0x1p14f;
        return (uint8_t)(sign | (lowp_bits(shifted) & 0xfu));
    }
    magnitude += 0x7ffffu + ((magnitude >> 20) & 1u);
    return (uint8_t)(sign | ((magnitude >> 20) - (120u << 3)));
}

/* e2m1: bit 3 sign, low three bits index 0, 0.5, 1, 1.5, 2, 3, 4, 6. */
LOWP_FN float e2m1_decode(uint8_t nibble)
{
    uint32_t index = nibble & 7u;
    float magnitude = index < 2
                          ? 0.5f * (float)index
                          : lowp_from_bits((((index >> 1) + 126u) << 23) | ((index & 1u) << 22));
    return nibble & 8u ? -magnitude : magnitude;
}

/* Nearest e2m1 code, ties to even mantissa, saturating at +-6. */
LOWP_FN uint8_t e2m1_encode(float value)
{
    uint8_t sign = (uint8_t)((lowp_bits(value) >> 28) & 8u);
    float a = value < 0 ? -value : value;
    uint8_t index = a <= 0.25f   ? 0
                    : a < 0.75f  ? 1
                    : a <= 1.25f ? 2
                    : a < 1.75f  ? 3
                    : a <= 2.5f  ? 4
                    : a < 3.5f   ? 5
                    : a <= 5.0f  ? 6
                                 : 7;
    return (uint8_t)(sign | index);
}

#endif
