/* labels: golden */
/* Single operations against the vectors of the published program. */
#include "kernels/cpu/hadamard.h"
#include "kernels/cpu/row_codec.h"
#include "runtime/safetensors.h"
#include "tests/support_ops.h"

#define UNITS_PATH "tests/golden/units/units.safetensors"

static struct safetensors *units;
static char *units_bytes;

static int open_units(void **state)
{
    struct sl_error error = {0};
    (void)state;
    if (safetensors_open(UNITS_PATH, &units, &error) != SL_OK) {
        print_error("%s\n", error.message);
        return -1;
    }
    units_bytes = test_read_file(UNITS_PATH, NULL);
    return 0;
}

static int close_units(void **state)
{
    (void)state;
    safetensors_close(units);
    free(units_bytes);
    return 0;
}

/* A copy of a tensor's bytes (tensors need not be aligned in the file). */
static void *unit_raw(const char *name, enum dtype dtype, size_t count)
{
    const struct safetensors_tensor *tensor = safetensors_find(units, name);
    if (!tensor) fail_msg("%s is missing", name);
    assert_int_equal(tensor->dtype, dtype);
    assert_int_equal(tensor->bytes, count * dtype_bytes(dtype));
    void *copy = ops_test_alloc(tensor->bytes);
    memcpy(copy, units_bytes + tensor->offset_bytes, tensor->bytes);
    return copy;
}

static float *unit_f32(const char *name, size_t count)
{
    return unit_raw(name, DTYPE_F32, count);
}

static float *unit_bf16(const char *name, size_t count)
{
    const uint16_t *codes = unit_raw(name, DTYPE_BF16, count);
    float *values = ops_test_floats(count);
    for (size_t i = 0; i < count; i++)
        values[i] = bf16_decode(codes[i]);
    return values;
}

static double *unit_doubles(const float *values, size_t count)
{
    double *wide = ops_test_alloc(count * sizeof *wide);
    for (size_t i = 0; i < count; i++)
        wide[i] = (double)values[i];
    return wide;
}

#define QUANT_ROWS    24
#define QUANT_COLUMNS 256
#define QUANT_COUNT   ((size_t)QUANT_ROWS * QUANT_COLUMNS)

static void check_fp8(const char *value_name, const char *scale_name, const char *code_name,
                      int32_t block)
{
    const float *x = unit_bf16("quant.x", QUANT_COUNT);
    const float *value = unit_bf16(value_name, QUANT_COUNT);
    const float *scale = unit_f32(scale_name, QUANT_COUNT / (size_t)block);
    const uint8_t *code = unit_raw(code_name, DTYPE_F8_E4M3, QUANT_COUNT);
    uint8_t codes[LOWP_FP8_BLOCK];
    for (size_t first = 0; first < QUANT_COUNT; first += (size_t)block) {
        float got = quantise_fp8(x + first, block, codes);
        assert_true(got == scale[first / (size_t)block]);
        for (int32_t i = 0; i < block; i++) {
            assert_int_equal(codes[i], code[first + (size_t)i]);
            assert_true(e4m3_decode(codes[i]) * got == value[first + (size_t)i]);
        }
    }
}

static void fp8_blocks_equal_the_vectors_exactly(void **state)
{
    (void)state;
    check_fp8("quant.fp8_64.value", "quant.fp8_64.scale", "quant.fp8_64.code", 64);
    check_fp8("quant.fp8_128.value", "quant.fp8_128.scale", "quant.fp8_128.code", 128);
}

static void fp4_blocks_equal_the_vectors_exactly(void **state)
{
    const float *x = unit_bf16("quant.x", QUANT_COUNT);
    const float *value = unit_bf16("quant.fp4_32.value", QUANT_COUNT);
    const float *scale = unit_f32("quant.fp4_32.scale", QUANT_COUNT / 32);
    const uint8_t *code = unit_raw("quant.fp4_32.code", DTYPE_I8, QUANT_COUNT);
    uint8_t codes[LOWP_FP4_BLOCK];
    (void)state;
    for (size_t first = 0; first < QUANT_COUNT; first += 32) {
        float got = quantise_fp4(x + first, 32, codes);
        assert_true(got == scale[first / 32]);
        for (size_t i = 0; i < 32; i++) {
            /* The sign of a zero carries nothing. */
            uint8_t expected = code[first + i] & 7 ? code[first + i] : 0;
            assert_int_equal(codes[i] & 7 ? codes[i] : 0, expected);
            assert_true(e2m1_decode(codes[i]) * got == value[first + i]);
        }
    }
}

