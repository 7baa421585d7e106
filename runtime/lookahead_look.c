/* Later layers' routers on the state at hand, and what is made of their scores; see
 * lookahead_state.h. */
#include "offload/trace_writer.h"
#include "runtime/lookahead_state.h"

#include <math.h>
#include <string.h>

/* What is less likely than this is not worth a read: it would more often be wasted than used. */
#define PROBABILITY_MIN 0.4f

void look_choose_rows(struct lookahead *lookahead, int32_t tokens)
{
    int32_t count = min_i32(tokens, LOOKAHEAD_TOKENS_MAX);
    lookahead->row_count = count;
    for (int32_t i = 0; i < count; i++)
        lookahead->rows[i] = (int32_t)(((int64_t)(i + 1) * tokens) / count) - 1;
}

static void copy_rows(const struct lookahead *lookahead, const float *from, size_t width, float *to)
{
    for (int32_t i = 0; i < lookahead->row_count; i++)
        memcpy(to + (size_t)i * width, from + (size_t)lookahead->rows[i] * width,
               sizeof *to * width);
}

void look_take_streams(struct lookahead *lookahead, const float *streams)
{
    const struct model_config *c = &lookahead->options.model->config;
    copy_rows(lookahead, streams, (size_t)c->streams * (size_t)c->hidden, lookahead->streams);
}

void look_take_input(struct lookahead *lookahead, const float *x)
{
    copy_rows(lookahead, x, (size_t)lookahead->options.model->config.hidden, lookahead->x);
}

void look_add_shared(struct forward *forward, const float *shared)
{
    struct lookahead *lookahead = forward->lookahead;
    const struct model_config *c = &forward->model->config;
    size_t m = (size_t)c->streams;
    copy_rows(lookahead, forward->workspace->post, m, lookahead->post);
    copy_rows(lookahead, forward->workspace->comb, m * m, lookahead->comb);
    copy_rows(lookahead, shared, (size_t)c->hidden, lookahead->shared);
    struct hyper_post_args args = {.x = lookahead->shared,
                                   .post = lookahead->post,
                                   .comb = lookahead->comb,
                                   .streams = lookahead->streams,
                                   .tokens = lookahead->row_count,
                                   .streams_count = c->streams,
                                   .hidden = c->hidden,
                                   .round = forward->round};
    forward->ops->hyper_post(forward->stream, &args);
}

/* lookahead->x = lookahead->streams as the feed-forward part of `layer` reads them: the part of
 * hyper_pre that folds is what the head does, with the first M rows of the weights. */
static void fold_streams(struct forward *forward, const struct layer_weights *layer)
{
    struct lookahead *lookahead = forward->lookahead;
    const struct model_config *c = &forward->model->config;
    struct matrix fold = layer->hyper_ffn.fn;
    SL_ASSERT(fold.format == MATRIX_F32 && fold.rows >= c->streams);
    fold.rows = c->streams;
    struct linear_args mix = {.x = lookahead->streams,
                              .weight = fold,
                              .out = lookahead->mix,
                              .tokens = lookahead->row_count,
                              .groups = 1};
    forward->ops->linear(forward->stream, &mix);
    struct hyper_head_args head = {.streams = lookahead->streams,
                                   .mix = lookahead->mix,
                                   .scale = layer->hyper_ffn.scale,
                                   .base = layer->hyper_ffn.base,
                                   .x = lookahead->x,
                                   .tokens = lookahead->row_count,
                                   .streams_count = c->streams,
                                   .hidden = c->hidden,
                                   .norm_epsilon = c->norm_epsilon,
                                   .epsilon = c->hyper_epsilon,
                                   .round = forward->round};
    forward->ops->hyper_head(forward->stream, &head);
    struct norm_args norm = {.x = lookahead->x,
                             .weight = layer->ffn_norm,
                             .out = lookahead->x,
                             .rows = lookahead->row_count,
                             .width = c->hidden,
                             .epsilon = c->norm_epsilon,
                             .round = forward->round};
    forward->ops->norm(forward->stream, &norm);
}

/* lookahead->scores = what `layer`'s router would select by, given lookahead->x. */
static void score(struct forward *forward, const struct layer_weights *layer)
{
    struct lookahead *lookahead = forward->lookahead;
    int32_t experts = forward->model->config.experts;
    struct linear_args logits = {.x = lookahead->x,
                                 .weight = layer->router,
                                 .out = lookahead->scores,
                                 .tokens = lookahead->row_count,
                                 .groups = 1,
                                 .bf16_input = forward->round};
    forward->host_ops->linear(forward->host_stream, &logits);
    for (int32_t row = 0; row < lookahead->row_count; row++) {
        float *scores = lookahead->scores + (size_t)row * (size_t)experts;
        for (int32_t e = 0; e < experts; e++) {
            float z = scores[e];
            scores[e] = sqrtf(z > 20.0f ? z : log1pf(expf(z))) + layer->router_bias[e];
        }
    }
}

