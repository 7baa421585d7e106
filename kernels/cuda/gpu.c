/* The processor of kernels/gpu.h on the CUDA runtime. Built with the kernels. */
#include "kernels/gpu.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/copy_lanes.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/flags.h"
#include "kernels/cuda/linear_choice.h"
#include "kernels/cuda/linear_ways.h"

#include <string.h>

struct cuda_gpu {
    struct gpu base;
    struct flags flags;
    char description[224];
    bool recording;
};

struct gpu_graph {
    cudaGraphExec_t exec;
};

static struct cuda_gpu *gpu_of(struct gpu *gpu)
{
    return (struct cuda_gpu *)gpu;
}

/* ---- memory ---- */

static enum sl_status gpu_alloc(struct gpu *gpu, enum gpu_memory kind, size_t bytes, void **out,
                                struct sl_error *error)
{
    void *device = NULL;
    (void)gpu;
    SL_ASSERT(bytes > 0);
    if (kind == GPU_DEVICE) return cuda_memory_alloc(bytes, out, error);
    *out = NULL;
    CUDA_TRY(cudaHostAlloc(out, bytes, cudaHostAllocMapped | cudaHostAllocPortable),
             "pinning RAM that the GPU sees (see ulimit -l)", error);
    memset(*out, 0, bytes);
    /* Both see it under one address on every 64-bit system; what follows builds on that. */
    if (cudaHostGetDevicePointer(&device, *out, 0) == cudaSuccess && device == *out) return SL_OK;
    (void)cudaGetLastError();
    (void)cudaFreeHost(*out);
    *out = NULL;
    return sl_error_set(error, SL_ERR_UNSUPPORTED, 0,
                        "this system does not show RAM to the GPU under its own address");
}

static void gpu_free(struct gpu *gpu, enum gpu_memory kind, void *memory)
{
    (void)gpu;
    if (!memory) return;
    if (kind == GPU_DEVICE)
        cuda_memory_free(memory);
    else
        (void)cudaFreeHost(memory);
}

static uint64_t gpu_free_bytes(struct gpu *gpu)
{
    size_t free_bytes = 0, total_bytes = 0;
    (void)gpu;
    if (cudaMemGetInfo(&free_bytes, &total_bytes) != cudaSuccess) (void)cudaGetLastError();
    return free_bytes;
}

/* ---- in stream order ---- */

static void gpu_copy(struct gpu *gpu, void *target, const void *source, size_t bytes)
{
    struct stream *stream = gpu->stream;
    if (bytes == 0 || stream->fault != cudaSuccess || stream->loading) return;
    stream->after_kernel = false;
    stream_latch(stream, cudaMemcpyAsync(target, source, bytes, cudaMemcpyDefault, stream->handle),
                 "a copy");
}

static void gpu_publish(struct gpu *gpu, const struct gpu_piece *pieces, int32_t count,
                        uint32_t *flag, uint32_t value)
{
    flags_publish(gpu->stream, pieces, count, flag, value);
}

static void gpu_take(struct gpu *gpu, const uint32_t *flag, uint32_t value,
                     const struct gpu_piece *pieces, int32_t count)
{
    flags_take(&gpu_of(gpu)->flags, gpu->stream, flag, value, pieces, count);
}

static enum sl_status gpu_sync(struct gpu *gpu, struct sl_error *error)
{
    if (gpu->ops->stream_sync(gpu->stream) == SL_OK) return SL_OK;
    return cuda_stream_fault(gpu->stream, error);
}

static bool gpu_is_idle(struct gpu *gpu)
{
    cudaError_t code = cudaStreamQuery(gpu->stream->handle);
    if (code == cudaErrorNotReady) (void)cudaGetLastError();
    return code != cudaErrorNotReady;
}

/* ---- recordings ---- */

static enum sl_status gpu_record(struct gpu *gpu, struct sl_error *error)
{
    SL_ASSERT(!gpu_of(gpu)->recording);
    CUDA_TRY(cudaStreamBeginCapture(gpu->stream->handle, cudaStreamCaptureModeThreadLocal),
             "recording a pass", error);
    gpu->stream->after_kernel = false;
    gpu_of(gpu)->recording = true;
    return SL_OK;
}

/* What a driver may be unable to record, so that the next try does without. */
static void give_up_something(struct cuda_gpu *gpu)
{
    if (!cuda_stream_chain(gpu->base.stream, false)) gpu->flags.wait = NULL;
}

static enum sl_status gpu_record_end(struct gpu *gpu, struct gpu_graph **out,
                                     struct sl_error *error)
{
    struct stream *stream = gpu->stream;
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    *out = NULL;
    SL_ASSERT(gpu_of(gpu)->recording);
    gpu_of(gpu)->recording = false;
    stream->after_kernel = false;
    cudaError_t code = cudaStreamEndCapture(stream->handle, &graph);
    if (code == cudaSuccess) code = stream->fault;
    /* A launch that was refused while recording is no fault of the stream: nothing was run. */
    stream->fault = cudaSuccess;
    stream->fault_where = NULL;
    if (code == cudaSuccess) code = cudaGraphInstantiate(&exec, graph, 0);
    if (graph) (void)cudaGraphDestroy(graph);
    if (code != cudaSuccess) give_up_something(gpu_of(gpu));
    CUDA_TRY(code, "recording a pass", error);
    struct gpu_graph *made = calloc(1, sizeof *made);
    if (!made) {
        (void)cudaGraphExecDestroy(exec);
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "out of memory for a recorded pass");
    }
    made->exec = exec;
    *out = made;
    return SL_OK;
}

