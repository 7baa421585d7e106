/* Clamped SwiGLU of routed experts over the tokens that chose them, fp4 weights.
 *
 * Tasks go one after another, each in tiles of tokens: gather and quantise the inputs, multiply w1
 * and w3 together, quantise the middle, multiply w2. The threads share the rows of a product. */
#include "kernels/cpu/activation.h"
#include "kernels/cpu/quantise.h"
#include "kernels/cpu/row_panel.h"
#include "kernels/cpu/stream.h"

/* Some tokens of one task. */
struct expert_tile {
    const struct expert_ffn_args *args;
    const int32_t *token_rows;
    const int32_t *output_rows;
    const float *weights;
    struct weight_rows w1, w2, w3;
    float *x;       /* [tokens, hidden] gathered inputs */
    float *middle;  /* [tokens, width] */
    int32_t tokens; /* at most ROW_PANEL_TOKENS */
};

static struct weight_rows part_rows(const struct expert_layout *layout, const uint8_t *slot,
                                    enum expert_part part, int32_t columns)
{
    return (struct weight_rows){
        .data = slot + layout->offset_bytes[part],
        .scale = slot + layout->offset_bytes[part + 1],
        .format = WEIGHT_FP4,
        .columns = columns,
    };
}

static void gather_token(const void *context, int32_t i)
{
    const struct expert_tile *tile = context;
    int32_t hidden = tile->args->layout->hidden;
    const float *x = tile->args->x + (size_t)tile->token_rows[i] * (size_t)hidden;
    float *target = tile->x + (size_t)i * (size_t)hidden;
    if (tile->args->round)
        quantise_aq128(x, target, hidden);
    else
        memcpy(target, x, (size_t)hidden * sizeof(float));
}

static void quantise_middle(const void *context, int32_t i)
{
    const struct expert_tile *tile = context;
    int32_t width = tile->args->layout->width;
    float *middle = tile->middle + (size_t)i * (size_t)width;
    quantise_aq128(middle, middle, width);
}

static struct row_panel panel_make(const struct weight_rows *weight, const float *x, int32_t tokens,
                                   int32_t idx, int32_t rows)
{
    int32_t row = idx * ROW_PANEL_ROWS;
    return (struct row_panel){
        .weight = weight,
        .x = x,
        .x_stride = (size_t)weight->columns,
        .tokens = tokens,
        .row = row,
        .row_count = min_i32(ROW_PANEL_ROWS, rows - row),
    };
}

static void multiply_gate_up(const void *context, int32_t idx)
{
    const struct expert_tile *tile = context;
    const struct expert_ffn_args *args = tile->args;
    int32_t width = args->layout->width;
    float gate[ROW_PANEL_ROWS][ROW_PANEL_TOKENS];
    float up[ROW_PANEL_ROWS][ROW_PANEL_TOKENS];
    struct row_panel panel = panel_make(&tile->w1, tile->x, tile->tokens, idx, width);
    row_panel_multiply(&panel, gate);
    panel.weight = &tile->w3;
    row_panel_multiply(&panel, up);
    for (int32_t t = 0; t < tile->tokens; t++) {
        float *middle = tile->middle + (size_t)t * (size_t)width + panel.row;
        for (int32_t r = 0; r < panel.row_count; r++) {
            float value = activation_swiglu(quantise_bf16_if(gate[r][t], args->round),
                                            quantise_bf16_if(up[r][t], args->round), args->limit);
            middle[r] = quantise_bf16_if(tile->weights[t] * value, args->round);
        }
    }
}

static void multiply_down(const void *context, int32_t idx)
{
    const struct expert_tile *tile = context;
    const struct expert_ffn_args *args = tile->args;
    int32_t hidden = args->layout->hidden;
    float sums[ROW_PANEL_ROWS][ROW_PANEL_TOKENS];
    struct row_panel panel = panel_make(&tile->w2, tile->middle, tile->tokens, idx, hidden);
    row_panel_multiply(&panel, sums);
    for (int32_t t = 0; t < tile->tokens; t++) {
        float *out = args->out + (size_t)tile->output_rows[t] * (size_t)hidden + panel.row;
        for (int32_t r = 0; r < panel.row_count; r++)
            out[r] = quantise_bf16_if(sums[r][t], args->round);
    }
}

static void run_tile(struct stream *stream, const struct expert_tile *tile)
{
    const struct expert_layout *layout = tile->args->layout;
    stream_run(stream, tile->tokens, gather_token, tile);
    stream_run(stream, ceil_div_i32(layout->width, ROW_PANEL_ROWS), multiply_gate_up, tile);
    if (tile->args->round) stream_run(stream, tile->tokens, quantise_middle, tile);
    stream_run(stream, ceil_div_i32(layout->hidden, ROW_PANEL_ROWS), multiply_down, tile);
}

void cpu_expert_ffn(struct stream *stream, const struct expert_ffn_args *args)
{
    const struct expert_layout *layout = args->layout;
    SL_ASSERT(layout->hidden > 0 && layout->hidden <= STREAM_SCRATCH_FLOATS);
    SL_ASSERT(layout->width > 0);
    int32_t tokens_max = min_i32(ROW_PANEL_TOKENS, STREAM_SCRATCH_FLOATS / layout->hidden);
    for (int32_t i = 0; i < args->task_count; i++) {
        const struct expert_task *task = &args->tasks[i];
        SL_ASSERT(task->count >= 0 && task->count <= args->scratch_rows);
        struct expert_tile tile = {
            .args = args,
            .w1 = part_rows(layout, task->slot, EXPERT_W1, layout->hidden),
            .w2 = part_rows(layout, task->slot, EXPERT_W2, layout->width),
            .w3 = part_rows(layout, task->slot, EXPERT_W3, layout->hidden),
            .x = stream->scratch,
            .middle = args->scratch,
        };
        for (int32_t first = 0; first < task->count; first += tile.tokens) {
            tile.tokens = min_i32(tokens_max, task->count - first);
            tile.token_rows = task->token_rows + first;
            tile.output_rows = task->output_rows + first;
            tile.weights = task->weights + first;
            run_tile(stream, &tile);
        }
    }
}
