/* Linears of more than 16 tokens on the tensor cores: fp8 and bf16 weights, in groups, and several
 * products of one input.
 *
 * A launch makes bf16 values of the input (linear_input.cu), once for all products that want it so,
 * then each has a launch of its own. That is a bf16 product: an e4m3 value times powers of two has
 * four significant bits, so q * s_x and w * s_w are exact in bf16, and with the scales inside the
 * operands one f32 sum runs over all columns. The other way, a sum for each 128 columns scaled
 * afterwards, doubles the accumulators, and the warp's tile of 64 rows x 64 tokens, below which
 * reading shared memory outweighs the products, would no longer fit its registers. fp8 products are
 * no choice: on Hopper their sums keep about 14 bits.
 *
 * A block takes ROWS rows and TOKENS tokens of one group, in stages of 64 columns by asynchronous
 * copies. A lane owns sixteen consecutive columns of a row or token: which index of a sum is which
 * column is the same choice for both operands, so that whole vectors of shared memory are operands,
 * without conflicts. fp8 weights are expanded in registers. Where tiles would leave multiprocessors
 * idle the columns are split among blocks, and the last one adds the parts in order.
 *
 * Static counts, of the compiler's code for sm_90a, a warp and stage of 64 rows x 64 tokens: 128
 * products, 24 loads of shared memory and 288 operations that expand fp8; bf16: 128, 32 and 64. No
 * GPU has run it.
 *
 * Differs from the twin by the order of f32 sums, and on a GPU by the truncation of each addition
 * of 16 products: 2^-23 of the sum, columns / 16 times. Limit: rms over rms 3e-5, largest error
 * 6e-5 of the largest output; with `round` one bf16 step of an output, rarely. */
#include "kernels/cuda/copy_async.cuh"
#include "kernels/cuda/fp8.cuh"
#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/linear_input.cuh"
#include "kernels/cuda/numerics.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/split.cuh"

#define WARPS   8
#define THREADS (WARPS * WARP_LANES)
#define COLUMNS 64             /* of a stage */
#define STEPS   (COLUMNS / 16) /* products of 16 columns in a stage */
#define X_PITCH                                                                                    \
    (COLUMNS * 2 + 16)  /* bytes: eight lanes that load together meet every bank once              \
                         */
#define ALIGNED_ROWS 64 /* a warp's rows lie in one block of scales */

/* Of the scratch memory: the input, and behind it the parts of split products. */
#define X_BYTES_MAX     ((size_t)44 << 20)
#define PARTS_BYTES_MAX (CUDA_SCRATCH_BYTES - X_BYTES_MAX)
#define SPLIT_STEPS_MIN 4 /* stages of a part */
#define BAND            8 /* tiles of rows that are computed side by side, for the cache's sake */

/* How a block is cut: warps of ROW_TILES tiles of 16 rows and TOKEN_TILES tiles of 8 tokens. */
template <int ROW_WARPS_, int ROW_TILES_, int TOKEN_TILES_, int BLOCKS_> struct wide_shape {
    static const int ROW_WARPS = ROW_WARPS_, TOKEN_WARPS = WARPS / ROW_WARPS_;
    static const int ROW_TILES = ROW_TILES_, TOKEN_TILES = TOKEN_TILES_;
    static const int ROWS = ROW_WARPS * ROW_TILES * 16;
    static const int TOKENS = TOKEN_WARPS * TOKEN_TILES * 8;
    static const int BLOCKS = BLOCKS_; /* on a multiprocessor */
};
using wide_many = wide_shape<4, 4, 8, 1>; /* 256 x 128 */
using wide_few = wide_shape<8, 1, 8, 2>;  /* 128 x 64 */

/* A weight's bytes, those of a row in a stage, and the steps of one vector. */
struct wide_fp8 {
    static const int BYTES = 1, PITCH = COLUMNS, STAGES = 4, VECTOR_STEPS = 4;
    static const bool SCALED = true;
};
struct wide_bf16 {
    static const int BYTES = 2, PITCH = X_PITCH, STAGES = 3, VECTOR_STEPS = 2;
    static const bool SCALED = false;
};

template <class Format, class Shape> struct wide_stage {
    static const int BYTES = Shape::ROWS * Format::PITCH + Shape::TOKENS * X_PITCH;
};

struct wide_plan {
    uint16_t *x;        /* bf16 [tokens, groups * columns] */
    float *parts;       /* [tiles, splits, sums of a thread, THREADS] */
    uint32_t *tickets;  /* [tiles] */
    int32_t group_rows; /* of the matrix */
    int32_t row_tiles, token_tiles, splits;
    int32_t stages; /* of 64 columns, in all */
    uint32_t zero;  /* which the compiler does not know */
};

