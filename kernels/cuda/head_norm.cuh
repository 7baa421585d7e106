/* Weightless RMS norm of a query head by half a warp; see head_norm.cu. */
#ifndef SLUICE_KERNELS_CUDA_HEAD_NORM_CUH
#define SLUICE_KERNELS_CUDA_HEAD_NORM_CUH

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numerics.cuh"

#define HEAD_NORM_LANES 16 /* that sum, of kernels/cpu/dot.h */

/* Row x in place. Whole warps must call; a half warp that is not `inside` writes nothing. */
__device__ __forceinline__ void head_norm_row(const struct head_norm_args &args, float *x,
                                              bool inside)
{
    int32_t lane = (int32_t)threadIdx.x % HEAD_NORM_LANES;
    float sum = 0.0f;
    for (int32_t i = lane; inside && i < args.width; i += HEAD_NORM_LANES)
        sum += round_if(x[i] * x[i], args.round);
#pragma unroll
    for (int offset = HEAD_NORM_LANES / 2; offset > 0; offset /= 2)
        sum += __shfl_xor_sync(WARP_ALL, sum, offset);
    float mean = sum / (float)args.width;
    float shifted = round_if(round_if(mean, args.round) + args.epsilon, args.round);
    float inverse = round_if(1.0f / sqrtf(shifted), args.round);
    if (!inside) return;
    for (int32_t i = lane; i < args.width; i += HEAD_NORM_LANES)
        x[i] = round_if(x[i] * inverse, args.round);
}

#endif
