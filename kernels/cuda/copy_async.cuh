/* Copies from global to shared memory that do not pass through registers (cp.async), in groups.
 *
 * A thread waits for its own copies; a barrier of the warp or block makes them visible to others.
 * Every kernel that starts copies waits for all of them before it ends. The emulator carries a copy
 * out as late as the waits allow, so that a missing wait shows. */
#ifndef SLUICE_KERNELS_CUDA_COPY_ASYNC_CUH
#define SLUICE_KERNELS_CUDA_COPY_ASYNC_CUH

#include "kernels/cuda/launch.cuh"

#ifdef SL_CUDA_EMULATOR
#include "kernels/cuda/copy_async_emulated.cuh"
#else

/* `bytes` bytes, 0 to 16, then zeros up to 16; both addresses on 16-byte boundaries. */
__device__ __forceinline__ void copy_async_16(void *shared, const void *global, int bytes)
{
    unsigned target = (unsigned)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(global),
                 "r"(bytes)
                 : "memory");
}

/* Ends a group, which may be empty. */
__device__ __forceinline__ void copy_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until at most the PENDING latest groups are under way. */
template <int PENDING> __device__ __forceinline__ void copy_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

#endif
#endif
