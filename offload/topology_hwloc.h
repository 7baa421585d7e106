/* What hwloc knows, for offload/topology.c alone. */
#ifndef SLUICE_OFFLOAD_TOPOLOGY_HWLOC_H
#define SLUICE_OFFLOAD_TOPOLOGY_HWLOC_H

#include "offload/topology.h"

/* Fills cores and counts: of the machine that `description` makes, with the CPUs `allowed` (NULL:
 * all), or, with no description, of this one with the calling thread's CPUs. False: not found. */
bool topology_hwloc_look(const char *description, const char *allowed, struct topology *out);

/* Interleaves over the nodes near the CPUs allowed; false when hwloc or the system will not. */
bool topology_hwloc_interleave(void *memory, size_t bytes);

/* Whether some of the nodes are nearer to the device at a PCI address than the others. */
bool topology_hwloc_has_near(const char *device);

/* Binds to these, whose numbers go to `list`; what does not fit there goes to the others. False
 * when there are none, or the system will not. */
bool topology_hwloc_bind(void *memory, size_t bytes, const char *device, char *list,
                         size_t list_bytes);

#endif
