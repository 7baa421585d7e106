/* bf16 inputs of products with many tokens: bounded by memory, four bytes read and two written a
 * number. */
#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/linear_input.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/numerics.cuh"
#include "kernels/cuda/reduce.cuh"

#define WARPS   8
#define THREADS (WARPS * WARP_LANES)

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
        float amax = amax_step(amax_step(amax_step(amax_step(0.0f, in.x), in.y), in.z), in.w);
        float scale = lowp_fp8_scale(warp_max(amax));
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
