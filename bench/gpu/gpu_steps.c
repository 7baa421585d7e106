/* What layers of the model's shape cost, and a whole decode step: an op among the others, launches
 * and meetings included, and the share of a step that these take.
 *
 * Weights are the pool's, other ones for every layer and repeat; activations are zeros, which costs
 * the same time as any other number. Every expert is resident. Bytes are the weights and the cached
 * rows that are read. */
#include "bench/gpu/gpu_layer.h"

static const struct layer_sizes flash = {4096, 4,  64,  512, 64,  1024, 8,
                                         1024, 64, 128, 512, 256, 2048, 129280};
static const struct layer_sizes small = {256, 4, 8,   512, 64, 128, 2,
                                         128, 8, 128, 512, 16, 128, 256};

/* A part of a layer; pass->part says which. */
static void launch_part(struct gpu_bench *bench, void *context, int32_t repeat)
{
    struct layer_pass *pass = context;
    (void)bench, (void)repeat;
    pass->part(pass);
}

static void turn_after_attention(struct layer_pass *pass)
{
    layer_pass_turn(pass, false);
}

static void turn_after_experts(struct layer_pass *pass)
{
    layer_pass_turn(pass, true);
}

static void launch_layer(struct gpu_bench *bench, void *context, int32_t repeat)
{
    struct layer_pass *pass = context;
    (void)bench, (void)repeat;
    pass->op = 0; /* counts where pass->only says one */
    layer_pass_layer(pass, pass->ratio);
}

static void launch_step(struct gpu_bench *bench, void *context, int32_t repeat)
{
    (void)bench, (void)repeat;
    layer_pass_step(context);
}

/* Microseconds of a launch of its own; negative after a failure. */
static double measure_time(struct layer_pass *pass, const char *name, gpu_bench_launch *launch)
{
    double samples[GPU_BENCH_SAMPLES_MAX];
    if (!gpu_bench_sample(pass->bench, launch, pass, samples)) return -1;
    for (int32_t i = 0; i < pass->bench->rounds; i++)
        samples[i] /= 1000;
    return gpu_bench_print(pass->bench, name, "us", samples, 0);
}

/* Launches once, unmeasured, for the bytes of a launch, and then measures: GB/s, and microseconds,
 * which it returns; negative after a failure. */
static double measure(struct layer_pass *pass, const char *what, gpu_bench_launch *launch)
{
    char name[160];
    struct sl_error error;
    snprintf(name, sizeof name, "%s, %d tokens at %d", what, (int)pass->tokens, (int)pass->context);
    pass->bytes = 0;
    launch(pass->bench, pass, 0);
    double bytes = pass->bytes;
    if (pass->bench->gpu->gpu_ops->sync(pass->bench->gpu, &error) != SL_OK) {
        fprintf(stderr, "sluice-bench-gpu: %s: %s\n", name, error.message);
        pass->bench->failures++;
        return -1;
    }
    if (bytes > 0) gpu_bench_measure(pass->bench, name, bytes, launch, pass);
    return measure_time(pass, name, launch);
}

/* A layer's ops, each repeated by itself: the sum of their times. */
static void measure_alone(struct layer_pass *pass, const char *what)
{
    struct gpu_bench *bench = pass->bench;
    double sums[GPU_BENCH_SAMPLES_MAX] = {0};
    char name[96];
    pass->only = INT32_MAX;
    pass->op = 0;
    launch_layer(bench, pass, 0);
    int32_t ops = pass->op;
    for (pass->only = 0; pass->only < ops; pass->only++) {
        double samples[GPU_BENCH_SAMPLES_MAX];
        if (!gpu_bench_sample(bench, launch_layer, pass, samples)) break;
        for (int32_t i = 0; i < bench->rounds; i++)
            sums[i] += samples[i] / 1000;
    }
    pass->only = -1;
    if (bench->failures > 0) return;
    snprintf(name, sizeof name, "%s, %d ops each alone, %d tokens at %d", what, (int)ops,
             (int)pass->tokens, (int)pass->context);
    (void)gpu_bench_print(bench, name, "us", sums, 0);
}

