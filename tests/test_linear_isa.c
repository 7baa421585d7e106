/* labels: unit */
/* Every linear variant this processor has: against double-precision sums within the limit its file
 * states, and the same bits for any number of threads and any split of the tokens. */
#include "kernels/cpu_isa.h"
#include "kernels/lowp.h"
#include "tests/support_ops.h"

#include <math.h>
#include <string.h>

#define ULP_BF16 0x1p-7

struct linear_case {
    enum matrix_format format;
    int32_t rows, columns, groups, tokens;
    float magnitude;
    bool quantise, bf16_input;
    uint8_t scale_first, scale_bound; /* of fp8 tiles */
    int32_t small_every;              /* only one fp8 code of so many may be below 2^-6; 0: any */
};

static double weight_value(const struct matrix *weight, int32_t row, int32_t column)
{
    size_t idx = (size_t)row * (size_t)weight->columns + (size_t)column;
    if (weight->format == MATRIX_F32) return (double)((const float *)weight->data)[idx];
    if (weight->format == MATRIX_BF16)
        return (double)bf16_decode(((const uint16_t *)weight->data)[idx]);
    int32_t tile = row / 128 * ceil_div_i32(weight->columns, 128) + column / 128;
    return ops_test_e4m3_value(((const uint8_t *)weight->data)[idx]) *
           ops_test_e8m0_value(weight->scale[tile]);
}

static struct matrix make_weight(uint64_t *seed, const struct linear_case *test)
{
    size_t count = (size_t)test->rows * (size_t)test->columns;
    struct matrix weight = {NULL, NULL, test->format, test->rows, test->columns};
    if (test->format == MATRIX_F32) weight.data = ops_test_random(seed, count, 1.0f);
    if (test->format == MATRIX_BF16) weight.data = ops_test_random_codes(seed, count, 1.0f);
    if (test->format == MATRIX_FP8) {
        size_t tiles = (size_t)(ceil_div_i32(test->rows, 128) * ceil_div_i32(test->columns, 128));
        uint8_t *codes = ops_test_random_fp8(seed, count);
        for (size_t i = 0; test->small_every > 0 && i < count; i++)
            if (i % (size_t)test->small_every != 0 && !(codes[i] & 0x78)) codes[i] |= 8;
        weight.data = codes;
        weight.scale = ops_test_random_bytes(seed, tiles, test->scale_first, test->scale_bound);
    }
    return weight;
}

/* Fails unless every sum is within 2e-6 of its terms' magnitudes; below 2^-126 * scale may be lost.
 */
static void check_sums(const struct linear_args *args, const double *input)
{
    const struct matrix *weight = &args->weight;
    int32_t per_group = weight->rows / args->groups;
    double *values = ops_test_alloc((size_t)weight->columns * sizeof *values);
    for (int32_t row = 0; row < weight->rows; row++) {
        for (int32_t c = 0; c < weight->columns; c++)
            values[c] = weight_value(weight, row, c);
        for (int32_t t = 0; t < args->tokens; t++) {
            const double *x =
                input + (size_t)(t * args->groups + row / per_group) * (size_t)weight->columns;
            double sum = 0, size = 0;
            for (int32_t c = 0; c < weight->columns; c++) {
                sum += x[c] * values[c];
                size += fabs(x[c] * values[c]);
            }
            double got = (double)args->out[(size_t)t * (size_t)weight->rows + (size_t)row];
            double limit = size * 2e-6 + (args->round ? fabs(sum) * ULP_BF16 : 0) + 1e-34;
            if (!(fabs(got - sum) <= limit) && !(fabs(sum) > 3e38 && isinf(got)))
                fail_msg("row %d of token %d is %.9g, expected %.9g", row, t, got, sum);
        }
    }
}

static void check_splits(const struct ops *ops, const struct linear_args *whole)
{
    size_t x_stride = (size_t)whole->groups * (size_t)whole->weight.columns;
    size_t floats = (size_t)whole->tokens * (size_t)whole->weight.rows;
    float *again = ops_test_floats(floats);
    static const int32_t steps[] = {1, 2, 3, 4, 5, 65, 1000};
    for (size_t i = 0; i < SL_COUNT_OF(steps); i++) {
        struct linear_args args = *whole;
        struct stream *stream = ops_test_stream((int32_t)i % 3 + 1);
        for (int32_t first = 0; first < whole->tokens; first += args.tokens) {
            args.tokens = min_i32(steps[i], whole->tokens - first);
            args.x = whole->x + (size_t)first * x_stride;
            args.out = again + (size_t)first * (size_t)whole->weight.rows;
            ops->linear(stream, &args);
        }
        ops_test_same_bits("linear", again, whole->out, floats * sizeof *again);
    }
}

