/* The emulator's one device: what its streams, its memory and its switches share. */
#ifndef SLUICE_TESTS_CUDA_EMULATOR_WORLD_H
#define SLUICE_TESTS_CUDA_EMULATOR_WORLD_H

#include "tests/cuda_emulator/runtime_api.h"

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <set>

/* Of a stream, until the word at `at` is as it should be (cuStreamWaitValue32's flags). */
struct memory_wait {
    const uint32_t *at;
    uint32_t value;
    unsigned flags;
    bool over() const;
};

struct emulated_world {
    std::mutex mutex; /* of everything here, of streams and of events */
    std::condition_variable changed;
    std::mutex kernel_lock; /* held while a kernel runs; taken without `mutex` */

    int devices = -1; /* not yet asked */
    size_t memory_bytes = (size_t)8 << 30;
    size_t used_bytes = 0, registered_bytes = 0;
    std::map<void *, size_t> allocations, host_allocations, registrations;
    std::map<const void *, int> shared_bytes;     /* what kernels were allowed */
    std::set<const void *> loaded;                /* kernels */
    std::set<std::shared_ptr<memory_wait>> waits; /* launched and not over, or recorded and begun */

    cudaError_t fault = cudaSuccess; /* of the device: stays until revived */
    int64_t fail_after = -1;
    bool pinning = true, wait_value = true;
    uint64_t launches = 0;
};

/* Never destroyed: threads may outlive main. */
emulated_world &emulated();

/* Ends the program if a stream waits for a word that the host has yet to write: `what`, a call of
 * the host's, may on hardware wait for all streams first. The world's mutex is held. */
void emulated_may_wait(const char *what);

/* The calling thread's last error, as cudaGetLastError knows it; returns `code`. */
cudaError_t emulated_error(cudaError_t code);

#endif
