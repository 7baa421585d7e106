/* A block of kv_compress; see kv_compress.cu. For its kernel and for fused launches. */
#ifndef SLUICE_KERNELS_CUDA_KV_COMPRESS_CUH
#define SLUICE_KERNELS_CUDA_KV_COMPRESS_CUH

#include "kernels/cuda/hadamard.cuh"
#include "kernels/cuda/rotation.cuh"
#include "kernels/cuda/rows_encode.cuh"

#include <math.h>

#define COMPRESS_CHANNELS 64
#define COMPRESS_PARTS    4 /* threads that share the tokens of a channel's group */
#define COMPRESS_THREADS  (COMPRESS_CHANNELS * COMPRESS_PARTS)
#define COMPRESS_ROWS_MAX 8 /* beyond, groups are pooled side by side */

struct compress {
    struct kv_compress_args args;
    float *pooled;     /* [rows of the call, width] */
    uint32_t *tickets; /* [rows of the call], zero before and after */
    int32_t row_bytes, halves;
    float rotation_scale;
    bool remembers; /* in the same launch */
};

/* Keys of a token's column, or its gates with ape: from the call, or from the state. */
struct compress_source {
    const float *key, *gate, *ape; /* ape NULL: in the gate already */
};

__device__ __forceinline__ struct compress_source compress_source_of(const struct compress &work,
                                                                     int position, int column)
{
    const struct kv_compress_args &args = work.args;
    size_t columns = (size_t)work.halves * (size_t)args.width;
    int t = position - args.positions[0];
    if (t >= 0) {
        size_t place = (size_t)t * columns + (size_t)column;
        return {args.keys + place, args.gates + place,
                args.ape + (size_t)(position % args.ratio) * columns + column};
    }
    const float *slot =
        args.state + (size_t)(position % args.state_capacity) * 2 * columns + (size_t)column;
    return {slot, slot + columns, NULL};
}

__device__ __forceinline__ float compress_gate_of(const struct compress_source &source)
{
    return source.ape ? *source.gate + *source.ape : *source.gate;
}

/* Participant i of group `row`: the previous group's tokens by the first half of the columns, if
 * there is one, then the group's own. */
__device__ __forceinline__ struct compress_source compress_participant(const struct compress &work,
                                                                       int row, int before, int i,
                                                                       int channel)
{
    const struct kv_compress_args &args = work.args;
    int position = row * args.ratio - before + i;
    int column = i >= before && args.overlap ? args.width + channel : channel;
    return compress_source_of(work, position, column);
}

/* The pooled value of a channel; all threads of the block call, and those of part 0 return it. */
__device__ __forceinline__ float compress_pool(const struct compress &work, int row, int channel,
                                               int part, float (*parts)[COMPRESS_CHANNELS])
{
    const struct kv_compress_args &args = work.args;
    int lane = (int)threadIdx.x % COMPRESS_CHANNELS;
    bool inside = channel < args.width;
    int before = args.overlap && row > 0 ? args.ratio : 0;
    int count = inside ? before + args.ratio : 0;
    float max = -INFINITY;
    for (int i = part; i < count; i += COMPRESS_PARTS)
        max = fmaxf(max, compress_gate_of(compress_participant(work, row, before, i, channel)));
    __syncthreads();
    parts[part][lane] = max;
    __syncthreads();
    for (int p = 0; p < COMPRESS_PARTS; p++)
        max = fmaxf(max, parts[p][lane]);
    float weight = 0.0f;
    float key = 0.0f;
    for (int i = part; i < count; i += COMPRESS_PARTS) {
        struct compress_source source = compress_participant(work, row, before, i, channel);
        float own = expf(compress_gate_of(source) - max);
        weight += own;
        key = fmaf(own, *source.key, key);
    }
    __syncthreads();
    parts[part][lane] = weight;
    parts[COMPRESS_PARTS + part][lane] = key;
    __syncthreads();
    weight = key = 0.0f;
    for (int p = 0; p < COMPRESS_PARTS; p++) {
        weight += parts[p][lane];
        key += parts[COMPRESS_PARTS + p][lane];
    }
    return key / weight;
}

