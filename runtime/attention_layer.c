/* Attention of one layer; see the header. Products of the input come first and together; the rest
 * is in the order of the model's definition, so that the two can be read side by side. */
#include "runtime/attention_layer.h"

#include "kernels/fused.h"

#include <math.h>

/* out = x W^T for the chunk, input quantised and result rounded as the arguments say. */
static struct linear_args product(const struct forward *forward, int32_t tokens, const float *x,
                                  const struct matrix *weight, float *out, bool quantise,
                                  bool round)
{
    return (struct linear_args){.x = x,
                                .weight = *weight,
                                .out = out,
                                .tokens = tokens,
                                .groups = 1,
                                .quantise_input = quantise && forward->round,
                                .round = round && forward->round,
                                .bf16_input = forward->round};
}

static struct rope_args rope_of(const struct forward *forward, const struct layer_weights *layer,
                                int32_t tokens, int32_t heads, int32_t width, float *x)
{
    return (struct rope_args){.x = x,
                              .positions = forward->workspace->positions,
                              .frequencies = layer->frequencies,
                              .tokens = tokens,
                              .heads = heads,
                              .width = width,
                              .rotary = forward->model->config.rotary,
                              .round = forward->round};
}

/* Of rows in place. */
static struct norm_args norm_of(const struct forward *forward, int32_t rows, int32_t width,
                                float *x, const uint16_t *weight)
{
    return (struct norm_args){.x = x,
                              .weight = weight,
                              .out = x,
                              .rows = rows,
                              .width = width,
                              .epsilon = forward->model->config.norm_epsilon,
                              .round = forward->round};
}

/* Everything that is a product of x alone. */
static void make_products(struct forward *forward, const struct layer_weights *layer,
                          int32_t tokens, const float *x)
{
    const struct attention_weights *attn = &layer->attn;
    struct workspace *ws = forward->workspace;
    struct linear_args of_x[7];
    int32_t count = 0;
    of_x[count++] = product(forward, tokens, x, &attn->query_down, ws->query_rank, true, true);
    of_x[count++] = product(forward, tokens, x, &attn->kv, ws->kv, true, true);
    if (layer->ratio) {
        const struct compressor_weights *rows = &attn->compressor;
        of_x[count++] = product(forward, tokens, x, &rows->keys, ws->compress_keys, false, false);
        of_x[count++] = product(forward, tokens, x, &rows->gates, ws->compress_gates, false, false);
    }
    if (layer->ratio == 4) {
        const struct indexer_weights *indexer = &attn->indexer;
        const struct compressor_weights *keys = &indexer->compressor;
        of_x[count++] = product(forward, tokens, x, &keys->keys, ws->index_keys, false, false);
        of_x[count++] = product(forward, tokens, x, &keys->gates, ws->index_gates, false, false);
        of_x[count++] =
            product(forward, tokens, x, &indexer->weights, ws->index_weights, false, true);
    }
    forward_linears(forward, of_x, count);
}

/* The products of the query rank vector: queries, and the indexer's. */
static void make_queries(struct forward *forward, const struct layer_weights *layer, int32_t tokens)
{
    struct workspace *ws = forward->workspace;
    struct linear_args items[2];
    int32_t count = 0;
    items[count++] =
        product(forward, tokens, ws->query_rank, &layer->attn.query_up, ws->queries, true, true);
    if (layer->ratio == 4)
        items[count++] = product(forward, tokens, ws->query_rank, &layer->attn.indexer.queries,
                                 ws->index_queries, true, true);
    forward_linears(forward, items, count);
}

/* What a compressor has made of the chunk, and where its state and rows are. */
struct compressor_state {
    const float *keys, *gates;
    float *state;
    uint8_t *rows;
    struct row_format format;
    int32_t width, capacity;
    bool hadamard;
};