static void cached_rows_hold_the_quantised_values_exactly(void **state)
{
    const struct row_format kv = {ROW_KV, QUANT_COLUMNS, 0};
    const struct row_format key = {ROW_KEY, QUANT_COLUMNS, 0};
    const float *x = unit_bf16("quant.x", QUANT_COUNT);
    const float *fp8 = unit_bf16("quant.fp8_64.value", QUANT_COUNT);
    const float *fp4 = unit_bf16("quant.fp4_32.value", QUANT_COUNT);
    uint8_t row[QUANT_COLUMNS * 2];
    float back[QUANT_COLUMNS];
    (void)state;
    for (size_t first = 0; first < QUANT_COUNT; first += QUANT_COLUMNS) {
        row_codec_encode(&kv, x + first, row);
        row_codec_decode(&kv, row, back);
        for (size_t i = 0; i < QUANT_COLUMNS; i++)
            assert_true(back[i] == fp8[first + i]);
        row_codec_encode(&key, x + first, row);
        row_codec_decode(&key, row, back);
        for (size_t i = 0; i < QUANT_COLUMNS; i++)
            assert_true(back[i] == fp4[first + i]);
    }
}

static void hadamard_rotation_agrees_to_one_ulp(void **state)
{
    float *x = unit_bf16("hadamard.x", 6 * 128);
    const float *y = unit_bf16("hadamard.y", 6 * 128);
    (void)state;
    for (int row = 0; row < 6; row++)
        hadamard_rotate(x + row * 128, 128);
    ops_test_close("hadamard", x, unit_doubles(y, 6 * 128), 6 * 128, 1e-6, 0x1p-7);
}

#define ROPE_ROWS 13

static void check_rope(const char *frequencies, const char *forward, const char *inverse)
{
    struct stream *stream = ops_test_stream(1);
    const int32_t *positions = unit_raw("rope.position", DTYPE_I32, ROPE_ROWS);
    for (int pass = 0; pass < 2; pass++) {
        float *x = unit_bf16("rope.x", ROPE_ROWS * 64);
        const float *want = unit_bf16(pass == 0 ? forward : inverse, ROPE_ROWS * 64);
        ops_cpu()->rope(stream, &(struct rope_args){.x = x,
                                                    .positions = positions,
                                                    .frequencies = unit_f32(frequencies, 32),
                                                    .tokens = ROPE_ROWS,
                                                    .heads = 1,
                                                    .width = 64,
                                                    .rotary = 64,
                                                    .inverse = pass == 1,
                                                    .round = true});
        ops_test_close(forward, x, unit_doubles(want, ROPE_ROWS * 64), ROPE_ROWS * 64, 1e-6,
                       0x1p-7);
    }
}

static void rotations_agree_to_one_ulp_at_every_position(void **state)
{
    (void)state;
    check_rope("rope.plain.freq", "rope.plain.forward", "rope.plain.inverse");
    check_rope("rope.yarn.freq", "rope.yarn.forward", "rope.yarn.inverse");
}

/* Rotating the pair (1, 0) shows cosine and sine themselves. */
static void check_angles(const char *frequencies, const char *cosines, const char *sines)
{
    float *x = ops_test_floats(ROPE_ROWS * 64);
    for (int i = 0; i < ROPE_ROWS * 32; i++)
        x[2 * i] = 1.0f;
    cpu_rope(ops_test_stream(1),
             &(struct rope_args){.x = x,
                                 .positions = unit_raw("rope.position", DTYPE_I32, ROPE_ROWS),
                                 .frequencies = unit_f32(frequencies, 32),
                                 .tokens = ROPE_ROWS,
                                 .heads = 1,
                                 .width = 64,
                                 .rotary = 64});
    const float *cosine = unit_f32(cosines, ROPE_ROWS * 32);
    const float *sine = unit_f32(sines, ROPE_ROWS * 32);
    for (int i = 0; i < ROPE_ROWS * 32; i++) {
        assert_float_equal(x[2 * i], cosine[i], 1e-6f);
        assert_float_equal(x[2 * i + 1], sine[i], 1e-6f);
    }
}

static void angles_agree_up_to_a_million_tokens(void **state)
{
    (void)state;
    check_angles("rope.plain.freq", "rope.plain.cos", "rope.plain.sin");
    check_angles("rope.yarn.freq", "rope.yarn.cos", "rope.yarn.sin");
}

