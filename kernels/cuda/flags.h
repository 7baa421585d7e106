/* Words of mapped memory by which the host and a stream wait for each other, and the bytes that go
 * with them. The stream waits by the driver's stream memory operations where they work, else by a
 * kernel. Everything may be recorded. */
#ifndef SLUICE_KERNELS_CUDA_FLAGS_H
#define SLUICE_KERNELS_CUDA_FLAGS_H

#include "kernels/cuda/stream.h"
#include "kernels/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The driver's call; NULL: a kernel waits. */
typedef int (*flags_call)(cudaStream_t stream, unsigned long long address, uint32_t value,
                          unsigned flags);
struct flags {
    flags_call wait;
};

/* Finds the driver's calls and tries them on `stream` with a word of mapped memory. */
void flags_probe(struct flags *flags, struct stream *stream, uint32_t *word);

/* As kernels/gpu.h says: copies, then the flag; the flag, then copies. */
void flags_publish(struct stream *stream, const struct gpu_piece *pieces, int32_t count,
                   uint32_t *flag, uint32_t value);
void flags_take(const struct flags *flags, struct stream *stream, const uint32_t *flag,
                uint32_t value, const struct gpu_piece *pieces, int32_t count);

/* Behind flags_take: copies, after the wait if `flag` is not NULL. */
void flags_copy_by_kernel(struct stream *stream, const uint32_t *flag, uint32_t value,
                          const struct gpu_piece *pieces, int32_t count);

#ifdef __cplusplus
}
#endif
#endif
