/* Prefetch: what to bring before the router asks for it, on the links' idle time.
 *
 * Pure: no clock, file or thread; one owner. One queue a link, of guesses ordered by worth. The
 * owner says where decode is (prefetch_visit), offers guesses, asks for the next one whenever a
 * link has nothing demanded to do, and reports what became of it. Rules: demand first (the owner
 * does not ask while demand waits); a guess dies when its layer has passed; none starts that is
 * less likely than what it would evict; few are in flight at once; and the queue believes its
 * guesses only as far as they came true, down to none at all but for a trial now and then.
 *
 * A visit is one layer of one pass: token_clock * layers + layer. Every item of a link is equally
 * large. What is certain goes first, in the order of the layers: it has to be brought in any case.
 * Of the others the worth is what they win less what they cost, by a probability corrected by
 * experience. Right, a guess wins what of its transfer falls into time that the link would have
 * stood idle: until its layer, and until something is demanded. Wrong, it costs what of its
 * transfer reaches beyond the next demand, which comes after any time, on average the gap between
 * demands that the owner lets see (prefetch_watch). So a link that is never idle for long brings
 * what is certain and little else. */
#ifndef SLUICE_OFFLOAD_PREFETCH_H
#define SLUICE_OFFLOAD_PREFETCH_H

#include "kernels/base.h"

enum prefetch_link { PREFETCH_UP, PREFETCH_DISK, PREFETCH_LINKS };

#define PREFETCH_QUEUE_MAX  128 /* guesses that wait, a link */
#define PREFETCH_FLIGHT_MAX 16  /* in flight at once, a link */
/* Guesses below this are not worth a transfer. */
#define PREFETCH_PROBABILITY_MIN 0.05f
#define PREFETCH_TRIAL_VISITS    512 /* visits between trials while the queue believes nothing */

struct prefetch_options {
    int32_t layers, experts;
    int32_t flight_max[PREFETCH_LINKS]; /* 0 .. PREFETCH_FLIGHT_MAX; 0: never */
};

struct prefetch_guess {
    int32_t expert_idx;
    float probability; /* 1: exact, as of the hash layers */
    int64_t visit;     /* in which its layer is reached */
};

/* What became of guesses that were started, and of those that were not. */
struct prefetch_counts {
    uint64_t started;
    uint64_t useful;  /* there when its layer came, and used */
    uint64_t late;    /* used, but still on its way or waiting */
    uint64_t wasted;  /* its layer passed without using it */
    uint64_t dropped; /* never started: its layer came first, or a full queue */
};

/* A guess that has been started, until its layer has passed and its transfer ended. */
struct prefetch_entry {
    struct prefetch_guess guess;
    bool in_flight, settled; /* settled: counted as useful, late or wasted */
    bool awaited;            /* asked for while in flight */
};

struct prefetch_queue {
    struct prefetch_guess waiting[PREFETCH_QUEUE_MAX]; /* [waiting_count], in no order */
    struct prefetch_entry started[PREFETCH_QUEUE_MAX]; /* [started_count], in no order */
    int32_t waiting_count, started_count, flight_count;
    double hoped, came; /* decayed sums: probabilities given, uses seen */
    int64_t trial_visit;
    bool wanted;        /* something demanded is on the link, or waits for it */
    int64_t changed_ns; /* when that began or ended; before the first time -1 */
    double gap_ns;      /* smoothed time between demands; 0: not known yet */
};

struct prefetch {
    struct prefetch_options options;
    int64_t visit;   /* where decode is; -1 before the first layer of all */
    double visit_ns; /* usual (median) time between visits; 0: not known yet */
    int64_t last_ns; /* of the last visit, or -1 */
    struct prefetch_queue queues[PREFETCH_LINKS];
    struct prefetch_counts *counts; /* [layers] */
};

SL_MUST_USE enum sl_status prefetch_init(struct prefetch *prefetch,
                                         const struct prefetch_options *options,
                                         struct sl_error *error);
void prefetch_deinit(struct prefetch *prefetch);

/* Decode is at `visit` (never goes back), at `now_ns`: older guesses die. */
void prefetch_visit(struct prefetch *prefetch, int64_t visit, int64_t now_ns);

/* Offers a guess for the link. One that is queued already takes the higher probability; one whose
 * visit has come is dropped, and so is the least worthy of a full queue. */
void prefetch_offer(struct prefetch *prefetch, enum prefetch_link link,
                    const struct prefetch_guess *guess);

/* Whether anything demanded is on the link or waits for it, as of now_ns, which never goes back. */
void prefetch_watch(struct prefetch *prefetch, enum prefetch_link link, bool wanted,
                    int64_t now_ns);
/* Guesses in flight that nobody waits for. */
int32_t prefetch_unasked(const struct prefetch *prefetch, enum prefetch_link link);

/* When a transfer would begin and how long the link would be busy with it. */
struct prefetch_transfer {
    double wait_ns, busy_ns;
};

/* The guess to start now, which counts as in flight from here on; false when none is worth it.
 * `evicted_value`: uses per token of what it would evict, 0 for a free slot. */
bool prefetch_next(struct prefetch *prefetch, enum prefetch_link link,
                   struct prefetch_transfer transfer, float evicted_value,
                   struct prefetch_guess *out);
/* The transfer ended; `arrived` false: it failed or was given up. */
void prefetch_done(struct prefetch *prefetch, enum prefetch_link link, int32_t expert_idx,
                   bool arrived);
/* The router asked for the expert: settles guesses about it at the visit of now, on all links. */
void prefetch_used(struct prefetch *prefetch, int32_t expert_idx);
/* The guess is void: the expert came otherwise, or is resident already. */
void prefetch_forget(struct prefetch *prefetch, enum prefetch_link link, int32_t expert_idx);

/* Probability as experience corrects it, 0 .. 1. */
float prefetch_believe(const struct prefetch *prefetch, enum prefetch_link link, float probability);
struct prefetch_counts prefetch_counts_get(const struct prefetch *prefetch, int32_t layer);
void prefetch_check(const struct prefetch *prefetch);

#endif
