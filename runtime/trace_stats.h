/* What a recorded trace says about routing: popularity, reuse, what a cache would hold, and how
 * much of what it misses was guessed ahead.
 *
 * Every token counts as if decoded alone, in the order of the file. Caches are least-recently-used,
 * one a layer. Guesses are counted over steps of one token, at layers whose routers score. Owned by
 * the caller; trace_stats_init takes memory, deinit gives it back. */
#ifndef SLUICE_RUNTIME_TRACE_STATS_H
#define SLUICE_RUNTIME_TRACE_STATS_H

#include "offload/trace_reader.h"

#define TRACE_STATS_CACHES  6 /* sizes */
#define TRACE_STATS_WINDOWS 12
#define TRACE_STATS_REACHES 6
#define TRACE_STATS_DEPTHS  4 /* lengths of the guessed part of a list */
#define TRACE_STATS_CUTS    4 /* probabilities */

extern const double trace_stats_cache_shares[TRACE_STATS_CACHES]; /* of a layer's experts */
extern const int32_t trace_stats_windows[TRACE_STATS_WINDOWS];    /* tokens */
extern const int32_t trace_stats_reaches[TRACE_STATS_REACHES];    /* tokens back */
extern const float trace_stats_cuts[TRACE_STATS_CUTS];

/* Guesses against what was chosen, given a cache. */
struct trace_stats_hits {
    uint64_t guessed; /* experts that were not in the cache */
    uint64_t right;   /* of these, chosen */
};

struct trace_stats_list {
    struct trace_list list;
    int32_t depths[TRACE_STATS_DEPTHS]; /* 4, top, 2 top, all */
    uint64_t chosen;                    /* at layers and tokens that had guesses */
    uint64_t found[TRACE_STATS_DEPTHS]; /* of these, within the depth */
    uint64_t missed[TRACE_STATS_CACHES];
    struct trace_stats_hits by_depth[TRACE_STATS_CACHES][TRACE_STATS_DEPTHS];
    struct trace_stats_hits by_cut[TRACE_STATS_CACHES][TRACE_STATS_CUTS];
    struct predictor_stats reliability;
};

struct trace_stats {
    struct trace_head head;
    uint64_t steps, tokens, decoded; /* tokens of steps of one */
    uint64_t accesses;               /* by all layers */
    uint64_t duration_ns, decode_ns, wait_ns, missed, timed_layers;

    double covering[3]; /* share of experts that covers 50, 80, 95 % of the accesses */
    double gini;
    uint64_t live;       /* (layer, expert) pairs seen */
    double fixed_set[3]; /* share of accesses of the best 4.54, 6.36, 8.18 % of experts */

    uint64_t hits[TRACE_STATS_CACHES]; /* of the accesses */
    int32_t slots[TRACE_STATS_CACHES];
    double distinct[TRACE_STATS_WINDOWS]; /* mean experts of a layer, whole windows; 0: none */
    uint64_t reused[TRACE_STATS_REACHES]; /* accesses used within that many tokens before */
    uint64_t reusable;                    /* accesses but those of the first token */

    struct trace_stats_list lists[TRACE_LISTS_MAX];

    struct trace_stats_state *state; /* private */
};

/* Counts the whole trace. SL_ERR_NO_MEMORY, and what the reader says. */
SL_MUST_USE enum sl_status trace_stats_init(struct trace_stats *stats, struct trace_reader *reader,
                                            struct sl_error *error);
void trace_stats_deinit(struct trace_stats *stats);

#endif
