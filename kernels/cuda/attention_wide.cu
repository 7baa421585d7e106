/* Attention over native rows in passes of more than 16 tokens: a block is one token with 64 heads.
 *
 * Rows go in the twin's groups of 64. A group is decoded once, to bf16 in shared memory, and is
 * both factors: scores are queries [64, 512] times its rows, sums are weights [64, 64] times the
 * same rows. The 64 x 512 sums are half of a multiprocessor's registers, so a block keeps one token
 * only: two tokens that see the same rows cannot share a decoded group, they share the second-level
 * cache. Decoding is 3 operations a value, a fifth of what the products of a group issue.
 *
 * Warps take 32 heads x 32 rows x half of the channels of the scores, whose halves are added in
 * shared memory, then 64 heads x 64 channels of the sums. Half of the next group's rows travel
 * while sums are made; the other half while the first is decoded.
 *
 * Numbers are those of attention.cu but for the order of sums: products of bf16 values, f32 sums,
 * the running maximum of the twin's groups, weights rounded to bf16 for the product alone. The same
 * limit holds, against the twin and against the kernels of few tokens. No scratch memory, so any
 * number of rows. */
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/matrix_load.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/numerics.cuh"

#define WARPS        8
#define THREADS      (WARPS * WARP_LANES)
#define HEADS        64
#define GROUP        (ATTENTION_TILE * ATTENTION_GROUP_TILES)
#define ROW_PITCH    (ATTENTION_WIDTH + 8) /* of queries and decoded rows; see matrix_load.cuh */
#define WEIGHT_PITCH (GROUP + 8)
#define SCORE_PITCH  (GROUP + 8)
#define WARP_ROWS    (GROUP / WARPS) /* that a warp decodes */
#define LOADED       (WARP_ROWS / 2) /* of them under way at once */
#define CHANNELS     (ATTENTION_WIDTH / WARPS)
#define SCALE_BYTE   ATTENTION_PLAIN
#define SLICE_WORD   452 /* of the bf16 channels; they begin with its last byte */

struct wide_shared {
    uint16_t queries[HEADS][ROW_PITCH];
    uint16_t rows[GROUP][ROW_PITCH];
    uint16_t weights[HEADS][WEIGHT_PITCH];
    float scores[HEADS][SCORE_PITCH];
    float corrections[HEADS]; /* of the sums so far; at the end what they are multiplied by */
};

/* A lane's share of a row as it is stored: 8 codes of each half and their scales, a pair of the
 * bf16 slice. Lanes without codes in the second half hold bytes that nobody uses. */
struct row_share {
    uint2 low, high;
    uint32_t low_scale, high_scale;
    uint32_t slice[2];
};

__device__ __forceinline__ struct row_share load_share(const uint8_t *row)
{
    int lane = (int)threadIdx.x % WARP_LANES;
    const uint8_t *scales = row + SCALE_BYTE + lane * 8 / LOWP_KV_BLOCK;
    const uint32_t *slice = reinterpret_cast<const uint32_t *>(row + SLICE_WORD) + lane;
    struct row_share share;
    share.low = *reinterpret_cast<const uint2 *>(row + lane * 8);
    share.high = *reinterpret_cast<const uint2 *>(row + (WARP_LANES + lane) * 8);
    share.low_scale = scales[0];
    share.high_scale = scales[WARP_LANES * 8 / LOWP_KV_BLOCK];
    share.slice[0] = slice[0];
    share.slice[1] = slice[1];
    return share;
}

/* Shares of LOADED rows from `first` on; of the last row again where there are fewer. */
__device__ __forceinline__ void load_shares(const struct rows_visible &rows, int first,
                                            struct row_share shares[LOADED])
{
#pragma unroll
    for (int i = 0; i < LOADED; i++)
        shares[i] = load_share(rows_address(rows, min(first + i, rows.count - 1)));
}

/* Eight codes as bf16 times their scale, both steps exact. */
__device__ __forceinline__ uint4 decode_codes(uint2 codes, uint32_t scale)
{
    uint32_t factor = scale << 7 | scale << 23;
    uint32_t pairs[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t bytes = __byte_perm(i < 2 ? codes.x : codes.y, 0, i % 2 ? 0x3424 : 0x1404);
        uint32_t tiny = (bytes & 0x80008000u) | (bytes >> 4 & 0x07f007f0u); /* 2^-120 of it */
        pairs[i] = multiply_bf16(multiply_bf16(tiny, 0x7b807b80u), factor);
    }
    return {pairs[0], pairs[1], pairs[2], pairs[3]};
}

__device__ __forceinline__ void decode_shares(const struct row_share shares[LOADED],
                                              uint16_t (*rows)[ROW_PITCH])
{
    static_assert(SLICE_WORD + 3 == ATTENTION_PLAIN + ATTENTION_PLAIN / LOWP_KV_BLOCK, "the slice");
    int lane = (int)threadIdx.x % WARP_LANES;
#pragma unroll
    for (int i = 0; i < LOADED; i++) {
        const struct row_share &share = shares[i];
        *reinterpret_cast<uint4 *>(rows[i] + lane * 8) = decode_codes(share.low, share.low_scale);
        if (lane < ATTENTION_PLAIN / 8 - WARP_LANES)
            *reinterpret_cast<uint4 *>(rows[i] + (WARP_LANES + lane) * 8) =
                decode_codes(share.high, share.high_scale);
        *reinterpret_cast<uint32_t *>(rows[i] + ATTENTION_PLAIN + lane * 2) =
            __funnelshift_r(share.slice[0], share.slice[1], 24);
    }
}

