/* labels: unit */
/* Counts are those of a plain sum over all uses; the fit finds how uses follow each other; profiles
 * come back as they were, and nothing else is taken for one. */
#include "offload/heat.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "tests/support.h"

#define LAYERS  3
#define EXPERTS 16

static const double half_lives[HEAT_TERMS] = HEAT_HALF_LIVES;

static void expect_near(double value, double wanted, double tolerance)
{
    if (!(fabs(value - wanted) <= tolerance))
        fail_msg("%g, expected %g within %g", value, wanted, tolerance);
}

static void make_heat(struct heat *heat)
{
    struct sl_error error;
    assert_int_equal(heat_init(heat, LAYERS, EXPERTS, &error), SL_OK);
}

static void test_counts_equal_a_sum_over_all_uses(void **state)
{
    (void)state;
    enum { USES = 3000, WATCHED = 5 };
    struct heat heat;
    make_heat(&heat);
    int64_t clocks[USES], clock = 7, last = HEAT_NEVER;
    int32_t count = 0;
    uint64_t random = 1;
    for (int32_t step = 0; step < USES; step++) {
        clock += test_random_below(&random, 400) == 0 ? 700 : test_random_below(&random, 2);
        int32_t expert = (int32_t)test_random_below(&random, LAYERS * EXPERTS);
        heat_use(&heat, expert, clock);
        if (expert != WATCHED) continue;
        clocks[count++] = last = clock;
    }
    heat_use(&heat, WATCHED + EXPERTS, clock); /* the clock of now, in another layer */
    assert_true(count > 30);
    assert_int_equal(heat_last_use(&heat, WATCHED), last);
    for (int32_t term = 0; term < HEAT_TERMS; term++) {
        double sum = 0;
        for (int32_t i = 0; i < count; i++)
            sum += exp2((double)(clocks[i] - clock) / half_lives[term]);
        expect_near((double)heat_count(&heat, WATCHED, term), sum, 1e-3 * sum + 1e-6);
    }
    heat_deinit(&heat);
}

static void test_an_unused_expert_is_worth_nothing_and_a_used_one_something(void **state)
{
    (void)state;
    struct heat heat;
    make_heat(&heat);
    assert_int_equal(heat_last_use(&heat, 3), HEAT_NEVER);
    assert_true(heat_rate(&heat, 3) == 0);
    heat_use(&heat, 3, 0);
    float fresh = heat_rate(&heat, 3);
    assert_true(fresh > 0 && fresh < 1);
    heat_use(&heat, 4, 50);
    assert_true(heat_rate(&heat, 3) < fresh && heat_rate(&heat, 4) > heat_rate(&heat, 3));
    float scales[HEAT_TERMS], sum = 0;
    heat_layer_scales(&heat, 0, scales);
    for (int32_t term = 0; term < HEAT_TERMS; term++)
        sum += scales[term] * heat.counts[term][3];
    expect_near((double)sum, (double)heat_rate(&heat, 3), 1e-6);
    heat_deinit(&heat);
}

/* Each token uses expert e of layer 0 with probability (e + 1) / 20, whatever came before. */
static void test_rates_of_a_steady_process_are_its_probabilities(void **state)
{
    (void)state;
    struct heat heat;
    make_heat(&heat);
    uint64_t random = 3;
    double sums[EXPERTS] = {0};
    int32_t samples = 0;
    for (int64_t token = 0; token < 12000; token++) {
        for (int32_t e = 0; e < EXPERTS; e++)
            if ((int32_t)test_random_below(&random, 20) < e + 1) heat_use(&heat, e, token);
        if (token < 6000) continue;
        samples++;
        for (int32_t e = 0; e < EXPERTS; e++)
            sums[e] += (double)heat_rate(&heat, e);
    }
    for (int32_t e = 0; e < EXPERTS; e++)
        expect_near(sums[e] / samples, (e + 1) / 20.0, 0.1 * (e + 1) / 20.0 + 0.01);
    /* Nothing is to be learnt from the last few tokens, so the long memory has the say. */
    const float *weights = heat.fits[0].weights;
    float recent = weights[0] / (1 - exp2f(-1 / 6.0f));
    assert_true(recent < 0.2f);
    heat_deinit(&heat);
}

/* Experts come in bursts of about ten tokens, all equally often in the long run. */
static void test_rates_of_a_bursty_process_follow_the_bursts(void **state)
{
    (void)state;
    struct heat heat;
    make_heat(&heat);
    uint64_t random = 4;
    int32_t burst = 0;
    double on = 0, off = 0;
    int32_t samples = 0;
    for (int64_t token = 0; token < 12000; token++) {
        if (test_random_below(&random, 10) == 0)
            burst = (int32_t)test_random_below(&random, EXPERTS);
        heat_use(&heat, burst, token);
        if (token < 6000) continue;
        samples++;
        on += (double)heat_rate(&heat, burst);
        off += (double)heat_rate(&heat, (burst + 1) % EXPERTS);
    }
    assert_true(on / samples > 5 * off / samples);
    /* Of the next tokens by the horizon, a part belongs to the burst under way. */
    assert_true(on / samples > 0.2 && on / samples < 0.8);
    heat_deinit(&heat);
}

