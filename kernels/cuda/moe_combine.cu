/* Routed experts' results in ascending order, plus the shared expert's. Equal to the twin bit for
 * bit. */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numerics.cuh"

#define THREADS 128

static __global__ void moe_combine_kernel(struct moe_combine_args args)
{
    launch_chain();
    int32_t t = (int32_t)blockIdx.y;
    int32_t c = (int32_t)(blockIdx.x * THREADS + threadIdx.x);
    if (c >= args.hidden) return;
    const float *routed = args.routed + (size_t)t * (size_t)args.top * (size_t)args.hidden + c;
    size_t at = (size_t)t * (size_t)args.hidden + (size_t)c;
    float sum = 0.0f;
#pragma unroll 8
    for (int32_t k = 0; k < args.top; k++)
        sum += routed[(size_t)k * (size_t)args.hidden];
    sum += args.shared[at];
    args.out[at] = round_if(sum, args.round);
}

extern "C" void cuda_moe_combine(struct stream *stream, const struct moe_combine_args *args)
{
    SL_ASSERT(args->hidden >= 1 && args->top >= 0);
    dim3 grid(launch_blocks(args->hidden, THREADS), (unsigned)args->tokens);
    SL_LAUNCH(stream, moe_combine_kernel, grid, THREADS, 0, *args);
}
