/* labels: unit */
/* `sluice simulate` and `sluice plan` from outside. */
#include "tests/support.h"
#include "tests/support_program.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RUN(directory, ...)                                                                        \
    program_run("SLUICE_PROGRAM", directory, "", 0, (const char *const[]){__VA_ARGS__, NULL})
#define SMALL "--layers", "4", "--width", "32", "--top", "2", "--hash-layers", "1"
#define SHORT "--warm", "100", "--tokens", "200", "--gpu", "400M", "--ram", "2G"

static void check_failure(struct program_outcome outcome, int exit_code, const char *message)
{
    program_check_exit(&outcome, exit_code);
    assert_string_equal(outcome.out, "");
    if (!strstr(outcome.err, message))
        fail_msg("expected \"%s\", found \"%s\"", message, outcome.err);
    program_outcome_deinit(&outcome);
}

static json_t *check_json(struct program_outcome outcome)
{
    json_error_t error;
    program_check_exit(&outcome, 0);
    json_t *value = json_loads(outcome.out, 0, &error);
    if (!value) fail_msg("%s in \"%s\"", error.text, outcome.out);
    program_outcome_deinit(&outcome);
    return value;
}

static double number(const json_t *object, const char *outer, const char *inner)
{
    const json_t *value = json_object_get(object, outer);
    if (inner) value = json_object_get(value, inner);
    assert_true(json_is_number(value));
    return json_number_value(value);
}

static void simulations_are_the_same_in_text_and_json_and_by_seed(void **state)
{
    json_t *once = check_json(RUN(*state, "simulate", SMALL, SHORT, "--json"));
    json_t *again = check_json(RUN(*state, "simulate", SMALL, SHORT, "--json"));
    json_t *other = check_json(RUN(*state, "simulate", SMALL, SHORT, "--json", "--seed", "2"));
    assert_true(json_equal(once, again));
    assert_false(json_equal(once, other));
    assert_true(number(once, "accesses", NULL) == 200 * 4 * 2);
    assert_true(number(once, "hit_rate", NULL) > 0 && number(once, "hit_rate", NULL) < 1);
    char line[64];
    snprintf(line, sizeof line, "speed       %.1f tokens/s",
             number(once, "tokens_per_second", NULL));
    struct program_outcome text = RUN(*state, "simulate", SMALL, SHORT);
    program_check_exit(&text, 0);
    assert_non_null(strstr(text.out, line));
    program_outcome_deinit(&text);
    json_decref(once);
    json_decref(again);
    json_decref(other);
}

static void options_change_what_they_name(void **state)
{
    json_t *none = check_json(RUN(*state, "simulate", SMALL, SHORT, "--json", "--no-prefetch"));
    json_t *stream = check_json(RUN(*state, "simulate", SMALL, SHORT, "--json", "--cpu", "0"));
    assert_true(number(none, "guesses", "started") == 0);
    assert_true(number(stream, "computed", "cpu") == 0);
    assert_true(number(stream, "computed", "stream") > 0);
    json_decref(none);
    json_decref(stream);
}

static void senseless_simulations_are_refused(void **state)
{
    check_failure(RUN(*state, "simulate", "--preset", "bass"), 2, "expected base, long-topics");
    check_failure(RUN(*state, "simulate", "--pcie", "fast"), 2,
                  "option --pcie: expected a rate such as 7GB/s, found \"fast\"");
    check_failure(RUN(*state, "simulate", "--trace", "/nonexistent"), 1, "/nonexistent");
    check_failure(RUN(*state, "simulate", "--trace", "README.md"), 1, "README.md");
    check_failure(RUN(*state, "simulate", SMALL, "--gpu", "1M"), 1, "no room for one expert");
}

static void plans_say_where_everything_lives(void **state)
{
    json_t *plan = check_json(RUN(*state, "plan", "--json"));
    double all = number(plan, "experts", NULL);
    assert_true(json_is_true(json_object_get(plan, "fits")));
    assert_true(all == 43 * 256);
    assert_true(number(plan, "on_gpu", NULL) + number(plan, "in_ram", NULL) +
                    number(plan, "on_disk", NULL) ==
                all);
    assert_true(number(plan, "on_disk", NULL) == 0); /* 128 GiB hold what the GPU does not */
    double low = number(plan, "decode_tokens_per_second", "low");
    double middle = number(plan, "decode_tokens_per_second", "middle");
    assert_true(low < middle && middle < number(plan, "decode_tokens_per_second", "high"));
    assert_true(json_array_size(json_object_get(plan, "assumed")) > 3);

    json_t *less = check_json(RUN(*state, "plan", "--json", "--ram", "64G", "--nvme", "7GB/s"));
    assert_true(number(less, "on_disk", NULL) > 0);
    assert_true(number(less, "decode_tokens_per_second", "middle") < middle);
    const json_t *best = json_array_get(json_object_get(less, "what_would_help"), 0);
    assert_non_null(strstr(json_string_value(json_object_get(best, "change")), "RAM"));
    json_decref(plan);
    json_decref(less);
}

static void what_does_not_fit_or_is_not_known_is_said(void **state)
{
    struct program_outcome small = RUN(*state, "plan", "--gpu", "8G");
    program_check_exit(&small, 0);
    assert_non_null(strstr(small.out, "fits     no: the GPU has room for 0 experts"));
    assert_null(strstr(small.out, "decode"));
    program_outcome_deinit(&small);
    check_failure(RUN(*state, "plan", "--shape", "max"), 1, "shape \"max\" are not known");
    check_failure(RUN(*state, "plan", "-m", "/nonexistent"), 1, "/nonexistent");
    check_failure(RUN(*state, "plan", "-m", "x", "--shape", "flash"), 2, "-m or --shape");
    check_failure(RUN(*state, "plan", "-m", "tests/golden/model/tiny-a"), 1, "give --dense SIZE");
    check_failure(RUN(*state, "plan", "--gpu", "0", "--cpu", "0"), 1, "nothing could compute");
}

static void larger_published_shapes_are_known(void **state)
{
    json_t *plan = check_json(RUN(*state, "plan", "--json", "--shape", "pro", "--ram", "512G"));
    assert_true(number(plan, "experts", NULL) == 61 * 384);
    assert_true(number(plan, "expert_bytes", NULL) == 3 * 7168 * 3072 / 32 * 17);
    assert_true(json_is_true(json_object_get(plan, "fits")));
    assert_true(number(plan, "on_disk", NULL) > 0);
    json_decref(plan);
}

static void shapes_come_from_a_config_as_well(void **state)
{
    json_t *plan = check_json(RUN(*state, "plan", "--json", "-m", "tests/golden/model/tiny-a",
                                  "--dense", "1M", "--gpu", "0", "--ram", "17G"));
    assert_true(number(plan, "experts", NULL) == 6 * 16);
    assert_true(json_is_true(json_object_get(plan, "fits")));
    assert_true(number(plan, "in_ram", NULL) == 6 * 16);
    json_decref(plan);
}

static int set_up(void **state)
{
    *state = test_make_directory("cli-simulate");
    return 0;
}

static int tear_down(void **state)
{
    test_remove_tree(*state);
    free(*state);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(simulations_are_the_same_in_text_and_json_and_by_seed),
        cmocka_unit_test(options_change_what_they_name),
        cmocka_unit_test(senseless_simulations_are_refused),
        cmocka_unit_test(plans_say_where_everything_lives),
        cmocka_unit_test(what_does_not_fit_or_is_not_known_is_said),
        cmocka_unit_test(larger_published_shapes_are_known),
        cmocka_unit_test(shapes_come_from_a_config_as_well),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
