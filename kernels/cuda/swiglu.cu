/* The clamped SwiGLU between the products of the shared expert. Differs from the twin by the
 * exponential alone: 2 units in the last place of f32, so at most one bf16 step with `round`. */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numerics.cuh"

#define THREADS 256

static __global__ void swiglu_kernel(struct swiglu_args args, int64_t count)
{
    launch_chain();
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < count) args.out[i] = round_if(swiglu(args.gate[i], args.up[i], args.limit), args.round);
}

extern "C" void cuda_swiglu(struct stream *stream, const struct swiglu_args *args)
{
    SL_ASSERT(args->width >= 1 && args->limit >= 0.0f);
    int64_t count = (int64_t)args->tokens * args->width;
    SL_LAUNCH(stream, swiglu_kernel, launch_blocks(count, THREADS), THREADS, 0, *args, count);
}
