/* A table of tasks that comes while its kernel waits for it: the host fills it in mapped memory and
 * sets a flag. The first block that runs looks at the flag and copies the table, the others look at
 * a word of device memory, so that the link sees one look at a time. That block runs already when
 * others wait, so it waits for nobody but the host. */
#ifndef SLUICE_KERNELS_CUDA_EXPERT_TABLE_CUH
#define SLUICE_KERNELS_CUDA_EXPERT_TABLE_CUH

#include "kernels/cuda/pieces.cuh"

#define EXPERT_TABLE_LOOK_NS 50 /* between looks at device memory */

struct expert_table {
    struct pieces pieces;
    const uint32_t *flag; /* NULL: the table is there */
    uint32_t value;
    uint32_t *taken,
        *there; /* words of device memory, zero before; expert_table_forget ends them */
};

/* By all THREADS of a block; what the pieces name may be read afterwards. */
template <int THREADS>
static __device__ __forceinline__ void expert_table_await(const struct expert_table &table)
{
    __shared__ bool is_first;
    if (!table.flag) return;
    volatile uint32_t *there = table.there;
    if (threadIdx.x == 0) is_first = *there == 0 && atomicAdd(table.taken, 1u) == 0;
    __syncthreads();
    if (is_first) {
        if (threadIdx.x == 0) flag_await(table.flag, table.value);
        __syncthreads();
        pieces_copy<THREADS>(table.pieces);
        __threadfence(); /* every thread's part is there before the word */
        __syncthreads();
        if (threadIdx.x == 0) *there = 1;
    } else if (threadIdx.x == 0) {
        while (*there == 0)
            __nanosleep(EXPERT_TABLE_LOOK_NS);
        __threadfence();
    }
    __syncthreads();
}

/* By the kernel that follows. */
__device__ __forceinline__ void expert_table_forget(const struct expert_table &table)
{
    if (!table.flag || blockIdx.x > 0 || blockIdx.y > 0 || threadIdx.x > 0) return;
    *table.taken = 0;
    *table.there = 0;
}

#endif
