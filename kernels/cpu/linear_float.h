/* The linear kernel on f32 inputs for any weight format, as wide as the file that includes it is
 * compiled for. Weights become f32 exactly; up to LINEAR_FLOAT_FEW tokens meet them in registers,
 * more find them decoded in a panel. e4m3 weights are decoded to 1/256 of their values, which is
 * cheaper, and the block's sum multiplied by 256. */
#ifndef SLUICE_KERNELS_CPU_LINEAR_FLOAT_H
#define SLUICE_KERNELS_CPU_LINEAR_FLOAT_H

#include "kernels/cpu/linear_blocked.h"
#include "kernels/cpu/quantise_vector.h"
#include "kernels/cpu/simd.h"

#define LINEAR_FLOAT_FEW    2   /* tokens, also the width of the inner loop */
#define LINEAR_FLOAT_PANEL  512 /* columns: rows of the panel and two inputs fit the L1 cache */
#define LINEAR_FLOAT_BLOCKS (LINEAR_FLOAT_PANEL / LINEAR_BLOCK)

/* Weights are fetched into L2 this far ahead; a pair of lines comes with its first. */
#define LINEAR_FLOAT_AHEAD 4096
#define LINEAR_FLOAT_PAIR  128
#define LINEAR_FLOAT_RUN   1024 /* bytes of a row summed side by side: more scatter the reads */

typedef simd_f32 linear_float_totals[LINEAR_ROWS];

/* 2 * SIMD_LANES weights; those of MATRIX_FP8 divided by 256. */
SIMD_INLINE void linear_float_decode(enum matrix_format format, const uint8_t *p, simd_f32 *out)
{
    if (format == MATRIX_FP8) {
        simd_pair_from_e4m3(p, out);
        return;
    }
    for (int i = 0; i < 2; i++)
        out[i] = format == MATRIX_BF16 ? simd_from_bf16(p + 2 * SIMD_LANES * i)
                                       : simd_load((const float *)(const void *)p + SIMD_LANES * i);
}

/* total + a block's sum times its scale. */
SIMD_INLINE simd_f32 linear_float_add(enum matrix_format format, simd_f32 sum, float scale,
                                      simd_f32 total)
{
    if (format != MATRIX_FP8) return simd_add(sum, total);
    return simd_fma(simd_mul(sum, simd_set1(256.0f)), simd_set1(scale), total);
}

/* kept[t] += `group` blocks of a row times up to LINEAR_FLOAT_FEW tokens, group * tokens <= 8.
 * Their sums grow side by side, which hides how long each product takes. */
SIMD_INLINE void linear_float_group(enum matrix_format format, const uint8_t *data,
                                    const float *scales, int group, const float *x, size_t x_stride,
                                    int tokens, simd_f32 *kept)
{
    size_t bytes = linear_weight_bytes(format);
    simd_f32 sums[8][LINEAR_FLOAT_FEW];
    for (size_t i = 0; i < (size_t)group * LINEAR_BLOCK * bytes; i += LINEAR_FLOAT_PAIR)
        _mm_prefetch((const char *)((uintptr_t)data + LINEAR_FLOAT_AHEAD + i), _MM_HINT_T1);
    for (int b = 0; b < group; b++)
        for (int t = 0; t < tokens; t++)
            sums[b][t] = simd_zero();
    for (int c = 0; c < LINEAR_BLOCK; c += 2 * SIMD_LANES) {
        for (int b = 0; b < group; b++) {
            int column = b * LINEAR_BLOCK + c;
            simd_f32 weights[2];
            linear_float_decode(format, data + (size_t)column * bytes, weights);
            for (int t = 0; t < tokens; t++)
                for (int i = 0; i < 2; i++)
                    sums[b][t] =
                        simd_fma(simd_load(x + (size_t)t * x_stride + column + i * SIMD_LANES),
                                 weights[i], sums[b][t]);
        }
    }
    for (int b = 0; b < group; b++)
        for (int t = 0; t < tokens; t++)
            kept[t] = linear_float_add(format, sums[b][t], scales[b], kept[t]);
}

