/* Events, captures and graphs over streams, and the driver's waits on memory.
 *
 * A captured graph is the list of its operations in the order they were captured, which respects
 * every dependency; one stream replays it in that order. */
#include "tests/cuda_emulator/streams.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

struct CUgraphExec_st {
    std::shared_ptr<std::vector<operation>> operations;
};
struct event_state {
    uint64_t submitted = 0, done = 0;
    std::shared_ptr<CUgraph_st> capture; /* recorded into */
};
struct CUevent_st {
    std::shared_ptr<event_state> state = std::make_shared<event_state>();
};

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    *event = new CUevent_st;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle)
{
    std::shared_ptr<event_state> state = event->state;
    CUstream_st *stream = emulated_stream(handle);
    uint64_t number = 0;
    {
        std::lock_guard<std::mutex> lock(emulated().mutex);
        state->capture = stream->capture;
        if (stream->capture) return cudaSuccess;
        number = ++state->submitted;
    }
    return emulated_submit(handle, [=] {
        std::lock_guard<std::mutex> lock(emulated().mutex);
        state->done = number;
    });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned)
{
    std::shared_ptr<event_state> state = event->state;
    uint64_t number = 0;
    {
        std::lock_guard<std::mutex> lock(emulated().mutex);
        if (state->capture) {
            emulated_stream(handle)->capture = state->capture;
            return cudaSuccess;
        }
        number = state->submitted;
    }
    return emulated_submit(handle, [=] {
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
    for (CUstream_st *other : emulated_streams())
        if (other->capture == capture) other->capture = nullptr;
    if (capture->broken) return emulated_error(cudaErrorStreamCaptureInvalidated);
    *graph = new CUgraph_st(*capture);
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
    return emulated_submit(stream, [=] {
        for (const operation &each : *operations)
            each();
    });
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

bool memory_wait::over() const
{
    uint32_t now = __atomic_load_n(at, __ATOMIC_ACQUIRE);
    if ((flags & 3) == 0) return (int32_t)(now - value) >= 0;
    return (flags & 3) == 1 ? now == value : (now & value) != 0;
}

void emulated_may_wait(const char *what)
{
    for (const auto &wait : emulated().waits) {
        if (wait->over() || emulated().fault != cudaSuccess) continue;
        fprintf(stderr, "cuda emulator: %s while a stream waits for the host: may never end\n",
                what);
        abort();
    }
}

/* The driver's calls on memory: CUresult (0 is success) of (stream, address, value, flags). */
static int wait_value(cudaStream_t stream, unsigned long long address, uint32_t value,
                      unsigned flags)
{
    auto wait = std::make_shared<memory_wait>(
        memory_wait{reinterpret_cast<const uint32_t *>(address), value, flags});
    {
        std::lock_guard<std::mutex> lock(emulated().mutex);
        if (!emulated_stream(stream)->capture) emulated().waits.insert(wait);
    }
    return emulated_submit(stream, [=] {
        std::unique_lock<std::mutex> lock(emulated().mutex);
        emulated().waits.insert(wait);
        while (!wait->over() && emulated().fault == cudaSuccess) {
            lock.unlock();
            std::this_thread::sleep_for(std::chrono::microseconds(20));
            lock.lock();
        }
        emulated().waits.erase(wait);
    });
}

static int write_value(cudaStream_t stream, unsigned long long address, uint32_t value, unsigned)
{
    uint32_t *at = reinterpret_cast<uint32_t *>(address);
    return emulated_submit(stream, [=] {
        if (!emulated_faulty()) __atomic_store_n(at, value, __ATOMIC_RELEASE);
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
