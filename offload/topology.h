/* The processor as workers see it: physical cores this process may use, and their NUMA nodes.
 *
 * Cold path, any thread, no memory of its own beyond the caller's struct. Nothing here fails: a
 * machine that cannot be looked at counts every CPU allowed as a core, all on one node. */
#ifndef SLUICE_OFFLOAD_TOPOLOGY_H
#define SLUICE_OFFLOAD_TOPOLOGY_H

#include "kernels/base.h"

/* More cores than this are left idle. */
#define TOPOLOGY_CORES_MAX 1024

struct topology_core {
    int32_t cpu;  /* the system's number of the core's first hardware thread that is allowed */
    int32_t node; /* 0 .. node_count-1 */
};

struct topology {
    struct topology_core cores[TOPOLOGY_CORES_MAX]; /* [core_count], those of a node together */
    int32_t core_count;                             /* at least 1 */
    int32_t node_count;                             /* nodes that have one of these cores */
    int32_t threads; /* that fit: a core each, fewer where a control group's quota gives less */
    bool known;      /* false: cores and nodes could not be told apart */
    char text[96];   /* for the user: "8 cores on 2 nodes, with time for 2 by quota" */
};

/* This machine, less what the calling thread's affinity and the process's cpuset exclude. */
void topology_detect(struct topology *out);

/* The cores for `threads` workers, 1 .. core_count: all of them or some evenly spread, so that
 * every node's memory is read at once. Fills cpus[threads] and nodes[threads], the latter with the
 * nodes used, counted from 0. */
void topology_place(const struct topology *topology, int32_t threads, int32_t *cpus,
                    int32_t *nodes);

/* On which NUMA nodes experts lie. */
enum topology_spread {
    /* Page by page on the nodes of all CPUs this process may use: workers on every node read every
     * expert, so each node's memory gives its share of the bandwidth. What is done unmeasured. */
    TOPOLOGY_IN_TURN,
    TOPOLOGY_NEAR, /* on those nearest to the device, and on others when they are full */
};

#define TOPOLOGY_PCI_BYTES 16 /* of "0000:65:00.0" */
#define TOPOLOGY_WHY_BYTES 80

struct topology_placement {
    enum topology_spread spread;
    char device[TOPOLOGY_PCI_BYTES]; /* its PCI address; "": none, or on no bus */
    char why[TOPOLOGY_WHY_BYTES];    /* what was measured of either, for the user; "": nothing */
};

/* Whether some of several nodes are nearer to the device at this PCI address than the others. */
bool topology_has_near(const char *device);

/* Places memory that nobody has touched yet; `placement` NULL: in turn. Where nothing is known of
 * the device, in turn. Writes what was done as text for the user ("on 2 nodes in turn", "near the
 * device, on node 1"), and why; "" where there is one node only. */
void topology_place_memory(void *memory, size_t bytes, const struct topology_placement *placement,
                           char *text, size_t text_bytes);

/* What topology_detect makes of a machine as hwloc describes synthetic ones, such as
 * "node:2 core:4 pu:2", with the CPUs `allowed` ("0-3,8"; NULL: all); false when either cannot be
 * read or no CPU is left. For tests. */
bool topology_from_synthetic(const char *description, const char *allowed, struct topology *out);

/* What topology_detect falls back to. For tests. */
void topology_from_affinity(struct topology *out);

#endif
