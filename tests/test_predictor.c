/* labels: unit */
/* The predictor: ranks like the router, gives probabilities that come true, and learns. */
#include "offload/predictor.h"
#include "tests/support.h"

#include <math.h>
#include <string.h>

#define EXPERTS 64
#define TOP     6
#define LAYERS  4

static struct predictor *make_predictor(bool coactivation)
{
    struct predictor_options options = {.layers = LAYERS,
                                        .experts = EXPERTS,
                                        .top = TOP,
                                        .hash_layers = 1,
                                        .coactivation = coactivation};
    struct predictor *predictor;
    struct sl_error error;
    if (predictor_create(&options, &predictor, &error) != SL_OK) fail_msg("%s", error.message);
    return predictor;
}

static void ranking_agrees_with_a_full_sort_and_puts_the_border_after_top(void **state)
{
    uint64_t random = 3;
    (void)state;
    for (int32_t round = 0; round < 500; round++) {
        float scores[EXPERTS];
        struct predictor_candidate found[PREDICTOR_CANDIDATES_MAX];
        int32_t count = 1 + (int32_t)test_random_below(&random, PREDICTOR_CANDIDATES_MAX);
        for (int32_t e = 0; e < EXPERTS; e++) /* coarse: there are ties */
            scores[e] = floorf(20 * test_random_float(&random)) / 4;
        int32_t given = predictor_rank(scores, EXPERTS, TOP, count, found);
        assert_int_equal(given, count);
        float sorted[EXPERTS];
        memcpy(sorted, scores, sizeof sorted);
        for (int32_t i = 0; i < EXPERTS; i++)
            for (int32_t j = i + 1; j < EXPERTS; j++)
                if (sorted[j] > sorted[i]) {
                    float swap = sorted[i];
                    sorted[i] = sorted[j], sorted[j] = swap;
                }
        float border = 0.5f * (sorted[TOP - 1] + sorted[TOP]);
        for (int32_t i = 0; i < given; i++) {
            assert_true(scores[found[i].expert] == sorted[i]);
            assert_true(found[i].margin == sorted[i] - border);
            if (i > 0 && found[i].margin == found[i - 1].margin)
                assert_true(found[i].expert > found[i - 1].expert);
        }
    }
}

static void ranking_leaves_out_what_is_no_number(void **state)
{
    float scores[8] = {1, NAN, 3, NAN, 2, NAN, NAN, NAN};
    struct predictor_candidate found[8];
    (void)state;
    assert_int_equal(predictor_rank(scores, 8, 6, 8, found), 3);
    assert_int_equal(found[0].expert, 2);
    assert_int_equal(found[2].expert, 0);
    for (int32_t e = 0; e < 8; e++)
        scores[e] = NAN;
    assert_int_equal(predictor_rank(scores, 8, 6, 8, found), 0);
}

/* A layer whose true scores are what was announced plus noise: chosen are the TOP best of these. */
static void draw_layer(uint64_t *random, float noise, float *announced, int32_t *chosen)
{
    float real[EXPERTS];
    struct predictor_candidate best[TOP];
    for (int32_t e = 0; e < EXPERTS; e++) {
        announced[e] = test_random_float(random) + test_random_float(random);
        real[e] = announced[e] + noise * (test_random_float(random) + test_random_float(random));
    }
    assert_int_equal(predictor_rank(real, EXPERTS, TOP, TOP, best), TOP);
    for (int32_t k = 0; k < TOP; k++)
        chosen[k] = best[k].expert;
}

static void run_tokens(struct predictor *predictor, uint64_t *random, int32_t tokens, float noise)
{
    for (int32_t t = 0; t < tokens; t++) {
        for (int32_t layer = 1; layer < LAYERS; layer++) {
            float announced[EXPERTS], probabilities[16];
            struct predictor_candidate candidates[16];
            int32_t chosen[TOP];
            /* Layers differ in how much the announcement is worth. */
            draw_layer(random, noise * (float)layer, announced, chosen);
            int32_t count = predictor_rank(announced, EXPERTS, TOP, 16, candidates);
            predictor_guess(predictor, layer, 1, candidates, count, probabilities);
            for (int32_t i = 0; i < count; i++)
                assert_true(probabilities[i] > 0 && probabilities[i] < 1);
            predictor_outcome(predictor, layer, chosen);
        }
    }
}

static void what_is_called_likely_comes_true_as_often(void **state)
{
    static const float noises[] = {0.02f, 0.1f, 0.4f};
    (void)state;
    for (size_t n = 0; n < SL_COUNT_OF(noises); n++) {
        struct predictor *predictor = make_predictor(false);
        struct predictor_stats before, after;
        uint64_t random = 11 + n;
        run_tokens(predictor, &random, 2000, noises[n]);
        predictor_stats_get(predictor, 1, &before);
        run_tokens(predictor, &random, 6000, noises[n]);
        predictor_stats_get(predictor, 1, &after);
        uint64_t seen = 0;
        double error = 0;
        for (int32_t bin = 0; bin < PREDICTOR_BINS; bin++) {
            double guessed = (double)(after.guessed[bin] - before.guessed[bin]);
            double used = (double)(after.used[bin] - before.used[bin]);
            seen += after.guessed[bin] - before.guessed[bin];
            error += fabs(after.expected[bin] - before.expected[bin] - used);
            assert_true(used <= guessed);
        }
        assert_int_equal(seen, 6000 * (LAYERS - 1) * 16);
        /* Mean distance between what was promised and what came, over the bins. */
        if (error / (double)seen > 0.03)
            fail_msg("noise %g: off by %g", (double)noises[n], error / (double)seen);
        predictor_destroy(predictor);
    }
}

