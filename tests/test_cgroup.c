/* labels: unit */
/* Limits of control groups, from made-up trees of both versions of the interface. */
#include "offload/cgroup.h"
#include "tests/support.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct tree {
    char *directory, *self;
};

static struct tree make_tree(const char *self)
{
    struct tree tree = {.directory = test_make_directory("cgroup")};
    tree.self = test_path(tree.directory, "self");
    test_write_file(tree.self, self, strlen(self));
    return tree;
}

static void remove_tree(struct tree *tree)
{
    test_remove_tree(tree->directory);
    free(tree->directory), free(tree->self);
}

static void put(const struct tree *tree, const char *name, const char *text)
{
    char *path = test_path(tree->directory, name);
    for (char *slash = strchr(path + strlen(tree->directory) + 1, '/'); slash;
         slash = strchr(slash + 1, '/')) {
        *slash = 0;
        (void)mkdir(path, 0700); /* may be there */
        *slash = '/';
    }
    test_write_file(path, text, strlen(text));
    free(path);
}

static struct cgroup_limits limits_of(const struct tree *tree)
{
    struct cgroup_limits limits;
    cgroup_limits_read(tree->directory, tree->self, &limits);
    return limits;
}

static void no_groups_mean_no_limits(void **state)
{
    (void)state;
    struct cgroup_limits limits;
    cgroup_limits_read("/nowhere", "/nowhere/self", &limits);
    assert_int_equal(limits.memory_room_bytes, UINT64_MAX);
    assert_true(limits.processors == 0);
    struct tree tree = make_tree("0::/\nnonsense\n7:\n3:memory\n1:cpu:relative\n");
    limits = limits_of(&tree);
    assert_int_equal(limits.memory_room_bytes, UINT64_MAX);
    put(&tree, "memory.max", "max\n");
    put(&tree, "cpu.max", "max 100000\n");
    limits = limits_of(&tree);
    assert_int_equal(limits.memory_room_bytes, UINT64_MAX);
    assert_true(limits.processors == 0);
    remove_tree(&tree);
}

static void the_tightest_group_above_counts(void **state)
{
    (void)state;
    struct tree tree = make_tree("0::/slice/job\n");
    put(&tree, "slice/job/memory.max", "max\n");
    put(&tree, "slice/job/cpu.max", "400000 100000\n");
    put(&tree, "slice/memory.max", "1000000\n");
    put(&tree, "slice/memory.current", "700000\n");
    put(&tree, "slice/memory.stat", "anon 100\nfile 500000\ninactive_file 200000\n");
    put(&tree, "slice/cpu.max", "150000 100000\n");
    struct cgroup_limits limits = limits_of(&tree);
    assert_int_equal(limits.memory_room_bytes, 500000);
    assert_true(limits.processors == 1.5);
    put(&tree, "memory.max", "600000\n");
    put(&tree, "memory.current", "900000\n");
    assert_int_equal(limits_of(&tree).memory_room_bytes, 0);
    remove_tree(&tree);
}

static void the_first_version_has_a_tree_for_each_controller(void **state)
{
    (void)state;
    struct tree tree = make_tree("9:memory:/box\n5:cpu,cpuacct:/box\n3:cpuset:/\n0::/\n");
    put(&tree, "memory/box/memory.limit_in_bytes", "3000000\n");
    put(&tree, "memory/box/memory.usage_in_bytes", "1000000\n");
    put(&tree, "memory/box/memory.stat", "cache 5\ntotal_inactive_file 500000\n");
    put(&tree, "memory/memory.limit_in_bytes", "9223372036854771712\n");
    put(&tree, "cpu,cpuacct/box/cpu.cfs_quota_us", "250000\n");
    put(&tree, "cpu,cpuacct/box/cpu.cfs_period_us", "100000\n");
    put(&tree, "cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
    put(&tree, "cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    struct cgroup_limits limits = limits_of(&tree);
    assert_int_equal(limits.memory_room_bytes, 2500000);
    assert_true(limits.processors == 2.5);
    remove_tree(&tree);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_groups_mean_no_limits),
        cmocka_unit_test(the_tightest_group_above_counts),
        cmocka_unit_test(the_first_version_has_a_tree_for_each_controller),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
