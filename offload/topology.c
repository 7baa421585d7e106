/* Physical cores and NUMA nodes, by hwloc; see the header. */
#include "offload/topology.h"

#include "offload/cgroup.h"

#include <hwloc.h>
#include <math.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

static const char *plural(int32_t count)
{
    return count == 1 ? "" : "s";
}

static void describe(struct topology *topology)
{
    int32_t cores = topology->core_count, nodes = topology->node_count;
    SL_ASSERT(cores >= 1 && nodes >= 1 && nodes <= cores);
    topology->threads = cores;
    if (topology->known)
        snprintf(topology->text, sizeof topology->text, "%d core%s on %d node%s", cores,
                 plural(cores), nodes, plural(nodes));
    else
        snprintf(topology->text, sizeof topology->text, "%d CPU%s (cores and nodes unknown)", cores,
                 plural(cores));
}

/* ---- without hwloc ------------------------------------------------------------------------ */

void topology_from_affinity(struct topology *out)
{
    cpu_set_t cpus;
    out->known = false;
    out->core_count = 0;
    out->node_count = 1;
    bool have_cpus = sched_getaffinity(0, sizeof cpus, &cpus) == 0;
    for (int32_t cpu = 0; have_cpus && cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET((size_t)cpu, &cpus) && out->core_count < TOPOLOGY_CORES_MAX)
            out->cores[out->core_count++] = (struct topology_core){cpu, 0};
    /* More CPUs than a set of fixed size can name: their number is known, but not which. */
    long online = have_cpus ? 0 : sysconf(_SC_NPROCESSORS_ONLN);
    for (int32_t i = 0; i < online && i < TOPOLOGY_CORES_MAX; i++)
        out->cores[out->core_count++] = (struct topology_core){-1, 0};
    if (out->core_count == 0) out->cores[out->core_count++] = (struct topology_core){-1, 0};
    describe(out);
}

/* ---- with hwloc --------------------------------------------------------------------------- */

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

/* What hwloc finds: in `description` with the CPUs `allowed`, or here with this thread's. */
static bool look(const char *description, const char *allowed, struct topology *out)
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
    out->known = found;
    if (found) describe(out);
    return found;
}

/* Whether hwloc looks at a description that the user has given it instead of at the machine. */
static bool is_described_by_user(void)
{
    return getenv("HWLOC_SYNTHETIC") || getenv("HWLOC_XMLFILE");
}

/* Without the kernel's description of the processors, as in a bare chroot, hwloc would complain to
 * the user's terminal and know no more than the affinity does. */
static bool machine_is_described(void)
{
    return access("/sys/devices/system/cpu/cpu0/topology", F_OK) == 0 || is_described_by_user();
}

/* More threads than the quota lets run at once would be stopped in turn, and wait for each other.
 */
static void apply_quota(struct topology *topology)
{
    struct cgroup_limits limits;
    cgroup_limits_read(CGROUP_MOUNT, CGROUP_SELF, &limits);
    if (limits.processors == 0 || limits.processors >= topology->core_count) return;
    topology->threads = max_i32(1, (int32_t)ceil(limits.processors));
    size_t length = strlen(topology->text);
    snprintf(topology->text + length, sizeof topology->text - length, ", with time for %d by quota",
             topology->threads);
}

void topology_detect(struct topology *out)
{
    if (!machine_is_described() || !look(NULL, NULL, out)) topology_from_affinity(out);
    apply_quota(out);
}

bool topology_from_synthetic(const char *description, const char *allowed, struct topology *out)
{
    SL_ASSERT(description && out);
    return look(description, allowed, out);
}

void topology_place(const struct topology *topology, int32_t threads, int32_t *cpus, int32_t *nodes)
{
    SL_ASSERT(threads >= 1 && threads <= topology->core_count);
    int32_t node = 0, last = -1;
    for (int32_t i = 0; i < threads; i++) {
        const struct topology_core *core =
            &topology->cores[(int64_t)i * topology->core_count / threads];
        if (i > 0 && core->node != last) node++;
        last = core->node;
        cpus[i] = core->cpu;
        nodes[i] = node;
    }
}

/* ---- memory ------------------------------------------------------------------------------- */

