/* The arrays one chunk of tokens passes through on its way from ids to logits.
 *
 * One allocation made with the engine; every session uses the same arrays, one chunk at a time.
 * T = chunk_tokens; other letters as in docs/model.md. */
#ifndef SLUICE_RUNTIME_WORKSPACE_H
#define SLUICE_RUNTIME_WORKSPACE_H

#include "kernels/ops.h"
#include "runtime/model_config.h"

struct workspace {
    int32_t chunk_tokens;
    int32_t *positions; /* [T] */

    float *streams; /* [T, M, D] residual streams */
    float *x;       /* [T, D] what a sublayer reads */
    float *y;       /* [T, D] what it returns */
    float *mix;     /* [T, (2 + M) * M] */
    float *post;    /* [T, M] */
    float *comb;    /* [T, M, M] */

    float *query_rank;    /* [T, Q] */
    float *queries;       /* [T, H, dh] */
    float *kv;            /* [T, dh] */
    float *heads_out;     /* [T, H, dh] */
    float *output_rank;   /* [T, G * R] */
    float *compress_keys; /* [T, 2 * max(dh, di)] */
    float *compress_gates;
    float *index_queries; /* [T, Hi, di] */
    float *index_weights; /* [T, Hi] */
    float *index_scores;  /* [context / 4] */
    int32_t *selected;    /* [T, top] */

    float *router_logits;  /* [T, E] */
    int32_t *chosen;       /* [T, K] */
    float *chosen_weights; /* [T, K] */
    float *routed;         /* [T, K, D] */
    float *shared_gate;    /* [T, F] */
    float *shared_up;      /* [T, F] */
    float *expert_scratch; /* [T, 3 * F] */

    float *hidden;     /* [T, M, D] second stream buffer of the MTP block */
    float *embedding;  /* [T, D] */
    int32_t *next_ids; /* [T] */

    /* Routing of a layer, expert-major: tokens of expert e at first[e] .. first[e + 1] - 1. */
    int32_t *expert_first; /* [E + 1] */
    int32_t *token_rows;   /* [T * K] */
    int32_t *output_rows;  /* [T * K] */
    float *task_weights;   /* [T * K] */

    void *memory;
    size_t memory_bytes;
};

/* Bytes that workspace_create takes, or 0 on overflow. */
uint64_t workspace_bytes(const struct model_config *config, int32_t chunk_tokens,
                         int32_t context_tokens);
SL_MUST_USE enum sl_status workspace_create(const struct model_config *config, int32_t chunk_tokens,
                                            int32_t context_tokens, struct workspace **out);
void workspace_destroy(struct workspace *workspace); /* NULL is fine */

#endif
