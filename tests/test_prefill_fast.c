/* labels: unit */
/* Fast prefill: products through OpenBLAS against double-precision sums, and that nothing else
 * changes: few tokens, other weights, other instruction sets, and an engine without the option. */
#include "kernels/cpu/blas.h"
#include "kernels/cpu_isa.h"
#include "runtime/sl.h"
#include "tests/support_engine.h"
#include "tests/support_golden.h"
#include "tests/support_ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TOKENS 200 /* of a prompt */

static struct stream *stream_or_skip(int32_t threads)
{
    struct stream *stream;
    if (!cpu_isa_supported(CPU_ISA_AVX2)) skip();
    enum sl_status status =
        blas_stream_create(&(struct stream_options){.threads = threads}, &stream);
    if (status == SL_ERR_UNSUPPORTED) skip();
    assert_int_equal(status, SL_OK);
    return stream;
}

static struct linear_args make_product(uint64_t *seed, int32_t tokens, int32_t rows,
                                       int32_t columns, int32_t groups)
{
    size_t tiles = (size_t)(ceil_div_i32(rows, 128) * ceil_div_i32(columns, 128));
    return (struct linear_args){
        .x = ops_test_random_bf16(seed, (size_t)(tokens * groups * columns), 3.0f),
        .weight = {ops_test_random_fp8(seed, (size_t)(rows * columns)),
                   ops_test_random_bytes(seed, tiles, 118, 6), MATRIX_FP8, rows, columns},
        .out = ops_test_floats((size_t)(tokens * rows)),
        .tokens = tokens,
        .groups = groups,
        .bf16_input = true,
    };
}

/* Root mean square of the error over that of the sums. */
static double relative_error(const struct linear_args *args)
{
    const struct matrix *weight = &args->weight;
    int32_t columns = weight->columns, inputs = args->tokens * args->groups;
    double *x = ops_test_alloc((size_t)(inputs * columns) * sizeof *x);
    double error = 0, size = 0;
    for (int32_t i = 0; i < inputs; i++) {
        for (int32_t c = 0; c < columns; c++)
            x[i * columns + c] = (double)args->x[i * columns + c];
        if (args->quantise_input)
            ops_test_round_trip_fp8(args->x + i * columns, x + i * columns, columns, 128);
    }
    for (int32_t t = 0; t < args->tokens; t++) {
        for (int32_t row = 0; row < weight->rows; row++) {
            const uint8_t *codes = (const uint8_t *)weight->data + row * columns;
            const uint8_t *scales = weight->scale + row / 128 * ceil_div_i32(columns, 128);
            int32_t group = row / (weight->rows / args->groups);
            double sum = 0;
            for (int32_t c = 0; c < columns; c++)
                sum += x[(t * args->groups + group) * columns + c] * ops_test_e4m3_value(codes[c]) *
                       ops_test_e8m0_value(scales[c / 128]);
            error += pow((double)args->out[t * weight->rows + row] - sum, 2);
            size += sum * sum;
        }
    }
    return sqrt(error / size);
}

static void products_stay_within_the_limit(void **state)
{
    static const int32_t shapes[][4] = {/* tokens, rows, columns, groups */
                                        {1, 1, 1, 1},      {3, 130, 129, 1},  {64, 256, 512, 1},
                                        {65, 96, 1000, 1}, {300, 40, 300, 1}, {17, 512, 256, 4},
                                        {64, 260, 200, 2}, {257, 129, 257, 1}};
    struct stream *stream = stream_or_skip(2);
    uint64_t seed = 11;
    double worst = 0;
    (void)state;
    for (size_t i = 0; i < SL_COUNT_OF(shapes); i++) {
        struct linear_args args =
            make_product(&seed, shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3]);
        for (int quantise = 0; quantise < 2; quantise++) {
            args.quantise_input = quantise;
            cpu_linear_blas_avx2(stream, &args);
            worst = fmax(worst, relative_error(&args));
        }
        ops_test_teardown(NULL);
    }
    print_message("largest error: %.1e\n", worst);
    assert_true(worst < 1e-6);
    blas_stream_destroy(stream);
}

static void rounded_results_are_the_rounded_sums(void **state)
{
    enum { TOKENS_HERE = 64, ROWS = 140, COLUMNS = 256 };
    struct stream *stream = stream_or_skip(1);
    uint64_t seed = 12;
    struct linear_args args = make_product(&seed, TOKENS_HERE, ROWS, COLUMNS, 1);
    float *plain = args.out;
    (void)state;
    cpu_linear_blas_avx2(stream, &args);
    args.out = ops_test_floats(TOKENS_HERE * ROWS);
    args.round = true;
    cpu_linear_blas_avx2(stream, &args);
    for (int32_t i = 0; i < TOKENS_HERE * ROWS; i++)
        assert_true((double)args.out[i] == ops_test_bf16((double)plain[i]));
    blas_stream_destroy(stream);
}

