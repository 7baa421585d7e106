/* Linears in f32 arithmetic: f32 matrices (the residual streams' mixes), f32
 * numerics, odd shapes.
 *
 * A block takes 4 rows and 4 tokens (or one) over chunks of 1024 columns.
 * Matrices of few rows are split over the chunks among blocks; the block that
 * finishes last adds the parts in order. With quantisation the input goes
 * through e4m3 into scratch memory first. */
#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/numerics.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/split.cuh"

#define THREADS         256
#define WARPS           (THREADS / WARP_LANES)
#define ROWS            4
#define TOKENS_MAX      4 /* of a block */
#define CHUNK           (4 * THREADS)
#define SPLIT_TILES_MAX 512 /* with more tiles of rows nothing is split */
#define SPLITS_MAX      64
#define PASS_TOKENS_MAX 4096
#define INPUT_BYTES_MAX                                                                            \
    (CUDA_SCRATCH_BYTES / 2) /* of the quantised input; the parts lie behind                       \
                              */

struct float_plan {
    const float *x; /* [tokens, groups * columns] */
    float *parts;   /* [token tiles, tiles, splits, ROWS * TOKENS_MAX] */
    uint32_t *tickets;
    int32_t tokens, group_rows, group_tiles, chunks;
    bool aligned; /* four columns can be loaded at once */
};

/* Four weights of a row from `column` on, zeros beyond its end. */
template <enum matrix_format FORMAT>
static __device__ __forceinline__ float4 load_weights(const struct matrix &weight, size_t row,
                                                      int32_t column, bool aligned)
{
    size_t at = row * (size_t)weight.columns + (size_t)column;
    float4 w = make_float4(0, 0, 0, 0);
    if (FORMAT == MATRIX_F32) {
        const float *data = static_cast<const float *>(weight.data) + at;
        if (aligned) return __ldcs(reinterpret_cast<const float4 *>(data));
        w.x = data[0];
        if (column + 1 < weight.columns) w.y = data[1];
        if (column + 2 < weight.columns) w.z = data[2];
        if (column + 3 < weight.columns) w.w = data[3];
    } else if (FORMAT == MATRIX_BF16) {
        const uint16_t *data = static_cast<const uint16_t *>(weight.data) + at;
        ushort4 codes = make_ushort4(0, 0, 0, 0);
        if (aligned) {
            codes = __ldcs(reinterpret_cast<const ushort4 *>(data));
        } else {
            codes.x = data[0];
            if (column + 1 < weight.columns) codes.y = data[1];
            if (column + 2 < weight.columns) codes.z = data[2];
            if (column + 3 < weight.columns) codes.w = data[3];
        }
        w = make_float4(bf16_decode(codes.x), bf16_decode(codes.y), bf16_decode(codes.z),
                        bf16_decode(codes.w));
    } else {
        /* Four columns from a multiple of four never cross a scale's block. */
        const uint8_t *data = static_cast<const uint8_t *>(weight.data) + at;
        size_t blocks = ((size_t)weight.columns + LOWP_FP8_BLOCK - 1) / LOWP_FP8_BLOCK;
        float scale = e8m0_decode(
            weight.scale[row / LOWP_FP8_BLOCK * blocks + (size_t)column / LOWP_FP8_BLOCK]);
        w.x = e4m3_decode(data[0]) * scale;
        if (column + 1 < weight.columns) w.y = e4m3_decode(data[1]) * scale;
        if (column + 2 < weight.columns) w.z = e4m3_decode(data[2]) * scale;
        if (column + 3 < weight.columns) w.w = e4m3_decode(data[3]) * scale;
    }
    return w;
}

static __device__ __forceinline__ float4 load_input(const float *x, int32_t left, bool aligned)
{
    if (aligned) return *reinterpret_cast<const float4 *>(x);
    return make_float4(x[0], left > 1 ? x[1] : 0.0f, left > 2 ? x[2] : 0.0f,
                       left > 3 ? x[3] : 0.0f);
}

/* This thread's share of the products of ROWS rows from `row` and TOKENS tokens
 * from `token`. Rows and tokens beyond the end repeat the last one, and are not
 * written. */
