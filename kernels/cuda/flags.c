/* Finding and trying the driver's stream memory operations; see the header. */
#include "kernels/cuda/flags.h"

#define CALLS_SINCE   12000 /* the version of the driver's interface whose calls are meant */
#define WAIT_AT_LEAST 0u    /* CU_STREAM_WAIT_VALUE_GEQ */

static flags_call find(const char *name)
{
    void *function = NULL;
    enum cudaDriverEntryPointQueryResult result;
    cudaError_t code =
        cudaGetDriverEntryPointByVersion(name, &function, CALLS_SINCE, cudaEnableDefault, &result);
    if (code != cudaSuccess || result != cudaDriverEntryPointSuccess) {
        (void)cudaGetLastError();
        return NULL;
    }
    return (flags_call)function;
}

void flags_probe(struct flags *flags, struct stream *stream, uint32_t *word)
{
    flags_call write = find("cuStreamWriteValue32"), wait = find("cuStreamWaitValue32");
    *flags = (struct flags){0};
    if (!write || !wait) return;
    *word = 0;
    unsigned long long address = (unsigned long long)(uintptr_t)word;
    if (write(stream->handle, address, 1, 0) != 0) return;
    if (wait(stream->handle, address, 1, WAIT_AT_LEAST) != 0) return;
    if (cudaStreamSynchronize(stream->handle) != cudaSuccess) return;
    if (*(volatile uint32_t *)word == 1) flags->wait = wait;
}

void flags_take(const struct flags *flags, struct stream *stream, const uint32_t *flag,
                uint32_t value, const struct gpu_piece *pieces, int32_t count)
{
    if (stream->fault != cudaSuccess) return;
    if (!flags->wait || stream->loading) {
        flags_copy_by_kernel(stream, flag, value, pieces, count);
        return;
    }
    stream->after_kernel = false;
    if (flags->wait(stream->handle, (unsigned long long)(uintptr_t)flag, value, WAIT_AT_LEAST) != 0)
        stream_latch(stream, cudaErrorUnknown, "waiting for a flag");
    flags_copy_by_kernel(stream, NULL, 0, pieces, count);
}
