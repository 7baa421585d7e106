/* sluice-bench-gpu [ROUNDS [PART]]: the GPU's ops at the model's shapes beside its copy bandwidth,
 * a line of JSON for each case, as bench/README.md describes them. Cases are in gpu_cases.c. */
#include "bench/gpu/gpu_bench.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

#define POOL_BYTES      ((size_t)4 << 30)
#define POOL_BYTES_TINY ((size_t)16 << 20)
#define STAGING_BYTES   ((size_t)16 << 20)
#define ALLOCATIONS_MAX 512

#define CHUNK_REPEATS 2 /* launches of a sample: a chunk takes milliseconds */

#define SEED 1

static void *allocations[ALLOCATIONS_MAX];
static int32_t allocation_count;

uint64_t gpu_bench_now_ns(void)
{
    struct timespec now;
    SL_ASSERT(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double gpu_bench_print(const struct gpu_bench *bench, const char *name, const char *unit,
                       double *samples, double ceiling)
{
    int32_t count = bench->rounds;
    qsort(samples, (size_t)count, sizeof *samples, compare_doubles);
    double median = (samples[(count - 1) / 2] + samples[count / 2]) / 2;
    printf("{\"bench\": \"gpu\", \"case\": \"%s\", \"value\": %.6g, \"unit\": \"%s\", \"n\": %d, "
           "\"p10\": %.6g, \"p50\": %.6g, \"p90\": %.6g, ",
           name, median, unit, (int)count, samples[(count - 1) / 10], median,
           samples[count - 1 - (count - 1) / 10]);
    if (ceiling > 0) printf("\"ceiling\": %.6g, \"ratio\": %.4g, ", ceiling, median / ceiling);
    printf("\"seed\": %d, \"machine\": \"%s\", \"commit\": \"%s\"}\n", SEED,
           bench->gpu->gpu_ops->describe(bench->gpu), bench->commit);
    fflush(stdout);
    return median;
}

uint8_t *gpu_bench_fresh(struct gpu_bench *bench, size_t bytes)
{
    bytes = align_up(bytes, 256);
    SL_ASSERT(bytes <= bench->pool_bytes);
    if (bench->next + bytes > bench->pool_bytes) bench->next = 0;
    bench->next += bytes;
    return bench->pool + bench->next - bytes;
}

static void fail(struct gpu_bench *bench, const char *what, const struct sl_error *error)
{
    fprintf(stderr, "sluice-bench-gpu: %s: %s\n", what, error->message);
    bench->failures++;
}

static void *allocate(struct gpu_bench *bench, size_t bytes)
{
    struct sl_error error;
    void *memory = NULL;
    SL_ASSERT(allocation_count < ALLOCATIONS_MAX);
    if (bench->gpu->gpu_ops->alloc(bench->gpu, GPU_DEVICE, bytes, &memory, &error) != SL_OK) {
        fail(bench, "GPU memory", &error);
        return NULL;
    }
    allocations[allocation_count++] = memory;
    return memory;
}

bool gpu_bench_send(struct gpu_bench *bench, void *target, const void *host, size_t bytes)
{
    struct gpu *gpu = bench->gpu;
    struct sl_error error;
    void *staging = NULL;
    bool good = gpu->gpu_ops->alloc(gpu, GPU_MAPPED, STAGING_BYTES, &staging, &error) == SL_OK;
    for (size_t done = 0; good && done < bytes; done += STAGING_BYTES) {
        size_t length = bytes - done < STAGING_BYTES ? bytes - done : STAGING_BYTES;
        if (host) memcpy(staging, (const uint8_t *)host + done, length);
        gpu->gpu_ops->copy(gpu, (uint8_t *)target + done, staging, length);
        good = gpu->gpu_ops->sync(gpu, &error) == SL_OK;
    }
    if (!good) fail(bench, "filling GPU memory", &error);
    gpu->gpu_ops->free(gpu, GPU_MAPPED, staging);
    return good;
}

void *gpu_bench_put(struct gpu_bench *bench, const void *host, size_t bytes)
{
    uint8_t *memory = allocate(bench, bytes);
    if (memory && !gpu_bench_send(bench, memory, host, bytes)) return NULL;
    return memory;
}

/* One sample: its launches; nanoseconds of each, or a negative number. */
static double sample(struct gpu_bench *bench, struct gpu_graph *graph, gpu_bench_launch *launch,
                     void *context)
{
    struct gpu *gpu = bench->gpu;
    struct sl_error error;
    uint64_t start_ns = gpu_bench_now_ns();
    if (graph)
        gpu->gpu_ops->graph_launch(gpu, graph);
    else
        for (int32_t i = 0; i < bench->repeats; i++)
            launch(bench, context, i);
    if (gpu->gpu_ops->sync(gpu, &error) != SL_OK) {
        fail(bench, "running", &error);
        return -1;
    }
    return (double)(gpu_bench_now_ns() - start_ns) / bench->repeats;
}

bool gpu_bench_sample(struct gpu_bench *bench, gpu_bench_launch *launch, void *context,
                      double *samples)
{
    struct gpu *gpu = bench->gpu;
    struct gpu_graph *graph = NULL;
    struct sl_error error;
    if (bench->failures > 0) return false;
    if (gpu->gpu_ops->record && gpu->gpu_ops->record(gpu, &error) == SL_OK) {
        for (int32_t i = 0; i < bench->repeats; i++)
            launch(bench, context, i);
        if (gpu->gpu_ops->record_end(gpu, &graph, &error) != SL_OK) graph = NULL;
    }
    for (int32_t round = -1; round < bench->rounds; round++) { /* the first to warm up */
        double ns = sample(bench, graph, launch, context);
        if (ns < 0) break;
        if (round >= 0) samples[round] = ns;
    }
    gpu->gpu_ops->graph_destroy(gpu, graph);
    return bench->failures == 0;
}

void gpu_bench_measure(struct gpu_bench *bench, const char *name, double bytes,
                       gpu_bench_launch *launch, void *context)
{
    double samples[GPU_BENCH_SAMPLES_MAX];
    if (!gpu_bench_sample(bench, launch, context, samples)) return;
    for (int32_t i = 0; i < bench->rounds; i++)
        samples[i] = bytes > 0 ? bytes / samples[i] : samples[i] / 1000;
    (void)gpu_bench_print(bench, name, bytes > 0 ? "GB/s" : "us", samples,
                          bytes > 0 ? bench->copy_rate : 0);
}

double gpu_bench_measure_bound(struct gpu_bench *bench, const char *name, double operations,
                               double bytes, gpu_bench_launch *launch, void *context)
{
    double samples[GPU_BENCH_SAMPLES_MAX];
    int32_t repeats = bench->repeats;
    if (bench->failures > 0) return 0;
    double matrix_rate = gpu_bench_matrix_rate(bench);
    if (bench->failures > 0) return 0;
    bool computes = operations / matrix_rate / 1000 > bytes / bench->copy_rate;
    double work = computes ? operations / 1000 : bytes;
    bench->repeats = bench->tiny ? 1 : CHUNK_REPEATS;
    bool good = gpu_bench_sample(bench, launch, context, samples);
    bench->repeats = repeats;
    if (!good) return 0;
    for (int32_t i = 0; i < bench->rounds; i++)
        samples[i] = work / samples[i];
    return work / gpu_bench_print(bench, name, computes ? "TFLOP/s" : "GB/s", samples,
                                  computes ? matrix_rate : bench->copy_rate);
}

static void copy_pool(struct gpu_bench *bench, void *context, int32_t repeat)
{
    size_t half = bench->pool_bytes / 2;
    (void)context, (void)repeat;
    bench->gpu->gpu_ops->copy(bench->gpu, bench->pool + half, bench->pool, half);
}

/* Half of the pool onto the other half: read once, written once. */
static void measure_copy(struct gpu_bench *bench)
{
    double rates[GPU_BENCH_SAMPLES_MAX];
    for (int32_t round = -1; round < bench->rounds; round++) {
        double ns = sample(bench, NULL, copy_pool, NULL);
        if (ns < 0) return;
        if (round >= 0) rates[round] = (double)bench->pool_bytes / ns;
    }
    bench->copy_rate = gpu_bench_print(bench, "copy of device memory", "GB/s", rates, 0);
}

static void fill_pool(struct gpu_bench *bench)
{
    uint8_t *host = malloc(STAGING_BYTES);
    uint64_t state = SEED;
    SL_ASSERT(host != NULL);
    for (size_t i = 0; i < STAGING_BYTES; i += 8) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        uint64_t word = (state >> 3 & 0x3737373737373737u) | 0x4040404040404040u;
        memcpy(host + i, &word, sizeof word);
    }
    if (gpu_bench_send(bench, bench->pool, host, STAGING_BYTES))
        for (size_t at = STAGING_BYTES; at < bench->pool_bytes; at += STAGING_BYTES)
            bench->gpu->gpu_ops->copy(bench->gpu, bench->pool + at, bench->pool, STAGING_BYTES);
    free(host);
}

static const struct {
    const char *name;
    void (*run)(struct gpu_bench *bench);
} parts[] = {
    {"linear", gpu_bench_linear},       {"experts", gpu_bench_experts},
    {"layers", gpu_bench_layers},       {"copies", gpu_bench_copies},
    {"attention", gpu_bench_attention}, {"prefill", gpu_bench_prefill},
    {"dense", gpu_bench_dense},         {"turns", gpu_bench_turns},
    {"grouped", gpu_bench_grouped},
};

/* Those of that name, or all. */
static void run_parts(struct gpu_bench *bench, const char *name)
{
    fill_pool(bench);
    measure_copy(bench);
    for (size_t i = 0; i < SL_COUNT_OF(parts); i++)
        if (!name || strcmp(parts[i].name, name) == 0) parts[i].run(bench);
}

static bool is_part(const char *name)
{
    for (size_t i = 0; i < SL_COUNT_OF(parts); i++)
        if (strcmp(parts[i].name, name) == 0) return true;
    return false;
}

int main(int argc, char **argv)
{
    const char *commit = getenv("SLUICE_COMMIT");
    long rounds = argc > 1 ? strtol(argv[1], NULL, 10) : 10;
    struct gpu_bench bench = {.rounds = (int32_t)rounds, .commit = commit ? commit : ""};
    struct sl_error error;
    const char *part = argc > 2 ? argv[2] : NULL;
    if (argc > 3 || rounds < 1 || rounds > GPU_BENCH_SAMPLES_MAX || (part && !is_part(part))) {
        fprintf(stderr,
                "usage: sluice-bench-gpu [ROUNDS [PART]]   (1 to %d; linear, experts, "
                "layers, copies, attention, prefill, dense, turns or grouped)\n",
                GPU_BENCH_SAMPLES_MAX);
        return 2;
    }
    if (gpu_open(&bench.gpu, &error) != SL_OK) {
        fprintf(stderr, "sluice-bench-gpu: %s\n", error.message);
        return 77; /* as tests do: nothing to measure here */
    }
    bench.tiny = strstr(bench.gpu->gpu_ops->describe(bench.gpu), "not hardware") != NULL;
    bench.repeats = bench.tiny ? 1 : GPU_BENCH_REPEATS_MAX;
    bench.pool_bytes = bench.tiny ? POOL_BYTES_TINY : POOL_BYTES;
    bench.pool = allocate(&bench, bench.pool_bytes);
    if (bench.pool) run_parts(&bench, part);
    while (allocation_count > 0)
        bench.gpu->gpu_ops->free(bench.gpu, GPU_DEVICE, allocations[--allocation_count]);
    bench.gpu->gpu_ops->destroy(bench.gpu);
    return bench.failures > 0 ? 1 : 0;
}