template <enum matrix_format FORMAT, int TOKENS>
static __device__ __forceinline__ void multiply(const struct linear_args &args,
                                                const struct float_plan &plan, int32_t group,
                                                int32_t row, int32_t token,
                                                float (&sums)[ROWS * TOKENS])
{
    int32_t columns = args.weight.columns;
    size_t x_stride = (size_t)args.groups * (size_t)columns;
    const float *x = plan.x + (size_t)group * (size_t)columns;
    for (int32_t chunk = (int32_t)blockIdx.y; chunk < plan.chunks; chunk += (int32_t)gridDim.y) {
        int32_t column = chunk * CHUNK + 4 * (int32_t)threadIdx.x;
        if (column >= columns) continue;
        float4 w[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            size_t at =
                (size_t)group * (size_t)plan.group_rows + (size_t)min(row + r, plan.group_rows - 1);
            w[r] = load_weights<FORMAT>(args.weight, at, column, plan.aligned);
        }
#pragma unroll
        for (int t = 0; t < TOKENS; t++) {
            size_t at = (size_t)min(token + t, plan.tokens - 1);
            float4 in = load_input(x + at * x_stride + column, columns - column, plan.aligned);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                float sum = fmaf(w[r].x, in.x, sums[r * TOKENS + t]);
                sum = fmaf(w[r].y, in.y, sum);
                sum = fmaf(w[r].z, in.z, sum);
                sums[r * TOKENS + t] = fmaf(w[r].w, in.w, sum);
            }
        }
    }
}

/* gridDim: tiles of rows, splits, tiles of tokens. */
template <enum matrix_format FORMAT, int TOKENS>
static __global__ void __launch_bounds__(THREADS)
    linear_float_kernel(struct linear_args args, struct float_plan plan)
{
    launch_chain();
    __shared__ float warps[WARPS][ROWS * TOKENS];
    int32_t tile = (int32_t)blockIdx.x;
    int32_t group = tile / plan.group_tiles;
    int32_t row = tile % plan.group_tiles * ROWS;
    int32_t token = (int32_t)blockIdx.z * TOKENS;
    int32_t i = (int32_t)threadIdx.x;
    float sums[ROWS * TOKENS] = {};
    multiply<FORMAT, TOKENS>(args, plan, group, row, token, sums);
    float sum = warp_sums<ROWS * TOKENS>(sums);
    if (i % (WARP_LANES / (ROWS * TOKENS)) == 0)
        warps[i / WARP_LANES][i % WARP_LANES / (WARP_LANES / (ROWS * TOKENS))] = sum;
    __syncthreads();
    sum = 0.0f;
    if (i < ROWS * TOKENS)
        for (int w = 0; w < WARPS; w++)
            sum += warps[w][i];
    if (gridDim.y > 1) {
        size_t place = (size_t)blockIdx.z * gridDim.x + blockIdx.x;
        float *parts = plan.parts + place * gridDim.y * (ROWS * TOKENS);
        if (i < ROWS * TOKENS) parts[blockIdx.y * (ROWS * TOKENS) + (unsigned)i] = sum;
        if (!last_of_split(plan.tickets + place, gridDim.y)) return;
        sum = 0.0f;
        if (i < ROWS * TOKENS)
            for (unsigned split = 0; split < gridDim.y; split++)
                sum += __ldcg(parts + split * (ROWS * TOKENS) + (unsigned)i);
    }
    int32_t r = row + i / TOKENS;
    int32_t t = token + i % TOKENS;
    if (i < ROWS * TOKENS && r < plan.group_rows && t < plan.tokens)
        args.out[(size_t)t * (size_t)args.weight.rows + (size_t)group * (size_t)plan.group_rows +
                 (size_t)r] = round_if(sum, args.round);
}

/* out = x through e4m3 and back, a warp a block of 128 columns; the twin's
 * numbers. */
static __global__ void __launch_bounds__(THREADS)
    quantise_kernel(const float *x, float *out, int32_t columns, int32_t pieces)
{
    launch_chain();
    int32_t lane = (int32_t)threadIdx.x % WARP_LANES;
    int32_t blocks = (columns + LOWP_FP8_BLOCK - 1) / LOWP_FP8_BLOCK;
    int64_t warp = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / WARP_LANES;
    if (warp >= (int64_t)pieces * blocks) return;
    size_t first = (size_t)(warp / blocks) * (size_t)columns;
    int32_t column = (int32_t)(warp % blocks) * LOWP_FP8_BLOCK;
    int32_t end = min(column + LOWP_FP8_BLOCK, columns);
    float amax = 0.0f;
    for (int32_t c = column + lane; c < end; c += WARP_LANES)
        amax = amax_step(amax, x[first + (size_t)c]);
    float scale = lowp_fp8_scale(warp_max(amax));
    float inverse = 1.0f / scale;
    for (int32_t c = column + lane; c < end; c += WARP_LANES)
        out[first + (size_t)c] = e4m3_decode(e4m3_encode(x[first + (size_t)c] * inverse)) * scale;
}

