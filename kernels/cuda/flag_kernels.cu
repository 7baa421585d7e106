/* Flags and what goes with them, by kernels of one block; see kernels/cuda/flags.h. Few bytes:
 * choices, tables, a token's activations. */
#include "kernels/cuda/flags.h"
#include "kernels/cuda/pieces.cuh"

#define THREADS 512

static __global__ void publish_kernel(struct pieces pieces, uint32_t *flag, uint32_t value)
{
    launch_chain();
    pieces_copy<THREADS>(pieces);
    __threadfence_system(); /* every thread's part is there before the flag */
    __syncthreads();
    if (threadIdx.x == 0) *static_cast<volatile uint32_t *>(flag) = value;
}

static __global__ void take_kernel(struct pieces pieces, const uint32_t *flag, uint32_t value)
{
    launch_chain();
    if (flag && threadIdx.x == 0) flag_await(flag, value);
    __syncthreads();
    pieces_copy<THREADS>(pieces);
}

extern "C" void flags_publish(struct stream *stream, const struct gpu_piece *pieces, int32_t count,
                              uint32_t *flag, uint32_t value)
{
    SL_LAUNCH(stream, publish_kernel, 1, THREADS, 0, pieces_make(pieces, count), flag, value);
}

extern "C" void flags_copy_by_kernel(struct stream *stream, const uint32_t *flag, uint32_t value,
                                     const struct gpu_piece *pieces, int32_t count)
{
    SL_LAUNCH(stream, take_kernel, 1, THREADS, 0, pieces_make(pieces, count), flag, value);
}
