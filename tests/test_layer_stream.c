/* labels: unit */
/* How many slots a prefill passes through, and when a layer comes ahead of its router. */
#include "offload/layer_stream.h"
#include "tests/support.h"

#include <math.h>

static void two_layers_or_an_eighth_or_nothing(void **state)
{
    (void)state;
    assert_int_equal(layer_stream_slots(5140, 43, 256), 512);
    assert_int_equal(layer_stream_slots(1000, 43, 256), 125);
    assert_int_equal(layer_stream_slots(63, 43, 256), 0);
    assert_int_equal(layer_stream_slots(64, 43, 256), 8);
    assert_int_equal(layer_stream_slots(0, 43, 256), 0);
    assert_int_equal(layer_stream_slots(43 * 256, 43, 256), 0); /* everything fits */
}

/* One copy after the other: ahead until the router has chosen, in the order of a shuffle, then what
 * is left of its choice, behind what was in flight. */
static double play_ahead(const struct layer_stream_problem *problem, uint64_t *seed)
{
    int32_t cold = (int32_t)problem->cold, chosen = (int32_t)problem->chosen;
    int32_t flight = layer_stream_flight(problem->copy_ns), left = chosen;
    double now = 0;
    for (int32_t e = 0, behind = 0; e < cold; e++) {
        /* Of those not yet sent each is as likely to be a chosen one. */
        bool hit = (int32_t)test_random_below(seed, (uint32_t)(cold - e)) < left;
        bool known = now >= problem->wait_ns;
        if (known && behind++ >= flight) break;
        left -= hit;
        now += problem->copy_ns;
    }
    return fmax(now, problem->wait_ns) + left * problem->copy_ns;
}

static void ahead_is_what_ends_sooner(void **state)
{
    uint64_t seed = 7;
    int32_t ahead = 0;
    double sums[2] = {0};
    (void)state;
    for (int32_t i = 0; i < 4000; i++) {
        struct layer_stream_problem problem = {.cold = 1 + test_random_below(&seed, 256),
                                               .copy_ns = 1000 + test_random_below(&seed, 2000000),
                                               .wait_ns = test_random_below(&seed, 20000000)};
        problem.chosen = floor(problem.cold * test_random_below(&seed, 101) / 100);
        double played = 0;
        for (int32_t round = 0; round < 20; round++)
            played += play_ahead(&problem, &seed) / 20;
        sums[0] += layer_stream_ahead_ns(&problem);
        sums[1] += played;
        assert_true(fabs(layer_stream_ahead_ns(&problem) - played) <=
                    6 * problem.copy_ns + 0.15 * played);
        ahead += layer_stream_is_ahead(&problem);
    }
    printf("%d of 4000 begin ahead; expected %.4f of what is played\n", ahead, sums[0] / sums[1]);
    assert_true(fabs(sums[0] / sums[1] - 1) < 0.02);
    assert_in_range(ahead, 400, 3600);
}

static void few_are_in_flight_and_never_less_than_two(void **state)
{
    (void)state;
    assert_int_equal(layer_stream_flight(257e3), 6);
    assert_int_equal(layer_stream_flight(1e9), 2);
    assert_int_equal(layer_stream_flight(1e3), LAYER_STREAM_AHEAD_MAX);
    assert_int_equal(layer_stream_flight(0), LAYER_STREAM_AHEAD_MAX);
}

static void nothing_cold_or_nothing_to_wait_for_is_not_streamed(void **state)
{
    struct layer_stream_problem problem = {.cold = 0, .copy_ns = 1000, .wait_ns = 1e6};
    (void)state;
    assert_false(layer_stream_is_ahead(&problem));
    problem = (struct layer_stream_problem){.cold = 100, .chosen = 100, .copy_ns = 1000};
    assert_false(layer_stream_is_ahead(&problem));
    problem.wait_ns = 10;
    assert_true(layer_stream_is_ahead(&problem)); /* all are chosen: sooner is better */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_layers_or_an_eighth_or_nothing),
        cmocka_unit_test(ahead_is_what_ends_sooner),
        cmocka_unit_test(few_are_in_flight_and_never_less_than_two),
        cmocka_unit_test(nothing_cold_or_nothing_to_wait_for_is_not_streamed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