template <enum matrix_format FORMAT>
static void launch(struct stream *stream, const struct linear_args *args,
                   const struct float_plan *plan, int32_t splits)
{
    unsigned tiles = (unsigned)(args->groups * plan->group_tiles);
    dim3 grid(tiles, (unsigned)splits, launch_blocks(plan->tokens, TOKENS_MAX));
    if (plan->tokens == 1)
        SL_LAUNCH(stream, (linear_float_kernel<FORMAT, 1>), grid, THREADS, 0, *args, *plan);
    else
        SL_LAUNCH(stream, (linear_float_kernel<FORMAT, TOKENS_MAX>), grid, THREADS, 0, *args,
                  *plan);
}

static int32_t splits_of(const struct linear_args *args)
{
    int64_t tiles = (int64_t)args->groups * ceil_div_i32(args->weight.rows / args->groups, ROWS);
    return tiles >= SPLIT_TILES_MAX
               ? 1
               : min_i32(ceil_div_i32(args->weight.columns, CHUNK), SPLITS_MAX);
}

/* Tokens of one pass: as many as tickets and scratch have room for. */
static int32_t pass_tokens(const struct linear_args *args)
{
    size_t tiles =
        (size_t)args->groups * (size_t)ceil_div_i32(args->weight.rows / args->groups, ROWS);
    size_t splits = (size_t)splits_of(args);
    size_t token_bytes = (size_t)args->groups * (size_t)args->weight.columns * sizeof(float);
    size_t tile_bytes = splits * ROWS * TOKENS_MAX * sizeof(float);
    size_t tokens = PASS_TOKENS_MAX;
    if (splits > 1) {
        size_t parts = (CUDA_SCRATCH_BYTES - INPUT_BYTES_MAX) / (tiles * tile_bytes);
        size_t tickets = CUDA_TICKETS / tiles;
        size_t room = TOKENS_MAX * (parts < tickets ? parts : tickets);
        tokens = tokens < room ? tokens : room;
    }
    size_t inputs = INPUT_BYTES_MAX / token_bytes;
    if (args->quantise_input && inputs < tokens) tokens = inputs;
    return (int32_t)tokens;
}

/* One pass of at most pass_tokens(args) tokens. */
static void run_pass(struct stream *stream, const struct linear_args *args)
{
    struct float_plan plan = {};
    int32_t columns = args->weight.columns;
    size_t x_bytes = (size_t)args->tokens * (size_t)args->groups * (size_t)columns * sizeof(float);
    plan.x = args->x;
    plan.parts = reinterpret_cast<float *>(stream->scratch + INPUT_BYTES_MAX);
    plan.tickets = stream->tickets;
    plan.tokens = args->tokens;
    plan.group_rows = args->weight.rows / args->groups;
    plan.group_tiles = ceil_div_i32(plan.group_rows, ROWS);
    plan.chunks = ceil_div_i32(columns, CHUNK);
    if (args->quantise_input) {
        float *quantised = reinterpret_cast<float *>(stream->scratch);
        int32_t pieces = args->tokens * args->groups;
        int64_t warps = (int64_t)pieces * ceil_div_i32(columns, LOWP_FP8_BLOCK);
        SL_ASSERT(x_bytes <= INPUT_BYTES_MAX);
        SL_LAUNCH(stream, quantise_kernel, launch_blocks(warps, WARPS), THREADS, 0, args->x,
                  quantised, columns, pieces);
        plan.x = quantised;
    }
    int64_t tiles = (int64_t)args->groups * plan.group_tiles;
    int32_t splits = splits_of(args);
    uintptr_t addresses =
        reinterpret_cast<uintptr_t>(args->weight.data) | reinterpret_cast<uintptr_t>(plan.x);
    plan.aligned = columns % 4 == 0 && addresses % 16 == 0;
    SL_ASSERT(splits == 1 || tiles * ceil_div_i32(args->tokens, TOKENS_MAX) <= CUDA_TICKETS);
    switch (args->weight.format) {
    case MATRIX_F32: launch<MATRIX_F32>(stream, args, &plan, splits); break;
    case MATRIX_BF16: launch<MATRIX_BF16>(stream, args, &plan, splits); break;
    case MATRIX_FP8: launch<MATRIX_FP8>(stream, args, &plan, splits); break;
    }
}

void linear_float(struct stream *stream, const struct linear_args *args)
{
    struct linear_args part = *args;
    size_t stride = (size_t)args->groups * (size_t)args->weight.columns;
    int32_t tokens_max = pass_tokens(args);
    SL_ASSERT(tokens_max >= 1);
    for (int32_t first = 0; first < args->tokens; first += part.tokens) {
        part.tokens = min_i32(tokens_max, args->tokens - first);
        part.x = args->x + (size_t)first * stride;
        part.out = args->out + (size_t)first * (size_t)args->weight.rows;
        run_pass(stream, &part);
    }
}
