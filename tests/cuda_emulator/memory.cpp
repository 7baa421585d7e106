/* Device memory, pinned host memory, devices and errors. */
#include "tests/cuda_emulator/emulator.h"
#include "tests/cuda_emulator/world.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

/* Larger allocations are not made to look like garbage. */
#define FILL_BYTES_MAX ((size_t)16 << 20)

static thread_local cudaError_t last_error = cudaSuccess;

emulated_world &emulated()
{
    static emulated_world *world = new emulated_world;
    return *world;
}

cudaError_t emulated_error(cudaError_t code)
{
    if (code != cudaSuccess) last_error = code;
    return code;
}

static cudaError_t device_error()
{
    std::lock_guard<std::mutex> lock(emulated().mutex);
    return emulated_error(emulated().fault);
}

static int device_count()
{
    emulated_world &world = emulated();
    std::lock_guard<std::mutex> lock(world.mutex);
    if (world.devices < 0) {
        const char *text = getenv("SLUICE_EMULATED_GPUS");
        world.devices = text ? atoi(text) : 1;
    }
    return world.devices;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = device_count();
    return *count > 0 ? cudaSuccess : emulated_error(cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device)
{
    return device == 0 && device_count() > 0 ? cudaSuccess : emulated_error(cudaErrorInvalidDevice);
}

cudaError_t cudaGetDevice(int *device)
{
    *device = 0;
    return device_count() > 0 ? cudaSuccess : emulated_error(cudaErrorNoDevice);
}

/* A small relative of the first target, so that grids stay small. */
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device)
{
    if (cudaSetDevice(device) != cudaSuccess) return cudaErrorInvalidDevice;
    memset(properties, 0, sizeof *properties);
    snprintf(properties->name, sizeof properties->name, "emulated GPU");
    properties->totalGlobalMem = emulated().memory_bytes;
    properties->sharedMemPerBlock = 48 << 10;
    properties->sharedMemPerBlockOptin = 227 << 10;
    properties->sharedMemPerMultiprocessor = 228 << 10;
    properties->major = 9;
    properties->multiProcessorCount = 4;
    properties->l2CacheSize = 50 << 20;
    properties->warpSize = 32;
    properties->maxThreadsPerBlock = 1024;
    properties->canMapHostMemory = properties->hostRegisterSupported = 1;
    properties->canUseHostPointerForRegisteredMem = properties->unifiedAddressing = 1;
    properties->concurrentKernels = 1;
    properties->asyncEngineCount = 2;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = device_count() > 0 ? CUDART_VERSION : 0;
    return cudaSuccess;
}

static cudaError_t allocate(std::map<void *, size_t> &table, size_t &used, size_t limit, void **out,
                            size_t bytes)
{
    emulated_world &world = emulated();
    *out = nullptr;
    if (device_error() != cudaSuccess) return world.fault;
    if (bytes == 0) return cudaSuccess;
    std::lock_guard<std::mutex> lock(world.mutex);
    emulated_may_wait("memory is allocated");
    if (bytes > limit - used) return emulated_error(cudaErrorMemoryAllocation);
    size_t alignment = bytes >= 4096 ? 4096 : 256;
    void *memory = nullptr;
    if (posix_memalign(&memory, alignment, bytes) != 0)
        return emulated_error(cudaErrorMemoryAllocation);
    if (bytes <= FILL_BYTES_MAX) memset(memory, 0xff, bytes);
    table[memory] = bytes;
    used += bytes;
    *out = memory;
    return cudaSuccess;
}

static cudaError_t release(std::map<void *, size_t> &table, size_t &used, void *memory)
{
    emulated_world &world = emulated();
    if (!memory) return cudaSuccess;
    std::lock_guard<std::mutex> lock(world.mutex);
    auto found = table.find(memory);
    if (found == table.end()) return emulated_error(cudaErrorInvalidValue);
    used -= found->second;
    table.erase(found);
    free(memory);
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **memory, size_t bytes)
{
    if (device_count() == 0) return emulated_error(cudaErrorNoDevice);
    return allocate(emulated().allocations, emulated().used_bytes, emulated().memory_bytes, memory,
                    bytes);
}

cudaError_t cudaFree(void *memory)
{
    if (memory) (void)cudaDeviceSynchronize();
    return release(emulated().allocations, emulated().used_bytes, memory);
}

cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned)
{
    *memory = nullptr;
    if (!emulated().pinning) return emulated_error(cudaErrorMemoryAllocation);
    return allocate(emulated().host_allocations, emulated().registered_bytes, SIZE_MAX, memory,
                    bytes);
}

