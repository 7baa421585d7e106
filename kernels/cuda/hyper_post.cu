/* Writes a block's output back into the residual streams and mixes them, in place; a thread a
 * channel. Equal to the twin bit for bit. */
#include "kernels/cuda/hyper_post.cuh"
#include "kernels/cuda/launch.cuh"

#define THREADS 128

template <int STREAMS> static __global__ void hyper_post_kernel(struct hyper_post_args args)
{
    launch_chain();
    size_t t = blockIdx.y;
    int32_t c = (int32_t)(blockIdx.x * THREADS + threadIdx.x);
    float mixed[STREAMS];
    if (c >= args.hidden) return;
    float x = args.x[t * (size_t)args.hidden + (size_t)c];
    hyper_post_channel<STREAMS>(args, t, c, x, mixed);
}

extern "C" void cuda_hyper_post(struct stream *stream, const struct hyper_post_args *args)
{
    typedef void (*kernel_fn)(struct hyper_post_args);
    static const kernel_fn kernels[OPS_STREAMS_MAX + 1] = {
        NULL,
        hyper_post_kernel<1>,
        hyper_post_kernel<2>,
        hyper_post_kernel<3>,
        hyper_post_kernel<4>,
        hyper_post_kernel<5>,
        hyper_post_kernel<6>,
        hyper_post_kernel<7>,
        hyper_post_kernel<8>,
    };
    SL_ASSERT(args->streams_count >= 1 && args->streams_count <= OPS_STREAMS_MAX);
    SL_ASSERT(args->hidden >= 1);
    dim3 grid(launch_blocks(args->hidden, THREADS), (unsigned)args->tokens);
    kernel_fn hyper_post = kernels[args->streams_count];
    SL_LAUNCH(stream, hyper_post, grid, THREADS, 0, *args);
}
