/* e4m3 weights and codes as pairs for the tensor cores, a word of four at a time. */
#ifndef SLUICE_KERNELS_CUDA_FP8_CUH
#define SLUICE_KERNELS_CUDA_FP8_CUH

#include "kernels/cuda/mma.cuh"

/* Four e4m3 codes of a word as f16 pairs {0, 2} and {1, 3}, every value times 2^-8: exact, for the
 * exponent fields differ in their bias alone, subnormals included. No NaN. */
#define FP8_F16_SCALE 256.0f
static __device__ __forceinline__ void fp8_to_f16(uint32_t codes, uint32_t *even, uint32_t *odd)
{
    *even = (codes << 8 & 0x80008000u) | (codes << 7 & 0x3f803f80u);
    *odd = (codes & 0x80008000u) | (codes >> 1 & 0x3f803f80u);
}

/* The same as bf16 pairs times 2^-120 * `factor`: the bias differs by 120, and a product makes that
 * good for subnormals as well. `factor` is a bf16 value, twice. */
static __device__ __forceinline__ void fp8_to_bf16_times(uint32_t codes, uint32_t factor,
                                                         uint32_t *even, uint32_t *odd)
{
    *even = multiply_bf16((codes << 8 & 0x80008000u) | (codes << 4 & 0x07f007f0u), factor);
    *odd = multiply_bf16((codes & 0x80008000u) | (codes >> 4 & 0x07f007f0u), factor);
}

/* The same with their values. */
static __device__ __forceinline__ void fp8_to_bf16(uint32_t codes, uint32_t *even, uint32_t *odd)
{
    fp8_to_bf16_times(codes, 0x7b807b80u, even, odd);
}

#endif
