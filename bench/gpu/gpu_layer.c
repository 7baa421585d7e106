/* Layers of the model's shape, launch by launch as a pass of decode would, and a whole decode step:
 * what an op costs among the others, launches and meetings included.
 *
 * Weights are the pool's, other ones for every layer and repeat; activations are zeros, which costs
 * the same time as any other number. Every expert is resident. Bytes are the weights and the cached
 * rows that are read. */
#include "bench/gpu/gpu_layer.h"
#include "kernels/fused.h"

#define WINDOW  128
#define EPSILON 1e-6f

static const struct layer_sizes flash = {4096, 4,  64,  512, 64,  1024, 8,
                                         1024, 64, 128, 512, 256, 2048, 129280};
static const struct layer_sizes small = {256, 4, 8,   512, 64, 128, 2,
                                         128, 4, 128, 512, 16, 128, 256};

static const uint8_t *fresh(struct layer_pass *pass, size_t bytes)
{
    pass->bytes += (double)bytes;
    return gpu_bench_fresh(pass->bench, bytes);
}

/* Whether the next op is to be launched: all are, or one alone. */
static bool runs(struct layer_pass *pass)
{
    return pass->only < 0 || pass->op++ == pass->only;
}

static struct linear_args product_args(struct layer_pass *pass, enum matrix_format format,
                                       int32_t rows, int32_t columns, const float *x, float *out)
{
    size_t elements = (size_t)rows * (size_t)columns;
    bool is_out_a = format == MATRIX_FP8 && columns == pass->sizes.heads * pass->sizes.width;
    struct linear_args args = {
        .x = x, .out = out, .tokens = pass->tokens, .groups = is_out_a ? pass->sizes.groups : 1};
    if (is_out_a) columns /= pass->sizes.groups, elements /= (size_t)pass->sizes.groups;
    args.weight = (struct matrix){.format = format, .rows = rows, .columns = columns};
    args.weight.data = fresh(pass, elements * (format == MATRIX_F32    ? 4
                                               : format == MATRIX_BF16 ? 2
                                                                       : 1));
    if (format == MATRIX_FP8) args.weight.scale = fresh(pass, elements / 16384 + 1);
    args.quantise_input = format == MATRIX_FP8 && !is_out_a;
    args.round = format == MATRIX_FP8;
    args.bf16_input = true;
    return args;
}

static void product(struct layer_pass *pass, enum matrix_format format, int32_t rows,
                    int32_t columns, const float *x, float *out)
{
    if (!runs(pass)) return;
    struct linear_args args = product_args(pass, format, rows, columns, x, out);
    pass->bench->gpu->ops->linear(pass->bench->gpu->stream, &args);
}

/* Products of one input, as the engine launches them. */
static void products(struct layer_pass *pass, const struct linear_args *items, int32_t count)
{
    const struct ops *ops = pass->bench->gpu->ops;
    if (!runs(pass)) return;
    if (ops->fused && ops->fused->linears(pass->bench->gpu->stream, items, count)) return;
    for (int32_t i = 0; i < count; i++)
        ops->linear(pass->bench->gpu->stream, &items[i]);
}

static struct norm_args norm_args(struct layer_pass *pass, float *x, int32_t width)
{
    return (struct norm_args){.x = x,
                              .weight =
                                  (const uint16_t *)(const void *)fresh(pass, (size_t)width * 2),
                              .out = x,
                              .rows = pass->tokens,
                              .width = width,
                              .epsilon = EPSILON,
                              .round = true};
}

static struct rope_args rope_args(struct layer_pass *pass, float *x, int32_t heads, int32_t width)
{
    return (struct rope_args){.x = x,
                              .positions = pass->positions,
                              .frequencies = pass->frequencies,
                              .tokens = pass->tokens,
                              .heads = heads,
                              .width = width,
                              .rotary = pass->sizes.rotary,
                              .round = true};
}

static void norm(struct layer_pass *pass, float *x, int32_t width)
{
    struct norm_args args = norm_args(pass, x, width);
    if (runs(pass)) pass->bench->gpu->ops->norm(pass->bench->gpu->stream, &args);
}

static struct hyper_pre_args pre_args(struct layer_pass *pass)
{
    const struct layer_sizes *s = &pass->sizes;
    return (struct hyper_pre_args){.streams = pass->streams,
                                   .mix = pass->mix,
                                   .scale = pass->frequencies,
                                   .base = pass->frequencies,
                                   .x = pass->x,
                                   .post = pass->post,
                                   .comb = pass->comb,
                                   .tokens = pass->tokens,
                                   .streams_count = s->streams,
                                   .hidden = s->hidden,
                                   .iterations = 20,
                                   .norm_epsilon = EPSILON,
                                   .epsilon = EPSILON,
                                   .round = true};
}

