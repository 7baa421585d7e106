/* Lanes, tickets, fences and pinned memory over CUDA streams and events; see the header. */
#include "kernels/cuda/copy_lanes.h"
#include "kernels/cuda/check.h"

#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define FENCES_MAX     256 /* events kept; an older fence is taken for the oldest of them */
#define LOOK_NS        10000
#define TEXT_BYTES_MAX 256

struct copy_lane {
    cudaStream_t stream;
    cudaEvent_t events[DEVICE_COPIES_MAX]; /* of ticket t at t % DEVICE_COPIES_MAX */
    uint64_t submitted, done, seen;        /* tickets; seen: by copy_progress */
    bool failed, fault_seen;
    char fault[TEXT_BYTES_MAX];
};

struct copy_lanes {
    struct device base;
    struct stream *compute;
    struct copy_lane lanes[DEVICE_LANES];
    cudaEvent_t fences[FENCES_MAX]; /* fence f at f % FENCES_MAX */
    uint64_t fence_count;
    bool fenceless;
    int32_t allocations;
    uint64_t pinned_bytes;
    char description[TEXT_BYTES_MAX];
};

static struct copy_lanes *lanes_of(struct device *device)
{
    return (struct copy_lanes *)device;
}

static uint64_t now_ns(void)
{
    struct timespec now;
    SL_ASSERT(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- memory ---- */

static enum sl_status lanes_memory_alloc(struct device *device, size_t bytes, void **out,
                                         struct sl_error *error)
{
    struct copy_lanes *lanes = lanes_of(device);
    size_t free_bytes = 0, total_bytes = 0;
    SL_ASSERT(bytes > 0);
    *out = NULL;
    cudaError_t code = cudaMalloc(out, bytes);
    if (code == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        (void)cudaMemGetInfo(&free_bytes, &total_bytes);
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0,
                            "the GPU has no %zu bytes for experts: %zu of %zu are free; give less "
                            "with --gpu",
                            bytes, free_bytes, total_bytes);
    }
    CUDA_TRY(code, "allocating GPU memory for experts", error);
    SL_ASSERT((uintptr_t)*out % 256 == 0);
    lanes->allocations++;
    return SL_OK;
}

static void lanes_memory_free(struct device *device, void *memory)
{
    if (!memory) return;
    SL_ASSERT(lanes_of(device)->allocations-- > 0);
    (void)cudaFree(memory); /* waits for copies into it */
}

/* "8 MiB", "unlimited": the limit that usually stands in the way. */
static void lock_limit_text(char text[32])
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
        snprintf(text, 32, "unlimited");
    else
        snprintf(text, 32, "%llu KiB", (unsigned long long)limit.rlim_cur / 1024);
}

static enum sl_status lanes_host_pin(struct device *device, void *memory, size_t bytes,
                                     struct sl_error *error)
{
    struct copy_lanes *lanes = lanes_of(device);
    char limit[32];
    SL_ASSERT(((uintptr_t)memory | bytes) % SL_PAGE_BYTES == 0 && bytes > 0);
    if (lanes->fenceless)
        return sl_error_set(error, SL_ERR_BUSY, 0, "the GPU may be waiting for the host");
    cudaError_t code = cudaHostRegister(memory, bytes, cudaHostRegisterPortable);
    if (code == cudaSuccess) {
        lanes->pinned_bytes += bytes;
        return SL_OK;
    }
    (void)cudaGetLastError();
    SL_ASSERT(code != cudaErrorHostMemoryAlreadyRegistered);
    lock_limit_text(limit);
    return sl_error_set(
        error, code == cudaErrorMemoryAllocation ? SL_ERR_NO_MEMORY : SL_ERR_UNSUPPORTED, 0,
        "the driver pins no more than %.1f MiB of RAM: %s (%s); ulimit -l is %s: "
        "raise it, or in a container allow locked memory (--ulimit memlock=-1)",
        (double)lanes->pinned_bytes / 1048576.0, cudaGetErrorString(code), cudaGetErrorName(code),
        limit);
}

static void lanes_host_unpin(struct device *device, void *memory, size_t bytes)
{
    SL_ASSERT(lanes_of(device)->pinned_bytes >= bytes);
    lanes_of(device)->pinned_bytes -= bytes;
    (void)cudaHostUnregister(memory);
}

/* ---- lanes ---- */

/* Latches a failed call as the lane's fault; true when it is fine. */
static bool lane_check(struct copy_lane *lane, cudaError_t code, const char *what)
{
    if (code == cudaSuccess) return true;
    (void)cudaGetLastError();
    if (!lane->failed)
        snprintf(lane->fault, sizeof lane->fault, "%s: %s (%s)", what, cudaGetErrorString(code),
                 cudaGetErrorName(code));
    lane->failed = true;
    return false;
}

