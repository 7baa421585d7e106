/* Exact numerics on the device: rounding between ops, pointwise functions, packed loads.
 *
 * The codecs are those of kernels/lowp.h, one source for both twins. Device code is compiled
 * without contraction of a*b+c (--fmad=false), with correctly rounded division and square root and
 * without fast-math, so what is written is what is rounded; where one rounding is wanted, it says
 * fmaf. */
#ifndef SLUICE_KERNELS_CUDA_NUMERICS_CUH
#define SLUICE_KERNELS_CUDA_NUMERICS_CUH

#include "kernels/lowp.h"

#include <cuda_runtime.h>

/* The nearest bf16 value when `round`, else the value itself. */
__device__ __forceinline__ float round_if(float value, bool round)
{
    return round ? bf16_round(value) : value;
}

__device__ __forceinline__ float sigmoid(float value)
{
    return 1.0f / (1.0f + expf(-value));
}

/* silu(min(gate, limit)) * clamp(up, +-limit); the comparisons let NaN through. */
__device__ __forceinline__ float swiglu(float gate, float up, float limit)
{
    if (gate > limit) gate = limit;
    if (up > limit) up = limit;
    if (up < -limit) up = -limit;
    return gate / (1.0f + expf(-gate)) * up;
}

/* Larger of a running maximum and |x|; a NaN is passed over, as by the twins' comparison. */
__device__ __forceinline__ float amax_step(float amax, float x)
{
    float magnitude = fabsf(x);
    return magnitude > amax ? magnitude : amax;
}

/* Sixteen bytes that are read once: past the first-level cache, first to leave the second. */
__device__ __forceinline__ uint4 load_once(const void *address)
{
    return __ldcs(static_cast<const uint4 *>(address));
}

#endif
