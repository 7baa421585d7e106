/* Queries of the indexer before scoring: Hadamard rotation and e2m1 rounding, in place as the op's
 * contract says, and packed for the tensor cores; weights scaled; bins cleared. Bit for bit the
 * twin's. */
#include "kernels/cuda/hadamard.cuh"
#include "kernels/cuda/indexer.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/numerics.cuh"
#include "kernels/cuda/reduce.cuh"

#define THREADS 128

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

/* Channel c of a block of 32 goes where lane c / 8 of a product finds its pairs: nibbles k and k +
 * 4 of a key's word become a pair (fp4.cuh). */
__device__ __forceinline__ int packed_place(int channel)
{
    return channel / 8 * 8 + channel % 4 * 2 + channel % 8 / 4;
}

/* Grid (padded heads, tokens). */
static __global__ void __launch_bounds__(THREADS) indexer_query_kernel(struct indexer_work work)
{
    launch_chain();
    __shared__ float x[OPS_HEAD_DIM_MAX];
    __shared__ float scales[OPS_HEAD_DIM_MAX / LOWP_FP4_BLOCK];
    const struct indexer_args &args = work.args;
    int t = (int)blockIdx.y;
    int head = (int)blockIdx.x;
    uint32_t *bins = work.bins + (size_t)t * 2 * INDEXER_BINS;
    for (int i = head * THREADS + (int)threadIdx.x; i < 2 * INDEXER_BINS;
         i += (int)gridDim.x * THREADS)
        bins[i] = 0;
    if (indexer_takes_all(work, t)) return;

    float largest = 1.0f;
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
    if (work.packed) {
        uint16_t *packed = work.queries + ((size_t)t * (size_t)work.heads_padded + (size_t)head) *
                                              INDEXER_QUERY_PITCH;
        if (head < args.heads)
            largest = fmaxf(fmaxf(scales[0], scales[1]), fmaxf(scales[2], scales[3]));
        int i = (int)threadIdx.x;
        float value = head < args.heads ? x[i] * (scales[i / LOWP_FP4_BLOCK] / largest) : 0.0f;
        packed[packed_place(i)] = (uint16_t)pack_f16(value, 0.0f);
    }
    if (threadIdx.x > 0) return;
    float weight = 0.0f;
    if (head < args.heads) {
        size_t place = (size_t)(work.first_token + t) * (size_t)args.heads + (size_t)head;
        weight = round_if(round_if(args.weights[place], args.round) * work.scale, args.round);
    }
    work.weights[(size_t)t * (size_t)work.heads_padded + head] = weight * largest;
}

void indexer_prepare(struct stream *stream, const struct indexer_work *work)
{
    static_assert(THREADS == INDEXER_WIDTH, "a thread packs one channel");
    SL_LAUNCH(stream, indexer_query_kernel,
              dim3((unsigned)work->heads_padded, (unsigned)work->tokens), THREADS, 0, *work);
}
