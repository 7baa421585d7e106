/* Arrays and task tables of a benchmarked pass. */
#include "bench/gpu/gpu_layer.h"

#include <string.h>

static float *floats(struct gpu_bench *bench, int64_t count)
{
    return gpu_bench_put(bench, NULL, (size_t)count * sizeof(float));
}

static void *mapped(struct gpu_bench *bench, size_t bytes)
{
    struct sl_error error;
    void *memory = NULL;
    if (bench->gpu->gpu_ops->alloc(bench->gpu, GPU_MAPPED, bytes, &memory, &error) == SL_OK)
        return memory;
    fprintf(stderr, "sluice-bench-gpu: mapped memory: %s\n", error.message);
    bench->failures++;
    return NULL;
}

void layer_pass_arrays(struct layer_pass *pass)
{
    struct gpu_bench *bench = pass->bench;
    const struct layer_sizes *s = &pass->sizes;
    int64_t tokens = LAYER_TOKENS_MAX;
    int64_t heads = (int64_t)s->heads * s->width;
    int64_t index = (int64_t)s->index_heads * s->index_width;
    int32_t factors = (2 + s->streams) * s->streams;
    pass->streams = floats(bench, tokens * s->streams * s->hidden);
    pass->x = floats(bench, tokens * s->hidden);
    pass->mix = floats(bench, tokens * factors);
    pass->post = floats(bench, tokens * s->streams);
    pass->comb = floats(bench, tokens * s->streams * s->streams);
    pass->query = floats(bench, tokens * s->query_rank);
    pass->heads = floats(bench, tokens * heads);
    pass->attended = floats(bench, tokens * heads);
    pass->key = floats(bench, tokens * s->width);
    pass->compressed = floats(bench, tokens * 2 * s->width);
    pass->gates = floats(bench, tokens * 2 * s->width);
    pass->state = floats(bench, (128 + tokens) * 4 * s->width);
    pass->index_state = floats(bench, (128 + tokens) * 4 * s->index_width);
    pass->index_queries = floats(bench, tokens * index);
    pass->index_weights = floats(bench, tokens * s->index_heads);
    pass->scores = floats(bench, 1 << 18);
    pass->logits = floats(bench, tokens * s->vocabulary);
    pass->weights = floats(bench, LAYER_PAIRS_MAX);
    pass->routed = floats(bench, (int64_t)LAYER_PAIRS_MAX * s->hidden);
    pass->shared = floats(bench, tokens * s->expert_width);
    pass->up = floats(bench, tokens * max_i32(s->expert_width, s->groups * s->out_rank));
    pass->frequencies = floats(bench, 64);
    pass->selected = gpu_bench_put(bench, NULL, (size_t)(tokens * s->top_rows) * 4);
    pass->chosen = gpu_bench_put(bench, NULL, LAYER_PAIRS_MAX * 4);
    pass->ids = gpu_bench_put(bench, NULL, LAYER_TOKENS_MAX * 4);
    pass->no_tasks = gpu_bench_put(bench, NULL, LAYER_PAIRS_MAX * sizeof *pass->no_tasks);
    int32_t none[2 * LAYER_PAIRS_MAX];
    memset(none, 0xff, sizeof none);
    pass->gather = gpu_bench_put(bench, none, sizeof none);
    pass->taken = gpu_bench_put(bench, NULL, LAYER_WORDS * sizeof *pass->taken);
    pass->flags = mapped(bench, 2 * sizeof *pass->flags);
    pass->host_words = mapped(bench, LAYER_WORDS * sizeof *pass->host_words);
    pass->host_x = mapped(bench, (size_t)(tokens * s->hidden) * sizeof *pass->host_x);
    if (pass->flags) pass->flags[0] = pass->flags[1] = 1;
}

void layer_pass_free(struct layer_pass *pass)
{
    struct gpu *gpu = pass->bench->gpu;
    gpu->gpu_ops->free(gpu, GPU_MAPPED, pass->flags);
    gpu->gpu_ops->free(gpu, GPU_MAPPED, pass->host_words);
    gpu->gpu_ops->free(gpu, GPU_MAPPED, pass->host_x);
}

bool layer_pass_tasks(struct layer_pass *pass, int32_t experts)
{
    static struct expert_task tasks[LAYER_TABLES][LAYER_PAIRS_MAX];
    int32_t pairs = pass->tokens * LAYER_TOP;
    int32_t rows[2][LAYER_PAIRS_MAX] = {0};
    int32_t first[LAYER_PAIRS_MAX + 1];
    int32_t placed = 0;
    for (int32_t e = 0; e < experts; e++) {
        first[e] = placed;
        for (int32_t pair = e; pair < pairs; pair += experts) {
            rows[0][placed] = pair / LAYER_TOP;
            rows[1][placed++] = pair;
        }
    }
    first[experts] = placed;
    const int32_t *device_rows = gpu_bench_put(pass->bench, rows, sizeof rows);
    if (!device_rows) return false;
    memset(tasks, 0, sizeof tasks);
    for (int32_t l = 0; l < LAYER_TABLES; l++)
        for (int32_t e = 0; e < experts; e++)
            tasks[l][e] = (struct expert_task){
                .slot = gpu_bench_fresh(pass->bench, pass->layout.slot_bytes),
                .token_rows = device_rows + first[e],
                .output_rows = device_rows + LAYER_PAIRS_MAX + first[e],
                .weights = pass->weights,
                .count = first[e + 1] - first[e],
            };
    pass->task_count = experts;
    pass->tasks = gpu_bench_put(pass->bench, tasks, sizeof tasks);
    return pass->tasks != NULL;
}
