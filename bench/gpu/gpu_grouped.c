/* Routed experts of a prompt's chunk: all 256 of a layer, each with the tokens that chose it,
 * beside what binds them: multiply-adds at the rate of bf16 products, or bytes that must pass the
 * device's memory once (weights, inputs and outputs in f32) at the rate of a copy, both of the same
 * run. */
#include "bench/gpu/gpu_bench.h"

#include <string.h>

#define TOKENS_MAX  8192
#define EXPERTS     256
#define TOP         6
#define PAIRS_MAX   (TOKENS_MAX * TOP)
#define TOKENS_TINY 40

struct grouped_case {
    struct expert_layout layout;
    struct expert_ffn_args args;
    int32_t hit; /* experts that some token chose */
};

/* The device's memory of the largest chunk. */
struct grouped_arrays {
    float *x, *out, *scratch, *weights;
    int32_t *rows; /* [2, PAIRS_MAX]: of x, of out */
    struct expert_task *tasks;
};

/* Every token chooses TOP experts, no two alike, with the same chance for each. */
static void choose(int32_t tokens, int32_t experts, int32_t *chosen)
{
    uint64_t state = 1;
    for (int32_t pair = 0; pair < tokens * TOP; pair++) {
        bool new = false;
        while (!new) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            chosen[pair] = (int32_t)((state >> 33) % (uint64_t)experts);
            new = true;
            for (int32_t k = pair / TOP * TOP; k < pair; k++)
                if (chosen[k] == chosen[pair]) new = false;
        }
    }
}

/* Pairs in the order of experts, to the device, with a slot of the pool for each expert. */
static void place(struct gpu_bench *bench, struct grouped_case *test,
                  const struct grouped_arrays *arrays, int32_t tokens, int32_t experts)
{
    int32_t pairs = tokens * TOP, placed = 0;
    int32_t *chosen = calloc((size_t)pairs, sizeof *chosen);
    int32_t *rows = calloc(2 * PAIRS_MAX, sizeof *rows);
    struct expert_task tasks[EXPERTS];
    SL_ASSERT(chosen != NULL && rows != NULL);
    choose(tokens, experts, chosen);
    test->hit = 0;
    for (int32_t e = 0; e < experts; e++) {
        int32_t first = placed;
        for (int32_t pair = 0; pair < pairs; pair++) {
            if (chosen[pair] != e) continue;
            rows[placed] = pair / TOP;
            rows[PAIRS_MAX + placed++] = pair;
        }
        tasks[e] = (struct expert_task){.slot = gpu_bench_fresh(bench, test->layout.slot_bytes),
                                        .token_rows = arrays->rows + first,
                                        .output_rows = arrays->rows + PAIRS_MAX + first,
                                        .weights = arrays->weights,
                                        .count = placed - first};
        if (placed > first) test->hit++;
    }
    (void)gpu_bench_send(bench, arrays->rows, rows, 2 * PAIRS_MAX * sizeof *rows);
    (void)gpu_bench_send(bench, arrays->tasks, tasks, sizeof tasks);
    free(chosen), free(rows);
}

static void launch_grouped(struct gpu_bench *bench, void *context, int32_t repeat)
{
    struct grouped_case *test = context;
    (void)repeat; /* the weights of one launch exceed the second-level cache many times */
    bench->gpu->ops->expert_ffn(bench->gpu->stream, &test->args);
}

static void measure(struct gpu_bench *bench, struct grouped_case *test,
                    const struct grouped_arrays *arrays, int32_t tokens, int32_t experts)
{
    double hidden = test->layout.hidden, width = test->layout.width;
    double pairs = (double)tokens * TOP;
    char name[96];
    place(bench, test, arrays, tokens, experts);
    test->args = (struct expert_ffn_args){.x = arrays->x,
                                          .out = arrays->out,
                                          .tasks = arrays->tasks,
                                          .layout = &test->layout,
                                          .scratch = arrays->scratch,
                                          .task_count = experts,
                                          .scratch_rows = tokens,
                                          .limit = 10.0f,
                                          .round = true,
                                          .tokens = tokens,
                                          .pairs = tokens * TOP};
    double bytes = test->hit * 3 * hidden * width * 17 / 32 + 4 * hidden * (tokens + pairs);
    snprintf(name, sizeof name, "%d experts, chunk of %d", (int)experts, (int)tokens);
    gpu_bench_measure_bound(bench, name, 6 * pairs * hidden * width, bytes, launch_grouped, test);
}

void gpu_bench_grouped(struct gpu_bench *bench)
{
    static const int32_t token_counts[] = {512, 1024, 2048, 4096, TOKENS_MAX};
    struct grouped_case test = {.layout = bench->tiny ? expert_layout_make(128, 64)
                                                      : expert_layout_make(4096, 2048)};
    size_t tokens_max = bench->tiny ? TOKENS_TINY : TOKENS_MAX;
    size_t pairs_max = tokens_max * TOP, hidden = (size_t)test.layout.hidden;
    float *weights = calloc(PAIRS_MAX, sizeof *weights);
    SL_ASSERT(weights != NULL);
    for (int32_t i = 0; i < PAIRS_MAX; i++)
        weights[i] = 0.25f;
    struct grouped_arrays arrays = {
        .x = gpu_bench_put_floats(bench, tokens_max * hidden),
        .out = gpu_bench_put(bench, NULL, pairs_max * hidden * sizeof(float)),
        .scratch =
            gpu_bench_put(bench, NULL, tokens_max * 3 * (size_t)test.layout.width * sizeof(float)),
        .weights = gpu_bench_put(bench, weights, PAIRS_MAX * sizeof *weights),
        .rows = gpu_bench_put(bench, NULL, 2 * PAIRS_MAX * sizeof *arrays.rows),
        .tasks = gpu_bench_put(bench, NULL, EXPERTS * sizeof *arrays.tasks),
    };
    free(weights);
    for (size_t t = 0; t < (bench->tiny ? 1 : SL_COUNT_OF(token_counts)); t++)
        if (bench->failures == 0)
            measure(bench, &test, &arrays, bench->tiny ? TOKENS_TINY : token_counts[t],
                    bench->tiny ? 16 : EXPERTS);
}
