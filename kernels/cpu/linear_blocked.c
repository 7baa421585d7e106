/* Tiles of tokens and blocks of rows for the vector variants of linear; see the header. */
#include "kernels/cpu/linear_blocked.h"

#include "kernels/cpu/stream.h"

/* Weights of a work item: long enough to outweigh handing it out, short enough to share well. */
#define ITEM_BYTES_MIN (16 << 10)
#define ITEM_BYTES_MAX (128 << 10)
#define ITEMS          32 /* of a matrix between those */

struct linear_tile {
    const struct linear_args *args;
    const struct linear_kernel *kernel;
    const float *x; /* [tokens, groups * columns], as the caller gave it */
    void *prepared; /* [tokens, groups, whole blocks]; NULL when x itself will do */
    float *out;     /* [tokens, rows] */
    size_t padded;  /* columns of a group, in whole blocks */
    int32_t tokens;
    int32_t rows_per_group;
    int32_t rows_per_item;
    int32_t items_per_group;
};

static void prepare_token(const void *context, int32_t t)
{
    const struct linear_tile *tile = context;
    int32_t columns = tile->args->weight.columns;
    for (int32_t g = 0; g < tile->args->groups; g++) {
        size_t idx = (size_t)t * (size_t)tile->args->groups + (size_t)g;
        uint8_t *input = (uint8_t *)tile->prepared + idx * tile->padded * tile->kernel->input_bytes;
        tile->kernel->prepare(tile->x + idx * (size_t)columns, columns, tile->args->quantise_input,
                              input);
    }
}

static void multiply_item(const void *context, int32_t idx)
{
    const struct linear_tile *tile = context;
    int32_t group = idx / tile->items_per_group;
    int32_t first = idx % tile->items_per_group * tile->rows_per_item;
    const uint8_t *input = tile->prepared ? tile->prepared : tile->x;
    struct linear_rows rows = {
        .weight = &tile->args->weight,
        .input = input + (size_t)group * tile->padded * tile->kernel->input_bytes,
        .input_stride = (size_t)tile->args->groups * tile->padded,
        .out_stride = (size_t)tile->args->weight.rows,
        .tokens = tile->tokens,
        .row = group * tile->rows_per_group + first,
        .row_count = min_i32(tile->rows_per_item, tile->rows_per_group - first),
        .round = tile->args->round,
    };
    rows.out = tile->out + rows.row;
    tile->kernel->multiply(&rows);
}

void linear_blocked_run(struct stream *stream, const struct linear_args *args,
                        const struct linear_kernel *kernel)
{
    const struct matrix *weight = &args->weight;
    SL_ASSERT(args->groups >= 1 && weight->columns >= 1);
    SL_ASSERT(weight->rows >= args->groups && weight->rows % args->groups == 0);
    SL_ASSERT(weight->format != MATRIX_FP8 || weight->scale != NULL);
    size_t row_bytes = (size_t)weight->columns * linear_weight_bytes(weight->format);
    struct linear_tile tile = {
        .args = args,
        .kernel = kernel,
        .padded = (size_t)linear_blocks(weight) * LINEAR_BLOCK,
        .rows_per_group = weight->rows / args->groups,
    };
    bool direct =
        kernel->takes_f32_inputs && !args->quantise_input && tile.padded == (size_t)weight->columns;
    size_t token_bytes = (size_t)args->groups * tile.padded * kernel->input_bytes;
    size_t tokens_max = LINEAR_TOKENS_MAX;
    if (!direct) {
        tile.prepared = stream->scratch;
        tokens_max = STREAM_SCRATCH_FLOATS * sizeof(float) / token_bytes;
        SL_ASSERT(tokens_max >= 1);
        if (tokens_max > LINEAR_TOKENS_MAX) tokens_max = LINEAR_TOKENS_MAX;
    }
    size_t item_bytes = row_bytes * (size_t)weight->rows / ITEMS;
    if (item_bytes < ITEM_BYTES_MIN) item_bytes = ITEM_BYTES_MIN;
    if (item_bytes > ITEM_BYTES_MAX) item_bytes = ITEM_BYTES_MAX;
    size_t item_rows = item_bytes / row_bytes / LINEAR_ROWS * LINEAR_ROWS;
    tile.rows_per_item = item_rows < LINEAR_ROWS ? LINEAR_ROWS : (int32_t)item_rows;
    tile.items_per_group = ceil_div_i32(tile.rows_per_group, tile.rows_per_item);
    for (int32_t first = 0; first < args->tokens; first += tile.tokens) {
        tile.tokens = min_i32((int32_t)tokens_max, args->tokens - first);
        tile.x = args->x + (size_t)first * (size_t)args->groups * (size_t)weight->columns;
        tile.out = args->out + (size_t)first * (size_t)weight->rows;
        if (tile.prepared) stream_run(stream, tile.tokens, prepare_token, &tile);
        stream_run(stream, args->groups * tile.items_per_group, multiply_item, &tile);
    }
}
