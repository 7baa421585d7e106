/* labels: unit fault */
/* What `bench host` measures, on a simulated device: the link's lanes, alone and beside others,
 * what becomes of a lane that fails or memory that may not be pinned, and the choice between nodes.
 */
#include "offload/device_sim.h"
#include "runtime/host_bench.h"
#include "tests/support.h"

#include <string.h>

#define LINK 1e9 /* bytes/s */

struct fixture {
    struct host_bench bench;
    struct device *device;
    struct device_sim_options options;
    struct io_file file;
    char *directory, *path;
    struct calibration found;
    char note[HOST_BENCH_TEXT_BYTES];
};

static int open_fixture(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct stream_options threads = {.threads = 1};
    struct sl_error error;
    assert_non_null(f);
    *state = f;
    f->options = (struct device_sim_options){
        .memory_bytes = 64u << 20, .bytes_per_second = {LINK, LINK / 2}, .threads = true};
    f->directory = test_make_directory("host-bench");
    f->path = test_path(f->directory, "file");
    uint8_t *bytes = calloc(1, 1u << 20);
    assert_non_null(bytes);
    test_write_file(f->path, bytes, 1u << 20);
    free(bytes);
    assert_int_equal(io_file_open(f->path, false, &f->file, &error), SL_OK);
    f->bench = (struct host_bench){.ops = ops_cpu(),
                                   .layout = expert_layout_make(256, 128),
                                   .files = &f->file,
                                   .file_count = 1,
                                   .memory_bytes = 4u << 20,
                                   .seconds = 0.004,
                                   .seed = 3};
    assert_int_equal(f->bench.ops->stream_create(&threads, &f->bench.stream), SL_OK);
    return 0;
}

static int close_fixture(void **state)
{
    struct fixture *f = *state;
    f->bench.ops->stream_destroy(f->bench.stream);
    io_file_close(&f->file);
    test_remove_tree(f->directory);
    free(f->directory), free(f->path);
    free(f);
    return 0;
}

/* Measures with a fresh device, which must get back all that was pinned and taken. */
static enum sl_status run(struct fixture *f, struct sl_error *error)
{
    assert_int_equal(device_sim_create(&f->options, &f->device, error), SL_OK);
    f->bench.device = f->device;
    memset(&f->found, 0, sizeof f->found);
    enum sl_status status = host_bench_run(&f->bench, &f->found, f->note, error);
    assert_int_equal(device_sim_pinned_bytes(f->device), 0);
    f->device->ops->destroy(f->device);
    return status;
}

/* Something moved, and no faster than the link does. */
static void check_rate(double rate, double link)
{
    if (!(rate > 0 && rate <= link * 1.001)) fail_msg("%g bytes/s over a link of %g", rate, link);
}

static void the_link_is_measured_alone_and_beside_others(void **state)
{
    struct fixture *f = *state;
    struct sl_error error;
    if (run(f, &error) != SL_OK) fail_msg("%s", error.message);
    const struct calibration *c = &f->found;
    for (int i = 0; i < CALIBRATION_LINK_DEPTHS; i++) {
        check_rate(c->up_bytes_per_second[i], LINK);
        check_rate(c->down_bytes_per_second[i], LINK / 2);
    }
    check_rate(c->rates.lanes[RATES_UP].bytes_per_second, LINK);
    check_rate(c->rates.lanes[RATES_DOWN].shared_bytes_per_second, LINK / 2);
    for (int set = 0; set < CALIBRATION_SETS; set++)
        for (int lane = 0; lane < RATES_LANES; lane++) {
            bool ran = calibration_sets[set].lanes >> lane & 1;
            assert_int_equal(c->together[set][lane] > 0, ran);
        }
    assert_true(c->rates.lanes[RATES_UP].shared_bytes_per_second == c->together[1][RATES_UP]);
    assert_true(c->rates.lanes[RATES_DEVICE].bytes_per_second == 0);
    assert_string_equal(f->note, "");
    assert_true(c->near.up == 0 && c->spread == TOPOLOGY_IN_TURN);

    /* What decides takes it. */
    struct rates rates;
    struct rates_profile without;
    if (rates_init(&rates, &c->rates, &error) != SL_OK) fail_msg("%s", error.message);
    assert_true(rates_usable(&rates, RATES_UP) && rates_usable(&rates, RATES_DOWN));
    calibration_rates(c, false, &without);
    assert_int_equal(rates_init(&rates, &without, &error), SL_OK);
    assert_false(rates_usable(&rates, RATES_UP) || rates_usable(&rates, RATES_DOWN));
    assert_true(without.lanes[RATES_DISK].shared_bytes_per_second == c->together[5][RATES_DISK]);
}

