/* labels: unit fault */
/* The machine's profile: it reads as it was written, and neither damage nor another machine's
 * figures pass. */
#include "offload/calibration.h"
#include "tests/support.h"

#include <string.h>
#include <unistd.h>

#define NOW_S 1800000000

static struct calibration make_calibration(void)
{
    struct calibration c = {.measured_s = NOW_S - 1000, .memory_bytes_per_second = 1.25e10};
    memset(&c.machine, 0, sizeof c.machine);
    strcpy(c.machine.cpu, "Some Processor 7, revision B");
    strcpy(c.machine.kernels, "avx2");
    strcpy(c.machine.disk, "A Drive of 123456 sectors");
    strcpy(c.machine.device, "none");
    c.machine.cores = 16, c.machine.nodes = 2, c.machine.threads = 16;
    c.machine.memory_bytes = 128ull << 30;
    for (int i = 0; i < CALIBRATION_COUNTS; i++)
        c.expert_ns[i] = 1e5 * (i + 1) / 3;
    c.rates.expert_bytes = 13369344;
    c.rates.lanes[RATES_CPU] = (struct rate){1.5e11, 1.2e11, 0, 4321.125, 900};
    c.rates.lanes[RATES_DISK] = (struct rate){7e9, 6.5e9, 120000, 0, 0};
    for (int i = 0; i < RATES_DISK_DEPTHS; i++)
        c.rates.disk_bytes_per_second[i] = 1e9 / 3 * (i + 1);
    for (int i = 0; i < CALIBRATION_LINK_DEPTHS; i++) {
        c.up_bytes_per_second[i] = 1e10 / 3 * (i + 1);
        c.down_bytes_per_second[i] = 1e10 / 7 * (i + 1);
    }
    for (int set = 0; set < CALIBRATION_SETS; set++)
        for (int lane = 0; lane < RATES_LANES; lane++)
            c.together[set][lane] = 1e9 / (3 + set) * lane;
    c.spread = TOPOLOGY_NEAR;
    c.in_turn = (struct calibration_placed){1e11 / 3, 5e10 / 3};
    c.near = (struct calibration_placed){1e11 / 7, 5e10 / 7};
    return c;
}

static void what_was_written_reads_the_same(void **state)
{
    struct calibration c = make_calibration(), found;
    struct sl_error error;
    char *directory = test_make_directory("calibration");
    char *path = test_path(directory, "a/b/machine"); /* folders are made */
    (void)state;
    if (calibration_save(&c, path, &error) != SL_OK) fail_msg("%s", error.message);
    if (calibration_load(path, &found, &error) != SL_OK) fail_msg("%s", error.message);
    assert_memory_equal(&c.machine, &found.machine, sizeof c.machine);
    assert_int_equal(c.measured_s, found.measured_s);
    assert_memory_equal(&c.rates, &found.rates, sizeof c.rates);
    assert_memory_equal(c.expert_ns, found.expert_ns, sizeof c.expert_ns);
    assert_true(c.memory_bytes_per_second == found.memory_bytes_per_second);
    assert_memory_equal(c.up_bytes_per_second, found.up_bytes_per_second,
                        sizeof c.up_bytes_per_second);
    assert_memory_equal(c.down_bytes_per_second, found.down_bytes_per_second,
                        sizeof c.down_bytes_per_second);
    assert_memory_equal(c.together, found.together, sizeof c.together);
    assert_int_equal(c.spread, found.spread);
    assert_memory_equal(&c.in_turn, &found.in_turn, sizeof c.in_turn);
    assert_memory_equal(&c.near, &found.near, sizeof c.near);
    test_remove_tree(directory);
    free(path), free(directory);
}

static void every_changed_byte_and_every_cut_is_refused_by_name(void **state)
{
    struct calibration c = make_calibration(), found;
    struct sl_error error;
    char text[CALIBRATION_FILE_BYTES_MAX];
    size_t bytes = calibration_format(&c, text);
    (void)state;
    assert_int_equal(calibration_parse(text, bytes, "the.file", &found, &error), SL_OK);
    for (size_t at = 0; at < bytes; at++) {
        text[at] = (char)(text[at] ^ 1);
        if (calibration_parse(text, bytes, "the.file", &found, &error) == SL_OK)
            fail_msg("byte %zu changed and was not noticed", at);
        assert_non_null(strstr(error.message, "the.file"));
        text[at] = (char)(text[at] ^ 1);
        assert_int_not_equal(calibration_parse(text, at, "the.file", &found, &error), SL_OK);
    }
    text[bytes] = '\n';
    assert_int_equal(calibration_parse(text, bytes + 1, "the.file", &found, &error), SL_ERR_FORMAT);
    memcpy(text, "sluice-machine 9", 16);
    assert_int_equal(calibration_parse(text, bytes, "the.file", &found, &error),
                     SL_ERR_UNSUPPORTED);
    assert_non_null(strstr(error.message, "version 9"));
}

