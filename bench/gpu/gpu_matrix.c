/* What the device's bf16 products reach: a large one through cuBLASLt. Numbers are random, since a
 * device lowers its clock by how many bits change. */
#include "bench/gpu/gpu_bench.h"
#include "kernels/cuda/cublas.h"
#include "kernels/cuda/stream.h"

#define SIZE         8192 /* rows, columns and tokens: 1.1 million million operations */
#define SIZE_TINY    64
#define REPEATS      2
#define ASSUMED_RATE 4.92 /* TFLOP/s a multiprocessor: bench/prefill.md's 650 of an H100's 132 */

struct matrix_case {
    struct cublas *cublas;
    struct cublas_product product;
};

static void launch_product(struct gpu_bench *bench, void *context, int32_t repeat)
{
    struct matrix_case *test = context;
    (void)repeat;
    cublas_multiply(test->cublas, bench->gpu->stream, &test->product);
}

/* Numbers of either sign between an eighth and a half; NULL after a failure. */
static const uint16_t *put_matrix(struct gpu_bench *bench, size_t count)
{
    uint16_t *host = malloc(count * sizeof *host);
    uint64_t state = 1;
    SL_ASSERT(host != NULL);
    for (size_t i = 0; i < count; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        host[i] = (uint16_t)((state >> 48 & 0x80ff) | 0x3e00);
    }
    const uint16_t *matrix = gpu_bench_put(bench, host, count * sizeof *host);
    free(host);
    return matrix;
}

/* The median, printed, or 0 and why there is none. */
static double measure(struct gpu_bench *bench, struct sl_error *why)
{
    const int32_t size = bench->tiny ? SIZE_TINY : SIZE;
    size_t count = (size_t)size * (size_t)size;
    struct matrix_case test = {
        .product = {.format = CUBLAS_BF16, .tokens = size, .rows = size, .columns = size},
    };
    double samples[GPU_BENCH_SAMPLES_MAX], rate = 0;
    int32_t repeats = bench->repeats, version;
    char name[96];
    if (cublas_open(&test.cublas, why) != SL_OK) return 0;
    version = cublas_version(test.cublas);
    test.product.weight = put_matrix(bench, count);
    test.product.x = put_matrix(bench, count);
    test.product.out = gpu_bench_put(bench, NULL, count * sizeof(uint16_t));
    bool possible = bench->failures == 0 && cublas_can(test.cublas, &test.product);
    if (!possible) (void)sl_error_set(why, SL_ERR_UNSUPPORTED, 0, "cuBLASLt refuses the product");
    if (possible)
        launch_product(bench, &test, 0); /* loads what must not be loaded by a recording */
    bench->repeats = REPEATS;
    if (possible && gpu_bench_sample(bench, launch_product, &test, samples)) {
        for (int32_t i = 0; i < bench->rounds; i++)
            samples[i] = 2.0 * (double)count * size / samples[i] / 1000;
        snprintf(name, sizeof name, "bf16 product %d x %d x %d, cuBLASLt %d.%d.%d", (int)size,
                 (int)size, (int)size, (int)(version / 10000), (int)(version / 100 % 100),
                 (int)(version % 100));
        rate = gpu_bench_print(bench, name, "TFLOP/s", samples, 0);
    }
    bench->repeats = repeats;
    cublas_close(test.cublas);
    return rate;
}

double gpu_bench_matrix_rate(struct gpu_bench *bench)
{
    struct sl_error why = {0};
    if (bench->matrix_rate > 0) return bench->matrix_rate;
    bench->matrix_rate = measure(bench, &why);
    if (bench->matrix_rate > 0 || bench->failures > 0) return bench->matrix_rate;
    bench->matrix_rate = ASSUMED_RATE * bench->gpu->stream->processors;
    fprintf(stderr,
            "sluice-bench-gpu: the rate of bf16 products was not measured (%s): ratios are to the "
            "assumed %.0f TFLOP/s\n",
            why.message, bench->matrix_rate);
    return bench->matrix_rate;
}
