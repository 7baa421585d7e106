/* Copies that go with a flag, by one block: for the kernels of flag_kernels.cu and for fused
 * launches. */
#ifndef SLUICE_KERNELS_CUDA_PIECES_CUH
#define SLUICE_KERNELS_CUDA_PIECES_CUH

#include "kernels/cuda/launch.cuh"
#include "kernels/gpu.h"

#define PIECES_LOOK_NS 200 /* between looks, so that the link is left to others */

struct pieces {
    struct gpu_piece items[GPU_PIECES_MAX]; /* empty where there are fewer */
};

/* Until *flag >= value, in mapped memory; by one thread, for all behind the next barrier. */
__device__ __forceinline__ void flag_await(const uint32_t *flag, uint32_t value)
{
    while (*static_cast<const volatile uint32_t *>(flag) < value)
        __nanosleep(PIECES_LOOK_NS);
    __threadfence_system();
}

/* Word `word` of all the pieces in a row, into *target; NULL beyond the last. Mapped memory is read
 * past the caches: another pass has read other bytes there. */
__device__ __forceinline__ uint32_t pieces_read(const struct pieces &pieces, size_t word,
                                                uint32_t **target)
{
    *target = NULL;
#pragma unroll
    for (int32_t i = 0; i < GPU_PIECES_MAX; i++) {
        size_t words = pieces.items[i].bytes / 4;
        if (word < words) {
            *target = static_cast<uint32_t *>(pieces.items[i].target) + word;
            return static_cast<const volatile uint32_t *>(pieces.items[i].source)[word];
        }
        word -= words;
    }
    return 0;
}

/* By all THREADS of a block. Reads go out together, since each takes a trip over the link. */
template <int THREADS>
static __device__ __forceinline__ void pieces_copy(const struct pieces &pieces)
{
    const int together = 4;
    size_t words = 0;
#pragma unroll
    for (int32_t i = 0; i < GPU_PIECES_MAX; i++)
        words += pieces.items[i].bytes / 4;
    for (size_t first = threadIdx.x; first < words; first += together * THREADS) {
        uint32_t read[together];
        uint32_t *targets[together];
#pragma unroll
        for (int i = 0; i < together; i++)
            read[i] = pieces_read(pieces, first + (size_t)i * THREADS, &targets[i]);
#pragma unroll
        for (int i = 0; i < together; i++)
            if (targets[i]) *targets[i] = read[i];
    }
}

static inline struct pieces pieces_make(const struct gpu_piece *pieces, int32_t count)
{
    struct pieces all = {};
    SL_ASSERT(count >= 0 && count <= GPU_PIECES_MAX);
    for (int32_t i = 0; i < count; i++) {
        SL_ASSERT(pieces[i].bytes % 4 == 0);
        all.items[i] = pieces[i];
    }
    return all;
}

#endif