static void use_at_random(struct heat *heat, uint64_t seed)
{
    for (int64_t token = 0; token < 1000; token++)
        for (int32_t layer = 0; layer < LAYERS; layer++)
            heat_use(heat,
                     layer * EXPERTS + (int32_t)test_random_below(&seed, 1 + (uint32_t)layer * 7),
                     token);
}

static void test_a_profile_comes_back_as_it_was(void **state)
{
    (void)state;
    struct sl_error error;
    struct heat heat, again;
    char *directory = test_make_directory("heat"), *path = test_path(directory, "profile");
    make_heat(&heat);
    make_heat(&again);
    use_at_random(&heat, 5);
    assert_int_equal(heat_save(&heat, path, 77, &error), SL_OK);
    assert_int_equal(heat_load(&again, path, 77, &error), SL_OK);
    for (int32_t i = 0; i < LAYERS * EXPERTS; i++) {
        expect_near((double)heat_rate(&again, i), (double)heat_rate(&heat, i),
                    1e-5 * (double)heat_rate(&heat, i));
        assert_int_equal(heat_last_use(&again, i), HEAT_NEVER);
    }
    heat_use(&again, 0, 123456); /* counts go on from there */
    assert_true(heat_count(&again, 0, 3) > heat_count(&heat, 0, 3) + 0.5f);
    heat_deinit(&heat);
    heat_deinit(&again);
    test_remove_tree(directory);
    free(directory);
    free(path);
}

static void expect_refusal(const void *data, size_t bytes, uint64_t fingerprint,
                           enum sl_status wanted, const char *word)
{
    struct sl_error error;
    struct heat heat;
    make_heat(&heat);
    assert_int_equal(heat_parse(&heat, data, bytes, "old.heat", fingerprint, &error), wanted);
    assert_non_null(strstr(error.message, "old.heat"));
    assert_non_null(strstr(error.message, word));
    for (int32_t i = 0; i < LAYERS * EXPERTS; i++)
        assert_true(heat_rate(&heat, i) == 0);
    heat_deinit(&heat);
}

static void seal_head(char *data)
{
    uint64_t checksum = XXH3_64bits(data, HEAT_PROFILE_HEAD_BYTES - 8);
    memcpy(data + HEAT_PROFILE_HEAD_BYTES - 8, &checksum, sizeof checksum);
}

static void test_what_is_no_profile_of_this_model_is_refused_by_name(void **state)
{
    (void)state;
    struct sl_error error;
    struct heat heat;
    char *directory = test_make_directory("heat"), *path = test_path(directory, "profile");
    size_t bytes;
    make_heat(&heat);
    use_at_random(&heat, 6);
    assert_int_equal(heat_save(&heat, path, 77, &error), SL_OK);
    char *data = test_read_file(path, &bytes);
    expect_refusal(data, bytes, 78, SL_ERR_FORMAT, "another model");
    expect_refusal(data, bytes - 1, 77, SL_ERR_FORMAT, "bytes");
    expect_refusal(data, 20, 77, SL_ERR_FORMAT, "not a heat profile");
    for (size_t at = 0; at < bytes; at += 13) {
        data[at] ^= 16;
        enum sl_status wanted = at < 8    ? SL_ERR_FORMAT
                                : at < 12 ? SL_ERR_UNSUPPORTED
                                          : SL_ERR_CHECKSUM;
        expect_refusal(data, bytes, 77, wanted, "");
        data[at] ^= 16;
    }
    data[12]++;
    seal_head(data);
    expect_refusal(data, bytes, 77, SL_ERR_FORMAT, "layers");
    heat_deinit(&heat);
    assert_int_equal(heat_init(&heat, LAYERS, EXPERTS, &error), SL_OK);
    assert_int_equal(heat_load(&heat, directory, 77, &error), SL_ERR_IO);
    heat_deinit(&heat);
    test_remove_tree(directory);
    free(data);
    free(directory);
    free(path);
}

static void test_shapes_out_of_bounds_are_refused(void **state)
{
    (void)state;
    struct sl_error error;
    struct heat heat;
    assert_int_equal(heat_init(&heat, 0, 4, &error), SL_ERR_ARGUMENT);
    assert_int_equal(heat_init(&heat, 4, HEAT_EXPERTS_MAX + 1, &error), SL_ERR_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts_equal_a_sum_over_all_uses),
        cmocka_unit_test(test_an_unused_expert_is_worth_nothing_and_a_used_one_something),
        cmocka_unit_test(test_rates_of_a_steady_process_are_its_probabilities),
        cmocka_unit_test(test_rates_of_a_bursty_process_follow_the_bursts),
        cmocka_unit_test(test_a_profile_comes_back_as_it_was),
        cmocka_unit_test(test_what_is_no_profile_of_this_model_is_refused_by_name),
        cmocka_unit_test(test_shapes_out_of_bounds_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