/* As many launches as a step has, of a kernel that does nothing. */
static void launch_nothing(struct gpu_bench *bench, void *context, int32_t repeat)
{
    struct layer_pass *pass = context;
    struct gather_rows_args args = {pass->routed, pass->gather, pass->routed, 1, 1};
    (void)repeat;
    for (uint64_t i = 0; i < pass->launches; i++)
        bench->gpu->ops->gather_rows(bench->gpu->stream, &args);
}

/* A step as it is, and of its launches alone; both again without chaining them. Then, of the step
 * as a pass runs it, the share of launches and of meetings as the experts wait for them: at most
 * that, since the shared expert is computed during a meeting. */
static void measure_step(struct layer_pass *pass)
{
    struct gpu_bench *bench = pass->bench;
    struct stream *stream = bench->gpu->stream;
    int32_t repeats = bench->repeats;
    char name[96], place[32];
    double step = -1, launches = -1;
    bench->repeats = 1;
    uint64_t before = cuda_stream_launches(stream);
    launch_step(bench, pass, 0);
    pass->launches = cuda_stream_launches(stream) - before;
    int count = (int)pass->launches;
    snprintf(place, sizeof place, "%d tokens at %d", (int)pass->tokens, (int)pass->context);
    bool chains = cuda_stream_chain(stream, false);
    for (int chained = 0; chained < (chains ? 2 : 1); chained++) {
        (void)cuda_stream_chain(stream, chained);
        const char *how = chained ? "chained" : "one after another";
        snprintf(name, sizeof name, "decode step, %d launches %s", count, how);
        step = measure(pass, name, launch_step);
        snprintf(name, sizeof name, "%d empty launches %s", count, how);
        launches = measure_time(pass, name, launch_nothing);
    }
    bench->repeats = repeats;
    double meetings = layer_pass_layers(bench) * gpu_bench_meetings(pass);
    if (bench->failures > 0) return;
    snprintf(name, sizeof name, "launches and meetings of a decode step, at most, %s", place);
    double share[GPU_BENCH_SAMPLES_MAX];
    for (int32_t i = 0; i < bench->rounds; i++)
        share[i] = (launches + meetings) / step;
    (void)gpu_bench_print(bench, name, "of the step", share, 0);
}

static void measure_part(struct layer_pass *pass, const char *what,
                         void (*part)(struct layer_pass *))
{
    pass->part = part;
    (void)measure(pass, what, launch_part);
}

static void measure_pass(struct layer_pass *pass, int32_t tokens, int32_t context)
{
    struct gpu_bench *bench = pass->bench;
    int32_t positions[LAYER_TOKENS_MAX];
    pass->tokens = tokens;
    pass->only = -1;
    pass->context = context;
    for (int32_t t = 0; t < LAYER_TOKENS_MAX; t++)
        positions[t] = context - tokens + min_i32(t, tokens - 1);
    pass->positions = gpu_bench_put(bench, positions, sizeof positions);
    if (!pass->positions || !layer_pass_tasks(pass, tokens == 1 ? 6 : 17)) return;
    measure_part(pass, "turn after attention", turn_after_attention);
    measure_part(pass, "turn after experts", turn_after_experts);
    measure_part(pass, "router, its product and its way to the host", layer_pass_route);
    pass->ratio = 0;
    (void)measure(pass, "layer, window only", launch_layer);
    pass->ratio = 4;
    (void)measure(pass, "layer, ratio 4", launch_layer);
    measure_alone(pass, "layer, ratio 4");
    pass->ratio = 128;
    (void)measure(pass, "layer, ratio 128", launch_layer);
    measure_alone(pass, "layer, ratio 128");
    measure_step(pass);
}

void gpu_bench_layers(struct gpu_bench *bench)
{
    struct layer_pass pass = {.bench = bench, .sizes = bench->tiny ? small : flash};
    if (bench->failures > 0) return;
    pass.layout = expert_layout_make(pass.sizes.hidden, pass.sizes.expert_width);
    layer_pass_arrays(&pass);
    if (bench->failures == 0) measure_pass(&pass, 1, bench->tiny ? 256 : 1 << 10);
    if (!bench->tiny) {
        measure_pass(&pass, 1, 1 << 15);
        measure_pass(&pass, 1, 1 << 20);
        measure_pass(&pass, 4, 1 << 15);
    }
    layer_pass_free(&pass);
}
