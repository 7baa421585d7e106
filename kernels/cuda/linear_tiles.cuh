/* Products of up to 16 tokens with a matrix on the tensor cores, at the speed of reading it.
 *
 * Tokens are the 16 rows of a product, 8 rows of the matrix its columns, so a weight is read once
 * for all tokens. A tile is 8 rows x all columns; it is read in blocks of 128 columns by `split`
 * warps in turn, each keeping DEPTH blocks on their way in registers, also across the end of a
 * tile. A lane reads sixteen bytes of one row at a time, four lanes side by side. The input is
 * rounded and packed once into shared memory, while the first weights travel. Sums are f32: 16
 * columns at a time inside the tensor core, its eight results per block, then blocks in order, then
 * warps in order. The split depends on the matrix and the device alone, so a token's result does
 * not depend on the others. */
#ifndef SLUICE_KERNELS_CUDA_LINEAR_TILES_CUH
#define SLUICE_KERNELS_CUDA_LINEAR_TILES_CUH

#include "kernels/cuda/fp8.cuh"
#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/numerics.cuh"
#include "kernels/cuda/reduce.cuh"

#define TILE_WARPS   8
#define TILE_THREADS (TILE_WARPS * WARP_LANES)
#define TILE_ROWS    LINEAR_TILE_ROWS
#define TILE_COLUMNS LINEAR_COLUMNS
#define TILE_TOKENS  LINEAR_TOKENS_FEW

/* How one launch is cut. */
struct tile_plan {
    int32_t tokens;     /* at most TILE_TOKENS */
    int32_t group_rows; /* R */
    int32_t blocks;     /* of TILE_COLUMNS */
    int32_t split;      /* warps a tile; divides TILE_WARPS */
    int32_t steps;      /* of a group: TILE_WARPS / split tiles each */
    int32_t slots;      /* blocks of a warp and tile, rounded up to the format's DEPTH */
};

/* Shared memory of a block: scales of the input, sums of the warps, then the packed input. */
struct tile_memory {
    float *scales; /* [blocks, TILE_TOKENS] */
    float *sums;   /* [TILE_WARPS, TILE_TOKENS, TILE_ROWS] */
    uint8_t *x;    /* [tokens, stride] */
    int32_t stride;
};

/* fp8 weights, input rounded to e4m3 per 128 columns: codes as they are in shared memory. */
struct fp8_quantised {
    static const int VECTORS = 2, DEPTH = 4, WEIGHT_BYTES = 1, X_BYTES = 1;
    /* Beyond a row of x: eight lanes that load together meet every bank once. */
    static const int PAD_BYTES = 64;

    static const int VECTOR_STEP = 64; /* from one of a lane's vectors to the next */

    static __device__ __forceinline__ void pack(const float *x, uint8_t *row, int32_t column,
                                                float *scale, int lane)
    {
        float4 at = *reinterpret_cast<const float4 *>(x + 4 * lane);
        const float value[4] = {at.x, at.y, at.z, at.w};
        float amax = 0.0f;
#pragma unroll
        for (int i = 0; i < 4; i++)
            amax = amax_step(amax, value[i]);
        float power = lowp_fp8_scale(warp_max(amax));
        float inverse = 1.0f / power;
        uint32_t codes = 0;
        bool is_nan = false;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t code = e4m3_encode(value[i] * inverse);
            is_nan |= (code & 0x7fu) == 0x7fu;
            codes |= code << (8 * i);
        }
        *reinterpret_cast<uint32_t *>(row + column + 4 * lane) = codes;
        /* The products know no NaN: the scale brings it to every output of the token. */
        is_nan = __any_sync(WARP_ALL, is_nan);
        if (lane == 0) *scale = is_nan ? lowp_from_bits(0x7fc00000u) : power;
    }

    /* The product of a block, 2^-16 of it. `low` and `high` are this lane's rows of x, tokens
     * lane / 4 and lane / 4 + 8, NULL beyond the tokens. */
    static __device__ __forceinline__ void multiply(const uint4 *weights, const uint8_t *low,
                                                    const uint8_t *high, size_t column, int t,
                                                    float *d)
    {
        const uint4 zero = make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int v = 0; v < VECTORS; v++) {
            size_t at = column + 16 * (size_t)t + 64 * v;
            uint4 x_low = low ? *reinterpret_cast<const uint4 *>(low + at) : zero;
            uint4 x_high = high ? *reinterpret_cast<const uint4 *>(high + at) : zero;
            const uint32_t w[4] = {weights[v].x, weights[v].y, weights[v].z, weights[v].w};
            const uint32_t l[4] = {x_low.x, x_low.y, x_low.z, x_low.w};
            const uint32_t h[4] = {x_high.x, x_high.y, x_high.z, x_high.w};
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint32_t a[4], b[2];
                fp8_to_f16(w[i], &b[0], &b[1]);
                fp8_to_f16(l[i], &a[0], &a[2]);
                fp8_to_f16(h[i], &a[1], &a[3]);
                mma_f16(d, a, b[0], b[1]);
            }
        }
    }
    static __device__ __forceinline__ float factor(float x_scale, float weight_scale)
    {
        return x_scale * weight_scale * (FP8_F16_SCALE * FP8_F16_SCALE);
    }
};

