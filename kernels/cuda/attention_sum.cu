/* Weighted rows of attention over native rows, from the scores; see attention.cu. */
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/numerics.cuh"
#include "kernels/cuda/rotation.cuh"

#define WARPS     8
#define THREADS   (WARPS * WARP_LANES)
#define CHANNELS  32 /* of a block that sums rows */
#define SUM_HEADS 16

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
    uint32_t codes[ATTENTION_GROUP_TILES][4], scales[ATTENTION_GROUP_TILES][4];

    __device__ __forceinline__ void load(int tile, int k, const uint8_t *row, int slice, int g)
    {
        codes[tile][k] = *reinterpret_cast<const uint32_t *>(row + slice * CHANNELS + g * 4);
        scales[tile][k] = row[ATTENTION_PLAIN + slice * CHANNELS / LOWP_KV_BLOCK];
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
    uint2 values[ATTENTION_GROUP_TILES][4];

    __device__ __forceinline__ void load(int tile, int k, const uint8_t *row, int slice, int g)
    {
        const uint2 *words = reinterpret_cast<const uint2 *>(
            row + ATTENTION_PLAIN + (slice - ATTENTION_PLAIN / CHANNELS) * CHANNELS * 2 + g * 8);
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
    for (int first = (int)threadIdx.x / WARP_LANES * ATTENTION_GROUP_TILES; first < tiles;
         first += WARPS * ATTENTION_GROUP_TILES) {
        const uint8_t *addresses[ATTENTION_GROUP_TILES][4];
        group_rows<PLAIN_SLICE> loaded;
        float corrections[2];
        float group[4][4] = {};
#pragma unroll
        for (int i = 0; i < ATTENTION_GROUP_TILES * 4; i++) {
            int row = (first + i / 4) * ATTENTION_TILE + 4 * j + i % 4;
            addresses[i / 4][i % 4] = rows_address(rows, min(row, rows.count - 1));
        }
#pragma unroll
        for (int i = 0; i < ATTENTION_GROUP_TILES * 4; i++)
            loaded.load(i / 4, i % 4, addresses[i / 4][i % 4], slice, g);
        raise_max(heads, min(first + ATTENTION_GROUP_TILES, tiles), corrections);
#pragma unroll
        for (int i = 0; i < ATTENTION_GROUP_TILES; i++) {
            uint32_t a[4], pairs[2][4];
            weigh(heads, (first + i) * ATTENTION_TILE + 4 * j, first + i < tiles, a);
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

/* The angles of the slice's pairs of channels, by a warp. */
__device__ __forceinline__ void find_rotations(const struct attention &work, int t, int slice,
                                               struct rotation *rotations)
{
    int pair = (int)threadIdx.x % WARP_LANES;
    int first = (slice * CHANNELS - ATTENTION_PLAIN) / 2;
    if (pair < CHANNELS / 2)
        rotations[pair] =
            rotation_of_angle((float)work.args.positions[t] * work.frequencies[first + pair]);
}

/* The lane's channel rotated back; its neighbour has the pair's other one. */
__device__ __forceinline__ float turn_back(const struct rotation *rotations, float value)
{
    int channel = (int)threadIdx.x % CHANNELS;
    float other = __shfl_xor_sync(WARP_ALL, value, 1);
    float x0 = channel % 2 ? other : value;
    float x1 = channel % 2 ? value : other;
    rotation_apply(rotations[channel / 2], true, true, &x0, &x1);
    return channel % 2 ? x1 : x0;
}

/* Grid (slices of 32 channels, blocks of 16 heads, tokens). */
static __global__ void __launch_bounds__(THREADS, 2) attention_sum_kernel(struct attention work)
{
    launch_chain();
    __shared__ float parts[WARPS][SUM_HEADS][CHANNELS];
    __shared__ float weights[WARPS][SUM_HEADS];
    __shared__ float maxima[SUM_HEADS];
    __shared__ struct rotation rotations[CHANNELS / 2];
    const struct attention_args &args = work.args;
    int t = work.first_token + (int)blockIdx.z;
    int slice = (int)blockIdx.x;
    int warp = (int)threadIdx.x / WARP_LANES;
    int g = (int)threadIdx.x % WARP_LANES / 4;
    int j = (int)threadIdx.x % 4;
    struct rows_visible rows = rows_visible_make(args, ATTENTION_ROW_BYTES, t);
    int tiles = (rows.count + ATTENTION_TILE - 1) / ATTENTION_TILE;
    struct heads_pair heads = {.max = {-INFINITY, -INFINITY}, .weight = {0.0f, 0.0f}, .tile = 0};
    float sums[4][4] = {};
    float corrections[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int head = min((int)blockIdx.y * SUM_HEADS + g + 8 * i, args.heads - 1);
        size_t place = (size_t)blockIdx.z * (size_t)args.heads + (size_t)head;
        heads.scores[i] = work.scores + place * (size_t)work.capacity;
        heads.maxima[i] = work.maxima + place * (size_t)(work.capacity / ATTENTION_TILE);
    }
    bool turns = work.frequencies && slice >= ATTENTION_PLAIN / CHANNELS;
    if (turns && warp == WARPS - 1) /* the last to have rows */
        find_rotations(work, t, slice, rotations);
    if (slice < ATTENTION_PLAIN / CHANNELS)
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
        size_t place = ((size_t)t * (size_t)args.heads + (size_t)head) * ATTENTION_WIDTH;
        float value = rows.count > 0 ? bf16_round(sum / total) : 0.0f;
        if (turns) value = turn_back(rotations, value); /* a warp has one head's channels */
        args.out[place + (size_t)(slice * CHANNELS + i % CHANNELS)] = value;
    }
}

void attention_sum(struct stream *stream, const struct attention *work)
{
    SL_LAUNCH(stream, attention_sum_kernel,
              dim3(ATTENTION_WIDTH / CHANNELS, launch_blocks(work->args.heads, SUM_HEADS),
                   (unsigned)work->tokens),
              THREADS, 0, *work);
}
