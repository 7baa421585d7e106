/* Attention over the window and compressed rows in their native form, 64 heads on one row.
 *
 * Two launches. The first makes the scores: a block decodes 16 rows at a time to bf16 in shared
 * memory, once for 64 heads, and multiplies them on the tensor cores with queries kept in
 * registers. The second sums the weighted rows: a block takes 16 heads and 32 channels of all rows,
 * its warps take groups of 64 rows in turn, and the warps' sums are added in order. Rows are split
 * over blocks in the first, channels in the second, so that neither needs the other blocks'
 * results, and the running maximum against which weights are rounded is the twin's: that of the
 * row's group of 64 and all before.
 *
 * Products are exact (both factors are bf16 values), sums f32. Against the twin: where a score
 * moves a weight over a rounding boundary, 1e-3 of the largest element, and a bf16 step of the
 * result. Other formats than 448 e4m3 and 64 bf16 channels, and plain f32 numerics, take
 * attention_plain. */
#include "kernels/cuda/attention_plain.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/numerics.cuh"
#include "kernels/cuda/rows.cuh"

#define WARPS         8
#define THREADS       (WARPS * WARP_LANES)
#define WIDTH         512
#define PLAIN         448
#define ROW_BYTES     584
#define SLICE_BYTE    455          /* where a row's bf16 channels begin */
#define TILE          16           /* rows of a product */
#define GROUP_TILES   4            /* 64 rows, as the published program takes them */
#define HEADS         (WARPS * 8)  /* of a block that makes scores */
#define PITCH         (WIDTH + 32) /* elements from row to row: lanes of two rows in turn */
#define CHANNELS      32           /* of a block that sums rows */
#define SUM_HEADS     16
#define POSITIONS_MAX (1 << 20) /* scratch is planned for so long a context */

struct attention {
    struct attention_args args;
    float *scores;    /* [tokens, heads, capacity], scaled; -inf beyond the last row of a tile */
    float *maxima;    /* [tokens, heads, capacity / TILE] of each tile */
    int32_t capacity; /* rows, whole groups */
    int32_t first_token;
};

/* Eight channels from 8 * part on as bf16; parts 56 .. 63 are the slice stored so. */
__device__ __forceinline__ uint4 decode_part(const uint8_t *row, int part)
{
    if (part >= PLAIN / 8) {
        const uint2 *words = reinterpret_cast<const uint2 *>(row + PLAIN + (part - PLAIN / 8) * 16);
        uint2 a = words[0];
        uint2 b = words[1];
        uint2 c = words[2];
        static_assert(SLICE_BYTE % 8 == 7, "the slice begins with the last byte of a word");
        return {__funnelshift_r(a.y, b.x, 24), __funnelshift_r(b.x, b.y, 24),
                __funnelshift_r(b.y, c.x, 24), __funnelshift_r(c.x, c.y, 24)};
    }
    uint2 codes = *reinterpret_cast<const uint2 *>(row + part * 8);
    float scale = e8m0_decode(row[PLAIN + part / 8]);
    uint32_t pairs[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t two = (i < 2 ? codes.x : codes.y) >> (i % 2 * 16);
        pairs[i] = pack_bf16(rows_e4m3(two & 0xff) * scale, rows_e4m3(two >> 8 & 0xff) * scale);
    }
    return {pairs[0], pairs[1], pairs[2], pairs[3]};
}

/* 16 rows into shared memory [TILE, PITCH]; the last row again where there are fewer. */
__device__ __forceinline__ void decode_tile(const struct rows_visible &rows, int tile,
                                            uint16_t *decoded)
{
#pragma unroll
    for (int i = 0; i < TILE * WIDTH / 8 / THREADS; i++) {
        int item = i * THREADS + (int)threadIdx.x;
        int part = item % (WIDTH / 8);
        int k = item / (WIDTH / 8);
        int row = min(tile * TILE + k, rows.count - 1);
        *reinterpret_cast<uint4 *>(decoded + k * PITCH + part * 8) =
            decode_part(rows_address(rows, row), part);
    }
}

