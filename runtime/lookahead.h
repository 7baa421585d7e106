/* What later layers will ask for: from the token id where a table says it, else from their routers,
 * applied early to the state at hand. Guesses go to the expert store; nothing here changes what is
 * computed.
 *
 * Layer L + d is guessed at L from the residual streams: they are folded as the feed-forward part
 * of L + d folds them (hyper-connection weights, norm) and multiplied with its router. The state
 * may be the streams after L's attention, or these with the shared expert's output of L added,
 * which is there before the routed experts are. Buffers are the lookahead's own, made with the
 * engine, whose thread uses it; the token path allocates nothing.
 *
 * It costs (at the model's real shape about 2.3 MB of weights read for a layer ahead, 1.3 % of the
 * bytes of a token), and a disk that is busy with what was demanded has no time for guesses. So it
 * is left out while every expert is in memory, and else measured against doing without, and against
 * fewer layers (lookahead_pay.h). */
#ifndef SLUICE_RUNTIME_LOOKAHEAD_H
#define SLUICE_RUNTIME_LOOKAHEAD_H

#include "offload/predictor.h"
#include "offload/trace.h"
#include "runtime/forward.h"
#include "runtime/lookahead_pay.h"

/* Rows of a chunk that are looked at; of more, as many spread evenly. */
#define LOOKAHEAD_TOKENS_MAX 16
/* Guesses at one layer, or for a piece of a prompt at a table layer. */
#define LOOKAHEAD_HINTS_MAX 64

struct lookahead_options {
    const struct model *model; /* borrowed */
    enum sl_prefetch mode;
    int32_t depth;              /* layers ahead, 0 .. PREDICTOR_DISTANCE_MAX */
    enum predictor_state state; /* PREDICTOR_INPUT with a GPU, else STREAMS or SHARED */
    bool always;                /* guess without asking whether it pays: for measurements */
    struct clock clock;
};

struct lookahead_stats {
    uint64_t layers;     /* at which later ones were looked at */
    uint64_t elapsed_ns; /* spent on it */
};

struct lookahead;

uint64_t lookahead_bytes(const struct model_config *config);
SL_MUST_USE enum sl_status lookahead_create(const struct lookahead_options *options,
                                            struct lookahead **out, struct sl_error *error);
void lookahead_destroy(struct lookahead *lookahead); /* NULL is fine */

/* Around all layers of a pass. */
void lookahead_begin(struct forward *forward);
void lookahead_end(struct forward *forward, int32_t tokens);

/* Which lists are recorded when a trace is: fills head->lists, list_count and guesses. `all`: every
 * state and distance, for measurements; else what is computed anyway. */
void lookahead_record(struct lookahead *lookahead, bool all, struct trace_head *head);
void lookahead_record_end(struct lookahead *lookahead);

/* Tells the store what the table layers will ask for when tokens ids [count] are computed, in the
 * pass at `token_clock`. */
void lookahead_tokens(struct forward *forward, const int32_t *ids, int32_t count,
                      int64_t token_clock, float probability);

/* At layer `idx`, when its experts are chosen and their reads are under way: learns, and guesses.
 * `streams` [T, M, D] after its attention, `x` [T, D] the router's input, `shared` [T, D] the
 * shared expert's output. */
void lookahead_layer(struct forward *forward, const struct forward_chunk *chunk, int32_t idx,
                     const float *streams, const float *x, const float *shared);

/* With a GPU, where of a layer's arrays only x [T, D], the input of its router, comes to RAM: keeps
 * what is needed of it, and learns from what was chosen; then guesses and records what the
 * next layers will choose from what was kept (PREDICTOR_INPUT). */
void lookahead_remember(struct forward *forward, const struct forward_chunk *chunk, int32_t idx,
                        const float *x);
void lookahead_from_input(struct forward *forward, const struct forward_chunk *chunk, int32_t idx);
/* After all of layer `idx`: only records, and only when asked to. */
void lookahead_after(struct forward *forward, const struct forward_chunk *chunk, int32_t idx,
                     const float *streams);

void lookahead_stats_get(const struct lookahead *lookahead, struct lookahead_stats *out);

#endif
