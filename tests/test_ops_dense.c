/* labels: unit */
/* Products, norms and pointwise ops of the CPU table against plain double-precision loops. */
#include "kernels/lowp.h"
#include "tests/support_ops.h"

#include <math.h>
#include <string.h>

/* A bf16 result may differ from the rounded double by one unit in the last place. */
#define ULP_BF16 0x1p-7

static void embedding_rows_are_copied_to_every_stream(void **state)
{
    enum { VOCAB = 11, HIDDEN = 129, STREAMS = 4, TOKENS = 5 };
    static const int32_t ids[TOKENS] = {0, 10, 3, 3, 7};
    uint64_t seed = 10;
    const uint16_t *table = ops_test_random_codes(&seed, VOCAB * HIDDEN, 3.0f);
    float *out = ops_test_floats(TOKENS * STREAMS * HIDDEN);
    struct embed_args args = {.ids = ids,
                              .table = {table, NULL, MATRIX_BF16, VOCAB, HIDDEN},
                              .out = out,
                              .tokens = TOKENS,
                              .streams = STREAMS};
    (void)state;
    cpu_embed(ops_test_stream(3), &args);
    for (int i = 0; i < TOKENS * STREAMS * HIDDEN; i++) {
        int id = ids[i / (STREAMS * HIDDEN)];
        assert_true(out[i] == bf16_decode(table[id * HIDDEN + i % HIDDEN]));
    }
    args.tokens = 0;
    cpu_embed(ops_test_stream(1), &args);
}

static void check_norm(int32_t rows, int32_t width, float magnitude, bool round)
{
    uint64_t seed = 11 + (uint64_t)width;
    size_t count = (size_t)rows * (size_t)width;
    float *x = ops_test_random_bf16(&seed, count, magnitude);
    const uint16_t *weight = ops_test_random_codes(&seed, (size_t)width, 2.0f);
    double *want = ops_test_alloc(count * sizeof *want);
    float *out = ops_test_floats(count);
    for (int32_t r = 0; r < rows; r++) {
        double sum = 0;
        for (int32_t i = 0; i < width; i++)
            sum += pow((double)x[r * width + i], 2);
        for (int32_t i = 0; i < width; i++)
            want[r * width + i] = (double)bf16_decode(weight[i]) * (double)x[r * width + i] /
                                  sqrt(sum / width + 1e-6);
    }
    struct norm_args args = {x, weight, out, rows, width, 1e-6f, round};
    cpu_norm(ops_test_stream(2), &args);
    ops_test_close("norm", out, want, count, 1e-30, round ? ULP_BF16 : 1e-6);
    args.out = x; /* in place */
    cpu_norm(ops_test_stream(1), &args);
    ops_test_same_bits("norm in place", x, out, count * sizeof *out);
}

static void norms_agree_at_odd_widths_and_extremes(void **state)
{
    static const int32_t widths[] = {1, 3, 127, 129, 1024};
    (void)state;
    for (size_t i = 0; i < SL_COUNT_OF(widths); i++) {
        check_norm(4, widths[i], 2.0f, false);
        check_norm(1, widths[i], 2.0f, true);
        check_norm(3, widths[i], 0.0f, true);
        check_norm(2, widths[i], 1e-12f, false);
        check_norm(2, widths[i], 1e15f, true);
    }
    check_norm(0, 5, 1.0f, false);
}

static void check_head_norm(int width, float magnitude, bool round)
{
    enum { ROWS = 203, WIDTH_MAX = 96 };
    uint64_t seed = 12;
    double want[ROWS * WIDTH_MAX];
    float *x = ops_test_random_bf16(&seed, (size_t)(ROWS * width), magnitude);
    for (int r = 0; r < ROWS; r++) {
        double sum = 0;
        for (int i = 0; i < width; i++) {
            double square = (double)x[r * width + i] * (double)x[r * width + i];
            sum += round ? ops_test_bf16(square) : square;
        }
        double inverse = 1 / sqrt(sum / width + 1e-6);
        if (round)
            inverse = ops_test_bf16(1 / sqrt(ops_test_bf16(ops_test_bf16(sum / width) + 1e-6)));
        for (int i = 0; i < width; i++) {
            double value = inverse * (double)x[r * width + i];
            want[r * width + i] = round ? ops_test_bf16(value) : value;
        }
    }
    cpu_head_norm(ops_test_stream(2), &(struct head_norm_args){x, ROWS, width, 1e-6f, round});
    ops_test_close("head norm", x, want, (size_t)(ROWS * width), 1e-30, 1e-6);
}

