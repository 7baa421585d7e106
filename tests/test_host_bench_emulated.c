/* labels: gpu emulated
 *
 * `bench host` on the GPU's own copy lanes, on the emulated runtime: they are measured and kept,
 * and an engine decides by them. The figures are the emulator's and say nothing of hardware. */
#include "kernels/gpu.h"
#include "offload/calibration.h"
#include "tests/cuda_emulator/emulator.h"
#include "tests/support.h"
#include "tests/support_engine.h"
#include "tests/support_golden.h"

#include <string.h>

static void the_lanes_of_the_gpu_are_measured_and_used(void **state)
{
    char *model = golden_directory("tiny-a"), *folder = test_make_directory("host-bench-gpu");
    char *path = test_path(folder, "machine"), *report;
    struct sl_host_options measure = {.model_dir = model,
                                      .profile = path,
                                      .seconds = 0.001,
                                      .threads = 1,
                                      .device = SL_DEVICE_GPU};
    struct calibration found;
    struct sl_error error;
    struct gpu *gpu;
    char name[sizeof gpu->name];
    (void)state;
    if (gpu_open(&gpu, &error) != SL_OK) fail_msg("%s", error.message);
    memcpy(name, gpu->name, sizeof name);
    gpu->gpu_ops->destroy(gpu);
    if (sl_bench_host(&measure, false, &report, &error) != SL_OK) fail_msg("%s", error.message);
    assert_int_equal(calibration_load(path, &found, &error), SL_OK);
    assert_string_equal(found.machine.device, name);
    assert_non_null(strstr(report, name));
    assert_non_null(strstr(report, "up   GB/s"));
    free(report);
    for (int i = 0; i < CALIBRATION_LINK_DEPTHS; i++)
        assert_true(found.up_bytes_per_second[i] > 0 && found.down_bytes_per_second[i] > 0);
    assert_true(found.together[CALIBRATION_SETS - 1][RATES_DOWN] > 0);
    assert_int_equal(cuda_emulator_memory_used(), 0);
    assert_int_equal(cuda_emulator_registered(), 0);

    struct sl_engine_options options = engine_test_options(model, 4u << 20);
    options.threads = 1;
    options.device = SL_DEVICE_GPU;
    options.machine_profile = path;
    sl_engine *engine = engine_test_open(&options, NULL);
    const struct rate *lanes = expert_store_rates(engine->store)->profile.lanes;
    assert_true(lanes[RATES_UP].bytes_per_second == found.rates.lanes[RATES_UP].bytes_per_second);
    assert_true(lanes[RATES_DOWN].bytes_per_second ==
                found.rates.lanes[RATES_DOWN].bytes_per_second);
    assert_null(sl_engine_notice(engine, 0));
    sl_engine_close(engine);
    test_remove_tree(folder);
    free(model), free(folder), free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_lanes_of_the_gpu_are_measured_and_used),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
