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
#include "kernels/cuda/hadamard.cuh"
#include "kernels/cuda/rotation.cuh"
#include "kernels/cuda/rows_encode.cuh"

#include <math.h>

#define CHANNELS         64
#define PARTS            4 /* threads that share the tokens of a channel's group */
#define THREADS          (CHANNELS * PARTS)
#define ROWS_IN_TURN_MAX 8 /* beyond, groups are pooled side by side */

struct compress {
    struct kv_compress_args args;
    float *pooled;     /* [rows of the call, width] */
    uint32_t *tickets; /* [rows of the call], zero before and after */
    int32_t row_bytes, halves;
    float rotation_scale;
    bool remembers; /* in the same launch */
};

/* Keys of a token's column, or its gates with ape: from the call, or from the state. */
struct source {
    const float *key, *gate, *ape; /* ape NULL: in the gate already */
};

__device__ __forceinline__ struct source source_of(const struct compress &work, int position,
                                                   int column)
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

__device__ __forceinline__ float gate_of(const struct source &source)
{
    return source.ape ? *source.gate + *source.ape : *source.gate;
}

/* Participant i of group `row`: the previous group's tokens by the first half of the columns, if
 * there is one, then the group's own. */
__device__ __forceinline__ struct source participant(const struct compress &work, int row,
                                                     int before, int i, int channel)
{
    const struct kv_compress_args &args = work.args;
    int position = row * args.ratio - before + i;
    int column = i >= before && args.overlap ? args.width + channel : channel;
    return source_of(work, position, column);
}

/* The pooled value of a channel; all threads of the block call, and those of part 0 return it. */
__device__ __forceinline__ float pool(const struct compress &work, int row, int channel, int part,
                                      float (*parts)[CHANNELS])
{
    const struct kv_compress_args &args = work.args;
    int lane = (int)threadIdx.x % CHANNELS;
    bool inside = channel < args.width;
    int before = args.overlap && row > 0 ? args.ratio : 0;
    int count = inside ? before + args.ratio : 0;
    float max = -INFINITY;
    for (int i = part; i < count; i += PARTS)
        max = fmaxf(max, gate_of(participant(work, row, before, i, channel)));
    __syncthreads();
    parts[part][lane] = max;
    __syncthreads();
    for (int p = 0; p < PARTS; p++)
        max = fmaxf(max, parts[p][lane]);
    float weight = 0.0f;
    float key = 0.0f;
    for (int i = part; i < count; i += PARTS) {
        struct source source = participant(work, row, before, i, channel);
        float own = expf(gate_of(source) - max);
        weight += own;
        key = fmaf(own, *source.key, key);
    }
    __syncthreads();
    parts[part][lane] = weight;
    parts[PARTS + part][lane] = key;
    __syncthreads();
    weight = key = 0.0f;
    for (int p = 0; p < PARTS; p++) {
        weight += parts[p][lane];
        key += parts[PARTS + p][lane];
    }
    return key / weight;
}

