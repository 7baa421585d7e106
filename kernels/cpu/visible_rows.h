/* The rows a query sees, in the order in which attention takes them: the window from its oldest
 * position on, then compressed rows. */
#ifndef SLUICE_KERNELS_CPU_VISIBLE_ROWS_H
#define SLUICE_KERNELS_CPU_VISIBLE_ROWS_H

#include "kernels/cpu/row_codec.h"

/* Rows a query sees: the window from `oldest` on, then `compressed_count` rows. */
struct visible_rows {
    const struct attention_args *args;
    const int32_t *selected; /* of this token, or NULL */
    size_t row_bytes;
    int32_t oldest;
    int32_t window_count;
    int32_t compressed_count;
};

static inline struct visible_rows visible_rows_make(const struct attention_args *args, int32_t t)
{
    int32_t position = args->positions[t];
    int32_t oldest = max_i32(0, position - args->window + 1);
    struct visible_rows visible = {
        .args = args,
        .row_bytes = row_format_bytes(&args->format),
        .oldest = oldest,
        .window_count = position + 1 - oldest,
    };
    SL_ASSERT(position >= 0);
    if (args->ratio == 0) return visible;
    if (!args->selected) {
        visible.compressed_count = (position + 1) / args->ratio;
        return visible;
    }
    visible.selected = args->selected + (size_t)t * (size_t)args->top;
    while (visible.compressed_count < args->top && visible.selected[visible.compressed_count] >= 0)
        visible.compressed_count++;
    return visible;
}

static inline const uint8_t *visible_row(const struct visible_rows *visible, int32_t idx)
{
    const struct attention_args *args = visible->args;
    if (idx < visible->window_count) {
        int32_t slot = (visible->oldest + idx) % args->window_capacity;
        return args->window_rows + (size_t)slot * visible->row_bytes;
    }
    int32_t row = idx - visible->window_count;
    if (visible->selected) row = visible->selected[row];
    return args->rows + (size_t)row * visible->row_bytes;
}

/* The shapes of the op that rows depend on. */
static inline void visible_rows_check(const struct attention_args *args)
{
    SL_ASSERT(row_codec_supported(&args->format));
    SL_ASSERT(row_codec_width(&args->format) == args->width);
    SL_ASSERT(args->heads >= 1 && args->ratio >= 0);
    SL_ASSERT(args->window >= 0 && args->window <= args->window_capacity);
    SL_ASSERT(args->ratio == 0 || args->rows != NULL);
}

#endif
