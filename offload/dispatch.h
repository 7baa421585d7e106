/* Dispatch: who computes each expert of a layer, and from where, so that the layer ends soonest.
 *
 * Pure: no clock, file, thread or memory of its own. Given a layer's distinct experts, where each
 * lies (or when it arrives), and when each lane becomes free, chooses per expert: run on its device
 * slot, stream to the device and run there, compute on the CPU where it lies in RAM, or read from
 * disk and then either.
 *
 * The model: four lanes (disk, up, CPU, device) that do one thing at a time, in the order given by
 * the decisions; what the device has runs first, what streams runs as it lands. When both the link
 * and the CPU are used, both take their shared times. Up to DISPATCH_EXACT_MAX experts that have a
 * choice are tried in every combination; beyond that a prefix search over experts ordered by what
 * the CPU would take for them, then single swaps. */
#ifndef SLUICE_OFFLOAD_DISPATCH_H
#define SLUICE_OFFLOAD_DISPATCH_H

#include "offload/rates.h"

#define DISPATCH_EXPERTS_MAX 4096 /* of a layer */
#define DISPATCH_EXACT_MAX   6

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

/* What the caller forbids: a lane that --explain or a test switches off. */
enum dispatch_rule { DISPATCH_BEST, DISPATCH_ALWAYS_STREAM, DISPATCH_ALWAYS_CPU };

struct dispatch_problem {
    const struct rates *rates;
    const struct dispatch_expert *experts; /* [count] */
    int32_t count;                         /* 0 .. DISPATCH_EXPERTS_MAX */
    int32_t streams_max;                   /* slots that may be streamed into; 0: none */
    struct dispatch_lanes lanes;
    enum dispatch_rule rule;
};

struct dispatch_decision {
    enum dispatch_choice choice;
    int32_t order;    /* among those of the same lane, from 0: CPU computes, link streams */
    int64_t ready_ns; /* bytes where they are computed, from now */
    int64_t start_ns, finish_ns; /* of the computation */
};

/* Fills decisions [count] and returns when the last is finished, ns from now; -1 when some expert
 * can be computed nowhere (no usable lane). */
int64_t dispatch_choose(const struct dispatch_problem *problem,
                        struct dispatch_decision *decisions);

/* When these choices (decisions[].choice and .order) would be finished; fills the times. -1 when
 * they cannot be done. For tests and for --explain. */
int64_t dispatch_evaluate(const struct dispatch_problem *problem,
                          struct dispatch_decision *decisions);

const char *dispatch_choice_name(enum dispatch_choice choice);

#endif
