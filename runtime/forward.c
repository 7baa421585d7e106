/* The layer loop, the head and the MTP block; see the header. */
#include "runtime/forward.h"

#include "kernels/fused.h"
#include "runtime/attention_layer.h"
#include "runtime/gpu_pass.h"
#include "runtime/lookahead.h"
#include "runtime/moe.h"
#include "runtime/moe_handshake.h"
#include "runtime/moe_parts.h"
#include "runtime/moe_stream.h"

#include <string.h>

enum sl_status forward_sync(struct forward *forward)
{
    if (!forward->gpu) return forward->ops->stream_sync(forward->stream);
    struct sl_error fault;
    enum sl_status status = forward->gpu->gpu_ops->sync(forward->gpu, &fault);
    if (status != SL_OK && forward->fault.status == SL_OK) forward->fault = fault;
    return status;
}

void forward_stage(struct forward *forward, const struct forward_chunk *chunk)
{
    struct workspace *ws = forward->workspace;
    SL_ASSERT(chunk->tokens > 0 && chunk->tokens <= ws->chunk_tokens);
    for (int32_t t = 0; t < chunk->tokens; t++)
        ws->host_positions[t] = chunk->position + t;
    if (forward->gpu)
        memcpy(ws->host_ids, chunk->ids, sizeof *ws->host_ids * (size_t)chunk->tokens);
}

/* Staged positions and ids into the GPU's memory. */
static void launch_stage(struct forward *forward, const struct forward_chunk *chunk)
{
    struct workspace *ws = forward->workspace;
    size_t bytes = sizeof *ws->ids * (size_t)chunk->tokens;
    if (!forward->gpu) return;
    forward->gpu->gpu_ops->copy(forward->gpu, ws->positions, ws->host_positions, bytes);
    forward->gpu->gpu_ops->copy(forward->gpu, ws->ids, ws->host_ids, bytes);
}

/* The chunk as ops of this processor read it. */
static struct forward_chunk prepare(struct forward *forward, const struct forward_chunk *chunk)
{
    struct forward_chunk prepared = *chunk;
    prepared.gpu_ids = forward->gpu ? forward->workspace->ids : chunk->ids;
    return prepared;
}

static void apply_norm(struct forward *forward, int32_t rows, const uint16_t *weight,
                       const float *x, float *out)
{
    struct norm_args args = {.x = x,
                             .weight = weight,
                             .out = out,
                             .rows = rows,
                             .width = forward->model->config.hidden,
                             .epsilon = forward->model->config.norm_epsilon,
                             .round = forward->round};
    forward->ops->norm(forward->stream, &args);
}

/* mix = streams fn^T, in f32 whatever the numerics. */
static void mix_streams(struct forward *forward, int32_t tokens, const struct hyper_weights *hyper,
                        const float *streams)
{
    struct linear_args args = {.x = streams,
                               .weight = hyper->fn,
                               .out = forward->workspace->mix,
                               .tokens = tokens,
                               .groups = 1};
    forward->ops->linear(forward->stream, &args);
}

static struct hyper_pre_args pre_args(const struct forward *forward, int32_t tokens,
                                      const struct hyper_weights *hyper, const float *streams)
{
    const struct model_config *config = &forward->model->config;
    const struct workspace *ws = forward->workspace;
    return (struct hyper_pre_args){.streams = streams,
                                   .mix = ws->mix,
                                   .scale = hyper->scale,
                                   .base = hyper->base,
                                   .x = ws->x,
                                   .post = ws->post,
                                   .comb = ws->comb,
                                   .tokens = tokens,
                                   .streams_count = config->streams,
                                   .hidden = config->hidden,
                                   .iterations = config->sinkhorn_iterations,
                                   .norm_epsilon = config->norm_epsilon,
                                   .epsilon = config->hyper_epsilon,
                                   .round = forward->round};
}

static struct hyper_post_args post_args(const struct forward *forward, int32_t tokens,
                                        float *streams)
{
    const struct model_config *config = &forward->model->config;
    const struct workspace *ws = forward->workspace;
    return (struct hyper_post_args){.x = ws->y,
                                    .post = ws->post,
                                    .comb = ws->comb,
                                    .streams = streams,
                                    .tokens = tokens,
                                    .streams_count = config->streams,
                                    .hidden = config->hidden,
                                    .round = forward->round};
}

