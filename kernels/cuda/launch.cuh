/* Launching kernels so that nvcc and the tests' emulator both take it, and dynamic shared memory.
 *
 * A kernel with template arguments is launched through a variable or in parentheses:
 * SL_LAUNCH(stream, (gemv_kernel<4>), grid, block, shared_bytes, args). Nothing is launched for an
 * empty grid, or once the stream has a fault; while it is `loading`, the kernel is only loaded. */
#ifndef SLUICE_KERNELS_CUDA_LAUNCH_CUH
#define SLUICE_KERNELS_CUDA_LAUNCH_CUH

#include "kernels/cuda/stream.h"

#define WARP_LANES 32
#define WARP_ALL   0xffffffffu

#ifdef SL_CUDA_EMULATOR
#define SL_START(kernel, grid, block, shared_bytes, handle, ...)                                   \
    cuda_emulator_start(kernel, #kernel, grid, block, shared_bytes, handle, __VA_ARGS__)
#define SL_LOAD(kernel) cuda_emulator_load(kernel, #kernel)
/* `type *name` is the block's dynamic shared memory, on a 128-byte boundary. */
#define SL_SHARED(type, name) type *name = static_cast<type *>(cuda_emulator_shared())
#else
#define SL_START(kernel, grid, block, shared_bytes, handle, ...)                                   \
    (kernel)<<<grid, block, shared_bytes, handle>>>(__VA_ARGS__)
template <class Kernel> static inline cudaError_t launch_load(Kernel *kernel)
{
    struct cudaFuncAttributes attributes;
    return cudaFuncGetAttributes(&attributes, kernel);
}
#define SL_LOAD(kernel)       launch_load(kernel)
extern __shared__ __align__(128) unsigned char sl_shared_bytes[];
#define SL_SHARED(type, name) type *name = reinterpret_cast<type *>(sl_shared_bytes)
#endif

#define SL_LAUNCH(stream, kernel, grid, block, shared_bytes, ...)                                  \
    do {                                                                                           \
        dim3 sl_grid_ = (grid);                                                                    \
        if (sl_grid_.x == 0 || sl_grid_.y == 0 || sl_grid_.z == 0) break;                          \
        if ((stream)->fault != cudaSuccess) break;                                                 \
        if ((stream)->loading) {                                                                   \
            stream_latch((stream), SL_LOAD(kernel), "loading " #kernel);                           \
            break;                                                                                 \
        }                                                                                          \
        SL_START(kernel, sl_grid_, block, shared_bytes, (stream)->handle, __VA_ARGS__);            \
        stream_latch((stream), cudaGetLastError(), #kernel);                                       \
    } while (0)

/* Lets a kernel use more dynamic shared memory than the 48 KiB that need no asking. A host call
 * that a capture does not see; launchers make it before each launch that needs it. */
#define SL_ALLOW_SHARED(stream, kernel, bytes)                                                     \
    stream_latch(                                                                                  \
        (stream),                                                                                  \
        cudaFuncSetAttribute((kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(bytes)), \
        #kernel)

/* Blocks for `count` items, `per_block` a block; 0 for none. */
static inline unsigned launch_blocks(int64_t count, int32_t per_block)
{
    return count <= 0 ? 0u : (unsigned)((count + per_block - 1) / per_block);
}

#endif