/* Before the first layer. */
static void read_streams(struct layer_pass *pass)
{
    const struct layer_sizes *s = &pass->sizes;
    int32_t factors = (2 + s->streams) * s->streams;
    product(pass, MATRIX_F32, factors, s->streams * s->hidden, pass->streams, pass->mix);
    struct hyper_pre_args args = pre_args(pass);
    if (runs(pass)) pass->bench->gpu->ops->hyper_pre(pass->bench->gpu->stream, &args);
    norm(pass, pass->x, s->hidden);
}

/* Between two sublayers; after the experts with their rows. */
static void turn(struct layer_pass *pass, bool with_experts)
{
    const struct layer_sizes *s = &pass->sizes;
    const struct fused_ops *fused = pass->bench->gpu->ops->fused;
    if (!runs(pass)) return;
    size_t factors = (size_t)((2 + s->streams) * s->streams);
    struct fused_turn_args args = {
        .post = {.x = pass->x,
                 .post = pass->post,
                 .comb = pass->comb,
                 .streams = pass->streams,
                 .tokens = pass->tokens,
                 .streams_count = s->streams,
                 .hidden = s->hidden,
                 .round = true},
        .pre = pre_args(pass),
        .fn = (const float *)(const void *)fresh(pass, factors * (size_t)(s->streams * s->hidden) *
                                                           sizeof(float)),
        .norm = (const uint16_t *)(const void *)fresh(pass, (size_t)s->hidden * 2),
        .routed = with_experts ? pass->routed : NULL,
        .host_routed = pass->routed,
        .gather = pass->gather,
        .top = LAYER_TOP};
    SL_ASSERT(fused && fused->turn(pass->bench->gpu->stream, &args));
}

static void turn_after_attention(struct layer_pass *pass)
{
    turn(pass, false);
}

static void turn_after_experts(struct layer_pass *pass)
{
    turn(pass, true);
}

static struct kv_compress_args compress_args(struct layer_pass *pass, int32_t ratio, int32_t width,
                                             uint8_t *rows, struct row_format format, bool hadamard)
{
    int32_t halves = ratio == 4 ? 2 : 1;
    return (struct kv_compress_args){
        .keys = pass->compressed,
        .gates = pass->gates,
        .ape = (const float *)(const void *)fresh(pass, (size_t)(ratio * halves * width) * 4),
        .norm = (const uint16_t *)(const void *)fresh(pass, (size_t)width * 2),
        .frequencies = pass->frequencies,
        .state = hadamard ? pass->index_state : pass->state,
        .rows = rows,
        .format = format,
        .tokens = pass->tokens,
        .positions = pass->positions,
        .ratio = ratio,
        .width = width,
        .rows_max = pass->context / ratio,
        .state_capacity = halves * ratio + LAYER_TOKENS_MAX,
        .epsilon = EPSILON,
        .overlap = ratio == 4,
        .hadamard = hadamard,
        .round = true,
    };
}

static void choose_rows(struct layer_pass *pass, const uint8_t *rows, struct row_format format)
{
    const struct layer_sizes *s = &pass->sizes;
    const struct fused_ops *fused = pass->bench->gpu->ops->fused;
    struct fused_indexer_args args = {
        .rope = rope_args(pass, pass->index_queries, s->index_heads, s->index_width),
        .indexer = {.queries = pass->index_queries,
                    .weights = pass->index_weights,
                    .rows = rows,
                    .positions = pass->positions,
                    .scores = pass->scores,
                    .selected = pass->selected,
                    .format = format,
                    .tokens = pass->tokens,
                    .heads = s->index_heads,
                    .width = s->index_width,
                    .ratio = 4,
                    .top = s->top_rows,
                    .rows_max = pass->context / 4,
                    .round = true}};
    if (runs(pass)) SL_ASSERT(fused->indexer(pass->bench->gpu->stream, &args));
}

