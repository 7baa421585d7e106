/* labels: unit */
/* The ring of cached rows and the compressors against plain double-precision loops, and across
 * chunks of tokens. */
#include "kernels/lowp.h"
#include "tests/support_ops.h"

#include <math.h>

static void the_ring_holds_the_quantised_rows_of_the_last_positions(void **state)
{
    enum { TOKENS = 23, CAPACITY = 10, WIDTH = 208 };
    uint64_t seed = 30;
    float *x = ops_test_random_bf16(&seed, TOKENS * WIDTH, 3.0f);
    size_t row_bytes = row_format_bytes(&ops_test_kv_format);
    uint8_t *rows = ops_test_alloc(CAPACITY * row_bytes);
    uint8_t *again = ops_test_alloc(CAPACITY * row_bytes);
    int32_t positions[TOKENS];
    double want[WIDTH];
    double got[WIDTH];
    (void)state;
    for (int t = 0; t < TOKENS; t++)
        positions[t] = t + 1000;
    struct kv_store_args args = {x, positions, rows, ops_test_kv_format, TOKENS, CAPACITY};
    cpu_kv_store(ops_test_stream(4), &args);
    for (int t = TOKENS - CAPACITY; t < TOKENS; t++) {
        ops_test_round_trip_fp8(x + t * WIDTH, want, 200, 64);
        for (int i = 200; i < WIDTH; i++)
            want[i] = (double)x[t * WIDTH + i];
        ops_test_kv_row(rows + (size_t)(positions[t] % CAPACITY) * row_bytes, got);
        for (int i = 0; i < WIDTH; i++)
            assert_true(got[i] == want[i]);
    }
    args.rows = again;
    args.tokens = 1;
    for (int t = 0; t < TOKENS; t++) {
        args.x = x + t * WIDTH;
        args.positions = positions + t;
        cpu_kv_store(ops_test_stream(1), &args);
    }
    ops_test_same_bits("ring", again, rows, CAPACITY * row_bytes);
}

/* A compressor with random inputs for `tokens` tokens from position 0. */
struct compressor {
    struct kv_compress_args args;
    size_t state_floats;
    size_t row_bytes;
    int32_t tokens;
    int32_t columns;
};

static struct compressor make_compressor(int32_t ratio, bool overlap, struct row_format format,
                                         int32_t tokens, bool round)
{
    uint64_t seed = (uint64_t)(31 + ratio);
    int32_t width = format.plain + format.rotary;
    int32_t columns = (overlap ? 2 : 1) * width;
    size_t count = (size_t)tokens * (size_t)columns;
    struct compressor made = {.tokens = tokens, .columns = columns};
    float *frequencies = ops_test_floats((size_t)format.rotary / 2 + 1);
    for (int j = 0; j < format.rotary / 2; j++)
        frequencies[j] = powf(0.3f, (float)j);
    made.args = (struct kv_compress_args){
        .keys = ops_test_random(&seed, count, 2.0f),
        .gates = ops_test_random(&seed, count, 4.0f),
        .ape = ops_test_random(&seed, (size_t)ratio * (size_t)columns, 1.0f),
        .norm = ops_test_random_codes(&seed, (size_t)width, 1.5f),
        .frequencies = frequencies,
        .format = format,
        .tokens = tokens,
        .ratio = ratio,
        .width = width,
        .rows_max = tokens / ratio,
        /* Room beyond what a group needs must make no difference. */
        .state_capacity = (overlap ? 2 : 1) * ratio + tokens % 7,
        .epsilon = 1e-6f,
        .overlap = overlap,
        .hadamard = format.encoding == ROW_KEY,
        .round = round,
    };
    made.state_floats = (size_t)(made.args.state_capacity * 2 * columns);
    made.row_bytes = row_format_bytes(&format);
    return made;
}

/* Rows from an empty state with the tokens in chunks of `step`. */
static uint8_t *compress(const struct compressor *compressor, int32_t threads, int32_t step)
{
    struct kv_compress_args args = compressor->args;
    struct stream *stream = ops_test_stream(threads);
    int32_t *positions = ops_test_alloc(sizeof *positions * (size_t)compressor->tokens);
    for (int32_t t = 0; t < compressor->tokens; t++)
        positions[t] = t;
    args.rows = ops_test_alloc((size_t)args.rows_max * compressor->row_bytes + 1);
    args.state = ops_test_floats(compressor->state_floats);
    for (size_t i = 0; i < compressor->state_floats; i++)
        if (i / (size_t)compressor->columns % 2 == 1) args.state[i] = -INFINITY;
    for (int32_t first = 0; first < compressor->tokens; first += step) {
        size_t offset = (size_t)first * (size_t)compressor->columns;
        args.positions = positions + first;
        args.tokens = min_i32(step, compressor->tokens - first);
        args.keys = compressor->args.keys + offset;
        args.gates = compressor->args.gates + offset;
        cpu_kv_compress(stream, &args);
    }
    return args.rows;
}

