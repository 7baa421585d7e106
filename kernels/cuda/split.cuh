/* Products cut over their columns among blocks: who adds the parts. */
#ifndef SLUICE_KERNELS_CUDA_SPLIT_CUH
#define SLUICE_KERNELS_CUDA_SPLIT_CUH

#include "kernels/cuda/launch.cuh"

/* True in all threads of the block that is the last of `count` to come here; the parts of all the
 * others are visible to it. The ticket is zero before and after. */
static __device__ __forceinline__ bool last_of_split(uint32_t *ticket, unsigned count)
{
    __shared__ uint32_t drawn;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        drawn = atomicAdd(ticket, 1u);
        if (drawn == count - 1) *ticket = 0;
    }
    __syncthreads();
    __threadfence();
    return drawn == count - 1;
}

#endif