static void head_norms_take_the_bf16_steps_of_the_published_program(void **state)
{
    (void)state;
    for (int round = 0; round < 2; round++) {
        check_head_norm(96, 3.0f, round);
        check_head_norm(2, 3.0f, round); /* too few for the rounding of squares to average out */
        check_head_norm(3, 2e-3f, round);
    }
}

static void rotations_agree_and_the_inverse_undoes_them(void **state)
{
    enum { TOKENS = 3, HEADS = 5, WIDTH = 20, ROTARY = 6 };
    static const int32_t positions[TOKENS] = {0, 77, 1000003};
    static const float frequencies[ROTARY / 2] = {1.0f, 0.01f, 0.3f};
    uint64_t seed = 13;
    const size_t count = TOKENS * HEADS * WIDTH;
    float *x = ops_test_random(&seed, count, 2.0f);
    float *original = ops_test_floats(count);
    double *want = ops_test_alloc(count * sizeof *want);
    (void)state;
    memcpy(original, x, count * sizeof *x);
    for (size_t i = 0; i < count; i++)
        want[i] = (double)x[i];
    for (int row = 0; row < TOKENS * HEADS; row++) {
        for (int j = 0; j < ROTARY / 2; j++) {
            double angle = (double)((float)positions[row / HEADS] * frequencies[j]);
            double *pair = want + row * WIDTH + WIDTH - ROTARY + 2 * j;
            double a = pair[0];
            double b = pair[1];
            pair[0] = a * cos(angle) - b * sin(angle);
            pair[1] = a * sin(angle) + b * cos(angle);
        }
    }
    struct rope_args args = {x, positions, frequencies, TOKENS, HEADS, WIDTH, ROTARY, false, false};
    cpu_rope(ops_test_stream(2), &args);
    ops_test_close("rotation", x, want, count, 1e-6, 0);
    args.inverse = true;
    cpu_rope(ops_test_stream(1), &args);
    for (size_t i = 0; i < count; i++)
        assert_float_equal(x[i], original[i], 1e-6f);
}

/* A weight of any format and its values in double. */
struct test_weight {
    struct matrix matrix;
    double *values;
};

static struct test_weight make_weight(uint64_t *seed, enum matrix_format format, int32_t rows,
                                      int32_t columns)
{
    size_t count = (size_t)rows * (size_t)columns;
    int32_t tiles = ceil_div_i32(columns, 128);
    struct test_weight weight = {.matrix = {NULL, NULL, format, rows, columns},
                                 .values = ops_test_alloc(count * sizeof(double))};
    if (format == MATRIX_F32) weight.matrix.data = ops_test_random(seed, count, 1.0f);
    if (format == MATRIX_BF16) weight.matrix.data = ops_test_random_codes(seed, count, 1.0f);
    if (format == MATRIX_FP8) {
        weight.matrix.data = ops_test_random_fp8(seed, count);
        weight.matrix.scale =
            ops_test_random_bytes(seed, (size_t)ceil_div_i32(rows, 128) * (size_t)tiles, 115, 8);
    }
    for (size_t i = 0; i < count; i++) {
        size_t tile = i / (size_t)columns / 128 * (size_t)tiles + i % (size_t)columns / 128;
        if (format == MATRIX_F32)
            weight.values[i] = (double)((const float *)weight.matrix.data)[i];
        else if (format == MATRIX_BF16)
            weight.values[i] = (double)bf16_decode(((const uint16_t *)weight.matrix.data)[i]);
        else
            weight.values[i] = ops_test_e4m3_value(((const uint8_t *)weight.matrix.data)[i]) *
                               ops_test_e8m0_value(weight.matrix.scale[tile]);
    }
    return weight;
}

