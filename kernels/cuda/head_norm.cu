/* Weightless RMS norm of query heads, half a warp a head. Sums go in the twin's order, sixteen
 * lanes and a tree, since one flipped bf16 rounding of the mean would change a whole head by 0.4%:
 * equal to the twin bit for bit. */
#include "kernels/cuda/head_norm.cuh"

#define THREADS 128

static __global__ void __launch_bounds__(THREADS) head_norm_kernel(struct head_norm_args args)
{
    launch_chain();
    int64_t row = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / HEAD_NORM_LANES;
    bool inside = row < args.rows; /* the last warp must meet in full */
    head_norm_row(args, args.x + (inside ? row : 0) * args.width, inside);
}

extern "C" void cuda_head_norm(struct stream *stream, const struct head_norm_args *args)
{
    SL_ASSERT(args->width >= 1 && args->width <= OPS_HEAD_DIM_MAX);
    SL_LAUNCH(stream, head_norm_kernel,
              launch_blocks((int64_t)args->rows * HEAD_NORM_LANES, THREADS), THREADS, 0, *args);
}
