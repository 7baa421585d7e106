/* Measures what this machine does with experts of a given shape: reads of memory, experts on the
 * CPU, reads of the disk, alone and together. Takes seconds, threads, memory and disk time: a cold
 * call, for nobody who serves. */
#ifndef SLUICE_RUNTIME_HOST_BENCH_H
#define SLUICE_RUNTIME_HOST_BENCH_H

#include "kernels/cpu_isa.h"
#include "kernels/ops.h"
#include "offload/calibration.h"
#include "offload/io.h"

#define HOST_BENCH_DEPTH 8 /* reads in flight while the CPU computes */

struct host_bench {
    const struct ops *ops;
    struct stream *stream;
    struct expert_layout layout;
    const struct io_file *files; /* borrowed; the disk's */
    int32_t file_count;          /* 0: no disk is measured */
    double seconds;              /* of each measurement */
    uint64_t seed;
};

/* Fills everything of `out` but the machine. SL_ERR_NO_MEMORY, SL_ERR_IO: what the disk said. */
SL_MUST_USE enum sl_status host_bench_run(const struct host_bench *bench, struct calibration *out,
                                          struct sl_error *error);

#endif