/* All products of the layer's input. */
static void project(struct layer_pass *pass, int32_t ratio)
{
    const struct layer_sizes *s = &pass->sizes;
    struct linear_args of_x[7];
    int32_t count = 0, halves = ratio == 4 ? 2 : 1;
    of_x[count++] = product_args(pass, MATRIX_FP8, s->query_rank, s->hidden, pass->x, pass->query);
    of_x[count++] = product_args(pass, MATRIX_FP8, s->width, s->hidden, pass->x, pass->key);
    for (int i = 0; ratio && i < 2; i++)
        of_x[count++] = product_args(pass, MATRIX_BF16, halves * s->width, s->hidden, pass->x,
                                     i ? pass->gates : pass->compressed);
    for (int i = 0; ratio == 4 && i < 2; i++)
        of_x[count++] = product_args(pass, MATRIX_BF16, halves * s->index_width, s->hidden, pass->x,
                                     i ? pass->gates : pass->compressed);
    if (ratio == 4)
        of_x[count++] = product_args(pass, MATRIX_BF16, s->index_heads, s->hidden, pass->x,
                                     pass->index_weights);
    products(pass, of_x, count);
}

/* Products of the query rank vector. */
static void make_queries(struct layer_pass *pass, int32_t ratio)
{
    const struct layer_sizes *s = &pass->sizes;
    struct linear_args items[2];
    int32_t count = 0;
    items[count++] = product_args(pass, MATRIX_FP8, s->heads * s->width, s->query_rank, pass->query,
                                  pass->heads);
    if (ratio == 4)
        items[count++] = product_args(pass, MATRIX_FP8, s->index_heads * s->index_width,
                                      s->query_rank, pass->query, pass->index_queries);
    products(pass, items, count);
}

/* What the window and the compressed rows get. */
static void append_rows(struct layer_pass *pass, const struct kv_store_args *store,
                        const struct kv_compress_args *compress, int32_t compress_count)
{
    const struct fused_ops *fused = pass->bench->gpu->ops->fused;
    struct fused_latents_args args = {.query = norm_args(pass, pass->query, pass->sizes.query_rank),
                                      .kv = norm_args(pass, pass->key, pass->sizes.width),
                                      .store = *store,
                                      .frequencies = pass->frequencies,
                                      .compress = compress,
                                      .compress_count = compress_count};
    if (runs(pass)) SL_ASSERT(fused->latents(pass->bench->gpu->stream, &args));
}

static void attend(struct layer_pass *pass, int32_t ratio)
{
    const struct layer_sizes *s = &pass->sizes;
    const struct fused_ops *fused = pass->bench->gpu->ops->fused;
    struct row_format format = {ROW_KV, s->width - s->rotary, s->rotary};
    size_t row_bytes = row_format_bytes(&format);
    int32_t visible = ratio ? pass->context / ratio : 0;
    struct row_format key_format = {ROW_KEY, s->index_width - s->rotary, s->rotary};
    uint8_t *keys = NULL;
    uint8_t *window = (uint8_t *)fresh(pass, row_bytes * (WINDOW + LAYER_TOKENS_MAX));
    /* Of the compressed rows a layer with an indexer reads the chosen ones alone. */
    uint8_t *rows = gpu_bench_fresh(pass->bench, row_bytes * (size_t)max_i32(1, visible));
    struct kv_store_args store = {.x = pass->key,
                                  .positions = pass->positions,
                                  .rows = window,
                                  .format = format,
                                  .tokens = pass->tokens,
                                  .capacity = WINDOW + LAYER_TOKENS_MAX};
    struct kv_compress_args compress[2];
    int32_t compress_count = 0;
    if (ratio)
        compress[compress_count++] = compress_args(pass, ratio, s->width, rows, format, false);
    if (ratio == 4) {
        keys = (uint8_t *)fresh(pass, row_format_bytes(&key_format) * (size_t)visible);
        compress[compress_count++] =
            compress_args(pass, ratio, s->index_width, keys, key_format, true);
    }
    project(pass, ratio);
    append_rows(pass, &store, compress, compress_count);
    make_queries(pass, ratio);
    if (ratio == 4) choose_rows(pass, keys, key_format);
    pass->bytes += (double)row_bytes * (ratio == 4 ? min_i32(s->top_rows, visible) : visible);
    struct fused_attention_args args = {
        .heads = {pass->heads, pass->tokens * s->heads, s->width, EPSILON, true},
        .rope = rope_args(pass, pass->heads, s->heads, s->width),
        .back = rope_args(pass, pass->attended, s->heads, s->width),
        .attention = {.queries = pass->heads,
                      .positions = pass->positions,
                      .window_rows = window,
                      .rows = ratio ? rows : NULL,
                      .selected = ratio == 4 ? pass->selected : NULL,
                      .sink = pass->frequencies,
                      .out = pass->attended,
                      .format = format,
                      .tokens = pass->tokens,
                      .heads = s->heads,
                      .width = s->width,
                      .window = WINDOW,
                      .window_capacity = WINDOW + LAYER_TOKENS_MAX,
                      .ratio = ratio,
                      .top = ratio == 4 ? s->top_rows : 0,
                      .scale = 0.0441941738f,
                      .round = true}};
    args.back.inverse = true;
    if (runs(pass)) SL_ASSERT(fused->attention(pass->bench->gpu->stream, &args));
    product(pass, MATRIX_FP8, s->groups * s->out_rank, s->heads * s->width, pass->attended,
            pass->up);
    product(pass, MATRIX_FP8, s->hidden, s->groups * s->out_rank, pass->up, pass->x);
}