/* The event that has `fence` behind it: its own, or of the oldest fence still kept. */
static cudaEvent_t fence_event(const struct copy_lanes *lanes, uint64_t fence)
{
    uint64_t oldest = lanes->fence_count >= FENCES_MAX ? lanes->fence_count - FENCES_MAX + 1 : 1;
    SL_ASSERT(fence <= lanes->fence_count);
    return lanes->fences[(fence < oldest ? oldest : fence) % FENCES_MAX];
}

static enum sl_status lanes_copy_submit(struct device *device, enum device_lane which,
                                        const struct device_copy *copy, uint64_t *ticket)
{
    struct copy_lanes *lanes = lanes_of(device);
    struct copy_lane *lane = &lanes->lanes[which];
    enum cudaMemcpyKind kind = which == DEVICE_UP ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost;
    SL_ASSERT(copy->bytes > 0 && lane->submitted - lane->done < DEVICE_COPIES_MAX);
    if (lane->failed) return SL_ERR_IO;
    cudaEvent_t event = lane->events[(lane->submitted + 1) % DEVICE_COPIES_MAX];
    bool fine = true;
    if (copy->after_fence)
        fine = lane_check(
            lane, cudaStreamWaitEvent(lane->stream, fence_event(lanes, copy->after_fence), 0),
            "waiting for the GPU's computation");
    if (fine)
        fine = lane_check(
            lane, cudaMemcpyAsync(copy->target, copy->source, copy->bytes, kind, lane->stream),
            which == DEVICE_UP ? "copying to the GPU" : "copying from the GPU");
    if (fine) fine = lane_check(lane, cudaEventRecord(event, lane->stream), "marking a copy");
    if (!fine) return SL_ERR_IO;
    *ticket = ++lane->submitted;
    return SL_OK;
}

static void look(struct copy_lane *lane)
{
    while (!lane->failed && lane->done < lane->submitted) {
        cudaError_t code = cudaEventQuery(lane->events[(lane->done + 1) % DEVICE_COPIES_MAX]);
        if (code == cudaErrorNotReady) {
            (void)cudaGetLastError();
            return;
        }
        if (lane_check(lane, code, "a copy in flight")) lane->done++;
    }
}

static uint64_t lanes_copy_progress(struct device *device, enum device_lane which)
{
    struct copy_lane *lane = &lanes_of(device)->lanes[which];
    look(lane);
    lane->seen = lane->done;
    return lane->done;
}

/* CUDA has no call that waits for one of several events: look, sleep, look again. */
static void lanes_wait(struct device *device, uint64_t timeout_ns)
{
    struct copy_lanes *lanes = lanes_of(device);
    struct timespec pause = {.tv_nsec = LOOK_NS};
    uint64_t start = now_ns();
    for (;;) {
        bool news = false, in_flight = false;
        for (int which = 0; which < DEVICE_LANES; which++) {
            struct copy_lane *lane = &lanes->lanes[which];
            look(lane);
            news = news || lane->done > lane->seen || (lane->failed && !lane->fault_seen);
            lane->fault_seen = lane->failed;
            in_flight = in_flight || (!lane->failed && lane->done < lane->submitted);
        }
        if (news || !in_flight || now_ns() - start >= timeout_ns) return;
        (void)nanosleep(&pause, NULL);
    }
}

static uint64_t lanes_fence(struct device *device)
{
    struct copy_lanes *lanes = lanes_of(device);
    cudaStream_t compute = lanes->compute->handle;
    if (lanes->fenceless || cudaStreamQuery(compute) == cudaSuccess) return 0;
    (void)cudaGetLastError();
    cudaEvent_t event = lanes->fences[(lanes->fence_count + 1) % FENCES_MAX];
    lanes->compute->after_kernel = false;
    cudaError_t code = cudaEventRecord(event, compute);
    stream_latch(lanes->compute, code, "a fence");
    /* Without its computation the device writes nothing any more either. */
    return code == cudaSuccess ? ++lanes->fence_count : 0;
}

static void lanes_compute_await(struct device *device, enum device_lane which, uint64_t ticket)
{
    struct copy_lanes *lanes = lanes_of(device);
    struct copy_lane *lane = &lanes->lanes[which];
    SL_ASSERT(ticket <= lane->submitted);
    if (ticket <= lane->done) return; /* and its event may be another's by now */
    cudaEvent_t event = lane->events[ticket % DEVICE_COPIES_MAX];
    lanes->compute->after_kernel = false;
    stream_latch(lanes->compute, cudaStreamWaitEvent(lanes->compute->handle, event, 0),
                 "waiting for a copy");
}

static const char *lanes_fault(const struct device *device, enum device_lane which)
{
    const struct copy_lane *lane = &((const struct copy_lanes *)device)->lanes[which];
    return lane->failed ? lane->fault : NULL;
}

static const char *lanes_describe(const struct device *device)
{
    return ((const struct copy_lanes *)device)->description;
}

void copy_lanes_set_fenceless(struct device *device, bool fenceless)
{
    lanes_of(device)->fenceless = fenceless;
}

/* ---- life ---- */

