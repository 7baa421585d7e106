/* The GPU in a build without the CUDA toolkit: not there, and saying so. */
#include "kernels/cuda/cuda.h"
#include "kernels/gpu.h"

static enum sl_status absent(struct sl_error *error)
{
    return sl_error_set(
        error, SL_ERR_UNSUPPORTED, 0,
        "this build has no GPU kernels: build with the CUDA Toolkit 12 or newer and "
        "SLUICE_CUDA=ON");
}

enum sl_status cuda_device_open(int32_t device, struct cuda_device_info *info,
                                struct sl_error *error)
{
    (void)device;
    *info = (struct cuda_device_info){0};
    return absent(error);
}

const struct ops *ops_cuda(void)
{
    return NULL;
}

enum sl_status cuda_stream_create(struct stream **out, struct sl_error *error)
{
    *out = NULL;
    return absent(error);
}

bool cuda_stream_chain(struct stream *stream, bool chained)
{
    (void)stream, (void)chained;
    return false;
}

enum sl_status cuda_stream_linears(struct stream *stream, enum cuda_linears way,
                                   struct sl_error *error)
{
    (void)stream, (void)way;
    return absent(error);
}

bool cuda_linear_by_cublas(const struct stream *stream, const struct linear_args *args)
{
    (void)stream, (void)args;
    return false;
}

uint64_t cuda_stream_launches(const struct stream *stream)
{
    (void)stream;
    return 0;
}

enum sl_status cuda_stream_fault(const struct stream *stream, struct sl_error *error)
{
    (void)stream;
    return absent(error);
}

enum sl_status cuda_memory_alloc(size_t bytes, void **out, struct sl_error *error)
{
    *out = NULL;
    return bytes == 0 ? SL_OK : absent(error);
}

void cuda_memory_free(void *memory)
{
    SL_ASSERT(memory == NULL);
}

enum sl_status cuda_copy_in(struct stream *stream, void *device, const void *host, size_t bytes)
{
    (void)stream, (void)device, (void)host;
    return bytes == 0 ? SL_OK : SL_ERR_UNSUPPORTED;
}

enum sl_status cuda_copy_out(struct stream *stream, void *host, const void *device, size_t bytes)
{
    (void)stream, (void)device, (void)host;
    return bytes == 0 ? SL_OK : SL_ERR_UNSUPPORTED;
}

enum sl_status gpu_open(struct gpu **out, struct sl_error *error)
{
    *out = NULL;
    return absent(error);
}
