/* Routers applied early, and what their guesses are worth; see the header. */
#include "runtime/lookahead.h"

#include "offload/trace_writer.h"

#include <math.h>
#include <string.h>

/* More than a token chooses: what is just below the border is chosen often, too. */
#define CANDIDATES_MAX 16
/* What is less likely than this is not worth a read: it would more often be wasted than used. */
#define PROBABILITY_MIN 0.4f

struct lookahead {
    struct lookahead_options options;
    struct predictor *predictor;
    float
        *streams;  /* [LOOKAHEAD_TOKENS_MAX, M, D] rows looked at, the shared expert added or not */
    float *post;   /* [LOOKAHEAD_TOKENS_MAX, M] of these rows */
    float *comb;   /* [LOOKAHEAD_TOKENS_MAX, M, M] */
    float *shared; /* [LOOKAHEAD_TOKENS_MAX, D] */
    float *x;      /* [LOOKAHEAD_TOKENS_MAX, D] */
    float *mix;    /* [LOOKAHEAD_TOKENS_MAX, M] */
    float *scores; /* [LOOKAHEAD_TOKENS_MAX, E] */
    float *none;   /* [E] probability that no row asks for the expert */
    uint8_t *seen; /* [E] marks while the tokens of a prompt are gathered */

    struct trace_list lists[TRACE_LISTS_MAX]; /* recorded */
    int32_t list_count, list_guesses;         /* 0: no recording */
    int32_t rows[LOOKAHEAD_TOKENS_MAX];       /* of the chunk, ascending, the last one last */
    int32_t row_count;

    struct lookahead_pay pay;
    uint64_t pass_start_ns;
    struct lookahead_stats stats;
};

/* ---- creation ----------------------------------------------------------------------------- */

static size_t floats_of(const struct model_config *c)
{
    size_t m = (size_t)c->streams, d = (size_t)c->hidden, e = (size_t)c->experts;
    return LOOKAHEAD_TOKENS_MAX * (m * d + m + m * m + 2 * d + m + e) + e;
}

uint64_t lookahead_bytes(const struct model_config *config)
{
    return sizeof(float) * floats_of(config) + (uint64_t)config->experts;
}

static void carve(struct lookahead *lookahead, float *next)
{
    const struct model_config *c = &lookahead->options.model->config;
    size_t rows = LOOKAHEAD_TOKENS_MAX, m = (size_t)c->streams, d = (size_t)c->hidden;
    lookahead->streams = next;
    lookahead->post = lookahead->streams + rows * m * d;
    lookahead->comb = lookahead->post + rows * m;
    lookahead->shared = lookahead->comb + rows * m * m;
    lookahead->x = lookahead->shared + rows * d;
    lookahead->mix = lookahead->x + rows * d;
    lookahead->scores = lookahead->mix + rows * m;
    lookahead->none = lookahead->scores + rows * (size_t)c->experts;
}

enum sl_status lookahead_create(const struct lookahead_options *options, struct lookahead **out,
                                struct sl_error *error)
{
    const struct model_config *config = &options->model->config;
    SL_ASSERT(options->depth >= 0 && options->depth <= PREDICTOR_DISTANCE_MAX);
    SL_ASSERT(options->state <= PREDICTOR_SHARED);
    *out = NULL;
    struct lookahead *lookahead = calloc(1, sizeof *lookahead);
    float *memory = calloc(floats_of(config), sizeof *memory);
    uint8_t *seen = calloc((size_t)config->experts, 1);
    if (!lookahead || !memory || !seen) {
        free(lookahead);
        free(memory);
        free(seen);
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory to look ahead");
    }
    lookahead->options = *options;
    lookahead_pay_init(&lookahead->pay, options->depth);
    lookahead->seen = seen;
    carve(lookahead, memory);
    struct predictor_options predictor = {.layers = config->layers,
                                          .experts = config->experts,
                                          .top = config->experts_per_token,
                                          .hash_layers = config->hash_layers};
    enum sl_status status = predictor_create(&predictor, &lookahead->predictor, error);
    if (status != SL_OK) {
        lookahead_destroy(lookahead);
        return status;
    }
    *out = lookahead;
    return SL_OK;
}

