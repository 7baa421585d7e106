/* Dispatch: who computes each expert of a layer, and from where, so that the layer ends soonest.
 *
 * Pure: no clock, file, thread or memory of its own. Given a layer's distinct experts, where each
 * lies (or when it arrives), and when each lane becomes free, chooses per expert: run on its device
 * slot, stream to the device and run there, compute on the CPU where it lies in RAM, or read from
 * disk and then either.
 *
 * The model: four lanes (disk, up, CPU, device) that do one thing at a time. Reads end one after
 * the other; what the device has runs first, what streams runs as it lands; on each lane those come
 * first that can start first, then those with more tokens. When both the link and the CPU are used,
 * both take their shared times. Up to DISPATCH_EXACT_MAX experts that have a choice are tried in
 * every combination; beyond that every prefix of the experts with the most tokens is streamed, and
 * the best improved by single changes. */
#ifndef SLUICE_OFFLOAD_DISPATCH_H
#define SLUICE_OFFLOAD_DISPATCH_H

#include "offload/rates.h"

#define DISPATCH_EXPERTS_MAX 4096 /* of a layer */
#define DISPATCH_EXACT_MAX   6
#define DISPATCH_IMPROVE_MAX 64 /* experts with a choice; beyond, the best prefix stands */

enum dispatch_place { DISPATCH_AT_DISK, DISPATCH_AT_HOST, DISPATCH_AT_DEVICE };

enum dispatch_choice {
    DISPATCH_RUN,         /* on the device, from its slot */
    DISPATCH_STREAM,      /* to the device, then run there */
    DISPATCH_CPU,         /* on the CPU, from RAM */
    DISPATCH_READ_STREAM, /* disk to RAM, then as STREAM */
    DISPATCH_READ_CPU,    /* disk to RAM, then as CPU */
    DISPATCH_CHOICES,
};

struct dispatch_expert {
    int32_t expert_idx;
    int32_t tokens;            /* that chose it, > 0 */
    enum dispatch_place place; /* where it is, or arrives at arrival_ns */
    int64_t arrival_ns;        /* from now; 0: it is there */
};

/* From now until the lane is done with what it has; ns. */
struct dispatch_lanes {
    int64_t disk_ns, up_ns, cpu_ns, device_ns;
    int32_t disk_in_flight; /* reads, ours not counted */
};

/* ALWAYS_*: for comparison; an expert that cannot go that way goes the other. */
enum dispatch_rule { DISPATCH_BEST, DISPATCH_ALWAYS_STREAM, DISPATCH_ALWAYS_CPU };

struct dispatch_problem {
    const struct rates *rates;
    const struct dispatch_expert *experts; /* [count] */
    int32_t count;                         /* 0 .. DISPATCH_EXPERTS_MAX */
    int32_t streams_max; /* slots that may be streamed into, if the CPU can take the rest */
    struct dispatch_lanes lanes;
    enum dispatch_rule rule;
};

struct dispatch_decision {
    enum dispatch_choice choice;
    int32_t order;     /* among those of the same lane, from 0: RUN, streams, CPU */
    int64_t ready_ns;  /* bytes where they are computed, from now */
    int64_t start_ns;  /* of the computation */
    int64_t finish_ns; /* likewise */
};

/* Fills decisions [count] and returns when the last is finished, ns from now; 0 for no experts, -1
 * when some expert can be computed nowhere, no usable lane leading there. */
int64_t dispatch_choose(const struct dispatch_problem *problem,
                        struct dispatch_decision *decisions);

/* "device", "stream", "cpu", "read+stream", "read+cpu". */
const char *dispatch_choice_name(enum dispatch_choice choice);

#endif
