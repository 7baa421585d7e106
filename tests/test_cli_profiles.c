/* labels: unit */
/* What a run learns and the next one starts from: run --policy, --profile and --machine. */
#include "kernels/base.h"
#include "tests/support.h"
#include "tests/support_program.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct fixture {
    char *directory, *model;
};

#define PROGRAM(fixture, ...)                                                                      \
    program_run("SLUICE_PROGRAM", (fixture)->directory, "", 0,                                     \
                (const char *const[]){__VA_ARGS__, NULL})
/* An answer of twelve tokens with RAM for a part of the experts. */
#define RUN(fixture, ...)                                                                          \
    PROGRAM(fixture, "run", "-m", (fixture)->model, "--ids", "9,8,7", "-n", "12", "--seed", "4",   \
            "--ram", "1M", __VA_ARGS__)

/* The same answer as `expected`, and `note` (NULL: nothing) among the notes. */
static void check_answer(struct program_outcome outcome, const char *expected, const char *note)
{
    program_check_exit(&outcome, 0);
    assert_string_equal(outcome.out, expected);
    if (note && !strstr(outcome.err, note))
        fail_msg("expected a note \"%s\", found \"%s\"", note, outcome.err);
    if (!note && strstr(outcome.err, "sluice: note: ")) fail_msg("found \"%s\"", outcome.err);
    program_outcome_deinit(&outcome);
}

static void check_failure(struct program_outcome outcome, int exit_code, const char *message)
{
    program_check_exit(&outcome, exit_code);
    assert_string_equal(outcome.out, "");
    if (!strstr(outcome.err, message))
        fail_msg("expected \"%s\", found \"%s\"", message, outcome.err);
    program_outcome_deinit(&outcome);
}

static char *answer_text(const struct fixture *f)
{
    struct program_outcome plain = RUN(f, "--machine", "none");
    program_check_exit(&plain, 0);
    char *text = strdup(plain.out);
    assert_non_null(text);
    program_outcome_deinit(&plain);
    return text;
}

static void every_policy_answers_the_same(void **state)
{
    static const char *const policies[] = {"blend", "lru", "lfu", "static"};
    const struct fixture *f = *state;
    char *text = answer_text(f);
    for (size_t i = 0; i < SL_COUNT_OF(policies); i++)
        check_answer(RUN(f, "--machine", "none", "--policy", policies[i]), text, NULL);
    check_answer(RUN(f, "--machine", "none", "--pin-layers", "0-1,3"), text, NULL);
    check_failure(RUN(f, "--pin-layers", "0-1,"), 1, "is no list of layers");
    check_failure(RUN(f, "--pin-layers", "3-1"), 1, "is no list of layers");
    check_failure(RUN(f, "--pin-layers", "1;2"), 1, "see \";2\"");
    check_failure(RUN(f, "--pin-layers", "0-4000"), 1, "layers are 0 to 5");
    check_failure(RUN(f, "--policy", "clairvoyant"), 2, "expected blend, lru, lfu or static");
    free(text);
}

static void a_profile_is_kept_and_read_again(void **state)
{
    const struct fixture *f = *state;
    char *text = answer_text(f);
    char *profile = test_path(f->directory, "heat"), *other = test_path(f->directory, "letter");
    size_t first_bytes, second_bytes;
    check_answer(RUN(f, "--machine", "none", "--profile", profile), text, NULL);
    char *first = test_read_file(profile, &first_bytes);
    check_answer(RUN(f, "--machine", "none", "--profile", profile, "--policy", "static"), text,
                 NULL);
    char *second = test_read_file(profile, &second_bytes);
    assert_int_equal(first_bytes, second_bytes);
    /* The second run's uses came on top. */
    assert_memory_not_equal(first, second, first_bytes);

    second[second_bytes - 1] ^= 1;
    test_write_file(profile, second, second_bytes);
    check_answer(RUN(f, "--machine", "none", "--profile", profile), text,
                 "starting without the profile of earlier runs");
    test_write_file(other, "Dear reader", 11);
    check_answer(RUN(f, "--machine", "none", "--profile", other), text, "is not a heat profile");
    size_t bytes;
    char *letter = test_read_file(other, &bytes);
    assert_int_equal(bytes, 11);
    assert_memory_equal(letter, "Dear reader", 11);
    check_failure(RUN(f, "--machine", "none", "--profile", "/nowhere/heat", "--json"), 1,
                  "/nowhere/heat");
    free(text), free(profile), free(other), free(first), free(second), free(letter);
}

