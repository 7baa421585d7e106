/* Meetings of a pass with the host, and nothing else: choices to mapped memory, a table for what is
 * there and one for what comes late, both empty. The host answers as soon as it sees the choice, so
 * what is measured are trips over the link, flags and launches; then the same launches with every
 * flag set before, for the difference. Waits as a pass of decode has them, inside the experts'
 * kernels, and by the driver's call (a kernel of its own where the driver has none). */
#include "bench/gpu/gpu_layer.h"
#include "kernels/fused.h"

#include <sched.h>
#include <string.h>

#define LOOKS_BUSY 4096 /* before the core is given up between looks */

enum meeting { CHOSEN, HITS, LATE, MEETINGS };

struct meetings {
    struct layer_pass *pass;
    uint32_t *flags; /* mapped, [MEETINGS, layers] */
    int32_t layers;
    bool in_experts; /* who waits */
};

static uint32_t *flag_of(const struct meetings *m, enum meeting meeting, int32_t layer)
{
    return m->flags + (int32_t)meeting * m->layers + layer;
}

static void launch_table(const struct meetings *m, enum meeting meeting, int32_t layer,
                         size_t words)
{
    struct layer_pass *pass = m->pass;
    struct gpu *gpu = pass->bench->gpu;
    size_t pairs = (size_t)(pass->tokens * LAYER_TOP);
    const struct gpu_piece pieces[] = {
        {pass->taken, pass->host_words, 4 * pairs * words},
        {pass->taken + pairs * words, pass->host_words, sizeof *pass->tasks * pairs}};
    struct fused_experts_args args = {.flag = flag_of(m, meeting, layer),
                                      .value = 1,
                                      .pieces = pieces,
                                      .piece_count = SL_COUNT_OF(pieces),
                                      .experts = {.x = pass->x,
                                                  .out = pass->routed,
                                                  .tasks = pass->no_tasks,
                                                  .layout = &pass->layout,
                                                  .task_count = (int32_t)pairs,
                                                  .scratch_rows = pass->tokens,
                                                  .limit = 10.0f,
                                                  .round = true,
                                                  .tokens = pass->tokens,
                                                  .pairs = (int32_t)pairs}};
    if (m->in_experts) {
        SL_ASSERT(gpu->ops->fused->experts(gpu->stream, &args));
        return;
    }
    gpu->gpu_ops->take(gpu, args.flag, args.value, pieces, args.piece_count);
    gpu->ops->expert_ffn(gpu->stream, &args.experts);
}

static void launch_all(const struct meetings *m)
{
    const struct layer_pass *pass = m->pass;
    struct gpu *gpu = pass->bench->gpu;
    size_t pairs = (size_t)(pass->tokens * LAYER_TOP);
    const struct gpu_piece pieces[] = {
        {pass->host_words, pass->chosen, 4 * pairs},
        {pass->host_words + LAYER_PAIRS_MAX, pass->weights, 4 * pairs},
        {pass->host_x, pass->x, 4 * (size_t)pass->tokens * (size_t)pass->sizes.hidden}};
    for (int32_t layer = 0; layer < m->layers; layer++) {
        gpu->gpu_ops->publish(gpu, pieces, SL_COUNT_OF(pieces), flag_of(m, CHOSEN, layer), 1);
        launch_table(m, HITS, layer, 3);
        launch_table(m, LATE, layer, 1);
    }
}

static void set_all(const struct meetings *m, uint32_t value)
{
    for (int32_t i = 0; i < (int32_t)MEETINGS * m->layers; i++)
        __atomic_store_n(&m->flags[i], value, __ATOMIC_RELEASE);
}

/* The host's side: false when the GPU ends without having asked. */
static bool serve(const struct meetings *m)
{
    struct gpu *gpu = m->pass->bench->gpu;
    for (int32_t layer = 0; layer < m->layers; layer++) {
        const uint32_t *chosen = flag_of(m, CHOSEN, layer);
        for (uint32_t looks = 1; !__atomic_load_n(chosen, __ATOMIC_ACQUIRE); looks++) {
            if (looks % LOOKS_BUSY > 0) continue;
            if (gpu->gpu_ops->is_idle(gpu) && !__atomic_load_n(chosen, __ATOMIC_ACQUIRE))
                return false;
            sched_yield();
        }
        __atomic_store_n(flag_of(m, HITS, layer), 1u, __ATOMIC_RELEASE);
        __atomic_store_n(flag_of(m, LATE, layer), 1u, __ATOMIC_RELEASE);
    }
    return true;
}

