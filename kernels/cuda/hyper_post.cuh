/* Mixing a channel of the residual streams; see hyper_post.cu. */
#ifndef SLUICE_KERNELS_CUDA_HYPER_POST_CUH
#define SLUICE_KERNELS_CUDA_HYPER_POST_CUH

#include "kernels/cuda/numerics.cuh"
#include "kernels/ops.h"

/* A channel of a token's streams mixed with the block's output x there: from `old` to `mixed`.
 * STREAMS at compile time, so that both stay in registers. */
template <int STREAMS>
static __device__ __forceinline__ void hyper_post_mix(const float *post, const float *comb,
                                                      const float (&old)[STREAMS], float x,
                                                      bool round, float (&mixed)[STREAMS])
{
#pragma unroll
    for (int j = 0; j < STREAMS; j++) {
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < STREAMS; i++)
            sum += comb[i * STREAMS + j] * old[i];
        mixed[j] = round_if(post[j] * x + sum, round);
    }
}

/* Mixes channel c of token t's streams in place; `mixed` are the new ones. */
template <int STREAMS>
static __device__ __forceinline__ void hyper_post_channel(const struct hyper_post_args &args,
                                                          size_t t, int32_t c, float x,
                                                          float (&mixed)[STREAMS])
{
    size_t hidden = (size_t)args.hidden;
    float *streams = args.streams + t * STREAMS * hidden + (size_t)c;
    float old[STREAMS];
#pragma unroll
    for (int i = 0; i < STREAMS; i++)
        old[i] = streams[(size_t)i * hidden];
    hyper_post_mix<STREAMS>(args.post + t * STREAMS, args.comb + t * STREAMS * STREAMS, old, x,
                            args.round, mixed);
#pragma unroll
    for (int j = 0; j < STREAMS; j++)
        streams[(size_t)j * hidden] = mixed[j];
}

#endif
