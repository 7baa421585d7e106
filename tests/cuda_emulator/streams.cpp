/* Streams: a thread and a queue each; kernels, copies and host functions on them.
 *
 * The null stream is a stream like any other here and waits for nobody. */
#include "tests/cuda_emulator/streams.h"
#include "tests/cuda_emulator/device_code.h"
#include "tests/cuda_emulator/emulator.h"

#include <cstdio>
#include <cstdlib>

#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

#define GRID_YZ_MAX       65535u
#define BLOCK_THREADS_MAX 1024u

std::vector<CUstream_st *> &emulated_streams()
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
    emulated_streams().push_back(*stream);
    (*stream)->thread = std::thread(work, *stream);
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

CUstream_st *emulated_stream(cudaStream_t stream)
{
    static CUstream_st *null_stream = [] {
        cudaStream_t made = nullptr;
        (void)cudaStreamCreate(&made);
        return made;
    }();
    return stream ? stream : null_stream;
}

cudaError_t emulated_submit(cudaStream_t handle, operation what)
{
    CUstream_st *stream = emulated_stream(handle);
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
    CUstream_st *stream = emulated_stream(handle);
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
    CUstream_st *stream = emulated_stream(handle);
    if (!stream) return emulated_error(cudaErrorNoDevice);
    std::lock_guard<std::mutex> lock(emulated().mutex);
    if (emulated().fault != cudaSuccess) return emulated_error(emulated().fault);
    return idle(stream) ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize(void)
{
    std::unique_lock<std::mutex> lock(emulated().mutex);
    for (size_t i = 0; i < emulated_streams().size(); i++) {
        CUstream_st *stream = emulated_streams()[i];
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
    auto &streams = emulated_streams();
    streams.erase(std::find(streams.begin(), streams.end(), stream));
    delete stream;
    return cudaSuccess;
}

/* Nothing runs any more once the device has a fault. */
bool emulated_faulty()
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
    (void)emulated_submit(stream, [=] {
        std::lock_guard<std::mutex> running(emulated().kernel_lock);
        if (may_launch()) cuda_emulator_run_grid(name, grid, block, shared_bytes, body);
    });
}

cudaError_t cuda_emulator_load_kernel(const void *kernel, const char *name)
{
    std::lock_guard<std::mutex> lock(emulated().mutex);
    if (emulated().loaded.insert(kernel).second) emulated_may_wait(name);
    return cudaSuccess;
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
    return emulated_submit(stream, [=] {
        if (bytes > 0 && !emulated_faulty()) memcpy(target, source, bytes);
    });
}

cudaError_t cudaMemsetAsync(void *target, int value, size_t bytes, cudaStream_t stream)
{
    return emulated_submit(stream, [=] {
        if (bytes > 0 && !emulated_faulty()) memset(target, value, bytes);
    });
}

cudaError_t cudaMemset(void *target, int value, size_t bytes)
{
    cudaError_t code = cudaMemsetAsync(target, value, bytes, nullptr);
    return code == cudaSuccess ? cudaStreamSynchronize(nullptr) : code;
}
