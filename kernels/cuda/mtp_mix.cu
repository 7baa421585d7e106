/* Input of the MTP block: an embedding added to every residual stream. Equal to the twin bit for
 * bit. */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numerics.cuh"

#define THREADS 256

static __global__ void mtp_mix_kernel(struct mtp_mix_args args)
{
    launch_chain();
    int32_t t = (int32_t)blockIdx.z;
    int32_t m = (int32_t)blockIdx.y;
    int32_t c = (int32_t)(blockIdx.x * THREADS + threadIdx.x);
    if (c >= args.hidden_size) return;
    size_t size = (size_t)args.hidden_size;
    size_t at = ((size_t)t * (size_t)args.streams_count + (size_t)m) * size + (size_t)c;
    float sum = args.embedding[(size_t)t * size + (size_t)c] + args.hidden[at];
    args.out[at] = round_if(sum, args.round);
}

extern "C" void cuda_mtp_mix(struct stream *stream, const struct mtp_mix_args *args)
{
    SL_ASSERT(args->streams_count >= 1 && args->hidden_size >= 1);
    dim3 grid(launch_blocks(args->hidden_size, THREADS), (unsigned)args->streams_count,
              (unsigned)args->tokens);
    SL_LAUNCH(stream, mtp_mix_kernel, grid, THREADS, 0, *args);
}
