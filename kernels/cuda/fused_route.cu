/* Router product, choice, and their way to the host, in one launch. Some blocks make the logits;
 * others copy the input to mapped memory meanwhile; the block that ends last chooses, a warp a
 * token, copies the choices and sets the flag. The same bits as the chain. */
#include "kernels/cuda/linear_tiles.cuh"
#include "kernels/cuda/router.cuh"
#include "kernels/fused.h"

#define COPY_FLOATS (4 * TILE_THREADS) /* of a copying block, at a time */
#define COPIES_MAX  64

struct route {
    struct fused_route_args args;
    struct tile_plan plan;
    uint32_t *ticket;
    int32_t product_blocks, copy_blocks;
};

/* The block's share of the input. */
__device__ __forceinline__ void copy_input(const struct route &route, int32_t block)
{
    const struct linear_args &linear = route.args.linear;
    int64_t floats = (int64_t)linear.tokens * linear.weight.columns;
    for (int64_t i = ((int64_t)block * TILE_THREADS + threadIdx.x) * 4; i < floats;
         i += (int64_t)route.copy_blocks * COPY_FLOATS)
        *reinterpret_cast<float4 *>(route.args.host_x + i) =
            *reinterpret_cast<const float4 *>(linear.x + i);
}

/* Choices of the warp's tokens, here and where the host reads them. */
__device__ __forceinline__ void choose(const struct route &route, float *shared)
{
    __shared__ int32_t places[TILE_WARPS][2][OPS_EXPERTS_PER_TOKEN_MAX];
    const struct router_args &router = route.args.router;
    int32_t warp = (int32_t)threadIdx.x / WARP_LANES;
    int32_t lane = (int32_t)threadIdx.x % WARP_LANES;
    struct router_memory memory;
    memory.activations = shared + (size_t)warp * 2 * (size_t)router.experts;
    memory.keys = reinterpret_cast<uint32_t *>(memory.activations + router.experts);
    memory.found = places[warp][0];
    memory.ids = places[warp][1];
    for (int32_t t = warp; t < router.tokens; t += TILE_WARPS) {
        router_choose(router, t, memory);
        __syncwarp();
        if (lane < router.top) {
            size_t at = (size_t)t * (size_t)router.top + (size_t)lane;
            route.args.host_chosen[at] = router.chosen[at];
            route.args.host_weights[at] = router.weights[at];
        }
        __syncwarp(); /* the next token's take the memory */
    }
}

/* Grid: blocks of the product, then those that copy. */
static __global__ void __launch_bounds__(TILE_THREADS, 2) route_kernel(const struct route route)
{
    SL_SHARED(float, shared);
    __shared__ bool is_last;
    int32_t block = (int32_t)blockIdx.x;
    if (block < route.product_blocks) {
        struct tile_share share = {block, route.product_blocks, 0};
        multiply_tiles<bf16_plain>(route.args.linear, route.plan, share);
    } else {
        launch_chain();
        copy_input(route, block - route.product_blocks);
    }
    __threadfence_system(); /* every thread's part is there before the ticket */
    __syncthreads();
    if (threadIdx.x == 0) is_last = atomicAdd(route.ticket, 1u) == gridDim.x - 1;
    __syncthreads();
    if (!is_last) return;
    __threadfence();
    choose(route, shared);
    __threadfence_system();
    __syncthreads();
    if (threadIdx.x > 0) return;
    *route.ticket = 0;
    *static_cast<volatile uint32_t *>(route.args.flag) = route.args.value;
}

extern "C" bool cuda_fused_route(struct stream *stream, const struct fused_route_args *args)
{
    const struct linear_args *linear = &args->linear;
    const struct router_args *router = &args->router;
    struct route route = {.args = *args, .ticket = stream->tickets};
    router_check(router);
    SL_ASSERT(linear->out == router->logits && linear->tokens == router->tokens);
    SL_ASSERT(linear->weight.rows == router->experts && args->flag != NULL);
    if (linear->groups != 1 || linear->tokens > TILE_TOKENS || !linear_tiles_fit(linear) ||
        linear->weight.format != MATRIX_BF16 || !linear->bf16_input || linear->quantise_input)
        return false;
    if (reinterpret_cast<uintptr_t>(args->host_x) % sizeof(float4) != 0) return false;
    route.plan = plan_tiles(stream, linear, bf16_plain::DEPTH);
    route.plan.tokens = linear->tokens;
    size_t choice_bytes = sizeof(float) * 2 * TILE_WARPS * (size_t)router->experts;
    size_t bytes = tile_bytes<bf16_plain>(linear, &route.plan, linear->tokens);
    if (bytes < choice_bytes) bytes = choice_bytes;
    if (bytes > (size_t)stream->shared_bytes_max) return false;
    route.product_blocks = min_i32(route.plan.steps, stream->processors);
    route.copy_blocks =
        min_i32(COPIES_MAX, ceil_div_i32(linear->tokens * linear->weight.columns, COPY_FLOATS));
    SL_ALLOW_SHARED(stream, route_kernel, bytes);
    SL_LAUNCH(stream, route_kernel, (unsigned)(route.product_blocks + route.copy_blocks),
              TILE_THREADS, bytes, route);
    return true;
}
