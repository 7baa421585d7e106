/* The inside of lookahead, shared by its files alone; see lookahead.h.
 *
 *   lookahead.c       creation, the table's layers, whether it pays, what happens at a layer
 *   lookahead_look.c  rows, folding, routers, guesses and records of them */
#ifndef SLUICE_RUNTIME_LOOKAHEAD_STATE_H
#define SLUICE_RUNTIME_LOOKAHEAD_STATE_H

#include "runtime/lookahead.h"

/* More than a token chooses: what is just below the border is chosen often, too. */
#define LOOKAHEAD_CANDIDATES_MAX 16

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

/* Chooses the rows to look at of a chunk: all, or as many as fit, spread evenly with the last one
 * among them. */
void look_choose_rows(struct lookahead *lookahead, int32_t tokens);
/* lookahead->streams = the rows' streams; lookahead->x = their router's input. */
void look_take_streams(struct lookahead *lookahead, const float *streams);
void look_take_input(struct lookahead *lookahead, const float *x);
/* Adds the shared expert's output to lookahead->streams, as the layer will add the whole sum. */
void look_add_shared(struct forward *forward, const float *shared);
/* The recorded list of such guesses, or -1. */
int32_t look_list(const struct lookahead *lookahead, int32_t distance, enum predictor_state state);
/* The layer that is looked at from idx, or NULL where there is none to guess. */
const struct layer_weights *look_target(const struct forward *forward, int32_t idx,
                                        int32_t distance);
/* Guesses `depth` layers ahead, and records, from lookahead->streams in the state named. */
void look_from_streams(struct forward *forward, const struct forward_chunk *chunk, int32_t idx,
                       enum predictor_state state, int32_t depth);
/* The same from lookahead->x as it is, the router's input of layer idx. */
void look_from_input(struct forward *forward, const struct forward_chunk *chunk, int32_t idx,
                     int32_t depth);

#endif