/* Norm, rotation, encoding of a row whose channels are all pooled; by the whole block. */
__device__ __forceinline__ void finish_row(const struct compress &work, int row,
                                           const float *pooled, float *x, float *sums)
{
    const struct kv_compress_args &args = work.args;
    float sum = 0.0f;
    for (int c = (int)threadIdx.x; c < args.width; c += THREADS) {
        x[c] = round_if(__ldcg(pooled + c), args.round);
        sum = fmaf(x[c], x[c], sum);
    }
    sum = block_sum(sum, sums);
    float inverse = 1.0f / sqrtf(sum / (float)args.width + args.epsilon);
    for (int c = (int)threadIdx.x; c < args.width; c += THREADS)
        x[c] = round_if(bf16_decode(args.norm[c]) * (x[c] * inverse), args.round);
    __syncthreads();
    float position = (float)(row * args.ratio);
    for (int j = (int)threadIdx.x; j < args.format.rotary / 2; j += THREADS) {
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
__device__ __forceinline__ void remember(const struct compress &work, int channel, int first,
                                         int step)
{
    const struct kv_compress_args &args = work.args;
    size_t columns = (size_t)work.halves * (size_t)args.width;
    if (channel >= args.width) return;
    for (int t = max(0, args.tokens - args.state_capacity) + first; t < args.tokens; t += step) {
        int position = args.positions[t];
        float *slot = args.state + (size_t)(position % args.state_capacity) * 2 * columns;
        for (int half = 0; half < work.halves; half++) {
            int column = half * args.width + channel;
            struct source source = source_of(work, position, column);
            slot[column] = *source.key;
            slot[columns + (size_t)column] = gate_of(source);
        }
    }
}

/* Grid (blocks of channels, rows in turn). */
static __global__ void __launch_bounds__(THREADS) kv_compress_kernel(struct compress work)
{
    launch_chain();
    __shared__ float parts[2 * PARTS][CHANNELS];
    __shared__ float x[OPS_HEAD_DIM_MAX];
    __shared__ float sums[WARPS_MAX];
    __shared__ bool is_last;
    const struct kv_compress_args &args = work.args;
    int channel = (int)blockIdx.x * CHANNELS + (int)threadIdx.x % CHANNELS;
    int part = (int)threadIdx.x / CHANNELS;
    int first_row = args.positions[0] / args.ratio;
    int end_row = (args.positions[0] + args.tokens) / args.ratio;
    for (int row = first_row + (int)blockIdx.y; row < end_row; row += (int)gridDim.y) {
        float *pooled = work.pooled + (size_t)(row - first_row) * (size_t)args.width;
        float value = pool(work, row, channel, part, parts);
        if (part == 0 && channel < args.width) pooled[channel] = value;
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0)
            is_last = atomicAdd(&work.tickets[row - first_row], 1u) == gridDim.x - 1;
        __syncthreads();
        if (!is_last) continue;
        __threadfence();
        finish_row(work, row, pooled, x, sums);
        if (threadIdx.x == 0) work.tickets[row - first_row] = 0;
    }
    __syncthreads(); /* the state has been read */
    if (work.remembers) remember(work, channel, part, PARTS);
}

/* Grid (blocks of channels, tokens in turn). */
static __global__ void __launch_bounds__(THREADS) kv_remember_kernel(struct compress work)
{
    launch_chain();
    int channel = (int)blockIdx.x * CHANNELS + (int)threadIdx.x % CHANNELS;
    int part = (int)threadIdx.x / CHANNELS;
    remember(work, channel, (int)blockIdx.y * PARTS + part, (int)gridDim.y * PARTS);
}

extern "C" void cuda_kv_compress(struct stream *stream, const struct kv_compress_args *args)
{
    SL_ASSERT(rows_supported(&args->format));
    SL_ASSERT(args->format.plain + args->format.rotary == args->width);
    SL_ASSERT(args->format.rotary % 2 == 0);
    SL_ASSERT(args->ratio >= 1 && args->tokens >= 0);
    SL_ASSERT(args->state_capacity >= (args->overlap ? 2 : 1) * args->ratio);
    SL_ASSERT(!args->hadamard || (args->width & (args->width - 1)) == 0);
    struct compress work = {.args = *args,
                            .pooled = reinterpret_cast<float *>(stream->scratch),
                            .tickets = stream->tickets,
                            .row_bytes = (int32_t)row_format_bytes(&args->format),
                            .halves = args->overlap ? 2 : 1,
                            .rotation_scale = (float)(1.0 / sqrt((double)args->width))};
    int32_t rows = args->tokens / args->ratio + 1;
    if (args->tokens == 0) return;
    SL_ASSERT(rows <= CUDA_TICKETS);
    SL_ASSERT((size_t)rows * (size_t)args->width * sizeof(float) <= CUDA_SCRATCH_BYTES);
    work.remembers = rows <= ROWS_IN_TURN_MAX;
    unsigned channels = launch_blocks(args->width, CHANNELS);
    SL_LAUNCH(stream, kv_compress_kernel, dim3(channels, work.remembers ? 1 : (unsigned)rows),
              THREADS, 0, work);
    if (!work.remembers)
        SL_LAUNCH(stream, kv_remember_kernel,
                  dim3(channels, launch_blocks(min_i32(args->tokens, args->state_capacity), PARTS)),
                  THREADS, 0, work);
}
