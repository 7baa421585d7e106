/* The simulator's inside, shared by its files alone; see simulate.h.
 *
 *   simulate.c        options, layers, tokens
 *   simulate_links.c  slots, what the links bring by themselves, guesses
 *   simulate_losses.c what the layers waited for
 *   simulate_bounds.c what no schedule could beat */
#ifndef SLUICE_OFFLOAD_SIMULATE_STATE_H
#define SLUICE_OFFLOAD_SIMULATE_STATE_H

#include "offload/random_stream.h"
#include "offload/simulate.h"

#define RECENT_MAX  16 /* experts that might be promoted */
#define FLIGHTS_MAX 64
enum { AT_HOST = 1, AT_DEVICE = 2, GOING_UP = 4, BEING_READ = 8 };

struct flight {
    int32_t expert_idx;
    enum prefetch_link link;
    bool guess;
    double done_ns;
};

struct sim {
    struct simulate_options options;
    struct rates rates;
    struct heat heat;
    struct residency device, host;
    struct prefetch prefetch;
    struct random_stream random;
    uint8_t *state;                             /* [layers * experts] */
    int32_t device_used, host_used, pending_up; /* slots, those of flights included */
    struct flight flights[FLIGHTS_MAX];
    int32_t flight_count;
    int32_t recent[RECENT_MAX], recent_next;
    double up_ns, disk_ns; /* of one expert; INFINITY without such a lane */
    double resident_ns;    /* a layer's experts where all are there */
    double now_ns, link_free_ns[PREFETCH_LINKS], idle_from_ns;
    int64_t token;
    int32_t *layer_used; /* [layers], device slots when by_layer */
    uint16_t *tokens[2]; /* [layers, top]: of now and next */
    int32_t ids[2];
    bool has_next;
    /* CLAIRVOYANT */
    uint16_t *trace;    /* [trace_tokens, layers, top] */
    int32_t *following; /* the same: token of the next use, INT32_MAX */
    int64_t *next_use;  /* [layers * experts] */
    int64_t trace_tokens;
    struct simulate_result result;
    double least_ns;       /* sum of simulate_layer_least_ns, and the dense part */
    uint32_t *token_times; /* [tokens], units of 1/16 us */
};

/* Into RAM, in the place of something less valuable if need be; false when nothing is. */
bool sim_keep_in_host(struct sim *sim, int32_t idx);
/* A demanded expert that came over the link stays if that is a gain. */
bool sim_admit_to_device(struct sim *sim, int32_t idx);
/* Takes in what has arrived by now. */
void sim_land(struct sim *sim);
/* When the expert that is on its way arrives. */
double sim_flight_end(const struct sim *sim, int32_t idx);
/* What the links start by themselves until now. */
void sim_use_idle_links(struct sim *sim);
/* The table of the hash layers, for the next token. */
void sim_guess_by_table(struct sim *sim);
/* When the CPU is through with its share of a layer, from the layer's start. */
double sim_cpu_share(const struct dispatch_decision *decisions, int32_t count);
/* Charges what a layer took too long, of `finish`, to what it waited for; before the clock moves
 * on. */
void sim_charge(struct sim *sim, const struct dispatch_decision *decisions, double finish);
/* Applies the routers of later layers early; how many. */
int32_t sim_guess_ahead(struct sim *sim, int32_t layer);

#endif
