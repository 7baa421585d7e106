/* What the machine can do at best: reading memory with one thread and with all, and reading the
 * disk. Other benchmarks stand beside these. */
#include "bench/bench.h"

#include "offload/arena.h"

#include <pthread.h>
#include <string.h>

#define MEMORY_BYTES ((size_t)1 << 30) /* far more than any cache */
#define THREADS_MAX  256

struct part {
    const uint64_t *words;
    size_t count;
    uint64_t sum; /* so that the reads cannot be left out */
};

static void *read_part(void *argument)
{
    struct part *part = argument;
    uint64_t sums[8] = {0};
    for (size_t i = 0; i + 8 <= part->count; i += 8)
        for (size_t lane = 0; lane < 8; lane++)
            sums[lane] += part->words[i + lane];
    for (size_t lane = 0; lane < 8; lane++)
        part->sum += sums[lane];
    return NULL;
}

/* The memory that is read, filled with ones; made once and kept until the program ends. */
static const uint8_t *filled_memory(void)
{
    static uint8_t *memory;
    if (!memory && (memory = arena_map(MEMORY_BYTES))) memset(memory, 1, MEMORY_BYTES);
    return memory;
}

double bench_memory_rate(int32_t threads)
{
    const uint8_t *memory = filled_memory();
    if (!memory || threads < 1 || threads > THREADS_MAX) return 0;
    pthread_t ids[THREADS_MAX];
    struct part parts[THREADS_MAX];
    size_t shares = (size_t)threads;
    size_t words = MEMORY_BYTES / 64 / shares * 8; /* of each thread, a multiple of its lanes */
    int32_t started = 0;
    uint64_t sum = 0, start_ns = bench_now_ns();
    for (; started < threads; started++) {
        parts[started] = (struct part){
            (const uint64_t *)(const void *)memory + (size_t)started * words, words, 0};
        if (pthread_create(&ids[started], NULL, read_part, &parts[started])) break;
    }
    for (int32_t i = 0; i < started; i++) {
        pthread_join(ids[i], NULL);
        sum += parts[i].sum;
    }
    double elapsed_ns = (double)(bench_now_ns() - start_ns);
    /* The memory holds ones in every byte, so the sum tells that all of it was read. */
    SL_ASSERT(started < threads || sum == UINT64_C(0x0101010101010101) * (words * shares));
    return started == threads ? (double)(words * 8 * shares) / elapsed_ns : 0;
}

static void measure_memory(const struct bench_options *options, int32_t threads)
{
    double rates[BENCH_SAMPLES_MAX];
    char name[64];
    for (int32_t round = 0; round < options->rounds; round++)
        rates[round] = bench_memory_rate(threads);
    snprintf(name, sizeof name, "memory read, %d thread%s", (int)threads, threads == 1 ? "" : "s");
    bench_print(options, &(struct bench_line){.bench = "ceilings",
                                              .name = name,
                                              .unit = "GB/s",
                                              .samples = rates,
                                              .count = options->rounds});
}

int bench_ceilings(const struct bench_options *options)
{
    int32_t threads = min_i32(options->threads, THREADS_MAX);
    if (!filled_memory()) {
        fprintf(stderr, "sluice-bench: no memory for a buffer of 1 GiB\n");
        return 1;
    }
    measure_memory(options, 1);
    if (threads > 1) measure_memory(options, threads);
    if (options->file) {
        double rates[BENCH_SAMPLES_MAX];
        char name[96];
        for (int32_t round = 0; round < options->rounds; round++)
            rates[round] = bench_fio_rate(options);
        snprintf(name, sizeof name, "disk read by fio, %llu bytes, depth %d",
                 (unsigned long long)options->bytes, (int)options->depth);
        bench_print(options, &(struct bench_line){.bench = "ceilings",
                                                  .name = name,
                                                  .unit = "GB/s",
                                                  .samples = rates,
                                                  .count = options->rounds});
    }
    return 0;
}
