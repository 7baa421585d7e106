/* labels: bench-smoke */
/* The benchmarks still run: the program named by SLUICE_BENCH, at its smallest sizes, ends well and
 * prints the lines that bench/README.md promises. What they measure is not looked at. */
#include "runtime/sl.h"
#include "tests/support.h"
#include "tests/support_program.h"

#include <jansson.h>
#include <stdbool.h>
#include <string.h>

#define FILE_BYTES (16u << 20) /* four times the memory that `disk` takes at a depth of one */

static struct program_outcome run_bench(const char *directory, const char *const *words)
{
    return program_run("SLUICE_BENCH", directory, "", 0, words);
}

static double number_of(const json_t *line, const char *field)
{
    const json_t *value = json_object_get(line, field);
    if (!json_is_number(value)) fail_msg("no number \"%s\"", field);
    return json_number_value(value);
}

/* One line has the promised fields, and no others. */
static void check_line(const json_t *line, const char *bench)
{
    static const char *const texts[] = {"bench", "case", "unit", "machine", "commit"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (!json_is_string(json_object_get(line, texts[i]))) fail_msg("no text \"%s\"", texts[i]);
    assert_string_equal(json_string_value(json_object_get(line, "bench")), bench);
    assert_string_equal(json_string_value(json_object_get(line, "commit")), "abc123");
    assert_string_not_equal(json_string_value(json_object_get(line, "case")), "");
    assert_string_not_equal(json_string_value(json_object_get(line, "unit")), "");
    assert_true(json_is_integer(json_object_get(line, "n")));
    assert_true(number_of(line, "n") >= 1);
    assert_int_equal(number_of(line, "seed"), 5);
    /* Of what was lost, nothing is a finding as well. */
    bool lost = strstr(json_string_value(json_object_get(line, "case")), "-lost-") != NULL;
    assert_true(number_of(line, "value") > 0 || (lost && number_of(line, "value") == 0));
    assert_true(number_of(line, "value") == number_of(line, "p50"));
    assert_true(number_of(line, "p10") <= number_of(line, "p50"));
    assert_true(number_of(line, "p50") <= number_of(line, "p90"));
    bool bounded = json_object_get(line, "ceiling") != NULL;
    assert_true(bounded == (json_object_get(line, "ratio") != NULL));
    if (bounded) assert_true(number_of(line, "ceiling") > 0 && number_of(line, "ratio") > 0);
    assert_int_equal(json_object_size(line), bounded ? 13 : 11);
}

/* The run ended well and printed `lines` lines, each an object of this benchmark. */
static void check_lines(struct program_outcome outcome, const char *bench, int lines)
{
    program_check_exit(&outcome, 0);
    char *rest = outcome.out;
    int count = 0;
    for (char *end; (end = strchr(rest, '\n')); rest = end + 1) {
        json_error_t error;
        json_t *line = json_loadb(rest, (size_t)(end - rest), 0, &error);
        if (!line) fail_msg("line %d is no JSON: %s", count + 1, error.text);
        check_line(line, bench);
        json_decref(line);
        count++;
    }
    assert_string_equal(rest, "");
    assert_int_equal(count, lines);
    program_outcome_deinit(&outcome);
}

#define BENCH(directory, ...)                                                                      \
    run_bench(directory,                                                                           \
              (const char *const[]){__VA_ARGS__, "--seed", "5", "--commit", "abc123", NULL})

static void disk_reads_any_file_packed_and_unpacked(void **state)
{
    char *directory = test_make_directory("bench"), *path = test_path(directory, "file");
    char *data = calloc(1, FILE_BYTES);
    (void)state;
    assert_non_null(data);
    test_write_file(path, data, FILE_BYTES);
    check_lines(BENCH(directory, "disk", "--file", path, "--bytes", "8K", "--depth", "1",
                      "--rounds", "2", "--seconds", "0.01", "--packed"),
                "disk", 1);
    check_lines(BENCH(directory, "disk", "--file", path, "--bytes", "24K", "--depth", "1",
                      "--rounds", "2", "--seconds", "0.01", "--unpacked"),
                "disk", 1);
    char *other = test_path(directory, "other"), *both = NULL;
    assert_true(asprintf(&both, "%s,%s", path, other) > 0);
    test_write_file(other, data, FILE_BYTES);
    check_lines(BENCH(directory, "disk", "--file", path, "--parts", both, "--bytes", "8K",
                      "--depth", "1", "--rounds", "2", "--seconds", "0.01", "--packed"),
                "disk", 1);
    free(other), free(both);
    free(data);
    free(path);
    test_remove_tree(directory);
    free(directory);
}

static void generate_runs_a_small_model(void **state)
{
    char *directory = test_make_directory("bench"), *model = test_path(directory, "model");
    struct sl_error error = {0};
    (void)state;
    if (sl_synth("tiny", model, 0, 5, NULL, NULL, &error) != SL_OK) fail_msg("%s", error.message);
    check_lines(BENCH(directory, "generate", "--model", model, "--threads", "1", "--rounds", "1"),
                "generate", 2);
    free(model);
    test_remove_tree(directory);
    free(directory);
}

static void decisions_are_simulated_at_tiny_sizes(void **state)
{
    char *directory = test_make_directory("bench");
    (void)state;
    check_lines(BENCH(directory, "residency", "--tokens", "16"), "residency", 60);
    check_lines(BENCH(directory, "dispatch", "--tokens", "16"), "dispatch", 91);
    check_lines(BENCH(directory, "hosts", "--tokens", "16"), "hosts", 380);
    check_lines(BENCH(directory, "cost", "--tokens", "16", "--rounds", "1"), "cost", 4);
    check_lines(BENCH(directory, "prefill-stream", "--tokens", "16"), "prefill-stream", 38);
    test_remove_tree(directory);
    free(directory);
}

static void what_cannot_be_measured_is_an_error(void **state)
{
    static const struct {
        const char *words[6];
        int exit_code;
        const char *message;
    } cases[] = {
        {{"no-such-bench"}, 2, "no benchmark \"no-such-bench\""},
        {{"disk"}, 1, "--file names the file"},
        {{"disk", "--file", "no/such/file"}, 1, "no/such/file"},
        {{"disk", "--bytes", "many"}, 2, "many"},
        {{"generate"}, 2, "--model DIR"},
        {{"generate", "--model", "no/such/model"}, 1, "no/such/model"},
    };
    char *directory = test_make_directory("bench");
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct program_outcome outcome = run_bench(directory, cases[i].words);
        program_check_exit(&outcome, cases[i].exit_code);
        assert_string_equal(outcome.out, "");
        if (!strstr(outcome.err, cases[i].message))
            fail_msg("no \"%s\" in \"%s\"", cases[i].message, outcome.err);
        program_outcome_deinit(&outcome);
    }
    test_remove_tree(directory);
    free(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(disk_reads_any_file_packed_and_unpacked),
        cmocka_unit_test(generate_runs_a_small_model),
        cmocka_unit_test(decisions_are_simulated_at_tiny_sizes),
        cmocka_unit_test(what_cannot_be_measured_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