/* Row `row` in double, before it is encoded; with the roundings between the steps if asked. */
static void compress_in_double(const struct kv_compress_args *args, int32_t row, double *out)
{
    int32_t n = args->ratio;
    int32_t width = args->width;
    int32_t columns = (args->overlap ? 2 : 1) * width;
    double sum = 0;
    for (int32_t ch = 0; ch < width; ch++) {
        double total = 0;
        out[ch] = 0;
        for (int32_t t = args->overlap && row > 0 ? (row - 1) * n : row * n; t < (row + 1) * n;
             t++) {
            int32_t column = args->overlap && t >= row * n ? width + ch : ch;
            size_t idx = (size_t)(t * columns + column);
            double gate = (double)args->gates[idx] + (double)args->ape[t % n * columns + column];
            total += exp(gate);
            out[ch] += exp(gate) * (double)args->keys[idx];
        }
        out[ch] /= total;
        if (args->round) out[ch] = ops_test_bf16(out[ch]);
        sum += out[ch] * out[ch];
    }
    for (int32_t ch = 0; ch < width; ch++) {
        out[ch] *= (double)bf16_decode(args->norm[ch]) / sqrt(sum / width + 1e-6);
        if (args->round) out[ch] = ops_test_bf16(out[ch]);
    }
    for (int32_t j = 0; j < args->format.rotary / 2; j++) {
        double *pair = out + args->format.plain + 2 * j;
        double angle = (double)((float)(row * n) * args->frequencies[j]);
        double a = pair[0];
        double b = pair[1];
        pair[0] = a * cos(angle) - b * sin(angle);
        pair[1] = a * sin(angle) + b * cos(angle);
    }
}

static void compressed_rows_agree_without_rounding(void **state)
{
    static const struct row_format format = {ROW_F32, 37, 6};
    double want[43];
    (void)state;
    for (int overlap = 0; overlap < 2; overlap++) {
        struct compressor made = make_compressor(overlap ? 4 : 16, overlap, format, 75, false);
        const float *rows = (const float *)compress(&made, 1, 75);
        for (int32_t row = 0; row < made.args.rows_max; row++) {
            compress_in_double(&made.args, row, want);
            ops_test_close("compressed row", rows + row * 43, want, 43, 3e-6, 1e-5);
        }
    }
}

static void rounded_compressed_rows_are_within_one_step(void **state)
{
    double want[208];
    double got[208];
    (void)state;
    struct compressor made = make_compressor(4, true, ops_test_kv_format, 40, true);
    const uint8_t *rows = compress(&made, 2, 40);
    int far = 0;
    for (int32_t row = 0; row < 10; row++) {
        compress_in_double(&made.args, row, want);
        ops_test_kv_row(rows + (size_t)row * made.row_bytes, got);
        for (int i = 0; i < 208; i++) {
            double step = i < 200 ? fabs(want[i]) / 14 + 0.02 : fabs(want[i]) / 100 + 1e-3;
            far += fabs(got[i] - want[i]) > step;
        }
    }
    assert_int_equal(far, 0);
}

static void index_keys_are_rotated_by_hadamard_and_rounded_to_fp4(void **state)
{
    static const struct row_format format = {ROW_KEY, 48, 16};
    struct compressor made = make_compressor(4, true, format, 40, true);
    const uint8_t *rows = compress(&made, 2, 40);
    double x[64];
    double rotated[64];
    double want[64];
    int different = 0;
    (void)state;
    for (int32_t row = 0; row < 10; row++) {
        const uint8_t *bytes = rows + (size_t)row * made.row_bytes;
        compress_in_double(&made.args, row, x);
        for (int i = 0; i < 64; i++) {
            rotated[i] = 0;
            for (int j = 0; j < 64; j++)
                rotated[i] += (__builtin_popcount((unsigned)(i & j)) % 2 ? -1 : 1) *
                              (j < 48 ? x[j] : ops_test_bf16(x[j]));
            rotated[i] = ops_test_bf16(rotated[i] / 8);
        }
        ops_test_round_trip_fp4(rotated, want, 64, 32);
        for (int i = 0; i < 64; i++) {
            int code = i % 2 ? bytes[i / 2] >> 4 : bytes[i / 2] & 15;
            double got = ops_test_e2m1_value(code) * ops_test_e8m0_value(bytes[32 + i / 32]);
            different += got != want[i];
        }
    }
    assert_in_range(different, 0, 6); /* of 640: values at a rounding edge */
}

static void compression_does_not_depend_on_chunks_or_threads(void **state)
{
    static const struct row_format key = {ROW_KEY, 48, 16};
    static const struct row_format wide = {ROW_F32, 100, 8};
    static const int32_t steps[] = {1, 3, 4, 7, 64, 300};
    (void)state;
    for (int i = 0; i < 4; i++) {
        struct compressor made = make_compressor(i == 1 ? 128 : 4, i != 1,
                                                 i == 2   ? key
                                                 : i == 3 ? wide
                                                          : ops_test_kv_format,
                                                 300, i != 3);
        size_t bytes = (size_t)made.args.rows_max * made.row_bytes;
        const uint8_t *want = compress(&made, 1, 300);
        for (size_t s = 0; s < SL_COUNT_OF(steps); s++)
            ops_test_same_bits("compressed rows", compress(&made, 1 + (int32_t)s % 4, steps[s]),
                               want, bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(the_ring_holds_the_quantised_rows_of_the_last_positions,
                                  ops_test_teardown),
        cmocka_unit_test_teardown(compressed_rows_agree_without_rounding, ops_test_teardown),
        cmocka_unit_test_teardown(rounded_compressed_rows_are_within_one_step, ops_test_teardown),
        cmocka_unit_test_teardown(index_keys_are_rotated_by_hadamard_and_rounded_to_fp4,
                                  ops_test_teardown),
        cmocka_unit_test_teardown(compression_does_not_depend_on_chunks_or_threads,
                                  ops_test_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
