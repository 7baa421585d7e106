/* Flags and what goes with them, by kernels of one block; see kernels/cuda/flags.h. Few bytes:
 * choices, tables, a token's activations. */
#include "kernels/cuda/flags.h"
#include "kernels/cuda/launch.cuh"

#define THREADS 512
#define LOOK_NS 200 /* between looks, so that the link is left to others */

struct pieces {
    struct gpu_piece items[GPU_PIECES_MAX];
    int32_t count;
};

/* Mapped memory is read past the caches: another pass has read other bytes there. */
__device__ __forceinline__ void copy_pieces(const struct pieces &pieces)
{
    for (int32_t i = 0; i < pieces.count; i++) {
        const volatile uint32_t *source =
            static_cast<const volatile uint32_t *>(pieces.items[i].source);
        uint32_t *target = static_cast<uint32_t *>(pieces.items[i].target);
        for (size_t word = threadIdx.x; word < pieces.items[i].bytes / 4; word += THREADS)
            target[word] = source[word];
    }
}

static __global__ void publish_kernel(struct pieces pieces, uint32_t *flag, uint32_t value)
{
    launch_chain();
    copy_pieces(pieces);
    __threadfence_system(); /* every thread's part is there before the flag */
    __syncthreads();
    if (threadIdx.x == 0) *static_cast<volatile uint32_t *>(flag) = value;
}

static __global__ void take_kernel(struct pieces pieces, const uint32_t *flag, uint32_t value)
{
    launch_chain();
    if (flag && threadIdx.x == 0) {
        while (*static_cast<const volatile uint32_t *>(flag) < value)
            __nanosleep(LOOK_NS);
        __threadfence_system();
    }
    __syncthreads();
    copy_pieces(pieces);
}

static struct pieces gather(const struct gpu_piece *pieces, int32_t count)
{
    struct pieces all = {};
    SL_ASSERT(count >= 0 && count <= GPU_PIECES_MAX);
    for (int32_t i = 0; i < count; i++) {
        SL_ASSERT(pieces[i].bytes % 4 == 0);
        all.items[i] = pieces[i];
    }
    all.count = count;
    return all;
}

extern "C" void flags_publish(struct stream *stream, const struct gpu_piece *pieces, int32_t count,
                              uint32_t *flag, uint32_t value)
{
    SL_LAUNCH(stream, publish_kernel, 1, THREADS, 0, gather(pieces, count), flag, value);
}

extern "C" void flags_copy_by_kernel(struct stream *stream, const uint32_t *flag, uint32_t value,
                                     const struct gpu_piece *pieces, int32_t count)
{
    SL_LAUNCH(stream, take_kernel, 1, THREADS, 0, gather(pieces, count), flag, value);
}
