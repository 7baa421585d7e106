/* Queries of the indexer before scoring: Hadamard rotation and e2m1 rounding, in place as the op's
 * contract says, and packed for the tensor cores; weights scaled; bins cleared. Bit for bit the
 * twin's. */
#include "kernels/cuda/hadamard.cuh"
#include "kernels/cuda/indexer.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/numerics.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/rotation.cuh"

#define THREADS     128
#define WARPS       (THREADS / WARP_LANES)
#define LANE_VALUES (INDEXER_WIDTH / WARP_LANES)
#define BLOCK_LANES (LOWP_FP4_BLOCK / LANE_VALUES)

/* The scaled weight of a head, 0 for one that pads. */
__device__ __forceinline__ float head_weight(const struct indexer_work &work, int t, int head)
{
    const struct indexer_args &args = work.args;
    if (head >= args.heads) return 0.0f;
    size_t place = (size_t)(work.first_token + t) * (size_t)args.heads + (size_t)head;
    return round_if(round_if(args.weights[place], args.round) * work.scale, args.round);
}

/* Part `idx` of `count` of a token's bins, where there are any. */
__device__ __forceinline__ void clear_bins(const struct indexer_work &work, int t, int idx,
                                           int count)
{
    if (!work.bins) return;
    uint32_t *bins = work.bins + (size_t)t * 2 * INDEXER_BINS;
    for (int i = idx * THREADS + (int)threadIdx.x; i < 2 * INDEXER_BINS; i += count * THREADS)
        bins[i] = 0;
}

/* x rounded to e2m1 in blocks of 32, a warp for each in turn; scales [width / 32]. */
__device__ __forceinline__ void round_blocks(float *x, float *scales, int width)
{
    int lane = (int)threadIdx.x % WARP_LANES;
    for (int first = (int)threadIdx.x / WARP_LANES * LOWP_FP4_BLOCK; first < width;
         first += THREADS / WARP_LANES * LOWP_FP4_BLOCK) {
        bool inside = first + lane < width;
        float value = inside ? x[first + lane] : 0.0f;
        float scale = lowp_fp4_scale(warp_max(amax_step(0.0f, value)));
        if (inside) x[first + lane] = e2m1_decode(e2m1_encode(value * (1.0f / scale)));
        if (lane == 0) scales[first / LOWP_FP4_BLOCK] = scale;
    }
}

/* The lane's two pairs of channels rotated by the token's position, as rope does it. */
__device__ __forceinline__ void rotate_pairs(const struct indexer_work &work, int t,
                                             float x[LANE_VALUES])
{
    int first = (int)threadIdx.x % WARP_LANES * LANE_VALUES - (INDEXER_WIDTH - work.rotary);
    float position = (float)work.args.positions[work.first_token + t];
    if (first < 0) return;
#pragma unroll
    for (int i = 0; i < LANE_VALUES; i += 2)
        rotation_apply(rotation_of_angle(position * work.frequencies[(first + i) / 2]), false, true,
                       &x[i], &x[i + 1]);
}

/* 128 channels, four a lane, rotated as hadamard_rotate does it, with the same sums. */
__device__ __forceinline__ void rotate_lanes(float x[LANE_VALUES], float scale)
{
    int lane = (int)threadIdx.x % WARP_LANES;
#pragma unroll
    for (int half = 1; half < LANE_VALUES; half *= 2)
#pragma unroll
        for (int i = 0; i < LANE_VALUES; i++) {
            if (i & half) continue;
            float a = x[i];
            float b = x[i + half];
            x[i] = a + b;
            x[i + half] = a - b;
        }
#pragma unroll
    for (int half = 1; half < WARP_LANES; half *= 2)
#pragma unroll
        for (int i = 0; i < LANE_VALUES; i++) {
            float other = __shfl_xor_sync(WARP_ALL, x[i], half);
            x[i] = lane & half ? other - x[i] : x[i] + other;
        }
#pragma unroll
    for (int i = 0; i < LANE_VALUES; i++)
        x[i] = bf16_round(x[i] * scale);
}

/* The lane's values as f16 where lane c / 8 of a product finds its pairs: channels k and k + 4 of
 * eight become a pair, as nibbles k and k + 4 of a key's word do (fp4.cuh). */