static void check_case(const struct ops *ops, const struct linear_case *test)
{
    uint64_t seed = (uint64_t)(test->rows * 131 + test->columns);
    size_t count = (size_t)(test->tokens * test->groups) * (size_t)test->columns;
    struct matrix weight = make_weight(&seed, test);
    float *x = test->bf16_input ? ops_test_random_bf16(&seed, count, test->magnitude)
                                : ops_test_random(&seed, count, test->magnitude);
    double *input = ops_test_alloc(count * sizeof *input);
    if (test->columns > 2 && test->tokens > 0) x[test->columns / 2] *= 128.0f;
    for (size_t i = 0; i < count; i++)
        input[i] = (double)x[i];
    for (int32_t i = 0; test->quantise && i < test->tokens * test->groups; i++)
        ops_test_round_trip_fp8(x + (size_t)i * (size_t)test->columns,
                                input + (size_t)i * (size_t)test->columns, test->columns, 128);
    struct linear_args args = {
        .x = x,
        .weight = weight,
        .out = ops_test_floats((size_t)test->tokens * (size_t)test->rows),
        .tokens = test->tokens,
        .groups = test->groups,
        .quantise_input = test->quantise,
        .round = test->quantise,
        .bf16_input = test->bf16_input,
    };
    ops->linear(ops_test_stream(1), &args);
    check_sums(&args, input);
    check_splits(ops, &args);
    ops_test_teardown(NULL);
}

static void check_shapes(const struct ops *ops)
{
    static const int32_t shapes[][4] = {/* rows, columns, groups, tokens */
                                        {1, 1, 1, 1},       {7, 3, 1, 2},     {130, 127, 1, 3},
                                        {129, 129, 1, 9},   {64, 512, 2, 70}, {24, 300, 3, 131},
                                        {6, 1409, 1, 6},    {5, 4099, 1, 5},  {16, 16, 1, 0},
                                        {12, 1024, 4, 300}, {260, 256, 2, 3}, {131, 384, 1, 5}};
    for (size_t i = 0; i < SL_COUNT_OF(shapes); i++) {
        const int32_t *s = shapes[i];
        struct linear_case test = {MATRIX_F32, s[0],  s[1], s[2], s[3], 1.0f,
                                   false,      false, 115,  8,    0};
        check_case(ops, &test);
        test.format = MATRIX_BF16;
        check_case(ops, &test);
        test.bf16_input = true;
        check_case(ops, &test);
        test.format = MATRIX_FP8;
        check_case(ops, &test);
        test.quantise = true;
        check_case(ops, &test);
        test.bf16_input = false;
        check_case(ops, &test);
        test.quantise = false;
        check_case(ops, &test);
        test.small_every = 1 << 20; /* as trained weights: nearly none, or few */
        check_case(ops, &test);
        test.small_every = 513;
        check_case(ops, &test);
    }
}

static void sums_agree_and_depend_on_row_and_token_alone(void **state)
{
    (void)state;
    ops_test_each_variant(check_shapes);
}

static void check_extremes(const struct ops *ops)
{
    static const float magnitudes[] = {0.0f, 1e-9f, 1e-4f, 1e20f};
    struct linear_case test = {MATRIX_FP8, 9, 256, 1, 6, 1.0f, true, true, 115, 8, 0};
    for (size_t i = 0; i < SL_COUNT_OF(magnitudes); i++) {
        test.magnitude = magnitudes[i];
        check_case(ops, &test);
    }
    test.magnitude = 0x1p60f;
    test.scale_first = 0; /* 2^-127 and up */
    test.scale_bound = 3;
    check_case(ops, &test);
    test.magnitude = 0x1p-20f;
    test.scale_first = 252; /* up to 2^127: some sums overflow */
    check_case(ops, &test);
    struct linear_case wide = {MATRIX_FP8, 2, 40000, 1, 33, 1.0f, true, true, 115, 8, 0};
    check_case(ops, &wide); /* fewer tokens go at a time */
}

static void extremes_agree(void **state)
{
    (void)state;
    ops_test_each_variant(check_extremes);
}

/* One column at a time: row c of the weight holds code c. */
static void check_codes(const struct ops *ops)
{
    enum { CODES = 256, TOKENS = 6 };
    static const uint8_t scale[2] = {127, 127};
    uint8_t codes[CODES];
    float x[TOKENS];
    float out[TOKENS * CODES];
    for (int c = 0; c < CODES; c++)
        codes[c] = (uint8_t)(c % 128 == 127 ? 0 : c);
    for (int t = 0; t < TOKENS; t++)
        x[t] = (float)(t + 1);
    for (int variant = 0; variant < 2; variant++) {
        struct linear_args args = {.x = x,
                                   .weight = {codes, scale, MATRIX_FP8, CODES, 1},
                                   .out = out,
                                   .tokens = TOKENS,
                                   .groups = 1,
                                   .bf16_input = variant == 1};
        ops->linear(ops_test_stream(2), &args);
        for (int i = 0; i < TOKENS * CODES; i++)
            assert_true((double)out[i] ==
                        ops_test_e4m3_value(codes[i % CODES]) * (double)x[i / CODES]);
    }
    ops_test_teardown(NULL);
}

static void every_code_is_decoded_exactly(void **state)
{
    (void)state;
    ops_test_each_variant(check_codes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(sums_agree_and_depend_on_row_and_token_alone, ops_test_teardown),
        cmocka_unit_test_teardown(extremes_agree, ops_test_teardown),
        cmocka_unit_test_teardown(every_code_is_decoded_exactly, ops_test_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
