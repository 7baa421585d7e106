/* The table of GPU ops, the life of a GPU stream, devices and plain memory. */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/cublas.h"
#include "kernels/cuda/linear_choice.h"
#include "kernels/cuda/linear_ways.h"
#include "kernels/fused.h"

#include <string.h>

#define ARCH_MIN    80 /* compute capability 8.0: bf16 products, asynchronous copies */
#define ARCH_CUBLAS 90 /* the one for which cuBLASLt has the model's block scales */

enum sl_status cuda_device_open(int32_t device, struct cuda_device_info *info,
                                struct sl_error *error)
{
    struct cudaDeviceProp properties;
    int count = 0;
    *info = (struct cuda_device_info){0};
    CUDA_TRY(cudaGetDeviceCount(&count), "looking for a GPU", error);
    if (device < 0 || device >= count)
        return sl_error_set(error, SL_ERR_UNSUPPORTED, 0, "there is no GPU number %d: %d found",
                            (int)device, count);
    CUDA_TRY(cudaGetDeviceProperties(&properties, device), "asking for the GPU's properties",
             error);
    info->arch = properties.major * 10 + properties.minor;
    if (info->arch < ARCH_MIN)
        return sl_error_set(error, SL_ERR_UNSUPPORTED, 0,
                            "GPU %d (%s) has compute capability %d.%d, and 8.0 is needed",
                            (int)device, properties.name, properties.major, properties.minor);
    CUDA_TRY(cudaSetDevice(device), "opening the GPU", error);
    CUDA_TRY(cudaMemGetInfo(&info->memory_free_bytes, &info->memory_bytes),
             "asking for the GPU's free memory", error);
    snprintf(info->name, sizeof info->name, "%.127s", properties.name);
    snprintf(info->pci, sizeof info->pci, "%04x:%02x:%02x.0",
             (unsigned)properties.pciDomainID & 0xffff, (unsigned)properties.pciBusID & 0xff,
             (unsigned)properties.pciDeviceID & 0xff);
    info->cache_bytes = (size_t)properties.l2CacheSize;
    info->processors = properties.multiProcessorCount;
#ifdef SL_CUDA_EMULATOR
    info->emulated = true;
#endif
    return SL_OK;
}

/* The first kernel of all: one that fails to run does so here. */
static enum sl_status find_chains(struct stream *stream, struct sl_error *error)
{
    uint32_t chains = 0;
    stream_probe_chains(stream, stream->tickets);
    CUDA_TRY(stream->fault, "running the first kernel", error);
    CUDA_TRY(cudaMemcpyAsync(&chains, stream->tickets, sizeof chains, cudaMemcpyDeviceToHost,
                             stream->handle),
             "running the first kernel", error);
    CUDA_TRY(cudaStreamSynchronize(stream->handle), "running the first kernel", error);
    stream->chains = chains != 0;
    return SL_OK;
}

static enum sl_status stream_fill(struct stream *stream, struct sl_error *error)
{
    int device = 0;
    struct cudaDeviceProp properties;
    CUDA_TRY(cudaGetDevice(&device), "asking for the current GPU", error);
    CUDA_TRY(cudaGetDeviceProperties(&properties, device), "asking for the GPU's properties",
             error);
    stream->device = device;
    stream->processors = properties.multiProcessorCount;
    stream->shared_bytes_max = (int32_t)properties.sharedMemPerBlockOptin;
    stream->arch = properties.major * 10 + properties.minor;
    CUDA_TRY(cudaStreamCreateWithFlags(&stream->handle, cudaStreamNonBlocking), "creating a stream",
             error);
    CUDA_TRY(cudaMalloc((void **)&stream->scratch, CUDA_SCRATCH_BYTES),
             "allocating the stream's scratch memory", error);
    CUDA_TRY(cudaMalloc((void **)&stream->tickets, CUDA_TICKETS * sizeof(uint32_t)),
             "allocating the stream's tickets", error);
    SL_TRY(find_chains(stream, error));
    CUDA_TRY(cudaMemset(stream->tickets, 0, CUDA_TICKETS * sizeof(uint32_t)),
             "clearing the stream's tickets", error);
    return cuda_check(cudaDeviceSynchronize(), "clearing the stream's tickets", error);
}

/* Without the library everything takes our kernels, which gpu_ops->describe tells. */
static void open_library(struct linear_ways *ways)
{
    int32_t arch = ways->stream.arch;
    if (arch != ARCH_CUBLAS || !linear_choice_has_arch(linear_choices(), arch)) return;
    if (cublas_open(&ways->cublas, NULL) != SL_OK) ways->cublas = NULL;
}