/* The token's queries of the block's heads, bf16 values packed; heads beyond are zero. */
__device__ __forceinline__ void load_queries(const struct attention_args &args, int t,
                                             int head_first, uint16_t (*queries)[ROW_PITCH])
{
    const float *source = args.queries + ((size_t)t * (size_t)args.heads + (size_t)head_first) *
                                             (size_t)ATTENTION_WIDTH;
#pragma unroll 4
    for (int i = (int)threadIdx.x; i < HEADS * ATTENTION_WIDTH / 4; i += THREADS) {
        int head = i / (ATTENTION_WIDTH / 4);
        float4 x = {};
        if (head_first + head < args.heads) x = reinterpret_cast<const float4 *>(source)[i];
        *reinterpret_cast<uint2 *>(queries[head] + i % (ATTENTION_WIDTH / 4) * 4) = {
            pack_bf16(x.x, x.y), pack_bf16(x.z, x.w)};
    }
}

/* Scores of a group, not yet scaled, in shared->scores; ends with a barrier. */
__device__ __forceinline__ void score_group(struct wide_shared *shared)
{
    int lane = (int)threadIdx.x % WARP_LANES;
    int warp = (int)threadIdx.x / WARP_LANES;
    int head = warp % 2 * 32;
    int row = warp / 2 % 2 * 32;
    int half = warp / 4; /* of the channels */
    const uint16_t *query = &shared->queries[head + lane % 16][half * 256 + lane / 16 * 8];
    const uint16_t *key =
        &shared->rows[row + lane / 16 * 8 + lane % 8][half * 256 + lane / 8 % 2 * 8];
    float c[2][4][4] = {};
#pragma unroll 4
    for (int k = 0; k < ATTENTION_WIDTH / 2; k += 16) {
        uint32_t a[2][4], b[2][4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            matrix_load(a[i], query + i * 16 * ROW_PITCH + k);
            matrix_load(b[i], key + i * 16 * ROW_PITCH + k);
        }
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int n = 0; n < 4; n++)
                mma_bf16(c[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
    }
#pragma unroll
    for (int turn = 1; turn >= 0; turn--) {
        if (half == turn) {
#pragma unroll
            for (int i = 0; i < 16; i++) {
                int m = i / 8, n = i / 2 % 4, lower = i % 2;
                float2 *place =
                    reinterpret_cast<float2 *>(&shared->scores[head + m * 16 + lower * 8 + lane / 4]
                                                              [row + n * 8 + lane % 4 * 2]);
                float2 own = {c[m][n][2 * lower], c[m][n][2 * lower + 1]};
                if (turn == 0) own = {own.x + place->x, own.y + place->y};
                *place = own;
            }
        }
        __syncthreads();
    }
}

/* Of a thread's head, which four neighbouring lanes share. */
struct head_state {
    float max;
    float weight; /* this lane's share of the sum of weights, not rounded */
};

/* Scores to weights; `count` rows of the group are there. True in all threads if sums must be
 * corrected; ends with a barrier. */
__device__ __forceinline__ bool weigh_group(struct wide_shared *shared, int count, float scale,
                                            struct head_state *head)
{
    int row = (int)threadIdx.x % 4 * 4;
    int place = (int)threadIdx.x / 4;
    float scores[4][4];
    float max = head->max;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float4 four = *reinterpret_cast<const float4 *>(&shared->scores[place][row + 16 * i]);
        const float read[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int k = 0; k < 4; k++) {
            scores[i][k] = row + 16 * i + k < count ? read[k] * scale : -INFINITY;
            max = fmaxf(max, scores[i][k]);
        }
    }
    max = fmaxf(max, __shfl_xor_sync(WARP_ALL, max, 1));
    max = fmaxf(max, __shfl_xor_sync(WARP_ALL, max, 2));
    float correction = head->max == max ? 1.0f : expf(head->max - max);
    float weight = 0.0f;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float w[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            w[k] = expf(scores[i][k] - max);
            weight += w[k];
        }
        uint2 packed = {pack_bf16(w[0], w[1]), pack_bf16(w[2], w[3])};
        uint16_t *weights = shared->weights[place] + row + 16 * i;
        *reinterpret_cast<uint2 *>(weights) = packed;
    }
    head->max = max;
    head->weight = head->weight * correction + weight;
    if (threadIdx.x % 4 == 0) shared->corrections[place] = correction;
    return __syncthreads_or(correction != 1.0f) != 0;
}

