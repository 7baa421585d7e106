/* Synthetic routing: which experts a made-up model chooses, token after token, with the popularity,
 * the drifting topics and the repetitions measured on real ones (offload facts, section 3.1).
 *
 * Layers are independent. A score-routed layer ranks its experts by r^-s * exp(-r / tau), the last
 * `dead` ranks at a millionth of that, in a random order; a topic multiplies each weight by
 * exp(sigma * normal deviate) and is drawn anew after a time that is exponential with mean
 * `topic_tokens`. Each pick, without repetition in a token, is with probability `rho` a random pick
 * of the token a positions back, a = 1 + floor(exponential with mean `back_tokens`), else a draw by
 * the topic's weights. The first `hash_layers` layers choose a fixed pseudo-random set for each
 * token id; ids are Zipf(1.0).
 *
 * Pure: no clock, file or thread; the same options make the same trace. One owner. */
#ifndef SLUICE_OFFLOAD_SYNTHETIC_TRACE_H
#define SLUICE_OFFLOAD_SYNTHETIC_TRACE_H

#include "kernels/base.h"

#define SYNTHETIC_LAYERS_MAX  1024
#define SYNTHETIC_EXPERTS_MAX 4096
#define SYNTHETIC_TOP_MAX     64
#define SYNTHETIC_VOCAB       129280
#define SYNTHETIC_BACK_MAX    256 /* tokens remembered; a pick from further back is a fresh draw */

struct synthetic_options {
    int32_t layers, experts, top, hash_layers;
    double s, tau, sigma, topic_tokens, rho, back_tokens;
    int32_t dead;
    uint64_t seed;
};

struct synthetic_trace;

/* Sets the routing parameters of the preset "base", "long-topics" or "stress" and leaves shape and
 * seed; false for another name. */
bool synthetic_preset(const char *name, struct synthetic_options *options);

/* SL_ERR_ARGUMENT names what is out of bounds; SL_ERR_NO_MEMORY. */
SL_MUST_USE enum sl_status synthetic_trace_create(const struct synthetic_options *options,
                                                  struct synthetic_trace **out,
                                                  struct sl_error *error);
void synthetic_trace_destroy(struct synthetic_trace *trace); /* NULL is fine */

/* The next token: its id, and chosen [layers, top], distinct within a layer, in no order. */
void synthetic_trace_next(struct synthetic_trace *trace, int32_t *token_id, uint16_t *chosen);

#endif
