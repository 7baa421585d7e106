/* Cases of sluice-bench-gpu: routed experts, attention and indexer over contexts.
 * Bytes are what an op must read or write once: weights, cached rows, queries and results. */
#include "bench/gpu/gpu_bench.h"

#include <math.h>
#include <string.h>

#define TOKENS_MAX  16
#define TOP         6
#define EXPERTS_MAX (TOKENS_MAX * TOP)

static const int32_t token_counts[] = {1, 4, 16};

/* ---- routed experts ---- */

struct expert_case {
    struct expert_layout layout;
    struct expert_ffn_args args;
    const struct expert_task *tasks; /* device, [repeats, pairs] */
};

static void launch_experts(struct gpu_bench *bench, void *context, int32_t repeat)
{
    struct expert_case *test = context;
    test->args.tasks = test->tasks + (size_t)repeat * (size_t)test->args.task_count;
    bench->gpu->ops->expert_ffn(bench->gpu->stream, &test->args);
}

/* `tokens` tokens choose TOP of `experts` each, in turn, so that all are hit alike. */
static void measure_experts(struct gpu_bench *bench, int32_t tokens, int32_t experts)
{
    struct expert_case test = {.layout = bench->tiny ? expert_layout_make(256, 128)
                                                     : expert_layout_make(4096, 2048)};
    size_t hidden = (size_t)test.layout.hidden;
    int32_t pairs = tokens * TOP;
    struct expert_task tasks[GPU_BENCH_REPEATS_MAX][EXPERTS_MAX];
    int32_t rows[2][EXPERTS_MAX] = {0};
    float weights[EXPERTS_MAX];
    float x[64];
    char name[96];
    memset(tasks, 0, sizeof tasks);
    int32_t placed = 0;
    int32_t first[EXPERTS_MAX];
    for (int32_t e = 0; e < experts; e++) {
        first[e] = placed;
        for (int32_t pair = e; pair < pairs; pair += experts) {
            rows[0][placed] = pair / TOP;
            rows[1][placed++] = pair;
        }
    }
    for (int32_t i = 0; i < EXPERTS_MAX; i++)
        weights[i] = 0.25f;
    for (int32_t i = 0; i < 64; i++)
        x[i] = (float)(i % 15 - 7) / 4.0f;
    int32_t *device_rows = gpu_bench_put(bench, rows, sizeof rows);
    float *device_weights = gpu_bench_put(bench, weights, sizeof weights);
    float *device_x = gpu_bench_put(bench, NULL, (size_t)tokens * hidden * 4);
    float *out = gpu_bench_put(bench, NULL, (size_t)pairs * hidden * 4);
    float *pattern = gpu_bench_put(bench, x, sizeof x);
    if (bench->failures > 0) return;
    for (size_t i = 0; i < (size_t)tokens * hidden; i += 64)
        bench->gpu->gpu_ops->copy(bench->gpu, device_x + i, pattern, sizeof x);
    for (int32_t repeat = 0; repeat < bench->repeats; repeat++)
        for (int32_t e = 0; e < experts; e++)
            tasks[repeat][e] = (struct expert_task){
                .slot = gpu_bench_fresh(bench, test.layout.slot_bytes),
                .token_rows = device_rows + first[e],
                .output_rows = device_rows + EXPERTS_MAX + first[e],
                .weights = device_weights,
                .count = (e + 1 < experts ? first[e + 1] : placed) - first[e],
            };
    struct expert_task packed[GPU_BENCH_REPEATS_MAX * EXPERTS_MAX];
    for (int32_t repeat = 0; repeat < bench->repeats; repeat++)
        memcpy(packed + (size_t)repeat * (size_t)pairs, tasks[repeat],
               (size_t)pairs * sizeof *packed);
    test.tasks = gpu_bench_put(bench, packed, sizeof packed);
    test.args = (struct expert_ffn_args){.x = device_x,
                                         .out = out,
                                         .layout = &test.layout,
                                         .task_count = pairs,
                                         .scratch_rows = tokens,
                                         .limit = 10.0f,
                                         .round = true,
                                         .tokens = tokens,
                                         .pairs = pairs};
    double bytes = (double)experts * (double)(3 * hidden * (size_t)test.layout.width) * 17 / 32;
    snprintf(name, sizeof name, "routed experts, %d tokens on %d experts", (int)tokens,
             (int)experts);
    gpu_bench_measure(bench, name, bytes, launch_experts, &test);
}

void gpu_bench_experts(struct gpu_bench *bench)
{
    /* Distinct experts of 1, 4 and 16 tokens on real routing: docs/trace.md's base preset. */
    measure_experts(bench, 1, 6);
    measure_experts(bench, 4, 6);
    measure_experts(bench, 4, 17);
    measure_experts(bench, 16, 48);
}

/* ---- attention and indexer ---- */

void gpu_bench_launch_attention(struct gpu_bench *bench, void *context, int32_t repeat)
{
    struct gpu_attention_case *test = context;
    (void)repeat;
    if (test->args.ratio > 0) test->args.rows = gpu_bench_fresh(bench, test->rows_bytes);
    bench->gpu->ops->attention(bench->gpu->stream, &test->args);
}

