/* Experts of each token and their weights, a warp a token. The same choice as the twin's, ties and
 * NaN included, where activations agree; these differ by the exponential and the logarithm alone,
 * 4 units in the last place: weights agree to 2e-6. */
#include "kernels/cuda/router.cuh"

static __global__ void __launch_bounds__(WARP_LANES) router_kernel(struct router_args args)
{
    launch_chain();
    SL_SHARED(float, activations); /* [experts], then keys [experts] */
    __shared__ int32_t found[OPS_EXPERTS_PER_TOKEN_MAX];
    __shared__ int32_t ids[OPS_EXPERTS_PER_TOKEN_MAX];
    uint32_t *keys = reinterpret_cast<uint32_t *>(activations + args.experts);
    router_choose(args, (int32_t)blockIdx.x, {activations, keys, found, ids});
}

extern "C" void cuda_router(struct stream *stream, const struct router_args *args)
{
    size_t shared_bytes = 2 * sizeof(float) * (size_t)args->experts;
    router_check(args);
    SL_LAUNCH(stream, router_kernel, (unsigned)args->tokens, WARP_LANES, shared_bytes, *args);
}
