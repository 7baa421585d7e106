/* RMS norm of rows with a weight, a block a row. The sum of squares goes in another order than the
 * twin's: 1e-6 of the result, so with `round` at most one bf16 step, rarely. */
#include "kernels/cuda/numerics.cuh"
#include "kernels/cuda/reduce.cuh"

#define THREADS 512

static __global__ void __launch_bounds__(THREADS) norm_kernel(struct norm_args args)
{
    launch_chain();
    __shared__ float parts[WARPS_MAX];
    size_t first = (size_t)blockIdx.x * (size_t)args.width;
    const float *x = args.x + first;
    float *out = args.out + first;
    float sum = 0.0f;
    for (int32_t i = (int32_t)threadIdx.x; i < args.width; i += THREADS)
        sum = fmaf(x[i], x[i], sum);
    sum = block_sum(sum, parts);
    float inverse = 1.0f / sqrtf(sum / (float)args.width + args.epsilon);
    for (int32_t i = (int32_t)threadIdx.x; i < args.width; i += THREADS)
        out[i] = round_if(bf16_decode(args.weight[i]) * (x[i] * inverse), args.round);
}

extern "C" void cuda_norm(struct stream *stream, const struct norm_args *args)
{
    SL_ASSERT(args->width >= 1);
    SL_LAUNCH(stream, norm_kernel, (unsigned)args->rows, THREADS, 0, *args);
}