static void measure_attention(struct gpu_bench *bench, int32_t tokens, int32_t ratio,
                              int32_t context_tokens)
{
    const int32_t heads = bench->tiny ? 4 : 64;
    const int32_t width = 512;
    const int32_t window = 128;
    const int32_t top = ratio == 4 ? 512 : 0;
    int32_t visible = ratio ? context_tokens / ratio : 0;
    int32_t chosen = ratio == 4 ? min_i32(512, visible) : visible;
    struct row_format format = {ROW_KV, 448, 64};
    size_t row_bytes = row_format_bytes(&format);
    size_t query_bytes = (size_t)tokens * (size_t)heads * (size_t)width * 4;
    int32_t *selected = calloc((size_t)(tokens * 512), sizeof *selected);
    int32_t positions[TOKENS_MAX];
    char name[96];
    SL_ASSERT(selected != NULL);
    for (int32_t t = 0; t < tokens; t++) {
        positions[t] = context_tokens - 1;
        for (int32_t k = 0; k < 512; k++)
            selected[t * 512 + k] = k < chosen ? (int32_t)((int64_t)k * visible / chosen) : -1;
    }
    struct gpu_attention_case test = {.rows_bytes = row_bytes * (size_t)max_i32(1, visible)};
    test.args = (struct attention_args){
        .queries = gpu_bench_put(bench, NULL, query_bytes),
        .positions = gpu_bench_put(bench, positions, sizeof positions),
        .window_rows = gpu_bench_fresh(bench, row_bytes * (size_t)(window + TOKENS_MAX)),
        .selected = top ? gpu_bench_put(bench, selected, (size_t)tokens * 512 * 4) : NULL,
        .sink = gpu_bench_put(bench, NULL, (size_t)heads * 4),
        .out = gpu_bench_put(bench, NULL, query_bytes),
        .format = format,
        .tokens = tokens,
        .heads = heads,
        .width = width,
        .window = window,
        .window_capacity = window + TOKENS_MAX,
        .ratio = ratio,
        .top = top,
        .scale = 1.0f / sqrtf((float)width),
        .round = true,
    };
    free(selected);
    if (bench->failures > 0) return;
    double bytes =
        (double)tokens * (double)(chosen + window) * (double)row_bytes + 2.0 * (double)query_bytes;
    snprintf(name, sizeof name, "attention ratio %d, %d tokens at %d", (int)ratio, (int)tokens,
             (int)context_tokens);
    gpu_bench_measure(bench, name, bytes, gpu_bench_launch_attention, &test);
}

void gpu_bench_launch_indexer(struct gpu_bench *bench, void *context, int32_t repeat)
{
    struct gpu_indexer_case *test = context;
    (void)repeat;
    test->args.rows = gpu_bench_fresh(bench, test->rows_bytes);
    bench->gpu->ops->indexer(bench->gpu->stream, &test->args);
}

static void measure_indexer(struct gpu_bench *bench, int32_t tokens, int32_t context_tokens)
{
    const int32_t heads = bench->tiny ? 4 : 64;
    const int32_t width = 128;
    struct row_format format = {ROW_KEY, 64, 64};
    int32_t rows = context_tokens / 4;
    size_t query_bytes = (size_t)tokens * (size_t)(heads * width) * 4;
    int32_t positions[TOKENS_MAX];
    char name[96];
    for (int32_t t = 0; t < tokens; t++)
        positions[t] = context_tokens - 1;
    struct gpu_indexer_case test = {.rows_bytes = row_format_bytes(&format) * (size_t)rows};
    test.args = (struct indexer_args){
        .queries = gpu_bench_put(bench, NULL, query_bytes),
        .weights = gpu_bench_put(bench, NULL, (size_t)(tokens * heads) * 4),
        .positions = gpu_bench_put(bench, positions, sizeof positions),
        .scores = gpu_bench_put(bench, NULL, (size_t)rows * 4),
        .selected = gpu_bench_put(bench, NULL, (size_t)tokens * 512 * 4),
        .format = format,
        .tokens = tokens,
        .heads = heads,
        .width = width,
        .ratio = 4,
        .top = 512,
        .rows_max = rows,
        .round = true,
    };
    if (bench->failures > 0) return;
    /* Tokens of one sequence share the keys: one reading is what must be. */
    double bytes = (double)test.rows_bytes + (double)query_bytes;
    snprintf(name, sizeof name, "indexer, %d tokens at %d", (int)tokens, (int)context_tokens);
    gpu_bench_measure(bench, name, bytes, gpu_bench_launch_indexer, &test);
}

void gpu_bench_attention(struct gpu_bench *bench)
{
    static const int32_t contexts[] = {1 << 10, 1 << 15, 1 << 18, 1 << 20};
    size_t context_count = bench->tiny ? 1 : SL_COUNT_OF(contexts);
    for (size_t t = 0; t < (bench->tiny ? 2 : SL_COUNT_OF(token_counts)); t++) {
        measure_attention(bench, token_counts[t], 0, contexts[0]);
        for (size_t c = 0; c < context_count; c++) {
            measure_attention(bench, token_counts[t], 4, contexts[c]);
            measure_attention(bench, token_counts[t], 128, contexts[c]);
            measure_indexer(bench, token_counts[t], bench->tiny ? 4096 : contexts[c]);
        }
    }
}
