/* Matrix product of tokens with a weight in f32, bf16 or fp8, in groups. */
#include "kernels/cpu/quantise.h"
#include "kernels/cpu/row_panel.h"
#include "kernels/cpu/stream.h"

/* A tile of tokens against the whole weight. */
struct linear_tile {
    const struct linear_args *args;
    struct weight_rows weight;
    const float *x;         /* [tokens, groups * columns], as the caller gave it */
    float *quantised;       /* the same, through e4m3; NULL without quantisation */
    float *out;             /* [tokens, rows] */
    int32_t tokens;         /* at most ROW_PANEL_TOKENS */
    int32_t rows_per_group; /* R */
    int32_t panels_per_group;
};

static void quantise_token(const void *context, int32_t t)
{
    const struct linear_tile *tile = context;
    int32_t columns = tile->args->weight.columns;
    for (int32_t g = 0; g < tile->args->groups; g++) {
        size_t first = ((size_t)t * (size_t)tile->args->groups + (size_t)g) * (size_t)columns;
        quantise_aq128(tile->x + first, tile->quantised + first, columns);
    }
}

static void multiply_panel(const void *context, int32_t idx)
{
    const struct linear_tile *tile = context;
    const struct matrix *weight = &tile->args->weight;
    float sums[ROW_PANEL_ROWS][ROW_PANEL_TOKENS];
    int32_t group = idx / tile->panels_per_group;
    int32_t row_in_group = idx % tile->panels_per_group * ROW_PANEL_ROWS;
    const float *x = tile->quantised ? tile->quantised : tile->x;
    struct row_panel panel = {
        .weight = &tile->weight,
        .x = x + (size_t)group * (size_t)weight->columns,
        .x_stride = (size_t)tile->args->groups * (size_t)weight->columns,
        .tokens = tile->tokens,
        .row = group * tile->rows_per_group + row_in_group,
        .row_count = min_i32(ROW_PANEL_ROWS, tile->rows_per_group - row_in_group),
    };
    row_panel_multiply(&panel, sums);
    for (int32_t t = 0; t < tile->tokens; t++) {
        float *out = tile->out + (size_t)t * (size_t)weight->rows + panel.row;
        for (int32_t r = 0; r < panel.row_count; r++)
            out[r] = quantise_bf16_if(sums[r][t], tile->args->round);
    }
}

static enum weight_format weight_format_of(enum matrix_format format)
{
    switch (format) {
    case MATRIX_F32: return WEIGHT_F32;
    case MATRIX_BF16: return WEIGHT_BF16;
    case MATRIX_FP8: return WEIGHT_FP8;
    }
    abort(); /* not a value of the enum */
}

void cpu_linear(struct stream *stream, const struct linear_args *args)
{
    const struct matrix *weight = &args->weight;
    SL_ASSERT(args->groups >= 1 && weight->columns >= 1);
    SL_ASSERT(weight->rows >= args->groups && weight->rows % args->groups == 0);
    SL_ASSERT(weight->format != MATRIX_FP8 || weight->scale != NULL);
    size_t x_stride = (size_t)args->groups * (size_t)weight->columns;
    SL_ASSERT(!args->quantise_input || x_stride <= STREAM_SCRATCH_FLOATS);

    struct linear_tile tile = {
        .args = args,
        .weight = {weight->data, weight->scale, weight_format_of(weight->format), weight->columns},
        .quantised = args->quantise_input ? stream->scratch : NULL,
        .rows_per_group = weight->rows / args->groups,
    };
    tile.panels_per_group = ceil_div_i32(tile.rows_per_group, ROW_PANEL_ROWS);
    size_t tokens_max = ROW_PANEL_TOKENS;
    if (args->quantise_input && tokens_max * x_stride > STREAM_SCRATCH_FLOATS)
        tokens_max = STREAM_SCRATCH_FLOATS / x_stride;
    for (int32_t first = 0; first < args->tokens; first += tile.tokens) {
        tile.tokens = min_i32((int32_t)tokens_max, args->tokens - first);
        tile.x = args->x + (size_t)first * x_stride;
        tile.out = args->out + (size_t)first * (size_t)weight->rows;
        if (tile.quantised) stream_run(stream, tile.tokens, quantise_token, &tile);
        stream_run(stream, args->groups * tile.panels_per_group, multiply_panel, &tile);
    }
}
