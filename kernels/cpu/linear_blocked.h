/* What the vector variants of linear share: tiles of tokens, their inputs in the form a kernel
 * wants, and rows handed out to threads.
 *
 * Every sum of a kernel is built in blocks of LINEAR_BLOCK columns: the lanes of a block in column
 * order, times the block's scale, added to the lanes of the total; at the end the lanes are folded.
 * So it depends on its row and token alone. Memory is the stream's scratch and the stack. */
#ifndef SLUICE_KERNELS_CPU_LINEAR_BLOCKED_H
#define SLUICE_KERNELS_CPU_LINEAR_BLOCKED_H

#include "kernels/cpu/quantise.h"
#include "kernels/ops.h"

#define LINEAR_BLOCK      LOWP_FP8_BLOCK
#define LINEAR_ROWS       4   /* rows a kernel works on together */
#define LINEAR_TOKENS_MAX 256 /* of a tile */
#define LINEAR_SPAN       256 /* blocks of a row that one token goes through at once */
#define LINEAR_SPAN_FEW   8 /* with more tokens: their inputs stay in the L1 cache for four rows */

/* Some rows of one group, against all tokens of a tile. */
struct linear_rows {
    const struct matrix *weight;
    const void *input;   /* [tokens, ..], whole blocks, zero beyond the last column */
    size_t input_stride; /* elements from one token to the next */
    float *out;          /* [tokens, ..]; column 0 is row `row` */
    size_t out_stride;
    int32_t tokens;
    int32_t row, row_count;
    bool round;
};

struct linear_kernel {
    /* One token's input of one group: x [columns] to [whole blocks] elements. */
    void (*prepare)(const float *x, int32_t columns, bool quantise, void *input);
    void (*multiply)(const struct linear_rows *rows);
    size_t input_bytes;    /* of an element */
    bool takes_f32_inputs; /* f32 in whole blocks, not quantised, needs no preparing */
};

static inline int32_t linear_blocks(const struct matrix *weight)
{
    return ceil_div_i32(weight->columns, LINEAR_BLOCK);
}

/* Scale of a row's block; 1 for formats without. */
static inline float linear_scale(const struct matrix *weight, int32_t row, int32_t block)
{
    if (weight->format != MATRIX_FP8) return 1.0f;
    size_t tile = (size_t)(row / LINEAR_BLOCK) * (size_t)linear_blocks(weight) + (size_t)block;
    return e8m0_decode(weight->scale[tile]);
}

/* Bytes of an element of the weight. */
static inline size_t linear_weight_bytes(enum matrix_format format)
{
    return format == MATRIX_F32 ? 4 : format == MATRIX_BF16 ? 2 : 1;
}

/* Decoded scales of blocks first .. first + count - 1 in one row of tiles. */
struct linear_span {
    float scales[LINEAR_SPAN];
    int32_t first, count, tile; /* count 0: nothing decoded */
};

/* Makes the span hold the scales of `row` from block `first` on, up to `count_max` of them; only of
 * MATRIX_FP8. */
static inline void linear_span_decode(struct linear_span *span, const struct matrix *weight,
                                      int32_t row, int32_t first, int32_t count_max)
{
    int32_t tile = row / LINEAR_BLOCK;
    if (weight->format != MATRIX_FP8) return;
    if (span->count > 0 && first == span->first && tile == span->tile) return;
    span->first = first;
    span->tile = tile;
    span->count = min_i32(count_max, linear_blocks(weight) - first);
    const uint8_t *codes =
        weight->scale + (size_t)tile * (size_t)linear_blocks(weight) + (size_t)first;
    for (int32_t i = 0; i < span->count; i++)
        span->scales[i] = e8m0_decode(codes[i]);
}

/* The op, by a kernel. */
void linear_blocked_run(struct stream *stream, const struct linear_args *args,
                        const struct linear_kernel *kernel);

#endif
