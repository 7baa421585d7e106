/* A pass of the model's shape for the benchmarks: its sizes and its arrays. */
#ifndef SLUICE_BENCH_GPU_GPU_LAYER_H
#define SLUICE_BENCH_GPU_GPU_LAYER_H

#include "bench/gpu/gpu_bench.h"

#define LAYER_TOKENS_MAX 4
#define LAYER_TOP        6
#define LAYER_PAIRS_MAX  (LAYER_TOKENS_MAX * LAYER_TOP)
#define LAYER_TABLES     43 /* tables of tasks; a layer takes the next */

/* A table's tasks and its three words a choice. */
#define LAYER_WORDS (LAYER_PAIRS_MAX * (3 + (int32_t)sizeof(struct expert_task) / 4))

/* The model's sizes, named as docs/model.md names them. */
struct layer_sizes {
    int32_t hidden, streams, heads, width, rotary, query_rank, groups, out_rank;
    int32_t index_heads, index_width, top_rows, experts, expert_width, vocabulary;
};

/* Device memory of a pass, each array for all tokens of the call. */
struct layer_pass {
    struct gpu_bench *bench;
    struct layer_sizes sizes;
    struct expert_layout layout;
    int32_t tokens, context, ratio, task_count, layer;
    int32_t only, op;  /* the op of a layer that alone is launched, -1: all; those passed so far */
    uint64_t launches; /* of a step */
    double bytes;      /* read by the launches so far */
    void (*part)(struct layer_pass *); /* of a layer, for launches of it alone */
    float *streams, *x, *mix, *post, *comb, *query, *heads, *key, *compressed, *gates, *state,
        *index_state;
    float *attended, *index_queries, *index_weights, *scores, *logits, *weights, *routed, *shared,
        *up;
    int32_t *positions, *selected, *chosen, *ids;
    float *frequencies;
    struct expert_task *tasks;    /* [LAYER_TABLES, LAYER_PAIRS_MAX] */
    struct expert_task *no_tasks; /* [LAYER_PAIRS_MAX] all empty */
    int32_t *gather;              /* [2 * LAYER_PAIRS_MAX] all -1 */
    int32_t *taken;               /* [LAYER_WORDS] out of host_words */
    /* Mapped memory: two flags that are set; choices and weights; the router's input. */
    uint32_t *flags;
    int32_t *host_words; /* [LAYER_WORDS] */
    float *host_x;
};

/* Allocates the arrays of a pass whose bench, sizes and layout are set. */
void layer_pass_arrays(struct layer_pass *pass);

void layer_pass_free(struct layer_pass *pass); /* the mapped ones; the rest the bench frees */

/* Makes the tables of tasks for pass->tokens: `experts` experts a layer, hit by all pairs of token
 * and choice in turn. False, with a failure counted, when there is no memory. */
bool layer_pass_tasks(struct layer_pass *pass, int32_t experts);

/* Launches parts of a pass, or of them the op that pass->only names. */
void layer_pass_turn(struct layer_pass *pass, bool with_experts); /* from sublayer to sublayer */
void layer_pass_route(struct layer_pass *pass);
void layer_pass_layer(struct layer_pass *pass, int32_t ratio);
void layer_pass_step(struct layer_pass *pass); /* all of it */
int32_t layer_pass_layers(const struct gpu_bench *bench);

/* Measures meetings with a host that answers at once; microseconds that one adds to its launches,
 * as a pass runs them; negative after a failure. */
double gpu_bench_meetings(struct layer_pass *pass);

#endif