static void route(struct layer_pass *pass)
{
    const struct layer_sizes *s = &pass->sizes;
    product(pass, MATRIX_BF16, s->experts, s->hidden, pass->x, pass->logits);
    struct router_args router = {.logits = pass->logits,
                                 .bias = pass->scores,
                                 .chosen = pass->chosen,
                                 .weights = pass->weights,
                                 .tokens = pass->tokens,
                                 .experts = s->experts,
                                 .top = LAYER_TOP,
                                 .scale = 1.5f};
    if (runs(pass)) pass->bench->gpu->ops->router(pass->bench->gpu->stream, &router);
}

/* The host's side of a meeting is over before it begins: what is left is the GPU's. */
static void publish(struct layer_pass *pass)
{
    struct gpu *gpu = pass->bench->gpu;
    size_t pairs = (size_t)(pass->tokens * LAYER_TOP);
    const struct gpu_piece pieces[] = {
        {pass->host_pairs, pass->chosen, 4 * pairs},
        {pass->host_pairs + LAYER_PAIRS_MAX, pass->weights, 4 * pairs},
        {pass->host_x, pass->x, 4 * (size_t)pass->tokens * (size_t)pass->sizes.hidden}};
    if (runs(pass)) gpu->gpu_ops->publish(gpu, pieces, SL_COUNT_OF(pieces), &pass->flags[0], 1);
}

static void take(struct layer_pass *pass)
{
    struct gpu *gpu = pass->bench->gpu;
    size_t pairs = (size_t)(pass->tokens * LAYER_TOP);
    const struct gpu_piece pieces[] = {
        {pass->taken, pass->host_pairs, 4 * pairs},
        {pass->taken + LAYER_PAIRS_MAX, pass->host_pairs, 4 * pairs}};
    if (runs(pass)) gpu->gpu_ops->take(gpu, &pass->flags[1], 1, pieces, SL_COUNT_OF(pieces));
}

static void mixture(struct layer_pass *pass)
{
    const struct layer_sizes *s = &pass->sizes;
    const struct ops *ops = pass->bench->gpu->ops;
    struct stream *stream = pass->bench->gpu->stream;
    route(pass);
    publish(pass);
    struct fused_gated_args gated = {
        .gate = product_args(pass, MATRIX_FP8, s->expert_width, s->hidden, pass->x, pass->shared),
        .up = product_args(pass, MATRIX_FP8, s->expert_width, s->hidden, pass->x, pass->up),
        .swiglu = {pass->shared, pass->up, pass->shared, pass->tokens, s->expert_width, 10.0f,
                   true}};
    if (runs(pass)) SL_ASSERT(ops->fused->gated(stream, &gated));
    product(pass, MATRIX_FP8, s->hidden, s->expert_width, pass->shared, pass->x);
    struct expert_ffn_args experts = {
        .x = pass->x,
        .out = pass->routed,
        .tasks = pass->tasks + (size_t)(pass->layer++ % LAYER_TABLES) * LAYER_PAIRS_MAX,
        .layout = &pass->layout,
        .task_count = pass->tokens * LAYER_TOP,
        .scratch_rows = pass->tokens,
        .limit = 10.0f,
        .round = true};
    take(pass);
    if (runs(pass)) ops->expert_ffn(stream, &experts);
    pass->bytes += (double)pass->task_count * (double)pass->layout.slot_bytes;
    take(pass);
    experts.tasks = pass->no_tasks;
    if (runs(pass)) ops->expert_ffn(stream, &experts);
}

static void layer(struct layer_pass *pass, int32_t ratio)
{
    attend(pass, ratio);
    turn(pass, false);
    mixture(pass);
    turn(pass, true);
}

/* A part of a layer; pass->part says which. */
static void launch_part(struct gpu_bench *bench, void *context, int32_t repeat)
{
    struct layer_pass *pass = context;
    (void)bench, (void)repeat;
    pass->part(pass);
}

/* An op of a layer alone, as pass->only says. */
static void launch_one(struct gpu_bench *bench, void *context, int32_t repeat)
{
    struct layer_pass *pass = context;
    (void)bench, (void)repeat;
    pass->op = 0;
    layer(pass, pass->ratio);
}