static struct kv_compress_args compress_of(const struct forward *forward,
                                           const struct forward_chunk *chunk, int32_t idx,
                                           const struct compressor_weights *weights,
                                           const struct compressor_state *into)
{
    const struct layer_weights *layer = &forward->weights->layers[idx];
    const struct workspace *ws = forward->workspace;
    return (struct kv_compress_args){.keys = into->keys,
                                     .gates = into->gates,
                                     .ape = weights->ape,
                                     .norm = weights->norm,
                                     .frequencies = layer->frequencies,
                                     .state = into->state,
                                     .rows = into->rows,
                                     .format = into->format,
                                     .positions = ws->positions,
                                     .tokens = chunk->tokens,
                                     .ratio = layer->ratio,
                                     .width = into->width,
                                     .rows_max = chunk->cache->layers[idx].rows_max,
                                     .state_capacity = into->capacity,
                                     .epsilon = forward->model->config.norm_epsilon,
                                     .overlap = layer->ratio == 4,
                                     .hadamard = into->hadamard,
                                     .round = forward->round};
}

/* What folds this chunk into compressed rows, the attention's and the indexer's; how many there
 * are.
 */
static int32_t list_compressors(const struct forward *forward, const struct forward_chunk *chunk,
                                int32_t idx, struct kv_compress_args *out)
{
    const struct workspace *ws = forward->workspace;
    const struct attention_weights *weights = &forward->weights->layers[idx].attn;
    const struct kv_layer *kv = &chunk->cache->layers[idx];
    struct compressor_state rows = {.keys = ws->compress_keys,
                                    .gates = ws->compress_gates,
                                    .state = kv->state,
                                    .rows = kv->rows,
                                    .format = chunk->cache->row_format,
                                    .width = forward->model->config.head_dim,
                                    .capacity = kv->state_capacity};
    struct compressor_state keys = {.keys = ws->index_keys,
                                    .gates = ws->index_gates,
                                    .state = kv->index_state,
                                    .rows = kv->index_rows,
                                    .format = chunk->cache->key_format,
                                    .width = forward->model->config.index_dim,
                                    .capacity = kv->index_state_capacity,
                                    .hadamard = true};
    int32_t count = 0;
    if (kv->ratio) out[count++] = compress_of(forward, chunk, idx, &weights->compressor, &rows);
    if (kv->ratio == 4)
        out[count++] = compress_of(forward, chunk, idx, &weights->indexer.compressor, &keys);
    return count;
}

/* Norms the query rank vectors, and appends the chunk's key/value rows to the window ring and the
 * groups that it completes to the compressed rows. */
static void append_rows(struct forward *forward, const struct forward_chunk *chunk, int32_t idx)
{
    const struct model_config *config = &forward->model->config;
    const struct layer_weights *layer = &forward->weights->layers[idx];
    const struct ops *ops = forward->ops;
    struct workspace *ws = forward->workspace;
    struct kv_compress_args compress[2];
    struct fused_latents_args args = {
        .query = norm_of(forward, chunk->tokens, config->query_rank, ws->query_rank,
                         layer->attn.query_norm),
        .kv = norm_of(forward, chunk->tokens, config->head_dim, ws->kv, layer->attn.kv_norm),
        .store = {.x = ws->kv,
                  .positions = ws->positions,
                  .rows = chunk->cache->layers[idx].window_rows,
                  .format = chunk->cache->row_format,
                  .tokens = chunk->tokens,
                  .capacity = chunk->cache->window_capacity},
        .frequencies = layer->frequencies,
        .compress = compress,
        .compress_count = list_compressors(forward, chunk, idx, compress)};
    if (ops->fused && ops->fused->latents(forward->stream, &args)) return;
    struct rope_args rope = rope_of(forward, layer, chunk->tokens, 1, config->head_dim, ws->kv);
    ops->norm(forward->stream, &args.query);
    ops->norm(forward->stream, &args.kv);
    ops->rope(forward->stream, &rope);
    ops->kv_store(forward->stream, &args.store);
    for (int32_t i = 0; i < args.compress_count; i++)
        ops->kv_compress(forward->stream, &compress[i]);
}

/* Rotates the indexer's queries and chooses compressed rows for every token of the chunk, into
 * workspace->selected. */