/* Scores of one tile for the warp's eight heads; c as in mma.cuh, rows by heads. */
__device__ __forceinline__ void score_tile(const uint16_t *decoded, const uint4 query[WIDTH / 32],
                                           float c[4])
{
    int lane = (int)threadIdx.x % WARP_LANES;
    const uint16_t *upper = decoded + lane / 4 * PITCH + lane % 4 * 8;
    const uint16_t *lower = upper + 8 * PITCH;
    float even[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    float odd[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < WIDTH / 32; i++) {
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

/* Grid (tiles in turn, tokens, blocks of 64 heads). */
static __global__ void __launch_bounds__(THREADS, 1) attention_score_kernel(struct attention work)
{
    __shared__ __align__(16) uint16_t decoded[TILE * PITCH];
    const struct attention_args &args = work.args;
    int t = work.first_token + (int)blockIdx.y;
    int lane = (int)threadIdx.x % WARP_LANES;
    int head_first = (int)blockIdx.z * HEADS + (int)threadIdx.x / WARP_LANES * 8;
    struct rows_visible rows = rows_visible_make(args, ROW_BYTES, t);
    int tiles = (rows.count + TILE - 1) / TILE;
    if ((int)blockIdx.x >= tiles) return;
    if (rows.count > work.capacity) __trap();

    /* The query of head 8 * warp + lane / 4: columns 32 i + 8 (lane % 4) .. + 7. */
    int head = min(head_first + lane / 4, args.heads - 1);
    const float *query =
        args.queries + ((size_t)t * (size_t)args.heads + (size_t)head) * WIDTH + lane % 4 * 8;
    uint4 packed[WIDTH / 32];
#pragma unroll
    for (int i = 0; i < WIDTH / 32; i++) {
        float4 a = *reinterpret_cast<const float4 *>(query + i * 32);
        float4 b = *reinterpret_cast<const float4 *>(query + i * 32 + 4);
        packed[i] = {pack_bf16(a.x, a.y), pack_bf16(a.z, a.w), pack_bf16(b.x, b.y),
                     pack_bf16(b.z, b.w)};
    }
    for (int tile = (int)blockIdx.x; tile < tiles; tile += (int)gridDim.x) {
        float c[4];
        __syncthreads();
        decode_tile(rows, tile, decoded);
        __syncthreads();
        score_tile(decoded, packed, c);
#pragma unroll
        for (int e = 0; e < 2; e++) {
            int column = head_first + lane % 4 * 2 + e;
            int row = tile * TILE + lane / 4;
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
            if (lane / 4 == 0) work.maxima[place * (size_t)(work.capacity / TILE) + tile] = max;
        }
    }
}

/* The running state of a lane's two heads, lane / 4 and lane / 4 + 8 of the block's. */
struct heads_pair {
    const float *scores[2], *maxima[2];
    float max[2];    /* of the tiles before `tile` */
    float weight[2]; /* this lane's share of the sum of weights, not rounded */
    int tile;
};

/* Raises the maxima by the tiles before `end`, equally in all lanes of a head; corrections[i] is
 * what sums under the old maximum must be multiplied by. */
__device__ __forceinline__ void raise_max(struct heads_pair *heads, int end, float corrections[2])
{
    int j = (int)threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float max = heads->max[i];
        for (int tile = heads->tile + j; tile < end; tile += 4)
            max = fmaxf(max, heads->maxima[i][tile]);
        max = fmaxf(max, __shfl_xor_sync(WARP_ALL, max, 1));
        max = fmaxf(max, __shfl_xor_sync(WARP_ALL, max, 2));
        corrections[i] = heads->max[i] == max ? 1.0f : expf(heads->max[i] - max);
        heads->max[i] = max;
        heads->weight[i] *= corrections[i];
    }
    heads->tile = max(heads->tile, end);
}

/* Weights of four rows for the two heads as an operand: rows are the sum's index. Nothing has been
 * written where a row is not `there`. */
__device__ __forceinline__ void weigh(struct heads_pair *heads, int row, bool there, uint32_t a[4])
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float4 scores = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
        if (there) scores = *reinterpret_cast<const float4 *>(heads->scores[i] + row);
        float w0 = expf(scores.x - heads->max[i]);
        float w1 = expf(scores.y - heads->max[i]);
        float w2 = expf(scores.z - heads->max[i]);
        float w3 = expf(scores.w - heads->max[i]);
        heads->weight[i] += (w0 + w1) + (w2 + w3);
        a[i] = pack_bf16(w0, w1);
        a[i + 2] = pack_bf16(w2, w3);
    }
}

/* Four e4m3 codes of two rows as pairs of bf16, times the rows' scales; a code's bits in a bf16 are
 * 2^-120 of it, and both multiplications are exact. */
__device__ __forceinline__ void expand_pairs(uint32_t first, uint32_t second, uint32_t scales,
                                             uint32_t pairs[4])
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t bytes = __byte_perm(first, second, 0x4000u + 0x1000u * i + 0x10u * i);
        uint32_t tiny = (bytes & 0x80008000u) | (bytes >> 4 & 0x07f007f0u);
        pairs[i] = multiply_bf16(multiply_bf16(tiny, 0x7b807b80u), scales);
    }
}