__device__ __forceinline__ void pack_lanes(const float x[LANE_VALUES], uint16_t *packed)
{
    int lane = (int)threadIdx.x % WARP_LANES;
    uint32_t pairs[LANE_VALUES];
#pragma unroll
    for (int i = 0; i < LANE_VALUES; i++) {
        float other = __shfl_xor_sync(WARP_ALL, x[i], 1);
        pairs[i] = lane % 2 ? pack_f16(other, x[i]) : pack_f16(x[i], other);
    }
    uint2 two = {lane % 2 ? pairs[2] : pairs[0], lane % 2 ? pairs[3] : pairs[1]};
    *reinterpret_cast<uint2 *>(packed + lane * LANE_VALUES) = two;
}

/* Packed queries, a warp for a head. Grid (padded heads / WARPS, tokens). */
static __global__ void __launch_bounds__(THREADS) indexer_pack_kernel(struct indexer_work work)
{
    launch_chain();
    static_assert(LANE_VALUES == 4, "a lane reads and writes its channels at once");
    const struct indexer_args &args = work.args;
    int t = (int)blockIdx.y;
    int head = (int)blockIdx.x * WARPS + (int)threadIdx.x / WARP_LANES;
    int lane = (int)threadIdx.x % WARP_LANES;
    clear_bins(work, t, (int)blockIdx.x, (int)gridDim.x);
    if (indexer_takes_all(work, t) || head >= work.heads_padded) return;
    size_t row = (size_t)(work.first_token + t) * (size_t)args.heads + (size_t)head;
    float4 *query = reinterpret_cast<float4 *>(args.queries + row * INDEXER_WIDTH) + lane;
    float x[LANE_VALUES] = {};
    float largest = 1.0f;
    if (head < args.heads) {
        float4 read = *query;
        float amax = 0.0f;
        x[0] = read.x, x[1] = read.y, x[2] = read.z, x[3] = read.w;
        if (work.frequencies) rotate_pairs(work, t, x);
        rotate_lanes(x, work.rotation_scale);
        for (int i = 0; i < LANE_VALUES; i++)
            amax = amax_step(amax, x[i]);
#pragma unroll
        for (int lanes = 1; lanes < BLOCK_LANES; lanes *= 2)
            amax = fmaxf(amax, __shfl_xor_sync(WARP_ALL, amax, lanes));
        float scale = lowp_fp4_scale(amax);
        for (int i = 0; i < LANE_VALUES; i++)
            x[i] = e2m1_decode(e2m1_encode(x[i] * (1.0f / scale)));
        *query = {x[0] * scale, x[1] * scale, x[2] * scale, x[3] * scale};
        largest = warp_max(scale);
        for (int i = 0; i < LANE_VALUES; i++)
            x[i] *= scale / largest;
    }
    size_t place = (size_t)t * (size_t)work.heads_padded + (size_t)head;
    pack_lanes(x, work.queries + place * INDEXER_QUERY_PITCH);
    if (lane == 0) work.weights[place] = head_weight(work, t, head) * largest;
}

/* Queries of any format, a block for a head. Grid (padded heads, tokens). */
static __global__ void __launch_bounds__(THREADS) indexer_query_kernel(struct indexer_work work)
{
    launch_chain();
    __shared__ float x[OPS_HEAD_DIM_MAX];
    __shared__ float scales[OPS_HEAD_DIM_MAX / LOWP_FP4_BLOCK];
    const struct indexer_args &args = work.args;
    int t = (int)blockIdx.y;
    int head = (int)blockIdx.x;
    clear_bins(work, t, head, (int)gridDim.x);
    if (indexer_takes_all(work, t)) return;

    if (args.round && head < args.heads) {
        size_t row = (size_t)(work.first_token + t) * (size_t)args.heads + (size_t)head;
        float *query = args.queries + row * (size_t)args.width;
        for (int i = (int)threadIdx.x; i < args.width; i += THREADS)
            x[i] = query[i];
        hadamard_rotate(x, args.width, work.rotation_scale);
        round_blocks(x, scales, args.width);
        __syncthreads();
        for (int i = (int)threadIdx.x; i < args.width; i += THREADS)
            query[i] = x[i] * scales[i / LOWP_FP4_BLOCK];
    }
    if (threadIdx.x == 0)
        work.weights[(size_t)t * (size_t)work.heads_padded + head] = head_weight(work, t, head);
}

void indexer_prepare(struct stream *stream, const struct indexer_work *work)
{
    unsigned heads = (unsigned)work->heads_padded;
    unsigned tokens = (unsigned)work->tokens;
    if (work->packed)
        SL_LAUNCH(stream, indexer_pack_kernel, dim3(launch_blocks(heads, WARPS), tokens), THREADS,
                  0, *work);
    else
        SL_LAUNCH(stream, indexer_query_kernel, dim3(heads, tokens), THREADS, 0, *work);
}
