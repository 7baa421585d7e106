/* Matrix products of the CPU variant in use: fp8 linears and the bf16 head with 1 to 64 tokens,
 * weights rotating over more memory than any cache holds. One token is bounded by reading the
 * weights once, 64 tokens by f32 multiply-adds. */
#include "bench/bench.h"

#include "kernels/lowp.h"
#include "offload/arena.h"
#include "runtime/compute.h"

#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define WEIGHT_BYTES ((size_t)2560 << 20)
#define TOKENS_MAX   64
#define FMA_STEPS    (1 << 22)

struct linear_bench {
    const struct bench_options *options;
    const struct ops *ops;
    struct stream *stream;
    uint8_t *weights; /* [WEIGHT_BYTES] */
    uint8_t *scales;  /* one value throughout, enough for any shape */
    float *x, *out;
    size_t next; /* weight bytes used so far, from the start */
    int32_t threads;
};

struct shape {
    const char *name;
    enum matrix_format format;
    int32_t rows, columns;
};

static const struct shape shapes[] = {
    {"fp8 4096 x 4096", MATRIX_FP8, 4096, 4096},
    {"fp8 32768 x 1024", MATRIX_FP8, 32768, 1024},
    {"bf16 head 129280 x 4096", MATRIX_BF16, 129280, 4096},
};

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static float fma_512(void)
{
    __m512 sums[12];
    __m512 a = _mm512_set1_ps(1.0f), b = _mm512_set1_ps(1e-9f);
    for (int i = 0; i < 12; i++)
        sums[i] = _mm512_set1_ps((float)i);
    for (int step = 0; step < FMA_STEPS / 16; step++)
        for (int i = 0; i < 12; i++)
            sums[i] = _mm512_fmadd_ps(sums[i], a, b);
    for (int i = 1; i < 12; i++)
        sums[0] = _mm512_add_ps(sums[0], sums[i]);
    return _mm512_cvtss_f32(sums[0]);
}

__attribute__((target("avx2,fma"))) static float fma_256(void)
{
    __m256 sums[12];
    __m256 a = _mm256_set1_ps(1.0f), b = _mm256_set1_ps(1e-9f);
    for (int i = 0; i < 12; i++)
        sums[i] = _mm256_set1_ps((float)i);
    for (int step = 0; step < FMA_STEPS / 8; step++)
        for (int i = 0; i < 12; i++)
            sums[i] = _mm256_fmadd_ps(sums[i], a, b);
    for (int i = 1; i < 12; i++)
        sums[0] = _mm256_add_ps(sums[0], sums[i]);
    return _mm256_cvtss_f32(sums[0]);
}
#endif

/* f32 multiply-adds a nanosecond of one thread; 0 where unknown. */
static double fma_rate(void)
{
#if defined(__x86_64__)
    volatile float sink;
    uint64_t start_ns = bench_now_ns();
    if (cpu_isa_supported(CPU_ISA_AVX512))
        sink = fma_512();
    else if (cpu_isa_supported(CPU_ISA_AVX2))
        sink = fma_256();
    else
        return 0;
    (void)sink;
    return 12.0 * FMA_STEPS / (double)(bench_now_ns() - start_ns);
#else
    return 0;
#endif
}

/* One product with weights nobody has touched lately; its time. */
static double multiply_ns(struct linear_bench *bench, const struct shape *shape, int32_t tokens)
{
    size_t bytes =
        (size_t)shape->rows * (size_t)shape->columns * (shape->format == MATRIX_BF16 ? 2 : 1);
    if (bench->next + bytes > WEIGHT_BYTES) bench->next = 0;
    struct linear_args args = {
        .x = bench->x,
        .weight = {bench->weights + bench->next, bench->scales, shape->format, shape->rows,
                   shape->columns},
        .out = bench->out,
        .tokens = tokens,
        .groups = 1,
        .quantise_input = shape->format == MATRIX_FP8,
        .bf16_input = true,
    };
    bench->next += bytes;
    uint64_t start_ns = bench_now_ns();
    bench->ops->linear(bench->stream, &args);
    return (double)(bench_now_ns() - start_ns);
}

