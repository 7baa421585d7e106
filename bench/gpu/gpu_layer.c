/* Layers of the model's shape, launch by launch as a pass would, and a whole decode step: what an
 * op costs among the others, launches included.
 *
 * Weights are the pool's, other ones for every layer and repeat; activations are zeros, which costs
 * the same time as any other number. Every expert is resident. Bytes are the weights and the cached
 * rows that are read. */
#include "bench/gpu/gpu_layer.h"

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

static void product(struct layer_pass *pass, enum matrix_format format, int32_t rows,
                    int32_t columns, const float *x, float *out)
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
    pass->bench->gpu->ops->linear(pass->bench->gpu->stream, &args);
}

static void norm(struct layer_pass *pass, float *x, int32_t width)
{
    struct norm_args args = {.x = x,
                             .weight =
                                 (const uint16_t *)(const void *)fresh(pass, (size_t)width * 2),
                             .out = x,
                             .rows = pass->tokens,
                             .width = width,
                             .epsilon = EPSILON,
                             .round = true};
    pass->bench->gpu->ops->norm(pass->bench->gpu->stream, &args);
}

static void rope(struct layer_pass *pass, float *x, int32_t heads, int32_t width, bool inverse)
{
    struct rope_args args = {.x = x,
                             .positions = pass->positions,
                             .frequencies = pass->frequencies,
                             .tokens = pass->tokens,
                             .heads = heads,
                             .width = width,
                             .rotary = pass->sizes.rotary,
                             .inverse = inverse,
                             .round = true};
    pass->bench->gpu->ops->rope(pass->bench->gpu->stream, &args);
}