/* Sends the likely ones of `layer`, joined over the rows, to the store. */
static void send_guesses(struct forward *forward, const struct forward_chunk *chunk, int32_t layer)
{
    struct lookahead *lookahead = forward->lookahead;
    struct expert_guess guesses[LOOKAHEAD_HINTS_MAX];
    int32_t found = 0;
    for (int32_t e = 0; e < forward->model->config.experts; e++) {
        if (lookahead->none[e] == 1.0f) continue;
        float probability = predictor_join(lookahead->none[e], lookahead->row_count, chunk->tokens);
        if (probability < PROBABILITY_MIN || found == LOOKAHEAD_HINTS_MAX) continue;
        guesses[found++] = (struct expert_guess){.ref = {.layer = layer, .expert = e},
                                                 .probability = probability,
                                                 .token_clock = forward->token_clock};
    }
    expert_store_guess(forward->store, guesses, found);
}

int32_t look_list(const struct lookahead *lookahead, int32_t distance, enum predictor_state state)
{
    for (int32_t i = 0; i < lookahead->list_count; i++)
        if (lookahead->lists[i].distance == distance && lookahead->lists[i].variant == state)
            return i;
    return -1;
}

/* Ranks lookahead->scores of layer idx + distance, records the ranking where asked to, and guesses
 * by it where `guess`. */
static void use_scores(struct forward *forward, const struct forward_chunk *chunk, int32_t idx,
                       int32_t distance, enum predictor_state state, bool guess)
{
    struct lookahead *lookahead = forward->lookahead;
    const struct model_config *c = &forward->model->config;
    struct predictor_candidate candidates[LOOKAHEAD_CANDIDATES_MAX];
    float probabilities[LOOKAHEAD_CANDIDATES_MAX];
    int32_t list = look_list(lookahead, distance, state);
    for (int32_t e = 0; guess && e < c->experts; e++)
        lookahead->none[e] = 1.0f;
    for (int32_t row = 0; row < lookahead->row_count; row++) {
        int32_t count = predictor_rank(lookahead->scores + (size_t)row * (size_t)c->experts,
                                       c->experts, c->experts_per_token,
                                       min_i32(LOOKAHEAD_CANDIDATES_MAX, c->experts), candidates);
        if (list >= 0 && chunk->tokens <= TRACE_GUESS_TOKENS_MAX)
            trace_writer_list(forward->trace, list, lookahead->rows[row], candidates, count);
        if (!guess) continue;
        predictor_guess(lookahead->predictor, idx + distance, distance, candidates, count,
                        probabilities);
        for (int32_t i = 0; i < count; i++)
            lookahead->none[candidates[i].expert] *= 1.0f - probabilities[i];
    }
    if (guess) send_guesses(forward, chunk, idx + distance);
}

const struct layer_weights *look_target(const struct forward *forward, int32_t idx,
                                        int32_t distance)
{
    const struct model *model = forward->model;
    if (idx + distance >= model->config.layers) return NULL;
    const struct layer_weights *layer = &model->layers[idx + distance];
    return layer->token_experts ? NULL : layer;
}

void look_from_streams(struct forward *forward, const struct forward_chunk *chunk, int32_t idx,
                       enum predictor_state state, int32_t depth)
{
    const struct lookahead *lookahead = forward->lookahead;
    for (int32_t distance = 1; distance <= PREDICTOR_DISTANCE_MAX; distance++) {
        const struct layer_weights *layer = look_target(forward, idx, distance);
        bool guesses = distance <= depth;
        if (!layer || (!guesses && look_list(lookahead, distance, state) < 0)) continue;
        fold_streams(forward, layer);
        score(forward, layer);
        use_scores(forward, chunk, idx, distance, state, guesses);
    }
}

void look_from_input(struct forward *forward, const struct forward_chunk *chunk, int32_t idx,
                     int32_t depth)
{
    bool record = forward->trace != NULL;
    for (int32_t distance = 1; distance <= PREDICTOR_DISTANCE_MAX; distance++) {
        const struct layer_weights *layer = look_target(forward, idx, distance);
        bool guesses = distance <= depth;
        bool records = record && look_list(forward->lookahead, distance, PREDICTOR_INPUT) >= 0;
        if (!layer || (!guesses && !records)) continue;
        score(forward, layer);
        use_scores(forward, chunk, idx, distance, PREDICTOR_INPUT, guesses);
    }
}