cudaError_t cudaFreeHost(void *memory)
{
    if (memory) (void)cudaDeviceSynchronize();
    return release(emulated().host_allocations, emulated().registered_bytes, memory);
}

cudaError_t cudaHostRegister(void *memory, size_t bytes, unsigned)
{
    emulated_world &world = emulated();
    std::lock_guard<std::mutex> lock(world.mutex);
    emulated_may_wait("RAM is pinned");
    if (!world.pinning) return emulated_error(cudaErrorMemoryAllocation);
    if (!memory || bytes == 0) return emulated_error(cudaErrorInvalidValue);
    char *first = static_cast<char *>(memory);
    for (const auto &entry : world.registrations) {
        char *other = static_cast<char *>(entry.first);
        if (first < other + entry.second && other < first + bytes)
            return emulated_error(cudaErrorHostMemoryAlreadyRegistered);
    }
    world.registrations[memory] = bytes;
    world.registered_bytes += bytes;
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *memory)
{
    emulated_world &world = emulated();
    (void)cudaDeviceSynchronize();
    std::lock_guard<std::mutex> lock(world.mutex);
    auto found = world.registrations.find(memory);
    if (found == world.registrations.end()) return emulated_error(cudaErrorHostMemoryNotRegistered);
    world.registered_bytes -= found->second;
    world.registrations.erase(found);
    return cudaSuccess;
}

cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned)
{
    emulated_world &world = emulated();
    std::lock_guard<std::mutex> lock(world.mutex);
    char *address = static_cast<char *>(host);
    for (const auto *table : {&world.host_allocations, &world.registrations})
        for (const auto &entry : *table) {
            char *first = static_cast<char *>(entry.first);
            if (address >= first && address < first + entry.second) {
                *device = host;
                return cudaSuccess;
            }
        }
    return emulated_error(cudaErrorInvalidValue);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    emulated_world &world = emulated();
    std::lock_guard<std::mutex> lock(world.mutex);
    *free_bytes = world.memory_bytes - world.used_bytes;
    *total_bytes = world.memory_bytes;
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t code = last_error;
    last_error = cudaSuccess;
    return code;
}

#define CODES(X)                                                                                   \
    X(cudaSuccess, "no error")                                                                     \
    X(cudaErrorInvalidValue, "invalid argument")                                                   \
    X(cudaErrorMemoryAllocation, "out of memory")                                                  \
    X(cudaErrorInitializationError, "initialization error")                                        \
    X(cudaErrorInvalidConfiguration, "invalid configuration argument")                             \
    X(cudaErrorInsufficientDriver, "CUDA driver version is insufficient")                          \
    X(cudaErrorNoDevice, "no CUDA-capable device is detected")                                     \
    X(cudaErrorInvalidDevice, "invalid device ordinal")                                            \
    X(cudaErrorInvalidResourceHandle, "invalid resource handle")                                   \
    X(cudaErrorNotReady, "device not ready")                                                       \
    X(cudaErrorIllegalAddress, "an illegal memory access was encountered")                         \
    X(cudaErrorHostMemoryAlreadyRegistered, "part or all of the memory is already mapped")         \
    X(cudaErrorHostMemoryNotRegistered, "pointer does not correspond to a registered region")      \
    X(cudaErrorLaunchFailure, "unspecified launch failure")                                        \
    X(cudaErrorNotSupported, "operation not supported")                                            \
    X(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing")       \
    X(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error")

const char *cudaGetErrorString(cudaError_t code)
{
    switch (code) {
#define X(name, text)                                                                              \
    case name: return text;
        CODES(X)
#undef X
    default: return "unknown error";
    }
}

const char *cudaGetErrorName(cudaError_t code)
{
    switch (code) {
#define X(name, text)                                                                              \
    case name: return #name;
        CODES(X)
#undef X
    default: return "cudaErrorUnknown";
    }
}

void cuda_emulator_fail_after(int64_t launches)
{
    std::lock_guard<std::mutex> lock(emulated().mutex);
    emulated().fail_after = launches;
}

void cuda_emulator_revive(void)
{
    std::lock_guard<std::mutex> lock(emulated().mutex);
    emulated().fault = cudaSuccess;
    emulated().fail_after = -1;
}

void cuda_emulator_allow(bool pinning, bool wait_value)
{
    std::lock_guard<std::mutex> lock(emulated().mutex);
    emulated().pinning = pinning;
    emulated().wait_value = wait_value;
}

size_t cuda_emulator_memory_used(void)
{
    return emulated().used_bytes;
}

size_t cuda_emulator_registered(void)
{
    return emulated().registered_bytes;
}

uint64_t cuda_emulator_launches(void)
{
    return emulated().launches;
}
