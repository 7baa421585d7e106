/* The arrays one chunk of tokens passes through on its way from ids to logits.
 *
 * Made with the engine; every session uses the same arrays, one chunk at a time. With a GPU the
 * arrays are in its memory, and those that the host reads or writes have a twin, `host_*`, in RAM
 * that both see; without, the twins are the arrays themselves.
 * T = chunk_tokens; other letters as in docs/model.md. */
#ifndef SLUICE_RUNTIME_WORKSPACE_H
#define SLUICE_RUNTIME_WORKSPACE_H

#include "kernels/gpu.h"
#include "runtime/model_config.h"

#define WORKSPACE_LOGITS_ROWS 16 /* in a GPU's memory at once */

struct workspace {
    int32_t chunk_tokens;
    int32_t logits_rows; /* L: T without a GPU */
    int32_t *positions;  /* [T] */
    int32_t *ids;        /* [T] with a GPU; else unused */

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
    float *compress_keys; /* [T, 2 * dh] */
    float *compress_gates;
    float *index_keys; /* [T, 2 * di] */
    float *index_gates;
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

    float *hidden;    /* [T, M, D] second stream buffer of the MTP block */
    float *embedding; /* [T, D] */
    float *logits;    /* [L, V] with a GPU; else unused */

    /* Routing of a layer, expert-major: tokens of expert e at first[e] .. first[e + 1] - 1. Filled
     * by the host. */
    int32_t *expert_first; /* [E + 1] */
    int32_t *token_rows;   /* [3, T * K]: these, output_rows and task_weights, in one piece */
    int32_t *output_rows;  /* [T * K] in it */
    float *task_weights;   /* [T * K] in it */
    int32_t *gpu_rows;     /* [3, T * K] the same in a GPU's memory */

    /* For a GPU: two tables of tasks and a list of rows, as filled and in its memory, and the flags
     * by which the two meet (moe_handshake.h). */
    struct expert_task *host_tasks, *tasks; /* [2, T * K] */
    int32_t *host_gather, *gather;          /* [T * K] */
    uint32_t *flags;                        /* [3, layers] */

    int32_t *host_positions, *host_ids; /* [T] */
    int32_t *host_chosen;               /* [T, K] */
    float *host_chosen_weights;         /* [T, K] */
    float *host_x;                      /* [T, D] */
    float *host_routed;                 /* [T, K, D] */
    float *host_scratch;                /* [T, 3 * F] */
    float *host_logits;                 /* [L, V] with a GPU; else unused */

    struct gpu *gpu;           /* borrowed; NULL: all of it is RAM */
    void *memory, *own_memory; /* RAM or mapped; the GPU's */
    size_t memory_bytes;
};

struct workspace_options {
    const struct model_config *config;
    int32_t chunk_tokens, context_tokens;
    struct gpu *gpu; /* NULL: none */
};

/* What workspace_create takes; both 0 on overflow. */
struct workspace_size {
    uint64_t ram_bytes, gpu_bytes;
};
struct workspace_size workspace_size(const struct model_config *config, int32_t chunk_tokens,
                                     int32_t context_tokens, bool with_gpu);

SL_MUST_USE enum sl_status workspace_create(const struct workspace_options *options,
                                            struct workspace **out);
void workspace_destroy(struct workspace *workspace); /* NULL is fine */

#endif
