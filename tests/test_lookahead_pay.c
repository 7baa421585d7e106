/* labels: unit */
/* Which way of guessing goes on, under made-up times: the best one, nearly always, though the
 * machine's speed changes and single passes are slow; and never much dearer than not to guess. */
#include "offload/random_stream.h"
#include "runtime/lookahead_pay.h"
#include "tests/support.h"

#define PASSES 6000

/* Time of PASSES passes to that without guessing, when way w takes ns[w]; the share of the best way
 * goes to `best_share`. */
static double play(int32_t depth, const double *ns, uint64_t seed, double *best_share)
{
    struct lookahead_pay pay;
    struct random_stream random;
    double sum = 0, without = 0, speed = 1;
    int32_t best = 0, taken = 0;
    random_seed(&random, seed);
    lookahead_pay_init(&pay, depth);
    for (int32_t w = 1; w <= depth; w++)
        if (ns[w] < ns[best]) best = w;
    for (int32_t i = 0; i < PASSES; i++) {
        if (i % 100 == 0) speed = 1 + random_unit(&random); /* others come and go */
        double noise = 0.9 + 0.2 * random_unit(&random);
        if (random_unit(&random) < 0.02) noise *= 10;
        sum += ns[pay.way] * speed;
        without += ns[0] * speed;
        taken += pay.way == best;
        lookahead_pay_pass(&pay, (uint64_t)(ns[pay.way] * speed * noise));
    }
    *best_share = taken / (double)PASSES;
    return sum / without;
}

static void the_best_way_goes_on(void **state)
{
    static const double times[][3] = {{1e6, 1.25e6, 1.3e6},
                                      {1e6, 0.8e6, 1.2e6},
                                      {1e6, 1.2e6, 0.8e6},
                                      {1e6, 0.9e6, 0.7e6},
                                      {1e6, 3e6, 0.9e6}};
    (void)state;
    for (int32_t depth = 1; depth <= 2; depth++)
        for (size_t i = 0; i < SL_COUNT_OF(times); i++)
            for (uint64_t seed = 0; seed < 5; seed++) {
                double share;
                play(depth, times[i], seed, &share);
                if (share < 0.95)
                    fail_msg("case %zu, depth %d, seed %d: %.2f", i, depth, (int)seed, share);
            }
}

static void guessing_is_never_much_dearer(void **state)
{
    double worst = 0;
    (void)state;
    for (int percent = 96; percent < 180; percent += 2)
        for (uint64_t seed = 0; seed < 10; seed++) {
            double share, ns[] = {1e6, percent * 1e4, (percent + 6) * 1e4};
            double ratio = play(2, ns, seed, &share);
            if (ratio > worst) worst = ratio;
            if (ratio > 1.025) fail_msg("%d %%, seed %d: %.3f", percent, (int)seed, ratio);
        }
    print_message("worst %.3f of the time without guesses\n", worst);
}

static void without_depth_nothing_is_tried(void **state)
{
    struct lookahead_pay pay;
    (void)state;
    lookahead_pay_init(&pay, 0);
    for (int i = 0; i < 1000; i++) {
        lookahead_pay_pass(&pay, 1000);
        assert_int_equal(pay.way, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_best_way_goes_on),
        cmocka_unit_test(guessing_is_never_much_dearer),
        cmocka_unit_test(without_depth_nothing_is_tried),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
