/* What follows the products of a layer's input, in one launch: a block normes a token's query rank
 * vector, or norms, rotates and stores its window row, or works for a compressor as kv_compress
 * does.
 *
 * Against the chain of twins: as norm and kv_compress against theirs; a window row's codes may be
 * their neighbours, rarely. */
#include "kernels/cuda/kv_compress.cuh"
#include "kernels/cuda/norm.cuh"
#include "kernels/fused.h"

#define THREADS      COMPRESS_THREADS
#define COMPRESS_MAX 2

struct latents {
    struct fused_latents_args args;
    struct compress compress[COMPRESS_MAX];
    int32_t blocks[COMPRESS_MAX]; /* of each compressor */
    int32_t row_bytes;
};

/* The window's row of token t. */
__device__ __forceinline__ void store_row(const struct latents &work, int t, float *sums)
{
    __shared__ float row[OPS_HEAD_DIM_MAX];
    const struct norm_args &norm = work.args.kv;
    const struct kv_store_args &store = work.args.store;
    int slot = store.positions[t] % store.capacity;
    bool later = false; /* of tokens that share a slot the last one wins */
    for (int i = t + 1 + (int)threadIdx.x; i < store.tokens; i += THREADS)
        later |= store.positions[i] % store.capacity == slot;
    if (__syncthreads_or(later)) return;
    norm_row<THREADS>(norm, norm.x + (size_t)t * (size_t)norm.width, row, sums);
    __syncthreads();
    float position = (float)store.positions[t];
    for (int j = (int)threadIdx.x; j < store.format.rotary / 2; j += THREADS) {
        float *pair = row + store.format.plain + 2 * j;
        rotation_apply(rotation_of_angle(position * work.args.frequencies[j]), false, norm.round,
                       pair, pair + 1);
    }
    __syncthreads();
    rows_encode(store.format, row, store.rows + (size_t)slot * (size_t)work.row_bytes);
}

/* Grid: tokens, tokens, blocks of each compressor. */
static __global__ void __launch_bounds__(THREADS, 2) latents_kernel(const struct latents work)
{
    __shared__ float sums[WARPS_MAX];
    launch_chain();
    int tokens = work.args.store.tokens;
    int block = (int)blockIdx.x;
    if (block < tokens) {
        float *row = work.args.query.out + (size_t)block * (size_t)work.args.query.width;
        norm_row<THREADS>(work.args.query, row, row, sums);
    } else if (block < 2 * tokens) {
        store_row(work, block - tokens, sums);
    } else {
        /* One place that calls: two would not fit into the registers. */
        bool is_first = block < 2 * tokens + work.blocks[0];
        const struct compress compress = is_first ? work.compress[0] : work.compress[1];
        compress_block(compress, block - 2 * tokens - (is_first ? 0 : work.blocks[0]),
                       is_first ? work.blocks[0] : work.blocks[1], 0, 1);
    }
}

extern "C" bool cuda_fused_latents(struct stream *stream, const struct fused_latents_args *args)
{
    struct latents work = {};
    int32_t blocks = 2 * args->store.tokens;
    float *pooled = reinterpret_cast<float *>(stream->scratch);
    SL_ASSERT(args->query.x == args->query.out && args->query.rows == args->store.tokens);
    SL_ASSERT(args->kv.rows == args->store.tokens && rows_supported(&args->store.format));
    SL_ASSERT(args->kv.width == args->store.format.plain + args->store.format.rotary);
    SL_ASSERT(args->compress_count >= 0 && args->compress_count <= COMPRESS_MAX);
    if (args->store.tokens > FUSED_TOKENS_MAX) return false;
    work.args = *args;
    work.row_bytes = (int32_t)row_format_bytes(&args->store.format);
    for (int32_t i = 0; i < args->compress_count; i++) {
        const struct kv_compress_args *compress = &args->compress[i];
        SL_ASSERT(compress->tokens == args->store.tokens);
        work.compress[i] = compress_make(compress, pooled, stream->tickets + i * COMPRESS_ROWS_MAX);
        if (!work.compress[i].remembers) return false;
        work.blocks[i] = ceil_div_i32(compress->width, COMPRESS_CHANNELS);
        pooled += COMPRESS_ROWS_MAX * compress->width;
        blocks += work.blocks[i];
    }
    if (args->store.tokens == 0) return true;
    SL_LAUNCH(stream, latents_kernel, (unsigned)blocks, THREADS, 0, work);
    return true;
}
