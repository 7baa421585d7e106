/* Rotary positions of query, key and output heads, forward and inverse; a block some heads of a
 * token. Equal to the twin bit for bit, but for the angles that rotation.cuh speaks of. */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rotation.cuh"

#define THREADS         128
#define HEADS_PER_BLOCK 16

static __global__ void __launch_bounds__(THREADS) rope_kernel(struct rope_args args)
{
    launch_chain();
    SL_SHARED(struct rotation, rotations);
    int32_t pairs = args.rotary / 2;
    int32_t t = (int32_t)blockIdx.y;
    int32_t head = (int32_t)blockIdx.x * HEADS_PER_BLOCK;
    int32_t heads = min(HEADS_PER_BLOCK, args.heads - head);
    float position = (float)args.positions[t];
    for (int32_t j = (int32_t)threadIdx.x; j < pairs; j += THREADS)
        rotations[j] = rotation_of_angle(position * args.frequencies[j]);
    __syncthreads();
    for (int32_t i = (int32_t)threadIdx.x; i < heads * pairs; i += THREADS) {
        int32_t j = i % pairs;
        size_t row = (size_t)t * (size_t)args.heads + (size_t)(head + i / pairs);
        float *pair = args.x + (row + 1) * (size_t)args.width - args.rotary + 2 * j;
        rotation_apply(rotations[j], args.inverse, args.round, pair, pair + 1);
    }
}

extern "C" void cuda_rope(struct stream *stream, const struct rope_args *args)
{
    SL_ASSERT(args->rotary >= 0 && args->rotary % 2 == 0);
    SL_ASSERT(args->rotary <= args->width && args->rotary <= OPS_HEAD_DIM_MAX);
    if (args->rotary == 0) return;
    dim3 grid(launch_blocks(args->heads, HEADS_PER_BLOCK), (unsigned)args->tokens);
    size_t shared_bytes = (size_t)(args->rotary / 2) * sizeof(struct rotation);
    SL_LAUNCH(stream, rope_kernel, grid, THREADS, shared_bytes, *args);
}
