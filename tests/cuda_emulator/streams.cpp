/* Streams: a thread and a queue each. Events, captures and graphs over them.
 *
 * The null stream is a stream like any other here and waits for nobody. A captured graph is the
 * list of its operations in the order they were captured, which respects every dependency; it is
 * replayed by one stream in that order. */
#include "tests/cuda_emulator/device_code.h"
#include "tests/cuda_emulator/emulator.h"
#include "tests/cuda_emulator/world.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

#define GRID_YZ_MAX       65535u
#define BLOCK_THREADS_MAX 1024u

using operation = std::function<void()>;

struct CUgraph_st {
    std::vector<operation> operations;
    bool broken = false;
};
struct CUgraphExec_st {
    std::shared_ptr<std::vector<operation>> operations;
};
struct event_state {
    uint64_t submitted = 0, done = 0;
    std::chrono::steady_clock::time_point time;
    std::shared_ptr<CUgraph_st> capture; /* recorded into */
};
struct CUevent_st {
    std::shared_ptr<event_state> state = std::make_shared<event_state>();
};
struct CUstream_st {
    std::deque<operation> queue;
    bool running = false, closing = false;
    std::shared_ptr<CUgraph_st> capture;
    std::thread thread;
};

static std::vector<CUstream_st *> &all_streams()
{
    static auto *streams = new std::vector<CUstream_st *>;
    return *streams;
}

static void work(CUstream_st *stream)
{
    emulated_world &world = emulated();
    std::unique_lock<std::mutex> lock(world.mutex);
    for (;;) {
        world.changed.wait(lock, [=] { return stream->closing || !stream->queue.empty(); });
        if (stream->queue.empty()) return;
        operation next = std::move(stream->queue.front());
        stream->queue.pop_front();
        stream->running = true;
        lock.unlock();
        next();
        next = nullptr;
        lock.lock();
        stream->running = false;
        world.changed.notify_all();
    }
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
    *stream = nullptr;
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) return cudaErrorNoDevice;
    std::lock_guard<std::mutex> lock(emulated().mutex);
    if (emulated().fault != cudaSuccess) return emulated_error(emulated().fault);
    *stream = new CUstream_st;
    all_streams().push_back(*stream);
    (*stream)->thread = std::thread(work, *stream);
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int)
{
    return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

static CUstream_st *stream_of(cudaStream_t stream)
{
    static CUstream_st *null_stream = [] {
        cudaStream_t made = nullptr;
        (void)cudaStreamCreate(&made);
        return made;
    }();
    return stream ? stream : null_stream;
}

static cudaError_t submit(cudaStream_t handle, operation what)
{
    CUstream_st *stream = stream_of(handle);
    if (!stream) return emulated_error(cudaErrorNoDevice);
    emulated_world &world = emulated();
    std::lock_guard<std::mutex> lock(world.mutex);
    if (stream->capture) {
        stream->capture->operations.push_back(std::move(what));
        return cudaSuccess;
    }
    if (world.fault != cudaSuccess) return emulated_error(world.fault);
    stream->queue.push_back(std::move(what));
    world.changed.notify_all();
    return cudaSuccess;
}

static bool idle(const CUstream_st *stream)
{
    return stream->queue.empty() && !stream->running;
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle)
{
    CUstream_st *stream = stream_of(handle);
    if (!stream) return emulated_error(cudaErrorNoDevice);
    std::unique_lock<std::mutex> lock(emulated().mutex);
    if (stream->capture) {
        stream->capture->broken = true;
        return emulated_error(cudaErrorStreamCaptureUnsupported);
    }
    emulated().changed.wait(lock, [=] { return idle(stream); });
    return emulated_error(emulated().fault);
}

cudaError_t cudaStreamQuery(cudaStream_t handle)
{
    CUstream_st *stream = stream_of(handle);
    if (!stream) return emulated_error(cudaErrorNoDevice);
    std::lock_guard<std::mutex> lock(emulated().mutex);
    if (emulated().fault != cudaSuccess) return emulated_error(emulated().fault);
    return idle(stream) ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize(void)
{
    std::unique_lock<std::mutex> lock(emulated().mutex);
    for (size_t i = 0; i < all_streams().size(); i++) {
        CUstream_st *stream = all_streams()[i];
        emulated().changed.wait(lock, [=] { return idle(stream); });
    }
    return emulated_error(emulated().fault);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    if (!stream) return emulated_error(cudaErrorInvalidResourceHandle);
    {
        std::lock_guard<std::mutex> lock(emulated().mutex);
        stream->closing = true;
        emulated().changed.notify_all();
    }
    stream->thread.join();
    std::lock_guard<std::mutex> lock(emulated().mutex);
    auto &streams = all_streams();
    streams.erase(std::find(streams.begin(), streams.end(), stream));
    delete stream;
    return cudaSuccess;
}

/* Nothing runs any more once the device has a fault. */
static bool faulty()
{
    std::lock_guard<std::mutex> lock(emulated().mutex);
    return emulated().fault != cudaSuccess;
}

static bool may_launch()
{
    emulated_world &world = emulated();
    std::lock_guard<std::mutex> lock(world.mutex);
    if (world.fault != cudaSuccess) return false;
    if (world.fail_after >= 0 && world.fail_after-- == 0) {
        world.fault = cudaErrorLaunchFailure;
        return false;
    }
    world.launches++;
    return true;
}

void cuda_emulator_enqueue(const char *name, dim3 grid, dim3 block, size_t shared_bytes,
                           cudaStream_t stream, std::function<void()> body)
{
    size_t threads = (size_t)block.x * block.y * block.z;
    if (threads == 0 || threads > BLOCK_THREADS_MAX || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
        grid.y > GRID_YZ_MAX || grid.z > GRID_YZ_MAX || grid.x > 0x7fffffffu) {
        (void)emulated_error(cudaErrorInvalidConfiguration);
        return;
    }
    (void)submit(stream, [=] {
        std::lock_guard<std::mutex> running(emulated().kernel_lock);
        if (may_launch()) cuda_emulator_run_grid(name, grid, block, shared_bytes, body);
    });
}

cudaError_t cuda_emulator_allow_shared(const void *kernel, int bytes)
{
    struct cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, 0) != cudaSuccess) return cudaErrorNoDevice;
    if (bytes < 0 || (size_t)bytes > properties.sharedMemPerBlockOptin)
        return emulated_error(cudaErrorInvalidValue);
    std::lock_guard<std::mutex> lock(emulated().mutex);
    emulated().shared_bytes[kernel] = bytes;
    return cudaSuccess;
}