/* A block's tile and its part of the columns. */
struct wide_tile {
    int32_t index, group, row, token, split;
    int32_t first, end; /* stages */
};

/* Blocks in the order of their numbers take BAND tiles of rows for each tile of tokens. */
template <class Shape>
static __device__ __forceinline__ struct wide_tile tile_of(const struct wide_plan &plan)
{
    struct wide_tile tile;
    int32_t place = (int32_t)blockIdx.x;
    int32_t band = place / (BAND * plan.token_tiles);
    int32_t rows = min(BAND, plan.row_tiles - band * BAND);
    place -= band * BAND * plan.token_tiles;
    tile.row = (band * BAND + place % rows) * Shape::ROWS;
    tile.token = place / rows * Shape::TOKENS;
    tile.group = (int32_t)blockIdx.z;
    tile.split = (int32_t)blockIdx.y;
    tile.index = (int32_t)(blockIdx.z * gridDim.x + blockIdx.x);
    tile.first = (int32_t)((int64_t)plan.stages * tile.split / plan.splits);
    tile.end = (int32_t)((int64_t)plan.stages * (tile.split + 1) / plan.splits);
    return tile;
}

/* Where a thread's copies of an operand come from: its row of the tile, then those `step` bytes
 * further, as long as there are rows. */
struct wide_source {
    const uint8_t *at; /* of the next stage */
    size_t step;
    int32_t left; /* rows from this thread's first one on */
};

template <int WIDTH> /* bytes of a row in a stage */
static __device__ __forceinline__ struct wide_source source_of(const void *data, size_t row_bytes,
                                                               int32_t first, int32_t rows,
                                                               int32_t stage)
{
    const int lanes = WIDTH / 16;
    int32_t row = first + (int32_t)threadIdx.x / lanes;
    struct wide_source source;
    source.left = rows - row;
    source.step = (size_t)(THREADS / lanes) * row_bytes;
    source.at = static_cast<const uint8_t *>(data) + (size_t)row * row_bytes +
                (size_t)stage * WIDTH + threadIdx.x % lanes * 16;
    return source;
}

/* Starts the copies of the next stage of an operand; rows that are not there become zeros. */
template <int WIDTH, int PITCH, int ROWS>
static __device__ __forceinline__ void copy_rows(uint8_t *stage, struct wide_source *source)
{
    const int lanes = WIDTH / 16;
    const uint8_t *from = source->at;
    uint8_t *to = stage + threadIdx.x / lanes * PITCH + threadIdx.x % lanes * 16;
#pragma unroll
    for (int row = 0; row < ROWS; row += THREADS / lanes, from += source->step)
        copy_async_16(to + row * PITCH, from, row < source->left ? 16 : 0);
    source->at += WIDTH;
}

/* What turns codes into weights: 2^120 times their scale, cut in two where a bf16 value is too
 * small for that. */
struct wide_factor {
    uint32_t first, second; /* bf16 values, twice; the second only where `large`; or zeros */
    bool large;
};

static __device__ __forceinline__ struct wide_factor factor_of(uint32_t scale)
{
    uint32_t exponent = min(scale + 120u, 254u);
    uint32_t rest = scale == 255u ? 0x7fc0u : (scale + 120u - exponent + 127u) << 7;
    return {exponent << 7 | exponent << 23, rest | rest << 16, scale + 120u > 254u};
}

/* Operands of step `step`: pairs of columns of a lane's row, low and high. */
template <class Format, bool LARGE>
static __device__ __forceinline__ void expand(const uint4 &vector, int step,
                                              const struct wide_factor &factor, uint32_t *low,
                                              uint32_t *high)
{
    const uint32_t words[4] = {vector.x, vector.y, vector.z, vector.w};
    if (!Format::SCALED) {
        /* Else the compiler moves the four words of an operand for every product anew. */
        *low = words[step % 2 * 2] ^ factor.first;
        *high = words[step % 2 * 2 + 1] ^ factor.first;
        return;
    }
    fp8_to_bf16_times(words[step], factor.first, low, high);
    if (LARGE) {
        *low = multiply_bf16(*low, factor.second);
        *high = multiply_bf16(*high, factor.second);
    }
}