/* Rounds of products and of the ceiling in turn; the ratio is the median of the rounds' ratios. */
static void measure(struct linear_bench *bench, const struct shape *shape, int32_t tokens)
{
    double rates[BENCH_SAMPLES_MAX], ceilings[BENCH_SAMPLES_MAX], ratios[BENCH_SAMPLES_MAX];
    bool by_memory = tokens < TOKENS_MAX;
    double weights = (double)shape->rows * (double)shape->columns;
    double bytes = weights * (shape->format == MATRIX_BF16 ? 2 : 1);
    int32_t rounds = bench->options->rounds;
    char name[96];
    for (int32_t round = 0; round < rounds; round++) {
        int32_t count = 0;
        double ns = 0;
        while (count == 0 || (ns < 5e7 && count < 16)) {
            ns += multiply_ns(bench, shape, tokens);
            count++;
        }
        rates[round] = (by_memory ? bytes : weights * tokens) * count / ns;
        ceilings[round] =
            by_memory ? bench_memory_rate(bench->threads) : fma_rate() * bench->threads;
        ratios[round] = ceilings[round] > 0 ? rates[round] / ceilings[round] : 0;
    }
    snprintf(name, sizeof name, "%s, %s, %d token%s, %d thread%s", shape->name, bench->ops->name,
             (int)tokens, tokens == 1 ? "" : "s", (int)bench->threads,
             bench->threads == 1 ? "" : "s");
    bench_print(bench->options, &(struct bench_line){
                                    .bench = "linear",
                                    .name = name,
                                    .unit = by_memory ? "GB/s" : "GMAC/s",
                                    .samples = rates,
                                    .count = rounds,
                                    .ceiling = bench_percentile(ceilings, rounds, 50),
                                    .ratio = bench_percentile(ratios, rounds, 50),
                                });
}

/* e4m3 codes of normal values of deviation 64, as trained weights have; any are finite as bf16. */
static void fill(struct linear_bench *bench)
{
    static uint8_t codes[1 << 16]; /* that many weights, in an order that does not return */
    uint64_t state = bench->options->seed;
    for (size_t i = 0; i < sizeof codes; i++) {
        float sum = 0;
        for (int k = 0; k < 4; k++) { /* four uniform values of variance 1/12 */
            state = state * 6364136223846793005u + 1442695040888963407u;
            sum += (float)(state >> 40) * 0x1p-24f - 0.5f;
        }
        codes[i] = e4m3_encode(64 * 1.7320508f * sum);
    }
    for (size_t i = 0; i < WEIGHT_BYTES; i += 4) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        for (size_t k = 0; k < 4; k++)
            bench->weights[i + k] = codes[state >> (16 * k) & 0xffff];
    }
    memset(bench->scales, 120, 1 << 20);
    for (int32_t i = 0; i < TOKENS_MAX * 4096; i++)
        bench->x[i] = (float)(i % 255 - 127) / 64.0f;
}

static int measure_all(struct linear_bench *bench, struct compute *compute)
{
    static const int32_t tokens[] = {1, 4, 16, TOKENS_MAX};
    struct sl_error error;
    fill(bench);
    for (int32_t pass = 0; pass < 2; pass++) {
        bench->threads = compute->threads = pass == 0 ? 1 : bench->options->threads;
        if (pass == 1 && bench->threads == 1) break;
        if (compute_open_stream(compute, bench->ops, &bench->stream, &error) != SL_OK) {
            fprintf(stderr, "sluice-bench: %s\n", error.message);
            return 1;
        }
        for (size_t s = 0; s < SL_COUNT_OF(shapes); s++)
            for (size_t t = 0; t < SL_COUNT_OF(tokens); t++)
                measure(bench, &shapes[s], tokens[t]);
        bench->ops->stream_destroy(bench->stream);
    }
    return 0;
}

int bench_linear(const struct bench_options *options)
{
    struct compute compute;
    struct sl_error error;
    if (compute_choose(options->isa, options->threads, &compute, &error) != SL_OK) {
        fprintf(stderr, "sluice-bench: %s\n", error.message);
        return 1;
    }
    struct linear_bench bench = {
        .options = options,
        .ops = ops_cpu_isa(compute.isa),
        .weights = arena_map(WEIGHT_BYTES),
        .scales = malloc(1 << 20),
        .x = malloc(sizeof(float) * TOKENS_MAX * 4096),
        .out = malloc(sizeof(float) * TOKENS_MAX * 129280),
    };
    int status = 1;
    if (bench.weights && bench.scales && bench.x && bench.out)
        status = measure_all(&bench, &compute);
    else
        fprintf(stderr, "sluice-bench: no memory for 2.5 GiB of weights\n");
    arena_unmap(bench.weights, WEIGHT_BYTES);
    free(bench.scales);
    free(bench.x);
    free(bench.out);
    return status;
}
