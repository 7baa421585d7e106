/* The orthonormal Hadamard rotation of the indexer ("Hadamard rotation"), Sylvester order, by a
 * block. The same sums as the twin's, bit for bit. */
#ifndef SLUICE_KERNELS_CUDA_HADAMARD_CUH
#define SLUICE_KERNELS_CUDA_HADAMARD_CUH

#include "kernels/cuda/launch.cuh"
#include "kernels/lowp.h"

/* x [width] in shared memory, in place, f32 inside, rounded to bf16 once; width is a power of two,
 * `scale` its root's inverse. All threads of the block call; x is ready before and after. */
__device__ __forceinline__ void hadamard_rotate(float *x, int32_t width, float scale)
{
    for (int32_t half = 1; half < width; half *= 2) {
        __syncthreads();
        for (int32_t pair = (int32_t)threadIdx.x; pair < width / 2; pair += (int32_t)blockDim.x) {
            int32_t i = pair / half * 2 * half + pair % half;
            float a = x[i];
            float b = x[i + half];
            x[i] = a + b;
            x[i + half] = a - b;
        }
    }
    __syncthreads();
    for (int32_t i = (int32_t)threadIdx.x; i < width; i += (int32_t)blockDim.x)
        x[i] = bf16_round(x[i] * scale);
    __syncthreads();
}

#endif