/* Reads the streams into workspace->x and norms it; post and comb stay in the workspace for
 * write_streams. */
static void read_streams(struct forward *forward, int32_t tokens, const struct hyper_weights *hyper,
                         const uint16_t *norm, const float *streams)
{
    struct workspace *ws = forward->workspace;
    mix_streams(forward, tokens, hyper, streams);
    struct hyper_pre_args args = pre_args(forward, tokens, hyper, streams);
    forward->ops->hyper_pre(forward->stream, &args);
    apply_norm(forward, tokens, norm, ws->x, ws->x);
}

/* Adds workspace->y to the streams. */
static void write_streams(struct forward *forward, int32_t tokens, float *streams)
{
    struct hyper_post_args args = post_args(forward, tokens, streams);
    forward->ops->hyper_post(forward->stream, &args);
}

/* What a turn adds to the streams: workspace->y; and experts' rows, of which the host may have
 * written some (workspace->gather). */
enum turn_input { TURN_Y, TURN_EXPERTS, TURN_GATHERED_EXPERTS };

/* write_streams and read_streams in one. False, and nothing is done: the processor cannot. */
static bool turn_streams(struct forward *forward, int32_t tokens, const struct hyper_weights *next,
                         const uint16_t *norm, float *streams, enum turn_input input)
{
    const struct fused_ops *fused = forward->ops->fused;
    const struct workspace *ws = forward->workspace;
    if (!fused) return false;
    struct fused_turn_args args = {.post = post_args(forward, tokens, streams),
                                   .pre = pre_args(forward, tokens, next, streams),
                                   .fn = next->fn.data,
                                   .norm = norm,
                                   .routed = input == TURN_Y ? NULL : ws->routed,
                                   .host_routed = ws->host_routed,
                                   .gather = input == TURN_GATHERED_EXPERTS ? ws->gather : NULL,
                                   .top = forward->model->config.experts_per_token};
    return fused->turn(forward->stream, &args);
}

void forward_linears(struct forward *forward, const struct linear_args *items, int32_t count)
{
    const struct fused_ops *fused = forward->ops->fused;
    SL_ASSERT(count >= 1 && count <= FUSED_LINEARS_MAX);
    if (fused && fused->linears(forward->stream, items, count)) return;
    for (int32_t i = 0; i < count; i++)
        forward->ops->linear(forward->stream, &items[i]);
}

/* What a block does before its experts: workspace->x is what they read. */
static void launch_attention(struct forward *forward, const struct forward_chunk *chunk,
                             int32_t idx, float *streams)
{
    const struct layer_weights *layer = &forward->weights->layers[idx];
    struct workspace *ws = forward->workspace;
    SL_ASSERT(idx >= 0 && idx < chunk->cache->layer_count);

    if (!forward->input_ready)
        read_streams(forward, chunk->tokens, &layer->hyper_attn, layer->attn_norm, streams);
    forward->input_ready = false;
    attention_layer_forward(forward, chunk, idx, ws->x, ws->y);
    if (turn_streams(forward, chunk->tokens, &layer->hyper_ffn, layer->ffn_norm, streams, TURN_Y))
        return;
    write_streams(forward, chunk->tokens, streams);
    read_streams(forward, chunk->tokens, &layer->hyper_ffn, layer->ffn_norm, streams);
}

/* From the experts of layer `idx` to the input of the next, if there is one and the processor can.
 */
static bool turn_to_next(struct forward *forward, int32_t tokens, int32_t idx, float *streams,
                         enum turn_input input)
{
    if (idx + 1 >= forward->model->config.layers) return false;
    const struct layer_weights *next = &forward->weights->layers[idx + 1];
    forward->input_ready =
        turn_streams(forward, tokens, &next->hyper_attn, next->attn_norm, streams, input);
    return forward->input_ready;
}

enum sl_status forward_block(struct forward *forward, const struct forward_chunk *chunk,
                             int32_t idx, float *streams)
{
    struct workspace *ws = forward->workspace;
    forward->layer_ns = clock_now_ns(&forward->clock);
    launch_attention(forward, chunk, idx, streams);
    SL_TRY(moe_forward(forward, chunk, idx, streams, ws->x, ws->y));
    if (!turn_to_next(forward, chunk->tokens, idx, streams, TURN_EXPERTS)) {
        moe_launch_combine(forward, chunk->tokens, ws->y);
        write_streams(forward, chunk->tokens, streams);
    }
    lookahead_after(forward, chunk, idx, streams);
    return SL_OK;
}

