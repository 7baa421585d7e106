/* Helpers of the op tests; see the header. */
#include "tests/support_ops.h"

#include "kernels/cpu_isa.h"
#include "kernels/lowp.h"

#include <math.h>

#define KEPT_MAX 4096

static void *kept[KEPT_MAX];
static size_t kept_count;
static struct stream *streams[64];
static size_t stream_count;

void *ops_test_alloc(size_t bytes)
{
    assert_true(kept_count < KEPT_MAX);
    void *memory = calloc(1, bytes > 0 ? bytes : 1);
    assert_non_null(memory);
    kept[kept_count++] = memory;
    return memory;
}

float *ops_test_floats(size_t count)
{
    return ops_test_alloc(count * sizeof(float));
}

float *ops_test_random(uint64_t *seed, size_t count, float magnitude)
{
    float *values = ops_test_floats(count);
    for (size_t i = 0; i < count; i++)
        values[i] = test_random_float(seed) * magnitude;
    return values;
}

float *ops_test_random_bf16(uint64_t *seed, size_t count, float magnitude)
{
    float *values = ops_test_random(seed, count, magnitude);
    for (size_t i = 0; i < count; i++)
        values[i] = bf16_round(values[i]);
    return values;
}

uint16_t *ops_test_random_codes(uint64_t *seed, size_t count, float magnitude)
{
    uint16_t *codes = ops_test_alloc(count * sizeof *codes);
    for (size_t i = 0; i < count; i++)
        codes[i] = bf16_encode(test_random_float(seed) * magnitude);
    return codes;
}

uint8_t *ops_test_random_fp8(uint64_t *seed, size_t count)
{
    uint8_t *codes = ops_test_alloc(count);
    for (size_t i = 0; i < count; i++)
        codes[i] = (uint8_t)(test_random_below(seed, 127) | test_random_below(seed, 2) << 7);
    return codes;
}

uint8_t *ops_test_random_bytes(uint64_t *seed, size_t count, uint32_t first, uint32_t bound)
{
    uint8_t *bytes = ops_test_alloc(count);
    for (size_t i = 0; i < count; i++)
        bytes[i] = (uint8_t)(first + test_random_below(seed, bound));
    return bytes;
}

struct stream *ops_test_stream(int32_t threads)
{
    struct stream *stream = NULL;
    assert_true(stream_count < SL_COUNT_OF(streams));
    assert_int_equal(
        ops_cpu()->stream_create(&(struct stream_options){.threads = threads}, &stream), SL_OK);
    streams[stream_count++] = stream;
    return stream;
}

int ops_test_teardown(void **state)
{
    (void)state;
    while (stream_count > 0)
        ops_cpu()->stream_destroy(streams[--stream_count]);
    while (kept_count > 0)
        free(kept[--kept_count]);
    return 0;
}

void ops_test_close(const char *what, const float *got, const double *want, size_t count,
                    double absolute, double relative)
{
    for (size_t i = 0; i < count; i++) {
        double difference = fabs((double)got[i] - want[i]);
        if (!(difference <= absolute + relative * fabs(want[i])))
            fail_msg("%s: element %zu is %.9g, expected %.9g", what, i, (double)got[i], want[i]);
    }
}

void ops_test_same_bits(const char *what, const void *got, const void *want, size_t bytes)
{
    const uint8_t *a = got;
    const uint8_t *b = want;
    for (size_t i = 0; i < bytes; i++)
        if (a[i] != b[i]) fail_msg("%s: byte %zu of %zu differs", what, i, bytes);
}

double ops_test_e4m3_value(int code)
{
    int exponent = (code >> 3) & 15;
    int mantissa = code & 7;
    double magnitude =
        exponent == 0 ? ldexp(mantissa, -9) : ldexp(1.0 + mantissa / 8.0, exponent - 7);
    return code & 128 ? -magnitude : magnitude;
}

double ops_test_e2m1_value(int code)
{
    static const double magnitudes[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    return code & 8 ? -magnitudes[code & 7] : magnitudes[code & 7];
}

double ops_test_e8m0_value(int code)
{
    return ldexp(1.0, code - 127);
}

/* `value` rounded to `digits` binary digits, at least 2^smallest apart. */
static double round_digits(double value, int digits, int smallest)
{
    int exponent;
    if (value == 0 || !isfinite(value)) return value;
    frexp(value, &exponent);
    int unit = exponent - digits > smallest ? exponent - digits : smallest;
    return ldexp(nearbyint(ldexp(value, -unit)), unit);
}

double ops_test_bf16(double value)
{
    return round_digits(value, 8, -133);
}

/* The smallest power of two with amax / scale <= largest (as the f32 product decides). */
static double block_scale(double amax, float inverse)
{
    double quotient = (double)((float)amax * inverse);
    double scale = ldexp(1.0, -126);
    while (scale < quotient)
        scale *= 2;
    return scale;
}

void ops_test_round_trip_fp8(const float *x, double *out, int32_t count, int32_t block)
{
    for (int32_t first = 0; first < count; first += block) {
        int32_t end = min_i32(first + block, count);
        double amax = 1e-4;
        for (int32_t i = first; i < end; i++)
            amax = fmax(amax, fabs((double)x[i]));
        double scale = block_scale(amax, 1.0f / 448.0f);
        for (int32_t i = first; i < end; i++) {
            double value = round_digits((double)x[i] / scale, 4, -9);
            out[i] = fmin(fmax(value, -448), 448) * scale;
        }
    }
}

void ops_test_round_trip_fp4(const double *x, double *out, int32_t count, int32_t block)
{
    for (int32_t first = 0; first < count; first += block) {
        int32_t end = min_i32(first + block, count);
        double amax = ldexp(6.0, -126);
        for (int32_t i = first; i < end; i++)
            amax = fmax(amax, fabs(x[i]));
        double scale = block_scale(amax, 1.0f / 6.0f);
        for (int32_t i = first; i < end; i++) {
            double value = round_digits(x[i] / scale, 2, -1);
            out[i] = fmin(fmax(value, -6), 6) * scale;
        }
    }
}

const struct row_format ops_test_kv_format = {ROW_KV, 200, 8};

void ops_test_kv_row(const uint8_t *row, double *x)
{
    for (int i = 0; i < 200; i++)
        x[i] = ops_test_e4m3_value(row[i]) * ops_test_e8m0_value(row[200 + i / 64]);
    for (int i = 0; i < 8; i++)
        x[200 + i] = (double)bf16_decode((uint16_t)(row[204 + 2 * i] | row[204 + 2 * i + 1] << 8));
}

void ops_test_each_variant(void (*check)(const struct ops *ops))
{
    for (int isa = 0; isa < CPU_ISA_COUNT; isa++) {
        if (!cpu_isa_supported((enum cpu_isa)isa)) {
            print_message("this processor has no %s\n", cpu_isa_name((enum cpu_isa)isa));
            continue;
        }
        check(ops_cpu_isa((enum cpu_isa)isa));
    }
}
