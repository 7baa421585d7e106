/* What hyper_pre and hyper_head share: one over the root mean square of a token's streams, the
 * factors, and the weighted sum. A block of HYPER_THREADS a token. */
#ifndef SLUICE_KERNELS_CUDA_HYPER_MIX_CUH
#define SLUICE_KERNELS_CUDA_HYPER_MIX_CUH

#include "kernels/cuda/numerics.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/ops.h"

#define HYPER_THREADS 1024

/* 1 / sqrt(mean(x^2) + epsilon) over `count` values, by all threads of the block. */
static __device__ __forceinline__ float hyper_mix_inverse(const float *x, int32_t count,
                                                          float epsilon, float *parts)
{
    float sum = 0.0f;
#pragma unroll 8
    for (int32_t i = (int32_t)threadIdx.x; i < count; i += HYPER_THREADS)
        sum = fmaf(x[i], x[i], sum);
    return 1.0f / sqrtf(block_sum(sum, parts) / (float)count + epsilon);
}

/* sigmoid(mix * inverse * scale + base). */
static __device__ __forceinline__ float hyper_mix_factor(float mix, float inverse, float scale,
                                                         float base)
{
    return sigmoid(mix * inverse * scale + base);
}

/* x[c] = sum over i, ascending, of factors[i] * streams[i][c], for this thread's share of channels:
 * `first`, `first + step`, ... */
static __device__ __forceinline__ void hyper_mix_fold(const float *streams, const float *factors,
                                                      int32_t count, int32_t hidden, int32_t first,
                                                      int32_t step, bool round, float *x)
{
    for (int32_t c = first; c < hidden; c += step) {
        float sum = factors[0] * streams[c];
        for (int32_t i = 1; i < count; i++)
            sum += factors[i] * streams[(size_t)i * (size_t)hidden + c];
        x[c] = round_if(sum, round);
    }
}

#endif
