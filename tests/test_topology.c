/* labels: unit */
/* Cores and nodes as found on described machines and on this one. */
#include "offload/topology.h"
#include "tests/support.h"

#include <sched.h>
#include <string.h>

struct machine {
    const char *description, *allowed;
    const char *text;
    const char *cores; /* "cpu@node ..." in order */
};

static void cores_text(const struct topology *topology, char *out, size_t bytes)
{
    size_t at = 0;
    out[0] = 0;
    for (int32_t i = 0; i < topology->core_count && at < bytes; i++)
        at += (size_t)snprintf(out + at, bytes - at, "%s%d@%d", i ? " " : "",
                               topology->cores[i].cpu, topology->cores[i].node);
}

static void one_cpu_of_each_allowed_core_by_node(void **state)
{
    static const struct machine machines[] = {
        {"node:2 core:4 pu:2", NULL, "8 cores on 2 nodes", "0@0 2@0 4@0 6@0 8@1 10@1 12@1 14@1"},
        {"node:1 core:1 pu:1", NULL, "1 core on 1 node", "0@0"},
        {"core:3 pu:1", NULL, "3 cores on 1 node", "0@0 1@0 2@0"},
        /* Threads of a core numbered far apart, as most systems do. */
        {"core:2 pu:2(indexes=0,2,1,3)", NULL, "2 cores on 1 node", "0@0 1@0"},
        /* The first hardware thread of some cores is not ours, and some cores are not at all. */
        {"node:2 core:4 pu:2", "1,3-4,15", "4 cores on 2 nodes", "1@0 3@0 4@0 15@1"},
        /* A node without a core of ours is not counted. */
        {"node:4 core:2 pu:1", "2-3,6", "3 cores on 2 nodes", "2@0 3@0 6@1"},
        /* Numbers of CPUs that alternate between the nodes: those of a node come together. */
        {"node:2 core:2 pu:1(indexes=0,2,1,3)", NULL, "4 cores on 2 nodes", "0@0 2@0 1@1 3@1"},
        {"pack:2 node:2 core:1 pu:2", NULL, "4 cores on 4 nodes", "0@0 2@1 4@2 6@3"},
        /* Two kinds of memory beside the same cores are one node. */
        {"pack:2 [numa] [numa] core:2 pu:1", NULL, "4 cores on 2 nodes", "0@0 1@0 2@1 3@1"},
        {"pack:1 pu:4", NULL, "4 cores on 1 node", "0@0 1@0 2@0 3@0"},
    };
    (void)state;
    for (size_t i = 0; i < SL_COUNT_OF(machines); i++) {
        const struct machine *machine = &machines[i];
        struct topology topology;
        char cores[256];
        assert_true(topology_from_synthetic(machine->description, machine->allowed, &topology));
        assert_true(topology.known);
        cores_text(&topology, cores, sizeof cores);
        assert_string_equal(cores, machine->cores);
        assert_string_equal(topology.text, machine->text);
    }
}

static void what_cannot_be_read_or_leaves_no_core_is_refused(void **state)
{
    struct topology topology;
    (void)state;
    assert_false(topology_from_synthetic("nonsense", NULL, &topology));
    assert_false(topology_from_synthetic("core:2 pu:1", "2-3", &topology));
    assert_false(topology_from_synthetic("core:2 pu:1", "", &topology));
}

static void cores_beyond_the_limit_are_left_idle(void **state)
{
    struct topology topology;
    (void)state;
    assert_true(topology_from_synthetic("node:4 core:300 pu:1", NULL, &topology));
    assert_int_equal(topology.core_count, TOPOLOGY_CORES_MAX);
    assert_int_equal(topology.cores[TOPOLOGY_CORES_MAX - 1].cpu, TOPOLOGY_CORES_MAX - 1);
}

