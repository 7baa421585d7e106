/* Layers of the model's shape and a decode step of them, launch by launch as a pass would. */
#include "bench/gpu/gpu_layer.h"
#include "kernels/fused.h"

#define WINDOW  128
#define EPSILON 1e-6f

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
void layer_pass_turn(struct layer_pass *pass, bool with_experts)
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

/* The host's side of a meeting is over before it begins: what is left is the GPU's. */
void layer_pass_route(struct layer_pass *pass)
{
    const struct layer_sizes *s = &pass->sizes;
    struct fused_route_args args = {
        .linear = product_args(pass, MATRIX_BF16, s->experts, s->hidden, pass->x, pass->logits),
        .router = {.logits = pass->logits,
                   .bias = pass->scores,
                   .chosen = pass->chosen,
                   .weights = pass->weights,
                   .tokens = pass->tokens,
                   .experts = s->experts,
                   .top = LAYER_TOP,
                   .scale = 1.5f},
        .host_x = pass->host_x,
        .host_chosen = pass->host_words,
        .host_weights = (float *)(void *)(pass->host_words + LAYER_PAIRS_MAX),
        .flag = &pass->flags[0],
        .value = 1};
    if (runs(pass)) SL_ASSERT(pass->bench->gpu->ops->fused->route(pass->bench->gpu->stream, &args));
}

/* The table is there before, and as many bytes come out of mapped memory as with one that is not:
 * `words` a choice beside its task. */
static void run_experts(struct layer_pass *pass, const struct expert_task *tasks, size_t words)
{
    size_t pairs = (size_t)(pass->tokens * LAYER_TOP);
    const struct gpu_piece pieces[] = {
        {pass->taken, pass->host_words, 4 * pairs * words},
        {pass->taken + pairs * words, pass->host_words, sizeof *tasks * pairs}};
    struct fused_experts_args args = {.flag = &pass->flags[1],
                                      .value = 1,
                                      .pieces = pieces,
                                      .piece_count = SL_COUNT_OF(pieces),
                                      .experts = {.x = pass->x,
                                                  .out = pass->routed,
                                                  .tasks = tasks,
                                                  .layout = &pass->layout,
                                                  .task_count = pass->tokens * LAYER_TOP,
                                                  .scratch_rows = pass->tokens,
                                                  .limit = 10.0f,
                                                  .round = true,
                                                  .tokens = pass->tokens,
                                                  .pairs = pass->tokens * LAYER_TOP}};
    if (runs(pass))
        SL_ASSERT(pass->bench->gpu->ops->fused->experts(pass->bench->gpu->stream, &args));
}

static void mixture(struct layer_pass *pass)
{
    const struct layer_sizes *s = &pass->sizes;
    const struct fused_ops *fused = pass->bench->gpu->ops->fused;
    layer_pass_route(pass);
    struct fused_gated_args gated = {
        .gate = product_args(pass, MATRIX_FP8, s->expert_width, s->hidden, pass->x, pass->shared),
        .up = product_args(pass, MATRIX_FP8, s->expert_width, s->hidden, pass->x, pass->up),
        .swiglu = {pass->shared, pass->up, pass->shared, pass->tokens, s->expert_width, 10.0f,
                   true}};
    if (runs(pass)) SL_ASSERT(fused->gated(pass->bench->gpu->stream, &gated));
    product(pass, MATRIX_FP8, s->hidden, s->expert_width, pass->shared, pass->x);
    run_experts(pass, pass->tasks + (size_t)(pass->layer++ % LAYER_TABLES) * LAYER_PAIRS_MAX, 3);
    pass->bytes += (double)pass->task_count * (double)pass->layout.slot_bytes;
    run_experts(pass, pass->no_tasks, 1);
}

void layer_pass_layer(struct layer_pass *pass, int32_t ratio)
{
    attend(pass, ratio);
    layer_pass_turn(pass, false);
    mixture(pass);
    layer_pass_turn(pass, true);
}

int32_t layer_pass_layers(const struct gpu_bench *bench)
{
    return bench->tiny ? 4 : LAYER_TABLES;
}

/* Layers in the order of compress_ratios, and the head. */
void layer_pass_step(struct layer_pass *pass)
{
    const struct gpu_bench *bench = pass->bench;
    const struct layer_sizes *s = &pass->sizes;
    struct embed_args embed = {
        .ids = pass->ids,
        .table = {fresh(pass, (size_t)s->hidden * 2), NULL, MATRIX_BF16, 1, s->hidden},
        .out = pass->streams,
        .tokens = pass->tokens,
        .streams = s->streams};
    bench->gpu->ops->embed(bench->gpu->stream, &embed);
    read_streams(pass);
    for (int32_t l = 0; l < layer_pass_layers(bench); l++)
        layer_pass_layer(pass, l < 2 ? 0 : l % 2 ? 128 : 4);
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
