/* Attention of one layer; see the header. The order of steps is that of the model's definition, so
 * that the two can be read side by side. */
#include "runtime/attention_layer.h"

#include <math.h>

/* out = x W^T for the chunk, input quantised and result rounded as the arguments say. */
static void project(struct forward *forward, int32_t tokens, const float *x,
                    const struct matrix *weight, float *out, bool quantise, bool round)
{
    struct linear_args args = {.x = x,
                               .weight = *weight,
                               .out = out,
                               .tokens = tokens,
                               .groups = 1,
                               .quantise_input = quantise && forward->round,
                               .round = round && forward->round,
                               .bf16_input = forward->round};
    forward->ops->linear(forward->stream, &args);
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

/* Query rank vector and rotated queries, into the workspace. */
static void make_queries(struct forward *forward, const struct layer_weights *layer, int32_t tokens,
                         const float *x)
{
    const struct model_config *config = &forward->model->config;
    struct workspace *ws = forward->workspace;
    project(forward, tokens, x, &layer->attn.query_down, ws->query_rank, true, true);
    norm_rows(forward, tokens, config->query_rank, ws->query_rank, layer->attn.query_norm);
    project(forward, tokens, ws->query_rank, &layer->attn.query_up, ws->queries, true, true);
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
                              int32_t idx, const float *x)
{
    const struct model_config *config = &forward->model->config;
    const struct layer_weights *layer = &forward->weights->layers[idx];
    struct workspace *ws = forward->workspace;
    project(forward, chunk->tokens, x, &layer->attn.kv, ws->kv, true, true);
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

/* Where a compressor's state and rows are. */
struct compressor_state {
    float *state;
    uint8_t *rows;
    struct row_format format;
    int32_t width, capacity;
    bool hadamard;
};

static void compress(struct forward *forward, const struct forward_chunk *chunk, int32_t idx,
                     const struct compressor_weights *weights, const struct compressor_state *into,
                     const float *x)
{
    const struct layer_weights *layer = &forward->weights->layers[idx];
    struct workspace *ws = forward->workspace;
    project(forward, chunk->tokens, x, &weights->keys, ws->compress_keys, false, false);
    project(forward, chunk->tokens, x, &weights->gates, ws->compress_gates, false, false);
    struct kv_compress_args args = {.keys = ws->compress_keys,
                                    .gates = ws->compress_gates,
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
                              int32_t idx, const float *x)
{
    const struct attention_weights *weights = &forward->weights->layers[idx].attn;
    const struct kv_layer *kv = &chunk->cache->layers[idx];
    struct compressor_state rows = {.state = kv->state,
                                    .rows = kv->rows,
                                    .format = chunk->cache->row_format,
                                    .width = forward->model->config.head_dim,
                                    .capacity = kv->state_capacity};
    compress(forward, chunk, idx, &weights->compressor, &rows, x);
    if (kv->ratio != 4) return;
    struct compressor_state keys = {.state = kv->index_state,
                                    .rows = kv->index_rows,
                                    .format = chunk->cache->key_format,
                                    .width = forward->model->config.index_dim,
                                    .capacity = kv->index_state_capacity,
                                    .hadamard = true};
    compress(forward, chunk, idx, &weights->indexer.compressor, &keys, x);
}

/* Chooses compressed rows for every token of the chunk, into workspace->selected. */
static void select_rows(struct forward *forward, const struct forward_chunk *chunk, int32_t idx,
                        const float *x)
{
    const struct model_config *config = &forward->model->config;
    const struct layer_weights *layer = &forward->weights->layers[idx];
    const struct kv_layer *kv = &chunk->cache->layers[idx];
    struct workspace *ws = forward->workspace;
    project(forward, chunk->tokens, ws->query_rank, &layer->attn.indexer.queries, ws->index_queries,
            true, true);
    rotate(forward, layer, chunk->tokens, config->index_heads, config->index_dim, ws->index_queries,
           false);
    project(forward, chunk->tokens, x, &layer->attn.indexer.weights, ws->index_weights, false,
            true);
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

    make_queries(forward, layer, chunk->tokens, x);
    store_window_rows(forward, chunk, idx, x);
    if (layer->ratio) append_compressed(forward, chunk, idx, x);
    if (layer->ratio == 4) select_rows(forward, chunk, idx, x);
    attend(forward, chunk, idx);

    struct linear_args down = {.x = ws->heads_out,
                               .weight = layer->attn.output_down,
                               .out = ws->output_rank,
                               .tokens = chunk->tokens,
                               .groups = config->output_groups,
                               .round = forward->round,
                               .bf16_input = forward->round};
    forward->ops->linear(forward->stream, &down);
    project(forward, chunk->tokens, ws->output_rank, &layer->attn.output_up, out, true, true);
}