void lookahead_destroy(struct lookahead *lookahead)
{
    if (!lookahead) return;
    predictor_destroy(lookahead->predictor);
    free(lookahead->streams); /* the block's start */
    free(lookahead->seen);
    free(lookahead);
}

void lookahead_record(struct lookahead *lookahead, bool all, struct trace_head *head)
{
    static const struct trace_list every[TRACE_LISTS_MAX] = {
        {1, PREDICTOR_INPUT}, {1, PREDICTOR_STREAMS}, {1, PREDICTOR_SHARED}, {1, PREDICTOR_AFTER},
        {2, PREDICTOR_INPUT}, {2, PREDICTOR_STREAMS}, {2, PREDICTOR_SHARED},
    };
    int32_t count = 0;
    for (int32_t i = 0; i < TRACE_LISTS_MAX; i++) {
        bool guessed = lookahead->options.mode == SL_PREFETCH_AUTO &&
                       every[i].variant == lookahead->options.state &&
                       every[i].distance <= lookahead->options.depth;
        if (all || guessed) lookahead->lists[count++] = every[i];
    }
    lookahead->list_count = count;
    lookahead->list_guesses =
        count ? min_i32(CANDIDATES_MAX, lookahead->options.model->config.experts) : 0;
    memcpy(head->lists, lookahead->lists, sizeof head->lists);
    head->list_count = count;
    head->guesses = lookahead->list_guesses;
}

void lookahead_record_end(struct lookahead *lookahead)
{
    lookahead->list_count = 0;
}

/* ---- table layers ------------------------------------------------------------------------- */

/* Guesses at one table layer, in the order of the tokens; of a long prompt the first that fit. */
static void guess_table_layer(struct forward *forward, int32_t layer, const int32_t *ids,
                              int32_t count, int64_t token_clock, float probability)
{
    const struct model *model = forward->model;
    struct lookahead *lookahead = forward->lookahead;
    struct expert_guess guesses[LOOKAHEAD_HINTS_MAX];
    int32_t top = model->config.experts_per_token, found = 0;
    for (int32_t t = 0; t < count && found < LOOKAHEAD_HINTS_MAX; t++) {
        SL_ASSERT(ids[t] >= 0 && ids[t] < model->config.vocab);
        const int64_t *row = model->layers[layer].token_experts + (size_t)ids[t] * (size_t)top;
        for (int32_t k = 0; k < top && found < LOOKAHEAD_HINTS_MAX; k++) {
            if (lookahead->seen[row[k]]) continue;
            lookahead->seen[row[k]] = 1;
            guesses[found++] =
                (struct expert_guess){.ref = {.layer = layer, .expert = (int32_t)row[k]},
                                      .probability = probability,
                                      .token_clock = token_clock};
        }
    }
    for (int32_t i = 0; i < found; i++)
        lookahead->seen[guesses[i].ref.expert] = 0;
    expert_store_guess(forward->store, guesses, found);
}

void lookahead_tokens(struct forward *forward, const int32_t *ids, int32_t count,
                      int64_t token_clock, float probability)
{
    const struct model_config *config = &forward->model->config;
    if (!forward->lookahead || forward->lookahead->options.mode == SL_PREFETCH_OFF) return;
    for (int32_t layer = 0; layer < config->layers; layer++)
        if (forward->model->layers[layer].token_experts)
            guess_table_layer(forward, layer, ids, count, token_clock, probability);
}

/* ---- routers early ------------------------------------------------------------------------ */

/* Chooses the rows to look at: all, or as many as fit, spread evenly with the last one among them.
 */
static void choose_rows(struct lookahead *lookahead, int32_t tokens)
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

