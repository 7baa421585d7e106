/* Products of packed keys, 128 channels of e2m1 with four scales in 68 bytes, with queries of the
 * same kind on the tensor cores, by a warp; what the kernels of few and of many tokens share, so
 * that a score has the same bits in both.
 *
 * A warp expands a tile of 32 keys to f16 in registers, a power of two of the row left out, and
 * multiplies it with 16 heads at a time. The published program's steps follow in bf16 pairs: round
 * and relu, weight, round; their sum over the heads is one more product, with ones. Products of two
 * e2m1 values are exact in f16 down to blocks 2^-23 below the largest of their row or head, sums
 * f32. */
#ifndef SLUICE_KERNELS_CUDA_INDEXER_KEYS_CUH
#define SLUICE_KERNELS_CUDA_INDEXER_KEYS_CUH

#include "kernels/cuda/copy_async.cuh"
#include "kernels/cuda/fp4.cuh"
#include "kernels/cuda/indexer.cuh"
#include "kernels/cuda/mma.cuh"

#define INDEXER_TILE_ROWS  32
#define INDEXER_TILE_BYTES (INDEXER_TILE_ROWS * INDEXER_KEY_BYTES)
#define INDEXER_BLOCKS     (INDEXER_WIDTH / LOWP_FP4_BLOCK)
#define INDEXER_ONES       0x3f803f80u /* of bf16 */

static_assert(INDEXER_TILE_BYTES % 16 == 0, "copies of 16 bytes");

/* A lane's part of a tile: rows 16 m + 8 half + lane / 4, and the power of two left out of the one
 * whose score the lane returns. */
struct indexer_keys {
    uint32_t pairs[2][2][INDEXER_BLOCKS][4];
    float power;
};

/* A key's four words of a lane as pairs of f16 [blocks][4], and the power of two left out. */
__device__ __forceinline__ float indexer_expand_key(const uint8_t *key,
                                                    uint32_t pairs[INDEXER_BLOCKS][4])
{
    const uint32_t *words = reinterpret_cast<const uint32_t *>(key);
    uint32_t codes = words[INDEXER_WIDTH / 8];
    int scales[INDEXER_BLOCKS];
    int largest = 0;
#pragma unroll
    for (int b = 0; b < INDEXER_BLOCKS; b++) {
        scales[b] = (int)(codes >> 8 * b & 0xff);
        largest = max(largest, scales[b]);
    }
#pragma unroll
    for (int b = 0; b < INDEXER_BLOCKS; b++) {
        /* 2^14 for what fp4_expand leaves out, less the distance to the largest scale. */
        uint32_t factor = (uint32_t)(29 - min(28, largest - scales[b])) << 10;
        fp4_expand(words[b * 4 + (int)threadIdx.x % 4], pairs[b]);
#pragma unroll
        for (int k = 0; k < 4; k++)
            pairs[b][k] = multiply_f16(pairs[b][k], factor | factor << 16);
    }
    return e8m0_decode((uint8_t)largest);
}

/* Starts the copies of a tile, which begins `place` bytes behind `rows`, as much of it as lies
 * before `bytes`; always ends a group. */
__device__ __forceinline__ void indexer_fetch(const uint8_t *rows, int64_t place, int64_t bytes,
                                              uint8_t *stage)
{
    int lane = (int)threadIdx.x % WARP_LANES;
    const uint8_t *tile = rows + (place < bytes ? place : 0); /* on 16 bytes in any case */
    for (int chunk = lane; chunk < INDEXER_TILE_BYTES / 16; chunk += WARP_LANES) {
        int64_t left = bytes - place - chunk * 16;
        copy_async_16(stage + chunk * 16, tile + chunk * 16, left > 16 ? 16 : max(0, (int)left));
    }
    copy_async_commit();
}

/* sums[m] += the terms of 16 heads for rows 16 m + lane / 4 (elements 0, 1) and 8 below (2, 3).
 * `queries` is the lane's place in the first head, `weights` pairs of bf16 of these heads. */
__device__ __forceinline__ void indexer_score_heads(const uint16_t *queries,
                                                    const uint32_t *weights,
                                                    const uint32_t keys[2][2][INDEXER_BLOCKS][4],
                                                    float sums[2][4])
{
    float c[2][2][4] = {};
#pragma unroll
    for (int b = 0; b < INDEXER_BLOCKS; b++) {
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
        mma_bf16(sums[m], terms, INDEXER_ONES, INDEXER_ONES);
    }
}

/* Expands the tile in shared memory at `stage`. */
__device__ __forceinline__ void indexer_expand(const uint8_t *stage, struct indexer_keys *keys)
{
    int lane = (int)threadIdx.x % WARP_LANES;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint8_t *key = stage + (8 * i + lane / 4) * INDEXER_KEY_BYTES;
        float power = indexer_expand_key(key, keys->pairs[i / 2][i % 2]);
        if (lane % 4 == i) keys->power = power;
    }
}

/* The row of a tile whose score a lane returns. */
__device__ __forceinline__ int indexer_lane_row()
{
    int lane = (int)threadIdx.x % WARP_LANES;
    return 8 * (lane % 4) + lane / 4;
}

/* The score of the lane's row, all 32 lanes together; `heads` a multiple of 16. */
__device__ __forceinline__ float indexer_score(const struct indexer_keys &keys,
                                               const uint16_t *queries, const uint32_t *weights,
                                               int heads)
{
    int lane = (int)threadIdx.x % WARP_LANES;
    int j = lane % 4;
    float sums[2][4] = {};
    for (int head = 0; head < heads; head += 16)
        indexer_score_heads(queries + (head + lane / 4) * INDEXER_QUERY_PITCH + j * 8,
                            weights + head / 2 + j, keys.pairs, sums);
    float upper = j / 2 ? sums[1][0] : sums[0][0];
    float lower = j / 2 ? sums[1][2] : sums[0][2];
    /* Zero is zero, never minus zero: bins must agree with comparisons. */
    return bf16_round((j % 2 ? lower : upper) * keys.power) + 0.0f;
}

#endif
