/* A GPU op beside its plain C twin: what the programs of tests/gpu share. Needs nothing beyond the
 * kernels and a C compiler; the same programs are linked with the GPU's objects and, for machines
 * without one, with the emulator's. */
#ifndef SLUICE_TESTS_GPU_TWIN_H
#define SLUICE_TESTS_GPU_TWIN_H

#include "kernels/cuda/cuda.h"

#define TWIN_SKIPPED 77 /* exit code of a test that found no device */

struct twin {
    const struct ops *cpu, *gpu;
    struct stream *cpu_stream, *gpu_stream;
    struct cuda_device_info device;
    uint64_t seed; /* of the random numbers; printed with a failure */
    const char *case_name;
    int failures;
};

struct twin_case {
    const char *name; /* a claim */
    void (*run)(struct twin *twin);
};

/* Opens device 0, runs the cases (those whose name contains argv[1], if given), and returns main's
 * result: 0, 1, or TWIN_SKIPPED with a sentence when there is no device. */
int twin_main(int argc, char **argv, const struct twin_case *cases, size_t count);

/* Counts a failure and prints where, unless `condition` holds. */
#define TWIN_CHECK(twin, condition, ...)                                                           \
    do {                                                                                           \
        if (!(condition)) twin_fail((twin), __FILE__, __LINE__, __VA_ARGS__);                      \
    } while (0)
void twin_fail(struct twin *twin, const char *file, int line, const char *format, ...)
    SL_PRINTF(4, 5);

/* Host memory filled with zeros; never NULL. Freed by free(). */
void *twin_host(size_t bytes);

/* Device memory holding a copy of `bytes` of `host` (garbage if NULL), followed by a guard that
 * twin_free checks. Zero bytes give an address that must not be read. */
void *twin_put(struct twin *twin, const void *host, size_t bytes);
/* Copies back; first waits for the GPU and counts a failure if it has a fault. */
void twin_get(struct twin *twin, void *host, const void *device, size_t bytes);
/* Frees what twin_put gave, with the same `bytes`; a changed guard is a failure. */
void twin_free(struct twin *twin, void *device, size_t bytes);

/* An array of both twins: the CPU's copy in `host`, the GPU's in `device`. Fill host, upload, run
 * both ops, compare. */
struct twin_array {
    void *host, *device;
    void *got; /* what twin_download brought back */
    size_t bytes;
};
/* Zeros on the host, garbage on the device. */
struct twin_array twin_array_make(struct twin *twin, size_t bytes);
void twin_upload(struct twin *twin, struct twin_array *array);
const void *twin_download(struct twin *twin, struct twin_array *array);
void twin_array_free(struct twin *twin, struct twin_array *array);

/* Random numbers from the seed. */
uint32_t twin_random(struct twin *twin);
float twin_uniform(struct twin *twin, float low, float high);
/* Fills with values of a normal-like distribution times `scale`, bf16 values if `round`. */
void twin_fill(struct twin *twin, float *out, size_t count, float scale, bool round);
/* An array of such values, of both twins. */
struct twin_array twin_floats(struct twin *twin, size_t count, float scale, bool round);
void twin_fill_bf16(struct twin *twin, uint16_t *out, size_t count, float scale);
/* Every e4m3 code but the NaNs, evenly. */
void twin_fill_e4m3(struct twin *twin, uint8_t *out, size_t count);
/* Scales 2^low .. 2^high, evenly. */
void twin_fill_e8m0(struct twin *twin, uint8_t *out, size_t count, int low, int high);

/* A failure unless all bytes agree. */
void twin_check_bytes(struct twin *twin, const char *what, const void *got, const void *want,
                      size_t bytes);
/* A failure unless rms(got - want) <= rms_limit * rms(want), every difference is at most
 * max_limit * max|want|, and neither is NaN or infinite where the other is not. */
void twin_check_close(struct twin *twin, const char *what, const float *got, const float *want,
                      size_t count, double rms_limit, double max_limit);

#endif
