/* A simulated GPU: a thread that carries out what is launched, in order, by the CPU's ops, behind
 * the caller's back. Memory of its own is the host's; recordings are lists of launches. For tests
 * of what the runtime does around kernels. */
#ifndef SLUICE_TESTS_GPU_SIM_H
#define SLUICE_TESTS_GPU_SIM_H

#include "kernels/gpu.h"

struct gpu_sim_options {
    uint64_t memory_bytes;
    uint64_t link_bytes_per_second; /* 0: as fast as memory */
    bool no_recording;
    int32_t recordings_failing; /* that many come to nothing in the end */
    uint64_t seed;
    const char *pci; /* its address on the bus of a machine that the test describes; NULL: none */
};

struct gpu *gpu_sim_create(const struct gpu_sim_options *options);

/* The launch after `launches` more ones fails, and everything after; negative: never. */
void gpu_sim_fail_after(struct gpu *gpu, int64_t launches);
uint64_t gpu_sim_replays(struct gpu *gpu); /* recordings launched */
/* Bytes taken out of mapped memory so far; nothing must be under way. */
uint64_t gpu_sim_taken_bytes(struct gpu *gpu);

#endif