void forward_launch_block(struct forward *forward, const struct forward_chunk *chunk, int32_t idx)
{
    struct workspace *ws = forward->workspace;
    launch_attention(forward, chunk, idx, ws->streams);
    moe_handshake_launch(forward, chunk, idx, ws->x, ws->y);
    if (turn_to_next(forward, chunk->tokens, idx, ws->streams, TURN_GATHERED_EXPERTS)) return;
    moe_handshake_combine(forward, chunk->tokens, ws->y);
    write_streams(forward, chunk->tokens, ws->streams);
}

/* The next chunk's table layers are guessed once no layer of this one is ahead of them. */
static void look_ahead(struct forward *forward, const struct forward_chunk *chunk, int32_t idx)
{
    if (idx == forward->model->config.layers - 1)
        lookahead_tokens(forward, chunk->next_ids, chunk->next_tokens,
                         forward->token_clock + chunk->tokens, 1);
}

/* SL_ERR_CANCELLED when who is told of layers wants to stop after this one. */
static enum sl_status tell_layer(const struct forward *forward, int32_t idx)
{
    bool last = idx + 1 == forward->model->config.layers;
    if (last || !forward->on_layer || forward->on_layer(forward->layer_context, idx)) return SL_OK;
    return SL_ERR_CANCELLED;
}

enum sl_status forward_serve_block(struct forward *forward, const struct forward_chunk *chunk,
                                   int32_t idx)
{
    forward->layer_ns = clock_now_ns(&forward->clock);
    look_ahead(forward, chunk, idx);
    SL_TRY(moe_handshake_serve(forward, chunk, idx));
    return tell_layer(forward, idx);
}

static void embed(struct forward *forward, const int32_t *ids, int32_t tokens, int32_t streams,
                  float *out)
{
    struct embed_args args = {.ids = ids,
                              .table = forward->weights->embed,
                              .out = out,
                              .tokens = tokens,
                              .streams = streams};
    forward->ops->embed(forward->stream, &args);
}

void forward_launch_begin(struct forward *forward, const struct forward_chunk *chunk)
{
    struct workspace *ws = forward->workspace;
    forward->input_ready = false;
    launch_stage(forward, chunk);
    embed(forward, chunk->gpu_ids, chunk->tokens, forward->model->config.streams, ws->streams);
}

/* Layer by layer, each waited for as far as its experts need it. */
static enum sl_status run_blocks(struct forward *forward, const struct forward_chunk *chunk)
{
    forward_launch_begin(forward, chunk);
    for (int32_t idx = 0; idx < forward->model->config.layers; idx++) {
        look_ahead(forward, chunk, idx);
        SL_TRY(forward_block(forward, chunk, idx, forward->workspace->streams));
        SL_TRY(tell_layer(forward, idx));
    }
    return forward_sync(forward);
}

enum sl_status forward_layers(struct forward *forward, const struct forward_chunk *chunk)
{
    struct forward_chunk prepared = prepare(forward, chunk);
    enum sl_status status;
    expert_store_pass(forward->store, chunk->tokens);
    lookahead_begin(forward);
    lookahead_tokens(forward, chunk->ids, chunk->tokens, forward->token_clock, 1);
    forward_stage(forward, &prepared);
    if (gpu_pass_fits(forward, &prepared))
        status = gpu_pass_layers(forward, &prepared);
    else
        status = run_blocks(forward, &prepared);
    moe_stream_end(forward, &prepared, status);
    if (status != SL_OK) {
        enum sl_status ended = forward_sync(forward); /* what it reads may change from here on */
        (void)ended;
        return status;
    }
    lookahead_end(forward, chunk->tokens);
    return SL_OK;
}

/* Brings logits to RAM. */
static enum sl_status fetch_logits(struct forward *forward, int32_t tokens, float *out)
{
    const struct workspace *ws = forward->workspace;
    size_t bytes = sizeof *out * (size_t)tokens * (size_t)forward->model->config.vocab;
    if (!forward->gpu) return forward_sync(forward);
    forward->gpu->gpu_ops->copy(forward->gpu, ws->host_logits, ws->logits, bytes);
    SL_TRY(forward_sync(forward));
    memcpy(out, ws->host_logits, bytes);
    return SL_OK;
}

