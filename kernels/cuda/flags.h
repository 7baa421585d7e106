/* Words of mapped memory by which the host and a stream wait for each other: the driver's stream
 * memory operations where they work, else kernels of one thread. Both may be recorded. */
#ifndef SLUICE_KERNELS_CUDA_FLAGS_H
#define SLUICE_KERNELS_CUDA_FLAGS_H

#include "kernels/cuda/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The driver's calls; NULL: kernels do it. */
typedef int (*flags_call)(cudaStream_t stream, unsigned long long address, uint32_t value,
                          unsigned flags);
struct flags {
    flags_call write, wait;
};

/* Finds the driver's calls and tries them on `stream` with a word of mapped memory. */
void flags_probe(struct flags *flags, struct stream *stream, uint32_t *word);

/* `*flag = value` once all before is done and visible to the host. */
void flags_post(const struct flags *flags, struct stream *stream, uint32_t *flag, uint32_t value);
/* What follows waits until *flag >= value. */
void flags_await(const struct flags *flags, struct stream *stream, const uint32_t *flag,
                 uint32_t value);

/* The kernels behind the two, for a driver without such calls. */
void flags_post_by_kernel(struct stream *stream, uint32_t *flag, uint32_t value);
void flags_await_by_kernel(struct stream *stream, const uint32_t *flag, uint32_t value);

#ifdef __cplusplus
}
#endif
#endif
