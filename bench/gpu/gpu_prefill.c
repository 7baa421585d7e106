/* Attention and indexer of a prompt's chunks: 512 to 8192 tokens at the end of a context. Beside
 * what binds them: multiply-adds counted from rows and candidates of every token, at the rate of a
 * large bf16 product, or bytes that must pass the device's memory once, at the rate of a copy, both
 * of the same run. */
#include "bench/gpu/gpu_bench.h"

#include <math.h>
#include <string.h>

#define HEADS      64
#define WINDOW     128
#define TOP        512
#define TOKENS_MAX 8192
#define SEED_BYTES ((size_t)1 << 20)

/* Device memory of the largest chunk, used by all cases. */
struct chunk {
    float *queries, *out, *weights, *scores, *sink;
    int32_t *positions, *selected;
    int32_t heads, window;
};

/* Positions and, with `top`, a choice of evenly spread rows; returns the rows that all tokens see
 * together, those of the window left out. */
static int64_t place_tokens(struct gpu_bench *bench, const struct chunk *chunk, int32_t tokens,
                            int32_t context_tokens, int32_t ratio, int32_t top)
{
    int32_t *positions = calloc((size_t)tokens, sizeof *positions);
    int32_t *selected = calloc((size_t)tokens * TOP, sizeof *selected);
    int64_t rows = 0;
    uint32_t state = 1;
    SL_ASSERT(positions != NULL && selected != NULL);
    for (int32_t t = 0; t < tokens; t++) {
        positions[t] = context_tokens - tokens + t;
        int32_t visible = (positions[t] + 1) / ratio;
        int32_t chosen = top > 0 ? min_i32(top, visible) : visible;
        rows += chosen;
        for (int32_t k = 0; k < TOP; k++) {
            int64_t first = (int64_t)k * visible / TOP;
            int64_t next = (int64_t)(k + 1) * visible / TOP;
            state = state * 1664525u + 1013904223u;
            selected[t * TOP + k] =
                (int32_t)(first + (state >> 8) % (next > first ? next - first : 1));
            if (visible <= TOP) selected[t * TOP + k] = k < visible ? k : -1;
        }
    }
    gpu_bench_send(bench, chunk->positions, positions, (size_t)tokens * sizeof *positions);
    gpu_bench_send(bench, chunk->selected, selected, (size_t)tokens * TOP * sizeof *selected);
    free(positions), free(selected);
    return rows;
}

static void measure_attention(struct gpu_bench *bench, const struct chunk *chunk, int32_t tokens,
                              int32_t ratio, int32_t context_tokens)
{
    struct row_format format = {ROW_KV, 448, 64};
    const int32_t width = 512;
    int32_t top = ratio == 4 ? TOP : 0;
    size_t row_bytes = row_format_bytes(&format);
    int64_t rows = place_tokens(bench, chunk, tokens, context_tokens, ratio, top) +
                   (int64_t)tokens * chunk->window;
    struct gpu_attention_case test = {.rows_bytes = row_bytes * (size_t)(context_tokens / ratio)};
    double query_floats = (double)tokens * (double)(chunk->heads * width);
    char name[96];
    test.args = (struct attention_args){
        .queries = chunk->queries,
        .positions = chunk->positions,
        .window_rows = gpu_bench_fresh(bench, row_bytes * (size_t)(chunk->window + tokens)),
        .selected = top ? chunk->selected : NULL,
        .sink = chunk->sink,
        .out = chunk->out,
        .format = format,
        .tokens = tokens,
        .heads = chunk->heads,
        .width = width,
        .window = chunk->window,
        .window_capacity = chunk->window + tokens,
        .ratio = ratio,
        .top = top,
        .scale = 1.0f / sqrtf((float)width),
        .round = true,
    };
    double operations = 4.0 * (double)rows * (double)(chunk->heads * width);
    double bytes = 8.0 * query_floats + (double)test.rows_bytes;
    snprintf(name, sizeof name, "attention ratio %d, chunk of %d at %d", (int)ratio, (int)tokens,
             (int)context_tokens);
    gpu_bench_measure_bound(bench, name, operations, bytes, gpu_bench_launch_attention, &test);
}

