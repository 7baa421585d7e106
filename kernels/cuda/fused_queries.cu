/* Query heads normed and rotated, the indexer's rotated, in one launch, for any number of tokens;
 * half a warp a head. Equal to the chain of twins bit for bit, but for the angles that rotation.cuh
 * speaks of. At 64 heads of 512 and an indexer 288 KiB a token pass memory, where the three ops
 * have 320. */
#include "kernels/cuda/head_norm.cuh"
#include "kernels/cuda/rotation.cuh"
#include "kernels/fused.h"

#define THREADS 128
#define HEADS   (THREADS / HEAD_NORM_LANES) /* of a block */

/* A token's angles into shared memory, by the block. */
__device__ __forceinline__ void find_rotations(const struct rope_args &rope, int32_t t,
                                               struct rotation *rotations)
{
    float position = (float)rope.positions[t];
    for (int32_t j = (int32_t)threadIdx.x; j < rope.rotary / 2; j += THREADS)
        rotations[j] = rotation_of_angle(position * rope.frequencies[j]);
    __syncthreads();
}

/* Rotates a head by its half warp. */
__device__ __forceinline__ void rotate_head(const struct rope_args &rope, float *x,
                                            const struct rotation *rotations)
{
    for (int32_t j = (int32_t)threadIdx.x % HEAD_NORM_LANES; j < rope.rotary / 2;
         j += HEAD_NORM_LANES) {
        float *pair = x + rope.width - rope.rotary + 2 * j;
        rotation_apply(rotations[j], rope.inverse, rope.round, pair, pair + 1);
    }
}

/* Grid (blocks of query heads, then of the indexer's; tokens). */
static __global__ void __launch_bounds__(THREADS)
    queries_kernel(const struct fused_queries_args args, int32_t blocks)
{
    SL_SHARED(struct rotation, rotations);
    launch_chain();
    bool is_index = (int32_t)blockIdx.x >= blocks;
    const struct rope_args rope = is_index ? args.index : args.rope;
    int32_t t = (int32_t)blockIdx.y;
    int32_t head = ((int32_t)blockIdx.x - (is_index ? blocks : 0)) * HEADS +
                   (int32_t)threadIdx.x / HEAD_NORM_LANES;
    bool inside = head < rope.heads; /* whole warps must meet */
    float *x = rope.x +
               ((size_t)t * (size_t)rope.heads + (size_t)(inside ? head : 0)) * (size_t)rope.width;
    find_rotations(rope, t, rotations);
    if (!is_index) head_norm_row(args.heads, x, inside);
    __syncwarp(); /* other lanes have normed what this one rotates */
    if (inside) rotate_head(rope, x, rotations);
}

extern "C" bool cuda_fused_queries(struct stream *stream, const struct fused_queries_args *args)
{
    const struct rope_args *rope = &args->rope, *index = &args->index;
    SL_ASSERT(args->heads.x == rope->x && args->heads.rows == rope->tokens * rope->heads);
    SL_ASSERT(args->heads.width == rope->width && rope->width <= OPS_HEAD_DIM_MAX);
    SL_ASSERT(index->tokens == 0 || index->tokens == rope->tokens);
    int32_t blocks = ceil_div_i32(rope->heads, HEADS);
    int32_t index_blocks = index->tokens > 0 ? ceil_div_i32(index->heads, HEADS) : 0;
    size_t pairs = (size_t)max_i32(rope->rotary, index->rotary) / 2 + 1;
    dim3 grid((unsigned)(blocks + index_blocks), (unsigned)rope->tokens);
    SL_LAUNCH(stream, queries_kernel, grid, THREADS, pairs * sizeof(struct rotation), *args,
              blocks);
    return true;
}
