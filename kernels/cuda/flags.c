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
    struct flags found = {find("cuStreamWriteValue32"), find("cuStreamWaitValue32")};
    *flags = (struct flags){0};
    if (!found.write || !found.wait) return;
    *word = 0;
    unsigned long long address = (unsigned long long)(uintptr_t)word;
    if (found.write(stream->handle, address, 1, 0) != 0) return;
    if (found.wait(stream->handle, address, 1, WAIT_AT_LEAST) != 0) return;
    if (cudaStreamSynchronize(stream->handle) != cudaSuccess) return;
    if (*(volatile uint32_t *)word == 1) *flags = found;
}

void flags_post(const struct flags *flags, struct stream *stream, uint32_t *flag, uint32_t value)
{
    if (stream->fault != cudaSuccess) return;
    if (!flags->write)
        flags_post_by_kernel(stream, flag, value);
    else if (flags->write(stream->handle, (unsigned long long)(uintptr_t)flag, value, 0) != 0)
        stream_latch(stream, cudaErrorUnknown, "writing a flag");
}

void flags_await(const struct flags *flags, struct stream *stream, const uint32_t *flag,
                 uint32_t value)
{
    if (stream->fault != cudaSuccess) return;
    if (!flags->wait)
        flags_await_by_kernel(stream, flag, value);
    else if (flags->wait(stream->handle, (unsigned long long)(uintptr_t)flag, value,
                         WAIT_AT_LEAST) != 0)
        stream_latch(stream, cudaErrorUnknown, "waiting for a flag");
}
