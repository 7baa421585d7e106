/* Rates: how long each lane takes for one expert, alone and while others run, and whether it is fit
 * to be used.
 *
 * Pure: no clock, file or thread; one owner. Filled from the machine's profile (calibration), then
 * corrected in service by what really happened (rates_observe). A lane that fails, or turns out
 * much slower than the profile says, gets a reason in words; dispatch then works around it.
 *
 * "Shared" times are those while another lane reads host memory as well: link and CPU kernels share
 * the memory controllers, and isolated figures have picked the wrong side by factors. */
#ifndef SLUICE_OFFLOAD_RATES_H
#define SLUICE_OFFLOAD_RATES_H

#include "kernels/base.h"

enum rates_lane {
    RATES_DEVICE, /* the device computes an expert from its slot */
    RATES_UP,     /* host memory to device */
    RATES_DOWN,   /* device to host memory */
    RATES_CPU,    /* all CPU workers compute an expert from host memory */
    RATES_DISK,   /* disk to host memory */
    RATES_LANES,
};

#define RATES_DISK_DEPTHS      7 /* reads in flight: 1, 2, 4, .. 64 */
#define RATES_REASON_BYTES_MAX 160
/* A lane this many times slower than its profile for a while is reported. */
#define RATES_SLOW_FACTOR 4.0
/* Observations that move an estimate half of the way. */
#define RATES_HALF_LIFE 16

/* One lane: an expert takes fixed_ns + the longer of bytes / rate and tokens * token_ns. */
struct rate {
    double bytes_per_second;        /* 0: there is no such lane */
    double shared_bytes_per_second; /* while another lane reads the same memory */
    double fixed_ns;                /* per expert: launch, hand-over */
    double token_ns;                /* arithmetic of one token with one expert */
    double layer_ns;                /* once per layer that uses the lane at all: synchronisation */
};

struct rates_profile {
    uint64_t expert_bytes;
    struct rate lanes[RATES_LANES];
    double disk_bytes_per_second[RATES_DISK_DEPTHS]; /* in all, by reads in flight */
};

struct rates {
    struct rates_profile profile;  /* as measured or given */
    double factor[RATES_LANES][2]; /* time observed / time expected, [alone, shared] */
    int64_t observations[RATES_LANES][2];
    bool down[RATES_LANES];
    char reason[RATES_LANES][RATES_REASON_BYTES_MAX]; /* "" unless down or slow */
};

/* SL_ERR_ARGUMENT names the number that cannot be right. */
SL_MUST_USE enum sl_status rates_init(struct rates *rates, const struct rates_profile *profile,
                                      struct sl_error *error);

/* The plain figures of a machine, bytes/s; 0 where there is no such lane. */
struct rates_machine {
    double device, link, cpu, disk;
    double memory; /* link and CPU together; 0: their sum */
};

/* Fills a profile from these, with RATES_* overheads below. Where link and CPU together would
 * exceed `memory`, the link keeps its rate and the CPU gets the rest, but no less than half of its
 * own. */
void rates_profile_make(struct rates_profile *profile, uint64_t expert_bytes,
                        const struct rates_machine *machine);

/* Assumed where nothing was measured: a PCIe 4 link, a GPU's memory, eight channels of DDR4, one
 * NVMe drive. */
#define RATES_LINK_BYTES_PER_SECOND   25e9
#define RATES_DEVICE_BYTES_PER_SECOND 1e12
#define RATES_CPU_BYTES_PER_SECOND    50e9
#define RATES_DISK_BYTES_PER_SECOND   3e9

/* Overheads assumed likewise. */
#define RATES_DEVICE_LAYER_NS 0.0
#define RATES_UP_LAYER_NS     5000.0  /* submission and the event that ends it */
#define RATES_CPU_LAYER_NS    10000.0 /* hand-over of activations and sums, waking workers */
#define RATES_CPU_TOKEN_NS    60000.0 /* 25 million multiply-adds at 420 Gflop/s on 16 cores */
#define RATES_DEVICE_TOKEN_NS 500.0
#define RATES_DISK_FIXED_NS   80000.0 /* until the first byte */

/* Whether the lane exists and works. */
bool rates_usable(const struct rates *rates, enum rates_lane lane);
/* Expected time of one expert with `tokens` tokens on the lane; INFINITY when not usable. For
 * RATES_DISK one read of many in flight: use rates_disk_ns for depth. */
double rates_expert_ns(const struct rates *rates, enum rates_lane lane, int32_t tokens,
                       bool shared);
/* Once per layer that uses the lane. */
double rates_layer_ns(const struct rates *rates, enum rates_lane lane);
/* Time between the ends of consecutive reads with `depth` in flight. */
double rates_disk_ns(const struct rates *rates, int32_t depth);

/* `experts` experts of `tokens` tokens each took `elapsed_ns` on the lane. For RATES_DISK: with
 * `tokens` reads in flight. Wild values (less than a tenth, more than a hundred times the
 * expectation) move the estimate no further than these. */
void rates_observe(struct rates *rates, enum rates_lane lane, int32_t experts, int32_t tokens,
                   bool shared, double elapsed_ns);

/* Takes a lane out of service, or back into it with reason NULL. */
void rates_set_down(struct rates *rates, enum rates_lane lane, const char *reason);
/* Why the lane is down or slow, for the user; NULL when all is well. */
const char *rates_reason(const struct rates *rates, enum rates_lane lane);

const char *rates_lane_name(enum rates_lane lane);

#endif
