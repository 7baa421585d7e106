/* RMS norm of rows with a weight, a block a row. The sum of squares goes in another order than the
 * twin's: 1e-6 of the result, so with `round` at most one bf16 step, rarely. */
#include "kernels/cuda/norm.cuh"

#define THREADS 512

static __global__ void __launch_bounds__(THREADS) norm_kernel(struct norm_args args)
{
    launch_chain();
    __shared__ float parts[WARPS_MAX];
    size_t first = (size_t)blockIdx.x * (size_t)args.width;
    norm_row<THREADS>(args, args.x + first, args.out + first, parts);
}

extern "C" void cuda_norm(struct stream *stream, const struct norm_args *args)
{
    SL_ASSERT(args->width >= 1);
    SL_LAUNCH(stream, norm_kernel, (unsigned)args->rows, THREADS, 0, *args);
}
