/* Residency: who gives way in one tier.
 *
 * Pure: no clock, file or thread; one owner, the store's thread or the simulator. Keeps the set of
 * the tier's experts that may be evicted now (candidates) and finds the least valuable one.
 * What it knows of experts comes from a heat shared by all tiers, which the owner updates with
 * heat_use; nothing needs to be said here about uses. Insert, remove, hold and value are O(1); a
 * victim costs about two scans of one layer's experts.
 *
 *   BLEND        least expected uses per token: recency and frequency over several half-lives with
 *                learned weights (heat.h); the default
 *   LRU          least recently used
 *   LFU          fewest uses, halved every 2,000 tokens
 *   STATIC       fewest uses as of residency_init (a loaded profile); never learns
 *   CLAIRVOYANT  used again latest, as residency_set_future says: the bound (Belady, IBM Systems
 *                Journal 5, 1966)
 *
 * Every policy answers residency_value and residency_admits in its own terms. */
#ifndef SLUICE_OFFLOAD_RESIDENCY_H
#define SLUICE_OFFLOAD_RESIDENCY_H

#include "offload/heat.h"

enum residency_policy {
    RESIDENCY_BLEND,
    RESIDENCY_LRU,
    RESIDENCY_LFU,
    RESIDENCY_STATIC,
    RESIDENCY_CLAIRVOYANT,
    RESIDENCY_POLICIES,
};

struct residency {
    const struct heat *heat; /* borrowed */
    enum residency_policy policy;
    int32_t layers, experts;
    int32_t resident_count, candidate_count;
    int32_t pinned_count;   /* layers */
    uint8_t *resident;      /* [layers * experts] */
    uint8_t *holds;         /* [layers * experts] */
    float *open;            /* [layers * experts]: 0 for candidates, INFINITY for all others */
    float *scores;          /* [layers * experts] of STATIC */
    bool *layer_pinned;     /* [layers] */
    int32_t *layer_open;    /* [layers]: candidates */
    float *layer_least;     /* [layers]: about the least score among candidates */
    int32_t *layer_poorest; /* [layers]: whose that is, if still so; see residency.c */
    int64_t *looked_clock;  /* [layers]: token clock of the last look, HEAT_NEVER */
    int64_t *looked_pass;   /* [layers]: the layer's latest use then */
    float *scratch;         /* [experts] */
    const int64_t *future;  /* [layers * experts], CLAIRVOYANT; borrowed */
};

/* "blend", "lru", "lfu", "static", "clairvoyant". */
const char *residency_policy_name(enum residency_policy policy);
/* The policy of that name, or -1. */
int32_t residency_policy_find(const char *name);

/* An empty tier. SL_ERR_NO_MEMORY. */
SL_MUST_USE enum sl_status residency_init(struct residency *residency, const struct heat *heat,
                                          enum residency_policy policy, struct sl_error *error);
void residency_deinit(struct residency *residency);

/* The expert is in the tier and may be evicted; it was not in it. */
void residency_insert(struct residency *residency, int32_t expert_idx);
/* It is not in the tier, or not to be evicted, any more; it was in it. No hold may be left. */
void residency_remove(struct residency *residency, int32_t expert_idx);
/* Held experts stay in the tier but are no candidates; holds nest, 255 at most. */
void residency_hold(struct residency *residency, int32_t expert_idx);
void residency_unhold(struct residency *residency, int32_t expert_idx);
bool residency_contains(const struct residency *residency, int32_t expert_idx);

/* Experts of a pinned layer give way only when no other candidate is left. */
void residency_pin_layer(struct residency *residency, int32_t layer, bool pinned);

/* When each expert is used next, in token clocks (INT64_MAX: never); [layers * experts], kept up to
 * date by the caller. CLAIRVOYANT only. */
void residency_set_future(struct residency *residency, const int64_t *next_use);

/* The least valuable candidate, or -1; it stays one. `layer` is where the pass is, which is looked
 * at first. */
int32_t residency_victim(struct residency *residency, int32_t layer);
/* The same among the candidates of `layer` alone: for tiers divided by layer. */
int32_t residency_victim_in(struct residency *residency, int32_t layer);

/* Expected uses per token of any expert, in the tier or not: whatever the policy, from the heat;
 * for CLAIRVOYANT one over the tokens until its next use. */
float residency_value(const struct residency *residency, int32_t expert_idx);
/* Whether bringing `expert_idx` in the place of `victim_idx` is a gain by the policy's order; LRU
 * and LFU let everything in, as they are commonly meant. */
bool residency_admits(const struct residency *residency, int32_t expert_idx, int32_t victim_idx);

/* Asserts that sets and counts agree. */
void residency_check(const struct residency *residency);

#endif
