/* Measures what this machine does with experts of a given shape: reads of memory, experts on the
 * CPU, reads of the disk, copies to a device and back, alone and together, and on which NUMA nodes
 * they lie best. Takes seconds, threads, memory and disk time: a cold call, for nobody who serves.
 *
 * Its parts are host_experts (memory and CPU), host_disk and host_link. */
#ifndef SLUICE_RUNTIME_HOST_BENCH_H
#define SLUICE_RUNTIME_HOST_BENCH_H

#include "kernels/cpu_isa.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "offload/calibration.h"
#include "offload/io.h"

#define HOST_BENCH_DEPTH       8  /* reads, or copies each way, in flight while others work */
#define HOST_BENCH_SLOW_FACTOR 10 /* a measurement takes no longer than so many times its time */
#define HOST_BENCH_TEXT_BYTES  256

struct host_bench {
    const struct ops *ops;
    struct stream *stream;
    struct expert_layout layout;
    const struct io_file *files; /* borrowed; the disk's */
    int32_t file_count;          /* 0: no disk is measured */
    enum io_kind io;
    struct device *device; /* borrowed, the caller's thread owns it; NULL: no link is measured */
    const char *pci;       /* its address; NULL or "": none */
    size_t memory_bytes;   /* of experts that are computed in turn: more than caches hold */
    double seconds;        /* of each measurement */
    uint64_t seed;
};

/* Fills everything of `out` but the machine and the time. `note`: what made the figures lower than
 * they could be, such as memory that may not be pinned; "" where nothing did. SL_ERR_NO_MEMORY,
 * SL_ERR_IO: what the disk or the link said. */
SL_MUST_USE enum sl_status host_bench_run(const struct host_bench *bench, struct calibration *out,
                                          char note[HOST_BENCH_TEXT_BYTES], struct sl_error *error);

/* splitmix64 */
static inline uint64_t host_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

#endif
