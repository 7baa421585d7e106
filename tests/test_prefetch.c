/* labels: unit */
/* Guesses travel by worth, die with their layer, respect what is likelier, and lose belief when
 * they do not come true. */
#include "offload/prefetch.h"

#include "tests/support.h"

#define LAYERS  4
#define EXPERTS 32

static void make(struct prefetch *prefetch, int32_t flights)
{
    struct sl_error error;
    const struct prefetch_options options = {
        .layers = LAYERS, .experts = EXPERTS, .flight_max = {flights, flights}};
    assert_int_equal(prefetch_init(prefetch, &options, &error), SL_OK);
}

static void offer(struct prefetch *prefetch, int32_t idx, float probability, int64_t visit)
{
    const struct prefetch_guess guess = {idx, probability, visit};
    prefetch_offer(prefetch, PREFETCH_UP, &guess);
}

/* The expert whose transfer of `busy_ns` is started, or -1. */
static int32_t next_of(struct prefetch *prefetch, double busy_ns, float evicted_value)
{
    struct prefetch_guess guess;
    const struct prefetch_transfer transfer = {.busy_ns = busy_ns};
    return prefetch_next(prefetch, PREFETCH_UP, transfer, evicted_value, &guess) ? guess.expert_idx
                                                                                 : -1;
}

static int32_t next(struct prefetch *prefetch, float evicted_value)
{
    return next_of(prefetch, 0, evicted_value);
}

static void test_the_likeliest_goes_first_and_few_at_once(void **state)
{
    (void)state;
    struct prefetch prefetch;
    make(&prefetch, 2);
    offer(&prefetch, 33, 0.3f, 1);
    offer(&prefetch, 34, 0.9f, 1);
    offer(&prefetch, 35, 0.5f, 1);
    offer(&prefetch, 33, 0.6f, 1); /* the higher probability counts */
    assert_int_equal(next(&prefetch, 0), 34);
    assert_int_equal(next(&prefetch, 0), 33);
    assert_int_equal(next(&prefetch, 0), -1);
    prefetch_done(&prefetch, PREFETCH_UP, 34, true);
    assert_int_equal(next(&prefetch, 0), 35);
    prefetch_check(&prefetch);
    prefetch_deinit(&prefetch);
}

static void test_what_cannot_arrive_in_time_is_worth_less(void **state)
{
    (void)state;
    struct prefetch prefetch;
    make(&prefetch, 2);
    prefetch_visit(&prefetch, 1, 0);
    prefetch_visit(&prefetch, 2, 100);
    offer(&prefetch, 3 * EXPERTS, 0.8f, 3); /* 100 ns ahead */
    offer(&prefetch, 5, 0.5f, 4);           /* 200 ns ahead */
    assert_int_equal(next_of(&prefetch, 200, 0), 5);
    prefetch_deinit(&prefetch);
}

static void test_what_is_certain_goes_first_in_the_order_of_layers(void **state)
{
    (void)state;
    struct prefetch prefetch;
    make(&prefetch, 4);
    prefetch_visit(&prefetch, 3, 0);
    prefetch_visit(&prefetch, 4, 100);
    offer(&prefetch, 3 * EXPERTS, 0.9f, 7);
    offer(&prefetch, 2 * EXPERTS, 1, 6);
    offer(&prefetch, EXPERTS, 1, 5); /* which a transfer of 500 ns is too slow for */
    static const int32_t order[] = {EXPERTS, 2 * EXPERTS, 3 * EXPERTS};
    for (size_t i = 0; i < SL_COUNT_OF(order); i++)
        assert_int_equal(next_of(&prefetch, 500, 0), order[i]);
    prefetch_deinit(&prefetch);
}

static void test_a_guess_dies_when_its_layer_has_passed(void **state)
{
    (void)state;
    struct prefetch prefetch;
    make(&prefetch, 4);
    offer(&prefetch, EXPERTS, 0.9f, 1);
    offer(&prefetch, 2 * EXPERTS, 0.9f, 2);
    prefetch_visit(&prefetch, 2, 10);
    assert_int_equal(next(&prefetch, 0), -1);   /* too late for visit 2, dead for 1 */
    offer(&prefetch, 2 * EXPERTS + 1, 0.9f, 2); /* the visit has come */
    assert_int_equal(prefetch_counts_get(&prefetch, 1).dropped, 1);
    assert_int_equal(prefetch_counts_get(&prefetch, 2).dropped, 1);
    prefetch_deinit(&prefetch);
}

