/* The emulator's side of mma.cuh: lanes exchange their operands through memory of the warp. Sums
 * run in f32, column after column. */
#ifndef SLUICE_KERNELS_CUDA_MMA_EMULATED_CUH
#define SLUICE_KERNELS_CUDA_MMA_EMULATED_CUH

#include "kernels/lowp.h"

#include <math.h>

/* f16: 1 sign, 5 exponent, 10 mantissa bits. */
static inline float mma_f16_decode(uint32_t code)
{
    uint32_t exponent = code >> 10 & 31;
    float mantissa = (float)(code & 0x3ff);
    float magnitude = exponent == 0    ? ldexpf(mantissa, -24)
                      : exponent == 31 ? (code & 0x3ff ? NAN : INFINITY)
                                       : ldexpf(mantissa + 1024.0f, (int)exponent - 25);
    return code & 0x8000 ? -magnitude : magnitude;
}

static inline uint32_t mma_f16_encode(float value)
{
    uint32_t sign = lowp_bits(value) >> 16 & 0x8000;
    float magnitude = fabsf(value);
    int exponent;
    if (isnan(value)) return 0x7fff;
    if (magnitude >= 65520.0f) return sign | 0x7c00;
    if (magnitude < 0x1p-14f) return sign | (uint32_t)rintf(ldexpf(magnitude, 24));
    frexpf(magnitude, &exponent); /* in [2^(exponent - 1), 2^exponent) */
    /* A mantissa that rounds up to 2048 carries into the exponent. */
    uint32_t mantissa = (uint32_t)rintf(ldexpf(magnitude, 11 - exponent));
    return sign | (((uint32_t)(exponent + 13) << 10) + mantissa);
}

static inline float mma_bf16_decode(uint32_t code)
{
    return bf16_decode((uint16_t)code);
}

struct mma_operands {
    float a[4][2], b[2][2];
};

static inline struct mma_operands *mma_exchange()
{
    static thread_local struct mma_operands warps[32][WARP_LANES];
    return warps[threadIdx.x / WARP_LANES];
}

template <float (*DECODE)(uint32_t)>
static inline void mma_emulated(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    const uint32_t b[2] = {b0, b1};
    struct mma_operands *lanes = mma_exchange();
    int lane = (int)threadIdx.x % WARP_LANES;
    int g = lane / 4;
    int j = lane % 4;
    for (int half = 0; half < 2; half++) {
        for (int i = 0; i < 4; i++)
            lanes[lane].a[i][half] = DECODE(a[i] >> 16 * half & 0xffff);
        for (int i = 0; i < 2; i++)
            lanes[lane].b[i][half] = DECODE(b[i] >> 16 * half & 0xffff);
    }
    __syncwarp();
    for (int e = 0; e < 4; e++)
        for (int k = 0; k < 16; k++)
            c[e] += lanes[4 * g + k % 8 / 2].a[e / 2 + k / 8 * 2][k % 2] *
                    lanes[4 * (2 * j + e % 2) + k % 8 / 2].b[k / 8][k % 2];
    __syncwarp();
}

static inline void mma_f16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    mma_emulated<mma_f16_decode>(c, a, b0, b1);
}

static inline void mma_bf16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    mma_emulated<mma_bf16_decode>(c, a, b0, b1);
}

static inline uint32_t pack_f16(float low, float high)
{
    return mma_f16_encode(low) | mma_f16_encode(high) << 16;
}

static inline uint32_t pack_bf16(float low, float high)
{
    return (uint32_t)bf16_encode(low) | (uint32_t)bf16_encode(high) << 16;
}

static inline uint32_t pack_bf16_relu(float low, float high)
{
    return pack_bf16(low < 0.0f ? 0.0f : low, high < 0.0f ? 0.0f : high);
}

static inline uint32_t multiply_f16(uint32_t a, uint32_t b)
{
    return pack_f16(mma_f16_decode(a & 0xffff) * mma_f16_decode(b & 0xffff),
                    mma_f16_decode(a >> 16) * mma_f16_decode(b >> 16));
}

static inline uint32_t multiply_bf16(uint32_t a, uint32_t b)
{
    return pack_bf16(mma_bf16_decode(a & 0xffff) * mma_bf16_decode(b & 0xffff),
                     mma_bf16_decode(a >> 16) * mma_bf16_decode(b >> 16));
}

#endif