static void few_tokens_and_other_weights_take_the_exact_kernel(void **state)
{
    static const int32_t tokens[] = {1, 8, BLAS_LINEAR_TOKENS_MIN - 1};
    struct stream *stream = stream_or_skip(2);
    uint64_t seed = 13;
    (void)state;
    for (size_t i = 0; i < SL_COUNT_OF(tokens) + 1; i++) {
        bool bf16 = i == SL_COUNT_OF(tokens);
        struct linear_args args = make_product(&seed, bf16 ? 100 : tokens[i], 64, 512, 1);
        if (bf16) {
            args.weight.format = MATRIX_BF16;
            args.weight.data = ops_test_random_codes(&seed, 64 * 512, 1.0f);
        }
        size_t floats = (size_t)(args.tokens * 64);
        float *fast = args.out;
        ops_cpu_isa_fast_prefill(CPU_ISA_AVX2)->linear(stream, &args);
        args.out = ops_test_floats(floats);
        ops_cpu_isa(CPU_ISA_AVX2)->linear(stream, &args);
        ops_test_same_bits("linear", fast, args.out, floats * sizeof *fast);
    }
    blas_stream_destroy(stream);
}

static void many_tokens_go_through_openblas(void **state)
{
    struct stream *stream = stream_or_skip(2);
    uint64_t seed = 14;
    struct linear_args args = make_product(&seed, BLAS_LINEAR_TOKENS_MIN, 256, 1024, 1);
    size_t bytes = (size_t)(BLAS_LINEAR_TOKENS_MIN * 256) * sizeof(float);
    float *fast = args.out;
    (void)state;
    ops_cpu_isa_fast_prefill(CPU_ISA_AVX2)->linear(stream, &args);
    args.out = ops_test_floats(bytes / sizeof(float));
    cpu_linear_blas_avx2(stream, &args);
    ops_test_same_bits("linear", fast, args.out, bytes);
    blas_stream_destroy(stream);
}

static void other_instruction_sets_have_nothing_to_gain(void **state)
{
    (void)state;
    for (int isa = 0; isa < CPU_ISA_COUNT; isa++)
        if (isa != CPU_ISA_AVX2 && cpu_isa_supported((enum cpu_isa)isa))
            assert_ptr_equal(ops_cpu_isa_fast_prefill((enum cpu_isa)isa),
                             ops_cpu_isa((enum cpu_isa)isa));
}

/* Logits [TOKENS, vocab] of a prompt; skips without OpenBLAS. */
static float *run_prompt(bool fast, int32_t chunk_tokens, size_t *floats)
{
    char *directory = golden_directory("tiny-a");
    struct sl_engine_options options = engine_test_options(directory, 64u << 20);
    struct sl_error error;
    sl_engine *engine;
    int32_t ids[TOKENS];
    for (int32_t i = 0; i < TOKENS; i++)
        ids[i] = (i * 29 + 3) % 512;
    options.cpu_isa = "avx2";
    options.fast_prefill = fast;
    options.context_tokens = TOKENS;
    options.chunk_tokens = chunk_tokens;
    enum sl_status status = sl_engine_open(&options, &engine, &error);
    free(directory);
    if (status == SL_ERR_UNSUPPORTED) skip();
    if (status != SL_OK) fail_msg("%s", error.message);
    *floats = (size_t)sl_engine_info(engine).vocab * TOKENS;
    float *logits = ops_test_floats(*floats);
    sl_session *session = engine_test_session(engine);
    assert_int_equal(sl_session_append(session, ids, TOKENS, logits, &error), SL_OK);
    sl_session_destroy(session);
    sl_engine_close(engine);
    return logits;
}

static void an_engine_uses_it_only_when_asked_and_for_many_tokens(void **state)
{
    size_t floats;
    float *exact = run_prompt(false, TOKENS, &floats);
    float *fast = run_prompt(true, TOKENS, &floats);
    float *few = run_prompt(true, BLAS_LINEAR_TOKENS_MIN - 1, &floats);
    double error = 0, size = 0;
    (void)state;
    ops_test_same_bits("small chunks", few, exact, floats * sizeof *exact);
    for (size_t i = 0; i < floats; i++) {
        error += pow((double)fast[i] - (double)exact[i], 2);
        size += pow((double)exact[i], 2);
    }
    print_message("logits differ by %.1e of their size\n", sqrt(error / size));
    assert_true(memcmp(fast, exact, floats * sizeof *exact) != 0);
    assert_true(sqrt(error / size) < 0.05);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_teardown(name, ops_test_teardown)
    const struct CMUnitTest tests[] = {
        CASE(products_stay_within_the_limit),
        CASE(rounded_results_are_the_rounded_sums),
        CASE(few_tokens_and_other_weights_take_the_exact_kernel),
        CASE(many_tokens_go_through_openblas),
        CASE(other_instruction_sets_have_nothing_to_gain),
        CASE(an_engine_uses_it_only_when_asked_and_for_many_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
