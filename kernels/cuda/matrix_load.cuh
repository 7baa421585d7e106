/* Operands of mma.cuh out of shared memory, four matrices of 8 x 8 values of 16 bits at once (PTX
 * "ldmatrix").
 *
 * Lane 8 i + r names row r of matrix i, eight values on a 16-byte boundary. Of lane 4g + j, word i
 * is elements 2j and 2j + 1 of row g of matrix i; transposed, column g's elements of rows 2j and
 * 2j + 1. Rows that lie 16 bytes more than a multiple of 128 apart meet different banks. */
#ifndef SLUICE_KERNELS_CUDA_MATRIX_LOAD_CUH
#define SLUICE_KERNELS_CUDA_MATRIX_LOAD_CUH

#include "kernels/cuda/launch.cuh"

#ifdef SL_CUDA_EMULATOR

#include "kernels/base.h"

static inline const uint16_t **matrix_load_exchange()
{
    static thread_local const uint16_t *warps[32][WARP_LANES];
    return warps[threadIdx.x / WARP_LANES];
}

static inline void matrix_load_emulated(uint32_t words[4], const void *row, bool transposed)
{
    const uint16_t **rows = matrix_load_exchange();
    int lane = (int)threadIdx.x % WARP_LANES;
    int g = lane / 4;
    int j = lane % 4;
    SL_ASSERT((uintptr_t)row % 16 == 0);
    rows[lane] = static_cast<const uint16_t *>(row);
    __syncwarp();
    for (int i = 0; i < 4; i++) {
        const uint16_t *const *matrix = rows + 8 * i;
        words[i] = transposed ? matrix[2 * j][g] | (uint32_t)matrix[2 * j + 1][g] << 16
                              : matrix[g][2 * j] | (uint32_t)matrix[g][2 * j + 1] << 16;
    }
    __syncwarp();
}

static inline void matrix_load(uint32_t words[4], const void *row)
{
    matrix_load_emulated(words, row, false);
}

static inline void matrix_load_transposed(uint32_t words[4], const void *row)
{
    matrix_load_emulated(words, row, true);
}

#else

__device__ __forceinline__ void matrix_load(uint32_t words[4], const void *row)
{
    unsigned address = (unsigned)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void matrix_load_transposed(uint32_t words[4], const void *row)
{
    unsigned address = (unsigned)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(address)
                 : "memory");
}

#endif
#endif