/* One pass of meetings, with the host or with every flag set; ns a meeting, negative: a fault. */
static double run_once(const struct meetings *m, struct gpu_graph *graph, bool with_host)
{
    struct gpu *gpu = m->pass->bench->gpu;
    struct sl_error error;
    set_all(m, with_host ? 0 : 1);
    uint64_t start_ns = gpu_bench_now_ns();
    gpu->gpu_ops->graph_launch(gpu, graph);
    bool served = !with_host || serve(m);
    set_all(m, 1);
    bool good = gpu->gpu_ops->sync(gpu, &error) == SL_OK && served;
    double ns = (double)(gpu_bench_now_ns() - start_ns) / m->layers;
    return good ? ns : -1;
}

/* Loaded first: a kernel's first launch may wait for what waits for the host. NULL: this device
 * records nothing, and a pass of it could wait in a queue that is full. */
static struct gpu_graph *record(const struct meetings *m)
{
    struct gpu *gpu = m->pass->bench->gpu;
    struct gpu_graph *graph = NULL;
    struct sl_error error;
    if (gpu->gpu_ops->set_loading) {
        gpu->gpu_ops->set_loading(gpu, true);
        launch_all(m);
        gpu->gpu_ops->set_loading(gpu, false);
    }
    if (!gpu->gpu_ops->record || gpu->gpu_ops->record(gpu, &error) != SL_OK) return NULL;
    launch_all(m);
    if (gpu->gpu_ops->record_end(gpu, &graph, &error) == SL_OK) return graph;
    fprintf(stderr, "sluice-bench-gpu: meetings: %s\n", error.message);
    return NULL;
}

/* Microseconds a meeting; negative after a failure. */
static double measure(const struct meetings *m, struct gpu_graph *graph, bool with_host)
{
    struct gpu_bench *bench = m->pass->bench;
    double samples[GPU_BENCH_SAMPLES_MAX];
    char name[96];
    for (int32_t round = -1; round < bench->rounds; round++) {
        double ns = run_once(m, graph, with_host);
        if (ns < 0) {
            bench->failures++;
            return -1;
        }
        if (round >= 0) samples[round] = ns / 1000;
    }
    snprintf(name, sizeof name, "%s, %s, %d tokens",
             with_host ? "a meeting with the host" : "the launches of a meeting",
             m->in_experts ? "experts wait" : "the driver waits", (int)m->pass->tokens);
    return gpu_bench_print(bench, name, "us", samples, 0);
}

double gpu_bench_meetings(struct layer_pass *pass)
{
    struct gpu_bench *bench = pass->bench;
    struct gpu *gpu = bench->gpu;
    struct meetings m = {.pass = pass, .layers = layer_pass_layers(bench)};
    struct sl_error error;
    void *flags = NULL;
    double added = -1;
    if (bench->failures > 0) return -1;
    if (gpu->gpu_ops->alloc(gpu, GPU_MAPPED, sizeof *m.flags * MEETINGS * (size_t)m.layers, &flags,
                            &error) != SL_OK) {
        fprintf(stderr, "sluice-bench-gpu: flags: %s\n", error.message);
        bench->failures++;
        return -1;
    }
    m.flags = flags;
    for (int experts = 0; experts < 2; experts++) {
        m.in_experts = experts;
        struct gpu_graph *graph = record(&m);
        bench->failures += !graph;
        if (!graph) break;
        double alone = measure(&m, graph, false);
        added = measure(&m, graph, true) - alone;
        gpu->gpu_ops->graph_destroy(gpu, graph);
        if (bench->failures > 0) break;
    }
    gpu->gpu_ops->free(gpu, GPU_MAPPED, flags);
    return bench->failures > 0 ? -1 : added;
}
