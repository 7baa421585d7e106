/* Scores of attention over native rows; see attention.cu. A block keeps 64 heads' queries in
 * registers, and while it multiplies 16 rows the next ones are on their way. */
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/numerics.cuh"
#include "kernels/cuda/rotation.cuh"

#define WARPS      8
#define THREADS    (WARPS * WARP_LANES)
#define SLICE_BYTE 455                    /* where a row's bf16 channels begin */
#define HEADS      (WARPS * 8)            /* of a block that makes scores */
#define PITCH      (ATTENTION_WIDTH + 32) /* elements from row to row: lanes of two rows in turn */

/* Eight channels of a row as they are stored: e4m3 codes and their scale, or bf16 from the last
 * byte of the first word on. */
struct row_part {
    uint2 words[3];
    uint32_t scale;
};

/* Of a thread: one part of every fourth row. */
#define TILE_PARTS (ATTENTION_TILE * ATTENTION_WIDTH / 8 / THREADS)

/* The thread's parts of 16 rows; of the last row again where there are fewer. */
__device__ __forceinline__ void load_tile(const struct rows_visible &rows, int tile,
                                          struct row_part parts[TILE_PARTS])
{
    int part = (int)threadIdx.x % (ATTENTION_WIDTH / 8);
#pragma unroll
    for (int i = 0; i < TILE_PARTS; i++) {
        int k = i * (THREADS * 8 / ATTENTION_WIDTH) + (int)threadIdx.x / (ATTENTION_WIDTH / 8);
        const uint8_t *row = rows_address(rows, min(tile * ATTENTION_TILE + k, rows.count - 1));
        if (part < ATTENTION_PLAIN / 8) {
            parts[i].words[0] = *reinterpret_cast<const uint2 *>(row + part * 8);
            parts[i].scale = row[ATTENTION_PLAIN + part / 8];
        } else {
            const uint2 *words = reinterpret_cast<const uint2 *>(row + ATTENTION_PLAIN +
                                                                 (part - ATTENTION_PLAIN / 8) * 16);
#pragma unroll
            for (int w = 0; w < 3; w++)
                parts[i].words[w] = words[w];
        }
    }
}

__device__ __forceinline__ uint4 decode_part(const struct row_part &part, bool plain)
{
    static_assert(SLICE_BYTE % 8 == 7, "the slice begins with the last byte of a word");
    uint2 a = part.words[0];
    if (!plain) {
        uint2 b = part.words[1];
        uint2 c = part.words[2];
        return {__funnelshift_r(a.y, b.x, 24), __funnelshift_r(b.x, b.y, 24),
                __funnelshift_r(b.y, c.x, 24), __funnelshift_r(c.x, c.y, 24)};
    }
    float scale = e8m0_decode((uint8_t)part.scale);
    uint32_t pairs[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t two = (i < 2 ? a.x : a.y) >> (i % 2 * 16);
        pairs[i] = pack_bf16(rows_e4m3(two & 0xff) * scale, rows_e4m3(two >> 8 & 0xff) * scale);
    }
    return {pairs[0], pairs[1], pairs[2], pairs[3]};
}

/* The tile as bf16 in shared memory [ATTENTION_TILE, PITCH]. */
__device__ __forceinline__ void decode_tile(const struct row_part parts[TILE_PARTS],
                                            uint16_t *decoded)
{
    int part = (int)threadIdx.x % (ATTENTION_WIDTH / 8);
#pragma unroll
    for (int i = 0; i < TILE_PARTS; i++) {
        int k = i * (THREADS * 8 / ATTENTION_WIDTH) + (int)threadIdx.x / (ATTENTION_WIDTH / 8);
        *reinterpret_cast<uint4 *>(decoded + k * PITCH + part * 8) =
            decode_part(parts[i], part < ATTENTION_PLAIN / 8);
    }
}

