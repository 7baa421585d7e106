/* The steps around the products of production experts; see the header. */
#include "kernels/cpu/expert_batch.h"

#include "kernels/cpu/stream.h"
#include "kernels/lowp.h"

#define ENTRIES_MAX     64  /* experts in one batch */
#define GATE_UP_ROWS    128 /* of one share of work: a block of activation quantisation */
#define DOWN_ROWS       64
#define ROWS_IN_CACHE   64 /* whose weights, with eight tokens' inputs, stay in an L2 of 512 KiB */
#define MIDDLE_TOKENS   64 /* whose middle rows a share keeps at once */
#define PACK_ALONE_MAX  8  /* rows quantised sooner than another thread wakes */
#define PANEL_BYTES_MAX 112

/* Some tokens of one task; its panels are those of pairs pair .. pair + count - 1. */
struct entry {
    const struct expert_task *task;
    int32_t first, count, pair;
};

struct batch {
    const struct expert_ffn_args *args;
    const struct expert_kernel *kernel;
    uint8_t *inputs;  /* [pairs, hidden] packed */
    uint8_t *middles; /* [pairs, width] packed */
    int32_t pair_count, pairs_max, entry_count;
    struct entry entries[ENTRIES_MAX];
};

static size_t packed_bytes(const struct expert_kernel *kernel, int32_t columns)
{
    return (size_t)(columns / EXPERT_TILE_COLUMNS) * kernel->panel_bytes;
}

/* The panel of an entry's tokens from `token` on, a multiple of EXPERT_BLOCK_TOKENS. */
static struct expert_panel panel_of(const struct batch *batch, const struct entry *entry,
                                    uint8_t *panels, int32_t columns, int32_t token)
{
    return (struct expert_panel){
        .data = panels + (size_t)(entry->pair + token) * packed_bytes(batch->kernel, columns),
        .tokens = min_i32(EXPERT_BLOCK_TOKENS, entry->count - token),
    };
}

static struct expert_band band_of(const struct batch *batch, const struct entry *entry,
                                  enum expert_part part, int32_t columns, int32_t row)
{
    const struct expert_layout *layout = batch->args->layout;
    const uint8_t *slot = entry->task->slot;
    size_t tile = expert_layout_tile(columns, row, 0);
    return (struct expert_band){
        .codes = slot + layout->offset_bytes[part] + tile * EXPERT_TILE_BYTES,
        .scales = slot + layout->offset_bytes[part + 1] + tile * EXPERT_TILE_ROWS,
        .tiles = columns / EXPERT_TILE_COLUMNS,
    };
}

static void pack_input(const void *context, int32_t pair)
{
    const struct batch *batch = context;
    const struct entry *entry = batch->entries;
    int32_t hidden = batch->args->layout->hidden;
    while (pair >= entry->pair + entry->count)
        entry++;
    int32_t i = pair - entry->pair;
    int32_t lane = i % EXPERT_BLOCK_TOKENS;
    struct expert_panel panel = panel_of(batch, entry, batch->inputs, hidden, i - lane);
    const float *x =
        batch->args->x + (size_t)entry->task->token_rows[entry->first + i] * (size_t)hidden;
    batch->kernel->pack(&panel, lane, 0, hidden, x);
}

/* Rows row .. row + rows - 1 of the middle of some tokens of an entry, without packing them: eight
 * tokens go through all rows before the next, as inputs take more room than weights. */
static void multiply_middle(const struct batch *batch, const struct entry *entry, int32_t row,
                            int32_t rows, int32_t token, float (*middle)[GATE_UP_ROWS])
{
    const struct expert_ffn_args *args = batch->args;
    const struct expert_kernel *kernel = batch->kernel;
    int32_t hidden = args->layout->hidden;
    int32_t end = min_i32(entry->count, token + MIDDLE_TOKENS);
    _Alignas(64) float gate[EXPERT_BLOCK_TOKENS][EXPERT_TILE_ROWS];
    _Alignas(64) float up[EXPERT_BLOCK_TOKENS][EXPERT_TILE_ROWS];
    for (int32_t i = token; i < end; i += EXPERT_BLOCK_TOKENS) {
        struct expert_panel panel = panel_of(batch, entry, batch->inputs, hidden, i);
        for (int32_t r = 0; r < rows; r += EXPERT_TILE_ROWS) {
            struct expert_band w1 = band_of(batch, entry, EXPERT_W1, hidden, row + r);
            struct expert_band w3 = band_of(batch, entry, EXPERT_W3, hidden, row + r);
            kernel->multiply(&w1, &panel, gate);
            kernel->multiply(&w3, &panel, up);
            for (int32_t t = 0; t < panel.tokens; t++)
                kernel->activate(gate[t], up[t], entry->task->weights[entry->first + i + t],
                                 args->limit, &middle[i - token + t][r]);
        }
    }
}