/* Norm, rotation, encoding of a row whose channels are all pooled; by the whole block. */
__device__ __forceinline__ void compress_finish_row(const struct compress &work, int row,
                                                    const float *pooled, float *x, float *sums)
{
    const struct kv_compress_args &args = work.args;
    float sum = 0.0f;
    for (int c = (int)threadIdx.x; c < args.width; c += COMPRESS_THREADS) {
        x[c] = round_if(__ldcg(pooled + c), args.round);
        sum = fmaf(x[c], x[c], sum);
    }
    sum = block_sum(sum, sums);
    float inverse = 1.0f / sqrtf(sum / (float)args.width + args.epsilon);
    for (int c = (int)threadIdx.x; c < args.width; c += COMPRESS_THREADS)
        x[c] = round_if(bf16_decode(args.norm[c]) * (x[c] * inverse), args.round);
    __syncthreads();
    float position = (float)(row * args.ratio);
    for (int j = (int)threadIdx.x; j < args.format.rotary / 2; j += COMPRESS_THREADS) {
        float *pair = x + args.format.plain + 2 * j;
        rotation_apply(rotation_of_angle(position * args.frequencies[j]), false, args.round, pair,
                       pair + 1);
    }
    __syncthreads();
    /* Without rounding the queries are not rotated either; no product changes. */
    if (args.hadamard && args.round) hadamard_rotate(x, args.width, work.rotation_scale);
    rows_encode(args.format, x, args.rows + (size_t)row * (size_t)work.row_bytes);
    __syncthreads();
}

/* The call's tokens into the state, but those whose slot a later one takes. */
__device__ __forceinline__ void compress_remember(const struct compress &work, int channel,
                                                  int first, int step)
{
    const struct kv_compress_args &args = work.args;
    size_t columns = (size_t)work.halves * (size_t)args.width;
    if (channel >= args.width) return;
    for (int t = max(0, args.tokens - args.state_capacity) + first; t < args.tokens; t += step) {
        int position = args.positions[t];
        float *slot = args.state + (size_t)(position % args.state_capacity) * 2 * columns;
        for (int half = 0; half < work.halves; half++) {
            int column = half * args.width + channel;
            struct compress_source source = compress_source_of(work, position, column);
            slot[column] = *source.key;
            slot[columns + (size_t)column] = compress_gate_of(source);
        }
    }
}

/* By all threads of block `block` of `blocks`, which share the channels; of the groups, number
 * `turn`, turn + turns, ... */
__device__ __forceinline__ void compress_block(const struct compress &work, int block, int blocks,
                                               int turn, int turns)
{
    __shared__ float parts[2 * COMPRESS_PARTS][COMPRESS_CHANNELS];
    __shared__ float x[OPS_HEAD_DIM_MAX];
    __shared__ float sums[WARPS_MAX];
    __shared__ bool is_last;
    const struct kv_compress_args &args = work.args;
    int channel = block * COMPRESS_CHANNELS + (int)threadIdx.x % COMPRESS_CHANNELS;
    int part = (int)threadIdx.x / COMPRESS_CHANNELS;
    int first_row = args.positions[0] / args.ratio;
    int end_row = (args.positions[0] + args.tokens) / args.ratio;
    for (int row = first_row + turn; row < end_row; row += turns) {
        float *pooled = work.pooled + (size_t)(row - first_row) * (size_t)args.width;
        float value = compress_pool(work, row, channel, part, parts);
        if (part == 0 && channel < args.width) pooled[channel] = value;
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0)
            is_last = atomicAdd(&work.tickets[row - first_row], 1u) == (uint32_t)blocks - 1;
        __syncthreads();
        if (!is_last) continue;
        __threadfence();
        compress_finish_row(work, row, pooled, x, sums);
        if (threadIdx.x == 0) work.tickets[row - first_row] = 0;
    }
    __syncthreads(); /* the state has been read */
    if (work.remembers) compress_remember(work, channel, part, COMPRESS_PARTS);
}

/* A call's work; its scratch memory and tickets begin at `pooled` and `tickets`. */
static inline struct compress compress_make(const struct kv_compress_args *args, float *pooled,
                                            uint32_t *tickets)
{
    SL_ASSERT(rows_supported(&args->format));
    SL_ASSERT(args->format.plain + args->format.rotary == args->width);
    SL_ASSERT(args->format.rotary % 2 == 0);
    SL_ASSERT(args->ratio >= 1 && args->tokens >= 0);
    SL_ASSERT(args->state_capacity >= (args->overlap ? 2 : 1) * args->ratio);
    SL_ASSERT(!args->hadamard || (args->width & (args->width - 1)) == 0);
    struct compress work = {.args = *args,
                            .pooled = pooled,
                            .tickets = tickets,
                            .row_bytes = (int32_t)row_format_bytes(&args->format),
                            .halves = args->overlap ? 2 : 1,
                            .rotation_scale = (float)(1.0 / sqrt((double)args->width))};
    work.remembers = args->tokens / args->ratio + 1 <= COMPRESS_ROWS_MAX;
    return work;
}

#endif
