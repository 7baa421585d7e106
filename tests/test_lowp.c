/* labels: unit */
/* The number formats: every code, every tie, and the neighbours of every boundary. */
#include "kernels/cpu/code_table.h"
#include "kernels/lowp.h"
#include "tests/support.h"

#include <math.h>

/* The formats as their definitions say, sharing nothing with lowp.h. */
static double e4m3_value(int code)
{
    int exponent = (code >> 3) & 15;
    int mantissa = code & 7;
    double magnitude =
        exponent == 0 ? ldexp(mantissa, -9) : ldexp(1.0 + mantissa / 8.0, exponent - 7);
    return code & 128 ? -magnitude : magnitude;
}

static double e2m1_value(int code)
{
    static const double magnitudes[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    return code & 8 ? -magnitudes[code & 7] : magnitudes[code & 7];
}

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void e4m3_codes_decode_to_their_values_and_back(void **state)
{
    (void)state;
    for (int code = 0; code < 256; code++) {
        float value = e4m3_decode((uint8_t)code);
        if ((code & 127) == 127) {
            assert_true(isnan(value) && isnan(code_table_e4m3[code]));
            continue;
        }
        assert_true((double)value == e4m3_value(code));
        assert_true(code_table_e4m3[code] == value);
        assert_int_equal(signbit(code_table_e4m3[code]) != 0, code >> 7);
        assert_int_equal(e4m3_encode(value), code);
    }
}

static void e2m1_codes_decode_to_their_values_and_back(void **state)
{
    (void)state;
    for (int code = 0; code < 16; code++) {
        assert_true((double)e2m1_decode((uint8_t)code) == e2m1_value(code));
        assert_int_equal(e2m1_encode(e2m1_decode((uint8_t)code)), code);
    }
    for (int byte = 0; byte < 256; byte++) {
        assert_true((double)code_table_e2m1[byte][0] == e2m1_value(byte & 15));
        assert_true((double)code_table_e2m1[byte][1] == e2m1_value(byte >> 4));
    }
}

/* The nearest of `count` ascending magnitudes, ties to the even index (its mantissa is even). */
static int nearest_index(double magnitude, double (*value)(int), int count)
{
    int best = 0;
    for (int i = 1; i < count; i++) {
        double old = fabs(value(best) - magnitude);
        double new = fabs(value(i) - magnitude);
        if (new < old || (new == old &&i % 2 == 0)) best = i;
    }
    return best;
}

/* Tries a value, its two neighbours and their negatives. */
static void check_around(float value, uint8_t (*encode)(float), double (*decode)(int), int count)
{
    float tried[3] = {value, nextafterf(value, 0), nextafterf(value, INFINITY)};
    for (int i = 0; i < 3; i++) {
        int expected = nearest_index((double)tried[i], decode, count);
        assert_int_equal(encode(tried[i]), expected);
        assert_true(decode(encode(-tried[i])) == -decode(expected));
    }
}

static uint8_t encode_e4m3(float value)
{
    return e4m3_encode(value);
}

static uint8_t encode_e2m1(float value)
{
    return e2m1_encode(value);
}

static void encoding_chooses_the_nearest_value_and_ties_to_even(void **state)
{
    uint64_t seed = 1;
    (void)state;
    for (int code = 0; code < 126; code++) {
        double middle = (e4m3_value(code) + e4m3_value(code + 1)) / 2;
        check_around((float)e4m3_value(code), encode_e4m3, e4m3_value, 127);
        check_around((float)middle, encode_e4m3, e4m3_value, 127);
    }
    for (int code = 0; code < 7; code++) {
        double middle = (e2m1_value(code) + e2m1_value(code + 1)) / 2;
        check_around((float)e2m1_value(code), encode_e2m1, e2m1_value, 8);
        check_around((float)middle, encode_e2m1, e2m1_value, 8);
    }
    for (int i = 0; i < 100000; i++) {
        float value =
            ldexpf(fabsf(test_random_float(&seed)), (int)test_random_below(&seed, 24) - 12);
        assert_int_equal(e4m3_encode(value), nearest_index((double)value, e4m3_value, 127));
        assert_int_equal(e2m1_encode(value), nearest_index((double)value, e2m1_value, 8));
    }
}

static void encoding_saturates_and_keeps_nan(void **state)
{
    static const float large[] = {448.0f, 449.0f, 464.0f, 1e30f, INFINITY};
    (void)state;
    for (size_t i = 0; i < sizeof large / sizeof large[0]; i++) {
        assert_int_equal(e4m3_encode(large[i]), 0x7e);
        assert_int_equal(e4m3_encode(-large[i]), 0xfe);
        assert_int_equal(e2m1_encode(large[i]), 7);
        assert_int_equal(e2m1_encode(-large[i]), 15);
    }
    assert_int_equal(e4m3_encode(NAN), 0x7f);
    assert_true(isnan(bf16_round(NAN)));
    assert_true(isnan(bf16_round(float_of(0x7f800001u)))); /* a payload that rounding would lose */
    assert_true(isnan(bf16_round(float_of(0xffffffffu))));
    assert_true(bf16_round(INFINITY) == INFINITY);
    assert_true(bf16_round(-INFINITY) == -INFINITY);
    assert_true(bf16_round(float_of(0x7f7fffffu)) == INFINITY); /* beyond the last midpoint */
}

static void bf16_rounds_every_midpoint_to_even(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 0x10000u; code++) {
        float value = bf16_decode((uint16_t)code);
        if ((code & 0x7fffu) > 0x7f80u) {
            assert_true(isnan(value));
            continue;
        }
        assert_int_equal(bf16_encode(value), code);
        if ((code & 0x7fffu) == 0x7f80u) continue;
        uint32_t even = code + (code & 1u);
        assert_int_equal(bf16_encode(float_of(code << 16 | 0x8000u)), even);
        assert_int_equal(bf16_encode(float_of(code << 16 | 0x7fffu)), code);
        assert_int_equal(bf16_encode(float_of(code << 16 | 0x8001u)), code + 1);
    }
}

