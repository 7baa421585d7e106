/* Weightless RMS norm of query heads. With `round` each elementary step is a bf16 value, as in the
 * published program; the steps change the common factor of a head by up to 0.4%. */
#include "kernels/cpu/rms.h"
#include "kernels/cpu/stream.h"

/* Heads a work item handles: enough to outweigh handing it out. */
#define ROWS_PER_ITEM 16

static float inverse_in_bf16(const float *x, int32_t width, float epsilon)
{
    float squares[OPS_HEAD_DIM_MAX];
    for (int32_t i = 0; i < width; i++)
        squares[i] = x[i] * x[i];
    quantise_bf16_row(squares, squares, width);
    float mean = bf16_round(dot_sum_f32(squares, width) / (float)width);
    float shifted = bf16_round(mean + epsilon);
    return bf16_round(1.0f / sqrtf(shifted));
}

static void head_norm_rows(const void *context, int32_t item)
{
    const struct head_norm_args *args = context;
    int32_t end = min_i32((item + 1) * ROWS_PER_ITEM, args->rows);
    for (int32_t row = item * ROWS_PER_ITEM; row < end; row++) {
        float *x = args->x + (size_t)row * (size_t)args->width;
        float inverse = args->round ? inverse_in_bf16(x, args->width, args->epsilon)
                                    : rms_inverse(x, args->width, args->epsilon);
        for (int32_t i = 0; i < args->width; i++)
            x[i] *= inverse;
        if (args->round) quantise_bf16_row(x, x, args->width);
    }
}

void cpu_head_norm(struct stream *stream, const struct head_norm_args *args)
{
    SL_ASSERT(args->width >= 1 && args->width <= OPS_HEAD_DIM_MAX);
    SL_ASSERT(args->rows >= 0);
    stream_run(stream, ceil_div_i32(args->rows, ROWS_PER_ITEM), head_norm_rows, args);
}
