/* What is guessed when, by which means; see the header. */
#include "runtime/lookahead_state.h"

#include <string.h>

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
        count ? min_i32(LOOKAHEAD_CANDIDATES_MAX, lookahead->options.model->config.experts) : 0;
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
    if (!look_target(forward, idx, 1) && !look_target(forward, idx, 2)) return;
    uint64_t start_ns = clock_now_ns(&lookahead->options.clock);
    enum predictor_state state = lookahead->options.state;
    look_choose_rows(lookahead, chunk->tokens);
    if (record) {
        look_take_input(lookahead, x);
        look_from_input(forward, chunk, idx, 0);
    }
    look_take_streams(lookahead, streams);
    look_from_streams(forward, chunk, idx, PREDICTOR_STREAMS,
                      state == PREDICTOR_STREAMS ? depth : 0);
    if (state == PREDICTOR_SHARED || look_list(lookahead, 1, PREDICTOR_SHARED) >= 0) {
        look_add_shared(forward, shared);
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
    look_choose_rows(lookahead, chunk->tokens);
    look_take_input(lookahead, x);
}

void lookahead_from_input(struct forward *forward, const struct forward_chunk *chunk, int32_t idx)
{
    struct lookahead *lookahead = forward->lookahead;
    if (!lookahead || idx >= forward->model->config.layers) return;
    int32_t depth = lookahead->options.state == PREDICTOR_INPUT ? guess_depth(forward) : 0;
    bool record = forward->trace && lookahead->list_count > 0;
    if (depth == 0 && !record) return;
    if (!look_target(forward, idx, 1) && !look_target(forward, idx, 2)) return;
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
    if (look_list(lookahead, 1, PREDICTOR_AFTER) < 0) return;
    look_choose_rows(lookahead, chunk->tokens);
    look_take_streams(lookahead, streams);
    look_from_streams(forward, chunk, idx, PREDICTOR_AFTER, 0);
}

void lookahead_stats_get(const struct lookahead *lookahead, struct lookahead_stats *out)
{
    *out = lookahead->stats;
}