/* sums += this warp's rows times its tokens, over the stage's columns. */
template <class Format, class Shape, bool LARGE>
static __device__ __forceinline__ void multiply(
    const uint8_t *stage, const struct wide_factor &factor, int32_t tokens,
    float (&sums)[Shape::ROW_TILES][Shape::TOKEN_TILES][4])
{
    int warp = (int)threadIdx.x / WARP_LANES;
    int g = (int)threadIdx.x % WARP_LANES / 4;
    int j = (int)threadIdx.x % 4;
    const uint8_t *weights = stage + j * 16 * Format::BYTES +
                             (warp % Shape::ROW_WARPS * Shape::ROW_TILES * 16 + g) * Format::PITCH;
    const uint8_t *x = stage + Shape::ROWS * Format::PITCH + j * 32 +
                       (warp / Shape::ROW_WARPS * Shape::TOKEN_TILES * 8 + g) * X_PITCH;
    uint4 rows[Shape::ROW_TILES][2]; /* four steps of fp8, two of bf16 */
#pragma unroll
    for (int step = 0; step < STEPS; step += 2) {
#pragma unroll
        for (int m = 0; m < 2 * Shape::ROW_TILES; m++)
            if (step % Format::VECTOR_STEPS == 0)
                rows[m / 2][m % 2] = *reinterpret_cast<const uint4 *>(
                    weights + m * 8 * Format::PITCH + step / Format::VECTOR_STEPS * 16);
        uint32_t a[Shape::ROW_TILES][2][4];
#pragma unroll
        for (int m = 0; m < Shape::ROW_TILES; m++)
#pragma unroll
            for (int s = 0; s < 2; s++)
#pragma unroll
                for (int upper = 0; upper < 2; upper++)
                    expand<Format, LARGE>(rows[m][upper], step + s, factor, &a[m][s][upper],
                                          &a[m][s][upper + 2]);
#pragma unroll
        for (int n = 0; n < Shape::TOKEN_TILES; n++) {
            /* Tiles beyond the tokens cost nothing where there are few of them. */
            if (Shape::ROW_TILES == 1 && n * 8 >= tokens) continue;
            uint4 b = *reinterpret_cast<const uint4 *>(x + n * 8 * X_PITCH + step * 8);
#pragma unroll
            for (int m = 0; m < Shape::ROW_TILES; m++) {
                mma_bf16(sums[m][n], a[m][0], b.x, b.y);
                mma_bf16(sums[m][n], a[m][1], b.z, b.w);
            }
        }
    }
}

/* Adds the parts of a split tile, in their order, where this block is the last. */
template <int COUNT>
static __device__ __forceinline__ bool gather(const struct wide_plan &plan,
                                              const struct wide_tile &tile, float (&sums)[COUNT])
{
    float *parts =
        plan.parts + (size_t)tile.index * (size_t)plan.splits * COUNT * THREADS + threadIdx.x;
#pragma unroll
    for (int i = 0; i < COUNT; i++)
        parts[((size_t)tile.split * COUNT + i) * THREADS] = sums[i];
    if (!last_of_split(plan.tickets + tile.index, (unsigned)plan.splits)) return false;
#pragma unroll
    for (int i = 0; i < COUNT; i++)
        sums[i] = 0.0f;
    for (int32_t split = 0; split < plan.splits; split++)
#pragma unroll
        for (int i = 0; i < COUNT; i++)
            sums[i] += __ldcg(parts + ((size_t)split * COUNT + i) * THREADS);
    return true;
}

template <class Shape>
static __device__ __forceinline__ void write_sums(
    const struct linear_args &args, const struct wide_plan &plan, const struct wide_tile &tile,
    const float (&sums)[Shape::ROW_TILES][Shape::TOKEN_TILES][4])
{
    int warp = (int)threadIdx.x / WARP_LANES;
    int32_t row = tile.row + warp % Shape::ROW_WARPS * Shape::ROW_TILES * 16 +
                  (int)threadIdx.x % WARP_LANES / 4;
    int32_t token =
        tile.token + warp / Shape::ROW_WARPS * Shape::TOKEN_TILES * 8 + (int)threadIdx.x % 4 * 2;
    float *out = args.out + (size_t)tile.group * (size_t)plan.group_rows + row;
#pragma unroll
    for (int n = 0; n < Shape::TOKEN_TILES; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            if (token + n * 8 + e >= args.tokens) continue;
            float *target = out + (size_t)(token + n * 8 + e) * (size_t)args.weight.rows;
#pragma unroll
            for (int m = 0; m < 2 * Shape::ROW_TILES; m++)
                if (row + m * 8 < plan.group_rows)
                    target[m * 8] = round_if(sums[m / 2][n][m % 2 * 2 + e], args.round);
        }
}

