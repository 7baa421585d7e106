/* Physical cores and NUMA nodes; see the header. */
#include "offload/topology.h"

#include "offload/cgroup.h"
#include "offload/topology_hwloc.h"

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

/* What hwloc finds of this machine, or of the one described. */
static bool look(const char *description, const char *allowed, struct topology *out)
{
    out->known = topology_hwloc_look(description, allowed, out);
    if (out->known) describe(out);
    return out->known;
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
    struct topology topology;
    if (!device || !*device || is_one_node()) return false;
    topology_detect(&topology);
    return topology.known && topology.node_count > 1 && topology_hwloc_has_near(device);
}

void topology_place_memory(void *memory, size_t bytes, const struct topology_placement *placement,
                           char *text, size_t text_bytes)
{
    struct topology topology;
    char list[32];
    bool near = placement && placement->spread == TOPOLOGY_NEAR && *placement->device;
    text[0] = 0;
    if (is_one_node()) return;
    topology_detect(&topology);
    if (!topology.known || topology.node_count < 2) return;
    if (near && topology_hwloc_bind(memory, bytes, placement->device, list, sizeof list))
        snprintf(text, text_bytes, "near the device, on node %s", list);
    else if (topology_hwloc_interleave(memory, bytes))
        snprintf(text, text_bytes, "on %d nodes in turn", (int)topology.node_count);
    else
        snprintf(text, text_bytes, "on whichever of %d nodes", (int)topology.node_count);
    size_t length = strlen(text);
    if (placement && placement->why[0])
        snprintf(text + length, text_bytes - length, " (%s)", placement->why);
}