void cuda_emulator_check_shared(const void *kernel, const char *name, size_t bytes)
{
    if (bytes <= (size_t)(48 << 10)) return;
    std::lock_guard<std::mutex> lock(emulated().mutex);
    auto found = emulated().shared_bytes.find(kernel);
    if (found != emulated().shared_bytes.end() && bytes <= (size_t)found->second) return;
    fprintf(stderr, "cuda emulator: kernel %s asks for %zu bytes of shared memory unallowed\n",
            name, bytes);
    abort();
}

cudaError_t cudaMemcpyAsync(void *target, const void *source, size_t bytes, enum cudaMemcpyKind,
                            cudaStream_t stream)
{
    if (bytes > 0 && (!target || !source)) return emulated_error(cudaErrorInvalidValue);
    return submit(stream, [=] {
        if (bytes > 0 && !faulty()) memcpy(target, source, bytes);
    });
}

cudaError_t cudaMemsetAsync(void *target, int value, size_t bytes, cudaStream_t stream)
{
    return submit(stream, [=] {
        if (bytes > 0 && !faulty()) memset(target, value, bytes);
    });
}

cudaError_t cudaMemcpy(void *target, const void *source, size_t bytes, enum cudaMemcpyKind kind)
{
    cudaError_t code = cudaMemcpyAsync(target, source, bytes, kind, nullptr);
    return code == cudaSuccess ? cudaStreamSynchronize(nullptr) : code;
}

