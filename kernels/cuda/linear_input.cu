/* bf16 and e4m3 inputs of products with many tokens: bounded by memory, four bytes read and two or
 * one written a number. */
#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/linear_input.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/numerics.cuh"
#include "kernels/cuda/reduce.cuh"

#define WARPS   8
#define THREADS (WARPS * WARP_LANES)

/* The scale of a block of 128 columns, four of which are this lane's; by a warp. */
static __device__ __forceinline__ float block_scale(float4 in)
{
    float amax = amax_step(amax_step(amax_step(amax_step(0.0f, in.x), in.y), in.z), in.w);
    return lowp_fp8_scale(warp_max(amax));
}

/* A warp a block of 128 columns. */
template <bool SWAP, bool QUANTISE>
static __global__ void __launch_bounds__(THREADS)
    linear_input_kernel(const float *x, uint16_t *out, int64_t blocks)
{
    launch_chain();
    int64_t block = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / WARP_LANES;
    if (block >= blocks) return;
    int64_t at = block * LINEAR_COLUMNS + threadIdx.x % WARP_LANES * 4;
    float4 in = *reinterpret_cast<const float4 *>(x + at);
    if (QUANTISE) {
        float scale = block_scale(in);
        float inverse = 1.0f / scale;
        in.x = e4m3_decode(e4m3_encode(in.x * inverse)) * scale;
        in.y = e4m3_decode(e4m3_encode(in.y * inverse)) * scale;
        in.z = e4m3_decode(e4m3_encode(in.z * inverse)) * scale;
        in.w = e4m3_decode(e4m3_encode(in.w * inverse)) * scale;
    }
    *reinterpret_cast<uint2 *>(out + at) =
        SWAP ? make_uint2(pack_bf16(in.x, in.z), pack_bf16(in.y, in.w))
             : make_uint2(pack_bf16(in.x, in.y), pack_bf16(in.z, in.w));
}

template <bool SWAP, bool QUANTISE>
static void launch(struct stream *stream, const struct linear_input *input)
{
    int64_t blocks = input->count / LINEAR_COLUMNS;
    SL_LAUNCH(stream, (linear_input_kernel<SWAP, QUANTISE>), launch_blocks(blocks, WARPS), THREADS,
              0, input->x, input->out, blocks);
}

void linear_input_bf16(struct stream *stream, const struct linear_input *input)
{
    SL_ASSERT(input->count % LINEAR_COLUMNS == 0);
    SL_ASSERT(input->swap || !input->quantise); /* bf16 weights take inputs as they are */
    if (!input->swap)
        launch<false, false>(stream, input);
    else if (input->quantise)
        launch<true, true>(stream, input);
    else
        launch<true, false>(stream, input);
}

/* A warp a block of 128 columns of a token, a block of threads as many tokens side by side. Grid
 * (blocks of columns, groups of WARPS tokens). */
static __global__ void __launch_bounds__(THREADS)
    linear_input_fp8_kernel(const float *x, int32_t tokens, int32_t columns, uint8_t *codes,
                            float *scales)
{
    launch_chain();
    int32_t token = (int32_t)blockIdx.y * WARPS + (int32_t)threadIdx.x / WARP_LANES;
    int lane = (int)threadIdx.x % WARP_LANES;
    if (token >= tokens) return;
    size_t at = (size_t)token * (size_t)columns + blockIdx.x * LINEAR_COLUMNS + (size_t)lane * 4;
    float4 in = *reinterpret_cast<const float4 *>(x + at);
    float scale = block_scale(in);
    float inverse = 1.0f / scale;
    uint32_t word =
        (uint32_t)e4m3_encode(in.x * inverse) | (uint32_t)e4m3_encode(in.y * inverse) << 8 |
        (uint32_t)e4m3_encode(in.z * inverse) << 16 | (uint32_t)e4m3_encode(in.w * inverse) << 24;
    *reinterpret_cast<uint32_t *>(codes + at) = word;
    if (lane == 0) scales[(size_t)blockIdx.x * (size_t)tokens + (size_t)token] = scale;
}

void linear_input_fp8(struct stream *stream, const float *x, int32_t tokens, int32_t columns,
                      uint8_t *codes, float *scales)
{
    SL_ASSERT(columns % LINEAR_COLUMNS == 0);
    dim3 grid((unsigned)(columns / LINEAR_COLUMNS), launch_blocks(tokens, WARPS));
    SL_LAUNCH(stream, linear_input_fp8_kernel, grid, THREADS, 0, x, tokens, columns, codes, scales);
}