/* Fails unless every sum is within f32 rounding of the double one, terms taken into account. */
static void check_products(const struct linear_args *args, const double *x, const double *weights)
{
    int32_t columns = args->weight.columns;
    int32_t per_group = args->weight.rows / args->groups;
    for (int32_t i = 0; i < args->tokens * args->weight.rows; i++) {
        int32_t row = i % args->weight.rows;
        const double *input =
            x + (size_t)(i / args->weight.rows * args->groups + row / per_group) * (size_t)columns;
        double sum = 0;
        double size = 0;
        for (int32_t c = 0; c < columns; c++) {
            double term = input[c] * weights[(size_t)row * (size_t)columns + (size_t)c];
            sum += term;
            size += fabs(term);
        }
        double limit = size * 2e-6 + (args->round ? fabs(sum) * ULP_BF16 : 0) + 1e-37;
        if (!(fabs((double)args->out[i] - sum) <= limit))
            fail_msg("output %d is %.9g, expected %.9g", i, (double)args->out[i], sum);
    }
}

/* One shape: correct, and the same bits for any threads and any split of the tokens. */
static void check_linear(enum matrix_format format, int32_t rows, int32_t columns, int32_t groups,
                         int32_t tokens, float magnitude, bool quantise)
{
    uint64_t seed = (uint64_t)(rows * 131 + columns);
    size_t x_stride = (size_t)groups * (size_t)columns;
    struct test_weight weight = make_weight(&seed, format, rows, columns);
    float *x = ops_test_random_bf16(&seed, (size_t)tokens * x_stride, magnitude);
    double *input = ops_test_alloc((size_t)tokens * x_stride * sizeof *input);
    float *out = ops_test_floats((size_t)tokens * (size_t)rows);
    float *again = ops_test_floats((size_t)tokens * (size_t)rows);
    if (columns > 2 && tokens > 0) x[columns / 2] *= 100.0f;
    for (size_t i = 0; i < (size_t)tokens * x_stride; i++)
        input[i] = (double)x[i];
    for (int32_t i = 0; quantise && i < tokens * groups; i++)
        ops_test_round_trip_fp8(x + (size_t)i * (size_t)columns,
                                input + (size_t)i * (size_t)columns, columns, 128);
    struct linear_args args = {x, weight.matrix, out, tokens, groups, quantise, quantise, true};
    cpu_linear(ops_test_stream(1), &args);
    check_products(&args, input, weight.values);
    for (int32_t threads = 2; threads <= 4; threads++) {
        struct stream *stream = ops_test_stream(threads);
        int32_t step = threads == 2 ? 1 : threads == 3 ? 65 : tokens;
        for (int32_t first = 0; first < tokens; first += args.tokens) {
            args.tokens = min_i32(step, tokens - first);
            args.x = x + (size_t)first * x_stride;
            args.out = again + (size_t)first * (size_t)rows;
            cpu_linear(stream, &args);
        }
        ops_test_same_bits("linear", again, out, (size_t)tokens * (size_t)rows * sizeof *out);
    }
    ops_test_teardown(NULL);
}

static void products_agree_and_depend_on_row_and_token_alone(void **state)
{
    static const int32_t shapes[][4] = {/* rows, columns, groups, tokens */
                                        {1, 1, 1, 1},     {3, 3, 1, 2},     {130, 127, 1, 3},
                                        {131, 129, 1, 5}, {64, 512, 2, 70}, {24, 300, 3, 131},
                                        {16, 16, 1, 0}};
    (void)state;
    for (size_t i = 0; i < SL_COUNT_OF(shapes); i++) {
        const int32_t *s = shapes[i];
        check_linear(MATRIX_F32, s[0], s[1], s[2], s[3], 1.0f, false);
        check_linear(MATRIX_BF16, s[0], s[1], s[2], s[3], 1.0f, false);
        check_linear(MATRIX_FP8, s[0], s[1], s[2], s[3], 1.0f, false);
        check_linear(MATRIX_FP8, s[0], s[1], s[2], s[3], 1.0f, true);
    }
    check_linear(MATRIX_FP8, 9, 256, 1, 3, 0.0f, true);
    check_linear(MATRIX_FP8, 9, 256, 1, 3, 1e-9f, true);
    check_linear(MATRIX_FP8, 9, 256, 1, 3, 1e20f, true);
    /* Wider than a tile of tokens' scratch: fewer tokens go at a time. */
    check_linear(MATRIX_FP8, 2, 40000, 1, 33, 1.0f, true);
}

