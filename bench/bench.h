/* What every benchmark leans on: options, clock, percentiles, and one JSON object per result line.
 *
 * One thread unless a benchmark says otherwise. Nothing here outlives the program. */
#ifndef SLUICE_BENCH_BENCH_H
#define SLUICE_BENCH_BENCH_H

#include "kernels/base.h"

#define BENCH_SAMPLES_MAX 1024

struct bench_options {
    const char *file;   /* --file, or NULL */
    const char *parts;  /* --parts: FILE,FILE.. beside --file, or NULL */
    const char *model;  /* --model: a checkpoint's directory, or NULL */
    const char *trace;  /* --trace: where prediction keeps a trace of the same, or NULL */
    uint64_t bytes;     /* --bytes: of one expert */
    int32_t depth;      /* --depth: experts read at once */
    bool unpacked;      /* --unpacked: six parts at odd offsets, through staging */
    int32_t rounds;     /* --rounds: samples of each case */
    double share;       /* --share: of the experts that RAM holds */
    double seconds;     /* --seconds: of each sample that is measured by time */
    int32_t threads;    /* --threads: most to use */
    int32_t tokens;     /* --tokens: simulated */
    uint64_t seed;      /* --seed */
    const char *isa;    /* --cpu-isa: the kernels' instruction set, or NULL for the best */
    const char *commit; /* --commit, else SLUICE_COMMIT, else "" */
};

/* Samples of one case. `ceiling` is what bounds it, in the same unit, measured in the same run. */
struct bench_line {
    const char *bench, *name, *unit;
    double *samples; /* [count]; sorted by bench_print */
    int32_t count;   /* 1 .. BENCH_SAMPLES_MAX */
    double ceiling;  /* 0: none known */
    double ratio;    /* to the ceiling; 0: none known */
    /* [count] of paired samples to the ceiling's, instead of `ratio`, or NULL. Sorted by
     * bench_print, which gives their median and, from 6 on, its interval of 95 % from their order.
     */
    double *ratios;
};

uint64_t bench_now_ns(void);

/* The `percent`th percentile of `count` > 0 samples, interpolated; sorts them. */
double bench_percentile(double *samples, int32_t count, double percent);

/* Writes the line to stdout; its value is the median. */
void bench_print(const struct bench_options *options, const struct bench_line *line);

/* Best rate at which fio reads `file` at random in blocks of options->bytes, through io_uring with
 * O_DIRECT, registered memory and files, in GB/s; 0 when fio is absent or fails. */
double bench_fio_rate(const struct bench_options *options);

/* Rate at which `threads` threads together read 1 GiB of memory once, in GB/s; 0 when memory or
 * threads are refused. The first call takes that memory and keeps it. */
double bench_memory_rate(int32_t threads);

/* The benchmarks; each returns the exit status. */
int bench_disk(const struct bench_options *options);
int bench_ceilings(const struct bench_options *options);
int bench_linear(const struct bench_options *options);
int bench_pool(const struct bench_options *options);
int bench_generate(const struct bench_options *options);
int bench_ops(const struct bench_options *options);
int bench_prefill(const struct bench_options *options);
int bench_prefill_stream(const struct bench_options *options);
int bench_residency(const struct bench_options *options);
int bench_dispatch(const struct bench_options *options);
int bench_hosts(const struct bench_options *options);
int bench_cost(const struct bench_options *options);
int bench_decode_speed(const struct bench_options *options);
int bench_prediction(const struct bench_options *options);
int bench_prefetch(const struct bench_options *options);

#endif
