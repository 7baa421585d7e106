/* labels: unit */
/* Recording, counting and measuring from outside: run --trace, trace, run --explain, --prefetch and
 * bench host. */
#include "tests/support.h"
#include "tests/support_program.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct fixture {
    char *directory, *model, *trace;
};

#define RUN(fixture, ...)                                                                          \
    program_run("SLUICE_PROGRAM", (fixture)->directory, "", 0,                                     \
                (const char *const[]){__VA_ARGS__, NULL})

static void check_failure(struct program_outcome outcome, int exit_code, const char *message)
{
    program_check_exit(&outcome, exit_code);
    assert_string_equal(outcome.out, "");
    if (strncmp(outcome.err, "sluice: ", 8) != 0 || !strstr(outcome.err, message))
        fail_msg("expected \"sluice: ... %s ...\", found \"%s\"", message, outcome.err);
    program_outcome_deinit(&outcome);
}

static json_t *parse_output(const struct program_outcome *outcome)
{
    json_error_t error;
    json_t *value = json_loadb(outcome->out, outcome->out_bytes, JSON_ALLOW_NUL, &error);
    if (!value) fail_msg("%s in \"%s\"", error.text, outcome->out);
    return value;
}

static void a_recorded_run_answers_the_same_and_its_trace_is_counted(void **state)
{
    const struct fixture *f = *state;
    struct program_outcome plain =
        RUN(f, "run", "-m", f->model, "--ids", "5,6,7", "-n", "12", "--seed", "2", "--ram", "2M");
    struct program_outcome traced = RUN(f, "run", "-m", f->model, "--ids", "5,6,7", "-n", "12",
                                        "--seed", "2", "--ram", "2M", "--trace", f->trace);
    program_check_exit(&plain, 0);
    program_check_exit(&traced, 0);
    assert_string_equal(plain.out, traced.out);
    struct program_outcome text = RUN(f, "trace", f->trace);
    struct program_outcome json = RUN(f, "trace", f->trace, "--json");
    program_check_exit(&text, 0);
    program_check_exit(&json, 0);
    assert_non_null(strstr(text.out, "Gini coefficient"));
    assert_non_null(strstr(text.out, "published"));
    json_t *report = parse_output(&json);
    json_int_t tokens = json_integer_value(json_object_get(report, "tokens"));
    json_int_t passes = json_integer_value(json_object_get(report, "passes"));
    assert_in_range(tokens, 3, 14);           /* the last token is drawn, not computed */
    assert_int_equal(passes, tokens - 3 + 1); /* the prompt in one pass, then one by one */
    json_decref(report);
    program_outcome_deinit(&plain), program_outcome_deinit(&traced);
    program_outcome_deinit(&text), program_outcome_deinit(&json);
}

static void every_kind_of_prefetch_answers_the_same(void **state)
{
    const struct fixture *f = *state;
    static const char *const kinds[] = {"auto", "off", "hash"};
    char *first = NULL;
    for (size_t i = 0; i < 3; i++) {
        struct program_outcome o =
            RUN(f, "run", "-m", f->model, "--ids", "9,8", "-n", "16", "--seed", "4", "--ram", "2M",
                "--prefetch", kinds[i], "--prefetch-depth", i ? "2" : "1", "--stats");
        program_check_exit(&o, 0);
        assert_non_null(strstr(o.err, "read ahead by the hash table"));
        if (!first)
            first = strdup(o.out);
        else
            assert_string_equal(first, o.out);
        program_outcome_deinit(&o);
    }
    free(first);
    check_failure(RUN(f, "run", "-m", f->model, "--ids", "1", "--prefetch", "all"), 2,
                  "expected auto, off or hash");
    check_failure(RUN(f, "run", "-m", f->model, "--ids", "1", "--trace-guesses"), 2,
                  "--trace-guesses needs --trace FILE");
}

static void explain_says_where_each_expert_came_from(void **state)
{
    const struct fixture *f = *state;
    struct program_outcome o = RUN(f, "run", "-m", f->model, "--ids", "5", "-n", "2", "--seed", "2",
                                   "--ram", "2M", "--explain");
    program_check_exit(&o, 0);
    assert_non_null(strstr(o.err, "layer  0 expert "));
    assert_non_null(strstr(o.err, " on the cpu; ready after "));
    program_outcome_deinit(&o);
}