static void e8m0_codes_are_powers_of_two(void **state)
{
    (void)state;
    for (int code = 0; code < 255; code++) {
        float value = e8m0_decode((uint8_t)code);
        assert_true((double)value == ldexp(1.0, code - 127));
        if (code > 0) assert_int_equal(e8m0_encode(value), code);
    }
    assert_true(isnan(e8m0_decode(255)));
}

static void scales_are_the_smallest_power_of_two_that_fits(void **state)
{
    uint64_t seed = 2;
    (void)state;
    for (int exponent = -126; exponent < 127; exponent++) {
        float power = ldexpf(1.0f, exponent);
        assert_true(lowp_pow2_up(power) == power);
        assert_true(lowp_pow2_up(nextafterf(power, INFINITY)) == 2 * power);
    }
    assert_true(lowp_fp8_scale(448.0f) == 1.0f);
    assert_true(lowp_fp4_scale(6.0f) == 1.0f);
    assert_true(lowp_fp8_scale(nextafterf(449.0f, INFINITY)) == 2.0f);
    assert_true(lowp_fp8_scale(0.0f) == 0x1p-22f); /* 1e-4 / 448 lies just below */
    assert_true(lowp_fp4_scale(0.0f) == 0x1p-126f);
    for (int i = 0; i < 100000; i++) {
        float amax = ldexpf(1.0f + fabsf(test_random_float(&seed)),
                            (int)test_random_below(&seed, 200) - 100);
        float fp4 = lowp_fp4_scale(amax);
        assert_true(amax / fp4 <= 6.0f * 1.000001f && amax / fp4 >= 2.999999f);
        float fp8 = lowp_fp8_scale(amax);
        if (amax < 1e-4f) continue;
        assert_true(amax / fp8 <= 448.0f * 1.000001f && amax / fp8 >= 223.9999f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(e4m3_codes_decode_to_their_values_and_back),
        cmocka_unit_test(e2m1_codes_decode_to_their_values_and_back),
        cmocka_unit_test(encoding_chooses_the_nearest_value_and_ties_to_even),
        cmocka_unit_test(encoding_saturates_and_keeps_nan),
        cmocka_unit_test(bf16_rounds_every_midpoint_to_even),
        cmocka_unit_test(e8m0_codes_are_powers_of_two),
        cmocka_unit_test(scales_are_the_smallest_power_of_two_that_fits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
