/* Keys and gates of tokens folded into compressed rows, with the state carried from call to call.
 *
 * A block takes 64 channels and pools the groups that the call completes; of a group, tokens of
 * before come from the state and tokens of the call from its arguments. The last block to be done
 * with a row has all channels before it: it norms, rotates and encodes. Up to a few tokens one
 * launch does it all, blocks going through the groups and then remembering the tokens; of more
 * tokens groups are pooled side by side, and a second launch remembers.
 *
 * Against the twin: sums over a group and over a row differ in order, 1e-6 of the row, so that a
 * code may be its neighbour. What a group becomes does not depend on how its tokens came in calls.
 */
#include "kernels/cuda/kv_compress.cuh"

/* Grid (blocks of channels, rows in turn). */
static __global__ void __launch_bounds__(COMPRESS_THREADS) kv_compress_kernel(struct compress work)
{
    launch_chain();
    compress_block(work, (int)blockIdx.x, (int)gridDim.x, (int)blockIdx.y, (int)gridDim.y);
}

/* Grid (blocks of channels, tokens in turn). */
static __global__ void __launch_bounds__(COMPRESS_THREADS) kv_remember_kernel(struct compress work)
{
    launch_chain();
    int channel = (int)blockIdx.x * COMPRESS_CHANNELS + (int)threadIdx.x % COMPRESS_CHANNELS;
    int part = (int)threadIdx.x / COMPRESS_CHANNELS;
    compress_remember(work, channel, (int)blockIdx.y * COMPRESS_PARTS + part,
                      (int)gridDim.y * COMPRESS_PARTS);
}

extern "C" void cuda_kv_compress(struct stream *stream, const struct kv_compress_args *args)
{
    struct compress work =
        compress_make(args, reinterpret_cast<float *>(stream->scratch), stream->tickets);
    int32_t rows = args->tokens / args->ratio + 1;
    if (args->tokens == 0) return;
    SL_ASSERT(rows <= CUDA_TICKETS);
    SL_ASSERT((size_t)rows * (size_t)args->width * sizeof(float) <= CUDA_SCRATCH_BYTES);
    unsigned channels = launch_blocks(args->width, COMPRESS_CHANNELS);
    SL_LAUNCH(stream, kv_compress_kernel, dim3(channels, work.remembers ? 1 : (unsigned)rows),
              COMPRESS_THREADS, 0, work);
    if (!work.remembers)
        SL_LAUNCH(stream, kv_remember_kernel,
                  dim3(channels,
                       launch_blocks(min_i32(args->tokens, args->state_capacity), COMPRESS_PARTS)),
                  COMPRESS_THREADS, 0, work);
}