/* fp8 weights, input in bf16. Columns 4i .. 4i+3 of x lie as 0 2 1 3, the order in which the
 * weights come apart. */
struct fp8_plain {
    static const int VECTORS = 2, DEPTH = 4, WEIGHT_BYTES = 1, X_BYTES = 2;
    static const int PAD_BYTES = 16, VECTOR_STEP = 64;

    static __device__ __forceinline__ void pack(const float *x, uint8_t *row, int32_t column,
                                                float *scale, int lane)
    {
        float4 at = *reinterpret_cast<const float4 *>(x + 4 * lane);
        *reinterpret_cast<uint2 *>(row + 2 * (column + 4 * lane)) =
            make_uint2(pack_bf16(at.x, at.z), pack_bf16(at.y, at.w));
        if (lane == 0) *scale = 1.0f;
    }

    static __device__ __forceinline__ void multiply(const uint4 *weights, const uint8_t *low,
                                                    const uint8_t *high, size_t column, int t,
                                                    float *d)
    {
        const uint4 zero = make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int v = 0; v < VECTORS; v++) {
            const uint32_t w[4] = {weights[v].x, weights[v].y, weights[v].z, weights[v].w};
#pragma unroll
            for (int half = 0; half < 2; half++) {
                size_t at = 2 * (column + 16 * (size_t)t + 64 * v + 8 * half);
                uint4 l = low ? *reinterpret_cast<const uint4 *>(low + at) : zero;
                uint4 h = high ? *reinterpret_cast<const uint4 *>(high + at) : zero;
                uint32_t b[2];
                const uint32_t first[4] = {l.x, h.x, l.y, h.y};
                fp8_to_bf16(w[2 * half], &b[0], &b[1]);
                mma_bf16(d, first, b[0], b[1]);
                const uint32_t second[4] = {l.z, h.z, l.w, h.w};
                fp8_to_bf16(w[2 * half + 1], &b[0], &b[1]);
                mma_bf16(d, second, b[0], b[1]);
            }
        }
    }
    static __device__ __forceinline__ float factor(float x_scale, float weight_scale)
    {
        return x_scale * weight_scale;
    }
};

/* bf16 weights, input in bf16. */
struct bf16_plain {
    static const int VECTORS = 4, DEPTH = 2, WEIGHT_BYTES = 2, X_BYTES = 2;
    static const int PAD_BYTES = 64, VECTOR_STEP = 64;

    static __device__ __forceinline__ void pack(const float *x, uint8_t *row, int32_t column,
                                                float *scale, int lane)
    {
        float4 at = *reinterpret_cast<const float4 *>(x + 4 * lane);
        *reinterpret_cast<uint2 *>(row + 2 * (column + 4 * lane)) =
            make_uint2(pack_bf16(at.x, at.y), pack_bf16(at.z, at.w));
        if (lane == 0) *scale = 1.0f;
    }

    static __device__ __forceinline__ void multiply(const uint4 *weights, const uint8_t *low,
                                                    const uint8_t *high, size_t column, int t,
                                                    float *d)
    {
        const uint4 zero = make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int v = 0; v < VECTORS; v++) {
            size_t at = 2 * column + 16 * (size_t)t + 64 * v;
            uint4 l = low ? *reinterpret_cast<const uint4 *>(low + at) : zero;
            uint4 h = high ? *reinterpret_cast<const uint4 *>(high + at) : zero;
            const uint32_t a_first[4] = {l.x, h.x, l.y, h.y};
            mma_bf16(d, a_first, weights[v].x, weights[v].y);
            const uint32_t a_second[4] = {l.z, h.z, l.w, h.w};
            mma_bf16(d, a_second, weights[v].z, weights[v].w);
        }
    }
    static __device__ __forceinline__ float factor(float x_scale, float weight_scale)
    {
        return x_scale * weight_scale;
    }
};

