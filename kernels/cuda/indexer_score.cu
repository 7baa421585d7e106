/* Scores of packed keys for each token of its own; see indexer_keys.cuh. A warp keeps copies of the
 * next tiles of 32 keys in flight. Against the twin: a bf16 step of the score where the order of a
 * sum decides. */
#include "kernels/cuda/indexer_keys.cuh"

#define WARPS      8
#define THREADS    (WARPS * WARP_LANES)
#define STAGES     3
#define RING_BYTES (STAGES * INDEXER_TILE_BYTES)

static_assert(RING_BYTES % 128 == 0, "rings of a block lie side by side");

/* Grid (blocks that take tiles in turn, tokens). */
static __global__ void __launch_bounds__(THREADS, 2) indexer_score_kernel(struct indexer_work work)
{
    launch_chain();
    SL_SHARED(uint8_t, shared);
    const struct indexer_args &args = work.args;
    int t = (int)blockIdx.y;
    int warp = (int)threadIdx.x / WARP_LANES;
    if (indexer_takes_all(work, t)) return;
    int candidates = indexer_candidates(work, t);
    int tiles = (candidates + INDEXER_TILE_ROWS - 1) / INDEXER_TILE_ROWS;
    int step = (int)gridDim.x * WARPS;
    int first = (int)blockIdx.x * WARPS + warp;
    int64_t bytes = (int64_t)candidates * INDEXER_KEY_BYTES;
    float *scores = indexer_scores(work, t);
    uint8_t *ring = shared + warp * RING_BYTES;
    uint32_t *bins = reinterpret_cast<uint32_t *>(shared + WARPS * RING_BYTES);
    uint32_t *weights = bins + INDEXER_BINS;
    uint16_t *queries = reinterpret_cast<uint16_t *>(weights + INDEXER_HEADS_MAX / 2);

    for (int i = 0; i < STAGES - 1; i++) {
        int64_t place = (int64_t)(first + i * step) * INDEXER_TILE_BYTES;
        indexer_fetch(args.rows, place, bytes, ring + i * INDEXER_TILE_BYTES);
    }
    for (int i = (int)threadIdx.x; i < INDEXER_BINS; i += THREADS)
        bins[i] = 0;
    const float *scaled = work.weights + (size_t)t * (size_t)work.heads_padded;
    for (int i = (int)threadIdx.x; i < work.heads_padded / 2; i += THREADS)
        weights[i] = pack_bf16(scaled[2 * i], scaled[2 * i + 1]);
    int query_words = work.heads_padded * INDEXER_QUERY_PITCH / 8;
    const uint4 *packed = reinterpret_cast<const uint4 *>(work.queries) + (size_t)t * query_words;
    for (int i = (int)threadIdx.x; i < query_words; i += THREADS)
        reinterpret_cast<uint4 *>(queries)[i] = packed[i];
    __syncthreads();

    for (int tile = first, i = 0; tile < tiles; tile += step, i++) {
        int64_t place = (int64_t)(tile + (STAGES - 1) * step) * INDEXER_TILE_BYTES;
        copy_async_wait<STAGES - 2>();
        __syncwarp();
        indexer_fetch(args.rows, place, bytes,
                      ring + (i + STAGES - 1) % STAGES * INDEXER_TILE_BYTES);
        struct indexer_keys keys;
        indexer_expand(ring + i % STAGES * INDEXER_TILE_BYTES, &keys);
        float score = indexer_score(keys, queries, weights, work.heads_padded);
        int row = tile * INDEXER_TILE_ROWS + indexer_lane_row();
        if (row < candidates) {
            scores[row] = score;
            atomicAdd(&bins[indexer_first_bin(score)], 1u);
        }
    }
    copy_async_wait<0>();
    __syncthreads();
    uint32_t *all = work.bins + (size_t)t * 2 * INDEXER_BINS;
    for (int i = (int)threadIdx.x; i < INDEXER_BINS; i += THREADS)
        if (bins[i]) atomicAdd(&all[i], bins[i]);
}

size_t indexer_score_bytes(int32_t heads_padded)
{
    return WARPS * RING_BYTES + sizeof(uint32_t) * (INDEXER_BINS + INDEXER_HEADS_MAX / 2) +
           sizeof(uint16_t) * (size_t)heads_padded * INDEXER_QUERY_PITCH;
}

void indexer_score_packed(struct stream *stream, const struct indexer_work *work)
{
    size_t bytes = indexer_score_bytes(work->heads_padded);
    int32_t tiles = ceil_div_i32(work->args.rows_max, INDEXER_TILE_ROWS * WARPS);
    int32_t blocks = min_i32(tiles, ceil_div_i32(2 * stream->processors, work->tokens));
    SL_ALLOW_SHARED(stream, indexer_score_kernel, bytes);
    SL_LAUNCH(stream, indexer_score_kernel, dim3((unsigned)blocks, (unsigned)work->tokens), THREADS,
              bytes, *work);
}