/* Folds streams, norms, and multiplies with the vocabulary: rows of streams to rows of logits, as
 * many as the workspace takes. */
static enum sl_status run_head_rows(struct forward *forward, int32_t tokens, const float *streams,
                                    const struct hyper_weights *hyper, const uint16_t *norm,
                                    float *out)
{
    const struct model_config *config = &forward->model->config;
    struct workspace *ws = forward->workspace;
    mix_streams(forward, tokens, hyper, streams);
    struct hyper_head_args fold = {.streams = streams,
                                   .mix = ws->mix,
                                   .scale = hyper->scale,
                                   .base = hyper->base,
                                   .x = ws->x,
                                   .tokens = tokens,
                                   .streams_count = config->streams,
                                   .hidden = config->hidden,
                                   .norm_epsilon = config->norm_epsilon,
                                   .epsilon = config->hyper_epsilon,
                                   .round = forward->round};
    forward->ops->hyper_head(forward->stream, &fold);
    apply_norm(forward, tokens, norm, ws->x, ws->x);
    struct linear_args logits = {.x = ws->x,
                                 .weight = forward->weights->head,
                                 .out = forward->gpu ? ws->logits : out,
                                 .tokens = tokens,
                                 .groups = 1,
                                 .bf16_input = forward->round};
    forward->ops->linear(forward->stream, &logits);
    return fetch_logits(forward, tokens, out);
}

static enum sl_status run_head(struct forward *forward, int32_t tokens, const float *streams,
                               const struct hyper_weights *hyper, const uint16_t *norm, float *out)
{
    const struct model_config *config = &forward->model->config;
    size_t stream_floats = (size_t)config->streams * (size_t)config->hidden;
    int32_t most = forward->workspace->logits_rows;
    for (int32_t first = 0; first < tokens; first += most)
        SL_TRY(run_head_rows(forward, min_i32(most, tokens - first),
                             streams + (size_t)first * stream_floats, hyper, norm,
                             out + (size_t)first * (size_t)config->vocab));
    return SL_OK;
}

enum sl_status forward_head(struct forward *forward, int32_t first, int32_t tokens, float *out)
{
    const struct model *model = forward->weights;
    size_t stream_floats = (size_t)model->config.streams * (size_t)model->config.hidden;
    SL_ASSERT(first >= 0 && first < tokens);
    return run_head(forward, tokens - first,
                    forward->workspace->streams + (size_t)first * stream_floats, &model->hyper_head,
                    model->norm, out);
}

enum sl_status forward_mtp(struct forward *forward, const struct forward_chunk *chunk,
                           const int32_t *next_ids, int32_t rows, float *out)
{
    const struct model *model = forward->weights;
    const struct model_config *config = &model->config;
    struct workspace *ws = forward->workspace;
    struct forward_chunk block = *chunk;
    block.ids = next_ids;
    block.tokens = rows;
    SL_ASSERT(model->mtp.present && rows > 0 && rows <= chunk->tokens);

    block = prepare(forward, &block);
    forward_stage(forward, &block);
    launch_stage(forward, &block);
    embed(forward, block.gpu_ids, rows, 1, ws->embedding);
    apply_norm(forward, rows, model->mtp.embed_norm, ws->embedding, ws->embedding);
    apply_norm(forward, rows * config->streams, model->mtp.hidden_norm, ws->streams, ws->streams);
    struct linear_args project = {.x = ws->embedding,
                                  .weight = model->mtp.embed_proj,
                                  .out = ws->x,
                                  .tokens = rows,
                                  .groups = 1,
                                  .quantise_input = forward->round,
                                  .round = forward->round};
    forward->ops->linear(forward->stream, &project);
    project.x = ws->streams;
    project.weight = model->mtp.hidden_proj;
    project.out = ws->hidden;
    project.tokens = rows * config->streams;
    forward->ops->linear(forward->stream, &project);
    struct mtp_mix_args mix = {.embedding = ws->x,
                               .hidden = ws->hidden,
                               .out = ws->hidden,
                               .tokens = rows,
                               .streams_count = config->streams,
                               .hidden_size = config->hidden,
                               .round = forward->round};
    forward->ops->mtp_mix(forward->stream, &mix);

    SL_TRY(forward_block(forward, &block, config->layers, ws->hidden));
    return run_head(forward, rows, ws->hidden, &model->mtp.hyper_head, model->mtp.norm, out);
}
