/* e2m1 nibbles as f16 or bf16 pairs, without a table: sign and the three other bits go to the
 * places that make an f16 of 2^-14 or a bf16 of 2^-126 times the value, 0.5 becoming a subnormal.
 * Exact. */
#ifndef SLUICE_KERNELS_CUDA_FP4_CUH
#define SLUICE_KERNELS_CUDA_FP4_CUH

#include "kernels/cuda/mma.cuh"

/* What the values of fp4_expand miss. */
#define FP4_MISSING 0x1p14f

/* Nibbles k and k + 4 of a word (k = 0 .. 3, lowest bits first) as the lower and upper half of
 * pairs[k]. */
__device__ __forceinline__ void fp4_expand(uint32_t word, uint32_t pairs[4])
{
    uint32_t shifted = word << 4;
    uint32_t odd = (word & 0x80808080u) | (word >> 3 & 0x0e0e0e0eu);
    uint32_t even = (shifted & 0x80808080u) | (shifted >> 3 & 0x0e0e0e0eu);
    pairs[0] = __byte_perm(even, 0, 0x2404); /* even << 8 & 0xff00ff00 in one step */
    pairs[1] = __byte_perm(odd, 0, 0x2404);
    pairs[2] = even & 0xff00ff00u;
    pairs[3] = odd & 0xff00ff00u;
}

/* What turns the bf16 pairs into weights: 2^126 times the scale of e8m0 code `scale`, as a bf16
 * value twice, up to code 128; a larger scale is that of code 128 times the second factor. */
#define FP4_SCALE_MAX 128u

__device__ __forceinline__ uint32_t fp4_factor(uint32_t scale)
{
    return scale * 0x00800080u + 0x3f003f00u; /* exponent field scale + 126 */
}

__device__ __forceinline__ uint32_t fp4_second_factor(uint32_t scale)
{
    return scale == 255u ? 0x7fc07fc0u : (max(scale, FP4_SCALE_MAX) - 1u) * 0x00800080u;
}

/* The nibbles of fp4_expand as bf16 pairs times `factor`. Products put both copies of a nibble, for
 * sign and for the rest, into place in one step where they can. */
__device__ __forceinline__ void fp4_to_bf16_times(uint32_t word, uint32_t factor, uint32_t pairs[4])
{
    const uint32_t kept = 0x81c081c0u;
    pairs[0] = (word & 0x000f000fu) * 0x1040u & kept;
    pairs[1] = (word & 0x00f000f0u) * 0x0104u & kept;
    pairs[2] = (word >> 8 & 0x000f000fu) * 0x1040u & kept;
    pairs[3] = (word & 0x80008000u) | (word >> 6 & 0x01c001c0u);
#pragma unroll
    for (int k = 0; k < 4; k++)
        pairs[k] = multiply_bf16(pairs[k], factor);
}

#endif
