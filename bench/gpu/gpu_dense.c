/* Linears of a prompt's chunks: 17 to 8192 tokens, beside what binds them: multiply-adds at what
 * bench/prefill.md assumes of the device's bf16 products, or bytes that must pass its memory once
 * (weights, inputs and outputs in f32) at the rate of a copy in the same run. */
#include "bench/gpu/gpu_bench.h"

#define TOKENS_MAX 8192

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

void gpu_bench_dense(struct gpu_bench *bench)
{
    static const struct {
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
    };
    static const int32_t token_counts[] = {17, 128, 1024, 2048, TOKENS_MAX};
    size_t tokens_max = bench->tiny ? 17 : TOKENS_MAX;
    float *x = gpu_bench_put_floats(bench, tokens_max * 8 * 4096);
    float *out = gpu_bench_put(bench, NULL, tokens_max * 32768 * sizeof *out);
    for (size_t s = 0; s < (bench->tiny ? 1 : SL_COUNT_OF(shapes)); s++)
        for (size_t t = 0; t < (bench->tiny ? 1 : SL_COUNT_OF(token_counts)); t++) {
            int32_t rows = bench->tiny ? 16 : shapes[s].rows;
            size_t elements = (size_t)rows * (size_t)shapes[s].columns;
            bool fp8 = shapes[s].format == MATRIX_FP8;
            size_t element = fp8 ? 1 : shapes[s].format == MATRIX_BF16 ? 2 : 4;
            struct dense_case test = {.weight_bytes = elements * element};
            char name[96];
            if (bench->failures > 0) return;
            test.args = (struct linear_args){
                .x = x,
                .weight = {.scale = gpu_bench_fresh(bench, elements / 128),
                           .format = shapes[s].format,
                           .rows = rows,
                           .columns = shapes[s].columns},
                .out = out,
                .tokens = token_counts[t],
                .groups = shapes[s].groups,
                .quantise_input = fp8 && shapes[s].groups == 1,
                .round = fp8,
                .bf16_input = true,
            };
            double tokens = token_counts[t];
            double columns = (double)shapes[s].groups * shapes[s].columns;
            double bytes = (double)test.weight_bytes + 4.0 * tokens * (columns + (double)rows);
            snprintf(name, sizeof name, "%s, chunk of %d", shapes[s].name, (int)token_counts[t]);
            gpu_bench_measure_bound(bench, name, 2.0 * tokens * (double)elements, bytes,
                                    launch_linear, &test);
        }
}
