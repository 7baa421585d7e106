/* Token ids to rows of the embedding, once per residual stream. Equal to the twin bit for bit. */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numerics.cuh"

#define THREADS 256

static __global__ void embed_kernel(struct embed_args args)
{
    launch_chain();
    int32_t hidden = args.table.columns;
    int32_t t = (int32_t)blockIdx.y;
    int32_t c = (int32_t)(blockIdx.x * THREADS + threadIdx.x);
    if (c >= hidden) return;
    const uint16_t *table = static_cast<const uint16_t *>(args.table.data);
    float value = bf16_decode(table[(size_t)args.ids[t] * (size_t)hidden + c]);
    for (int32_t m = 0; m < args.streams; m++)
        args.out[((size_t)t * args.streams + m) * hidden + c] = value;
}

extern "C" void cuda_embed(struct stream *stream, const struct embed_args *args)
{
    SL_ASSERT(args->table.format == MATRIX_BF16);
    SL_ASSERT(args->streams >= 1 && args->table.columns >= 1);
    dim3 grid(launch_blocks(args->table.columns, THREADS), (unsigned)args->tokens);
    SL_LAUNCH(stream, embed_kernel, grid, THREADS, 0, *args);
}