static void launch_layer(struct gpu_bench *bench, void *context, int32_t repeat)
{
    struct layer_pass *pass = context;
    (void)bench, (void)repeat;
    layer(pass, pass->ratio);
}

/* 43 layers in the order of compress_ratios, and the head. */
static void launch_step(struct gpu_bench *bench, void *context, int32_t repeat)
{
    struct layer_pass *pass = context;
    const struct layer_sizes *s = &pass->sizes;
    (void)repeat;
    struct embed_args embed = {
        .ids = pass->ids,
        .table = {fresh(pass, (size_t)s->hidden * 2), NULL, MATRIX_BF16, 1, s->hidden},
        .out = pass->streams,
        .tokens = pass->tokens,
        .streams = s->streams};
    bench->gpu->ops->embed(bench->gpu->stream, &embed);
    read_streams(pass);
    for (int32_t l = 0; l < (bench->tiny ? 4 : 43); l++)
        layer(pass, l < 2 ? 0 : l % 2 ? 128 : 4);
    product(pass, MATRIX_F32, s->streams, s->streams * s->hidden, pass->streams, pass->mix);
    struct hyper_head_args head = {.streams = pass->streams,
                                   .mix = pass->mix,
                                   .scale = pass->frequencies,
                                   .base = pass->frequencies,
                                   .x = pass->x,
                                   .tokens = pass->tokens,
                                   .streams_count = s->streams,
                                   .hidden = s->hidden,
                                   .norm_epsilon = EPSILON,
                                   .epsilon = EPSILON,
                                   .round = true};
    bench->gpu->ops->hyper_head(bench->gpu->stream, &head);
    norm(pass, pass->x, s->hidden);
    product(pass, MATRIX_BF16, s->vocabulary, s->hidden, pass->x, pass->logits);
}

/* Launches once, unmeasured, for the bytes of a launch, and then measures: GB/s and microseconds.
 */
static void measure(struct layer_pass *pass, const char *what, gpu_bench_launch *launch)
{
    char name[96];
    struct sl_error error;
    snprintf(name, sizeof name, "%s, %d tokens at %d", what, (int)pass->tokens, (int)pass->context);
    pass->bytes = 0;
    launch(pass->bench, pass, 0);
    double bytes = pass->bytes;
    if (pass->bench->gpu->gpu_ops->sync(pass->bench->gpu, &error) != SL_OK) {
        fprintf(stderr, "sluice-bench-gpu: %s: %s\n", name, error.message);
        pass->bench->failures++;
        return;
    }
    if (bytes > 0) gpu_bench_measure(pass->bench, name, bytes, launch, pass);
    gpu_bench_measure(pass->bench, name, 0, launch, pass);
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
        if (!gpu_bench_sample(bench, launch_one, pass, samples)) break;
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

/* A step as it is, and of its launches alone; both again without chaining them. */
static void measure_step(struct layer_pass *pass)
{
    struct gpu_bench *bench = pass->bench;
    struct stream *stream = bench->gpu->stream;
    int32_t repeats = bench->repeats;
    char name[96];
    bench->repeats = 1;
    uint64_t before = cuda_stream_launches(stream);
    launch_step(bench, pass, 0);
    pass->launches = cuda_stream_launches(stream) - before;
    bool chains = cuda_stream_chain(stream, false);
    for (int chained = 0; chained < (chains ? 2 : 1); chained++) {
        (void)cuda_stream_chain(stream, chained);
        const char *how = chained ? "chained" : "one after another";
        snprintf(name, sizeof name, "decode step, %llu launches %s",
                 (unsigned long long)pass->launches, how);
        measure(pass, name, launch_step);
        snprintf(name, sizeof name, "%llu empty launches %s", (unsigned long long)pass->launches,
                 how);
        pass->bytes = 0;
        gpu_bench_measure(bench, name, 0, launch_nothing, pass);
    }
    bench->repeats = repeats;
}

static void measure_part(struct layer_pass *pass, const char *what,
                         void (*part)(struct layer_pass *))
{
    pass->part = part;
    measure(pass, what, launch_part);
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
    measure_part(pass, "router and its product", route);
    pass->ratio = 0;
    measure(pass, "layer, window only", launch_layer);
    pass->ratio = 4;
    measure(pass, "layer, ratio 4", launch_layer);
    measure_alone(pass, "layer, ratio 4");
    pass->ratio = 128;
    measure(pass, "layer, ratio 128", launch_layer);
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