/* A link that is wanted again after 100 ns, time and again. */
static void keep_wanted(struct prefetch *prefetch, enum prefetch_link link)
{
    for (int64_t ns = 0; ns < 30000; ns += 300) {
        prefetch_watch(prefetch, link, true, ns);
        prefetch_watch(prefetch, link, false, ns + 200);
    }
}

/* Whether a guess of layer 1, of an expert not named before, is started. */
static bool starts(struct prefetch *prefetch, float probability, double transfer_ns)
{
    static int32_t idx = EXPERTS;
    offer(prefetch, ++idx, probability, 1);
    bool started = next_of(prefetch, transfer_ns, 0) == idx;
    if (started)
        prefetch_done(prefetch, PREFETCH_UP, idx, false);
    else
        prefetch_forget(prefetch, PREFETCH_UP, idx);
    return started;
}

static void test_a_guess_must_win_more_than_it_keeps_others_waiting(void **state)
{
    (void)state;
    struct prefetch prefetch;
    make(&prefetch, 2);
    assert_true(starts(&prefetch, 0.2f, 1000)); /* nothing is known yet */
    keep_wanted(&prefetch, PREFETCH_DISK);
    assert_true(starts(&prefetch, 0.2f, 1000)); /* of the other link */
    keep_wanted(&prefetch, PREFETCH_UP);
    /* A demand comes after 100 ns on average: 200 ns reach 113 into it, 400 ns 302. */
    assert_true(starts(&prefetch, 0.2f, 20));
    assert_false(starts(&prefetch, 0.2f, 200)); /* 0.2 x 100 against 0.8 x 113 */
    assert_true(starts(&prefetch, 0.6f, 200));
    assert_false(starts(&prefetch, 0.6f, 400)); /* 0.6 x 100 against 0.4 x 302 */
    assert_true(starts(&prefetch, 1, 4000));    /* what is certain delays nobody in vain */
    prefetch_deinit(&prefetch);
}

static void test_a_long_pause_is_no_gap(void **state)
{
    (void)state;
    struct prefetch prefetch;
    make(&prefetch, 2);
    keep_wanted(&prefetch, PREFETCH_UP);
    prefetch_watch(&prefetch, PREFETCH_UP, true, 1000000000);
    prefetch_watch(&prefetch, PREFETCH_UP, false, 1000000200);
    assert_false(starts(&prefetch, 0.3f, 1000));
    prefetch_deinit(&prefetch);
}

static void test_nothing_likelier_is_evicted(void **state)
{
    (void)state;
    struct prefetch prefetch;
    make(&prefetch, 4);
    offer(&prefetch, 40, 0.4f, 1);
    assert_int_equal(next(&prefetch, 0.5f), -1);
    assert_int_equal(next(&prefetch, 0.3f), 40);
    prefetch_deinit(&prefetch);
}

static void test_outcomes_are_counted_by_layer(void **state)
{
    (void)state;
    struct prefetch prefetch;
    make(&prefetch, 8);
    for (int32_t i = 0; i < 4; i++)
        offer(&prefetch, EXPERTS + i, 0.9f, 1);
    for (int32_t i = 0; i < 4; i++)
        assert_true(next(&prefetch, 0) >= EXPERTS);
    prefetch_done(&prefetch, PREFETCH_UP, EXPERTS, true);
    prefetch_done(&prefetch, PREFETCH_UP, EXPERTS + 1, true);
    prefetch_done(&prefetch, PREFETCH_UP, EXPERTS + 3, false); /* failed */
    prefetch_visit(&prefetch, 1, 5);
    prefetch_used(&prefetch, EXPERTS);
    prefetch_used(&prefetch, EXPERTS + 2); /* still in flight */
    prefetch_visit(&prefetch, 2, 9);
    prefetch_done(&prefetch, PREFETCH_UP, EXPERTS + 2, true);
    struct prefetch_counts counts = prefetch_counts_get(&prefetch, 1);
    assert_int_equal(counts.started, 4);
    assert_int_equal(counts.useful, 1);
    assert_int_equal(counts.late, 1);
    assert_int_equal(counts.wasted, 2);
    assert_int_equal(prefetch.queues[PREFETCH_UP].started_count, 0);
    prefetch_check(&prefetch);
    prefetch_deinit(&prefetch);
}

/* Plays visits whose guesses of probability 0.3 come true `hits` times of ten; returns how many
 * were started in the last quarter. */
