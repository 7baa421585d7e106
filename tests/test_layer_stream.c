/* labels: unit */
/* How many slots a prefill passes through, and when a layer comes whole. */
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

static void whole_is_what_ends_sooner(void **state)
{
    uint64_t seed = 7;
    int32_t whole = 0;
    (void)state;
    for (int32_t i = 0; i < 10000; i++) {
        struct layer_stream_problem problem = {.cold = test_random_below(&seed, 257),
                                               .copy_ns = test_random_below(&seed, 2000000),
                                               .wait_ns = test_random_below(&seed, 20000000)};
        problem.chosen = problem.cold * test_random_below(&seed, 101) / 100;
        /* One copy after the other, in the two ways. */
        double ahead = problem.wait_ns, asked = problem.wait_ns, link = 0;
        for (int32_t e = 0; e < (int32_t)problem.cold; e++)
            link += problem.copy_ns;
        if (link > ahead) ahead = link;
        asked += problem.chosen * problem.copy_ns;
        assert_true(layer_stream_is_whole(&problem) == (problem.chosen > 0 && ahead < asked) ||
                    fabs(ahead - asked) < 1);
        whole += layer_stream_is_whole(&problem);
    }
    assert_in_range(whole, 1000, 9000);
}

static void nothing_cold_or_nothing_to_wait_for_is_not_streamed(void **state)
{
    struct layer_stream_problem problem = {.cold = 0, .copy_ns = 1000, .wait_ns = 1e6};
    (void)state;
    assert_false(layer_stream_is_whole(&problem));
    problem = (struct layer_stream_problem){.cold = 100, .chosen = 100, .copy_ns = 1000};
    assert_false(layer_stream_is_whole(&problem));
    problem.wait_ns = 1;
    assert_true(layer_stream_is_whole(&problem)); /* all are chosen: sooner is better */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_layers_or_an_eighth_or_nothing),
        cmocka_unit_test(whole_is_what_ends_sooner),
        cmocka_unit_test(nothing_cold_or_nothing_to_wait_for_is_not_streamed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
