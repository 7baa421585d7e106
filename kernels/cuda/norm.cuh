/* RMS norm of a row with a weight, by a block; see norm.cu. */
#ifndef SLUICE_KERNELS_CUDA_NORM_CUH
#define SLUICE_KERNELS_CUDA_NORM_CUH

#include "kernels/cuda/numerics.cuh"
#include "kernels/cuda/reduce.cuh"

/* A row normed, from x to out (which may be x), by all THREADS of the block. `parts` as block_sum
 * wants it. */
template <int THREADS>
static __device__ __forceinline__ void norm_row(const struct norm_args &args, const float *x,
                                                float *out, float *parts)
{
    float sum = 0.0f;
    for (int32_t i = (int32_t)threadIdx.x; i < args.width; i += THREADS)
        sum = fmaf(x[i], x[i], sum);
    sum = block_sum(sum, parts);
    float inverse = 1.0f / sqrtf(sum / (float)args.width + args.epsilon);
    for (int32_t i = (int32_t)threadIdx.x; i < args.width; i += THREADS)
        out[i] = round_if(bf16_decode(args.weight[i]) * (x[i] * inverse), args.round);
}

#endif