static void a_file_that_is_no_whole_trace_is_refused_by_name(void **state)
{
    const struct fixture *f = *state;
    size_t bytes = 0;
    char *data = test_read_file(f->trace, &bytes);
    char *broken = test_path(f->directory, "broken.trace");
    data[bytes / 2] = (char)(data[bytes / 2] ^ 4);
    test_write_file(broken, data, bytes);
    check_failure(RUN(f, "trace", broken), 1, "broken.trace: offset ");
    data[bytes / 2] = (char)(data[bytes / 2] ^ 4);
    test_write_file(broken, data, bytes - 7);
    check_failure(RUN(f, "trace", broken), 1, "broken.trace ends early");
    check_failure(RUN(f, "trace", "/nowhere/t"), 1, "/nowhere/t");
    check_failure(RUN(f, "trace"), 2, "give the FILE");
    check_failure(RUN(f, "run", "-m", f->model, "--ids", "1", "-n", "1", "--trace", "/nowhere/t"),
                  1, "cannot create the trace /nowhere/t");
    free(data), free(broken);
}

static void bench_host_measures_and_keeps_the_figures(void **state)
{
    const struct fixture *f = *state;
    char *profile = test_path(f->directory, "cache/machine");
    struct program_outcome o = RUN(f, "bench", "host", "-m", f->model, "--seconds", "0.01",
                                   "--profile", profile, "--json");
    program_check_exit(&o, 0);
    json_t *report = parse_output(&o);
    json_t *cpu = json_object_get(report, "cpu_lane"), *disk = json_object_get(report, "disk_lane");
    assert_true(json_number_value(json_object_get(cpu, "bytes_per_s")) > 0);
    assert_true(json_number_value(json_object_get(disk, "bytes_per_s")) > 0);
    assert_int_equal(json_array_size(json_object_get(report, "disk_bytes_per_s")), 7);
    assert_int_equal(access(profile, R_OK), 0);
    assert_true(json_is_true(json_object_get(report, "link_assumed")));
    json_decref(report);
    program_outcome_deinit(&o);

    char *packed = test_path(f->directory, "elsewhere.sluice");
    struct program_outcome pack = RUN(f, "pack", "-m", f->model, "-o", packed, "--quiet");
    program_check_exit(&pack, 0);
    program_outcome_deinit(&pack);
    o = RUN(f, "bench", "host", "-m", f->model, "--experts", packed, "--sim-device", "8M",
            "--sim-link", "500M", "--seconds", "0.01", "-o", profile, "--json");
    program_check_exit(&o, 0);
    report = parse_output(&o);
    assert_string_equal(json_string_value(json_object_get(report, "file")), packed);
    assert_true(json_is_false(json_object_get(report, "link_assumed")));
    double up =
        json_number_value(json_object_get(json_object_get(report, "up_lane"), "bytes_per_s"));
    assert_true(up > 0 && up <= 500.0 * 1024 * 1024);
    assert_int_equal(json_object_size(json_object_get(report, "together")), 7);
    json_decref(report);
    program_outcome_deinit(&o);
    check_failure(RUN(f, "bench", "host", "-m", f->model, "--experts", "/nowhere/x"), 1,
                  "/nowhere/x");
    free(packed);
    check_failure(RUN(f, "bench", "rum"), 2, "expected host, found \"rum\"");
    check_failure(RUN(f, "bench", "host", "-m", "/nowhere"), 1, "/nowhere");
    check_failure(RUN(f, "bench", "host", "--file", "/dev/null", "--seconds", "0.01", "-o", "-"), 1,
                  "/dev/null");
    free(profile);
}

static int make_fixture(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    assert_non_null(fixture);
    *state = fixture;
    fixture->directory = test_make_directory("cli-trace");
    fixture->model = program_make_model(fixture->directory);
    fixture->trace = test_path(fixture->directory, "run.trace");
    struct program_outcome run = RUN(fixture, "run", "-m", fixture->model, "--ids", "1,2", "-n",
                                     "6", "--seed", "1", "--trace", fixture->trace);
    program_check_exit(&run, 0);
    program_outcome_deinit(&run);
    return 0;
}

static int remove_fixture(void **state)
{
    struct fixture *fixture = *state;
    test_remove_tree(fixture->directory);
    free(fixture->directory), free(fixture->model), free(fixture->trace);
    free(fixture);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_recorded_run_answers_the_same_and_its_trace_is_counted),
        cmocka_unit_test(every_kind_of_prefetch_answers_the_same),
        cmocka_unit_test(explain_says_where_each_expert_came_from),
        cmocka_unit_test(a_file_that_is_no_whole_trace_is_refused_by_name),
        cmocka_unit_test(bench_host_measures_and_keeps_the_figures),
    };
    return cmocka_run_group_tests(tests, make_fixture, remove_fixture);
}
