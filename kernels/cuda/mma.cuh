/* Products of small matrices by a warp on the tensor cores: C [16, 8] += A [16, 16] * B [16, 8],
 * f16 or bf16 values in pairs, f32 sums (PTX "mma.m16n8k16").
 *
 * Of lane 4g + j (j < 4):
 *   a[0] a[1]: A rows g and g + 8, columns 2j, 2j + 1     c[0] c[1]: row g, columns 2j, 2j + 1
 *   a[2] a[3]: the same rows, columns 2j + 8, 2j + 9      c[2] c[3]: row g + 8, the same columns
 *   b[0] b[1]: B rows 2j, 2j + 1 and 2j + 8, 2j + 9 of column g
 * The lower half of a word is the lower column or row. Which index of a sum a caller calls which
 * column is his choice, the same for A and B. Products are exact in f32; the hardware adds them
 * with truncation, so a sum is within 2^-22 of its largest term, per product of 16. A column of C
 * depends on that column of B alone. */
#ifndef SLUICE_KERNELS_CUDA_MMA_CUH
#define SLUICE_KERNELS_CUDA_MMA_CUH

#include "kernels/cuda/launch.cuh"
#include "kernels/lowp.h"

#ifdef SL_CUDA_EMULATOR
#include "kernels/cuda/mma_emulated.cuh"
#else

__device__ __forceinline__ void mma_f16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void mma_bf16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Two f32 to the nearest f16 or bf16 values, `low` in the lower half. */
__device__ __forceinline__ uint32_t pack_f16(float low, float high)
{
    uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

__device__ __forceinline__ uint32_t pack_bf16(float low, float high)
{
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

/* The same after raising what is below zero to zero; NaN stays. */
__device__ __forceinline__ uint32_t pack_bf16_relu(float low, float high)
{
    uint32_t pair;
    asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

/* Products of pairs, rounded once. */
__device__ __forceinline__ uint32_t multiply_f16(uint32_t a, uint32_t b)
{
    uint32_t product;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
    return product;
}

__device__ __forceinline__ uint32_t multiply_bf16(uint32_t a, uint32_t b)
{
    uint32_t product;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(product) : "r"(a), "r"(b), "r"(0x80008000u));
    return product;
}

#endif
#endif
