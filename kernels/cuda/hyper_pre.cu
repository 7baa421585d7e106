/* Reads the residual streams: one input for the block, and the factors hyper_post will use; a block
 * a token. The last warp runs Sinkhorn's iterations, a chain of dependent steps, while the others
 * sum the streams. Steps go in the twin's order; the sum of squares does not, and the exponential
 * differs by 2 units in the last place: 2e-6 of the largest output, so with `round` one bf16 step,
 * rarely. */
#include "kernels/cuda/hyper_factors.cuh"

static __global__ void __launch_bounds__(HYPER_THREADS) hyper_pre_kernel(struct hyper_pre_args args)
{
    launch_chain();
    __shared__ float parts[WARPS_MAX];
    __shared__ float factors[OPS_STREAMS_MAX];
    const int32_t fold_threads = HYPER_THREADS - WARP_LANES;
    size_t t = blockIdx.x;
    int32_t n = args.streams_count;
    int32_t i = (int32_t)threadIdx.x;
    const float *streams = args.streams + t * (size_t)n * (size_t)args.hidden;
    const float *mix = args.mix + t * (size_t)((2 + n) * n);
    float inverse = hyper_mix_inverse(streams, n * args.hidden, args.norm_epsilon, parts);
    if (i < n)
        factors[i] = hyper_mix_factor(mix[i], inverse, args.scale[0], args.base[i]) + args.epsilon;
    __syncthreads();
    if (i < fold_threads)
        hyper_mix_fold(streams, factors, n, args.hidden, i, fold_threads, args.round,
                       args.x + t * (size_t)args.hidden);
    else
        hyper_write_factors(args, t, mix, inverse);
}

extern "C" void cuda_hyper_pre(struct stream *stream, const struct hyper_pre_args *args)
{
    SL_ASSERT(args->streams_count >= 1 && args->streams_count <= OPS_STREAMS_MAX);
    SL_ASSERT(args->hidden >= 1 && args->iterations >= 1);
    SL_LAUNCH(stream, hyper_pre_kernel, (unsigned)args->tokens, HYPER_THREADS, 0, *args);
}
