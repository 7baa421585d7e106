/* The linear kernel on f32 inputs for any weight format, as wide as the file that includes it is
 * compiled for. Weights become f32 exactly; up to LINEAR_FLOAT_FEW tokens meet them in registers,
 * more find them decoded in a panel. */
#ifndef SLUICE_KERNELS_CPU_LINEAR_FLOAT_H
#define SLUICE_KERNELS_CPU_LINEAR_FLOAT_H

#include "kernels/cpu/linear_blocked.h"
#include "kernels/cpu/quantise_vector.h"
#include "kernels/cpu/simd.h"

#define LINEAR_FLOAT_FEW    2   /* tokens, also the width of the inner loop */
#define LINEAR_FLOAT_PANEL  512 /* columns: rows of the panel and two inputs fit the L1 cache */
#define LINEAR_FLOAT_BLOCKS (LINEAR_FLOAT_PANEL / LINEAR_BLOCK)

typedef simd_f32 linear_float_totals[LINEAR_ROWS];

SIMD_INLINE simd_f32 linear_float_decode(enum matrix_format format, const uint8_t *p)
{
    if (format == MATRIX_F32) return simd_load((const float *)(const void *)p);
    if (format == MATRIX_BF16) return simd_from_bf16(p);
    return simd_from_e4m3(p);
}

/* totals[t][r] += the block's products; `weights` are four rows of one block in `format`. */
SIMD_INLINE void linear_float_block(enum matrix_format format, const uint8_t *const *weights,
                                    const float *scales, const float *const *x, int tokens,
                                    linear_float_totals *totals)
{
    simd_f32 sums[LINEAR_FLOAT_FEW][LINEAR_ROWS];
    size_t bytes = linear_weight_bytes(format);
    for (int t = 0; t < tokens; t++)
        for (int r = 0; r < LINEAR_ROWS; r++)
            sums[t][r] = simd_zero();
    for (int c = 0; c < LINEAR_BLOCK; c += SIMD_LANES) {
        for (int r = 0; r < LINEAR_ROWS; r++) {
            simd_f32 weight = linear_float_decode(format, weights[r] + (size_t)c * bytes);
            for (int t = 0; t < tokens; t++)
                sums[t][r] = simd_fma(simd_load(x[t] + c), weight, sums[t][r]);
        }
    }
    for (int t = 0; t < tokens; t++)
        for (int r = 0; r < LINEAR_ROWS; r++)
            totals[t][r] = simd_fma(sums[t][r], simd_set1(scales[r]), totals[t][r]);
}

/* Four rows of a matrix, the last repeated when there are fewer. */
struct linear_float_rows {
    const uint8_t *data[LINEAR_ROWS];
    int32_t number[LINEAR_ROWS];
    int32_t columns;
};

/* Where the block's bytes are and its scales; a partial block is copied to `tail`. */
SIMD_INLINE void linear_float_find(const struct matrix *weight, enum matrix_format format,
                                   const struct linear_float_rows *rows, int32_t block,
                                   uint8_t (*tail)[4 * LINEAR_BLOCK], const uint8_t **data,
                                   float *scales)
{
    size_t bytes = linear_weight_bytes(format);
    int32_t left = rows->columns - block * LINEAR_BLOCK;
    for (int r = 0; r < LINEAR_ROWS; r++) {
        data[r] = rows->data[r] + (size_t)block * LINEAR_BLOCK * bytes;
        scales[r] = linear_scale(weight, rows->number[r], block);
        if (left >= LINEAR_BLOCK) continue;
        memset(tail[r], 0, LINEAR_BLOCK * bytes);
        memcpy(tail[r], data[r], (size_t)left * bytes);
        data[r] = tail[r];
    }
}

SIMD_INLINE void linear_float_prefetch(const uint8_t *const *data, size_t ahead, size_t bytes)
{
    for (int r = 0; r < LINEAR_ROWS; r++)
        for (size_t i = 0; i < bytes; i += 64)
            _mm_prefetch((const char *)data[r] + ahead + i, _MM_HINT_T0);
}

/* All columns for one or two tokens, weights decoded in registers. */
SIMD_INLINE void linear_float_few(const struct linear_rows *args, enum matrix_format format,
                                  const struct linear_float_rows *rows, int tokens,
                                  linear_float_totals *totals)
{
    uint8_t tail[LINEAR_ROWS][4 * LINEAR_BLOCK];
    size_t bytes = LINEAR_BLOCK * linear_weight_bytes(format);
    size_t ahead = LINEAR_ROWS * (size_t)rows->columns * linear_weight_bytes(format);
    int32_t whole = rows->columns / LINEAR_BLOCK;
    const uint8_t *data[LINEAR_ROWS];
    const float *x[LINEAR_FLOAT_FEW];
    float scales[LINEAR_ROWS];
    for (int r = 0; r < LINEAR_ROWS; r++)
        data[r] = rows->data[r];
    for (int t = 0; t < tokens; t++)
        x[t] = (const float *)args->input + (size_t)t * args->input_stride;
    for (int32_t block = 0; block < whole; block++) {
        linear_float_prefetch(data, ahead, bytes);
        for (int r = 0; r < LINEAR_ROWS; r++)
            scales[r] = linear_scale(args->weight, rows->number[r], block);
        linear_float_block(format, data, scales, x, tokens, totals);
        for (int r = 0; r < LINEAR_ROWS; r++)
            data[r] += bytes;
        for (int t = 0; t < tokens; t++)
            x[t] += LINEAR_BLOCK;
    }
    if (whole == linear_blocks(args->weight)) return;
    linear_float_find(args->weight, format, rows, whole, tail, data, scales);
    linear_float_block(format, data, scales, x, tokens, totals);
}

