/* labels: unit */
/* The sampler: what each filter keeps, how often each token comes, the same seed again, extremes.
 */
#include "kernels/base.h"
#include "runtime/sl.h"
#include "tests/support.h"

#include <math.h>
#include <string.h>

#define VOCAB 8

/* Probabilities of the logits below at temperature 1; they rank 5 2 0 7 1 3 6 4. */
static const double PROBABILITIES[VOCAB] = {0.15, 0.07, 0.2, 0.05, 0.02, 0.35, 0.04, 0.12};

static const struct sl_sampling PLAIN = {.temperature = 1, .top_p = 1};

static void fill_logits(float logits[VOCAB])
{
    for (int i = 0; i < VOCAB; i++)
        logits[i] = (float)(log(PROBABILITIES[i]) + 3); /* a shift changes nothing */
}

static sl_sampler *make_sampler(struct sl_sampling sampling, int32_t vocab, uint64_t seed)
{
    sl_sampler *sampler = NULL;
    struct sl_error error = {0};
    if (sl_sampler_create(&sampling, vocab, seed, &sampler, &error) != SL_OK)
        fail_msg("%s", error.message);
    return sampler;
}

/* Draws often and compares with `weights`, in any scale, 0 for what must never come. The bound on
 * chi-square, 40 for up to 7 degrees of freedom, is passed by chance once in 800,000 seeds. */
static void check_distribution(struct sl_sampling sampling, const float *logits,
                               const double weights[VOCAB])
{
    enum { DRAWS = 100000 };
    int64_t seen[VOCAB] = {0};
    double total = 0, chi_square = 0;
    sl_sampler *sampler = make_sampler(sampling, VOCAB, 42);
    for (int i = 0; i < DRAWS; i++) {
        int32_t id = sl_sampler_next(sampler, logits);
        assert_in_range(id, 0, VOCAB - 1);
        seen[id]++;
    }
    sl_sampler_destroy(sampler);
    for (int i = 0; i < VOCAB; i++)
        total += weights[i];
    for (int i = 0; i < VOCAB; i++) {
        double expected = DRAWS * weights[i] / total;
        if (weights[i] == 0) {
            if (seen[i]) fail_msg("token %d came %lld times", i, (long long)seen[i]);
            continue;
        }
        double difference = (double)seen[i] - expected;
        chi_square += difference * difference / expected;
    }
    if (chi_square > 40) fail_msg("chi-square %g", chi_square);
}

static void draws_follow_the_probabilities(void **state)
{
    (void)state;
    float logits[VOCAB];
    fill_logits(logits);
    check_distribution(PLAIN, logits, PROBABILITIES);
}

static void temperature_sharpens_and_flattens(void **state)
{
    (void)state;
    static const float temperatures[] = {0.5f, 2.0f, 1000.0f};
    float logits[VOCAB];
    fill_logits(logits);
    for (size_t t = 0; t < SL_COUNT_OF(temperatures); t++) {
        struct sl_sampling sampling = PLAIN;
        double weights[VOCAB];
        sampling.temperature = temperatures[t];
        for (int i = 0; i < VOCAB; i++)
            weights[i] = pow(PROBABILITIES[i], 1.0 / (double)temperatures[t]);
        check_distribution(sampling, logits, weights);
    }
}

static void top_k_keeps_the_k_most_likely(void **state)
{
    (void)state;
    static const int ranking[VOCAB] = {5, 2, 0, 7, 1, 3, 6, 4};
    float logits[VOCAB];
    fill_logits(logits);
    for (int k = 1; k <= VOCAB + 1; k++) {
        struct sl_sampling sampling = PLAIN;
        double weights[VOCAB] = {0};
        sampling.top_k = k;
        for (int i = 0; i < k && i < VOCAB; i++)
            weights[ranking[i]] = PROBABILITIES[ranking[i]];
        check_distribution(sampling, logits, weights);
    }
}

static void top_p_keeps_the_fewest_that_reach_it(void **state)
{
    (void)state;
    float logits[VOCAB];
    fill_logits(logits);
    struct sl_sampling sampling = PLAIN;
    sampling.top_p = 0.6f; /* 0.35 + 0.2 falls short, + 0.15 reaches */
    check_distribution(sampling, logits, (double[VOCAB]){[5] = 0.35, [2] = 0.2, [0] = 0.15});
    sampling.top_p = 0.3f;
    check_distribution(sampling, logits, (double[VOCAB]){[5] = 1});
    sampling.top_p = 0;
    check_distribution(sampling, logits, (double[VOCAB]){[5] = 1});
}