/* lookahead->streams = the rows' streams. */
static void take_streams(struct lookahead *lookahead, const float *streams)
{
    const struct model_config *c = &lookahead->options.model->config;
    copy_rows(lookahead, streams, (size_t)c->streams * (size_t)c->hidden, lookahead->streams);
}

/* Adds the shared expert's output to lookahead->streams, as layer idx will add the whole sum. */
static void add_shared(struct forward *forward, const float *shared)
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

static int32_t recorded_list(const struct lookahead *lookahead, int32_t distance,
                             enum predictor_state state)
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
    struct predictor_candidate candidates[CANDIDATES_MAX];
    float probabilities[CANDIDATES_MAX];
    int32_t list = recorded_list(lookahead, distance, state);
    for (int32_t e = 0; guess && e < c->experts; e++)
        lookahead->none[e] = 1.0f;
    for (int32_t row = 0; row < lookahead->row_count; row++) {
        int32_t count =
            predictor_rank(lookahead->scores + (size_t)row * (size_t)c->experts, c->experts,
                           c->experts_per_token, min_i32(CANDIDATES_MAX, c->experts), candidates);
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

/* The layer that is looked at from idx, or NULL where there is none to guess. */
static const struct layer_weights *target(const struct forward *forward, int32_t idx,
                                          int32_t distance)
{
    const struct model *model = forward->model;
    if (idx + distance >= model->config.layers) return NULL;
    const struct layer_weights *layer = &model->layers[idx + distance];
    return layer->token_experts ? NULL : layer;
}

/* Guesses `depth` layers ahead, and records, from lookahead->streams in the state named. */
static void look_from_streams(struct forward *forward, const struct forward_chunk *chunk,
                              int32_t idx, enum predictor_state state, int32_t depth)
{
    const struct lookahead *lookahead = forward->lookahead;
    for (int32_t distance = 1; distance <= PREDICTOR_DISTANCE_MAX; distance++) {
        const struct layer_weights *layer = target(forward, idx, distance);
        bool guesses = distance <= depth;
        if (!layer || (!guesses && recorded_list(lookahead, distance, state) < 0)) continue;
        fold_streams(forward, layer);
        score(forward, layer);
        use_scores(forward, chunk, idx, distance, state, guesses);
    }
}

/* The same from lookahead->x as it is, the router's input of layer idx. */
static void look_from_input(struct forward *forward, const struct forward_chunk *chunk, int32_t idx,
                            int32_t depth)
{
    bool record = forward->trace != NULL;
    for (int32_t distance = 1; distance <= PREDICTOR_DISTANCE_MAX; distance++) {
        const struct layer_weights *layer = target(forward, idx, distance);
        bool guesses = distance <= depth;
        bool records = record && recorded_list(forward->lookahead, distance, PREDICTOR_INPUT) >= 0;
        if (!layer || (!guesses && !records)) continue;
        score(forward, layer);
        use_scores(forward, chunk, idx, distance, PREDICTOR_INPUT, guesses);
    }
}

/* ---- does it pay? ------------------------------------------------------------------------- */

void lookahead_begin(struct forward *forward)
{
    struct lookahead *lookahead = forward->lookahead;
    if (lookahead) lookahead->pass_start_ns = clock_now_ns(&lookahead->options.clock);
}

void lookahead_end(struct forward *forward, int32_t tokens)
{
    struct lookahead *lookahead = forward->lookahead;
    if (!lookahead || lookahead->options.mode != SL_PREFETCH_AUTO) return;
    if (tokens > 1 || lookahead->options.always) return; /* only passes of one kind compare */
    lookahead_pay_pass(&lookahead->pay,
                       clock_now_ns(&lookahead->options.clock) - lookahead->pass_start_ns);
}

/* How many layers ahead are guessed at this one; 0: none. */
static int32_t guess_depth(const struct forward *forward)
{
    const struct lookahead *lookahead = forward->lookahead;
    struct expert_store_stats store;
    if (lookahead->options.mode != SL_PREFETCH_AUTO || lookahead->pay.way == 0) return 0;
    expert_store_stats_get(forward->store, &store);
    return store.slots_ready < forward->experts_total ? lookahead->pay.way : 0;
}

/* ---- at a layer --------------------------------------------------------------------------- */

static void learn(struct forward *forward, const struct forward_chunk *chunk, int32_t idx)
{
    int32_t top = forward->model->config.experts_per_token;
    predictor_outcome(forward->lookahead->predictor, idx,
                      forward->workspace->host_chosen + (size_t)(chunk->tokens - 1) * (size_t)top);
}

void lookahead_layer(struct forward *forward, const struct forward_chunk *chunk, int32_t idx,
                     const float *streams, const float *x, const float *shared)
{
    struct lookahead *lookahead = forward->lookahead;
    if (!lookahead || idx >= forward->model->config.layers) return;
    learn(forward, chunk, idx);
    int32_t depth = guess_depth(forward);
    bool record = forward->trace && lookahead->list_count > 0;
    if (depth == 0 && !record) return;
    if (!target(forward, idx, 1) && !target(forward, idx, 2)) return;
    uint64_t start_ns = clock_now_ns(&lookahead->options.clock);
    enum predictor_state state = lookahead->options.state;
    choose_rows(lookahead, chunk->tokens);
    if (record) {
        copy_rows(lookahead, x, (size_t)forward->model->config.hidden, lookahead->x);
        look_from_input(forward, chunk, idx, 0);
    }
    take_streams(lookahead, streams);
    look_from_streams(forward, chunk, idx, PREDICTOR_STREAMS,
                      state == PREDICTOR_STREAMS ? depth : 0);
    if (state == PREDICTOR_SHARED || recorded_list(lookahead, 1, PREDICTOR_SHARED) >= 0) {
        add_shared(forward, shared);
        look_from_streams(forward, chunk, idx, PREDICTOR_SHARED,
                          state == PREDICTOR_SHARED ? depth : 0);
    }
    lookahead->stats.layers++;
    lookahead->stats.elapsed_ns += clock_now_ns(&lookahead->options.clock) - start_ns;
}

void lookahead_remember(struct forward *forward, const struct forward_chunk *chunk, int32_t idx,
                        const float *x)
{
    struct lookahead *lookahead = forward->lookahead;
    if (!lookahead || idx >= forward->model->config.layers) return;
    learn(forward, chunk, idx);
    choose_rows(lookahead, chunk->tokens);
    copy_rows(lookahead, x, (size_t)forward->model->config.hidden, lookahead->x);
}

void lookahead_from_input(struct forward *forward, const struct forward_chunk *chunk, int32_t idx)
{
    struct lookahead *lookahead = forward->lookahead;
    if (!lookahead || idx >= forward->model->config.layers) return;
    int32_t depth = lookahead->options.state == PREDICTOR_INPUT ? guess_depth(forward) : 0;
    bool record = forward->trace && lookahead->list_count > 0;
    if (depth == 0 && !record) return;
    if (!target(forward, idx, 1) && !target(forward, idx, 2)) return;
    uint64_t start_ns = clock_now_ns(&lookahead->options.clock);
    look_from_input(forward, chunk, idx, depth);
    lookahead->stats.layers++;
    lookahead->stats.elapsed_ns += clock_now_ns(&lookahead->options.clock) - start_ns;
}

void lookahead_after(struct forward *forward, const struct forward_chunk *chunk, int32_t idx,
                     const float *streams)
{
    struct lookahead *lookahead = forward->lookahead;
    if (!lookahead || forward->gpu || !forward->trace || idx >= forward->model->config.layers)
        return;
    if (recorded_list(lookahead, 1, PREDICTOR_AFTER) < 0) return;
    choose_rows(lookahead, chunk->tokens);
    take_streams(lookahead, streams);
    look_from_streams(forward, chunk, idx, PREDICTOR_AFTER, 0);
}

void lookahead_stats_get(const struct lookahead *lookahead, struct lookahead_stats *out)
{
    *out = lookahead->stats;
}
