/* labels: unit */
/* Times follow the profile, then experience; a lane that is slow or down says so. */
#include "offload/rates.h"

#include <math.h>
#include <string.h>

#include "tests/support.h"

#define BYTES 13369344

static const struct rates_machine machine = {
    .device = 0.95e12, .link = 52e9, .cpu = 150e9, .disk = 7e9, .memory = 180e9};

static void make(struct rates *rates)
{
    struct rates_profile profile;
    struct sl_error error;
    rates_profile_make(&profile, BYTES, &machine);
    assert_int_equal(rates_init(rates, &profile, &error), SL_OK);
}

static void expect_near(double value, double wanted, double tolerance)
{
    if (!(fabs(value - wanted) <= tolerance * wanted)) fail_msg("%g, expected %g", value, wanted);
}

static void test_times_are_bytes_over_rates_or_arithmetic(void **state)
{
    (void)state;
    struct rates rates;
    make(&rates);
    expect_near(rates_expert_ns(&rates, RATES_UP, 1, false), BYTES / 52.0, 1e-9);
    expect_near(rates_expert_ns(&rates, RATES_CPU, 1, false), BYTES / 150.0, 1e-9);
    expect_near(rates_expert_ns(&rates, RATES_CPU, 1, true), BYTES / 128.0, 1e-9);
    expect_near(rates_expert_ns(&rates, RATES_CPU, 50, false), 50 * RATES_CPU_TOKEN_NS, 1e-9);
}

static void test_reads_are_faster_with_more_in_flight(void **state)
{
    (void)state;
    struct rates rates;
    make(&rates);
    expect_near(rates_disk_ns(&rates, 1), BYTES / 7.0 + RATES_DISK_FIXED_NS, 1e-9);
    for (int32_t depth = 1; depth < 64; depth++)
        assert_true(rates_disk_ns(&rates, depth + 1) < rates_disk_ns(&rates, depth));
    assert_true(rates_disk_ns(&rates, 200) == rates_disk_ns(&rates, 64));
}

static void test_estimates_go_where_observations_are(void **state)
{
    (void)state;
    struct rates rates;
    make(&rates);
    double before = rates_expert_ns(&rates, RATES_UP, 1, true);
    for (int32_t i = 0; i < 200; i++)
        rates_observe(&rates, RATES_UP, 2, 1, true, 2 * 3.0 * before);
    expect_near(rates_expert_ns(&rates, RATES_UP, 1, true), 3 * before, 0.01);
    assert_true(rates_expert_ns(&rates, RATES_UP, 1, false) == before);
    assert_null(rates_reason(&rates, RATES_UP));
    rates_observe(&rates, RATES_UP, 1, 1, false, 1e15); /* one wild value is no catastrophe */
    assert_true(rates_expert_ns(&rates, RATES_UP, 1, false) < 1.3 * before);
    rates_observe(&rates, RATES_UP, 1, 1, false, NAN);
    assert_true(isfinite(rates_expert_ns(&rates, RATES_UP, 1, false)));
}

static void test_a_slow_lane_is_named_and_recovers(void **state)
{
    (void)state;
    struct rates rates;
    make(&rates);
    double each = rates_disk_ns(&rates, 4);
    for (int32_t i = 0; i < 300; i++)
        rates_observe(&rates, RATES_DISK, 1, 4, false, 10 * each);
    assert_non_null(rates_reason(&rates, RATES_DISK));
    assert_non_null(strstr(rates_reason(&rates, RATES_DISK), "disk"));
    for (int32_t i = 0; i < 300; i++)
        rates_observe(&rates, RATES_DISK, 1, 4, false, each);
    assert_null(rates_reason(&rates, RATES_DISK));
}

static void test_a_lane_goes_down_with_a_reason_and_comes_back(void **state)
{
    (void)state;
    struct rates rates;
    make(&rates);
    rates_set_down(&rates, RATES_UP, "the link does not answer");
    assert_false(rates_usable(&rates, RATES_UP));
    assert_true(isinf(rates_expert_ns(&rates, RATES_UP, 1, false)));
    assert_string_equal(rates_reason(&rates, RATES_UP), "the link does not answer");
    rates_set_down(&rates, RATES_UP, NULL);
    assert_true(rates_usable(&rates, RATES_UP) && !rates_reason(&rates, RATES_UP));
}

static void test_senseless_profiles_are_refused(void **state)
{
    (void)state;
    struct rates_profile profile;
    struct rates rates;
    struct sl_error error;
    rates_profile_make(&profile, 0, &machine);
    assert_int_equal(rates_init(&rates, &profile, &error), SL_ERR_ARGUMENT);
    rates_profile_make(&profile, BYTES, &machine);
    profile.lanes[RATES_CPU].fixed_ns = NAN;
    assert_int_equal(rates_init(&rates, &profile, &error), SL_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, rates_lane_name(RATES_CPU)));
    rates_profile_make(&profile, BYTES, &machine);
    profile.disk_bytes_per_second[3] = 0;
    assert_int_equal(rates_init(&rates, &profile, &error), SL_ERR_ARGUMENT);
    rates_profile_make(&profile, BYTES, &machine);
    profile.lanes[RATES_UP].shared_bytes_per_second = 0;
    assert_int_equal(rates_init(&rates, &profile, &error), SL_ERR_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_times_are_bytes_over_rates_or_arithmetic),
        cmocka_unit_test(test_reads_are_faster_with_more_in_flight),
        cmocka_unit_test(test_estimates_go_where_observations_are),
        cmocka_unit_test(test_a_slow_lane_is_named_and_recovers),
        cmocka_unit_test(test_a_lane_goes_down_with_a_reason_and_comes_back),
        cmocka_unit_test(test_senseless_profiles_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