/* This machine with its devices; NULL when hwloc cannot look at it. */
static hwloc_topology_t open_machine(void)
{
    hwloc_topology_t machine;
    if (!machine_is_described() || hwloc_topology_init(&machine) != 0) return NULL;
    if (hwloc_topology_set_io_types_filter(machine, HWLOC_TYPE_FILTER_KEEP_IMPORTANT) == 0 &&
        hwloc_topology_load(machine) == 0)
        return machine;
    hwloc_topology_destroy(machine);
    return NULL;
}

/* The nodes nearest to a device; false when it is not found, or as near to all of them. */
static bool find_near(hwloc_topology_t machine, const char *device, hwloc_bitmap_t nodes)
{
    hwloc_obj_t found = *device ? hwloc_get_pcidev_by_busidstring(machine, device) : NULL;
    hwloc_obj_t place = found ? hwloc_get_non_io_ancestor_obj(machine, found) : NULL;
    if (!place || !place->nodeset || hwloc_bitmap_copy(nodes, place->nodeset) != 0) return false;
    hwloc_bitmap_and(nodes, nodes, hwloc_topology_get_allowed_nodeset(machine));
    return !hwloc_bitmap_iszero(nodes) &&
           !hwloc_bitmap_isequal(nodes, hwloc_topology_get_allowed_nodeset(machine));
}

/* Whether the system has but one node with memory, which is cheaper to know than its topology. */
static bool is_one_node(void)
{
    char line[64] = "";
    if (is_described_by_user()) return false;
    FILE *file = fopen("/sys/devices/system/node/has_memory", "re");
    if (!file) return true;
    bool one = !fgets(line, sizeof line, file) || !strpbrk(line, ",-");
    fclose(file);
    return one;
}

bool topology_has_near(const char *device)
{
    bool found = false;
    if (!device || !*device || is_one_node()) return false;
    hwloc_topology_t machine = open_machine();
    hwloc_bitmap_t nodes = machine ? hwloc_bitmap_alloc() : NULL;
    if (nodes) found = find_near(machine, device, nodes);
    hwloc_bitmap_free(nodes);
    if (machine) hwloc_topology_destroy(machine);
    return found;
}

/* Binds to the nodes nearest to the device and says so; false when there are none. */
static bool place_near(hwloc_topology_t machine, void *memory, size_t bytes, const char *device,
                       hwloc_bitmap_t nodes, char *text, size_t text_bytes)
{
    char list[32];
    if (!find_near(machine, device, nodes)) return false;
    /* Not strictly: what does not fit there goes to the others. */
    if (hwloc_set_area_membind(machine, memory, bytes, nodes, HWLOC_MEMBIND_BIND,
                               HWLOC_MEMBIND_BYNODESET) != 0)
        return false;
    hwloc_bitmap_list_snprintf(list, sizeof list, nodes);
    snprintf(text, text_bytes, "near the device, on node %s", list);
    return true;
}

/* Interleaves over the nodes near the CPUs allowed and says whether hwloc and the system will. */
static void place_in_turn(hwloc_topology_t machine, void *memory, size_t bytes,
                          hwloc_bitmap_t nodes, char *text, size_t text_bytes)
{
    hwloc_cpuset_to_nodeset(machine, hwloc_topology_get_allowed_cpuset(machine), nodes);
    int count = hwloc_bitmap_weight(nodes);
    if (count < 2) return;
    bool placed = hwloc_set_area_membind(machine, memory, bytes, nodes, HWLOC_MEMBIND_INTERLEAVE,
                                         HWLOC_MEMBIND_BYNODESET) == 0;
    snprintf(text, text_bytes, placed ? "on %d nodes in turn" : "on whichever of %d nodes", count);
}

void topology_place_memory(void *memory, size_t bytes, const struct topology_placement *placement,
                           char *text, size_t text_bytes)
{
    text[0] = 0;
    if (is_one_node()) return;
    hwloc_topology_t machine = open_machine();
    hwloc_bitmap_t nodes = machine ? hwloc_bitmap_alloc() : NULL;
    if (nodes) {
        bool near = placement && placement->spread == TOPOLOGY_NEAR &&
                    place_near(machine, memory, bytes, placement->device, nodes, text, text_bytes);
        if (!near) place_in_turn(machine, memory, bytes, nodes, text, text_bytes);
        size_t length = strlen(text);
        if (length && placement && placement->why[0])
            snprintf(text + length, text_bytes - length, " (%s)", placement->why);
    }
    hwloc_bitmap_free(nodes);
    if (machine) hwloc_topology_destroy(machine);
}
