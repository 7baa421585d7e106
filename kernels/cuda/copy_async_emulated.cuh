/* The emulator's side of copy_async.cuh: each thread of a block keeps its copies until a wait names
 * their group. */
#ifndef SLUICE_KERNELS_CUDA_COPY_ASYNC_EMULATED_CUH
#define SLUICE_KERNELS_CUDA_COPY_ASYNC_EMULATED_CUH

#include "kernels/base.h"

#include <string.h>

#define COPY_ASYNC_PENDING_MAX 64

struct copy_async_queue {
    struct {
        void *shared;
        const void *global;
        int bytes, group;
    } copies[COPY_ASYNC_PENDING_MAX];
    int count, group;
};

static inline struct copy_async_queue *copy_async_own()
{
    static struct copy_async_queue queues[1024]; /* one kernel runs at a time */
    return &queues[threadIdx.x];
}

static inline void copy_async_16(void *shared, const void *global, int bytes)
{
    struct copy_async_queue *queue = copy_async_own();
    SL_ASSERT(queue->count < COPY_ASYNC_PENDING_MAX);
    SL_ASSERT(bytes >= 0 && bytes <= 16);
    SL_ASSERT((uintptr_t)shared % 16 == 0 && (bytes == 0 || (uintptr_t)global % 16 == 0));
    queue->copies[queue->count++] = {shared, global, bytes, queue->group};
}

static inline void copy_async_commit()
{
    copy_async_own()->group++;
}

template <int PENDING> static inline void copy_async_wait()
{
    struct copy_async_queue *queue = copy_async_own();
    int kept = 0;
    for (int i = 0; i < queue->count; i++) {
        auto &copy = queue->copies[i];
        if (copy.group >= queue->group - PENDING) {
            queue->copies[kept++] = copy;
            continue;
        }
        memset(copy.shared, 0, 16);
        if (copy.bytes) memcpy(copy.shared, copy.global, (size_t)copy.bytes);
    }
    queue->count = kept;
}

#endif
