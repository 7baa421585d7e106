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

/* Chained launches. From compute capability 9.0 on a kernel may begin before the one before it on
 * the stream has ended ("programmatic dependent launch"), so that launching, and loading weights,
 * cost no time of their own. What keeps this right:
 *
 * 1. Every thread of every kernel calls launch_await before it reads what a launch may write, and
 *    before it writes anything at all. It returns when the kernel before has ended and its writes
 *    are visible. That one's threads did the same, so all launches before have ended, too, and a
 *    kernel's end means as much to events, flags and the host as it does without chains.
 * 2. Only what no launch writes may be read earlier: weights, which are there since the model was
 *    opened. Who does so says it ("Before launch_await:"); ./run gpu-report looks for others.
 * 3. launch_next lets the next kernel begin when all blocks of this one have called it or ended.
 *    The next one takes only room that this one's blocks have no use for, and no block waits for
 *    room that a waiting block holds.
 * 4. A kernel is chained to a kernel alone, never to a copy, a wait for a flag or an event, or the
 *    end of a graph (stream->after_kernel), and only if the machine code that runs knows how to
 *    wait (stream->chains, as a kernel of this build has told). */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define LAUNCH_CHAINS 1
#else
#define LAUNCH_CHAINS 0
#endif

__device__ __forceinline__ void launch_next()
{
#if LAUNCH_CHAINS
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ void launch_await()
{
#if LAUNCH_CHAINS
    asm volatile("griddepcontrol.wait;" ::: "memory");
#elif defined(SL_CUDA_EMULATOR)
    cuda_emulator_awaited(); /* ends the program if some thread of a kernel never comes here */
#endif
}

/* The first statement of a kernel that reads nothing early. */
__device__ __forceinline__ void launch_chain()
{
    launch_next();
    launch_await();
}

#ifdef SL_CUDA_EMULATOR
#define SL_START(stream, kernel, grid, block, shared_bytes, ...)                                   \
    ((void)cudaGetLastError(), /* of a call before */                                              \
     cuda_emulator_start(kernel, #kernel, grid, block, shared_bytes, (stream)->handle,             \
                         __VA_ARGS__),                                                             \
     cudaGetLastError())
#define SL_LOAD(kernel) cuda_emulator_load(kernel, #kernel)
/* `type *name` is the block's dynamic shared memory, on a 128-byte boundary. */
#define SL_SHARED(type, name) type *name = static_cast<type *>(cuda_emulator_shared())
#else
template <class... Parameters, class... Arguments>
static inline cudaError_t launch_start(const struct stream *stream, void (*kernel)(Parameters...),
                                       dim3 grid, dim3 block, size_t shared_bytes,
                                       Arguments &&...arguments)
{
    cudaLaunchAttribute chained = {};
    cudaLaunchConfig_t config = {};
    chained.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    chained.val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream->handle;
    config.attrs = &chained;
    config.numAttrs = stream->chains && stream->after_kernel ? 1 : 0;
    cudaError_t code = cudaLaunchKernelEx(&config, kernel, static_cast<Arguments &&>(arguments)...);
    if (code != cudaSuccess) (void)cudaGetLastError();
    return code;
}
#define SL_START(stream, kernel, grid, block, shared_bytes, ...)                                   \
    launch_start(stream, kernel, grid, block, shared_bytes, __VA_ARGS__)
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
        stream_latch((stream),                                                                     \
                     SL_START(stream, kernel, sl_grid_, block, shared_bytes, __VA_ARGS__),         \
                     #kernel);                                                                     \
        (stream)->launches++;                                                                      \
        (stream)->after_kernel = true;                                                             \
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
