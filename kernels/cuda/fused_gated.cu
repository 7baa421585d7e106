/* The gate and the other product of a SwiGLU and what comes of both, in one launch: a block makes
 * the same rows of the two, so that neither is written. The same bits as linear twice and swiglu.
 */
#include "kernels/cuda/linear_tiles.cuh"
#include "kernels/fused.h"

static __global__ void __launch_bounds__(TILE_THREADS, 2)
    gated_kernel(const struct linear_args args, const struct tile_plan plan,
                 const struct tile_gate gate)
{
    struct tile_share share = {(int32_t)blockIdx.x, (int32_t)gridDim.x, 0};
    multiply_tiles<fp8_quantised, true>(args, plan, share, gate);
}

static void check(const struct fused_gated_args *args)
{
    const struct linear_args *gate = &args->gate, *up = &args->up;
    const struct swiglu_args *swiglu = &args->swiglu;
    SL_ASSERT(gate->x == up->x && gate->tokens == up->tokens && gate->tokens == swiglu->tokens);
    SL_ASSERT(gate->weight.rows == up->weight.rows && gate->weight.columns == up->weight.columns);
    SL_ASSERT(gate->weight.rows == swiglu->width && gate->round == swiglu->round);
    SL_ASSERT(gate->round == up->round && gate->quantise_input == up->quantise_input);
    SL_ASSERT(swiglu->gate == gate->out && swiglu->up == up->out);
}

static bool takes(const struct linear_args *args)
{
    return args->groups == 1 && args->tokens <= TILE_TOKENS && linear_tiles_fit(args) &&
           args->weight.format == MATRIX_FP8 && args->quantise_input;
}

extern "C" bool cuda_fused_gated(struct stream *stream, const struct fused_gated_args *args)
{
    struct linear_args linear = args->gate;
    struct tile_gate gate = {args->up.weight, args->swiglu.limit};
    check(args);
    if (!takes(&args->gate) || !takes(&args->up)) return false;
    struct tile_plan plan = plan_tiles(stream, &linear, fp8_quantised::DEPTH);
    size_t bytes = tile_bytes<fp8_quantised>(&linear, &plan, linear.tokens) +
                   sizeof(float) * TILE_WARPS * TILE_TOKENS * TILE_ROWS;
    size_t room = (size_t)stream->shared_bytes_max;
    if (bytes > room) return false;
    if (linear.tokens == 0) return true;
    plan.tokens = linear.tokens;
    linear.out = args->swiglu.out;
    int32_t blocks = min_i32(plan.steps, stream->processors * (2 * bytes > room ? 1 : 2));
    SL_ALLOW_SHARED(stream, gated_kernel, bytes);
    SL_LAUNCH(stream, gated_kernel, (unsigned)blocks, TILE_THREADS, bytes, linear, plan, gate);
    return true;
}