static void without_a_device_its_lanes_are_left_out(void **state)
{
    struct fixture *f = *state;
    struct sl_error error;
    f->bench.device = NULL;
    memset(&f->found, 0, sizeof f->found);
    assert_int_equal(host_bench_run(&f->bench, &f->found, f->note, &error), SL_OK);
    assert_true(f->found.rates.lanes[RATES_UP].bytes_per_second == 0);
    assert_true(f->found.rates.lanes[RATES_DISK].shared_bytes_per_second > 0);
    for (int set = 0; set < CALIBRATION_SETS; set++)
        assert_true(f->found.together[set][RATES_UP] == 0);
}

static void a_lane_that_fails_and_memory_that_is_not_pinned_are_named(void **state)
{
    struct fixture *f = *state;
    struct sl_error error;
    size_t slot_bytes = f->bench.layout.slot_bytes;
    f->options.plan.dies_after[DEVICE_DOWN] = 3;
    assert_int_equal(run(f, &error), SL_ERR_IO);
    assert_non_null(strstr(error.message, "copies from simulated device"));
    assert_non_null(strstr(error.message, "failed after 3 copies"));
    f->options.plan.dies_after[DEVICE_DOWN] = 0;
    f->options.pin_bytes_max = slot_bytes; /* not even those in flight */
    if (run(f, &error) != SL_OK) fail_msg("%s", error.message);
    assert_non_null(strstr(f->note, "pins no more than"));
    f->options.pin_bytes_max = 40 * slot_bytes; /* some experts, and what comes down */
    if (run(f, &error) != SL_OK) fail_msg("%s", error.message);
    assert_string_equal(f->note, "");
    f->options.pin_bytes_max = 0;
    f->options.memory_bytes = slot_bytes;
    assert_int_equal(run(f, &error), SL_ERR_NO_MEMORY);
    f->options.memory_bytes = 64u << 20;
}

static void on_two_nodes_the_better_placement_is_kept(void **state)
{
    struct fixture *f = *state;
    struct sl_error error;
    assert_int_equal(setenv("HWLOC_XMLFILE", "tests/machines/two-nodes.xml", 1), 0);
    f->bench.pci = "0000:41:00.0";
    if (run(f, &error) != SL_OK) fail_msg("%s", error.message);
    const struct calibration_placed *turn = &f->found.in_turn, *near = &f->found.near;
    check_rate(turn->up, LINK);
    check_rate(near->up, LINK);
    assert_true(turn->cpu > 0 && near->cpu > 0);
    bool nearer = near->cpu + near->up > turn->cpu + turn->up;
    assert_int_equal(f->found.spread, nearer ? TOPOLOGY_NEAR : TOPOLOGY_IN_TURN);
    assert_true(f->found.rates.lanes[RATES_UP].bytes_per_second > 0);
    f->bench.pci = "0000:81:00.0"; /* as near to both nodes */
    if (run(f, &error) != SL_OK) fail_msg("%s", error.message);
    assert_true(f->found.near.up == 0);
    f->bench.pci = NULL;
    assert_int_equal(unsetenv("HWLOC_XMLFILE"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_link_is_measured_alone_and_beside_others),
        cmocka_unit_test(without_a_device_its_lanes_are_left_out),
        cmocka_unit_test(a_lane_that_fails_and_memory_that_is_not_pinned_are_named),
        cmocka_unit_test(on_two_nodes_the_better_placement_is_kept),
    };
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
