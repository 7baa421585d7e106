/* The GPU's stream: a CUDA stream with the scratch memory of its ops and the first fault.
 *
 * Created by ops_cuda()->stream_create on the current device or by cuda_stream_create_on; one
 * thread at a time submits. Ops only queue work: launchers check shapes, choose a variant and
 * launch, they neither allocate nor wait nor read the environment, so that a graph can capture
 * them. A fault is latched and comes out of stream_sync. Scratch belongs to the op that runs, in
 * stream order. */
#ifndef SLUICE_KERNELS_CUDA_STREAM_H
#define SLUICE_KERNELS_CUDA_STREAM_H

#include "kernels/ops.h"

#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Device scratch of a stream: partial sums of split products, candidates of the indexer, the
 * rounded inputs of 8,192 tokens of 4,096 columns with a list of what to do with them. */
#define CUDA_SCRATCH_BYTES ((size_t)65 << 20)
/* Tickets of blocks that finish one product together; zero between ops. */
#define CUDA_TICKETS 8192

struct stream {
    cudaStream_t handle;
    uint8_t *scratch;         /* device, CUDA_SCRATCH_BYTES */
    uint32_t *tickets;        /* device, [CUDA_TICKETS] */
    int32_t device;           /* its number */
    int32_t processors;       /* multiprocessors */
    int32_t shared_bytes_max; /* a block may ask for */
    int32_t arch;             /* 80, 90, ... */
    bool chains;              /* kernels may be chained (launch.cuh) */
    bool after_kernel;        /* what was queued last is a kernel: the next may be chained to it */
    uint64_t launches;        /* so far */
    bool loading;             /* launches load their kernel and do nothing else */
    cudaError_t fault;        /* the first since the last sync */
    const char *fault_where;  /* static text */
    cudaError_t synced;       /* what the last sync returned, and where */
    const char *synced_where;
};

/* Tells, in a kernel, whether the machine code that runs can be chained; `out` is device memory. */
void stream_probe_chains(struct stream *stream, uint32_t *out);

/* Latches a failed call; `where` is static text. */
static inline void stream_latch(struct stream *stream, cudaError_t code, const char *where)
{
    if (code == cudaSuccess || stream->fault != cudaSuccess) return;
    stream->fault = code;
    stream->fault_where = where;
}

#ifdef __cplusplus
}
#endif
#endif
