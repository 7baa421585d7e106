/* What hwloc knows, for offload/topology.c alone. */
#ifndef SLUICE_OFFLOAD_TOPOLOGY_HWLOC_H
#define SLUICE_OFFLOAD_TOPOLOGY_HWLOC_H

#include "offload/topology.h"

/* Fills cores and counts: of the machine that `description` makes, with the CPUs `allowed` (NULL:
 * all), or, with no description, of this one with the calling thread's CPUs. False: not found. */
bool topology_hwloc_look(const char *description, const char *allowed, struct topology *out);

/* Interleaves over the nodes near the CPUs allowed; false when hwloc or the system will not. */
bool topology_hwloc_interleave(void *memory, size_t bytes);

#endif
