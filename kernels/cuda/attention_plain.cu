/* Attention for every row format; see the header. The steps are the twin's: groups of 64 rows with
 * a running maximum. Sums differ in their order: 1e-5 of the largest element. */
#include "kernels/cuda/attention_plain.cuh"
#include "kernels/cuda/numerics.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/rows.cuh"

#define THREADS   128
#define WARPS     (THREADS / WARP_LANES)
#define ROW_GROUP 64
#define CHANNELS  (OPS_HEAD_DIM_MAX / THREADS) /* of a thread */

/* Scores of a group's rows, a warp for each in turn. */
__device__ __forceinline__ void score_group(const struct attention_args &args,
                                            const struct rows_visible &rows, int first,
                                            const float *query, float *scores)
{
    int lane = (int)threadIdx.x % WARP_LANES;
    for (int k = (int)threadIdx.x / WARP_LANES; k < ROW_GROUP; k += WARPS) {
        float sum = 0.0f;
        if (first + k < rows.count) {
            const uint8_t *row = rows_address(rows, first + k);
            for (int c = lane; c < args.width; c += WARP_LANES)
                sum = fmaf(query[c], rows_value(args.format, row, c), sum);
        }
        sum = warp_sum(sum);
        if (lane == 0) scores[k] = first + k < rows.count ? sum * args.scale : -INFINITY;
    }
}

/* Grid (heads, tokens). */
static __global__ void attention_plain_kernel(struct attention_args args, int32_t row_bytes)
{
    launch_chain();
    __shared__ float scores[ROW_GROUP];
    __shared__ float parts[WARPS_MAX];
    int head = (int)blockIdx.x;
    int t = (int)blockIdx.y;
    size_t place = ((size_t)t * (size_t)args.heads + (size_t)head) * (size_t)args.width;
    struct rows_visible rows = rows_visible_make(args, row_bytes, t);
    float sums[CHANNELS] = {};
    float max = -INFINITY;
    float weight = 0.0f;
    for (int first = 0; first < rows.count; first += ROW_GROUP) {
        int count = min(ROW_GROUP, rows.count - first);
        __syncthreads();
        score_group(args, rows, first, args.queries + place, scores);
        __syncthreads();
        float score = threadIdx.x < ROW_GROUP ? scores[threadIdx.x] : -INFINITY;
        float new_max = fmaxf(max, block_max(score, parts));
        float correction = expf(max - new_max);
        float own = threadIdx.x < ROW_GROUP ? expf(score - new_max) : 0.0f;
        if (threadIdx.x < ROW_GROUP) scores[threadIdx.x] = round_if(own, args.round);
        weight = weight * correction + block_sum(own, parts);
        max = new_max;
#pragma unroll
        for (int i = 0; i < CHANNELS; i++) {
            int c = i * THREADS + (int)threadIdx.x;
            sums[i] *= correction;
            for (int k = 0; k < count && c < args.width; k++)
                sums[i] = fmaf(scores[k], rows_value(args.format, rows_address(rows, first + k), c),
                               sums[i]);
        }
    }
    float total = weight + expf(args.sink[head] - max);
#pragma unroll
    for (int i = 0; i < CHANNELS; i++) {
        int c = i * THREADS + (int)threadIdx.x;
        if (c < args.width)
            args.out[place + (size_t)c] =
                rows.count > 0 ? round_if(sums[i] / total, args.round) : 0.0f;
    }
}

void attention_plain(struct stream *stream, const struct attention_args *args)
{
    int32_t row_bytes = (int32_t)row_format_bytes(&args->format);
    SL_LAUNCH(stream, attention_plain_kernel, dim3((unsigned)args->heads, (unsigned)args->tokens),
              THREADS, 0, *args, row_bytes);
}
