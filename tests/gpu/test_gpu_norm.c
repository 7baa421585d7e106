/* The norms against their twins. */
#include "tests/gpu/twin.h"

#include <math.h>
#include <string.h>

static const int32_t row_counts[] = {0, 1, 2, 7, 16};

static void norm(struct twin *twin, int32_t rows, int32_t width, float scale, bool round)
{
    size_t bytes = (size_t)rows * (size_t)width * 4;
    size_t weight_bytes = (size_t)width * 2;
    float *x = twin_host(bytes);
    float *want = twin_host(bytes);
    float *got = twin_host(bytes);
    uint16_t *weight = twin_host(weight_bytes);
    twin_fill(twin, x, bytes / 4, scale, round);
    twin_fill_bf16(twin, weight, (size_t)width, 2);
    struct norm_args args = {x, weight, want, rows, width, 1e-6f, round};
    twin->cpu->norm(twin->cpu_stream, &args);
    void *device_x = twin_put(twin, x, bytes);
    void *device_weight = twin_put(twin, weight, weight_bytes);
    args.x = device_x;
    args.weight = device_weight;
    args.out = device_x; /* in place */
    twin->gpu->norm(twin->gpu_stream, &args);
    twin_get(twin, got, device_x, bytes);
    twin_check_close(twin, "out", got, want, bytes / 4, round ? 1e-4 : 1e-6, round ? 0x1p-7 : 1e-6);
    twin_free(twin, device_x, bytes);
    twin_free(twin, device_weight, weight_bytes);
    free(x), free(want), free(got), free(weight);
}

static void norm_is_close(struct twin *twin)
{
    static const int32_t widths[] = {1, 31, 512, 513, 1024, 4096};
    for (size_t i = 0; i < SL_COUNT_OF(row_counts); i++)
        for (size_t j = 0; j < SL_COUNT_OF(widths); j++)
            for (int round = 0; round < 2; round++) {
                norm(twin, row_counts[i], widths[j], 3, round);
                norm(twin, row_counts[i], widths[j], 1e-6f, round);
                norm(twin, row_counts[i], widths[j], 0, round);
            }
}

static void head_norm(struct twin *twin, int32_t rows, int32_t width, float scale, bool round)
{
    size_t bytes = (size_t)rows * (size_t)width * 4;
    float *x = twin_host(bytes);
    float *got = twin_host(bytes);
    twin_fill(twin, x, bytes / 4, scale, round);
    struct head_norm_args args = {x, rows, width, 1e-6f, round};
    void *device_x = twin_put(twin, x, bytes);
    twin->cpu->head_norm(twin->cpu_stream, &args);
    args.x = device_x;
    twin->gpu->head_norm(twin->gpu_stream, &args);
    twin_get(twin, got, device_x, bytes);
    twin_check_bytes(twin, "heads", got, x, bytes);
    twin_free(twin, device_x, bytes);
    free(x), free(got);
}

static void head_norm_is_equal(struct twin *twin)
{
    for (size_t i = 0; i < SL_COUNT_OF(row_counts); i++)
        for (int round = 0; round < 2; round++) {
            head_norm(twin, 64 * row_counts[i], 512, 2, round);
            head_norm(twin, row_counts[i], 128, 1e-3f, round);
            head_norm(twin, row_counts[i], 33, 30, round);
            head_norm(twin, row_counts[i], 1024, 0, round);
        }
}

int main(int argc, char **argv)
{
    static const struct twin_case cases[] = {
        {"norm is close to its twin", norm_is_close},
        {"head_norm equals its twin", head_norm_is_equal},
    };
    return twin_main(argc, argv, cases, SL_COUNT_OF(cases));
}