static void select_rows(struct forward *forward, const struct forward_chunk *chunk, int32_t idx)
{
    const struct model_config *config = &forward->model->config;
    const struct layer_weights *layer = &forward->weights->layers[idx];
    const struct kv_layer *kv = &chunk->cache->layers[idx];
    const struct ops *ops = forward->ops;
    struct workspace *ws = forward->workspace;
    struct fused_indexer_args args = {.rope = rope_of(forward, layer, chunk->tokens,
                                                      config->index_heads, config->index_dim,
                                                      ws->index_queries),
                                      .indexer = {.queries = ws->index_queries,
                                                  .weights = ws->index_weights,
                                                  .rows = kv->index_rows,
                                                  .positions = ws->positions,
                                                  .scores = ws->index_scores,
                                                  .selected = ws->selected,
                                                  .format = chunk->cache->key_format,
                                                  .tokens = chunk->tokens,
                                                  .heads = config->index_heads,
                                                  .width = config->index_dim,
                                                  .ratio = layer->ratio,
                                                  .top = config->index_top,
                                                  .rows_max = kv->rows_max,
                                                  .round = forward->round}};
    if (ops->fused && ops->fused->indexer(forward->stream, &args)) return;
    ops->rope(forward->stream, &args.rope);
    ops->indexer(forward->stream, &args.indexer);
}

static struct attention_args attention_of(const struct forward *forward,
                                          const struct forward_chunk *chunk, int32_t idx)
{
    const struct model_config *config = &forward->model->config;
    const struct layer_weights *layer = &forward->weights->layers[idx];
    const struct kv_layer *kv = &chunk->cache->layers[idx];
    const struct workspace *ws = forward->workspace;
    return (struct attention_args){.queries = ws->queries,
                                   .positions = ws->positions,
                                   .window_rows = kv->window_rows,
                                   .rows = kv->rows,
                                   .selected = layer->ratio == 4 ? ws->selected : NULL,
                                   .sink = layer->attn.sink,
                                   .out = ws->heads_out,
                                   .format = chunk->cache->row_format,
                                   .tokens = chunk->tokens,
                                   .heads = config->heads,
                                   .width = config->head_dim,
                                   .window = config->window,
                                   .window_capacity = chunk->cache->window_capacity,
                                   .ratio = layer->ratio,
                                   .top = config->index_top,
                                   .scale = 1.0f / sqrtf((float)config->head_dim),
                                   .round = forward->round};
}

/* Queries normed and rotated, attention, its result rotated back. */
static void attend(struct forward *forward, const struct forward_chunk *chunk, int32_t idx)
{
    const struct model_config *config = &forward->model->config;
    const struct layer_weights *layer = &forward->weights->layers[idx];
    const struct ops *ops = forward->ops;
    struct workspace *ws = forward->workspace;
    struct fused_attention_args args = {
        .heads = {.x = ws->queries,
                  .rows = chunk->tokens * config->heads,
                  .width = config->head_dim,
                  .epsilon = config->norm_epsilon,
                  .round = forward->round},
        .rope =
            rope_of(forward, layer, chunk->tokens, config->heads, config->head_dim, ws->queries),
        .attention = attention_of(forward, chunk, idx),
        .back =
            rope_of(forward, layer, chunk->tokens, config->heads, config->head_dim, ws->heads_out)};
    args.back.inverse = true;
    if (ops->fused && ops->fused->attention(forward->stream, &args)) return;
    ops->head_norm(forward->stream, &args.heads);
    ops->rope(forward->stream, &args.rope);
    ops->attention(forward->stream, &args.attention);
    ops->rope(forward->stream, &args.back);
}

void attention_layer_forward(struct forward *forward, const struct forward_chunk *chunk,
                             int32_t idx, const float *x, float *out)
{
    const struct model_config *config = &forward->model->config;
    const struct layer_weights *layer = &forward->weights->layers[idx];
    struct workspace *ws = forward->workspace;
    SL_ASSERT(chunk->tokens > 0 && chunk->tokens <= ws->chunk_tokens);
    SL_ASSERT(chunk->cache->layers[idx].ratio == layer->ratio);

    make_products(forward, layer, chunk->tokens, x);
    append_rows(forward, chunk, idx);
    make_queries(forward, layer, chunk->tokens);
    if (layer->ratio == 4) select_rows(forward, chunk, idx);
    attend(forward, chunk, idx);

    struct linear_args down = {.x = ws->heads_out,
                               .weight = layer->attn.output_down,
                               .out = ws->output_rank,
                               .tokens = chunk->tokens,
                               .groups = config->output_groups,
                               .round = forward->round,
                               .bf16_input = forward->round};
    forward->ops->linear(forward->stream, &down);
    struct linear_args up =
        product(forward, chunk->tokens, ws->output_rank, &layer->attn.output_up, out, true, true);
    forward->ops->linear(forward->stream, &up);
}
