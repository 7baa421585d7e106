/* GPU benchmarks: what their cases share. Launches are recorded once and replayed, so that a sample
 * is the device's time; data rotates over more memory than the second-level cache holds.
 *
 * A program of its own, sluice-bench-gpu, that needs the kernels and a C compiler and nothing else.
 */
#ifndef SLUICE_BENCH_GPU_GPU_BENCH_H
#define SLUICE_BENCH_GPU_GPU_BENCH_H

#include "kernels/cuda/cuda.h"
#include "kernels/gpu.h"

#define GPU_BENCH_REPEATS_MAX 20
#define GPU_BENCH_SAMPLES_MAX 100

struct gpu_bench {
    struct gpu *gpu;
    int32_t rounds;     /* samples of each case */
    int32_t repeats;    /* launches of a sample */
    const char *commit; /* SLUICE_COMMIT, or "" */
    uint8_t *pool;      /* device, bytes that are finite e4m3, bf16 and scales well below 1 */
    size_t pool_bytes, next;
    double copy_rate;   /* GB/s, read and written, of device memory onto device memory */
    double matrix_rate; /* TFLOP/s: gpu_bench_matrix_rate's, 0 before it */
    bool tiny;          /* emulated: small shapes, only to see that everything runs */
    int failures;
};

/* `bytes` of the pool that were not used lately, on a 256-byte boundary. */
uint8_t *gpu_bench_fresh(struct gpu_bench *bench, size_t bytes);
/* Device memory holding a copy of `host` (zeros if NULL), freed at the end of the program; NULL and
 * a failure counted when there is none. */
void *gpu_bench_put(struct gpu_bench *bench, const void *host, size_t bytes);
/* Copies `bytes` of `host` (zeros if NULL) to device memory; a failure is counted. */
bool gpu_bench_send(struct gpu_bench *bench, void *target, const void *host, size_t bytes);

/* Launches an op once; `repeat` counts from 0 within a sample. */
typedef void gpu_bench_launch(struct gpu_bench *bench, void *context, int32_t repeat);

/* Nanoseconds a launch, bench->rounds of them; false after a failure. */
bool gpu_bench_sample(struct gpu_bench *bench, gpu_bench_launch *launch, void *context,
                      double *samples);
/* Measures a case and prints its line: GB/s beside the copy rate for `bytes` a launch, or with 0
 * bytes microseconds alone. */
void gpu_bench_measure(struct gpu_bench *bench, const char *name, double bytes,
                       gpu_bench_launch *launch, void *context);

/* TFLOP/s of the device's bf16 products, measured and printed by the first call; where cuBLASLt is
 * not to be had, what bench/prefill.md assumes, which is said once. 0 after a failure. */
double gpu_bench_matrix_rate(struct gpu_bench *bench);
/* As gpu_bench_measure for a chunk of a prompt, in the unit of what binds it: TFLOP/s of
 * `operations` beside the rate of bf16 products, or GB/s of `bytes` beside the copy rate. Returns
 * nanoseconds a launch, 0 after a failure. */
double gpu_bench_measure_bound(struct gpu_bench *bench, const char *name, double operations,
                               double bytes, gpu_bench_launch *launch, void *context);
/* Device memory of numbers from -1 to 1, as gpu_bench_put. */
float *gpu_bench_put_floats(struct gpu_bench *bench, size_t count);

/* Cases of attention and of the indexer: every launch sees other compressed rows or keys. */
struct gpu_attention_case {
    struct attention_args args;
    size_t rows_bytes; /* of a launch */
};
struct gpu_indexer_case {
    struct indexer_args args;
    size_t rows_bytes;
};
gpu_bench_launch gpu_bench_launch_attention, gpu_bench_launch_indexer;

uint64_t gpu_bench_now_ns(void);

/* Prints the line of a case and returns its value, the median of bench->rounds samples, which are
 * sorted. No ceiling if that is 0. */
double gpu_bench_print(const struct gpu_bench *bench, const char *name, const char *unit,
                       double *samples, double ceiling);

/* The cases. */
void gpu_bench_experts(struct gpu_bench *bench);
void gpu_bench_attention(struct gpu_bench *bench);
void gpu_bench_prefill(struct gpu_bench *bench);
void gpu_bench_dense(struct gpu_bench *bench);
void gpu_bench_turns(struct gpu_bench *bench);
void gpu_bench_grouped(struct gpu_bench *bench);
void gpu_bench_linear(struct gpu_bench *bench);
void gpu_bench_layers(struct gpu_bench *bench);
void gpu_bench_copies(struct gpu_bench *bench);

#endif
