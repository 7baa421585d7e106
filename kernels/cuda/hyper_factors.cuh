/* The factors that hyper_post will use, by Sinkhorn's iterations: a chain of dependent steps, by
 * one warp. Steps go in the twin's order. */
#ifndef SLUICE_KERNELS_CUDA_HYPER_FACTORS_CUH
#define SLUICE_KERNELS_CUDA_HYPER_FACTORS_CUH

#include "kernels/cuda/hyper_mix.cuh"

#define ROW_LANES     8 /* a row of the matrix lies in 8 lanes, four rows in a register */
#define ROWS_PER_SLOT (WARP_LANES / ROW_LANES)
#define SLOTS         (OPS_STREAMS_MAX / ROWS_PER_SLOT)

/* Element (i, j) of an [n, n] matrix is a[i / ROWS_PER_SLOT] of lane i % ROWS_PER_SLOT * ROW_LANES
 * + j. Lanes and slots beyond n hold values that nobody uses. */
struct spread {
    float a[SLOTS];
};

static __device__ __forceinline__ float row_sum(float value, int32_t n)
{
    float sum = 0.0f;
    for (int32_t j = 0; j < n; j++)
        sum += __shfl_sync(WARP_ALL, value, j, ROW_LANES);
    return sum;
}

static __device__ __forceinline__ float row_max(float value, int32_t n)
{
    float max_value = __shfl_sync(WARP_ALL, value, 0, ROW_LANES);
    for (int32_t j = 1; j < n; j++) {
        float other = __shfl_sync(WARP_ALL, value, j, ROW_LANES);
        max_value = other > max_value ? other : max_value;
    }
    return max_value;
}

static __device__ __forceinline__ void normalise_rows(struct spread *m, int32_t n, float epsilon)
{
#pragma unroll
    for (int s = 0; s < SLOTS; s++)
        if (s * ROWS_PER_SLOT < n) m->a[s] /= row_sum(m->a[s], n) + epsilon;
}

static __device__ __forceinline__ void normalise_columns(struct spread *m, int32_t n, float epsilon)
{
    int column = (int)threadIdx.x % ROW_LANES;
    float sum = 0.0f;
    for (int32_t i = 0; i < n; i++)
        sum += __shfl_sync(WARP_ALL, i < ROWS_PER_SLOT ? m->a[0] : m->a[1],
                           i % ROWS_PER_SLOT * ROW_LANES + column);
#pragma unroll
    for (int s = 0; s < SLOTS; s++)
        m->a[s] /= sum + epsilon;
}

static __device__ __forceinline__ void softmax_rows(struct spread *m, int32_t n, float epsilon)
{
#pragma unroll
    for (int s = 0; s < SLOTS; s++) {
        float e = expf(m->a[s] - row_max(m->a[s], n));
        m->a[s] = e / row_sum(e, n) + epsilon;
    }
}

/* By one warp: the factors of hyper_post for token t. */
static __device__ __forceinline__ void hyper_write_factors(const struct hyper_pre_args &args,
                                                           size_t t, const float *mix,
                                                           float inverse)
{
    static_assert(SLOTS == 2, "normalise_columns chooses between two");
    int32_t n = args.streams_count;
    int32_t lane = (int32_t)threadIdx.x % WARP_LANES;
    int32_t column = lane % ROW_LANES;
    struct spread m;
#pragma unroll
    for (int s = 0; s < SLOTS; s++) {
        int32_t row = s * ROWS_PER_SLOT + lane / ROW_LANES;
        int32_t i = 2 * n + row * n + column;
        bool inside = row < n && column < n;
        m.a[s] = inside ? mix[i] * inverse * args.scale[2] + args.base[i] : 0.0f;
    }
    softmax_rows(&m, n, args.epsilon);
    normalise_columns(&m, n, args.epsilon);
    for (int32_t i = 1; i < args.iterations; i++) {
        normalise_rows(&m, n, args.epsilon);
        normalise_columns(&m, n, args.epsilon);
    }
    float *comb = args.comb + t * (size_t)(n * n);
#pragma unroll
    for (int s = 0; s < SLOTS; s++) {
        int32_t row = s * ROWS_PER_SLOT + lane / ROW_LANES;
        if (row < n && column < n) comb[row * n + column] = m.a[s];
    }
    if (lane < n)
        args.post[t * (size_t)n + (size_t)lane] =
            hyper_mix_factor(mix[n + lane], inverse, args.scale[1], args.base[n + lane]) * 2.0f;
}

#endif