static void compute_middle(const struct batch *batch, const struct entry *entry, int32_t row,
                           int32_t rows, int32_t token)
{
    int32_t end = min_i32(entry->count, token + MIDDLE_TOKENS);
    _Alignas(64) float middle[MIDDLE_TOKENS][GATE_UP_ROWS];
    for (int32_t r = 0; r < rows; r += ROWS_IN_CACHE)
        multiply_middle(batch, entry, row + r, min_i32(ROWS_IN_CACHE, rows - r), token,
                        (float(*)[GATE_UP_ROWS])(void *)&middle[0][r]);
    for (int32_t i = token; i < end; i++) {
        int32_t lane = i % EXPERT_BLOCK_TOKENS;
        struct expert_panel panel =
            panel_of(batch, entry, batch->middles, batch->args->layout->width, i - lane);
        batch->kernel->pack(&panel, lane, row, rows, middle[i - token]);
    }
}

static void multiply_gate_up(const void *context, int32_t idx)
{
    const struct batch *batch = context;
    int32_t width = batch->args->layout->width;
    int32_t shares = ceil_div_i32(width, GATE_UP_ROWS);
    const struct entry *entry = &batch->entries[idx / shares];
    int32_t row = idx % shares * GATE_UP_ROWS;
    for (int32_t token = 0; token < entry->count; token += MIDDLE_TOKENS)
        compute_middle(batch, entry, row, min_i32(GATE_UP_ROWS, width - row), token);
}

static void multiply_down(const void *context, int32_t idx)
{
    const struct batch *batch = context;
    const struct expert_layout *layout = batch->args->layout;
    int32_t hidden = layout->hidden;
    int32_t shares = ceil_div_i32(hidden, DOWN_ROWS);
    const struct entry *entry = &batch->entries[idx / shares];
    int32_t first = idx % shares * DOWN_ROWS;
    int32_t end = min_i32(first + DOWN_ROWS, hidden);
    _Alignas(64) float sums[EXPERT_BLOCK_TOKENS][EXPERT_TILE_ROWS];
    for (int32_t i = 0; i < entry->count; i += EXPERT_BLOCK_TOKENS) {
        struct expert_panel panel = panel_of(batch, entry, batch->middles, layout->width, i);
        for (int32_t row = first; row < end; row += EXPERT_TILE_ROWS) {
            struct expert_band w2 = band_of(batch, entry, EXPERT_W2, layout->width, row);
            batch->kernel->multiply(&w2, &panel, sums);
            for (int32_t t = 0; t < panel.tokens; t++) {
                size_t output = (size_t)entry->task->output_rows[entry->first + i + t];
                float *out = batch->args->out + output * (size_t)hidden + row;
                for (int32_t r = 0; r < EXPERT_TILE_ROWS; r++)
                    out[r] = bf16_round(sums[t][r]);
            }
        }
    }
}

static void run_batch(struct stream *stream, struct batch *batch)
{
    const struct expert_layout *layout = batch->args->layout;
    if (batch->pair_count <= PACK_ALONE_MAX)
        for (int32_t pair = 0; pair < batch->pair_count; pair++)
            pack_input(batch, pair);
    else
        stream_run(stream, batch->pair_count, pack_input, batch);
    stream_run(stream, batch->entry_count * ceil_div_i32(layout->width, GATE_UP_ROWS),
               multiply_gate_up, batch);
    stream_run(stream, batch->entry_count * ceil_div_i32(layout->hidden, DOWN_ROWS), multiply_down,
               batch);
    batch->entry_count = 0;
    batch->pair_count = 0;
}

void expert_batch_run(struct stream *stream, const struct expert_ffn_args *args,
                      const struct expert_kernel *kernel)
{
    const struct expert_layout *layout = args->layout;
    struct batch batch = {.args = args,
                          .kernel = kernel,
                          .inputs = (uint8_t *)stream->scratch,
                          .middles = (uint8_t *)args->scratch};
    SL_ASSERT(args->round && kernel->panel_bytes <= PANEL_BYTES_MAX);
    SL_ASSERT(layout->hidden > 0 && layout->hidden <= STREAM_SCRATCH_FLOATS);
    SL_ASSERT((uintptr_t)args->scratch % 8 == 0);
    size_t inputs_max =
        STREAM_SCRATCH_FLOATS * sizeof(float) / packed_bytes(kernel, layout->hidden);
    size_t middles_max = (size_t)args->scratch_rows * 3 * (size_t)layout->width * sizeof(float) /
                         packed_bytes(kernel, layout->width);
    batch.pairs_max = (int32_t)(inputs_max < middles_max ? inputs_max : middles_max);
    for (int32_t i = 0; i < args->task_count; i++) {
        const struct expert_task *task = &args->tasks[i];
        SL_ASSERT(task->count >= 0 && task->count <= args->scratch_rows);
        for (int32_t first = 0; first < task->count;) {
            if (batch.entry_count == ENTRIES_MAX || batch.pair_count == batch.pairs_max)
                run_batch(stream, &batch);
            int32_t count = min_i32(task->count - first, batch.pairs_max - batch.pair_count);
            batch.entries[batch.entry_count++] = (struct entry){
                .task = task, .first = first, .count = count, .pair = batch.pair_count};
            batch.pair_count += count;
            first += count;
        }
    }
    if (batch.pair_count > 0) run_batch(stream, &batch);
}