static void lanes_destroy(struct device *device)
{
    struct copy_lanes *lanes = lanes_of(device);
    SL_ASSERT(lanes->allocations == 0 && lanes->pinned_bytes == 0);
    for (int which = 0; which < DEVICE_LANES; which++) {
        struct copy_lane *lane = &lanes->lanes[which];
        if (lane->stream) (void)cudaStreamSynchronize(lane->stream);
        for (int i = 0; i < DEVICE_COPIES_MAX; i++)
            if (lane->events[i]) (void)cudaEventDestroy(lane->events[i]);
        if (lane->stream) (void)cudaStreamDestroy(lane->stream);
    }
    for (int i = 0; i < FENCES_MAX; i++)
        if (lanes->fences[i]) (void)cudaEventDestroy(lanes->fences[i]);
    free(lanes);
}

static const struct device_ops copy_lanes_ops = {
    .name = "cuda",
    .memory_alloc = lanes_memory_alloc,
    .memory_free = lanes_memory_free,
    .host_pin = lanes_host_pin,
    .host_unpin = lanes_host_unpin,
    .copy_submit = lanes_copy_submit,
    .copy_progress = lanes_copy_progress,
    .wait = lanes_wait,
    .fence = lanes_fence,
    .compute_await = lanes_compute_await,
    .lane_fault = lanes_fault,
    .describe = lanes_describe,
    .destroy = lanes_destroy,
};

static enum sl_status create_events(struct copy_lanes *lanes, struct sl_error *error)
{
    for (int which = 0; which < DEVICE_LANES; which++) {
        struct copy_lane *lane = &lanes->lanes[which];
        CUDA_TRY(cudaStreamCreateWithFlags(&lane->stream, cudaStreamNonBlocking),
                 "creating a stream for copies", error);
        for (int i = 0; i < DEVICE_COPIES_MAX; i++)
            CUDA_TRY(cudaEventCreateWithFlags(&lane->events[i], cudaEventDisableTiming),
                     "creating an event", error);
    }
    for (int i = 0; i < FENCES_MAX; i++)
        CUDA_TRY(cudaEventCreateWithFlags(&lanes->fences[i], cudaEventDisableTiming),
                 "creating an event", error);
    return SL_OK;
}

/* Some systems' copies from pinned memory silently do nothing: one page there and back tells. */
static enum sl_status try_copies(struct copy_lanes *lanes, uint8_t *device, uint8_t *host,
                                 struct sl_error *error)
{
    for (size_t i = 0; i < SL_PAGE_BYTES; i++)
        host[i] = (uint8_t)(i * 7 + i / 251);
    memset(host + SL_PAGE_BYTES, 0, SL_PAGE_BYTES);
    cudaStream_t up = lanes->lanes[DEVICE_UP].stream, down = lanes->lanes[DEVICE_DOWN].stream;
    CUDA_TRY(cudaMemcpyAsync(device, host, SL_PAGE_BYTES, cudaMemcpyHostToDevice, up),
             "a first copy to the GPU", error);
    CUDA_TRY(cudaStreamSynchronize(up), "a first copy to the GPU", error);
    CUDA_TRY(
        cudaMemcpyAsync(host + SL_PAGE_BYTES, device, SL_PAGE_BYTES, cudaMemcpyDeviceToHost, down),
        "a first copy from the GPU", error);
    CUDA_TRY(cudaStreamSynchronize(down), "a first copy from the GPU", error);
    if (memcmp(host, host + SL_PAGE_BYTES, SL_PAGE_BYTES) == 0) return SL_OK;
    return sl_error_set(error, SL_ERR_IO, 0,
                        "copies to the GPU and back do not bring what was sent: the driver or the "
                        "virtual machine's set-up is at fault");
}

static enum sl_status verify_copies(struct copy_lanes *lanes, struct sl_error *error)
{
    void *device = NULL, *host = NULL;
    enum sl_status status = cuda_check(cudaMalloc(&device, SL_PAGE_BYTES), "GPU memory", error);
    if (status == SL_OK)
        status = cuda_check(cudaHostAlloc(&host, 2 * SL_PAGE_BYTES, cudaHostAllocPortable),
                            "pinning RAM (see ulimit -l)", error);
    if (status == SL_OK) status = try_copies(lanes, device, host, error);
    if (host) (void)cudaFreeHost(host);
    if (device) (void)cudaFree(device);
    return status;
}

enum sl_status copy_lanes_create(struct stream *compute, struct device **out,
                                 struct sl_error *error)
{
    *out = NULL;
    struct copy_lanes *lanes = calloc(1, sizeof *lanes);
    if (!lanes) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for the GPU's lanes");
    lanes->base.ops = &copy_lanes_ops;
    lanes->compute = compute;
    snprintf(lanes->description, sizeof lanes->description, "GPU %d, a stream for copies each way",
             (int)compute->device);
    enum sl_status status = create_events(lanes, error);
    if (status == SL_OK) status = verify_copies(lanes, error);
    if (status != SL_OK) {
        lanes_destroy(&lanes->base);
        return status;
    }
    *out = &lanes->base;
    return SL_OK;
}