static void min_p_drops_by_the_distance_to_the_most_likely(void **state)
{
    (void)state;
    float logits[VOCAB];
    fill_logits(logits);
    struct sl_sampling sampling = PLAIN;
    sampling.min_p = 0.4f; /* of 0.35: from 0.14 up */
    check_distribution(sampling, logits, (double[VOCAB]){[5] = 0.35, [2] = 0.2, [0] = 0.15});
    sampling.min_p = 1;
    check_distribution(sampling, logits, (double[VOCAB]){[5] = 1});
}

static void filters_apply_in_the_documented_order(void **state)
{
    (void)state;
    float logits[VOCAB];
    fill_logits(logits);
    /* Of the first four (0.82 together) two reach 0.65 of it; of all eight it would take three. */
    struct sl_sampling sampling = {.temperature = 1, .top_k = 4, .top_p = 0.65f};
    check_distribution(sampling, logits, (double[VOCAB]){[5] = 0.35, [2] = 0.2});
    /* top_p looks at what min_p has not yet cut: 0.35 alone would be all there is after min_p. */
    sampling = (struct sl_sampling){.temperature = 1, .top_p = 0.75f, .min_p = 0.5f};
    check_distribution(sampling, logits, (double[VOCAB]){[5] = 0.35, [2] = 0.2});
    /* The temperature comes first: squared, 0.35 alone is more than half. */
    sampling = (struct sl_sampling){.temperature = 0.5f, .top_p = 0.5f};
    check_distribution(sampling, logits, (double[VOCAB]){[5] = 1});
}

static void ties_at_the_edge_of_top_k_go_to_the_lowest_ids(void **state)
{
    (void)state;
    static const float logits[VOCAB] = {1, 2, 1, 2, 1, 2, 1, 2};
    struct sl_sampling sampling = PLAIN;
    sampling.top_k = 3;
    check_distribution(sampling, logits, (double[VOCAB]){[1] = 1, [3] = 1, [5] = 1});
}

static void temperature_zero_takes_the_lowest_of_the_best(void **state)
{
    (void)state;
    static const float logits[VOCAB] = {-3, 1, 5, 4, 5, 5, NAN, -INFINITY};
    struct sl_sampling sampling = {.temperature = 0, .top_p = 1};
    sl_sampler *sampler = make_sampler(sampling, VOCAB, 1);
    for (int i = 0; i < 10; i++)
        assert_int_equal(sl_sampler_next(sampler, logits), 2);
    sl_sampler_destroy(sampler);
}

static void the_same_seed_draws_the_same_tokens(void **state)
{
    (void)state;
    /* Frozen: a change here breaks everyone's saved seeds. */
    static const int32_t first[] = {2, 5, 1, 0, 0, 0, 7, 7, 5, 6, 3, 2, 0, 0, 5, 3};
    float logits[VOCAB];
    fill_logits(logits);
    sl_sampler *a = make_sampler(PLAIN, VOCAB, 7), *b = make_sampler(PLAIN, VOCAB, 7);
    sl_sampler *other = make_sampler(PLAIN, VOCAB, 8);
    int differing = 0;
    for (size_t i = 0; i < 1000; i++) {
        int32_t id = sl_sampler_next(a, logits);
        assert_int_equal(sl_sampler_next(b, logits), id);
        if (i < SL_COUNT_OF(first)) assert_int_equal(id, first[i]);
        differing += sl_sampler_next(other, logits) != id;
    }
    assert_in_range(differing, 500, 1000);
    sl_sampler_destroy(a);
    sl_sampler_destroy(b);
    sl_sampler_destroy(other);
}