static void stream_destroy(struct stream *stream)
{
    struct linear_ways *ways = (struct linear_ways *)stream;
    if (!stream) return;
    if (stream->handle) {
        (void)cudaStreamSynchronize(stream->handle);
        (void)cudaStreamDestroy(stream->handle);
    }
    cublas_close(ways->cublas);
    (void)cudaFree(stream->scratch);
    (void)cudaFree(stream->tickets);
    free(ways);
}

enum sl_status cuda_stream_create(struct stream **out, struct sl_error *error)
{
    *out = NULL;
    struct linear_ways *ways = calloc(1, sizeof *ways);
    if (!ways) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "out of memory for a GPU stream");
    enum sl_status status = stream_fill(&ways->stream, error);
    if (status != SL_OK) {
        stream_destroy(&ways->stream);
        return status;
    }
    open_library(ways);
    *out = &ways->stream;
    return SL_OK;
}

static enum sl_status stream_create(const struct stream_options *options, struct stream **out)
{
    (void)options;
    return cuda_stream_create(out, NULL);
}

static enum sl_status stream_sync(struct stream *stream)
{
    stream_latch(stream, cudaStreamSynchronize(stream->handle), "kernels in flight");
    stream->synced = stream->fault;
    stream->synced_where = stream->fault_where;
    stream->fault = cudaSuccess;
    stream->fault_where = NULL;
    return stream->synced == cudaSuccess ? SL_OK : SL_ERR_IO;
}

enum sl_status cuda_stream_fault(const struct stream *stream, struct sl_error *error)
{
    if (stream->synced == cudaSuccess) return SL_OK;
    return sl_error_set(error, SL_ERR_IO, 0, "the GPU failed (%s): %s (%s)", stream->synced_where,
                        cudaGetErrorString(stream->synced), cudaGetErrorName(stream->synced));
}

bool cuda_stream_chain(struct stream *stream, bool chained)
{
    bool before = stream->chains;
    stream->chains = chained;
    return before;
}

enum sl_status cuda_stream_linears(struct stream *stream, enum cuda_linears way,
                                   struct sl_error *error)
{
    struct linear_ways *ways = (struct linear_ways *)stream;
    if (way == CUDA_LINEARS_CUBLAS && stream->arch != ARCH_CUBLAS)
        return sl_error_set(error, SL_ERR_UNSUPPORTED, 0,
                            "cuBLASLt has block scales for compute capability 9.0 alone");
    if (way == CUDA_LINEARS_CUBLAS && !ways->cublas) SL_TRY(cublas_open(&ways->cublas, error));
    ways->linears = way;
    return SL_OK;
}

uint64_t cuda_stream_launches(const struct stream *stream)
{
    return stream->launches;
}

enum sl_status cuda_memory_alloc(size_t bytes, void **out, struct sl_error *error)
{
    size_t free_bytes = 0;
    size_t total_bytes = 0;
    *out = NULL;
    if (bytes == 0) return SL_OK;
    cudaError_t code = cudaMalloc(out, bytes);
    if (code != cudaErrorMemoryAllocation) return cuda_check(code, "allocating GPU memory", error);
    *out = NULL;
    (void)cudaGetLastError();
    (void)cudaMemGetInfo(&free_bytes, &total_bytes);
    return sl_error_set(error, SL_ERR_NO_MEMORY, 0,
                        "the GPU has no %zu bytes in one piece: %zu of %zu are free", bytes,
                        free_bytes, total_bytes);
}

void cuda_memory_free(void *memory)
{
    if (memory) (void)cudaFree(memory);
}

static enum sl_status copy(struct stream *stream, void *target, const void *source, size_t bytes,
                           enum cudaMemcpyKind kind)
{
    if (bytes == 0) return SL_OK;
    stream->after_kernel = false;
    stream_latch(stream, cudaMemcpyAsync(target, source, bytes, kind, stream->handle), "a copy");
    return stream_sync(stream);
}

enum sl_status cuda_copy_in(struct stream *stream, void *device, const void *host, size_t bytes)
{
    return copy(stream, device, host, bytes, cudaMemcpyHostToDevice);
}

enum sl_status cuda_copy_out(struct stream *stream, void *host, const void *device, size_t bytes)
{
    return copy(stream, host, device, bytes, cudaMemcpyDeviceToHost);
}

const struct ops *ops_cuda(void)
{
    static const struct fused_ops fused = {.turn = cuda_fused_turn,
                                           .linears = cuda_fused_linears,
                                           .gated = cuda_fused_gated,
                                           .latents = cuda_fused_latents,
                                           .route = cuda_fused_route,
                                           .experts = cuda_fused_experts,
                                           .indexer = cuda_fused_indexer,
                                           .attention = cuda_fused_attention};
    static const struct ops table = {
        .name = "cuda",
        .fused = &fused,
        .stream_create = stream_create,
        .stream_destroy = stream_destroy,
        .stream_sync = stream_sync,
#define X(op) .op = cuda_##op,
        SL_OPS(X)
#undef X
    };
    return &table;
}