static double swiglu_in_double(double gate, double up, double limit)
{
    double g = fmin(gate, limit);
    double u = fmin(fmax(up, -limit), limit);
    return g / (1 + exp(-g)) * u;
}

static void swiglu_clamps_gate_above_and_up_on_both_sides(void **state)
{
    static const float gates[] = {0,   1,     -1,     9.9f, 10,    10.1f,
                                  500, -9.9f, -10.5f, -80,  -1000, -3e38f};
    static const float ups[] = {0, 1, -1, 10, -10, 10.5f, -10.5f, 1e30f, -1e30f, 0.3f, 7, -2};
    enum { WIDTH = 12, TOKENS = 12 };
    float gate[TOKENS * WIDTH];
    float up[TOKENS * WIDTH];
    double want[TOKENS * WIDTH];
    (void)state;
    for (int i = 0; i < TOKENS * WIDTH; i++) {
        gate[i] = gates[i / WIDTH];
        up[i] = ups[i % WIDTH];
        want[i] = swiglu_in_double((double)gate[i], (double)up[i], 10);
    }
    float out[TOKENS * WIDTH];
    struct swiglu_args args = {gate, up, out, TOKENS, WIDTH, 10.0f, false};
    cpu_swiglu(ops_test_stream(2), &args);
    ops_test_close("swiglu", out, want, TOKENS * WIDTH, 1e-35, 1e-6);
    args.out = gate;
    args.round = true;
    cpu_swiglu(ops_test_stream(2), &args);
    for (int i = 0; i < TOKENS * WIDTH; i++)
        assert_true(gate[i] == bf16_round(out[i]));
}

static void combination_adds_routed_then_shared(void **state)
{
    enum { TOKENS = 3, TOP = 6, HIDDEN = 67 };
    uint64_t seed = 15;
    float *routed = ops_test_random_bf16(&seed, TOKENS * TOP * HIDDEN, 4.0f);
    float *shared = ops_test_random_bf16(&seed, TOKENS * HIDDEN, 4.0f);
    float *out = ops_test_floats(TOKENS * HIDDEN);
    double want[TOKENS * HIDDEN];
    (void)state;
    for (int i = 0; i < TOKENS * HIDDEN; i++) {
        want[i] = (double)shared[i];
        for (int k = 0; k < TOP; k++)
            want[i] += (double)routed[(i / HIDDEN * TOP + k) * HIDDEN + i % HIDDEN];
    }
    struct moe_combine_args args = {routed, shared, out, TOKENS, TOP, HIDDEN, false};
    cpu_moe_combine(ops_test_stream(2), &args);
    ops_test_close("combine", out, want, TOKENS * HIDDEN, 1e-5, 0);
    args.out = shared;
    args.round = true;
    cpu_moe_combine(ops_test_stream(1), &args);
    for (int i = 0; i < TOKENS * HIDDEN; i++)
        assert_true(shared[i] == bf16_round(out[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(embedding_rows_are_copied_to_every_stream, ops_test_teardown),
        cmocka_unit_test_teardown(norms_agree_at_odd_widths_and_extremes, ops_test_teardown),
        cmocka_unit_test_teardown(head_norms_take_the_bf16_steps_of_the_published_program,
                                  ops_test_teardown),
        cmocka_unit_test_teardown(rotations_agree_and_the_inverse_undoes_them, ops_test_teardown),
        cmocka_unit_test_teardown(products_agree_and_depend_on_row_and_token_alone,
                                  ops_test_teardown),
        cmocka_unit_test_teardown(swiglu_clamps_gate_above_and_up_on_both_sides, ops_test_teardown),
        cmocka_unit_test_teardown(combination_adds_routed_then_shared, ops_test_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
