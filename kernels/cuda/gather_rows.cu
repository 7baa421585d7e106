/* Rows picked by a list, as a rule out of mapped memory: equal to the twin bit for bit. A block a
 * row; a row that is not wanted costs an empty block. */
#include "kernels/cuda/launch.cuh"

#define THREADS 256

static __global__ void gather_rows_kernel(struct gather_rows_args args)
{
    launch_chain();
    int32_t row = args.rows[blockIdx.x];
    if (row < 0) return;
    const float *source = args.source + (size_t)row * (size_t)args.width;
    float *out = args.out + (size_t)row * (size_t)args.width;
    for (int32_t i = (int32_t)threadIdx.x; i < args.width; i += THREADS)
        out[i] = source[i];
}

extern "C" void cuda_gather_rows(struct stream *stream, const struct gather_rows_args *args)
{
    SL_ASSERT(args->count >= 0 && args->width > 0);
    SL_LAUNCH(stream, gather_rows_kernel, (unsigned)args->count, THREADS, 0, *args);
}