/* A block's part of a launch: steps `first`, first + stride, ... of a group. */
struct tile_share {
    int32_t first, stride, group;
};

/* Two products of one input side by side, as the gate and the rest of a SwiGLU: a step of the one,
 * the same step of the other, and then what comes of both is written. Steps of such a product count
 * twice: even ones are the gate's. */
struct tile_gate {
    struct matrix up;
    float limit;
};

/* Where a warp's next load comes from: slots of its tile, then its next tile. */
struct tile_cursor {
    int32_t step, slot;
};

/* Rounds the group's slice of x into shared memory; a warp a token and block. */
template <class Format>
static __device__ __forceinline__ void pack_input(const struct linear_args &args,
                                                  const struct tile_plan &plan,
                                                  const struct tile_memory &memory, int32_t group)
{
    int lane = (int)threadIdx.x % WARP_LANES;
    size_t columns = (size_t)args.weight.columns;
    const float *x = args.x + (size_t)group * columns;
    for (int32_t i = (int32_t)threadIdx.x / WARP_LANES; i < plan.tokens * plan.blocks;
         i += TILE_WARPS) {
        int32_t token = i / plan.blocks;
        int32_t block = i % plan.blocks;
        Format::pack(x + (size_t)token * columns * (size_t)args.groups +
                         (size_t)block * TILE_COLUMNS,
                     memory.x + (size_t)token * (size_t)memory.stride, block * TILE_COLUMNS,
                     memory.scales + block * TILE_TOKENS + token, lane);
    }
}

/* Adds a warp's blocks of one tile to `sums` [4], as the tensor core spreads them. */
template <class Format>
static __device__ __forceinline__ void multiply_block(const struct tile_memory &memory,
                                                      const struct tile_plan &plan,
                                                      const uint4 *weights, int32_t block,
                                                      float weight_scale, float *sums)
{
    int lane = (int)threadIdx.x % WARP_LANES;
    int32_t token = lane / 4;
    const uint8_t *low =
        token < plan.tokens ? memory.x + (size_t)token * (size_t)memory.stride : NULL;
    const uint8_t *high =
        token + 8 < plan.tokens ? memory.x + (size_t)(token + 8) * (size_t)memory.stride : NULL;
    const float *scales = memory.scales + block * TILE_TOKENS;
    float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    Format::multiply(weights, low, high, (size_t)block * TILE_COLUMNS, lane % 4, d);
    float factor_low = low ? Format::factor(scales[token], weight_scale) : 0.0f;
    float factor_high = high ? Format::factor(scales[token + 8], weight_scale) : 0.0f;
    sums[0] = fmaf(d[0], factor_low, sums[0]);
    sums[1] = fmaf(d[1], factor_low, sums[1]);
    sums[2] = fmaf(d[2], factor_high, sums[2]);
    sums[3] = fmaf(d[3], factor_high, sums[3]);
}

/* Where the sums of a step lie, [TILE_WARPS, TILE_TOKENS, TILE_ROWS]: with a gate, its own lie
 * there until those of the other product follow. */
template <bool GATED>
static __device__ __forceinline__ float *sums_of(const struct tile_memory &memory, int32_t step)
{
    return memory.sums + (GATED && step % 2 != 0 ? TILE_WARPS * TILE_TOKENS * TILE_ROWS : 0);
}

/* One output: the warps' sums of it in order. */
static __device__ __forceinline__ float add_warps(const struct tile_plan &plan, const float *sums)
{
    float sum = 0.0f;
    for (int32_t w = 0; w < plan.split; w++)
        sum += sums[w * TILE_TOKENS * TILE_ROWS];
    return sum;
}

/* Adds the warps' sums of each tile and writes the outputs of one step. */
template <bool GATED>
static __device__ __forceinline__ void write_step(const struct linear_args &args,
                                                  const struct tile_plan &plan,
                                                  const struct tile_memory &memory, int32_t step,
                                                  int32_t group, float limit)
{
    if (GATED && step % 2 == 0) return;
    if (GATED) step /= 2;
    int32_t tiles = TILE_WARPS / plan.split;
    int32_t per_tile = plan.tokens * TILE_ROWS;
    for (int32_t i = (int32_t)threadIdx.x; i < tiles * per_tile; i += TILE_THREADS) {
        int32_t tile = i / per_tile;
        int32_t place = i % per_tile; /* token * TILE_ROWS + row */
        int32_t row = (step * tiles + tile) * TILE_ROWS + place % TILE_ROWS;
        if (row >= plan.group_rows) continue;
        int32_t at = tile * plan.split * TILE_TOKENS * TILE_ROWS + place;
        float value = round_if(add_warps(plan, sums_of<GATED>(memory, 0) + at), args.round);
        if (GATED) {
            float up = round_if(add_warps(plan, sums_of<GATED>(memory, 1) + at), args.round);
            value = round_if(swiglu(value, up, limit), args.round);
        }
        args.out[(size_t)(place / TILE_ROWS) * (size_t)args.weight.rows +
                 (size_t)group * (size_t)plan.group_rows + (size_t)row] = value;
    }
}