static void fewer_threads_than_cores_spread_over_the_nodes(void **state)
{
    static const struct {
        int32_t threads;
        const char *places;
    } cases[] = {
        {1, "0@0"},
        {2, "0@0 4@1"},
        {3, "0@0 2@1 5@2"},
        {4, "0@0 2@1 4@2 6@3"},
        {8, "0@0 1@0 2@1 3@1 4@2 5@2 6@3 7@3"},
    };
    struct topology topology;
    (void)state;
    assert_true(topology_from_synthetic("node:4 core:2 pu:1", NULL, &topology));
    for (size_t i = 0; i < SL_COUNT_OF(cases); i++) {
        struct topology placed = {.core_count = cases[i].threads};
        int32_t cpus[8], nodes[8];
        char places[128];
        topology_place(&topology, cases[i].threads, cpus, nodes);
        for (int32_t k = 0; k < cases[i].threads; k++)
            placed.cores[k] = (struct topology_core){cpus[k], nodes[k]};
        cores_text(&placed, places, sizeof places);
        assert_string_equal(places, cases[i].places);
    }
}

/* Memory placed under `placement` on the machine that HWLOC_XMLFILE describes: what was done. */
static void check_placed(const struct topology_placement *placement, const char *expected)
{
    char text[160];
    uint8_t *memory = aligned_alloc(SL_PAGE_BYTES, SL_PAGE_BYTES);
    assert_non_null(memory);
    topology_place_memory(memory, SL_PAGE_BYTES, placement, text, sizeof text);
    assert_string_equal(text, expected);
    free(memory);
}

static void memory_lies_near_a_device_or_in_turn(void **state)
{
    struct topology_placement near = {TOPOLOGY_NEAR, "0000:41:00.0", ""};
    struct topology_placement turn = {TOPOLOGY_IN_TURN, "0000:41:00.0", "9 GB/s, 8 near it"};
    (void)state;
    assert_int_equal(setenv("HWLOC_XMLFILE", "tests/machines/two-nodes.xml", 1), 0);
    assert_true(topology_has_near("0000:41:00.0"));
    assert_false(topology_has_near("0000:81:00.0")); /* as near to both nodes */
    assert_false(topology_has_near("0000:99:00.0"));
    assert_false(topology_has_near(""));
    assert_false(topology_has_near(NULL));
    check_placed(NULL, "on 2 nodes in turn");
    check_placed(&turn, "on 2 nodes in turn (9 GB/s, 8 near it)");
    check_placed(&near, "near the device, on node 1");
    strcpy(near.why, "9 GB/s, 8 in turn");
    check_placed(&near, "near the device, on node 1 (9 GB/s, 8 in turn)");
    strcpy(near.device, "0000:81:00.0"), near.why[0] = 0;
    check_placed(&near, "on 2 nodes in turn");
    assert_int_equal(unsetenv("HWLOC_XMLFILE"), 0);
}

static void check_this_machine(const struct topology *topology, const cpu_set_t *allowed)
{
    cpu_set_t seen;
    CPU_ZERO(&seen);
    assert_in_range(topology->core_count, 1, CPU_COUNT(allowed));
    assert_in_range(topology->node_count, 1, topology->core_count);
    for (int32_t i = 0; i < topology->core_count; i++) {
        size_t cpu = (size_t)topology->cores[i].cpu;
        assert_true(CPU_ISSET(cpu, allowed));
        assert_false(CPU_ISSET(cpu, &seen));
        CPU_SET(cpu, &seen);
        assert_in_range(topology->cores[i].node, 0, topology->node_count - 1);
    }
}

static void this_machine_gives_cpus_that_this_thread_may_use(void **state)
{
    cpu_set_t all, one;
    struct topology topology;
    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    topology_detect(&topology);
    check_this_machine(&topology, &all);
    topology_from_affinity(&topology);
    check_this_machine(&topology, &all);
    assert_false(topology.known);
    assert_int_equal(topology.core_count, CPU_COUNT(&all));
    assert_non_null(strstr(topology.text, "unknown"));

    int32_t last = topology.cores[topology.core_count - 1].cpu;
    CPU_ZERO(&one);
    CPU_SET((size_t)last, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    topology_detect(&topology);
    assert_int_equal(topology.core_count, 1);
    check_this_machine(&topology, &one);
    topology_from_affinity(&topology);
    check_this_machine(&topology, &one);
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_cpu_of_each_allowed_core_by_node),
        cmocka_unit_test(what_cannot_be_read_or_leaves_no_core_is_refused),
        cmocka_unit_test(cores_beyond_the_limit_are_left_idle),
        cmocka_unit_test(fewer_threads_than_cores_spread_over_the_nodes),
        cmocka_unit_test(memory_lies_near_a_device_or_in_turn),
        cmocka_unit_test(this_machine_gives_cpus_that_this_thread_may_use),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
