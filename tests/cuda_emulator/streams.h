/* Streams as the emulator's files see them: a thread and a queue each. All fields are guarded by
 * the world's mutex. */
#ifndef SLUICE_TESTS_CUDA_EMULATOR_STREAMS_H
#define SLUICE_TESTS_CUDA_EMULATOR_STREAMS_H

#include "tests/cuda_emulator/world.h"

#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

using operation = std::function<void()>;

struct CUgraph_st {
    std::vector<operation> operations;
    bool broken = false;
};

struct CUstream_st {
    std::deque<operation> queue;
    bool running = false, closing = false;
    std::shared_ptr<CUgraph_st> capture; /* what it records into, or NULL */
    std::thread thread;
};

std::vector<CUstream_st *> &emulated_streams();

/* The stream itself, or the null stream's; NULL without a device. */
CUstream_st *emulated_stream(cudaStream_t stream);

/* Queues an operation, or adds it to the stream's capture. */
cudaError_t emulated_submit(cudaStream_t stream, operation what);

/* Nothing runs any more once the device has a fault. */
bool emulated_faulty();

#endif