/* The block's step after `step`. */
template <bool GATED>
static __device__ __forceinline__ int32_t step_after(int32_t step, const struct tile_share &share)
{
    if (!GATED) return step + share.stride;
    return step % 2 == 0 ? step + 1 : step - 1 + 2 * share.stride;
}

/* By all threads of a block, once; begins and awaits (launch.cuh). */
template <class Format, bool GATED = false>
static __device__ __forceinline__ void multiply_tiles(const struct linear_args &args,
                                                      const struct tile_plan &plan,
                                                      struct tile_share share,
                                                      const struct tile_gate &gate = {})
{
    SL_SHARED(float, shared);
    launch_next();
    struct tile_memory memory;
    memory.scales = shared;
    memory.sums = memory.scales + plan.blocks * TILE_TOKENS;
    memory.x = reinterpret_cast<uint8_t *>(memory.sums +
                                           (GATED ? 2 : 1) * TILE_WARPS * TILE_TOKENS * TILE_ROWS);
    memory.stride = plan.blocks * TILE_COLUMNS * Format::X_BYTES + Format::PAD_BYTES;

    int32_t warp = (int32_t)threadIdx.x / WARP_LANES;
    int32_t lane = (int32_t)threadIdx.x % WARP_LANES;
    int32_t slice = warp % plan.split; /* its blocks: slice, slice + split, ... */
    int32_t tile_in_step = warp / plan.split;
    int32_t tiles = TILE_WARPS / plan.split;
    int32_t first_step = GATED ? 2 * share.first : share.first;
    int32_t end_step = GATED ? 2 * plan.steps : plan.steps;
    size_t row_bytes = (size_t)args.weight.columns * Format::WEIGHT_BYTES;
    size_t group_row = (size_t)share.group * (size_t)plan.group_rows;

    uint4 weights[Format::DEPTH][Format::VECTORS] = {};
    uint8_t scale_codes[Format::DEPTH] = {};
    struct tile_cursor ahead = {first_step, 0};
    auto fetch = [&](uint4 *into, uint8_t *scale_code) {
        bool is_up = GATED && ahead.step % 2 != 0;
        const void *data = is_up ? gate.up.data : args.weight.data;
        const uint8_t *scales = is_up ? gate.up.scale : args.weight.scale;
        int32_t tile_step = GATED ? ahead.step / 2 : ahead.step;
        int32_t row = (tile_step * tiles + tile_in_step) * TILE_ROWS + lane / 4;
        int32_t block = slice + ahead.slot * plan.split;
        if (ahead.step < end_step && row < plan.group_rows && block < plan.blocks) {
            const uint8_t *at =
                static_cast<const uint8_t *>(data) + (group_row + (size_t)row) * row_bytes +
                (size_t)block * TILE_COLUMNS * Format::WEIGHT_BYTES + 16 * (size_t)(lane % 4);
#pragma unroll
            for (int v = 0; v < Format::VECTORS; v++)
                into[v] = load_once(at + v * Format::VECTOR_STEP);
            size_t scale_row = (group_row + (size_t)row) / LOWP_FP8_BLOCK * (size_t)plan.blocks;
            if (Format::WEIGHT_BYTES == 1) *scale_code = __ldg(scales + scale_row + (size_t)block);
        }
        if (++ahead.slot == plan.slots) {
            ahead.slot = 0;
            ahead.step = step_after<GATED>(ahead.step, share);
        }
    };
#pragma unroll
    for (int d = 0; d < Format::DEPTH; d++)
        fetch(weights[d], &scale_codes[d]); /* Before launch_await: weights */
    launch_await();
    pack_input<Format>(args, plan, memory, share.group);
    __syncthreads();

    for (int32_t step = first_step; step < end_step; step = step_after<GATED>(step, share)) {
        int32_t row = ((GATED ? step / 2 : step) * tiles + tile_in_step) * TILE_ROWS;
        float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        for (int32_t first = 0; first < plan.slots; first += Format::DEPTH) {
#pragma unroll
            for (int d = 0; d < Format::DEPTH; d++) {
                int32_t block = slice + (first + d) * plan.split;
                if (row < plan.group_rows && block < plan.blocks) {
                    float scale = Format::WEIGHT_BYTES == 1 ? e8m0_decode(scale_codes[d]) : 1.0f;
                    multiply_block<Format>(memory, plan, weights[d], block, scale, sums);
                }
                fetch(weights[d], &scale_codes[d]);
            }
        }
        float *mine = sums_of<GATED>(memory, step) + warp * TILE_TOKENS * TILE_ROWS;
        int32_t place = lane / 4 * TILE_ROWS + lane % 4 * 2;
        mine[place] = sums[0];
        mine[place + 1] = sums[1];
        mine[place + 8 * TILE_ROWS] = sums[2];
        mine[place + 8 * TILE_ROWS + 1] = sums[3];
        __syncthreads();
        write_step<GATED>(args, plan, memory, step, share.group, gate.limit);
        __syncthreads();
    }
}

