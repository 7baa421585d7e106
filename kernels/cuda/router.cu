/* Experts of each token and their weights, a warp a token. The same choice as the twin's, ties and
 * NaN included, where activations agree; these differ by the exponential and the logarithm alone,
 * 4 units in the last place: weights agree to 2e-6. */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numerics.cuh"

/* sqrt(softplus(z)); above 20 softplus is z to f32 precision. */
static __device__ __forceinline__ float activate(float z)
{
    return sqrtf(z > 20.0f ? z : log1pf(expf(z)));
}

/* Orders as the scores do, both zeros alike; NaN below everything, 0 for a score already taken. */
static __device__ __forceinline__ uint32_t score_key(float score)
{
    uint32_t bits = lowp_bits(score + 0.0f);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 1;
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static __device__ __forceinline__ uint64_t warp_largest(uint64_t value)
{
#pragma unroll
    for (int offset = WARP_LANES / 2; offset > 0; offset /= 2) {
        uint64_t other = __shfl_xor_sync(WARP_ALL, value, offset);
        value = other > value ? other : value;
    }
    return value;
}

/* The expert of the largest key, the lower id among equals; every lane gets it. */
static __device__ __forceinline__ int32_t take_best(uint32_t *keys, int32_t experts)
{
    int32_t lane = (int32_t)threadIdx.x;
    uint64_t best = 0;
    for (int32_t e = lane; e < experts; e += WARP_LANES) {
        uint64_t candidate = (uint64_t)keys[e] << 32 | (0xffffffffu - (uint32_t)e);
        best = candidate > best ? candidate : best;
    }
    int32_t expert = (int32_t)(0xffffffffu - (uint32_t)warp_largest(best));
    if (expert % WARP_LANES == lane) keys[expert] = 0;
    return expert;
}

/* By one lane: ids ascending, weights over their sum. */
static __device__ __forceinline__ void write_choice(const struct router_args &args,
                                                    const int32_t *ids, const float *activations,
                                                    int32_t t)
{
    int32_t *chosen = args.chosen + (size_t)t * (size_t)args.top;
    float *weights = args.weights + (size_t)t * (size_t)args.top;
    float sum = 0.0f;
    for (int32_t k = 0; k < args.top; k++)
        sum += activations[ids[k]];
    for (int32_t k = 0; k < args.top; k++) {
        chosen[k] = ids[k];
        weights[k] = activations[ids[k]] / sum * args.scale;
    }
}

static __global__ void __launch_bounds__(WARP_LANES) router_kernel(struct router_args args)
{
    launch_chain();
    SL_SHARED(float, activations); /* [experts], then keys [experts] */
    __shared__ int32_t found[OPS_EXPERTS_PER_TOKEN_MAX];
    __shared__ int32_t ids[OPS_EXPERTS_PER_TOKEN_MAX];
    uint32_t *keys = reinterpret_cast<uint32_t *>(activations + args.experts);
    int32_t t = (int32_t)blockIdx.x;
    int32_t lane = (int32_t)threadIdx.x;
    const float *logits = args.logits + (size_t)t * (size_t)args.experts;
    for (int32_t e = lane; e < args.experts; e += WARP_LANES) {
        activations[e] = activate(logits[e]);
        if (!args.token_experts) keys[e] = score_key(activations[e] + args.bias[e]);
    }
    __syncwarp();
    if (args.token_experts) {
        const int64_t *row = args.token_experts + (size_t)args.ids[t] * (size_t)args.top;
        if (lane < args.top) found[lane] = (int32_t)row[lane];
    } else {
        for (int32_t k = 0; k < args.top; k++) {
            int32_t expert = take_best(keys, args.experts);
            if (lane == 0) found[k] = expert;
            __syncwarp();
        }
    }
    __syncwarp();
    if (lane < args.top) { /* to its place in ascending order; equal ids keep theirs */
        int32_t place = 0;
        for (int32_t k = 0; k < args.top; k++)
            place += found[k] < found[lane] || (found[k] == found[lane] && k < lane);
        ids[place] = found[lane];
    }
    __syncwarp();
    if (lane == 0) write_choice(args, ids, activations, t);
}

extern "C" void cuda_router(struct stream *stream, const struct router_args *args)
{
    static_assert(OPS_EXPERTS_PER_TOKEN_MAX <= WARP_LANES, "a lane an expert of the token");
    SL_ASSERT(args->experts >= 1 && args->experts <= OPS_EXPERTS_MAX);
    SL_ASSERT(args->top >= 1 && args->top <= OPS_EXPERTS_PER_TOKEN_MAX);
    SL_ASSERT(args->top <= args->experts);
    SL_ASSERT(args->token_experts ? args->ids != NULL : args->bias != NULL);
    size_t shared_bytes = 2 * sizeof(float) * (size_t)args->experts;
    SL_LAUNCH(stream, router_kernel, (unsigned)args->tokens, WARP_LANES, shared_bytes, *args);
}
