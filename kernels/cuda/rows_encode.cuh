/* Values to cached rows, by a block ("Fake quantisation"): the twin's bytes, bit for bit. */
#ifndef SLUICE_KERNELS_CUDA_ROWS_ENCODE_CUH
#define SLUICE_KERNELS_CUDA_ROWS_ENCODE_CUH

#include "kernels/cuda/numerics.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/rows.cuh"

/* Blocks of 64 channels as e4m3, a warp for each in turn, two channels a lane. */
__device__ __forceinline__ void rows_encode_kv(const struct row_format &format, const float *x,
                                               uint8_t *row)
{
    int lane = (int)threadIdx.x % WARP_LANES;
    int warps = (int)blockDim.x / WARP_LANES;
    int blocks = (format.plain + LOWP_KV_BLOCK - 1) / LOWP_KV_BLOCK;
    for (int block = (int)threadIdx.x / WARP_LANES; block < blocks; block += warps) {
        float amax = 0.0f;
        int first = block * LOWP_KV_BLOCK;
        int end = min(first + LOWP_KV_BLOCK, format.plain);
        for (int i = first + lane; i < end; i += WARP_LANES)
            amax = amax_step(amax, x[i]);
        float scale = lowp_fp8_scale(warp_max(amax));
        float inverse = 1.0f / scale; /* exact: a power of two */
        for (int i = first + lane; i < end; i += WARP_LANES)
            row[i] = e4m3_encode(x[i] * inverse);
        if (lane == 0) row[format.plain + block] = e8m0_encode(scale);
    }
    uint8_t *slice = row + format.plain + blocks;
    for (int i = (int)threadIdx.x; i < format.rotary; i += (int)blockDim.x) {
        uint16_t code = bf16_encode(x[format.plain + i]);
        slice[2 * i] = (uint8_t)code;
        slice[2 * i + 1] = (uint8_t)(code >> 8);
    }
}

/* Blocks of 32 channels as e2m1, a warp for each in turn, a channel a lane. */
__device__ __forceinline__ void rows_encode_key(int width, const float *x, uint8_t *row)
{
    int lane = (int)threadIdx.x % WARP_LANES;
    int warps = (int)blockDim.x / WARP_LANES;
    int blocks = (width + LOWP_FP4_BLOCK - 1) / LOWP_FP4_BLOCK;
    for (int block = (int)threadIdx.x / WARP_LANES; block < blocks; block += warps) {
        int i = block * LOWP_FP4_BLOCK + lane;
        float value = i < width ? x[i] : 0.0f;
        float scale = lowp_fp4_scale(warp_max(amax_step(0.0f, value)));
        uint32_t code = e2m1_encode(value * (1.0f / scale));
        uint32_t next = __shfl_down_sync(WARP_ALL, code, 1);
        if (lane % 2 == 0 && i < width) row[i / 2] = (uint8_t)(code | next << 4);
        if (lane == 0) row[width / 2 + block] = e8m0_encode(scale);
    }
}

/* x [plain + rotary] to row; padding bytes are left as they are. Blocks of whole warps. */
__device__ __forceinline__ void rows_encode(const struct row_format &format, const float *x,
                                            uint8_t *row)
{
    if (format.encoding == ROW_KV) {
        rows_encode_kv(format, x, row);
    } else if (format.encoding == ROW_KEY) {
        rows_encode_key(format.plain + format.rotary, x, row);
    } else {
        for (int i = (int)threadIdx.x; i < format.plain + format.rotary; i += (int)blockDim.x)
            reinterpret_cast<float *>(row)[i] = x[i];
    }
}

#endif