/* totals[t][r] += `blocks` blocks of row r, one or two tokens. */
SIMD_INLINE void linear_float_blocks(enum matrix_format format, const uint8_t *data,
                                     const float *scales, int32_t blocks, const float *x,
                                     size_t x_stride, int tokens, int r,
                                     linear_float_totals *totals)
{
    size_t block_bytes = LINEAR_BLOCK * linear_weight_bytes(format);
    simd_f32 kept[LINEAR_FLOAT_FEW];
    int group = (int)(LINEAR_FLOAT_RUN / block_bytes) / tokens;
    for (int t = 0; t < tokens; t++)
        kept[t] = totals[t][r];
    int32_t block = 0;
    for (; block + group <= blocks; block += group)
        linear_float_group(format, data + (size_t)block * block_bytes, scales + block, group,
                           x + (size_t)block * LINEAR_BLOCK, x_stride, tokens, kept);
    for (; block < blocks; block++)
        linear_float_group(format, data + (size_t)block * block_bytes, scales + block, 1,
                           x + (size_t)block * LINEAR_BLOCK, x_stride, tokens, kept);
    for (int t = 0; t < tokens; t++)
        totals[t][r] = kept[t];
}

/* Four rows of a matrix, the last repeated when there are fewer. */
struct linear_float_rows {
    const uint8_t *data[LINEAR_ROWS];
    int32_t number[LINEAR_ROWS];
    int32_t columns;
};

/* The rows from `first` of the arguments' on. */
SIMD_INLINE struct linear_float_rows linear_float_take(const struct linear_rows *args,
                                                       enum matrix_format format, int32_t first)
{
    struct linear_float_rows rows = {.columns = args->weight->columns};
    size_t row_bytes = (size_t)rows.columns * linear_weight_bytes(format);
    for (int32_t r = 0; r < LINEAR_ROWS; r++) {
        rows.number[r] = args->row + min_i32(first + r, args->row_count - 1);
        rows.data[r] = (const uint8_t *)args->weight->data + (size_t)rows.number[r] * row_bytes;
    }
    return rows;
}

/* Where the block's bytes are; a partial block is copied to `tail`. */
SIMD_INLINE const uint8_t *linear_float_find(enum matrix_format format,
                                             const struct linear_float_rows *rows, int r,
                                             int32_t block, uint8_t *tail)
{
    size_t bytes = linear_weight_bytes(format);
    const uint8_t *data = rows->data[r] + (size_t)block * LINEAR_BLOCK * bytes;
    int32_t left = rows->columns - block * LINEAR_BLOCK;
    if (left >= LINEAR_BLOCK) return data;
    memset(tail, 0, LINEAR_BLOCK * bytes);
    memcpy(tail, data, (size_t)left * bytes);
    return tail;
}

/* The rows one after the other for one or two tokens, weights decoded in registers. */
SIMD_INLINE void linear_float_few(const struct linear_rows *args, enum matrix_format format,
                                  const struct linear_float_rows *rows, struct linear_span *span,
                                  int tokens, linear_float_totals *totals)
{
    uint8_t tail[4 * LINEAR_BLOCK];
    int32_t blocks = linear_blocks(args->weight);
    int32_t step = tokens == 1 ? LINEAR_SPAN : LINEAR_SPAN_FEW;
    int32_t whole = rows->columns / LINEAR_BLOCK;
    for (int32_t first = 0; first < blocks; first += step) {
        const float *x = (const float *)args->input + (size_t)first * LINEAR_BLOCK;
        int32_t count = min_i32(step, whole - first);
        for (int r = 0; r < LINEAR_ROWS; r++) {
            linear_span_decode(span, args->weight, rows->number[r], first, step);
            linear_float_blocks(format, linear_float_find(format, rows, r, first, tail),
                                span->scales, count, x, args->input_stride, tokens, r, totals);
            if (first + count == blocks || first + step < blocks) continue;
            linear_float_blocks(format, linear_float_find(format, rows, r, whole, tail),
                                span->scales + count, 1, x + (size_t)count * LINEAR_BLOCK,
                                args->input_stride, tokens, r, totals);
        }
    }
}

