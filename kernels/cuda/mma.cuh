/* Tensor-core products of one warp, and the number formats that feed them.
 *
 * Both products are 16 rows x 8 columns over a depth of 16: d[m][n] += sum over k of a[m][k] *
 * b[k][n], exact products, f32 sums. With g = lane / 4 and t = lane % 4 a lane holds a: {m g, k 2t
 * 2t+1}, {m g+8, same k}, {m g, k 2t+8 2t+9}, {m g+8, same k}   two values a word b: {k 2t 2t+1, n
 * g}, {k 2t+8 2t+9, n g} d: (m g, n 2t), (m g, n 2t+1), (m g+8, n 2t), (m g+8, n 2t+1) Which column
 * of a matrix plays which k is free, as long as a and b agree. */
#ifndef SLUICE_KERNELS_CUDA_MMA_CUH
#define SLUICE_KERNELS_CUDA_MMA_CUH

#include "kernels/cuda/launch.cuh"
#include "kernels/lowp.h"

#ifdef SL_CUDA_EMULATOR

static inline float mma_value(uint32_t word, int half, bool is_bf16)
{
    uint32_t code = word >> (16 * half) & 0xffff;
    if (is_bf16) return bf16_decode((uint16_t)code);
    uint32_t exponent = code >> 10 & 0x1f;
    uint32_t mantissa = code & 0x3ff;
    float magnitude = exponent == 0 ? (float)mantissa * 0x1p-24f
                                    : lowp_from_bits((exponent + 112) << 23 | mantissa << 13);
    return code & 0x8000 ? -magnitude : magnitude;
}

/* Every lane shows its twelve values, a before b, and multiplies its four outputs. */
static inline void mma_emulated(float *d, const uint32_t *a, const uint32_t *b, bool is_bf16)
{
    float values[12];
    cuda_emulator_words mine;
    for (int i = 0; i < 12; i++)
        values[i] = mma_value(i < 8 ? a[i / 2] : b[i / 2 - 4], i % 2, is_bf16);
    memcpy(&mine, values, sizeof mine);
    const cuda_emulator_words *shown = cuda_emulator_exchange(WARP_ALL, mine, "mma");
    int lane = (int)threadIdx.x % WARP_LANES;
    for (int i = 0; i < 4; i++) {
        int m = lane / 4 + 8 * (i / 2);
        int n = lane % 4 * 2 + i % 2;
        for (int k = 0; k < 16; k++) {
            float from_a[12], from_b[12];
            memcpy(from_a, &shown[m % 8 * 4 + k % 8 / 2], sizeof from_a);
            memcpy(from_b, &shown[n * 4 + k % 8 / 2], sizeof from_b);
            d[i] += from_a[m / 8 * 2 + k / 8 * 4 + k % 2] * from_b[8 + k / 8 * 2 + k % 2];
        }
    }
}

static inline void mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    mma_emulated(d, a, b, false);
}

static inline void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    mma_emulated(d, a, b, true);
}

/* Two bf16 products with one factor. */
static inline uint32_t bf16x2_scale(uint32_t pair, uint32_t factor_pair)
{
    uint32_t low = bf16_encode(bf16_decode((uint16_t)pair) * bf16_decode((uint16_t)factor_pair));
    uint32_t high = bf16_encode(bf16_decode((uint16_t)(pair >> 16)) *
                                bf16_decode((uint16_t)(factor_pair >> 16)));
    return low | high << 16;
}

#else

static __device__ __forceinline__ void mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

static __device__ __forceinline__ void mma_bf16(float d[4], const uint32_t a[4],
                                                const uint32_t b[2])
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

static __device__ __forceinline__ uint32_t bf16x2_scale(uint32_t pair, uint32_t factor_pair)
{
    uint32_t result;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;"
        : "=r"(result)
        : "r"(pair), "r"(factor_pair), "r"(0x80008000u));
    return result;
}

#endif

/* Four e4m3 codes of a word as f16 pairs {0, 2} and {1, 3}, every value times 2^-8: exact, for the
 * exponent fields differ in their bias alone, subnormals included. No NaN. */
#define MMA_E4M3_F16_SCALE 256.0f
static __device__ __forceinline__ void mma_e4m3_f16(uint32_t codes, uint32_t *even, uint32_t *odd)
{
    *even = (codes << 8 & 0x80008000u) | (codes << 7 & 0x3f803f80u);
    *odd = (codes & 0x80008000u) | (codes >> 1 & 0x3f803f80u);
}

/* The same as bf16 pairs, with their values: the bias differs by 120, and a product with 2^120
 * makes that good for subnormals as well. */
static __device__ __forceinline__ void mma_e4m3_bf16(uint32_t codes, uint32_t *even, uint32_t *odd)
{
    const uint32_t factor = 0x7b807b80u; /* 2^120, twice */
    *even = bf16x2_scale((codes << 8 & 0x80008000u) | (codes << 4 & 0x07f007f0u), factor);
    *odd = bf16x2_scale((codes & 0x80008000u) | (codes >> 4 & 0x07f007f0u), factor);
}

#endif