static void a_layer_that_is_harder_to_guess_gets_lower_probabilities(void **state)
{
    struct predictor *predictor = make_predictor(false);
    struct predictor_candidate candidate = {.expert = 5, .margin = 0.3f};
    float easy, hard;
    uint64_t random = 4;
    (void)state;
    run_tokens(predictor, &random, 4000, 0.3f);
    predictor_guess(predictor, 1, 1, &candidate, 1, &easy);
    predictor_guess(predictor, 3, 1, &candidate, 1, &hard);
    assert_true(easy > hard);
    predictor_destroy(predictor);
}

static void an_expert_used_a_moment_ago_is_likelier_where_experts_repeat(void **state)
{
    struct predictor *predictor = make_predictor(false);
    struct predictor_candidate candidates[16];
    float probabilities[16];
    uint64_t random = 9;
    int32_t chosen[TOP] = {0, 1, 2, 3, 4, 5};
    (void)state;
    for (int32_t t = 0; t < 3000; t++) {
        /* The announcement is empty: margins are equal. Each expert stays with 3 in 4. */
        for (int32_t i = 0; i < 16; i++)
            candidates[i] = (struct predictor_candidate){
                .expert = i < TOP ? chosen[i] : (chosen[0] + 7 * i) % EXPERTS, .margin = 0};
        predictor_guess(predictor, 2, 1, candidates, 16, probabilities);
        for (int32_t k = 0; k < TOP; k++)
            if (test_random_below(&random, 4) == 0)
                chosen[k] = (k * 10 + (int32_t)test_random_below(&random, 10)) % EXPERTS;
        predictor_outcome(predictor, 2, chosen);
    }
    for (int32_t i = 0; i < 2; i++)
        candidates[i] = (struct predictor_candidate){.expert = i ? 63 : chosen[2], .margin = 0};
    predictor_guess(predictor, 2, 1, candidates, 2, probabilities);
    assert_true(probabilities[0] > 0.6f);
    assert_true(probabilities[1] < 0.25f);
    predictor_destroy(predictor);
}

static void co_activation_is_learnt_where_margins_say_nothing(void **state)
{
    uint64_t random = 21;
    float probabilities[2];
    (void)state;
    struct predictor *with = make_predictor(true), *without = make_predictor(false);
    for (int32_t t = 0; t < 3000; t++) {
        /* Layer 2 uses the experts that layer 1 used, moved by 20; layer 1's are random. */
        int32_t first[TOP], second[TOP];
        struct predictor_candidate candidates[2];
        for (int32_t k = 0; k < TOP; k++) {
            first[k] = k * 10 + (int32_t)test_random_below(&random, 10);
            second[k] = (first[k] + 20) % EXPERTS;
        }
        candidates[0] = (struct predictor_candidate){.expert = second[0], .margin = 0};
        candidates[1] = (struct predictor_candidate){.expert = (second[0] + 5) % 60, .margin = 0};
        for (int32_t i = 0; i < 2; i++) {
            struct predictor *predictor = i ? without : with;
            predictor_outcome(predictor, 1, first);
            predictor_guess(predictor, 2, 1, candidates, 2, probabilities);
            if (t == 2999 && i == 0) assert_true(probabilities[0] > probabilities[1] + 0.3f);
            if (t == 2999 && i == 1) assert_true(fabsf(probabilities[0] - probabilities[1]) < 0.2f);
            predictor_outcome(predictor, 2, second);
        }
    }
    predictor_destroy(with);
    predictor_destroy(without);
}

static void joining_tokens_only_raises_the_probability(void **state)
{
    (void)state;
    assert_true(fabsf(predictor_join(0.5f, 1, 1) - 0.5f) < 1e-6f);
    assert_true(fabsf(predictor_join(0.25f, 2, 2) - 0.75f) < 1e-6f);
    assert_true(fabsf(predictor_join(0.25f, 2, 4) - 0.9375f) < 1e-6f);
    assert_true(predictor_join(1, 3, 100) == 0);
}

static void impossible_shapes_are_refused(void **state)
{
    struct predictor_options options = {.layers = 2, .experts = 4, .top = 5};
    struct predictor *predictor;
    struct sl_error error;
    (void)state;
    assert_int_equal(predictor_create(&options, &predictor, &error), SL_ERR_ARGUMENT);
    assert_null(predictor);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranking_agrees_with_a_full_sort_and_puts_the_border_after_top),
        cmocka_unit_test(ranking_leaves_out_what_is_no_number),
        cmocka_unit_test(what_is_called_likely_comes_true_as_often),
        cmocka_unit_test(a_layer_that_is_harder_to_guess_gets_lower_probabilities),
        cmocka_unit_test(an_expert_used_a_moment_ago_is_likelier_where_experts_repeat),
        cmocka_unit_test(co_activation_is_learnt_where_margins_say_nothing),
        cmocka_unit_test(joining_tokens_only_raises_the_probability),
        cmocka_unit_test(impossible_shapes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
