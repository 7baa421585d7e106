/* Routed experts over many tokens each: matrix products on the tensor cores, for prefill.
 *
 * Four launches: the list of tiles, a tile being up to 64 tokens of a task; inputs, rounded as the
 * model rounds them and kept as bf16; gate, up and the middle, rounded again; the last product. A
 * block takes a tile and 128 rows of the middle or 256 of the output. The number of tokens of a
 * task is known to the device alone: grids are as large as the call can need, and a block beyond
 * the list ends at once. Tiles of 16, 32, 48 and 64 tokens have code of their own, so what few
 * tokens cost beyond their weights is at most 15 columns of products.
 *
 * As in linear_wide.cu scales are inside both operands: an e4m3 value times a power of two, and an
 * e2m1 value times 2^-127 .. 2^127, are bf16 values, so products are exact and one f32 sum runs
 * over all columns. A token's bits depend on no other token: all tiles add in the same order.
 *
 * Where the middle has less room than pairs, passes take pairs in turn. Where a call has fewer
 * pairs than tokens, inputs are rounded pair by pair, so that an expert alone does not pay for all
 * tokens.
 *
 * Static counts, of the compiler's code for sm_90a, a warp and stage of 64 rows x 64 tokens x 64
 * columns: 128 products in 553 instructions, 32 of them loads of shared memory and 303 that expand
 * fp4; 241 and 245 registers and 66 KiB of shared memory, so two blocks a multiprocessor. No GPU
 * has run it.
 *
 * Against the twin: the order of f32 sums, and on a GPU the truncation of each addition of 16
 * products, 2^-23 of the sum; where that crosses a rounding boundary a step of bf16 or e4m3. */
#include "kernels/cuda/expert_input.cuh"
#include "kernels/cuda/expert_wide_product.cuh"
#include "kernels/cuda/numerics.cuh"

#define MIDDLE_ROWS   (WIDE_ROWS / 2)   /* of a block, each of gate and up */
#define RESULT_PITCH  (MIDDLE_ROWS + 4) /* words: writing and reading meet every bank once */
#define INPUT_PIECES  16                /* blocks that share the columns of 64 inputs */
#define INPUT_THREADS 256

/* Of the scratch memory: the list of tiles, behind the inputs. */
#define LIST_BYTES  ((size_t)1 << 20)
#define X_BYTES_MAX (CUDA_SCRATCH_BYTES - LIST_BYTES)
#define TILES_MAX   65535 /* blocks along y of a grid */

static_assert((TILES_MAX + 1) * sizeof(struct wide_tile) <= LIST_BYTES,
              "the list's first place counts");
static_assert(MIDDLE_ROWS == LOWP_FP8_BLOCK, "a block rounds what it makes of the middle");
static_assert(WIDE_STAGES * WIDE_STAGE_BYTES >= WIDE_TOKENS * RESULT_PITCH * 4,
              "results use the stages' memory");

static __global__ void __launch_bounds__(1024) wide_tiles_kernel(const struct wide wide)
{
    launch_chain();
    __shared__ uint32_t parts[WARP_LANES];
    wide_list_tiles(wide, parts);
}

/* Grid (pieces of the columns, tiles or tokens by WIDE_TOKENS). */
static __global__ void __launch_bounds__(INPUT_THREADS) wide_input_kernel(const struct wide wide)
{
    launch_chain();
    int first = (int)blockIdx.y * WIDE_TOKENS;
    int count = min(WIDE_TOKENS, wide.ffn.args.tokens - first);
    const int32_t *rows = NULL;
    if (wide.by_pair) {
        if ((int)blockIdx.y >= *wide.tile_count) return;
        const struct wide_tile tile = wide.tiles[blockIdx.y];
        rows = wide.ffn.tasks[tile.task].token_rows + tile.first;
        first = tile.place;
        count = tile.count;
    }
    int hidden = wide.ffn.layout.hidden;
    int lane = (int)threadIdx.x % WARP_LANES;
    int blocks = (hidden + LOWP_FP8_BLOCK - 1) / LOWP_FP8_BLOCK;
    int own = (blocks - (int)blockIdx.x + INPUT_PIECES - 1) / INPUT_PIECES;
    for (int unit = (int)threadIdx.x / WARP_LANES; unit < count * own;
         unit += INPUT_THREADS / WARP_LANES) {
        int token = unit / own;
        int column = (unit % own * INPUT_PIECES + (int)blockIdx.x) * LOWP_FP8_BLOCK + lane * 4;
        size_t row = (size_t)(rows ? rows[token] : first + token);
        float4 values = {0.0f, 0.0f, 0.0f, 0.0f};
        if (column < hidden)
            values =
                *reinterpret_cast<const float4 *>(wide.ffn.args.x + row * (size_t)hidden + column);
        uint2 pairs = expert_input_bf16(values);
        if (column < hidden)
            *reinterpret_cast<uint2 *>(wide.x + (size_t)(first + token) * (size_t)hidden + column) =
                pairs;
    }
}