static void hyper_connection_factors_agree(void **state)
{
    enum { TOKENS = 16, M = 4 };
    float *streams = ops_test_floats(TOKENS * M * M);
    float *x = ops_test_floats(TOKENS * M);
    float *post = ops_test_floats(TOKENS * M);
    float *comb = ops_test_floats(TOKENS * M * M);
    (void)state;
    /* Streams of root mean square 1 that show twice the factors of the sum in x. */
    for (int i = 0; i < TOKENS * M; i++)
        streams[i * M + i % M] = 2.0f;
    cpu_hyper_pre(ops_test_stream(2),
                  &(struct hyper_pre_args){.streams = streams,
                                           .mix = unit_f32("hc.mixes", TOKENS * 24),
                                           .scale = unit_f32("hc.scale", 3),
                                           .base = unit_f32("hc.base", 24),
                                           .x = x,
                                           .post = post,
                                           .comb = comb,
                                           .tokens = TOKENS,
                                           .streams_count = M,
                                           .hidden = M,
                                           .iterations = 20,
                                           .norm_epsilon = 0.0f,
                                           .epsilon = 1e-6f});
    for (int i = 0; i < TOKENS * M; i++)
        x[i] /= 2.0f;
    ops_test_close("pre", x, unit_doubles(unit_f32("hc.pre", TOKENS * M), TOKENS * M), TOKENS * M,
                   0, 1e-6);
    ops_test_close("post", post, unit_doubles(unit_f32("hc.post", TOKENS * M), TOKENS * M),
                   TOKENS * M, 0, 1e-6);
    ops_test_close("comb", comb, unit_doubles(unit_f32("hc.comb", TOKENS * 16), TOKENS * 16),
                   TOKENS * 16, 0, 1e-6);
}

static void check_attention(const double *want, bool round, double absolute, double relative)
{
    enum { TOKENS = 5, HEADS = 4, WIDTH = 128, ROWS = 200, TOP = 150 };
    static const int32_t positions[TOKENS];
    float *out = ops_test_floats(TOKENS * HEADS * WIDTH);
    cpu_attention(
        ops_test_stream(2),
        &(struct attention_args){.queries = unit_bf16("attn.q", TOKENS * HEADS * WIDTH),
                                 .positions = positions,
                                 .rows = (uint8_t *)unit_bf16("attn.kv", ROWS * WIDTH),
                                 .selected = unit_raw("attn.index", DTYPE_I32, TOKENS * TOP),
                                 .sink = unit_f32("attn.sink", HEADS),
                                 .out = out,
                                 .format = {ROW_F32, WIDTH, 0},
                                 .tokens = TOKENS,
                                 .heads = HEADS,
                                 .width = WIDTH,
                                 .ratio = 4,
                                 .top = TOP,
                                 .scale = 0.08838834764831845f, /* 128^-1/2 */
                                 .round = round});
    ops_test_close(round ? "exact attention" : "attention", out, want, TOKENS * HEADS * WIDTH,
                   absolute, relative);
}

static void attention_over_listed_rows_agrees(void **state)
{
    enum { COUNT = 5 * 4 * 128 };
    (void)state;
    check_attention(unit_doubles(unit_f32("attn.out_f32", COUNT), COUNT), false, 1e-5, 1e-5);
    check_attention(unit_doubles(unit_bf16("attn.out_exact", COUNT), COUNT), true, 1e-6,
                    0x1p-7 + 0.003);
}

static void router_activations_agree(void **state)
{
    enum { TOKENS = 8, EXPERTS = 16 };
    const float *want = unit_f32("router.sqrtsoftplus", TOKENS * EXPERTS);
    const float *logits = unit_f32("router.logits", TOKENS * EXPERTS);
    float bias[EXPERTS] = {0};
    int32_t chosen[EXPERTS];
    float weights[EXPERTS];
    (void)state;
    for (int t = 0; t < TOKENS; t++) {
        /* With all experts chosen and their sum as scale, the weights are the activations. */
        double sum = 0;
        double expected[EXPERTS];
        for (int e = 0; e < EXPERTS; e++) {
            expected[e] = (double)want[t * EXPERTS + e];
            sum += expected[e];
        }
        cpu_router(ops_test_stream(1), &(struct router_args){.logits = logits + t * EXPERTS,
                                                             .bias = bias,
                                                             .chosen = chosen,
                                                             .weights = weights,
                                                             .tokens = 1,
                                                             .experts = EXPERTS,
                                                             .top = EXPERTS,
                                                             .scale = (float)sum});
        /* At z = -100 e^z is subnormal in f32, a few units long; hence the absolute part. */
        ops_test_close("router", weights, expected, EXPERTS, 1e-23, 1e-6);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(fp8_blocks_equal_the_vectors_exactly, ops_test_teardown),
        cmocka_unit_test_teardown(fp4_blocks_equal_the_vectors_exactly, ops_test_teardown),
        cmocka_unit_test_teardown(cached_rows_hold_the_quantised_values_exactly, ops_test_teardown),
        cmocka_unit_test_teardown(hadamard_rotation_agrees_to_one_ulp, ops_test_teardown),
        cmocka_unit_test_teardown(rotations_agree_to_one_ulp_at_every_position, ops_test_teardown),
        cmocka_unit_test_teardown(angles_agree_up_to_a_million_tokens, ops_test_teardown),
        cmocka_unit_test_teardown(hyper_connection_factors_agree, ops_test_teardown),
        cmocka_unit_test_teardown(attention_over_listed_rows_agrees, ops_test_teardown),
        cmocka_unit_test_teardown(router_activations_agree, ops_test_teardown),
    };
    return cmocka_run_group_tests(tests, open_units, close_units);
}