/* Grid (tiles of rows x tiles of tokens, splits, groups). */
template <class Format, class Shape>
static __global__ void __launch_bounds__(THREADS, Shape::BLOCKS)
    linear_wide_kernel(struct linear_args args, struct wide_plan plan)
{
    launch_chain();
    SL_SHARED(uint8_t, stages);
    const int bytes = wide_stage<Format, Shape>::BYTES;
    struct wide_tile tile = tile_of<Shape>(plan);
    int warp = (int)threadIdx.x / WARP_LANES;
    int32_t row = tile.row + warp % Shape::ROW_WARPS * Shape::ROW_TILES * 16;
    int32_t tokens = args.tokens - tile.token - warp / Shape::ROW_WARPS * Shape::TOKEN_TILES * 8;
    bool busy = row < plan.group_rows && tokens > 0;
    const uint8_t *scales = args.weight.scale;
    if (Format::SCALED)
        scales += (size_t)(tile.group * plan.group_rows + min(row, plan.group_rows - 1)) /
                  LOWP_FP8_BLOCK * (size_t)(args.weight.columns / LOWP_FP8_BLOCK);

    size_t columns = (size_t)args.weight.columns;
    struct wide_source weights = source_of<COLUMNS * Format::BYTES>(
        static_cast<const uint8_t *>(args.weight.data) +
            (size_t)tile.group * (size_t)plan.group_rows * columns * Format::BYTES,
        columns * Format::BYTES, tile.row, plan.group_rows, tile.first);
    struct wide_source x = source_of<COLUMNS * 2>(plan.x + (size_t)tile.group * columns,
                                                  (size_t)args.groups * columns * 2, tile.token,
                                                  args.tokens, tile.first);
    auto fetch =
        [&](int32_t idx,
            uint8_t *stage) { /* always ends a group of copies */
                              if (idx < tile.end) {
                                  copy_rows<COLUMNS * Format::BYTES, Format::PITCH, Shape::ROWS>(
                                      stage, &weights);
                                  copy_rows<COLUMNS * 2, X_PITCH, Shape::TOKENS>(
                                      stage + Shape::ROWS * Format::PITCH, &x);
                              }
                              copy_async_commit();
        };

    float sums[Shape::ROW_TILES][Shape::TOKEN_TILES][4] = {};
    for (int i = 0; i < Format::STAGES - 1; i++)
        fetch(tile.first + i, stages + i * bytes);
    uint32_t scale = Format::SCALED ? __ldg(scales + tile.first / 2) : 0;
    int here = 0;
    for (int32_t idx = tile.first; idx < tile.end; idx++) {
        copy_async_wait<Format::STAGES - 2>();
        __syncthreads(); /* the stage is there, and the one before has been read */
        int ahead = here == 0 ? Format::STAGES - 1 : here - 1;
        fetch(idx + Format::STAGES - 1, stages + ahead * bytes);
        struct wide_factor factor = {plan.zero, 0, false};
        if (Format::SCALED) factor = factor_of(scale);
        if (Format::SCALED) scale = __ldg(scales + min(idx + 1, plan.stages - 1) / 2);
        if (busy && Format::SCALED && factor.large)
            multiply<Format, Shape, true>(stages + here * bytes, factor, tokens, sums);
        else if (busy)
            multiply<Format, Shape, false>(stages + here * bytes, factor, tokens, sums);
        here = here + 1 == Format::STAGES ? 0 : here + 1;
    }
    copy_async_wait<0>();
    if (plan.splits > 1) {
        const int count = Shape::ROW_TILES * Shape::TOKEN_TILES * 4;
        if (!gather(plan, tile, *reinterpret_cast<float(*)[count]>(&sums))) return;
    }
    write_sums<Shape>(args, plan, tile, sums);
}

/* Tiles of tokens for one pass over all items: as many as scratch holds, or down to half of that
 * where fewer leave less of the last rounds of blocks idle. */
static int32_t pass_tiles(const struct stream *stream, int32_t tiles_max,
                          const struct linear_args *items, int32_t count)
{
    int32_t best = tiles_max;
    double best_share = 0.0;
    for (int32_t tiles = tiles_max; tiles > 0 && 2 * tiles >= tiles_max; tiles--) {
        int32_t blocks = 0, rounds = 0;
        for (int32_t i = 0; i < count; i++) {
            int32_t group_rows = items[i].weight.rows / items[i].groups;
            int32_t mine = tiles * items[i].groups * ceil_div_i32(group_rows, wide_many::ROWS);
            blocks += mine;
            rounds += ceil_div_i32(mine, stream->processors);
        }
        double share = (double)blocks / (double)rounds;
        if (share > 1.02 * best_share) best = tiles, best_share = share;
    }
    return best;
}