/* sums[m][n] times their heads' factors. */
__device__ __forceinline__ void scale_sums(const struct wide_shared *shared, float sums[4][8][4])
{
    int g = (int)threadIdx.x % WARP_LANES / 4;
#pragma unroll
    for (int m = 0; m < 4; m++) {
        float upper = shared->corrections[m * 16 + g];
        float lower = shared->corrections[m * 16 + 8 + g];
#pragma unroll
        for (int n = 0; n < 8; n++)
            for (int e = 0; e < 4; e++)
                sums[m][n][e] *= e < 2 ? upper : lower;
    }
}

/* Adds weights times rows: 64 heads by the warp's 64 channels. */
__device__ __forceinline__ void sum_group(const struct wide_shared *shared, float sums[4][8][4])
{
    int lane = (int)threadIdx.x % WARP_LANES;
    int channel = (int)threadIdx.x / WARP_LANES * CHANNELS;
    const uint16_t *weight = &shared->weights[lane % 16][lane / 16 * 8];
    const uint16_t *value = &shared->rows[lane % 16][channel + lane / 16 * 8];
#pragma unroll 2 /* all four turns together would spill a word on sm_90a */
    for (int k = 0; k < GROUP; k += 16) {
        uint32_t a[4][4];
#pragma unroll
        for (int m = 0; m < 4; m++)
            matrix_load(a[m], weight + m * 16 * WEIGHT_PITCH + k);
#pragma unroll
        for (int n = 0; n < 8; n += 2) {
            uint32_t b[4];
            matrix_load_transposed(b, value + k * ROW_PITCH + n * 8);
#pragma unroll
            for (int m = 0; m < 4; m++) {
                mma_bf16(sums[m][n], a[m], b[0], b[1]);
                mma_bf16(sums[m][n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

/* The sums times 1 / their heads' totals, in shared->corrections. */
__device__ __forceinline__ void write_sums(const struct attention_args &args,
                                           const struct wide_shared *shared, int t, int head_first,
                                           float sums[4][8][4])
{
    int lane = (int)threadIdx.x % WARP_LANES;
    int channel = (int)threadIdx.x / WARP_LANES * CHANNELS + lane % 4 * 2;
    scale_sums(shared, sums);
#pragma unroll
    for (int m = 0; m < 8; m++) {
        int head = head_first + m * 8 + lane / 4;
        if (head >= args.heads) continue;
        float *out =
            args.out + ((size_t)t * (size_t)args.heads + (size_t)head) * ATTENTION_WIDTH + channel;
#pragma unroll
        for (int n = 0; n < 8; n++) {
            const float *two = sums[m / 2][n] + m % 2 * 2;
            *reinterpret_cast<float2 *>(out + n * 8) = {bf16_round(two[0]), bf16_round(two[1])};
        }
    }
}

/* Grid (tokens, blocks of 64 heads). */
static __global__ void __launch_bounds__(THREADS, 1)
    attention_wide_kernel(struct attention_args args)
{
    launch_chain();
    SL_SHARED(struct wide_shared, shared);
    int t = (int)blockIdx.x;
    int head_first = (int)blockIdx.y * HEADS;
    int warp_row = (int)threadIdx.x / WARP_LANES * WARP_ROWS;
    struct rows_visible rows = rows_visible_make(args, ATTENTION_ROW_BYTES, t);
    struct head_state head = {-INFINITY, 0.0f};
    struct row_share ahead[LOADED];
    float sums[4][8][4] = {};
    if (rows.count > 0) load_shares(rows, warp_row, ahead);
    load_queries(args, t, head_first, shared->queries);
    for (int first = 0; first < rows.count; first += GROUP) {
        struct row_share rest[LOADED];
        load_shares(rows, first + warp_row + LOADED, rest);
        decode_shares(ahead, shared->rows + warp_row);
        decode_shares(rest, shared->rows + warp_row + LOADED);
        __syncthreads();
        score_group(shared);
        bool corrects = weigh_group(shared, rows.count - first, args.scale, &head);
        if (first + GROUP < rows.count) load_shares(rows, first + GROUP + warp_row, ahead);
        if (corrects) scale_sums(shared, sums);
        sum_group(shared, sums);
        __syncthreads();
    }
    float weight = head.weight;
    weight += __shfl_xor_sync(WARP_ALL, weight, 1);
    weight += __shfl_xor_sync(WARP_ALL, weight, 2);
    int own = head_first + (int)threadIdx.x / 4;
    float total = weight + expf(args.sink[min(own, args.heads - 1)] - head.max);
    if (threadIdx.x % 4 == 0)
        shared->corrections[threadIdx.x / 4] = rows.count > 0 ? 1.0f / total : 0.0f;
    __syncthreads();
    write_sums(args, shared, t, head_first, sums);
}

bool attention_wide(struct stream *stream, const struct attention_args *args)
{
    size_t bytes = sizeof(struct wide_shared);
    if (args->tokens < ATTENTION_WIDE_TOKENS || bytes > (size_t)stream->shared_bytes_max)
        return false;
    SL_ALLOW_SHARED(stream, attention_wide_kernel, bytes);
    SL_LAUNCH(stream, attention_wide_kernel,
              dim3((unsigned)args->tokens, launch_blocks(args->heads, HEADS)), THREADS, bytes,
              *args);
    return true;
}
