/* Sums and maxima over a warp and a block in one fixed order: a butterfly
 * inside a warp, then the warps' results by the same butterfly in every warp.
 * The order depends on the block's size alone, so a token's result does not
 * depend on its neighbours. Every thread gets the result. */
#ifndef SLUICE_KERNELS_CUDA_REDUCE_CUH
#define SLUICE_KERNELS_CUDA_REDUCE_CUH

#include "kernels/cuda/launch.cuh"

/* Of a block of at most 1024 threads. */
#define WARPS_MAX 32

__device__ __forceinline__ float warp_sum(float value)
{
#pragma unroll
    for (int offset = WARP_LANES / 2; offset > 0; offset /= 2)
        value += __shfl_xor_sync(WARP_ALL, value, offset);
    return value;
}

/* warp_sum of each of `values`, a power of two of them, the same bits in fewer
 * exchanges: lanes return that of value lane / (WARP_LANES / COUNT). The values
 * are lost. */
template <int COUNT> __device__ __forceinline__ float warp_sums(float (&values)[COUNT])
{
    static_assert(COUNT >= 1 && COUNT <= WARP_LANES && (COUNT & (COUNT - 1)) == 0, "halved");
    int lane = (int)threadIdx.x % WARP_LANES;
    int offset = WARP_LANES / 2;
#pragma unroll
    for (int count = COUNT / 2; count > 0; count /= 2, offset /= 2) {
        bool upper = (lane & offset) != 0; /* this lane keeps the upper half of the values */
#pragma unroll
        for (int i = 0; i < count; i++) {
            float other = __shfl_xor_sync(WARP_ALL, upper ? values[i] : values[count + i], offset);
            values[i] = (upper ? values[count + i] : values[i]) + other;
        }
    }
    float sum = values[0];
#pragma unroll
    for (; offset > 0; offset /= 2)
        sum += __shfl_xor_sync(WARP_ALL, sum, offset);
    return sum;
}

/* A NaN is lost unless all are NaN, as by comparisons. */
__device__ __forceinline__ float warp_max(float value)
{
#pragma unroll
    for (int offset = WARP_LANES / 2; offset > 0; offset /= 2)
        value = fmaxf(value, __shfl_xor_sync(WARP_ALL, value, offset));
    return value;
}

/* Over a block of whole warps (threadIdx.x only); `parts` [WARPS_MAX] is shared
 * memory that nobody else uses until the next barrier after the call. All
 * threads of the block must call. */
__device__ __forceinline__ float block_sum(float value, float *parts)
{
    int lane = (int)threadIdx.x % WARP_LANES;
    int warps = (int)blockDim.x / WARP_LANES;
    value = warp_sum(value);
    __syncthreads(); /* the last use of parts is over */
    if (lane == 0) parts[threadIdx.x / WARP_LANES] = value;
    __syncthreads();
    return warp_sum(lane < warps ? parts[lane] : 0.0f);
}

__device__ __forceinline__ float block_max(float value, float *parts)
{
    int lane = (int)threadIdx.x % WARP_LANES;
    int warps = (int)blockDim.x / WARP_LANES;
    value = warp_max(value);
    __syncthreads();
    if (lane == 0) parts[threadIdx.x / WARP_LANES] = value;
    __syncthreads();
    return warp_max(parts[lane < warps ? lane : 0]);
}

/* Sum of `value` over the threads before this one; the block's total in *total.
 * `parts` as above.
 */
__device__ __forceinline__ uint32_t block_scan(uint32_t value, uint32_t *parts, uint32_t *total)
{
    int lane = (int)threadIdx.x % WARP_LANES;
    int warp = (int)threadIdx.x / WARP_LANES;
    int warps = (int)blockDim.x / WARP_LANES;
    uint32_t sum = value;
#pragma unroll
    for (int offset = 1; offset < WARP_LANES; offset *= 2) {
        uint32_t before = __shfl_up_sync(WARP_ALL, sum, offset);
        if (lane >= offset) sum += before;
    }
    __syncthreads();
    if (lane == WARP_LANES - 1) parts[warp] = sum;
    __syncthreads();
    uint32_t first = 0;
    uint32_t all = 0;
    for (int w = 0; w < warps; w++) {
        if (w < warp) first += parts[w];
        all += parts[w];
    }
    *total = all;
    return first + sum - value;
}

#endif