/* The check fails and says so with these words. */
static void check_refused(const struct calibration *c, const struct calibration_machine *here,
                          uint64_t expert_bytes, int64_t now_s, const char *words)
{
    struct sl_error error;
    assert_int_equal(calibration_check(c, here, expert_bytes, now_s, "the.file", &error),
                     SL_ERR_UNSUPPORTED);
    assert_non_null(strstr(error.message, "the.file"));
    if (!strstr(error.message, words)) fail_msg("\"%s\" not in \"%s\"", words, error.message);
}

static void figures_of_another_machine_or_time_are_refused_with_the_reason(void **state)
{
    struct calibration c = make_calibration();
    struct calibration_machine here = c.machine;
    struct sl_error error;
    (void)state;
    assert_int_equal(calibration_check(&c, &here, 13369344, NOW_S, "the.file", &error), SL_OK);
    here.memory_bytes -= 1ull << 30; /* kept by the kernel */
    assert_int_equal(calibration_check(&c, &here, 13369344, NOW_S, "the.file", &error), SL_OK);
    here.memory_bytes = 64ull << 30;
    check_refused(&c, &here, 13369344, NOW_S, "size of memory");
    here = c.machine, strcpy(here.cpu, "Another");
    check_refused(&c, &here, 13369344, NOW_S, "another processor (Some Processor 7");
    here = c.machine, strcpy(here.disk, "Another");
    check_refused(&c, &here, 13369344, NOW_S, "disk");
    here = c.machine, strcpy(here.kernels, "avx512");
    check_refused(&c, &here, 13369344, NOW_S, "instruction set");
    /* What was measured without the device, or with one that is not used now, holds for the rest.
     */
    here = c.machine, strcpy(here.device, "A GPU");
    assert_int_equal(calibration_check(&c, &here, 13369344, NOW_S, "the.file", &error), SL_OK);
    strcpy(c.machine.device, "Another GPU");
    check_refused(&c, &here, 13369344, NOW_S, "device (Another GPU, here A GPU)");
    strcpy(here.device, "none");
    assert_int_equal(calibration_check(&c, &here, 13369344, NOW_S, "the.file", &error), SL_OK);
    strcpy(c.machine.device, "none");
    here = c.machine, here.cores = 8;
    check_refused(&c, &here, 13369344, NOW_S, "8 on 2 nodes");
    here = c.machine, here.threads = 8;
    check_refused(&c, &here, 13369344, NOW_S, "threads");
    check_refused(&c, &c.machine, 4096, NOW_S, "expert (13369344 bytes, here 4096 bytes)");
    check_refused(&c, &c.machine, 13369344, NOW_S + CALIBRATION_AGE_MAX_S, "stale");
    check_refused(&c, &c.machine, 13369344, NOW_S - 1000000, "stale");
}

static void this_machine_is_like_itself(void **state)
{
    struct calibration c = make_calibration();
    struct calibration_machine again;
    struct sl_error error;
    (void)state;
    memset(&c.machine, 0, sizeof c.machine);
    calibration_machine_here("/", "A GPU", "portable", 2, &c.machine);
    calibration_machine_here("/", "A GPU", "portable", 2, &again);
    assert_string_not_equal(c.machine.cpu, "");
    assert_string_not_equal(c.machine.disk, "none");
    assert_true(c.machine.cores > 0 && c.machine.memory_bytes > 0);
    assert_int_equal(calibration_check(&c, &again, 13369344, NOW_S, "f", &error), SL_OK);
    /* And its profile can be read back. */
    char text[CALIBRATION_FILE_BYTES_MAX];
    struct calibration found;
    size_t bytes = calibration_format(&c, text);
    if (calibration_parse(text, bytes, "f", &found, &error) != SL_OK) fail_msg("%s", error.message);
    assert_memory_equal(&found.machine, &c.machine, sizeof c.machine);
}

static void a_missing_file_and_a_place_that_cannot_be_written_are_named(void **state)
{
    struct calibration c = make_calibration(), found;
    struct sl_error error;
    (void)state;
    assert_int_equal(calibration_load("/nowhere/machine", &found, &error), SL_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "/nowhere/machine"));
    assert_int_equal(calibration_save(&c, "/proc/nowhere/machine", &error), SL_ERR_IO);
    assert_non_null(strstr(error.message, "/proc/nowhere/machine"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_written_reads_the_same),
        cmocka_unit_test(every_changed_byte_and_every_cut_is_refused_by_name),
        cmocka_unit_test(figures_of_another_machine_or_time_are_refused_with_the_reason),
        cmocka_unit_test(this_machine_is_like_itself),
        cmocka_unit_test(a_missing_file_and_a_place_that_cannot_be_written_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