/* One product of tokens whose input is in plan->x. */
template <class Format, class Shape>
static void run_shape(struct stream *stream, const struct linear_args *args, struct wide_plan *plan)
{
    const size_t bytes = (size_t)Format::STAGES * wide_stage<Format, Shape>::BYTES;
    const size_t tile_bytes = (size_t)Shape::ROWS * Shape::TOKENS * sizeof(float);
    plan->group_rows = args->weight.rows / args->groups;
    plan->token_tiles = ceil_div_i32(args->tokens, Shape::TOKENS);
    plan->row_tiles = ceil_div_i32(plan->group_rows, Shape::ROWS);
    int64_t tiles = (int64_t)plan->token_tiles * plan->row_tiles * args->groups;
    int64_t splits = (int64_t)Shape::BLOCKS * stream->processors / tiles;
    splits = splits < plan->stages / SPLIT_STEPS_MIN ? splits : plan->stages / SPLIT_STEPS_MIN;
    while (splits > 1 && (size_t)(splits * tiles) * tile_bytes > PARTS_BYTES_MAX)
        splits--;
    plan->splits = splits > 1 ? (int32_t)splits : 1;
    SL_ASSERT(plan->splits == 1 || tiles <= CUDA_TICKETS);
    dim3 grid((unsigned)(plan->token_tiles * plan->row_tiles), (unsigned)plan->splits,
              (unsigned)args->groups);
    SL_ALLOW_SHARED(stream, (linear_wide_kernel<Format, Shape>), bytes);
    SL_LAUNCH(stream, (linear_wide_kernel<Format, Shape>), grid, THREADS, bytes, *args, *plan);
}

/* In passes of as many tokens as scratch holds. */
template <class Format>
static void run_passes(struct stream *stream, const struct linear_args *items, int32_t count)
{
    size_t stride = (size_t)items->groups * (size_t)items->weight.columns;
    struct wide_plan plan = {};
    plan.x = reinterpret_cast<uint16_t *>(stream->scratch);
    plan.parts = reinterpret_cast<float *>(stream->scratch + X_BYTES_MAX);
    plan.tickets = stream->tickets;
    plan.stages = items->weight.columns / COLUMNS;
    int32_t tiles = (int32_t)(X_BYTES_MAX / (stride * sizeof(uint16_t)) / wide_many::TOKENS);
    if (ceil_div_i32(items->tokens, wide_many::TOKENS) > tiles)
        tiles = pass_tiles(stream, tiles, items, count);
    for (int32_t first = 0; first < items->tokens; first += tiles * wide_many::TOKENS) {
        int32_t tokens = min_i32(tiles * wide_many::TOKENS, items->tokens - first);
        struct linear_input input = {.x = items->x + (size_t)first * stride,
                                     .out = plan.x,
                                     .count = (int64_t)((size_t)tokens * stride),
                                     .quantise = items->quantise_input,
                                     .swap = Format::SCALED};
        linear_input_bf16(stream, &input);
        for (int32_t i = 0; i < count; i++) {
            struct linear_args part = items[i];
            part.tokens = tokens;
            part.out += (size_t)first * (size_t)part.weight.rows;
            if (tokens <= wide_few::TOKENS)
                run_shape<Format, wide_few>(stream, &part, &plan);
            else
                run_shape<Format, wide_many>(stream, &part, &plan);
        }
    }
}

bool linear_wide_takes(const struct stream *stream, const struct linear_args *args)
{
    bool fp8 = args->weight.format == MATRIX_FP8;
    size_t token_bytes = (size_t)args->groups * (size_t)args->weight.columns * sizeof(uint16_t);
    if (args->tokens <= LINEAR_TOKENS_FEW || args->weight.format == MATRIX_F32) return false;
    if (!linear_tiles_fit(args) || token_bytes * wide_many::TOKENS > X_BYTES_MAX) return false;
    if (fp8 && args->groups > 1 && args->weight.rows / args->groups % ALIGNED_ROWS != 0)
        return false;
    if (fp8 ? !args->quantise_input && !args->bf16_input
            : args->quantise_input || !args->bf16_input)
        return false;
    size_t shared_bytes = (size_t)wide_bf16::STAGES * wide_stage<wide_bf16, wide_many>::BYTES;
    return (size_t)stream->shared_bytes_max >= shared_bytes;
}

void linear_wide(struct stream *stream, const struct linear_args *items, int32_t count)
{
    if (items->weight.format == MATRIX_FP8)
        run_passes<wide_fp8>(stream, items, count);
    else
        run_passes<wide_bf16>(stream, items, count);
}
