/* Matrix product of tokens with a weight in f32, bf16 or fp8, in groups.
 *
 * Differs from the twin by the order of f32 sums alone: rms over rms 1e-6, largest error 2e-6 of
 * the largest output; with `round` that is one bf16 step of an output, rarely. More than 16 tokens
 * on a GPU: the limit in linear_wide.cu. */
#include "kernels/cuda/linear.cuh"

extern "C" void cuda_linear(struct stream *stream, const struct linear_args *args)
{
    const struct matrix *weight = &args->weight;
    SL_ASSERT(args->groups >= 1 && weight->columns >= 1);
    SL_ASSERT(weight->rows >= args->groups && weight->rows % args->groups == 0);
    SL_ASSERT(weight->format != MATRIX_FP8 || weight->scale != NULL);
    if (args->tokens == 0) return;
    if (linear_wide(stream, args, 1)) return;
    if (linear_tiles_fp8(stream, args) || linear_tiles_bf16(stream, args)) return;
    linear_float(stream, args);
}
