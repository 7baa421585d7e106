/* e2m1 nibbles as f16 pairs, without a table: sign and the three other bits go to the places that
 * make an f16 of 2^-14 times the value, 0.5 becoming a subnormal. Exact. */
#ifndef SLUICE_KERNELS_CUDA_FP4_CUH
#define SLUICE_KERNELS_CUDA_FP4_CUH

#include "kernels/cuda/launch.cuh"

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

#endif
