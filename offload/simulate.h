/* The simulator: decode of a routing trace through the residency, prefetch and dispatch that the
 * store uses, under a virtual clock with the rates given.
 *
 * Pure: no clock, file or thread; the trace comes through a callback. Layers run one after the
 * other: the dense part, then the router's choice, then the layer's experts as dispatch plans them.
 * The links move one expert at a time. What the device misses is streamed there in the place of
 * something less valuable, streamed through a transit slot, or computed on the CPU; what the CPU
 * computed may be promoted when the link is idle. Routers are applied early when the CPU is through
 * with its share of a layer, and nothing travels unasked before. In exclusive mode an expert lives
 * in device memory or in RAM, and a victim leaving the device goes to RAM by the other direction of
 * the link.
 *
 * What is left out: memory traffic between the two directions of the link, batches of tokens, and
 * any cost of deciding (bench policy measures that). */
#ifndef SLUICE_OFFLOAD_SIMULATE_H
#define SLUICE_OFFLOAD_SIMULATE_H

#include "offload/dispatch.h"
#include "offload/prefetch.h"
#include "offload/residency.h"

#define SIMULATE_TOKENS_MAX INT64_C(100000000)
#define SIMULATE_TOP_MAX    64
#define SIMULATE_AHEAD_MAX  2 /* layers that routers look ahead */

/* Guesses of routers applied early, as measured: of what is missing, the share they find, and of
 * the missing experts they name, the share that is right. */
struct simulate_ahead {
    double recall; /* 0: none are made */
    double precision;
};

/* One ahead: published for the full model, from the router's input (offload facts, section 2.2).
 * Two ahead: measured on the demo model, from the same input, where the engine guesses
 * (bench/offload.md). */
#define SIMULATE_RECALL_1    0.46
#define SIMULATE_PRECISION_1 (1 / 1.4)
#define SIMULATE_RECALL_2    0.36
#define SIMULATE_PRECISION_2 0.58
/* One router applied: 2 MB of weights from RAM. Assumed. */
#define SIMULATE_LOOK_NS 15000.0

/* What a layer's end waited for, beyond what it would have taken with all experts on the device. */
enum simulate_lost {
    SIMULATE_LOST_CPU,  /* the CPU, while the link had nothing to bring */
    SIMULATE_LOST_LINK, /* the link, while the CPU had nothing to compute */
    SIMULATE_LOST_BOTH, /* both were busy */
    SIMULATE_LOST_DISK, /* a read */
    SIMULATE_LOST_HAND, /* the lane's share of a layer: hand-over, submission */
    SIMULATE_LOST_COUNT,
};

struct simulate_options {
    int32_t layers, experts, top, hash_layers;
    int32_t device_slots; /* 0: no device; the CPU computes */
    int32_t host_slots;   /* 0: everything that is not on the device is on disk */
    bool inclusive;       /* what is on the device keeps its place in RAM */
    bool by_layer;        /* device slots are divided by layer, the same number each */
    bool timed;           /* false: hits are counted, and every miss comes at once */
    bool in_turn; /* not timed: a layer's experts are asked for one after the other, so that one may
                     drive out the next; as plain cache studies count. Else all at once. */
    bool hash_exact; /* prefetch for hash layers from the token id */
    struct simulate_ahead ahead[SIMULATE_AHEAD_MAX]; /* one layer ahead, two layers ahead */
    double look_ns; /* of the thread that computes on the CPU, for each router applied early */
    enum residency_policy policy;
    enum dispatch_rule rule;
    struct rates_profile profile; /* when timed; without a CPU rate there is no CPU lane */
    double dense_ns;              /* of a token, outside its experts */
    int64_t warm_tokens, tokens;  /* before counting begins; counted */
    uint64_t seed;                /* of the guesses */
};

/* The next token's id and chosen [layers, top]; false at the end of the trace. */
typedef bool (*simulate_source_fn)(void *context, int32_t *token_id, uint16_t *chosen);

struct simulate_result {
    int64_t tokens;
    uint64_t accesses, device_hits;     /* there, on the device, when the router chose */
    uint64_t in_flight;                 /* on the way there */
    uint64_t from_host, from_disk;      /* the other misses, by where they were */
    uint64_t cold;                      /* of all misses, those never used before */
    uint64_t choices[DISPATCH_CHOICES]; /* how each access was computed */
    uint64_t bytes_up, bytes_down, bytes_disk;
    uint64_t promotions;
    double stall_ns; /* beyond what the layers would have taken with all experts on the device */
    double lost_ns[SIMULATE_LOST_COUNT]; /* the same by what was waited for */
    double total_ns;
    double tokens_per_second;
    double token_p50_ns, token_p99_ns;
    double bound;          /* tokens/s of offload facts 4.1 at the achieved hit rate */
    double bound_by_layer; /* the same where each layer waits for its own experts, which are not
                              divided between lanes; see simulate_layer_least_ns */
    struct prefetch_counts guesses; /* all layers */
};

/* Runs the trace. SL_ERR_ARGUMENT names what is out of bounds; SL_ERR_LIMIT: the trace ended before
 * anything was counted; SL_ERR_NO_MEMORY. CLAIRVOYANT keeps the whole trace in memory, 6 bytes an
 * access. */
SL_MUST_USE enum sl_status simulate_run(const struct simulate_options *options,
                                        simulate_source_fn source, void *context,
                                        struct simulate_result *out, struct sl_error *error);

/* "cpu", "link", "both", "disk", "hand-over". */
const char *simulate_lost_name(enum simulate_lost lost);

/* Share of accesses that the device had. */
double simulate_hit_rate(const struct simulate_result *result);

/* Tokens per second if experts took only their bytes over the rates of the lanes, all lanes busy at
 * once: 1 / (dense + the longest of hit bytes / device, host misses / (link + CPU together), disk
 * misses / disk). Offload facts, section 4.1. */
double simulate_bound(const struct simulate_options *options, double hits, double host_misses,
                      double disk_misses);

/* The least time of one layer's experts by the same rates, when lanes take whole experts and
 * nothing was brought ahead: link and CPU share the host's misses in the best of all ways, at their
 * shared rates where both have some; reads of the disk come one after the other. No launch,
 * hand-over or latency. */
double simulate_layer_least_ns(const struct simulate_options *options, int32_t hits,
                               int32_t host_misses, int32_t disk_misses);

#endif