/* totals[t][r] += one decoded block of four rows times LINEAR_FLOAT_FEW tokens. */
SIMD_INLINE void linear_float_block(enum matrix_format format, float (*weights)[LINEAR_BLOCK],
                                    const float *scales, const float *const *x,
                                    linear_float_totals *totals)
{
    simd_f32 sums[LINEAR_FLOAT_FEW][LINEAR_ROWS];
    for (int t = 0; t < LINEAR_FLOAT_FEW; t++)
        for (int r = 0; r < LINEAR_ROWS; r++)
            sums[t][r] = simd_zero();
    for (int c = 0; c < LINEAR_BLOCK; c += SIMD_LANES) {
        for (int r = 0; r < LINEAR_ROWS; r++) {
            simd_f32 weight = simd_load(&weights[r][c]);
            for (int t = 0; t < LINEAR_FLOAT_FEW; t++)
                sums[t][r] = simd_fma(simd_load(x[t] + c), weight, sums[t][r]);
        }
    }
    for (int t = 0; t < LINEAR_FLOAT_FEW; t++)
        for (int r = 0; r < LINEAR_ROWS; r++)
            totals[t][r] = linear_float_add(format, sums[t][r], scales[r], totals[t][r]);
}

/* All tokens, panel by panel; totals for a whole number of pairs. */
SIMD_INLINE void linear_float_many(const struct linear_rows *args, enum matrix_format format,
                                   const struct linear_float_rows *rows,
                                   linear_float_totals *totals)
{
    _Alignas(64) float panel[LINEAR_FLOAT_BLOCKS][LINEAR_ROWS][LINEAR_BLOCK];
    uint8_t tail[4 * LINEAR_BLOCK];
    float scales[LINEAR_FLOAT_BLOCKS][LINEAR_ROWS];
    size_t bytes = linear_weight_bytes(format);
    int32_t blocks = linear_blocks(args->weight);
    for (int32_t first = 0; first < blocks; first += LINEAR_FLOAT_BLOCKS) {
        int32_t count = min_i32(LINEAR_FLOAT_BLOCKS, blocks - first);
        for (int32_t b = 0; b < count; b++) {
            for (int r = 0; r < LINEAR_ROWS; r++) {
                const uint8_t *data = linear_float_find(format, rows, r, first + b, tail);
                scales[b][r] = linear_scale(args->weight, rows->number[r], first + b);
                for (int c = 0; c < LINEAR_BLOCK; c += 2 * SIMD_LANES) {
                    simd_f32 weights[2];
                    linear_float_decode(format, data + (size_t)c * bytes, weights);
                    simd_store(&panel[b][r][c], weights[0]);
                    simd_store(&panel[b][r][c + SIMD_LANES], weights[1]);
                }
            }
        }
        for (int32_t t = 0; t < args->tokens; t += LINEAR_FLOAT_FEW) {
            const float *input = (const float *)args->input + (size_t)first * LINEAR_BLOCK;
            for (int32_t b = 0; b < count; b++, input += LINEAR_BLOCK) {
                const float *x[LINEAR_FLOAT_FEW];
                for (int i = 0; i < LINEAR_FLOAT_FEW; i++)
                    x[i] = input + (size_t)min_i32(t + i, args->tokens - 1) * args->input_stride;
                linear_float_block(format, panel[b], scales[b], x, totals + t);
            }
        }
    }
}

/* Writes the folded totals of up to four rows, from `first` of the arguments' on. */
SIMD_INLINE void linear_float_finish(const struct linear_rows *args, int32_t first,
                                     const linear_float_totals *totals)
{
    int32_t count = min_i32(LINEAR_ROWS, args->row_count - first);
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
    struct linear_span span = {.count = 0};
    for (int32_t first = 0; first < args->row_count; first += LINEAR_ROWS) {
        struct linear_float_rows rows = linear_float_take(args, format, first);
        memset(totals, 0, sizeof totals[0] * (size_t)(args->tokens + LINEAR_FLOAT_FEW - 1));
        if (args->tokens == 1)
            linear_float_few(args, format, &rows, &span, 1, totals);
        else if (args->tokens == 2)
            linear_float_few(args, format, &rows, &span, 2, totals);
        else
            linear_float_many(args, format, &rows, totals);
        linear_float_finish(args, first, totals);
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