cudaError_t cudaMemset(void *target, int value, size_t bytes)
{
    cudaError_t code = cudaMemsetAsync(target, value, bytes, nullptr);
    return code == cudaSuccess ? cudaStreamSynchronize(nullptr) : code;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data)
{
    return submit(stream, [=] {
        if (!faulty()) function(data);
    });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    *event = new CUevent_st;
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle)
{
    std::shared_ptr<event_state> state = event->state;
    CUstream_st *stream = stream_of(handle);
    uint64_t number = 0;
    {
        std::lock_guard<std::mutex> lock(emulated().mutex);
        state->capture = stream->capture;
        if (stream->capture) return cudaSuccess;
        number = ++state->submitted;
    }
    return submit(handle, [=] {
        std::lock_guard<std::mutex> lock(emulated().mutex);
        state->done = number;
        state->time = std::chrono::steady_clock::now();
    });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned)
{
    std::shared_ptr<event_state> state = event->state;
    uint64_t number = 0;
    {
        std::lock_guard<std::mutex> lock(emulated().mutex);
        if (state->capture) {
            stream_of(handle)->capture = state->capture;
            return cudaSuccess;
        }
        number = state->submitted;
    }
    return submit(handle, [=] {
        std::unique_lock<std::mutex> lock(emulated().mutex);
        emulated().changed.wait(lock, [=] { return state->done >= number; });
    });
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    std::lock_guard<std::mutex> lock(emulated().mutex);
    if (emulated().fault != cudaSuccess) return emulated_error(emulated().fault);
    return event->state->done >= event->state->submitted ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    std::unique_lock<std::mutex> lock(emulated().mutex);
    uint64_t number = event->state->submitted;
    emulated().changed.wait(lock, [=] { return event->state->done >= number; });
    return emulated_error(emulated().fault);
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end)
{
    std::lock_guard<std::mutex> lock(emulated().mutex);
    std::chrono::duration<float, std::milli> elapsed = end->state->time - start->state->time;
    *milliseconds = elapsed.count();
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode)
{
    std::lock_guard<std::mutex> lock(emulated().mutex);
    if (!stream || stream->capture) return emulated_error(cudaErrorStreamCaptureUnsupported);
    stream->capture = std::make_shared<CUgraph_st>();
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    std::lock_guard<std::mutex> lock(emulated().mutex);
    *graph = nullptr;
    std::shared_ptr<CUgraph_st> capture = stream->capture;
    if (!capture) return emulated_error(cudaErrorInvalidValue);
    for (CUstream_st *other : all_streams())
        if (other->capture == capture) other->capture = nullptr;
    if (capture->broken) return emulated_error(cudaErrorStreamCaptureInvalidated);
    *graph = new CUgraph_st(*capture);
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status)
{
    CUstream_st *one = stream_of(stream);
    std::lock_guard<std::mutex> lock(emulated().mutex);
    *status = !one->capture          ? cudaStreamCaptureStatusNone
              : one->capture->broken ? cudaStreamCaptureStatusInvalidated
                                     : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long)
{
    *exec = new CUgraphExec_st{std::make_shared<std::vector<operation>>(graph->operations)};
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    std::shared_ptr<std::vector<operation>> operations = exec->operations;
    return submit(stream, [=] {
        for (const operation &each : *operations)
            each();
    });
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, void **nodes, size_t *count)
{
    if (nodes) return emulated_error(cudaErrorNotSupported);
    *count = graph->operations.size();
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    delete exec;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}

/* The driver's calls on memory: CUresult (0 is success) of (stream, address, value, flags). */
static int wait_value(cudaStream_t stream, unsigned long long address, uint32_t value,
                      unsigned flags)
{
    const uint32_t *at = reinterpret_cast<const uint32_t *>(address);
    return submit(stream, [=] {
        for (;;) {
            uint32_t now = __atomic_load_n(at, __ATOMIC_ACQUIRE);
            bool over = (flags & 3) == 0   ? (int32_t)(now - value) >= 0
                        : (flags & 3) == 1 ? now == value
                                           : (now & value) != 0;
            if (over || faulty()) return;
            std::this_thread::sleep_for(std::chrono::microseconds(20));
        }
    });
}

static int write_value(cudaStream_t stream, unsigned long long address, uint32_t value, unsigned)
{
    uint32_t *at = reinterpret_cast<uint32_t *>(address);
    return submit(stream, [=] {
        if (!faulty()) __atomic_store_n(at, value, __ATOMIC_RELEASE);
    });
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned,
                                             unsigned long long,
                                             enum cudaDriverEntryPointQueryResult *result)
{
    std::string name = symbol;
    *function = nullptr;
    if (emulated().wait_value && name == "cuStreamWaitValue32")
        *function = reinterpret_cast<void *>(wait_value);
    if (emulated().wait_value && name == "cuStreamWriteValue32")
        *function = reinterpret_cast<void *>(write_value);
    *result = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}
