/* Looking at the machine by hwloc; see the header. */
#include "offload/topology_hwloc.h"

#include <hwloc.h>

/* Puts the cores together node by node. `keys` tells the nodes apart, `cores` come without one. */
static void group_cores(const int *keys, struct topology_core *cores, int32_t count,
                        struct topology *out)
{
    out->core_count = 0;
    out->node_count = 0;
    for (int32_t first = 0; first < count; first++) {
        if (cores[first].node >= 0) continue;
        for (int32_t i = first; i < count; i++) {
            if (keys[i] != keys[first]) continue;
            cores[i].node = out->node_count;
            out->cores[out->core_count++] = cores[i];
        }
        out->node_count++;
    }
    SL_ASSERT(out->core_count == count);
}

/* Finds the cores with an allowed hardware thread; false when there is none. */
static bool gather_cores(hwloc_topology_t machine, hwloc_const_bitmap_t allowed,
                         struct topology *out)
{
    int keys[TOPOLOGY_CORES_MAX];
    struct topology_core cores[TOPOLOGY_CORES_MAX];
    int32_t count = 0;
    bool has_cores = hwloc_get_nbobjs_by_type(machine, HWLOC_OBJ_CORE) > 0;
    hwloc_obj_type_t type = has_cores ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU;
    hwloc_bitmap_t usable = hwloc_bitmap_alloc();
    if (!usable) return false;
    hwloc_obj_t core = hwloc_get_next_obj_by_type(machine, type, NULL);
    for (; core && count < TOPOLOGY_CORES_MAX;
         core = hwloc_get_next_obj_by_type(machine, type, core)) {
        if (hwloc_bitmap_and(usable, core->cpuset, allowed) != 0) break;
        int cpu = hwloc_bitmap_first(usable);
        if (cpu < 0) continue;
        /* The first of the memories nearest to the core: two kinds of memory beside the same cores
         * make one node. -1 where hwloc knows of none. */
        keys[count] = hwloc_bitmap_first(core->nodeset);
        cores[count++] = (struct topology_core){.cpu = cpu, .node = -1};
    }
    hwloc_bitmap_free(usable);
    group_cores(keys, cores, count, out);
    return count > 0;
}

bool topology_hwloc_look(const char *description, const char *allowed, struct topology *out)
{
    hwloc_topology_t machine;
    hwloc_bitmap_t cpus = NULL;
    bool found = false;
    if (hwloc_topology_init(&machine) != 0) return false;
    if (description && hwloc_topology_set_synthetic(machine, description) != 0) goto out;
    if (hwloc_topology_load(machine) != 0) goto out;
    cpus = hwloc_bitmap_dup(hwloc_topology_get_allowed_cpuset(machine));
    if (!cpus) goto out;
    if (description) {
        if (allowed && hwloc_bitmap_list_sscanf(cpus, allowed) != 0) goto out;
    } else if (hwloc_get_cpubind(machine, cpus, HWLOC_CPUBIND_THREAD) != 0) {
        goto out;
    }
    found = gather_cores(machine, cpus, out);
out:
    hwloc_bitmap_free(cpus);
    hwloc_topology_destroy(machine);
    return found;
}

/* Interleaves over the nodes near the CPUs allowed; false when hwloc or the system will not. */
static bool interleave(hwloc_topology_t machine, void *memory, size_t bytes)
{
    hwloc_const_bitmap_t allowed = hwloc_topology_get_allowed_cpuset(machine);
    hwloc_bitmap_t nodes = hwloc_bitmap_alloc();
    if (!nodes) return false;
    hwloc_cpuset_to_nodeset(machine, allowed, nodes);
    int refused = hwloc_set_area_membind(machine, memory, bytes, nodes, HWLOC_MEMBIND_INTERLEAVE,
                                         HWLOC_MEMBIND_BYNODESET);
    hwloc_bitmap_free(nodes);
    return refused == 0;
}

bool topology_hwloc_interleave(void *memory, size_t bytes)
{
    hwloc_topology_t machine;
    if (hwloc_topology_init(&machine) != 0) return false;
    bool placed = hwloc_topology_load(machine) == 0 && interleave(machine, memory, bytes);
    hwloc_topology_destroy(machine);
    return placed;
}

/* The nodes nearest to a device, and the machine that they are of; NULL when the device is not
 * found, or as near to all nodes. */
static hwloc_topology_t open_near(const char *device, hwloc_bitmap_t nodes)
{
    hwloc_topology_t machine;
    if (!nodes || hwloc_topology_init(&machine) != 0) return NULL;
    if (hwloc_topology_set_io_types_filter(machine, HWLOC_TYPE_FILTER_KEEP_IMPORTANT) == 0 &&
        hwloc_topology_load(machine) == 0) {
        hwloc_const_bitmap_t all = hwloc_topology_get_allowed_nodeset(machine);
        hwloc_obj_t found = hwloc_get_pcidev_by_busidstring(machine, device);
        hwloc_obj_t place = found ? hwloc_get_non_io_ancestor_obj(machine, found) : NULL;
        if (place && place->nodeset && hwloc_bitmap_and(nodes, place->nodeset, all) == 0 &&
            !hwloc_bitmap_iszero(nodes) && !hwloc_bitmap_isequal(nodes, all))
            return machine;
    }
    hwloc_topology_destroy(machine);
    return NULL;
}

bool topology_hwloc_has_near(const char *device)
{
    hwloc_bitmap_t nodes = hwloc_bitmap_alloc();
    hwloc_topology_t machine = open_near(device, nodes);
    if (machine) hwloc_topology_destroy(machine);
    hwloc_bitmap_free(nodes);
    return machine != NULL;
}

bool topology_hwloc_bind(void *memory, size_t bytes, const char *device, char *list,
                         size_t list_bytes)
{
    hwloc_bitmap_t nodes = hwloc_bitmap_alloc();
    hwloc_topology_t machine = open_near(device, nodes);
    bool bound =
        machine && hwloc_set_area_membind(machine, memory, bytes, nodes, HWLOC_MEMBIND_BIND,
                                          HWLOC_MEMBIND_BYNODESET) == 0;
    if (bound) hwloc_bitmap_list_snprintf(list, list_bytes, nodes);
    if (machine) hwloc_topology_destroy(machine);
    hwloc_bitmap_free(nodes);
    return bound;
}
