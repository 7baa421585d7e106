/* Weightless RMS norm of query heads, half a warp a head. Sums go in the twin's order, sixteen
 * lanes and a tree, since one flipped bf16 rounding of the mean would change a whole head by 0.4%:
 * equal to the twin bit for bit. */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numerics.cuh"

#define THREADS   128
#define SUM_LANES 16 /* of kernels/cpu/dot.h */

/* The sum of squares of a row, by the SUM_LANES lanes of this half warp. */
static __device__ float sum_of_squares(const float *x, int32_t width, int32_t lane, bool round)
{
    float sum = 0.0f;
    for (int32_t i = lane; i < width; i += SUM_LANES)
        sum += round_if(x[i] * x[i], round);
#pragma unroll
    for (int offset = SUM_LANES / 2; offset > 0; offset /= 2)
        sum += __shfl_xor_sync(WARP_ALL, sum, offset);
    return sum;
}

static __global__ void __launch_bounds__(THREADS) head_norm_kernel(struct head_norm_args args)
{
    launch_chain();
    int32_t lane = (int32_t)threadIdx.x % SUM_LANES;
    int64_t row = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / SUM_LANES;
    bool inside = row < args.rows; /* the last warp must meet in full */
    float *x = args.x + (inside ? row : 0) * args.width;
    float mean = sum_of_squares(x, inside ? args.width : 0, lane, args.round) / (float)args.width;
    float shifted = round_if(round_if(mean, args.round) + args.epsilon, args.round);
    float inverse = round_if(1.0f / sqrtf(shifted), args.round);
    if (!inside) return;
    for (int32_t i = lane; i < args.width; i += SUM_LANES)
        x[i] = round_if(x[i] * inverse, args.round);
}

extern "C" void cuda_head_norm(struct stream *stream, const struct head_norm_args *args)
{
    SL_ASSERT(args->width >= 1 && args->width <= OPS_HEAD_DIM_MAX);
    SL_LAUNCH(stream, head_norm_kernel, launch_blocks((int64_t)args->rows * SUM_LANES, THREADS),
              THREADS, 0, *args);
}
