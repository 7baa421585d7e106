/* The GPU for code that must not see CUDA's headers: what is there, the op table, plain memory.
 *
 * In a build without the toolkit every call exists: there is no device, and the sentence says why.
 * Devices are numbered from 0; the calls below act on the calling thread's current device unless
 * they name one. */
#ifndef SLUICE_KERNELS_CUDA_CUDA_H
#define SLUICE_KERNELS_CUDA_CUDA_H

#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

struct cuda_device_info {
    char name[128];
    char pci[16]; /* address, "0000:65:00.0" */
    size_t memory_bytes, memory_free_bytes;
    size_t cache_bytes; /* L2 */
    int32_t arch;       /* 80 for compute capability 8.0 */
    int32_t processors;
    bool emulated; /* the tests' stand-in, not hardware */
};

/* Facts of one device, and makes it the thread's current one. SL_ERR_UNSUPPORTED with a sentence
 * when this build has no GPU kernels, no driver or no such device is there, or the device is older
 * than compute capability 8.0. */
enum sl_status cuda_device_open(int32_t device, struct cuda_device_info *info,
                                struct sl_error *error) SL_MUST_USE;

/* The table whose array arguments are device memory, scalars of args the host's. expert_task arrays
 * and the layout of expert_ffn_args are said where the op is. NULL in a build without GPU kernels.
 * stream_create ignores threads, cpus and nodes. */
const struct ops *ops_cuda(void);

/* stream_create with the sentence of what failed. */
enum sl_status cuda_stream_create(struct stream **out, struct sl_error *error) SL_MUST_USE;

/* Whether kernels may begin before the one before has ended, where this build and the device can;
 * true at first if they can. Returns what it was. For benchmarks and for recordings that fail. */
bool cuda_stream_chain(struct stream *stream, bool chained);

/* Which way fp8 linears of more than 16 tokens take. */
enum cuda_linears {
    CUDA_LINEARS_MEASURED, /* at first: as linear_choice.h says, where cuBLASLt is found */
    CUDA_LINEARS_OWN,      /* this tree's kernel */
    CUDA_LINEARS_CUBLAS,   /* cuBLASLt wherever it can */
};
/* Changes it, for tests and benchmarks. SL_ERR_UNSUPPORTED with a sentence, and nothing changed, if
 * cuBLASLt is wanted and cannot be had, or the device is not of compute capability 9.0. */
enum sl_status cuda_stream_linears(struct stream *stream, enum cuda_linears way,
                                   struct sl_error *error) SL_MUST_USE;
/* Whether this linear would go through cuBLASLt now. The first call for its sizes takes time, and
 * must not be made while recording. */
bool cuda_linear_by_cublas(const struct stream *stream, const struct linear_args *args);

/* Kernels launched or recorded so far. */
uint64_t cuda_stream_launches(const struct stream *stream);

/* The fault that the last stream_sync returned, as a sentence; its status. SL_OK if it was fine. */
enum sl_status cuda_stream_fault(const struct stream *stream, struct sl_error *error);

/* `bytes` of device memory on a 256-byte boundary, contents undefined; 0 bytes give NULL.
 * SL_ERR_NO_MEMORY says how much was free. */
enum sl_status cuda_memory_alloc(size_t bytes, void **out, struct sl_error *error) SL_MUST_USE;
void cuda_memory_free(void *memory); /* NULL is fine; waits for the device */

/* Copies in stream order and waits for them: host to device, device to host; zero bytes are fine.
 */
enum sl_status cuda_copy_in(struct stream *stream, void *device, const void *host,
                            size_t bytes) SL_MUST_USE;
enum sl_status cuda_copy_out(struct stream *stream, void *host, const void *device,
                             size_t bytes) SL_MUST_USE;

#ifdef __cplusplus
}
#endif
#endif