/* gridDim.x blocks share the steps of a group, gridDim.y is the group. */
template <class Format>
static __global__ void __launch_bounds__(TILE_THREADS, 2)
    linear_tiles_kernel(struct linear_args args, struct tile_plan plan)
{
    multiply_tiles<Format>(args, plan,
                           {(int32_t)blockIdx.x, (int32_t)gridDim.x, (int32_t)blockIdx.y});
}

/* The plan but for its tokens. Warps enough for two blocks on every processor, from one tile if it
 * must be; fewer warps a tile mean longer runs of each. */
static inline struct tile_plan plan_tiles(const struct stream *stream,
                                          const struct linear_args *args, int32_t depth)
{
    struct tile_plan plan = {};
    plan.group_rows = args->weight.rows / args->groups;
    plan.blocks = args->weight.columns / TILE_COLUMNS;
    int64_t tiles = args->weight.rows / TILE_ROWS;
    int64_t warps = 2 * TILE_WARPS * (int64_t)stream->processors;
    plan.split = 1;
    while (plan.split < TILE_WARPS && 2 * plan.split <= plan.blocks &&
           10 * tiles * plan.split < 9 * warps)
        plan.split *= 2;
    plan.steps = ceil_div_i32(plan.group_rows, TILE_ROWS * (TILE_WARPS / plan.split));
    plan.slots = ceil_div_i32(ceil_div_i32(plan.blocks, plan.split), depth) * depth;
    return plan;
}

/* Shared memory of a block for `tokens` tokens, bytes. */
template <class Format>
static inline size_t tile_bytes(const struct linear_args *args, const struct tile_plan *plan,
                                int32_t tokens)
{
    size_t stride = (size_t)args->weight.columns * Format::X_BYTES + Format::PAD_BYTES;
    return sizeof(float) * TILE_TOKENS * ((size_t)plan->blocks + (size_t)TILE_WARPS * TILE_ROWS) +
           (size_t)tokens * stride;
}

/* False when not even one token fits into shared memory. */
template <class Format>
static bool linear_tiles(struct stream *stream, const struct linear_args *args)
{
    struct tile_plan plan = plan_tiles(stream, args, Format::DEPTH);
    size_t room = (size_t)stream->shared_bytes_max;
    int32_t tokens_max = TILE_TOKENS;
    while (tokens_max > 0 && tile_bytes<Format>(args, &plan, tokens_max) > room)
        tokens_max--;
    if (tokens_max == 0) return false;
    struct linear_args part = *args;
    for (int32_t first = 0; first < args->tokens; first += plan.tokens) {
        plan.tokens = min_i32(tokens_max, args->tokens - first);
        part.x = args->x + (size_t)first * (size_t)args->groups * (size_t)args->weight.columns;
        part.out = args->out + (size_t)first * (size_t)args->weight.rows;
        size_t shared_bytes = tile_bytes<Format>(args, &plan, plan.tokens);
        int32_t blocks_max = stream->processors * (2 * shared_bytes > room ? 1 : 2) / args->groups;
        dim3 grid((unsigned)min_i32(plan.steps, max_i32(1, blocks_max)), (unsigned)args->groups);
        SL_ALLOW_SHARED(stream, (linear_tiles_kernel<Format>), shared_bytes);
        SL_LAUNCH(stream, (linear_tiles_kernel<Format>), grid, TILE_THREADS, shared_bytes, part,
                  plan);
    }
    return true;
}

#endif
