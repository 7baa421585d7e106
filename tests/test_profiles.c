/* labels: unit
 *
 * The machine's profile as an engine takes it: rates of the device's lanes by which it decides, and
 * the nodes that its memory lies on, with why. */
#include "offload/expert_store.h"
#include "runtime/profiles.h"
#include "tests/gpu_sim.h"
#include "tests/support.h"
#include "tests/support_engine.h"
#include "tests/support_golden.h"

#include <string.h>
#include <time.h>

struct fixture {
    char *model, *folder, *path;
    struct calibration machine; /* as `bench host` would have found this one, with a GPU */
};

static int open_fixture(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    *state = f;
    f->model = golden_directory("tiny-a");
    f->folder = test_make_directory("profiles");
    f->path = test_path(f->folder, "machine");
    assert_int_equal(setenv("HWLOC_XMLFILE", "tests/machines/two-nodes.xml", 1), 0);
    struct sl_engine_options options = engine_test_options(f->model, 4u << 20);
    sl_engine *engine = engine_test_open(&options, NULL);
    struct calibration *c = &f->machine;
    calibration_machine_here(engine->source.files[0].path, "simulated GPU",
                             cpu_isa_name(engine->compute.isa), engine->compute.threads,
                             &c->machine);
    c->measured_s = (int64_t)time(NULL);
    c->rates.expert_bytes = engine->source.slot_bytes;
    sl_engine_close(engine);
    c->expert_ns[0] = (double)c->rates.expert_bytes; /* 1 GB/s */
    c->rates.lanes[RATES_UP] = (struct rate){3e9, 2e9, 0, 0, 7000};
    c->rates.lanes[RATES_DOWN] = (struct rate){4e9, 4e9, 0, 0, 0};
    c->rates.lanes[RATES_CPU] = (struct rate){2e9, 1e9, 0, 10, 900};
    c->together[1][RATES_UP] = 2e9;    /* beside the CPU */
    c->together[1][RATES_CPU] = 0.5e9; /* half of what it does alone */
    c->spread = TOPOLOGY_NEAR;
    c->in_turn = (struct calibration_placed){1e9, 2e9};
    c->near = (struct calibration_placed){1.5e9, 2e9};
    return 0;
}

static int close_fixture(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(unsetenv("HWLOC_XMLFILE"), 0);
    test_remove_tree(f->folder);
    free(f->model), free(f->folder), free(f->path);
    free(f);
    return 0;
}

/* An engine on the simulated GPU (`pci`: at this address; NULL: on the CPU) with the profile. */
static sl_engine *open_with(const struct fixture *f, bool gpu, const char *pci)
{
    struct sl_engine_options options = engine_test_options(f->model, 4u << 20);
    struct gpu_sim_options sim = {.memory_bytes = 1u << 30, .pci = pci};
    struct sl_error error;
    sl_engine *engine;
    if (calibration_save(&f->machine, f->path, &error) != SL_OK) fail_msg("%s", error.message);
    options.machine_profile = f->path;
    struct engine_overrides overrides = {.gpu = gpu ? gpu_sim_create(&sim) : NULL};
    if (engine_open_with(&options, &overrides, &engine, &error) != SL_OK)
        fail_msg("%s", error.message);
    return engine;
}

static void check_memory(sl_engine *engine, const char *words)
{
    const char *text = expert_store_describe_memory(engine->store);
    if (!strstr(text, words)) fail_msg("\"%s\" not in \"%s\"", words, text);
    sl_engine_close(engine);
}

static void lanes_of_the_device_are_decided_by_as_measured(void **state)
{
    struct fixture *f = *state;
    sl_engine *engine = open_with(f, true, NULL);
    const struct rates *rates = expert_store_rates(engine->store);
    const struct rate *lanes = rates->profile.lanes;
    assert_true(lanes[RATES_UP].bytes_per_second == 3e9);
    assert_true(lanes[RATES_UP].shared_bytes_per_second == 2e9);
    assert_true(lanes[RATES_UP].layer_ns == 7000);
    assert_true(lanes[RATES_DOWN].bytes_per_second == 4e9);
    assert_true(lanes[RATES_CPU].shared_bytes_per_second == 1e9);
    assert_true(lanes[RATES_DEVICE].bytes_per_second == RATES_DEVICE_BYTES_PER_SECOND);
    sl_engine_close(engine);
    /* The same machine without its device. */
    engine = open_with(f, false, NULL);
    lanes = expert_store_rates(engine->store)->profile.lanes;
    assert_true(lanes[RATES_UP].bytes_per_second == 0);
    assert_true(lanes[RATES_CPU].shared_bytes_per_second == 2e9);
    sl_engine_close(engine);
}

static void a_profile_without_the_device_is_used_and_that_is_said(void **state)
{
    struct fixture *f = *state;
    struct fixture bare = *f;
    bare.machine.rates.lanes[RATES_UP] = bare.machine.rates.lanes[RATES_DOWN] = (struct rate){0};
    strcpy(bare.machine.machine.device, "none");
    sl_engine *engine = open_with(&bare, true, "0000:41:00.0");
    const struct rate *lanes = expert_store_rates(engine->store)->profile.lanes;
    assert_true(lanes[RATES_UP].bytes_per_second == RATES_LINK_BYTES_PER_SECOND);
    assert_true(lanes[RATES_CPU].bytes_per_second == 2e9);
    const char *notice = sl_engine_notice(engine, 0);
    assert_non_null(notice);
    assert_non_null(strstr(notice, "was measured without this device (simulated GPU)"));
    sl_engine_close(engine);
}

static void memory_lies_where_it_was_measured_to_be_better(void **state)
{
    struct fixture *f = *state;
    check_memory(open_with(f, true, "0000:41:00.0"),
                 "near the device, on node 1 (CPU and link at once 3.5 GB/s near it, 3.0 in turn)");
    f->machine.spread = TOPOLOGY_IN_TURN;
    check_memory(open_with(f, true, "0000:41:00.0"),
                 "on 2 nodes in turn (CPU and link at once 3.5 GB/s near it, 3.0 in turn)");
    f->machine.spread = TOPOLOGY_NEAR;
    check_memory(open_with(f, true, "0000:81:00.0"), "on 2 nodes in turn");
    check_memory(open_with(f, false, NULL), "on 2 nodes in turn");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lanes_of_the_device_are_decided_by_as_measured),
        cmocka_unit_test(a_profile_without_the_device_is_used_and_that_is_said),
        cmocka_unit_test(memory_lies_where_it_was_measured_to_be_better),
    };
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
