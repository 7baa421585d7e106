/* Scores of packed keys: 128 channels of e2m1 with four scales, 68 bytes, against queries of the
 * same kind on the tensor cores.
 *
 * A warp keeps copies of the next tiles of 32 keys in flight, expands a tile to f16 in registers, a
 * power of two of the row left out, and multiplies it with 16 heads at a time. The published
 * program's steps follow in bf16 pairs: round and relu, weight, round; their sum over the heads is
 * one more product, with ones.
 *
 * Products of two e2m1 values are exact in f16 down to blocks 2^-23 below the largest of their row
 * or head, sums f32. Against the twin: a bf16 step of the score where the order of a sum decides.
 */
#include "kernels/cuda/copy_async.cuh"
#include "kernels/cuda/fp4.cuh"
#include "kernels/cuda/indexer.cuh"
#include "kernels/cuda/mma.cuh"

#define WARPS      8
#define THREADS    (WARPS * WARP_LANES)
#define TILE_ROWS  32
#define TILE_BYTES (TILE_ROWS * INDEXER_KEY_BYTES)
#define STAGES     3
#define RING_BYTES (STAGES * TILE_BYTES)
#define BLOCKS     (INDEXER_WIDTH / LOWP_FP4_BLOCK)
#define ONES       0x3f803f80u /* of bf16 */

static_assert(TILE_BYTES % 16 == 0 && RING_BYTES % 128 == 0, "copies of 16 bytes");

/* A key's four words of a lane as pairs of f16 [blocks][4], and the power of two left out. */
__device__ __forceinline__ float expand_key(const uint8_t *key, uint32_t pairs[BLOCKS][4])
{
    const uint32_t *words = reinterpret_cast<const uint32_t *>(key);
    uint32_t codes = words[INDEXER_WIDTH / 8];
    int scales[BLOCKS];
    int largest = 0;
#pragma unroll
    for (int b = 0; b < BLOCKS; b++) {
        scales[b] = (int)(codes >> 8 * b & 0xff);
        largest = max(largest, scales[b]);
    }
#pragma unroll
    for (int b = 0; b < BLOCKS; b++) {
        /* 2^14 for what fp4_expand leaves out, less the distance to the largest scale. */
        uint32_t factor = (uint32_t)(29 - min(28, largest - scales[b])) << 10;
        fp4_expand(words[b * 4 + (int)threadIdx.x % 4], pairs[b]);
#pragma unroll
        for (int k = 0; k < 4; k++)
            pairs[b][k] = multiply_f16(pairs[b][k], factor | factor << 16);
    }
    return e8m0_decode((uint8_t)largest);
}

/* Starts the copies of a tile's bytes, as many as there are; always ends a group. */
__device__ __forceinline__ void fetch(const uint8_t *rows, int64_t bytes_left, uint8_t *stage)
{
    int lane = (int)threadIdx.x % WARP_LANES;
    for (int chunk = lane; chunk < TILE_BYTES / 16; chunk += WARP_LANES) {
        int64_t bytes = bytes_left - chunk * 16;
        copy_async_16(stage + chunk * 16, rows + chunk * 16, bytes > 16 ? 16 : max(0, (int)bytes));
    }
    copy_async_commit();
}

/* sums[m] += the terms of 16 heads for rows 16 m + lane / 4 (elements 0, 1) and 8 below (2, 3).
 * `queries` is the lane's place in the first head, `weights` pairs of bf16 of these heads. */
__device__ __forceinline__ void score_heads(const uint16_t *queries, const uint32_t *weights,
                                            const uint32_t keys[2][2][BLOCKS][4], float sums[2][4])
{
    float c[2][2][4] = {};
#pragma unroll
    for (int b = 0; b < BLOCKS; b++) {
#pragma unroll
        for (int n = 0; n < 2; n++) {
            const uint4 q = *reinterpret_cast<const uint4 *>(queries + n * 8 * INDEXER_QUERY_PITCH +
                                                             b * LOWP_FP4_BLOCK);
#pragma unroll
            for (int m = 0; m < 2; m++) {
                const uint32_t *upper = keys[m][0][b];
                const uint32_t *lower = keys[m][1][b];
                const uint32_t left[4] = {upper[0], lower[0], upper[1], lower[1]};
                const uint32_t right[4] = {upper[2], lower[2], upper[3], lower[3]};
                mma_f16(c[m][n], left, q.x, q.y);
                mma_f16(c[m][n], right, q.z, q.w);
            }
        }
    }
#pragma unroll
    for (int m = 0; m < 2; m++) {
        uint32_t terms[4];
#pragma unroll
        for (int n = 0; n < 2; n++) {
            terms[2 * n] = multiply_bf16(pack_bf16_relu(c[m][n][0], c[m][n][1]), weights[4 * n]);
            terms[2 * n + 1] =
                multiply_bf16(pack_bf16_relu(c[m][n][2], c[m][n][3]), weights[4 * n]);
        }
        mma_bf16(sums[m], terms, ONES, ONES);
    }
}

