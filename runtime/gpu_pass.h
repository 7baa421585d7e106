/* A pass on a GPU without round trips: every launch of all layers at once, or a recording of them
 * replayed, while the host serves layer after layer what it is asked for. */
#ifndef SLUICE_RUNTIME_GPU_PASS_H
#define SLUICE_RUNTIME_GPU_PASS_H

#include "runtime/forward.h"

#define GPU_PASS_TOKENS_MAX 16 /* more are prefill, and meet at every layer */

/* Recordings of passes by their number of tokens. They name the addresses of a session's cache, and
 * belong to it. Zero-initialise. */
struct gpu_pass_recordings {
    struct gpu_graph *graphs[GPU_PASS_TOKENS_MAX + 1];
    uint32_t passes[GPU_PASS_TOKENS_MAX + 1];
    bool loaded[GPU_PASS_TOKENS_MAX + 1]; /* the kernels of such a pass */
    bool refused;                         /* the device records nothing */
};

void gpu_pass_forget(struct gpu_pass_recordings *recordings, struct gpu *gpu);

/* Whether the chunk can go this way: all its experts fit into views at once. */
bool gpu_pass_fits(struct forward *forward, const struct forward_chunk *chunk);

/* forward_layers' work, without waiting for the end of it. On a failure the GPU is idle. */
SL_MUST_USE enum sl_status gpu_pass_layers(struct forward *forward,
                                           const struct forward_chunk *chunk);

#endif
