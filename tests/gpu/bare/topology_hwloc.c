/* offload/topology_hwloc.c on a machine without hwloc: every CPU counts as a core of one node. */
#include "offload/topology_hwloc.h"

bool topology_hwloc_look(const char *description, const char *allowed, struct topology *out)
{
    (void)description, (void)allowed, (void)out;
    return false;
}

bool topology_hwloc_interleave(void *memory, size_t bytes)
{
    (void)memory, (void)bytes;
    return false;
}

bool topology_hwloc_has_near(const char *device)
{
    (void)device;
    return false;
}

bool topology_hwloc_bind(void *memory, size_t bytes, const char *device, char *list,
                         size_t list_bytes)
{
    (void)memory, (void)bytes, (void)device, (void)list, (void)list_bytes;
    return false;
}