/* Scores of the tile's rows; every lane returns that of row 16 (j / 2) + 8 (j % 2) + lane / 4. */
__device__ __forceinline__ float score_tile(const uint8_t *stage, const uint16_t *queries,
                                            const uint32_t *weights, int heads)
{
    int lane = (int)threadIdx.x % WARP_LANES;
    int j = lane % 4;
    uint32_t keys[2][2][BLOCKS][4];
    float powers[2][2];
    float sums[2][4] = {};
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int half = 0; half < 2; half++)
            powers[m][half] = expand_key(stage + (16 * m + 8 * half + lane / 4) * INDEXER_KEY_BYTES,
                                         keys[m][half]);
    for (int head = 0; head < heads; head += 16)
        score_heads(queries + (head + lane / 4) * INDEXER_QUERY_PITCH + j * 8,
                    weights + head / 2 + j, keys, sums);
    float upper = j / 2 ? sums[1][0] : sums[0][0];
    float lower = j / 2 ? sums[1][2] : sums[0][2];
    float power =
        j / 2 ? (j % 2 ? powers[1][1] : powers[1][0]) : (j % 2 ? powers[0][1] : powers[0][0]);
    /* Zero is zero, never minus zero: bins must agree with comparisons. */
    return bf16_round((j % 2 ? lower : upper) * power) + 0.0f;
}

/* Grid (blocks that take tiles in turn, tokens). */
static __global__ void __launch_bounds__(THREADS, 2) indexer_score_kernel(struct indexer_work work)
{
    launch_chain();
    SL_SHARED(uint8_t, shared);
    const struct indexer_args &args = work.args;
    int t = (int)blockIdx.y;
    int lane = (int)threadIdx.x % WARP_LANES;
    int warp = (int)threadIdx.x / WARP_LANES;
    if (indexer_takes_all(work, t)) return;
    int candidates = indexer_candidates(work, t);
    int tiles = (candidates + TILE_ROWS - 1) / TILE_ROWS;
    int step = (int)gridDim.x * WARPS;
    int first = (int)blockIdx.x * WARPS + warp;
    int64_t bytes = (int64_t)candidates * INDEXER_KEY_BYTES;
    float *scores = indexer_scores(work, t);
    uint8_t *ring = shared + warp * RING_BYTES;
    uint32_t *bins = reinterpret_cast<uint32_t *>(shared + WARPS * RING_BYTES);
    uint32_t *weights = bins + INDEXER_BINS;
    uint16_t *queries = reinterpret_cast<uint16_t *>(weights + INDEXER_HEADS_MAX / 2);

    for (int i = 0; i < STAGES - 1; i++) {
        int64_t place = (int64_t)(first + i * step) * TILE_BYTES;
        fetch(args.rows + min(place, bytes), bytes - place, ring + i * TILE_BYTES);
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
        int64_t place = (int64_t)(tile + (STAGES - 1) * step) * TILE_BYTES;
        copy_async_wait<STAGES - 2>();
        __syncwarp();
        fetch(args.rows + min(place, bytes), bytes - place,
              ring + (i + STAGES - 1) % STAGES * TILE_BYTES);
        float score =
            score_tile(ring + i % STAGES * TILE_BYTES, queries, weights, work.heads_padded);
        int row = tile * TILE_ROWS + 16 * (lane % 4 / 2) + 8 * (lane % 2) + lane / 4;
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
    int32_t tiles = ceil_div_i32(work->args.rows_max, TILE_ROWS * WARPS);
    int32_t blocks = min_i32(tiles, ceil_div_i32(2 * stream->processors, work->tokens));
    SL_ALLOW_SHARED(stream, indexer_score_kernel, bytes);
    SL_LAUNCH(stream, indexer_score_kernel, dim3((unsigned)blocks, (unsigned)work->tokens), THREADS,
              bytes, *work);
}