static int32_t play(struct prefetch *prefetch, int64_t visits, uint32_t hits)
{
    uint64_t random = 1;
    int32_t started = 0;
    int64_t first = prefetch->visit + 1;
    for (int64_t visit = first; visit < first + visits; visit++) {
        int32_t idx = (int32_t)(visit % LAYERS) * EXPERTS;
        offer(prefetch, idx, 0.3f, visit);
        if (next(prefetch, 0) >= 0) {
            prefetch_done(prefetch, PREFETCH_UP, idx, true);
            started += visit >= first + visits * 3 / 4;
        }
        prefetch_visit(prefetch, visit, visit);
        if (test_random_below(&random, 10) < hits) prefetch_used(prefetch, idx);
    }
    return started;
}

static void test_belief_falls_to_nothing_and_comes_back(void **state)
{
    (void)state;
    struct prefetch prefetch;
    make(&prefetch, 4);
    assert_int_equal(play(&prefetch, 4000, 3), 1000);
    assert_true(play(&prefetch, 8000, 0) <= 8); /* a trial now and then */
    offer(&prefetch, 1, 1.0f, prefetch.visit + 4);
    assert_int_equal(next(&prefetch, 0), 1); /* what is certain needs no belief */
    prefetch_done(&prefetch, PREFETCH_UP, 1, true);
    assert_true(play(&prefetch, 400000, 10) > 90000);
    prefetch_deinit(&prefetch);
}

static void test_any_sequence_keeps_the_queues_whole(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        struct prefetch prefetch;
        struct prefetch_guess flying[2][PREFETCH_FLIGHT_MAX];
        int32_t flying_count[2] = {0};
        uint64_t random = seed, started = 0, settled = 0;
        make(&prefetch, 5);
        for (int32_t step = 0; step < 20000; step++) {
            enum prefetch_link link = test_random_below(&random, 2);
            int32_t idx = (int32_t)test_random_below(&random, LAYERS * EXPERTS);
            struct prefetch_guess guess = {idx, (float)(1 + test_random_below(&random, 10)) / 10,
                                           prefetch.visit + test_random_below(&random, 6)};
            switch (test_random_below(&random, 6)) {
            case 0: prefetch_visit(&prefetch, prefetch.visit + 1, step); break;
            case 1: prefetch_used(&prefetch, idx); break;
            case 2:
                const struct prefetch_transfer transfer = {.wait_ns = 50, .busy_ns = 50};
                if (!prefetch_next(&prefetch, link, transfer, 0.1f, &guess)) break;
                assert_true(guess.visit > prefetch.visit);
                flying[link][flying_count[link]++] = guess;
                assert_true(flying_count[link] <= 5);
                break;
            case 3:
                if (!flying_count[link]) break;
                guess = flying[link][--flying_count[link]];
                prefetch_done(&prefetch, link, guess.expert_idx, test_random_below(&random, 5) > 0);
                break;
            default: prefetch_offer(&prefetch, link, &guess);
            }
            prefetch_check(&prefetch);
        }
        for (int32_t link = 0; link < 2; link++)
            while (flying_count[link])
                prefetch_done(&prefetch, link, flying[link][--flying_count[link]].expert_idx, true);
        prefetch_visit(&prefetch, prefetch.visit + 10, 30000);
        for (int32_t layer = 0; layer < LAYERS; layer++) {
            struct prefetch_counts counts = prefetch_counts_get(&prefetch, layer);
            started += counts.started;
            settled += counts.useful + counts.late + counts.wasted;
        }
        assert_true(started > 100);
        assert_int_equal(started, settled); /* every guess has exactly one fate */
        prefetch_deinit(&prefetch);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_likeliest_goes_first_and_few_at_once),
        cmocka_unit_test(test_what_cannot_arrive_in_time_is_worth_less),
        cmocka_unit_test(test_what_is_certain_goes_first_in_the_order_of_layers),
        cmocka_unit_test(test_a_guess_dies_when_its_layer_has_passed),
        cmocka_unit_test(test_a_guess_must_win_more_than_it_keeps_others_waiting),
        cmocka_unit_test(test_a_long_pause_is_no_gap),
        cmocka_unit_test(test_nothing_likelier_is_evicted),
        cmocka_unit_test(test_outcomes_are_counted_by_layer),
        cmocka_unit_test(test_belief_falls_to_nothing_and_comes_back),
        cmocka_unit_test(test_any_sequence_keeps_the_queues_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