static void read_streams(struct layer_pass *pass)
{
    const struct layer_sizes *s = &pass->sizes;
    int32_t factors = (2 + s->streams) * s->streams;
    product(pass, MATRIX_F32, factors, s->streams * s->hidden, pass->streams, pass->mix);
    struct hyper_pre_args args = {.streams = pass->streams,
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
    pass->bench->gpu->ops->hyper_pre(pass->bench->gpu->stream, &args);
    norm(pass, pass->x, s->hidden);
}

static void write_streams(struct layer_pass *pass)
{
    struct hyper_post_args args = {.x = pass->x,
                                   .post = pass->post,
                                   .comb = pass->comb,
                                   .streams = pass->streams,
                                   .tokens = pass->tokens,
                                   .streams_count = pass->sizes.streams,
                                   .hidden = pass->sizes.hidden,
                                   .round = true};
    pass->bench->gpu->ops->hyper_post(pass->bench->gpu->stream, &args);
}

static void compress(struct layer_pass *pass, int32_t ratio, int32_t width, uint8_t *rows,
                     struct row_format format, bool hadamard)
{
    int32_t halves = ratio == 4 ? 2 : 1;
    product(pass, MATRIX_BF16, halves * width, pass->sizes.hidden, pass->x, pass->compressed);
    product(pass, MATRIX_BF16, halves * width, pass->sizes.hidden, pass->x, pass->gates);
    struct kv_compress_args args = {
        .keys = pass->compressed,
        .gates = pass->gates,
        .ape = (const float *)(const void *)fresh(pass, (size_t)(ratio * halves * width) * 4),
        .norm = (const uint16_t *)(const void *)fresh(pass, (size_t)width * 2),
        .frequencies = pass->frequencies,
        .state = pass->state,
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
    pass->bench->gpu->ops->kv_compress(pass->bench->gpu->stream, &args);
}

static void choose_rows(struct layer_pass *pass)
{
    const struct layer_sizes *s = &pass->sizes;
    struct row_format format = {ROW_KEY, s->index_width - s->rotary, s->rotary};
    int32_t rows_max = pass->context / 4;
    uint8_t *rows = (uint8_t *)fresh(pass, row_format_bytes(&format) * (size_t)rows_max);
    product(pass, MATRIX_FP8, s->index_heads * s->index_width, s->query_rank, pass->query,
            pass->index_queries);
    rope(pass, pass->index_queries, s->index_heads, s->index_width, false);
    product(pass, MATRIX_BF16, s->index_heads, s->hidden, pass->x, pass->index_weights);
    compress(pass, 4, s->index_width, rows, format, true);
    struct indexer_args args = {.queries = pass->index_queries,
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
                                .rows_max = rows_max,
                                .round = true};
    pass->bench->gpu->ops->indexer(pass->bench->gpu->stream, &args);
}

static void attend(struct layer_pass *pass, int32_t ratio)
{
    const struct layer_sizes *s = &pass->sizes;
    const struct ops *ops = pass->bench->gpu->ops;
    struct stream *stream = pass->bench->gpu->stream;
    struct row_format format = {ROW_KV, s->width - s->rotary, s->rotary};
    size_t row_bytes = row_format_bytes(&format);
    int32_t visible = ratio ? pass->context / ratio : 0;
    product(pass, MATRIX_FP8, s->query_rank, s->hidden, pass->x, pass->query);
    norm(pass, pass->query, s->query_rank);
    product(pass, MATRIX_FP8, s->heads * s->width, s->query_rank, pass->query, pass->heads);
    struct head_norm_args heads = {pass->heads, pass->tokens * s->heads, s->width, EPSILON, true};
    ops->head_norm(stream, &heads);
    rope(pass, pass->heads, s->heads, s->width, false);
    product(pass, MATRIX_FP8, s->width, s->hidden, pass->x, pass->key);
    norm(pass, pass->key, s->width);
    rope(pass, pass->key, 1, s->width, false);
    uint8_t *window = (uint8_t *)fresh(pass, row_bytes * (WINDOW + LAYER_TOKENS_MAX));
    struct kv_store_args store = {.x = pass->key,
                                  .positions = pass->positions,
                                  .rows = window,
                                  .format = format,
                                  .tokens = pass->tokens,
                                  .capacity = WINDOW + LAYER_TOKENS_MAX};
    ops->kv_store(stream, &store);
    if (ratio == 4) choose_rows(pass);
    /* Of the compressed rows a layer with an indexer reads the chosen ones alone. */
    uint8_t *rows = gpu_bench_fresh(pass->bench, row_bytes * (size_t)max_i32(1, visible));
    if (ratio) compress(pass, ratio, s->width, rows, format, false);
    pass->bytes += (double)row_bytes * (ratio == 4 ? min_i32(s->top_rows, visible) : visible);
    struct attention_args args = {.queries = pass->heads,
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
                                  .round = true};
    ops->attention(stream, &args);
    rope(pass, pass->attended, s->heads, s->width, true);
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
    pass->bench->gpu->ops->router(pass->bench->gpu->stream, &router);
}

static void mixture(struct layer_pass *pass)
{
    const struct layer_sizes *s = &pass->sizes;
    const struct ops *ops = pass->bench->gpu->ops;
    struct stream *stream = pass->bench->gpu->stream;
    route(pass);
    struct expert_ffn_args experts = {
        .x = pass->x,
        .out = pass->routed,
        .tasks = pass->tasks + (size_t)(pass->layer++ % LAYER_TABLES) * LAYER_PAIRS_MAX,
        .layout = &pass->layout,
        .task_count = pass->task_count,
        .scratch_rows = pass->tokens,
        .limit = 10.0f,
        .round = true};
    ops->expert_ffn(stream, &experts);
    pass->bytes += (double)pass->task_count * (double)pass->layout.slot_bytes;
    product(pass, MATRIX_FP8, s->expert_width, s->hidden, pass->x, pass->shared);
    product(pass, MATRIX_FP8, s->expert_width, s->hidden, pass->x, pass->up);
    struct swiglu_args swiglu = {pass->shared,    pass->up, pass->shared, pass->tokens,
                                 s->expert_width, 10.0f,    true};
    ops->swiglu(stream, &swiglu);
    product(pass, MATRIX_FP8, s->hidden, s->expert_width, pass->shared, pass->x);
    struct moe_combine_args combine = {pass->routed, pass->x,   pass->x, pass->tokens,
                                       LAYER_TOP,    s->hidden, true};
    ops->moe_combine(stream, &combine);
}

static void layer(struct layer_pass *pass, int32_t ratio)
{
    read_streams(pass);
    attend(pass, ratio);
    write_streams(pass);
    read_streams(pass);
    mixture(pass);
    write_streams(pass);
}

/* A part of a layer; pass->part says which. */
static void launch_part(struct gpu_bench *bench, void *context, int32_t repeat)
{
    struct layer_pass *pass = context;
    (void)bench, (void)repeat;
    pass->part(pass);
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
    int32_t repeats = bench->repeats;
    pass->tokens = tokens;
    pass->context = context;
    for (int32_t t = 0; t < LAYER_TOKENS_MAX; t++)
        positions[t] = context - tokens + min_i32(t, tokens - 1);
    pass->positions = gpu_bench_put(bench, positions, sizeof positions);
    if (!pass->positions || !layer_pass_tasks(pass, tokens == 1 ? 6 : 17)) return;
    measure_part(pass, "streams read: mix, hyper_pre, norm", read_streams);
    measure_part(pass, "streams written: hyper_post", write_streams);
    measure_part(pass, "router and its product", route);
    pass->ratio = 0;
    measure(pass, "layer, window only", launch_layer);
    pass->ratio = 4;
    measure(pass, "layer, ratio 4", launch_layer);
    pass->ratio = 128;
    measure(pass, "layer, ratio 128", launch_layer);
    bench->repeats = 1;
    measure(pass, "decode step, all layers", launch_step);
    bench->repeats = repeats;
}

void gpu_bench_layers(struct gpu_bench *bench)
{
    struct layer_pass pass = {.bench = bench, .sizes = bench->tiny ? small : flash};
    if (bench->failures > 0) return;
    pass.layout = expert_layout_make(pass.sizes.hidden, pass.sizes.expert_width);
    layer_pass_arrays(&pass);
    if (bench->failures > 0) return;
    measure_pass(&pass, 1, bench->tiny ? 256 : 1 << 10);
    if (bench->tiny) return;
    measure_pass(&pass, 1, 1 << 15);
    measure_pass(&pass, 1, 1 << 20);
    measure_pass(&pass, 4, 1 << 15);
}