static void measure_indexer(struct gpu_bench *bench, const struct chunk *chunk, int32_t tokens,
                            int32_t context_tokens)
{
    struct row_format format = {ROW_KEY, 64, 64};
    const int32_t width = 128;
    int32_t rows = context_tokens / 4;
    int64_t candidates = place_tokens(bench, chunk, tokens, context_tokens, 4, 0);
    struct gpu_indexer_case test = {.rows_bytes = row_format_bytes(&format) * (size_t)rows};
    double query_floats = (double)tokens * (double)(chunk->heads * width);
    char name[96];
    test.args = (struct indexer_args){
        .queries = chunk->queries,
        .weights = chunk->weights,
        .positions = chunk->positions,
        .scores = chunk->scores,
        .selected = chunk->selected,
        .format = format,
        .tokens = tokens,
        .heads = chunk->heads,
        .width = width,
        .ratio = 4,
        .top = bench->tiny ? TOP / 16 : TOP,
        .rows_max = rows,
        .round = true,
    };
    double operations = 2.0 * (double)candidates * (double)(chunk->heads * width);
    double bytes = 8.0 * query_floats + (double)test.rows_bytes; /* queries are rounded in place */
    snprintf(name, sizeof name, "indexer, chunk of %d at %d", (int)tokens, (int)context_tokens);
    gpu_bench_measure_bound(bench, name, operations, bytes, gpu_bench_launch_indexer, &test);
}

/* Device floats between -1 and 1, the same ones again after SEED_BYTES. */
float *gpu_bench_put_floats(struct gpu_bench *bench, size_t count)
{
    float *seed = malloc(SEED_BYTES);
    size_t bytes = count * sizeof *seed;
    uint32_t state = 1;
    SL_ASSERT(seed != NULL);
    for (size_t i = 0; i < SEED_BYTES / sizeof *seed; i++) {
        state = state * 1664525u + 1013904223u;
        seed[i] = (float)((int32_t)(state >> 24) - 128) / 128.0f;
    }
    uint8_t *memory = gpu_bench_put(bench, NULL, bytes);
    if (memory) gpu_bench_send(bench, memory, seed, bytes < SEED_BYTES ? bytes : SEED_BYTES);
    for (size_t done = SEED_BYTES; memory && done < bytes; done += SEED_BYTES)
        bench->gpu->gpu_ops->copy(bench->gpu, memory + done, memory,
                                  bytes - done < SEED_BYTES ? bytes - done : SEED_BYTES);
    free(seed);
    return (float *)(void *)memory;
}

void gpu_bench_prefill(struct gpu_bench *bench)
{
    static const int32_t chunks[] = {512, 2048, TOKENS_MAX};
    static const int32_t contexts[] = {1 << 15, 1 << 18};
    size_t tokens = bench->tiny ? 17 : TOKENS_MAX;
    struct chunk chunk = {.heads = bench->tiny ? 4 : HEADS, .window = bench->tiny ? 16 : WINDOW};
    size_t heads = (size_t)chunk.heads;
    chunk.queries = gpu_bench_put_floats(bench, tokens * heads * 512);
    chunk.out = gpu_bench_put(bench, NULL, tokens * heads * 512 * sizeof *chunk.out);
    chunk.weights = gpu_bench_put_floats(bench, tokens * heads);
    chunk.scores = gpu_bench_put(bench, NULL, (1 << 16) * sizeof *chunk.scores);
    chunk.sink = gpu_bench_put_floats(bench, heads);
    chunk.positions = gpu_bench_put(bench, NULL, tokens * sizeof *chunk.positions);
    chunk.selected = gpu_bench_put(bench, NULL, tokens * TOP * sizeof *chunk.selected);
    for (size_t c = 0; c < (bench->tiny ? 1 : SL_COUNT_OF(contexts)); c++)
        for (size_t n = 0; n < (bench->tiny ? 1 : SL_COUNT_OF(chunks)); n++) {
            int32_t count = bench->tiny ? 17 : chunks[n];
            int32_t context_tokens = bench->tiny ? 160 : contexts[c];
            if (bench->failures > 0) return;
            measure_attention(bench, &chunk, count, 4, context_tokens);
            measure_attention(bench, &chunk, count, 128, context_tokens);
            measure_indexer(bench, &chunk, count, context_tokens);
        }
}
