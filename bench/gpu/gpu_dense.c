/* Dense products: of 1 to 16 tokens, beside reading the weights once; of a prompt's chunks of 17 to
 * 8192 tokens, beside what binds them: multiply-adds at the rate of a large bf16 product, or bytes
 * that must pass the device's memory once (weights, inputs and outputs in f32) at the rate of a
 * copy, both of the same run. */
#include "bench/gpu/gpu_bench.h"
#include "kernels/fused.h"

#define CHUNK_MAX     8192
#define CHOICE_MARGIN 1.03 /* by which cuBLASLt must be faster to be proposed for the table */

static const int32_t chunk_tokens[] = {17, 128, 1024, 2048, CHUNK_MAX};
#define CHUNKS SL_COUNT_OF(chunk_tokens)

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

/* What a layer with an indexer multiplies its input by. */
static const struct shape of_x[] = {
    {"wq_a", MATRIX_FP8, 1024, 4096, 1},
    {"wkv", MATRIX_FP8, 512, 4096, 1},
    {"compressor keys", MATRIX_BF16, 1024, 4096, 1},
    {"compressor gates", MATRIX_BF16, 1024, 4096, 1},
    {"indexer keys", MATRIX_BF16, 256, 4096, 1},
    {"indexer gates", MATRIX_BF16, 256, 4096, 1},
    {"indexer weights", MATRIX_BF16, 64, 4096, 1},
};

struct dense_case {
    struct linear_args args;
    size_t weight_bytes;
};

struct group_case {
    struct dense_case items[SL_COUNT_OF(of_x)];
};

static void launch_group(struct gpu_bench *bench, void *context, int32_t repeat)
{
    struct group_case *test = context;
    struct linear_args items[SL_COUNT_OF(of_x)];
    const struct fused_ops *fused = bench->gpu->ops->fused;
    (void)repeat;
    for (size_t i = 0; i < SL_COUNT_OF(of_x); i++) {
        items[i] = test->items[i].args;
        items[i].weight.data = gpu_bench_fresh(bench, test->items[i].weight_bytes);
    }
    SL_ASSERT(fused->linears(bench->gpu->stream, items, SL_COUNT_OF(items)));
}

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

/* All products of one input, which is converted once for those that want it alike. */
static void measure_group(struct gpu_bench *bench, int32_t tokens, const float *x, float *out)
{
    struct group_case test;
    double operations = 0, bytes = 4.0 * tokens * of_x[0].columns;
    char name[96];
    for (size_t i = 0; i < SL_COUNT_OF(of_x); i++) {
        int32_t rows = bench->tiny ? 16 : of_x[i].rows;
        test.items[i] = make_case(bench, &of_x[i], rows, tokens, x, out);
        out += (size_t)tokens * (size_t)rows;
        operations += 2.0 * tokens * rows * of_x[i].columns;
        bytes += (double)test.items[i].weight_bytes + 4.0 * tokens * rows;
    }
    snprintf(name, sizeof name, "all products of x in a layer with indexer, chunk of %d",
             (int)tokens);
    gpu_bench_measure_bound(bench, name, operations, bytes, launch_group, &test);
}

/* A shape with as many tokens, our way and, where it can be taken, cuBLASLt's; whether that is
 * faster. */
static bool measure_ways(struct gpu_bench *bench, const struct shape *shape, int32_t tokens,
                         const float *x, float *out)
{
    int32_t rows = bench->tiny ? 16 : shape->rows;
    struct stream *stream = bench->gpu->stream;
    struct dense_case test = make_case(bench, shape, rows, tokens, x, out);
    double operations = 2.0 * tokens * (double)rows * shape->columns;
    double bytes =
        (double)test.weight_bytes + 4.0 * tokens * ((double)shape->groups * shape->columns + rows);
    char name[96];
    snprintf(name, sizeof name, "%s, chunk of %d", shape->name, (int)tokens);
    SL_ASSERT(cuda_stream_linears(stream, CUDA_LINEARS_OWN, NULL) == SL_OK);
    double ours = gpu_bench_measure_bound(bench, name, operations, bytes, launch_linear, &test);
    if (cuda_stream_linears(stream, CUDA_LINEARS_CUBLAS, NULL) != SL_OK) return false;
    test.args.weight.data = gpu_bench_fresh(bench, test.weight_bytes);
    double theirs = 0;
    if (bench->failures == 0 && cuda_linear_by_cublas(stream, &test.args)) {
        launch_linear(bench, &test, 0); /* loads what must not be loaded by a recording */
        snprintf(name, sizeof name, "%s, chunk of %d, cuBLASLt", shape->name, (int)tokens);
        theirs = gpu_bench_measure_bound(bench, name, operations, bytes, launch_linear, &test);
    }
    SL_ASSERT(cuda_stream_linears(stream, CUDA_LINEARS_MEASURED, NULL) == SL_OK);
    return theirs > 0 && ours > CHOICE_MARGIN * theirs;
}

/* The lines of kernels/cuda/linear_choice.c: from one measured number of tokens to another between
 * which cuBLASLt was faster at each. */
static void print_choices(const struct shape *shape, const bool *faster)
{
    for (size_t first = 0; first < CHUNKS; first++) {
        size_t last = first;
        if (!faster[first] || (first > 0 && faster[first - 1])) continue;
        while (last + 1 < CHUNKS && faster[last + 1])
            last++;
        fprintf(stderr, "linear_choice.c: {90, %d, %d, %d, %d},\n", (int)shape->rows,
                (int)shape->columns, (int)chunk_tokens[first], (int)chunk_tokens[last]);
    }
}

void gpu_bench_dense(struct gpu_bench *bench)
{
    size_t tokens_max = bench->tiny ? 17 : CHUNK_MAX, chunks = bench->tiny ? 1 : CHUNKS;
    float *x = gpu_bench_put_floats(bench, tokens_max * 8 * 4096);
    float *out = gpu_bench_put(bench, NULL, tokens_max * 32768 * sizeof *out);
    struct sl_error why;
    if (cuda_stream_linears(bench->gpu->stream, CUDA_LINEARS_CUBLAS, &why) != SL_OK)
        fprintf(stderr, "sluice-bench-gpu: linears our way alone: %s\n", why.message);
    for (size_t s = 0; s < (bench->tiny ? 1 : SL_COUNT_OF(shapes) - 1); s++) {
        bool faster[CHUNKS] = {false};
        for (size_t t = 0; t < chunks && bench->failures == 0; t++)
            faster[t] = measure_ways(bench, &shapes[s], chunk_tokens[t], x, out);
        if (!bench->tiny) print_choices(&shapes[s], faster);
    }
    for (size_t t = 0; t < chunks && bench->failures == 0; t++)
        measure_group(bench, chunk_tokens[t], x, out);
}
