/* What the indexer's versions share: the token being scored, and the way from its scores to its
 * rows. A version brings two worker functions over a struct indexer_query. */
#ifndef SLUICE_KERNELS_CPU_INDEXER_QUERY_H
#define SLUICE_KERNELS_CPU_INDEXER_QUERY_H

#include "kernels/cpu/hadamard.h"
#include "kernels/cpu/stream.h"

#define INDEXER_ROWS_PER_ITEM 64

/* The token being scored. */
struct indexer_query {
    const struct indexer_args *args;
    float *heads;   /* [heads, width] */
    float *weights; /* [heads, rounded up to 16], scaled, then zeros; scratch goes on after it */
    int32_t candidates;
};

struct indexer_workers {
    worker_fn *prepare_head; /* idx: a head */
    worker_fn *score_rows;   /* idx: INDEXER_ROWS_PER_ITEM rows, to args->scores */
    bool prepare_always;     /* also without `round` */
};

/* Floats of `weights`. */
static inline int32_t indexer_padded_heads(const struct indexer_args *args)
{
    return (int32_t)align_up((uint64_t)args->heads, 16);
}

/* Rotation and e2m1 rounding of one head, in place. */
static inline void indexer_round_head(const struct indexer_query *query, int32_t head)
{
    float *x = query->heads + (size_t)head * (size_t)query->args->width;
    hadamard_rotate(x, query->args->width);
    quantise_q4(x, query->args->width);
}

void indexer_run(struct stream *stream, const struct indexer_args *args,
                 const struct indexer_workers *workers);

#endif
