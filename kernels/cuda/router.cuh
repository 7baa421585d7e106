/* Experts of a token by a warp; see router.cu. For its kernel and for fused launches. */
#ifndef SLUICE_KERNELS_CUDA_ROUTER_CUH
#define SLUICE_KERNELS_CUDA_ROUTER_CUH

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numerics.cuh"

static_assert(OPS_EXPERTS_PER_TOKEN_MAX <= WARP_LANES, "a lane an expert of the token");

/* A warp's shared memory: the arrays are of as many experts as there are. */
struct router_memory {
    float *activations;
    uint32_t *keys;
    int32_t *found, *ids; /* [OPS_EXPERTS_PER_TOKEN_MAX] */
};

/* sqrt(softplus(z)); above 20 softplus is z to f32 precision. */
static __device__ __forceinline__ float router_activate(float z)
{
    return sqrtf(z > 20.0f ? z : log1pf(expf(z)));
}

/* Orders as the scores do, both zeros alike; NaN below everything, 0 for a score already taken. */
static __device__ __forceinline__ uint32_t router_key(float score)
{
    uint32_t bits = lowp_bits(score + 0.0f);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 1;
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static __device__ __forceinline__ uint64_t router_largest(uint64_t value)
{
#pragma unroll
    for (int offset = WARP_LANES / 2; offset > 0; offset /= 2) {
        uint64_t other = __shfl_xor_sync(WARP_ALL, value, offset);
        value = other > value ? other : value;
    }
    return value;
}

/* The expert of the largest key, the lower id among equals; every lane gets it. */
static __device__ __forceinline__ int32_t router_take_best(uint32_t *keys, int32_t experts)
{
    int32_t lane = (int32_t)threadIdx.x % WARP_LANES;
    uint64_t best = 0;
    for (int32_t e = lane; e < experts; e += WARP_LANES) {
        uint64_t candidate = (uint64_t)keys[e] << 32 | (0xffffffffu - (uint32_t)e);
        best = candidate > best ? candidate : best;
    }
    int32_t expert = (int32_t)(0xffffffffu - (uint32_t)router_largest(best));
    if (expert % WARP_LANES == lane) keys[expert] = 0;
    return expert;
}

/* By one lane: ids ascending, weights over their sum. */
static __device__ __forceinline__ void router_write(const struct router_args &args,
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

/* Chooses for token t. Logits are read past the first-level cache: others may just have written
 * them. */
static __device__ __forceinline__ void router_choose(const struct router_args &args, int32_t t,
                                                     const struct router_memory &memory)
{
    int32_t lane = (int32_t)threadIdx.x % WARP_LANES;
    const float *logits = args.logits + (size_t)t * (size_t)args.experts;
    for (int32_t e = lane; e < args.experts; e += WARP_LANES) {
        memory.activations[e] = router_activate(__ldcg(logits + e));
        if (!args.token_experts) memory.keys[e] = router_key(memory.activations[e] + args.bias[e]);
    }
    __syncwarp();
    if (args.token_experts) {
        const int64_t *row = args.token_experts + (size_t)args.ids[t] * (size_t)args.top;
        if (lane < args.top) memory.found[lane] = (int32_t)row[lane];
    } else {
        for (int32_t k = 0; k < args.top; k++) {
            int32_t expert = router_take_best(memory.keys, args.experts);
            if (lane == 0) memory.found[k] = expert;
            __syncwarp();
        }
    }
    __syncwarp();
    if (lane < args.top) { /* to its place in ascending order; equal ids keep theirs */
        int32_t own = memory.found[lane];
        int32_t place = 0;
        for (int32_t k = 0; k < args.top; k++)
            place += memory.found[k] < own || (memory.found[k] == own && k < lane);
        memory.ids[place] = own;
    }
    __syncwarp();
    if (lane == 0) router_write(args, memory.ids, memory.activations, t);
}

static inline void router_check(const struct router_args *args)
{
    SL_ASSERT(args->experts >= 1 && args->experts <= OPS_EXPERTS_MAX);
    SL_ASSERT(args->top >= 1 && args->top <= OPS_EXPERTS_PER_TOKEN_MAX);
    SL_ASSERT(args->top <= args->experts);
    SL_ASSERT(args->token_experts ? args->ids != NULL : args->bias != NULL);
}

#endif