/* A lane's part of a group of rows: channels 32 * slice + 4 * (lane / 4) .. + 3 of rows 4j .. 4j +
 * 3 of each tile, as they are stored. All of it is loaded before anything is used, since a few
 * warps must hide the memory's latency. */
template <bool PLAIN_SLICE> struct group_rows;

template <> struct group_rows<true> {
    uint32_t codes[GROUP_TILES][4], scales[GROUP_TILES][4];

    __device__ __forceinline__ void load(int tile, int k, const uint8_t *row, int slice, int g)
    {
        codes[tile][k] = *reinterpret_cast<const uint32_t *>(row + slice * CHANNELS + g * 4);
        scales[tile][k] = row[PLAIN + slice * CHANNELS / LOWP_KV_BLOCK];
    }

    /* Rows 2 half and 2 half + 1 of a tile as pairs, a channel each. */
    __device__ __forceinline__ void expand(int tile, int half, uint32_t pairs[4]) const
    {
        const uint32_t *two = scales[tile] + 2 * half;
        expand_pairs(codes[tile][2 * half], codes[tile][2 * half + 1], two[0] << 7 | two[1] << 23,
                     pairs);
    }
};

template <> struct group_rows<false> {
    uint2 values[GROUP_TILES][4];

    __device__ __forceinline__ void load(int tile, int k, const uint8_t *row, int slice, int g)
    {
        const uint2 *words = reinterpret_cast<const uint2 *>(
            row + PLAIN + (slice - PLAIN / CHANNELS) * CHANNELS * 2 + g * 8);
        uint2 a = words[0];
        uint2 b = words[1];
        values[tile][k] = {__funnelshift_r(a.y, b.x, 24), __funnelshift_r(b.x, b.y, 24)};
    }

    __device__ __forceinline__ void expand(int tile, int half, uint32_t pairs[4]) const
    {
        const uint2 &a = values[tile][2 * half];
        const uint2 &b = values[tile][2 * half + 1];
        pairs[0] = __byte_perm(a.x, b.x, 0x5410);
        pairs[1] = __byte_perm(a.x, b.x, 0x7632);
        pairs[2] = __byte_perm(a.y, b.y, 0x5410);
        pairs[3] = __byte_perm(a.y, b.y, 0x7632);
    }
};

/* Adds the warp's groups of rows to sums[c]: heads by channels 4 n + c (n: the product's column).
 */
template <bool PLAIN_SLICE>
__device__ __forceinline__ void sum_groups(const struct rows_visible &rows, int slice, int tiles,
                                           struct heads_pair *heads, float sums[4][4])
{
    int g = (int)threadIdx.x % WARP_LANES / 4;
    int j = (int)threadIdx.x % 4;
    for (int first = (int)threadIdx.x / WARP_LANES * GROUP_TILES; first < tiles;
         first += WARPS * GROUP_TILES) {
        const uint8_t *addresses[GROUP_TILES][4];
        group_rows<PLAIN_SLICE> loaded;
        float corrections[2];
        float group[4][4] = {};
#pragma unroll
        for (int i = 0; i < GROUP_TILES * 4; i++) {
            int row = (first + i / 4) * TILE + 4 * j + i % 4;
            addresses[i / 4][i % 4] = rows_address(rows, min(row, rows.count - 1));
        }
#pragma unroll
        for (int i = 0; i < GROUP_TILES * 4; i++)
            loaded.load(i / 4, i % 4, addresses[i / 4][i % 4], slice, g);
        raise_max(heads, min(first + GROUP_TILES, tiles), corrections);
#pragma unroll
        for (int i = 0; i < GROUP_TILES; i++) {
            uint32_t a[4], pairs[2][4];
            weigh(heads, (first + i) * TILE + 4 * j, first + i < tiles, a);
            loaded.expand(i, 0, pairs[0]);
            loaded.expand(i, 1, pairs[1]);
#pragma unroll
            for (int c = 0; c < 4; c++)
                mma_bf16(group[c], a, pairs[0][c], pairs[1][c]);
        }
#pragma unroll
        for (int c = 0; c < 4; c++)
            for (int e = 0; e < 4; e++)
                sums[c][e] = fmaf(sums[c][e], corrections[e / 2], group[c][e]);
    }
}

