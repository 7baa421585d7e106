/* Matrix product of tokens with a weight in f32, bf16 or fp8, in groups.
 *
 * Differs from the twin by the order of f32 sums alone: rms over rms 1e-6, largest error 2e-6 of
 * the largest output; with `round` that is one bf16 step of an output, rarely. More than 16 tokens
 * on a GPU: the limits in linear_wide.cu and linear_cublas.cu. */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/linear.cuh"

/* Whether two products read the same values of the same input. */
static bool same_input(const struct linear_args *a, const struct linear_args *b)
{
    return a->x == b->x && a->weight.columns == b->weight.columns && a->groups == b->groups &&
           a->weight.format == b->weight.format && a->quantise_input == b->quantise_input;
}

bool linear_many(struct stream *stream, const struct linear_args *items, int32_t count)
{
    bool done[LINEAR_ITEMS_MAX] = {};
    SL_ASSERT(count >= 1 && count <= LINEAR_ITEMS_MAX);
    for (int32_t i = 0; i < count; i++)
        if (!linear_wide_takes(stream, &items[i])) return false;
    for (int32_t i = 0; i < count; i++) {
        struct linear_args ours[LINEAR_ITEMS_MAX], theirs[LINEAR_ITEMS_MAX];
        int32_t our_count = 0, their_count = 0;
        for (int32_t j = i; j < count; j++) {
            if (done[j] || !same_input(&items[i], &items[j])) continue;
            done[j] = true;
            if (cuda_linear_by_cublas(stream, &items[j]))
                theirs[their_count++] = items[j];
            else
                ours[our_count++] = items[j];
        }
        if (our_count > 0) linear_wide(stream, ours, our_count);
        if (their_count > 0) linear_cublas(stream, theirs, their_count);
    }
    return true;
}

extern "C" bool cuda_linear_by_cublas(const struct stream *stream, const struct linear_args *args)
{
    return linear_wide_takes(stream, args) && linear_cublas_takes(stream, args);
}

extern "C" void cuda_linear(struct stream *stream, const struct linear_args *args)
{
    const struct matrix *weight = &args->weight;
    SL_ASSERT(args->groups >= 1 && weight->columns >= 1);
    SL_ASSERT(weight->rows >= args->groups && weight->rows % args->groups == 0);
    SL_ASSERT(weight->format != MATRIX_FP8 || weight->scale != NULL);
    if (args->tokens == 0) return;
    if (linear_many(stream, args, 1)) return;
    if (linear_tiles_fp8(stream, args) || linear_tiles_bf16(stream, args)) return;
    linear_float(stream, args);
}