/* All tokens, panel by panel; totals for a whole number of pairs. */
SIMD_INLINE void linear_float_many(const struct linear_rows *args, enum matrix_format format,
                                   const struct linear_float_rows *rows,
                                   linear_float_totals *totals)
{
    _Alignas(64) float panel[LINEAR_FLOAT_BLOCKS][LINEAR_ROWS][LINEAR_BLOCK];
    uint8_t tail[LINEAR_ROWS][4 * LINEAR_BLOCK];
    float scales[LINEAR_FLOAT_BLOCKS][LINEAR_ROWS];
    size_t bytes = linear_weight_bytes(format);
    int32_t blocks = linear_blocks(args->weight);
    for (int32_t first = 0; first < blocks; first += LINEAR_FLOAT_BLOCKS) {
        int32_t count = min_i32(LINEAR_FLOAT_BLOCKS, blocks - first);
        for (int32_t b = 0; b < count; b++) {
            const uint8_t *data[LINEAR_ROWS];
            linear_float_find(args->weight, format, rows, first + b, tail, data, scales[b]);
            for (int r = 0; r < LINEAR_ROWS; r++)
                for (int c = 0; c < LINEAR_BLOCK; c += SIMD_LANES)
                    simd_store(&panel[b][r][c],
                               linear_float_decode(format, data[r] + (size_t)c * bytes));
        }
        for (int32_t t = 0; t < args->tokens; t += LINEAR_FLOAT_FEW) {
            const float *input = (const float *)args->input + (size_t)first * LINEAR_BLOCK;
            for (int32_t b = 0; b < count; b++, input += LINEAR_BLOCK) {
                const uint8_t *data[LINEAR_ROWS];
                const float *x[LINEAR_FLOAT_FEW];
                for (int r = 0; r < LINEAR_ROWS; r++)
                    data[r] = (const uint8_t *)panel[b][r];
                for (int i = 0; i < LINEAR_FLOAT_FEW; i++)
                    x[i] = input + (size_t)min_i32(t + i, args->tokens - 1) * args->input_stride;
                linear_float_block(MATRIX_F32, data, scales[b], x, LINEAR_FLOAT_FEW, totals + t);
            }
        }
    }
}

/* Writes the folded totals of up to four rows. */
SIMD_INLINE void linear_float_finish(const struct linear_rows *args, int32_t first, int32_t count,
                                     const linear_float_totals *totals)
{
    for (int32_t t = 0; t < args->tokens; t++) {
        float sums[LINEAR_ROWS];
        const simd_f32 *lanes = totals[t];
        _mm_storeu_ps(sums, simd_sum4(lanes[0], lanes[1], lanes[2], lanes[3]));
        for (int32_t r = 0; r < count; r++)
            args->out[(size_t)t * args->out_stride + (size_t)(first + r)] =
                quantise_bf16_if(sums[r], args->round);
    }
}

SIMD_INLINE void linear_float_rows_of(const struct linear_rows *args, enum matrix_format format)
{
    linear_float_totals totals[LINEAR_TOKENS_MAX + LINEAR_FLOAT_FEW];
    size_t row_bytes = (size_t)args->weight->columns * linear_weight_bytes(format);
    for (int32_t first = 0; first < args->row_count; first += LINEAR_ROWS) {
        struct linear_float_rows rows = {.columns = args->weight->columns};
        int32_t count = min_i32(LINEAR_ROWS, args->row_count - first);
        for (int32_t r = 0; r < LINEAR_ROWS; r++) {
            rows.number[r] = args->row + first + min_i32(r, count - 1);
            rows.data[r] = (const uint8_t *)args->weight->data + (size_t)rows.number[r] * row_bytes;
        }
        memset(totals, 0, sizeof totals[0] * (size_t)(args->tokens + LINEAR_FLOAT_FEW - 1));
        if (args->tokens == 1)
            linear_float_few(args, format, &rows, 1, totals);
        else if (args->tokens == 2)
            linear_float_few(args, format, &rows, 2, totals);
        else
            linear_float_many(args, format, &rows, totals);
        linear_float_finish(args, first, count, totals);
    }
}

static void linear_float_multiply(const struct linear_rows *args)
{
    SL_DEBUG_ASSERT(args->tokens >= 1 && args->tokens <= LINEAR_TOKENS_MAX);
    switch (args->weight->format) {
    case MATRIX_F32: linear_float_rows_of(args, MATRIX_F32); break;
    case MATRIX_BF16: linear_float_rows_of(args, MATRIX_BF16); break;
    case MATRIX_FP8: linear_float_rows_of(args, MATRIX_FP8); break;
    }
}

static void linear_float_prepare(const float *x, int32_t columns, bool quantise, void *input)
{
    quantise_vector_input(x, columns, quantise, input);
}

static const struct linear_kernel linear_float_kernel = {
    .prepare = linear_float_prepare,
    .multiply = linear_float_multiply,
    .input_bytes = sizeof(float),
    .takes_f32_inputs = true,
};

#endif
