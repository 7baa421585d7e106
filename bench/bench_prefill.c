/* fp8 linears of many tokens by the exact kernels and through OpenBLAS, in turn: from which size
 * --prefill fast pays. One thread, processor time, because the question is one of arithmetic; the
 * weights fit no cache. */
#include "bench/bench.h"

#include "kernels/cpu/blas.h"
#include "kernels/cpu_isa.h"
#include "offload/arena.h"

#include <string.h>
#include <time.h>

#define ROWS       2048
#define COLUMNS    4096
#define MATRICES   32 /* 268 MB */
#define TOKENS_MAX 256
#define BYTES      ((size_t)ROWS * COLUMNS)

struct prefill {
    uint8_t *weights; /* [MATRICES, ROWS, COLUMNS] */
    uint8_t *scales;  /* of any matrix */
    float *x;         /* [TOKENS_MAX, COLUMNS] */
    float *out;       /* [TOKENS_MAX, ROWS] */
    struct stream *stream;
    int32_t next; /* matrix whose turn it is */
};

struct way {
    const char *name;
    void (*linear)(struct stream *stream, const struct linear_args *args);
};

static double processor_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static double linear_ms(struct prefill *prefill, const struct way *way, int32_t tokens)
{
    prefill->next = (prefill->next + 1) % MATRICES;
    struct linear_args args = {
        .x = prefill->x,
        .weight = {prefill->weights + (size_t)prefill->next * BYTES, prefill->scales, MATRIX_FP8,
                   ROWS, COLUMNS},
        .out = prefill->out,
        .tokens = tokens,
        .groups = 1,
        .quantise_input = true,
        .round = true,
        .bf16_input = true,
    };
    double start = processor_ms();
    way->linear(prefill->stream, &args);
    return processor_ms() - start;
}

static bool open_prefill(struct prefill *prefill)
{
    prefill->weights = arena_map(MATRICES * BYTES);
    prefill->scales = malloc(COLUMNS);
    prefill->x = malloc(sizeof(float) * TOKENS_MAX * COLUMNS);
    prefill->out = malloc(sizeof(float) * TOKENS_MAX * ROWS);
    if (!prefill->weights || !prefill->scales || !prefill->x || !prefill->out) {
        fprintf(stderr, "sluice-bench: no memory for %d matrices of %zu bytes\n", MATRICES, BYTES);
        return false;
    }
    for (size_t i = 0; i < MATRICES * BYTES; i++)
        prefill->weights[i] = (uint8_t)(i * 37 % 113); /* no NaN */
    memset(prefill->scales, 120, COLUMNS);
    for (int32_t i = 0; i < TOKENS_MAX * COLUMNS; i++)
        prefill->x[i] = (float)(i * 37 % 64 - 32) / 16.0f;
    if (blas_stream_create(&(struct stream_options){.threads = 1}, &prefill->stream) == SL_OK)
        return true;
    fprintf(stderr, "sluice-bench: no OpenBLAS to compare with\n");
    return false;
}

static void close_prefill(struct prefill *prefill)
{
    blas_stream_destroy(prefill->stream);
    arena_unmap(prefill->weights, MATRICES * BYTES);
    free(prefill->scales);
    free(prefill->x);
    free(prefill->out);
}

/* All ways in turn, round after round; OpenBLAS comes first and the ratio is to it. */
static void measure(const struct bench_options *options, struct prefill *prefill,
                    const struct way *ways, int32_t count, int32_t tokens)
{
    double times[CPU_ISA_COUNT][BENCH_SAMPLES_MAX];
    for (int32_t round = -1; round < options->rounds; round++)
        for (int32_t i = 0; i < count; i++)
            times[i][max_i32(round, 0)] = linear_ms(prefill, &ways[i], tokens);
    double blas = bench_percentile(times[0], options->rounds, 50);
    for (int32_t i = 0; i < count; i++) {
        char name[96];
        snprintf(name, sizeof name, "fp8 %d x %d, %s, %d tokens", ROWS, COLUMNS, ways[i].name,
                 (int)tokens);
        bench_print(options, &(struct bench_line){
                                 .bench = "prefill",
                                 .name = name,
                                 .unit = "ms",
                                 .samples = times[i],
                                 .count = options->rounds,
                                 .ceiling = blas,
                                 .ratio = blas / bench_percentile(times[i], options->rounds, 50),
                             });
    }
}

int bench_prefill(const struct bench_options *options)
{
    static const int32_t token_counts[] = {16, 32, 64, 128, 256};
    struct way ways[CPU_ISA_COUNT] = {{"OpenBLAS", cpu_linear_blas_avx2}};
    struct prefill prefill = {0};
    int32_t count = 1;
    int result = 1;
    if (!cpu_isa_supported(CPU_ISA_AVX2)) {
        fprintf(stderr, "sluice-bench: prefill needs a processor with AVX2\n");
        return 1;
    }
    for (int isa = CPU_ISA_AVX2; isa < CPU_ISA_COUNT; isa++)
        if (cpu_isa_supported((enum cpu_isa)isa))
            ways[count++] = (struct way){cpu_isa_name((enum cpu_isa)isa),
                                         ops_cpu_isa((enum cpu_isa)isa)->linear};
    if (open_prefill(&prefill)) {
        for (size_t i = 0; i < SL_COUNT_OF(token_counts); i++)
            measure(options, &prefill, ways, count, token_counts[i]);
        result = 0;
    }
    close_prefill(&prefill);
    return result;
}