/* The middle of the block's rows from its sums: bands 0 and 1 of a warp are gate, 2 and 3 up. */
template <int TILES>
static __device__ __forceinline__ void write_middle(const struct wide &wide,
                                                    const struct wide_tile &tile,
                                                    const float *weights, uint32_t *results,
                                                    const float (&sums)[WIDE_BANDS][TILES][4])
{
    int warp = (int)threadIdx.x / WARP_LANES;
    int lane = (int)threadIdx.x % WARP_LANES;
    int width = wide.ffn.layout.width;
    int row = (int)blockIdx.x * MIDDLE_ROWS + lane * 4;
    uint32_t *own =
        results + lane % 4 * 2 * RESULT_PITCH + warp * 2 * EXPERT_TILE_ROWS + lane / 4 * 2;
#pragma unroll
    for (int n = 0; n < TILES; n++)
#pragma unroll
        for (int e = 0; e < 2; e++)
#pragma unroll
            for (int m = 0; m < 2; m++)
                *reinterpret_cast<uint2 *>(own + (n * 8 + e) * RESULT_PITCH +
                                           m * EXPERT_TILE_ROWS) =
                    make_uint2(pack_bf16(sums[m][n][e], sums[m + 2][n][e]),
                               pack_bf16(sums[m][n][e + 2], sums[m + 2][n][e + 2]));
    __syncthreads();
    for (int token = warp; token < tile.count; token += WIDE_WARPS) {
        const uint4 four =
            *reinterpret_cast<const uint4 *>(results + token * RESULT_PITCH + lane * 4);
        const uint32_t words[4] = {four.x, four.y, four.z, four.w};
        float weight = weights[token];
        float values[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            values[i] = row < width
                            ? bf16_round(weight * swiglu(lowp_from_bits(words[i] << 16),
                                                         lowp_from_bits(words[i] & 0xffff0000u),
                                                         wide.ffn.args.limit))
                            : 0.0f;
        uint2 pairs = expert_input_bf16({values[0], values[1], values[2], values[3]});
        if (row < width)
            *reinterpret_cast<uint2 *>(wide.middle + (size_t)(tile.place + token) * (size_t)width +
                                       row) = pairs;
    }
}

template <int TILES>
static __device__ __forceinline__ void gate_up(const struct wide &wide,
                                               const struct wide_tile &tile, uint8_t *stages)
{
    const struct expert_task task = wide.ffn.tasks[tile.task];
    const int warp_rows = WIDE_BANDS / 2 * EXPERT_TILE_ROWS;
    int hidden = wide.ffn.layout.hidden;
    int warp = (int)threadIdx.x / WARP_LANES;
    int row = (int)blockIdx.x * MIDDLE_ROWS;
    int warps = min(WIDE_WARPS, (wide.ffn.layout.width - row) / warp_rows);
    struct wide_source source;
    wide_source_bands(&source, wide, task.slot, warp < 2 ? EXPERT_W1 : EXPERT_W3, hidden,
                      row / EXPERT_TILE_ROWS + warp % 2, WIDE_BANDS / 2, warps);
    wide_source_tokens(&source, wide.x, hidden, wide.by_pair ? NULL : task.token_rows + tile.first,
                       tile.place, tile.count);
    float sums[WIDE_BANDS][TILES][4] = {};
    wide_multiply_all<TILES>(source, stages, warp < warps, sums);
    write_middle<TILES>(wide, tile, task.weights + tile.first, reinterpret_cast<uint32_t *>(stages),
                        sums);
}

template <int TILES>
static __device__ __forceinline__ void down(const struct wide &wide, const struct wide_tile &tile,
                                            uint8_t *stages)
{
    const struct expert_task task = wide.ffn.tasks[tile.task];
    int hidden = wide.ffn.layout.hidden;
    int warp = (int)threadIdx.x / WARP_LANES;
    int lane = (int)threadIdx.x % WARP_LANES;
    int band = (int)blockIdx.x * (WIDE_ROWS / EXPERT_TILE_ROWS);
    int bands = hidden / EXPERT_TILE_ROWS - band;
    struct wide_source source;
    wide_source_bands(&source, wide, task.slot, EXPERT_W2, wide.ffn.layout.width, band + warp,
                      WIDE_BANDS, (bands - warp + WIDE_BANDS - 1) / WIDE_BANDS);
    wide_source_tokens(&source, wide.middle, wide.ffn.layout.width, NULL, tile.place, tile.count);
    float sums[WIDE_BANDS][TILES][4] = {};
    wide_multiply_all<TILES>(source, stages, warp * WIDE_BANDS < bands, sums);

    int row = (band + warp * WIDE_BANDS) * EXPERT_TILE_ROWS + lane / 4 * 2;
#pragma unroll
    for (int n = 0; n < TILES; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            int token = n * 8 + lane % 4 * 2 + e;
            if (token >= tile.count) continue;
            float *out = wide.ffn.args.out +
                         (size_t)task.output_rows[tile.first + token] * (size_t)hidden + row;
#pragma unroll
            for (int m = 0; m < WIDE_BANDS; m++)
                if (row + m * EXPERT_TILE_ROWS < hidden)
                    *reinterpret_cast<float2 *>(out + m * EXPERT_TILE_ROWS) =
                        make_float2(bf16_round(sums[m][n][e]), bf16_round(sums[m][n][e + 2]));
        }
}

template <bool DOWN, int TILES>
static __device__ __forceinline__ void run_tile(const struct wide &wide,
                                                const struct wide_tile &tile, uint8_t *stages)
{
    if constexpr (DOWN)
        down<TILES>(wide, tile, stages);
    else
        gate_up<TILES>(wide, tile, stages);
}

/* Grid (blocks of rows, tiles): those of a tile, which share its tokens, run side by side, and next
 * to them those of the same expert's next tile, which share its weights. */
template <bool DOWN>
static __global__ void __launch_bounds__(WIDE_THREADS, 2)
    wide_product_kernel(const struct wide wide)
{
    launch_chain();
    SL_SHARED(uint8_t, stages);
    if ((int)blockIdx.y >= *wide.tile_count) return;
    const struct wide_tile tile = wide.tiles[blockIdx.y];
    switch ((tile.count + 15) / 16) {
    case 1: run_tile<DOWN, 2>(wide, tile, stages); break;
    case 2: run_tile<DOWN, 4>(wide, tile, stages); break;
    case 3: run_tile<DOWN, 6>(wide, tile, stages); break;
    default: run_tile<DOWN, 8>(wide, tile, stages); break;
    }
}

/* Places inputs and list in the stream's scratch memory and the middle in the call's, which takes
 * the inputs too where they are too many; returns how many pairs the middle holds. */
static int64_t place_arrays(struct wide *wide, uint8_t *scratch)
{
    const struct expert_ffn_args *args = &wide->ffn.args;
    size_t width = (size_t)wide->ffn.layout.width;
    size_t x_bytes =
        align_up((size_t)args->tokens * (size_t)wide->ffn.layout.hidden * sizeof *wide->x, 256);
    size_t bytes = (size_t)args->scratch_rows * 3 * width * sizeof *args->scratch;
    bool apart = x_bytes <= X_BYTES_MAX;
    uint8_t *memory = reinterpret_cast<uint8_t *>(args->scratch);
    SL_ASSERT(apart || x_bytes < bytes);
    wide->x = reinterpret_cast<uint16_t *>(apart ? scratch : memory);
    wide->middle = reinterpret_cast<uint16_t *>(apart ? memory : memory + x_bytes);
    wide->tile_count = reinterpret_cast<int32_t *>(scratch + X_BYTES_MAX);
    wide->tiles = reinterpret_cast<struct wide_tile *>(scratch + X_BYTES_MAX) + 1;
    return (int64_t)((bytes - (apart ? 0 : x_bytes)) / (width * sizeof *wide->middle));
}

static void launch_pass(struct stream *stream, const struct wide *wide)
{
    const size_t bytes = WIDE_STAGES * WIDE_STAGE_BYTES;
    const struct expert_layout *layout = &wide->ffn.layout;
    int32_t tiles_max = wide_tiles_max(wide->pairs, wide->ffn.args.task_count);
    SL_ASSERT(tiles_max <= TILES_MAX);
    unsigned tiles = (unsigned)tiles_max;
    SL_LAUNCH(stream, wide_tiles_kernel, 1, 1024, 0, *wide);
    if (wide->by_pair || wide->low == 0)
        SL_LAUNCH(stream, wide_input_kernel,
                  dim3(INPUT_PIECES,
                       wide->by_pair ? tiles : launch_blocks(wide->ffn.args.tokens, WIDE_TOKENS)),
                  INPUT_THREADS, 0, *wide);
    SL_ALLOW_SHARED(stream, wide_product_kernel<false>, bytes);
    SL_ALLOW_SHARED(stream, wide_product_kernel<true>, bytes);
    SL_LAUNCH(stream, (wide_product_kernel<false>),
              dim3(launch_blocks(layout->width, MIDDLE_ROWS), tiles), WIDE_THREADS, bytes, *wide);
    SL_LAUNCH(stream, (wide_product_kernel<true>),
              dim3(launch_blocks(layout->hidden, WIDE_ROWS), tiles), WIDE_THREADS, bytes, *wide);
}

void expert_ffn_wide(struct stream *stream, const struct expert_ffn_work *work)
{
    struct wide wide = {.ffn = *work};
    int32_t pairs = work->args.pairs;
    int64_t room = place_arrays(&wide, stream->scratch);
    SL_ASSERT(room > 0);
    wide.by_pair = pairs <= work->args.tokens;
    for (; wide.low < pairs; wide.low += wide.pairs) {
        wide.pairs = room < pairs - wide.low ? (int32_t)room : pairs - wide.low;
        launch_pass(stream, &wide);
    }
}