static void unusable_logits_are_never_chosen(void **state)
{
    (void)state;
    static const struct sl_sampling all[] = {
        {.temperature = 1, .top_p = 1},
        {.temperature = 1, .top_p = 0.9f},
        {.temperature = 1, .top_p = 1, .top_k = 5},
        {.temperature = 1, .top_p = 0.99f, .top_k = 7, .min_p = 0.001f},
        {.temperature = 1e-30f, .top_p = 1},
        {.temperature = 1e30f, .top_p = 0.5f},
        {.temperature = 1.4e-45f, .top_p = 0.5f, .top_k = 2},
    };
    static const float nothing[VOCAB] = {NAN, -INFINITY, NAN, NAN, -INFINITY, NAN, NAN, NAN};
    static const float some[VOCAB] = {NAN, -INFINITY, 1, NAN, -3e38f, 3e38f, -INFINITY, 3e38f};
    static const float infinite[VOCAB] = {NAN, INFINITY, 1, 3e38f, INFINITY, -INFINITY, 0, 2};
    for (size_t i = 0; i < SL_COUNT_OF(all); i++) {
        sl_sampler *sampler = make_sampler(all[i], VOCAB, i);
        for (int draw = 0; draw < 200; draw++) {
            assert_int_equal(sl_sampler_next(sampler, nothing), 0);
            int32_t id = sl_sampler_next(sampler, some);
            assert_true(id == 5 || id == 7 || (all[i].temperature > 1e29f && (id == 2 || id == 4)));
            id = sl_sampler_next(sampler, infinite);
            assert_true(id == 1 || id == 4);
        }
        sl_sampler_destroy(sampler);
    }
}

static void random_logits_of_a_full_vocabulary_stay_in_the_support(void **state)
{
    (void)state;
    enum { FULL = 129280 };
    uint64_t seed = 3;
    float *logits = malloc(FULL * sizeof *logits);
    assert_non_null(logits);
    struct sl_sampling sampling = {.temperature = 0.7f, .top_p = 0.95f, .top_k = 50};
    sl_sampler *sampler = make_sampler(sampling, FULL, 5);
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < FULL; i++)
            logits[i] = test_random_float(&seed) * 10;
        int32_t id = sl_sampler_next(sampler, logits);
        assert_in_range(id, 0, FULL - 1);
        int better = 0;
        for (int i = 0; i < FULL; i++)
            better += logits[i] > logits[id];
        assert_in_range(better, 0, 49);
    }
    sl_sampler_destroy(sampler);
    sampler = make_sampler((struct sl_sampling){.temperature = 1, .top_p = 1}, 1, 5);
    assert_int_equal(sl_sampler_next(sampler, logits), 0);
    sl_sampler_destroy(sampler);
    free(logits);
}

static void options_out_of_range_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        struct sl_sampling sampling;
        int32_t vocab;
        const char *field;
    } cases[] = {
        {{.temperature = -0.1f, .top_p = 1}, 8, "temperature"},
        {{.temperature = NAN, .top_p = 1}, 8, "temperature"},
        {{.temperature = INFINITY, .top_p = 1}, 8, "temperature"},
        {{.temperature = 1, .top_p = -0.1f}, 8, "top_p"},
        {{.temperature = 1, .top_p = 1.1f}, 8, "top_p"},
        {{.temperature = 1, .top_p = NAN}, 8, "top_p"},
        {{.temperature = 1, .top_p = 1, .min_p = -1}, 8, "min_p"},
        {{.temperature = 1, .top_p = 1, .min_p = 2}, 8, "min_p"},
        {{.temperature = 1, .top_p = 1, .min_p = NAN}, 8, "min_p"},
        {{.temperature = 1, .top_p = 1, .top_k = -1}, 8, "top_k"},
        {{.temperature = 1, .top_p = 1}, 0, "vocab"},
        {{.temperature = 1, .top_p = 1}, -5, "vocab"},
    };
    for (size_t i = 0; i < SL_COUNT_OF(cases); i++) {
        sl_sampler *sampler = NULL;
        struct sl_error error = {0};
        assert_int_equal(sl_sampler_create(&cases[i].sampling, cases[i].vocab, 0, &sampler, &error),
                         SL_ERR_ARGUMENT);
        assert_null(sampler);
        assert_ptr_equal(strstr(error.message, cases[i].field), error.message);
    }
    sl_sampler_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_follow_the_probabilities),
        cmocka_unit_test(temperature_sharpens_and_flattens),
        cmocka_unit_test(top_k_keeps_the_k_most_likely),
        cmocka_unit_test(top_p_keeps_the_fewest_that_reach_it),
        cmocka_unit_test(min_p_drops_by_the_distance_to_the_most_likely),
        cmocka_unit_test(filters_apply_in_the_documented_order),
        cmocka_unit_test(ties_at_the_edge_of_top_k_go_to_the_lowest_ids),
        cmocka_unit_test(temperature_zero_takes_the_lowest_of_the_best),
        cmocka_unit_test(the_same_seed_draws_the_same_tokens),
        cmocka_unit_test(unusable_logits_are_never_chosen),
        cmocka_unit_test(random_logits_of_a_full_vocabulary_stay_in_the_support),
        cmocka_unit_test(options_out_of_range_are_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
