/* Which block of expert_wide.cu does what: tokens of all tasks cut into tiles, on the device, since
 * only it knows how many tokens chose an expert. */
#ifndef SLUICE_KERNELS_CUDA_EXPERT_WIDE_TILES_CUH
#define SLUICE_KERNELS_CUDA_EXPERT_WIDE_TILES_CUH

#include "kernels/cuda/expert_ffn.cuh"
#include "kernels/cuda/reduce.cuh"

#define WIDE_TOKENS 64 /* of a tile, at most */

/* Tokens [first, first + count) of a task; row `place` of the middle is the first one's. */
struct wide_tile {
    int32_t task, first, count, place;
};

/* A pass: pairs of task and token in the order of tasks, from pair `low` on. */
struct wide {
    struct expert_ffn_work ffn;
    uint16_t *x;             /* bf16 [tokens or pairs, hidden] */
    uint16_t *middle;        /* bf16 [pairs, width] */
    struct wide_tile *tiles; /* in the order of tasks */
    int32_t *tile_count;
    int32_t low, pairs; /* of the pass */
    bool by_pair;       /* x has a row for each pair of the pass, not for each token */
};

/* Tiles of a pass, at most. */
static inline int32_t wide_tiles_max(int32_t pairs, int32_t tasks)
{
    return pairs / WIDE_TOKENS + min_i32(tasks, pairs);
}

/* Lists the tiles; by one block. `parts` is shared, a word a warp. */
static __device__ __forceinline__ void wide_list_tiles(const struct wide &wide, uint32_t *parts)
{
    int32_t start = 0, listed = 0; /* pairs and tiles of the tasks before */
    for (int32_t base = 0; base < wide.ffn.args.task_count; base += (int32_t)blockDim.x) {
        int32_t task = base + (int32_t)threadIdx.x;
        int32_t count = task < wide.ffn.args.task_count ? wide.ffn.tasks[task].count : 0;
        uint32_t all_pairs, all_tiles;
        int32_t own = start + (int32_t)block_scan((uint32_t)count, parts, &all_pairs);
        int32_t first = min(max(wide.low - own, 0), count);
        int32_t end = min(max(wide.low + wide.pairs - own, 0), count);
        int32_t tiles = (end - first + WIDE_TOKENS - 1) / WIDE_TOKENS;
        int32_t at = listed + (int32_t)block_scan((uint32_t)tiles, parts, &all_tiles);
        for (; first < end; first += WIDE_TOKENS)
            wide.tiles[at++] = {task, first, min(WIDE_TOKENS, end - first), own + first - wide.low};
        start += (int32_t)all_pairs;
        listed += (int32_t)all_tiles;
    }
    if (threadIdx.x == 0) *wide.tile_count = listed;
}

#endif
