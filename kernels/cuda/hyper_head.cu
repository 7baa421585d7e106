/* Folds the residual streams into the one row the head reads. The sum of squares goes in another
 * order than the twin's and the exponential differs by 2 units in the last place: 2e-6 of the
 * largest output, so with `round` one bf16 step, rarely. */
#include "kernels/cuda/hyper_mix.cuh"

static __global__ void __launch_bounds__(HYPER_THREADS)
    hyper_head_kernel(struct hyper_head_args args)
{
    launch_chain();
    __shared__ float parts[WARPS_MAX];
    __shared__ float factors[OPS_STREAMS_MAX];
    size_t t = blockIdx.x;
    int32_t n = args.streams_count;
    const float *streams = args.streams + t * (size_t)n * (size_t)args.hidden;
    float inverse = hyper_mix_inverse(streams, n * args.hidden, args.norm_epsilon, parts);
    int32_t i = (int32_t)threadIdx.x;
    if (i < n)
        factors[i] = hyper_mix_factor(args.mix[t * (size_t)n + (size_t)i], inverse, args.scale[0],
                                      args.base[i]) +
                     args.epsilon;
    __syncthreads();
    hyper_mix_fold(streams, factors, n, args.hidden, i, HYPER_THREADS, args.round,
                   args.x + t * (size_t)args.hidden);
}

extern "C" void cuda_hyper_head(struct stream *stream, const struct hyper_head_args *args)
{
    SL_ASSERT(args->streams_count >= 1 && args->streams_count <= OPS_STREAMS_MAX);
    SL_ASSERT(args->hidden >= 1);
    SL_LAUNCH(stream, hyper_head_kernel, (unsigned)args->tokens, HYPER_THREADS, 0, *args);
}
