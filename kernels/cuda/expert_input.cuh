/* Inputs of an expert's product in a block's shared memory: up to eight tokens, rounded to e4m3 per
 * 128 columns ("Activation quantisation") and kept as the f16 values of the codes, scales apart. */
#ifndef SLUICE_KERNELS_CUDA_EXPERT_INPUT_CUH
#define SLUICE_KERNELS_CUDA_EXPERT_INPUT_CUH

#include "kernels/cuda/mma.cuh"

#define EXPERT_INPUT_TOKENS 8

/* Rows are this much longer than their columns, so that lanes of two tokens meet different banks.
 */
#define EXPERT_INPUT_PAD 32

struct expert_input {
    uint16_t *codes;         /* [rows, stride] f16 */
    float *scales;           /* [rows, blocks] */
    int32_t columns, tokens; /* tokens <= rows */
    int32_t stride, blocks;
};

/* Bytes for `rows` tokens. */
static inline size_t expert_input_bytes(int32_t columns, int32_t rows)
{
    size_t blocks = (size_t)(columns + LOWP_FP8_BLOCK - 1) / LOWP_FP8_BLOCK;
    return (size_t)rows * (2 * (blocks * LOWP_FP8_BLOCK + EXPERT_INPUT_PAD) + 4 * blocks);
}

__device__ __forceinline__ struct expert_input expert_input_make(uint8_t *memory, int32_t columns,
                                                                 int32_t rows)
{
    struct expert_input input = {.columns = columns};
    input.blocks = (columns + LOWP_FP8_BLOCK - 1) / LOWP_FP8_BLOCK;
    input.stride = input.blocks * LOWP_FP8_BLOCK + EXPERT_INPUT_PAD;
    input.codes = reinterpret_cast<uint16_t *>(memory);
    input.scales = reinterpret_cast<float *>(input.codes + rows * input.stride);
    return input;
}

/* The values of e4m3 codes of x times a power of two; magnitudes beyond 448 saturate. Adding 1.5 *
 * 2^(20 + exponent) leaves steps of 2^(exponent - 3), the distance of e4m3 values, rounded to even.
 */
__device__ __forceinline__ float expert_input_round(float x)
{
    uint32_t bits = lowp_bits(x);
    uint32_t magnitude = min(bits & 0x7fffffffu, 0x43e00000u);
    uint32_t exponent = max(magnitude & 0x7f800000u, 0x3c800000u); /* 2^-6: subnormals */
    float shift = lowp_from_bits((exponent + (20u << 23)) | 0x400000u);
    float rounded = (lowp_from_bits(magnitude) + shift) - shift;
    return lowp_from_bits(lowp_bits(rounded) | (bits & 0x80000000u));
}

/* The scale of 128 values, four a lane, and its inverse; NaN if a value is not finite. By a warp.
 */
__device__ __forceinline__ float expert_input_scale(float4 values, float *inverse)
{
    uint32_t amax = max(max(lowp_bits(values.x) & 0x7fffffffu, lowp_bits(values.y) & 0x7fffffffu),
                        max(lowp_bits(values.z) & 0x7fffffffu, lowp_bits(values.w) & 0x7fffffffu));
#pragma unroll
    for (int offset = WARP_LANES / 2; offset > 0; offset /= 2)
        amax = max(amax, __shfl_xor_sync(WARP_ALL, amax, offset));
    float scale = lowp_fp8_scale(lowp_from_bits(amax));
    *inverse = 1.0f / scale;
    return amax >= 0x7f800000u ? lowp_from_bits(0x7fc00000u) : scale;
}

/* The values as the f16 values of their codes, and the block's scale. By a warp. */
__device__ __forceinline__ uint2 expert_input_quantise(float4 values, float *scale)
{
    float inverse;
    *scale = expert_input_scale(values, &inverse);
    return {
        pack_f16(expert_input_round(values.x * inverse), expert_input_round(values.y * inverse)),
        pack_f16(expert_input_round(values.z * inverse), expert_input_round(values.w * inverse))};
}

/* The values that codes and scale stand for: four significant bits times a power of two, so exact
 * in bf16. By a warp. */
__device__ __forceinline__ uint2 expert_input_bf16(float4 values)
{
    float inverse;
    float scale = expert_input_scale(values, &inverse);
    return {pack_bf16(expert_input_round(values.x * inverse) * scale,
                      expert_input_round(values.y * inverse) * scale),
            pack_bf16(expert_input_round(values.z * inverse) * scale,
                      expert_input_round(values.w * inverse) * scale)};
}

/* Fills from row rows[i] of x, or row i without `rows`, for each token i; by the whole block. */
__device__ __forceinline__ void expert_input_fill(const struct expert_input &input, const float *x,
                                                  const int32_t *rows)
{
    int lane = (int)threadIdx.x % WARP_LANES;
    int warps = (int)blockDim.x / WARP_LANES;
    for (int unit = (int)threadIdx.x / WARP_LANES; unit < input.tokens * input.blocks;
         unit += warps) {
        int token = unit / input.blocks;
        int block = unit % input.blocks;
        int column = block * LOWP_FP8_BLOCK + lane * 4;
        size_t row = (size_t)(rows ? rows[token] : token);
        float4 values = {0.0f, 0.0f, 0.0f, 0.0f};
        if (column < input.columns)
            values = *reinterpret_cast<const float4 *>(x + row * (size_t)input.columns + column);
        float scale;
        uint2 pairs = expert_input_quantise(values, &scale);
        *reinterpret_cast<uint2 *>(input.codes + token * input.stride + column) = pairs;
        if (lane == 0) input.scales[token * input.blocks + block] = scale;
    }
}

/* Codes and scales of a token; of the last one for a token that is not there, whose products nobody
 * looks at. */
__device__ __forceinline__ const uint16_t *expert_input_codes(const struct expert_input &input,
                                                              int token)
{
    return input.codes + min(token, input.tokens - 1) * input.stride;
}

__device__ __forceinline__ const float *expert_input_scales(const struct expert_input &input,
                                                            int token)
{
    return input.scales + min(token, input.tokens - 1) * input.blocks;
}

#endif