/* Grid (slices of 32 channels, blocks of 16 heads, tokens). */
static __global__ void __launch_bounds__(THREADS, 2) attention_sum_kernel(struct attention work)
{
    __shared__ float parts[WARPS][SUM_HEADS][CHANNELS];
    __shared__ float weights[WARPS][SUM_HEADS];
    __shared__ float maxima[SUM_HEADS];
    const struct attention_args &args = work.args;
    int t = work.first_token + (int)blockIdx.z;
    int slice = (int)blockIdx.x;
    int warp = (int)threadIdx.x / WARP_LANES;
    int g = (int)threadIdx.x % WARP_LANES / 4;
    int j = (int)threadIdx.x % 4;
    struct rows_visible rows = rows_visible_make(args, ROW_BYTES, t);
    int tiles = (rows.count + TILE - 1) / TILE;
    struct heads_pair heads = {.max = {-INFINITY, -INFINITY}, .weight = {0.0f, 0.0f}, .tile = 0};
    float sums[4][4] = {};
    float corrections[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int head = min((int)blockIdx.y * SUM_HEADS + g + 8 * i, args.heads - 1);
        size_t place = (size_t)blockIdx.z * (size_t)args.heads + (size_t)head;
        heads.scores[i] = work.scores + place * (size_t)work.capacity;
        heads.maxima[i] = work.maxima + place * (size_t)(work.capacity / TILE);
    }
    if (slice < PLAIN / CHANNELS)
        sum_groups<true>(rows, slice, tiles, &heads, sums);
    else
        sum_groups<false>(rows, slice, tiles, &heads, sums);
    raise_max(&heads, tiles, corrections);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float weight = heads.weight[i];
        weight += __shfl_xor_sync(WARP_ALL, weight, 1);
        weight += __shfl_xor_sync(WARP_ALL, weight, 2);
        if (j == 0) weights[warp][g + 8 * i] = weight;
        if (j == 0 && warp == 0) maxima[g + 8 * i] = heads.max[i];
#pragma unroll
        for (int c = 0; c < 4; c++)
            for (int e = 0; e < 2; e++)
                parts[warp][g + 8 * i][4 * (2 * j + e) + c] = sums[c][2 * i + e] * corrections[i];
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < SUM_HEADS * CHANNELS; i += THREADS) {
        int row = i / CHANNELS;
        int head = (int)blockIdx.y * SUM_HEADS + row;
        if (head >= args.heads) break;
        float sum = 0.0f;
        float total = 0.0f;
        for (int w = 0; w < WARPS; w++) {
            sum += parts[w][row][i % CHANNELS];
            total += weights[w][row];
        }
        total += expf(args.sink[head] - maxima[row]);
        size_t place = ((size_t)t * (size_t)args.heads + (size_t)head) * WIDTH;
        args.out[place + (size_t)(slice * CHANNELS + i % CHANNELS)] =
            rows.count > 0 ? bf16_round(sum / total) : 0.0f;
    }
}

/* Rows that a token may see, in whole groups. */
static int64_t rows_max(const struct attention_args *args)
{
    int64_t rows = args->window;
    if (args->ratio > 0) rows += args->selected ? args->top : POSITIONS_MAX / args->ratio;
    return (int64_t)align_up((uint64_t)rows, TILE * GROUP_TILES);
}

extern "C" void cuda_attention(struct stream *stream, const struct attention_args *args)
{
    const struct row_format *format = &args->format;
    SL_ASSERT(rows_supported(format) && format->plain + format->rotary == args->width);
    SL_ASSERT(args->heads >= 1 && args->ratio >= 0);
    SL_ASSERT(args->window >= 0 && args->window <= args->window_capacity);
    SL_ASSERT(args->ratio == 0 || args->rows != NULL);
    struct attention work = {.args = *args, .capacity = (int32_t)rows_max(args)};
    size_t token_floats = (size_t)args->heads * (size_t)(work.capacity + work.capacity / TILE);
    int32_t together = (int32_t)(CUDA_SCRATCH_BYTES / sizeof(float) / (token_floats + 1));
    if (!args->round || format->encoding != ROW_KV || format->plain != PLAIN ||
        args->width != WIDTH || together == 0) {
        attention_plain(stream, args);
        return;
    }
    work.scores = reinterpret_cast<float *>(stream->scratch);
    for (int32_t first = 0; first < args->tokens; first += together) {
        int32_t tokens = min_i32(together, args->tokens - first);
        int32_t blocks =
            min_i32(work.capacity / TILE, ceil_div_i32(2 * stream->processors, tokens));
        work.first_token = first;
        work.maxima = work.scores + (size_t)tokens * (size_t)args->heads * (size_t)work.capacity;
        SL_LAUNCH(stream, attention_score_kernel,
                  dim3((unsigned)blocks, (unsigned)tokens, launch_blocks(args->heads, HEADS)),
                  THREADS, 0, work);
        SL_LAUNCH(stream, attention_sum_kernel,
                  dim3(WIDTH / CHANNELS, launch_blocks(args->heads, SUM_HEADS), (unsigned)tokens),
                  THREADS, 0, work);
    }
}