static void gpu_graph_launch(struct gpu *gpu, struct gpu_graph *graph)
{
    struct stream *stream = gpu->stream;
    if (stream->fault != cudaSuccess) return;
    stream->after_kernel = false;
    stream_latch(stream, cudaGraphLaunch(graph->exec, stream->handle), "launching a pass");
}

static void gpu_graph_destroy(struct gpu *gpu, struct gpu_graph *graph)
{
    (void)gpu;
    if (!graph) return;
    (void)cudaGraphExecDestroy(graph->exec);
    free(graph);
}

static void gpu_set_fenceless(struct gpu *gpu, bool fenceless)
{
    copy_lanes_set_fenceless(gpu->device, fenceless);
}

static void gpu_set_loading(struct gpu *gpu, bool loading)
{
    SL_ASSERT(!gpu_of(gpu)->recording);
    gpu->stream->loading = loading;
}

/* ---- life ---- */

static const char *gpu_describe(const struct gpu *gpu)
{
    return ((const struct cuda_gpu *)gpu)->description;
}

static void gpu_destroy(struct gpu *gpu)
{
    if (gpu->device) gpu->device->ops->destroy(gpu->device);
    if (gpu->stream) gpu->ops->stream_destroy(gpu->stream);
    free(gpu_of(gpu));
}

static const struct gpu_ops cuda_gpu_ops = {
    .alloc = gpu_alloc,
    .free = gpu_free,
    .copy = gpu_copy,
    .publish = gpu_publish,
    .take = gpu_take,
    .sync = gpu_sync,
    .is_idle = gpu_is_idle,
    .free_bytes = gpu_free_bytes,
    .record = gpu_record,
    .record_end = gpu_record_end,
    .graph_launch = gpu_graph_launch,
    .graph_destroy = gpu_graph_destroy,
    .set_fenceless = gpu_set_fenceless,
    .set_loading = gpu_set_loading,
    .describe = gpu_describe,
    .destroy = gpu_destroy,
};

static bool has_all_ops(const struct ops *ops)
{
    bool all = true;
#define X(op) all = all && ops->op;
    SL_OPS(X)
#undef X
    return all;
}

static enum sl_status fill(struct cuda_gpu *gpu, struct sl_error *error)
{
    struct cuda_device_info info;
    int driver = 0;
    if (cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0)
        return sl_error_set(error, SL_ERR_UNSUPPORTED, 0, "no NVIDIA driver on this machine");
    SL_TRY(cuda_device_open(0, &info, error));
    gpu->base.ops = ops_cuda();
    if (!has_all_ops(gpu->base.ops))
        return sl_error_set(error, SL_ERR_UNSUPPORTED, 0, "this build lacks some of the GPU's ops");
    SL_TRY(cuda_stream_create(&gpu->base.stream, error));
    SL_TRY(copy_lanes_create(gpu->base.stream, &gpu->base.device, error));
    void *word = NULL;
    SL_TRY(gpu_alloc(&gpu->base, GPU_MAPPED, sizeof(uint32_t), &word, error));
    flags_probe(&gpu->flags, gpu->base.stream, word);
    gpu_free(&gpu->base, GPU_MAPPED, word);
    snprintf(gpu->base.name, sizeof gpu->base.name, "%.95s", info.name);
    memcpy(gpu->base.pci, info.pci, sizeof gpu->base.pci);
    bool lacks_cublas = linear_choice_has_arch(linear_choices(), info.arch) &&
                        linear_ways_of(gpu->base.stream)->cublas == NULL;
    snprintf(
        gpu->description, sizeof gpu->description, "%s%s, sm_%d, %.1f of %.1f GiB free%s%s",
        info.name, info.emulated ? " (not hardware)" : "", (int)info.arch,
        (double)info.memory_free_bytes / 1073741824.0, (double)info.memory_bytes / 1073741824.0,
        gpu->flags.wait ? "" : ", waiting by kernels", lacks_cublas ? ", without cuBLASLt" : "");
    return SL_OK;
}

enum sl_status gpu_open(struct gpu **out, struct sl_error *error)
{
    *out = NULL;
    struct cuda_gpu *gpu = calloc(1, sizeof *gpu);
    if (!gpu) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "out of memory for a GPU");
    gpu->base.gpu_ops = &cuda_gpu_ops;
    enum sl_status status = fill(gpu, error);
    if (status != SL_OK) {
        gpu_destroy(&gpu->base);
        return status;
    }
    *out = &gpu->base;
    return SL_OK;
}