/* Scores of one tile for the warp's eight heads; c as in mma.cuh, rows by heads. */
__device__ __forceinline__ void score_tile(const uint16_t *decoded,
                                           const uint4 query[ATTENTION_WIDTH / 32], float c[4])
{
    int lane = (int)threadIdx.x % WARP_LANES;
    const uint16_t *upper = decoded + lane / 4 * PITCH + lane % 4 * 8;
    const uint16_t *lower = upper + 8 * PITCH;
    float even[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    float odd[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < ATTENTION_WIDTH / 32; i++) {
        uint4 a = *reinterpret_cast<const uint4 *>(upper + i * 32);
        uint4 b = *reinterpret_cast<const uint4 *>(lower + i * 32);
        const uint32_t left[4] = {a.x, b.x, a.y, b.y};
        const uint32_t right[4] = {a.z, b.z, a.w, b.w};
        mma_bf16(even, left, query[i].x, query[i].y);
        mma_bf16(odd, right, query[i].z, query[i].w);
    }
    for (int e = 0; e < 4; e++)
        c[e] = even[e] + odd[e];
}

/* Both halves of a pair of bf16 values. */
__device__ __forceinline__ float low_of(uint32_t pair)
{
    return lowp_from_bits(pair << 16);
}

__device__ __forceinline__ float high_of(uint32_t pair)
{
    return lowp_from_bits(pair & 0xffff0000u);
}

/* The head that four lanes hold, normed as head_norm does it: every step rounded to bf16, of which
 * products of two bf16 values are one instruction. The sum goes by columns of eight, then lanes. */
__device__ __forceinline__ void norm_query(uint4 query[ATTENTION_WIDTH / 32], float epsilon)
{
    float sums[8] = {};
#pragma unroll
    for (int i = 0; i < ATTENTION_WIDTH / 32; i++) {
        const uint32_t pairs[4] = {query[i].x, query[i].y, query[i].z, query[i].w};
#pragma unroll
        for (int p = 0; p < 4; p++) {
            uint32_t squares = multiply_bf16(pairs[p], pairs[p]);
            sums[2 * p] += low_of(squares);
            sums[2 * p + 1] += high_of(squares);
        }
    }
    float sum =
        ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
    sum += __shfl_xor_sync(WARP_ALL, sum, 1);
    sum += __shfl_xor_sync(WARP_ALL, sum, 2);
    float shifted = bf16_round(bf16_round(sum / (float)ATTENTION_WIDTH) + epsilon);
    float inverse = 1.0f / sqrtf(shifted);
    uint32_t both = pack_bf16(inverse, inverse);
#pragma unroll
    for (int i = 0; i < ATTENTION_WIDTH / 32; i++)
        query[i] = {multiply_bf16(query[i].x, both), multiply_bf16(query[i].y, both),
                    multiply_bf16(query[i].z, both), multiply_bf16(query[i].w, both)};
}

__device__ __forceinline__ uint32_t rotate_pair(struct rotation rotation, uint32_t pair)
{
    float x0 = low_of(pair);
    float x1 = high_of(pair);
    rotation_apply(rotation, false, true, &x0, &x1);
    return pack_bf16(x0, x1);
}

/* Its last channels rotated by the token's position. */
__device__ __forceinline__ void rotate_query(uint4 query[ATTENTION_WIDTH / 32],
                                             const struct rotation *rotations)
{
    const struct rotation *mine = rotations + (int)threadIdx.x % 4 * 4;
#pragma unroll
    for (int i = 0; i < ATTENTION_ROTARY / 32; i++) {
        uint4 *pairs = query + ATTENTION_PLAIN / 32 + i;
        *pairs = {rotate_pair(mine[16 * i], pairs->x), rotate_pair(mine[16 * i + 1], pairs->y),
                  rotate_pair(mine[16 * i + 2], pairs->z), rotate_pair(mine[16 * i + 3], pairs->w)};
    }
}

/* Grid (tiles in turn, tokens, blocks of 64 heads). */
static __global__ void __launch_bounds__(THREADS, 1) attention_score_kernel(struct attention work)
{
    launch_chain();
    __shared__ __align__(16) uint16_t decoded[ATTENTION_TILE * PITCH];
    __shared__ struct rotation rotations[ATTENTION_ROTARY / 2];
    const struct attention_args &args = work.args;
    int t = work.first_token + (int)blockIdx.y;
    int lane = (int)threadIdx.x % WARP_LANES;
    int head_first = (int)blockIdx.z * HEADS + (int)threadIdx.x / WARP_LANES * 8;
    struct rows_visible rows = rows_visible_make(args, ATTENTION_ROW_BYTES, t);
    int tiles = (rows.count + ATTENTION_TILE - 1) / ATTENTION_TILE;
    if ((int)blockIdx.x >= tiles) return;
    if (rows.count > work.capacity) __trap();

    /* The query of head 8 * warp + lane / 4: columns 32 i + 8 (lane % 4) .. + 7. */
    int head = min(head_first + lane / 4, args.heads - 1);
    const float *query = args.queries +
                         ((size_t)t * (size_t)args.heads + (size_t)head) * ATTENTION_WIDTH +
                         lane % 4 * 8;
    uint4 packed[ATTENTION_WIDTH / 32];
#pragma unroll
    for (int i = 0; i < ATTENTION_WIDTH / 32; i++) {
        float4 a = *reinterpret_cast<const float4 *>(query + i * 32);
        float4 b = *reinterpret_cast<const float4 *>(query + i * 32 + 4);
        packed[i] = {pack_bf16(a.x, a.y), pack_bf16(a.z, a.w), pack_bf16(b.x, b.y),
                     pack_bf16(b.z, b.w)};
    }
    struct row_part parts[TILE_PARTS];
    load_tile(rows, (int)blockIdx.x, parts);
    if (work.frequencies) {
        if (threadIdx.x < ATTENTION_ROTARY / 2)
            rotations[threadIdx.x] =
                rotation_of_angle((float)args.positions[t] * work.frequencies[threadIdx.x]);
        norm_query(packed, work.norm_epsilon);
        __syncthreads();
        rotate_query(packed, rotations);
    }
    for (int tile = (int)blockIdx.x; tile < tiles; tile += (int)gridDim.x) {
        float c[4];
        __syncthreads();
        decode_tile(parts, decoded);
        load_tile(rows, tile + (int)gridDim.x, parts); /* under way while this one is multiplied */
        __syncthreads();
        score_tile(decoded, packed, c);
#pragma unroll
        for (int e = 0; e < 2; e++) {
            int column = head_first + lane % 4 * 2 + e;
            int row = tile * ATTENTION_TILE + lane / 4;
            float upper = row < rows.count ? c[e] * args.scale : -INFINITY;
            float lower = row + 8 < rows.count ? c[e + 2] * args.scale : -INFINITY;
            float max = fmaxf(upper, lower);
#pragma unroll
            for (int offset = 4; offset < WARP_LANES; offset *= 2)
                max = fmaxf(max, __shfl_xor_sync(WARP_ALL, max, offset));
            if (column >= args.heads) continue;
            size_t place = (size_t)blockIdx.y * (size_t)args.heads + (size_t)column;
            float *scores = work.scores + place * (size_t)work.capacity;
            scores[row] = upper;
            scores[row + 8] = lower;
            if (lane / 4 == 0)
                work.maxima[place * (size_t)(work.capacity / ATTENTION_TILE) + tile] = max;
        }
    }
}

void attention_score(struct stream *stream, const struct attention *work)
{
    int32_t blocks = min_i32(work->capacity / ATTENTION_TILE,
                             ceil_div_i32(2 * stream->processors, work->tokens));
    SL_LAUNCH(
        stream, attention_score_kernel,
        dim3((unsigned)blocks, (unsigned)work->tokens, launch_blocks(work->args.heads, HEADS)),
        THREADS, 0, *work);
}
