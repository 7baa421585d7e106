/* Turns what a router says early into probabilities: how likely is it that a layer which decode has
 * not reached yet will ask for an expert?
 *
 * Pure: no clock, no file, no thread; one owner, who may be the engine or the simulator. A router
 * of layer L + 1 or L + 2, applied to the state at L, ranks experts well but says nothing about how
 * sure it is. The predictor learns that online, from what the layers then really chose: a logistic
 * model for each distance with a bias for each layer, over
 *   - the margin: score above (below) the border between chosen and not chosen, in units of the
 *     usual distance between the best score and that border,
 *   - recency: how many tokens ago the layer last used this expert,
 *   - co-activation: how often it followed the experts that the layers before have just used
 *     (optional: a table of experts x experts bytes a layer).
 * Before it has learnt anything it believes the published averages (three of four of the best `top`
 * are used at distance 1, three of five at distance 2).
 *
 * Layers are numbered as in the trace; layers below hash_layers are exact from the token id and
 * need no guess. Steps of several tokens: guess for each token, join with predictor_join. */
#ifndef SLUICE_OFFLOAD_PREDICTOR_H
#define SLUICE_OFFLOAD_PREDICTOR_H

#include "kernels/base.h"

#define PREDICTOR_DISTANCE_MAX   2
#define PREDICTOR_CANDIDATES_MAX 32
#define PREDICTOR_BINS           10 /* of the reliability table */

/* The state that a router was applied to ahead of time, at layer L. */
enum predictor_state {
    PREDICTOR_INPUT,   /* layer L's own router input, as it is */
    PREDICTOR_STREAMS, /* the residual streams after L's attention, read as the later layer reads */
    PREDICTOR_SHARED,  /* these with the shared expert's output of L added */
    PREDICTOR_AFTER,   /* the streams after all of L: the best there is, and the latest */
};

/* One expert of a ranked list. */
struct predictor_candidate {
    int32_t expert; /* -1: the list ends here */
    float margin;   /* selection score less the mean of the top-th and the next best score */
};

struct predictor_options {
    int32_t layers, experts, top, hash_layers;
    bool coactivation;
};

/* How good the guesses at one distance were. */
struct predictor_stats {
    uint64_t guessed[PREDICTOR_BINS]; /* candidates by tenth of the probability given */
    uint64_t used[PREDICTOR_BINS];    /* of these, really chosen */
    double expected[PREDICTOR_BINS];  /* sum of the probabilities given */
};

struct predictor;

/* SL_ERR_ARGUMENT: out of bounds; SL_ERR_NO_MEMORY. All memory is taken here. */
SL_MUST_USE enum sl_status predictor_create(const struct predictor_options *options,
                                            struct predictor **out, struct sl_error *error);
void predictor_destroy(struct predictor *predictor); /* NULL is fine */

/* The `count` best of scores [experts] (what the router selects by, bias included), best first, as
 * candidates with margins; returns how many: `count` or less where scores are not numbers. Ties go
 * to the lower id, as in the router. Needs no predictor. */
int32_t predictor_rank(const float *scores, int32_t experts, int32_t top, int32_t count,
                       struct predictor_candidate *candidates);

/* Probabilities [count] that layer `layer` chooses the candidates for the token under way; made
 * `distance` layers before. Remembers the candidates for predictor_outcome; a later call for the
 * same layer and distance replaces them. */
void predictor_guess(struct predictor *predictor, int32_t layer, int32_t distance,
                     const struct predictor_candidate *candidates, int32_t count,
                     float *probabilities);

/* Says what layer `layer` chose for a token, chosen [top]: learns from it, and moves recency on.
 * Every layer of every token, in order; a step of many tokens may leave out most of them. */
void predictor_outcome(struct predictor *predictor, int32_t layer, const int32_t *chosen);

/* Probability that at least one of `tokens` tokens uses an expert of which `sampled` tokens gave
 * `none`, the product of their 1 - probability. */
float predictor_join(float none, int32_t sampled, int32_t tokens);

/* distance 1 .. PREDICTOR_DISTANCE_MAX. */
void predictor_stats_get(const struct predictor *predictor, int32_t distance,
                         struct predictor_stats *out);

#endif
