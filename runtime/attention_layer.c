/* Attention of one layer; see the header. Products of the input come first and together; the rest is in
 * the order of the model's definition, so that the two can be read side by side. */
#include "runtime/attention_layer.h"

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

static void rotate(struct forward *forward, const struct layer_weights *layer, int32_t tokens,
                   int32_t heads, int32_t width, float *x, bool inverse)
{
    struct rope_args args = {.x = x,
                             .positions = forward->workspace->positions,
                             .frequencies = layer->frequencies,
                             .tokens = tokens,
                             .heads = heads,
                             .width = width,
                             .rotary = forward->model->config.rotary,
                             .inverse = inverse,
                             .round = forward->round};
    forward->ops->rope(forward->stream, &args);
}

static void norm_rows(struct forward *forward, int32_t rows, int32_t width, float *x,
                      const uint16_t *weight)
{
    struct norm_args args = {.x = x,
                             .weight = weight,
                             .out = x,
                             .rows = rows,
                             .width = width,
                             .epsilon = forward->model->config.norm_epsilon,
                             .round = forward->round};
    forward->ops->norm(forward->stream, &args);
}

/* Everything that is a product of x alone, and then what is one of the query rank vector. */
static void make_products(struct forward *forward, const struct layer_weights *layer,
                          int32_t tokens, const float *x)
{
    const struct attention_weights *attn = &layer->attn;
    struct workspace *ws = forward->workspace;
    struct linear_args of_x[7], of_rank[2];
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
    norm_rows(forward, tokens, forward->model->config.query_rank, ws->query_rank, attn->query_norm);
    count = 0;
    of_rank[count++] =
        product(forward, tokens, ws->query_rank, &attn->query_up, ws->queries, true, true);
    if (layer->ratio == 4)
        of_rank[count++] = product(forward, tokens, ws->query_rank, &attn->indexer.queries,
                                   ws->index_queries, true, true);
    forward_linears(forward, of_rank, count);
}

/* Queries, normed and rotated. */
static void finish_queries(struct forward *forward, const struct layer_weights *layer,
                           int32_t tokens)
{
    const struct model_config *config = &forward->model->config;
    struct workspace *ws = forward->workspace;
    struct head_norm_args head = {.x = ws->queries,
                                  .rows = tokens * config->heads,
                                  .width = config->head_dim,
                                  .epsilon = config->norm_epsilon,
                                  .round = forward->round};
    forward->ops->head_norm(forward->stream, &head);
    rotate(forward, layer, tokens, config->heads, config->head_dim, ws->queries, false);
}

/* The chunk's key/value rows, into the window ring. */
static void store_window_rows(struct forward *forward, const struct forward_chunk *chunk,
                              int32_t idx)
{
    const struct model_config *config = &forward->model->config;
    const struct layer_weights *layer = &forward->weights->layers[idx];
    struct workspace *ws = forward->workspace;
    norm_rows(forward, chunk->tokens, config->head_dim, ws->kv, layer->attn.kv_norm);
    rotate(forward, layer, chunk->tokens, 1, config->head_dim, ws->kv, false);
    struct kv_store_args store = {.x = ws->kv,
                                  .positions = ws->positions,
                                  .rows = chunk->cache->layers[idx].window_rows,
                                  .format = chunk->cache->row_format,
                                  .tokens = chunk->tokens,
                                  .capacity = chunk->cache->window_capacity};
    forward->ops->kv_store(forward->stream, &store);
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

static void compress(struct forward *forward, const struct forward_chunk *chunk, int32_t idx,
                     const struct compressor_weights *weights, const struct compressor_state *into)
{
    const struct layer_weights *layer = &forward->weights->layers[idx];
    const struct workspace *ws = forward->workspace;
    struct kv_compress_args args = {.keys = into->keys,
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
    forward->ops->kv_compress(forward->stream, &args);
}

/* Appends the groups that this chunk completes, to the attention's rows and the indexer's keys. */
static void append_compressed(struct forward *forward, const struct forward_chunk *chunk,
                              int32_t idx)
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
    compress(forward, chunk, idx, &weights->compressor, &rows);
    if (kv->ratio != 4) return;
    struct compressor_state keys = {.keys = ws->index_keys,
                                    .gates = ws->index_gates,
                                    .state = kv->index_state,
                                    .rows = kv->index_rows,
                                    .format = chunk->cache->key_format,
                                    .width = forward->model->config.index_dim,
                                    .capacity = kv->index_state_capacity,
                                    .hadamard = true};
    compress(forward, chunk, idx, &weights->indexer.compressor, &keys);
}

/* Chooses compressed rows for every token of the chunk, into workspace->selected. */
static void select_rows(struct forward *forward, const struct forward_chunk *chunk, int32_t idx)
{
    const struct model_config *config = &forward->model->config;
    const struct layer_weights *layer = &forward->weights->layers[idx];
    const struct kv_layer *kv = &chunk->cache->layers[idx];
    struct workspace *ws = forward->workspace;
    rotate(forward, layer, chunk->tokens, config->index_heads, config->index_dim, ws->index_queries,
           false);
    struct indexer_args args = {.queries = ws->index_queries,
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
                                .round = forward->round};
    forward->ops->indexer(forward->stream, &args);
}

static void attend(struct forward *forward, const struct forward_chunk *chunk, int32_t idx)
{
    const struct model_config *config = &forward->model->config;
    const struct layer_weights *layer = &forward->weights->layers[idx];
    const struct kv_layer *kv = &chunk->cache->layers[idx];
    struct workspace *ws = forward->workspace;
    struct attention_args args = {.queries = ws->queries,
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
    forward->ops->attention(forward->stream, &args);
    rotate(forward, layer, chunk->tokens, config->heads, config->head_dim, ws->heads_out, true);
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
    finish_queries(forward, layer, chunk->tokens);
    store_window_rows(forward, chunk, idx);
    if (layer->ratio) append_compressed(forward, chunk, idx);
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
