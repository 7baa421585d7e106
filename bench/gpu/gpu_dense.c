/* Dense products: of 1 to 16 tokens, beside reading the weights once; of a prompt's chunks of 17 to
 * 8192 tokens, beside what binds them: multiply-adds at the rate of a large bf16 product, or bytes
 * that must pass the device's memory once (weights, inputs and outputs in f32) at the rate of a
 * copy, both of the same run. */
#include "bench/gpu/gpu_bench.h"

#define CHUNK_MAX 8192

static const struct shape {
    const char *name;
    enum matrix_format format;
    int32_t rows, columns, groups;
} shapes[] = {
    {"wkv fp8 512 x 4096", MATRIX_FP8, 512, 4096, 1},
    {"wq_a fp8 1024 x 4096", MATRIX_FP8, 1024, 4096, 1},
    {"wq_b fp8 32768 x 1024", MATRIX_FP8, 32768, 1024, 1},
    {"wo_a fp8 8192 x 4096 in groups", MATRIX_FP8, 8192, 4096, 8},
    {"wo_b fp8 4096 x 8192", MATRIX_FP8, 4096, 8192, 1},
    {"shared w1 fp8 2048 x 4096", MATRIX_FP8, 2048, 4096, 1},
    {"shared w2 fp8 4096 x 2048", MATRIX_FP8, 4096, 2048, 1},
    {"compressor bf16 1024 x 4096", MATRIX_BF16, 1024, 4096, 1},
    {"router bf16 256 x 4096", MATRIX_BF16, 256, 4096, 1},
    {"streams f32 24 x 16384", MATRIX_F32, 24, 16384, 1},
    {"head bf16 129280 x 4096", MATRIX_BF16, 129280, 4096, 1}, /* of few tokens only */
};

struct dense_case {
    struct linear_args args;
    size_t weight_bytes;
};

static void launch_linear(struct gpu_bench *bench, void *context, int32_t repeat)
{
    struct dense_case *test = context;
    (void)repeat;
    test->args.weight.data = gpu_bench_fresh(bench, test->weight_bytes);
    bench->gpu->ops->linear(bench->gpu->stream, &test->args);
}

/* The first `rows` rows of a shape's matrix with `tokens` tokens. */
static struct dense_case make_case(struct gpu_bench *bench, const struct shape *shape, int32_t rows,
                                   int32_t tokens, const float *x, float *out)
{
    size_t elements = (size_t)rows * (size_t)shape->columns;
    bool fp8 = shape->format == MATRIX_FP8;
    return (struct dense_case){.weight_bytes = elements * (fp8                            ? 1
                                                           : shape->format == MATRIX_BF16 ? 2
                                                                                          : 4),
                               .args = {
                                   .x = x,
                                   .weight = {.scale = gpu_bench_fresh(bench, elements / 128),
                                              .format = shape->format,
                                              .rows = rows,
                                              .columns = shape->columns},
                                   .out = out,
                                   .tokens = tokens,
                                   .groups = shape->groups,
                                   .quantise_input = fp8 && shape->groups == 1,
                                   .round = fp8,
                                   .bf16_input = true,
                               }};
}

void gpu_bench_linear(struct gpu_bench *bench)
{
    static const int32_t token_counts[] = {1, 4, 16};
    const int32_t tokens_max = 16;
    float *x = gpu_bench_put(bench, NULL, (size_t)tokens_max * 8 * 4096 * sizeof *x);
    float *out = gpu_bench_put(bench, NULL, (size_t)tokens_max * 129280 * sizeof *out);
    for (size_t s = 0; s < (bench->tiny ? 1 : SL_COUNT_OF(shapes)); s++)
        for (size_t t = 0; t < (bench->tiny ? 2 : SL_COUNT_OF(token_counts)); t++) {
            struct dense_case test =
                make_case(bench, &shapes[s], shapes[s].rows, token_counts[t], x, out);
            char name[96];
            if (bench->failures > 0) return;
            snprintf(name, sizeof name, "%s, %d tokens", shapes[s].name, (int)token_counts[t]);
            gpu_bench_measure(bench, name, (double)test.weight_bytes, launch_linear, &test);
        }
}

void gpu_bench_dense(struct gpu_bench *bench)
{
    static const int32_t token_counts[] = {17, 128, 1024, 2048, CHUNK_MAX};
    size_t tokens_max = bench->tiny ? 17 : CHUNK_MAX;
    float *x = gpu_bench_put_floats(bench, tokens_max * 8 * 4096);
    float *out = gpu_bench_put(bench, NULL, tokens_max * 32768 * sizeof *out);
    for (size_t s = 0; s < (bench->tiny ? 1 : SL_COUNT_OF(shapes) - 1); s++)
        for (size_t t = 0; t < (bench->tiny ? 1 : SL_COUNT_OF(token_counts)); t++) {
            int32_t rows = bench->tiny ? 16 : shapes[s].rows;
            struct dense_case test = make_case(bench, &shapes[s], rows, token_counts[t], x, out);
            double tokens = token_counts[t];
            double operations = 2.0 * tokens * (double)rows * shapes[s].columns;
            double bytes = (double)test.weight_bytes +
                           4.0 * tokens * ((double)shapes[s].groups * shapes[s].columns + rows);
            char name[96];
            if (bench->failures > 0) return;
            snprintf(name, sizeof name, "%s, chunk of %d", shapes[s].name, (int)token_counts[t]);
            gpu_bench_measure_bound(bench, name, operations, bytes, launch_linear, &test);
        }
}