static void figures_of_the_machine_are_used_or_refused(void **state)
{
    const struct fixture *f = *state;
    char *text = answer_text(f);
    char *machine = test_path(f->directory, "machine");
    struct program_outcome measured = PROGRAM(f, "bench", "host", "-m", f->model, "--seconds",
                                              "0.01", "--threads", "1", "--profile", machine);
    program_check_exit(&measured, 0);
    program_outcome_deinit(&measured);
    struct program_outcome used =
        RUN(f, "--threads", "1", "--machine", machine, "--explain", "--sim-device", "1M");
    program_check_exit(&used, 0);
    assert_string_equal(used.out, text);
    assert_non_null(strstr(used.err, "(expected "));
    program_outcome_deinit(&used);
    check_failure(RUN(f, "--threads", "2", "--machine", machine), 1, "another number of threads");
    test_write_file(machine, "fast\n", 5);
    check_failure(RUN(f, "--machine", machine), 1, "is no machine profile: line 1");
    check_failure(RUN(f, "--machine", "/nowhere/machine"), 1, "/nowhere/machine");
    free(text), free(machine);
}

static const char *source_of(const json_t *plan, const char *rate)
{
    const json_t *entry = json_object_get(json_object_get(plan, "rates"), rate);
    return json_string_value(json_object_get(entry, "source"));
}

static json_t *plan_json(struct program_outcome outcome)
{
    json_error_t error;
    program_check_exit(&outcome, 0);
    json_t *plan = json_loads(outcome.out, 0, &error);
    if (!plan) fail_msg("%s in \"%s\"", error.text, outcome.out);
    program_outcome_deinit(&outcome);
    return plan;
}

#define PLAN(f, ...) PROGRAM(f, "plan", "--this-machine", "--ram", "20G", __VA_ARGS__)
#define OWN(f)       "-m", (f)->model, "--dense", "1M"

static void a_plan_for_this_machine_takes_its_figures(void **state)
{
    const struct fixture *f = *state;
    char *machine = test_path(f->directory, "sluice/machine");
    struct program_outcome measured =
        PROGRAM(f, "bench", "host", "-m", f->model, "--seconds", "0.01", "--profile", machine);
    program_check_exit(&measured, 0);
    program_outcome_deinit(&measured);

    json_t *plan = plan_json(PLAN(f, OWN(f), "--machine", machine, "--json"));
    assert_string_equal(source_of(plan, "cpu"), "measured");
    assert_string_equal(source_of(plan, "disk"), "measured");
    assert_string_equal(source_of(plan, "link"), "assumed");
    assert_non_null(strstr(json_string_value(json_object_get(plan, "machine_profile")), machine));
    json_decref(plan);
    plan = plan_json(PLAN(f, OWN(f), "--machine", machine, "--cpu", "9", "--json"));
    assert_string_equal(source_of(plan, "cpu"), "given");
    assert_string_equal(source_of(plan, "disk"), "measured");
    json_decref(plan);
    struct program_outcome text = PLAN(f, OWN(f), "--machine", machine);
    program_check_exit(&text, 0);
    assert_non_null(strstr(text.out, "rates    cpu measured; disk measured; profile "));
    program_outcome_deinit(&text);

    /* Another size of expert: refused when named, left out with the reason when found. */
    check_failure(PLAN(f, "--machine", machine), 1, "another expert");
    assert_int_equal(setenv("XDG_CACHE_HOME", f->directory, 1), 0);
    plan = plan_json(PLAN(f, "--json"));
    assert_string_equal(source_of(plan, "cpu"), "assumed");
    assert_non_null(strstr(json_string_value(json_object_get(plan, "notice")), "another expert"));
    json_decref(plan);
    plan = plan_json(PLAN(f, "--machine", "none", "--json"));
    assert_string_equal(json_string_value(json_object_get(plan, "notice")), "");
    json_decref(plan);
    assert_int_equal(unsetenv("XDG_CACHE_HOME"), 0);
    test_write_file(machine, "fast\n", 5);
    check_failure(PLAN(f, OWN(f), "--machine", machine), 1, "is no machine profile: line 1");
    check_failure(PROGRAM(f, "plan", "--machine", machine), 2, "goes with --this-machine");
    free(machine);
}

static void layers_are_listed(void **state)
{
    const struct fixture *f = *state;
    struct program_outcome o = RUN(f, "--stats", "--layers");
    program_check_exit(&o, 0);
    assert_non_null(strstr(o.err, "layer    asked  missed"));
    assert_non_null(strstr(o.err, "  by the table"));
    program_outcome_deinit(&o);
    check_failure(RUN(f, "--layers"), 2, "--layers needs --stats");
}

static int make_fixture(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    assert_non_null(fixture);
    *state = fixture;
    fixture->directory = test_make_directory("cli-profiles");
    fixture->model = program_make_model(fixture->directory);
    return 0;
}

static int remove_fixture(void **state)
{
    struct fixture *fixture = *state;
    test_remove_tree(fixture->directory);
    free(fixture->directory), free(fixture->model);
    free(fixture);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_policy_answers_the_same),
        cmocka_unit_test(a_profile_is_kept_and_read_again),
        cmocka_unit_test(figures_of_the_machine_are_used_or_refused),
        cmocka_unit_test(a_plan_for_this_machine_takes_its_figures),
        cmocka_unit_test(layers_are_listed),
    };
    return cmocka_run_group_tests(tests, make_fixture, remove_fixture);
}
