/* Routed experts over many tokens each: matrix products on the tensor cores, for prefill.
 *
 * Three launches: inputs of every task to e4m3 (kept as f16 values, scales apart); gate, up and the
 * middle, rounded again; the last product. A block takes up to 64 tokens of a task and 128 rows of
 * the middle or 256 of the output; each of its 16 warps takes a band of 16 rows. Weights and inputs
 * come in stages of 128 columns by asynchronous copies, nibbles become f16 in registers, once for
 * all tokens of the block, and eight tokens that are not there cost nothing.
 *
 * A row's weights are expanded relative to the largest scale of their 128 columns, which is exact
 * unless scales of one row lie more than 2^23 apart; sums are f32. Against the twin as the kernels
 * for few tokens, whose sums go in another order.
 *
 * Spills: sixteen warps leave a thread 128 registers. With four stages five words for sm_80 and
 * none for sm_90a, with two at most twelve: addresses that the loop does not change. */
#include "kernels/cuda/copy_async.cuh"
#include "kernels/cuda/expert_ffn.cuh"
#include "kernels/cuda/expert_input.cuh"
#include "kernels/cuda/fp4.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/numerics.cuh"

#define WARPS       16
#define THREADS     (WARPS * WARP_LANES)
#define STAGES_MAX  4
#define STAGES_MIN  2            /* where a block has less than 100 KiB of shared memory */
#define TOKENS      64           /* of a block */
#define TOKEN_TILES (TOKENS / 8) /* of a product */
#define COLUMNS     LOWP_FP8_BLOCK
#define TILES       (COLUMNS / EXPERT_TILE_COLUMNS)
#define X_PITCH     (COLUMNS + 32) /* elements: lanes of two tokens meet different banks */

/* A stage in shared memory: a band's tiles and scales for each warp, the tokens' inputs, and their
 * scales. */
#define BAND_BYTES  (TILES * (EXPERT_TILE_BYTES + EXPERT_TILE_ROWS))
#define X_AT        (WARPS * BAND_BYTES)
#define SCALES_AT   (X_AT + TOKENS * X_PITCH * 2)
#define STAGE_BYTES (SCALES_AT + TOKENS * 4)

#define MIDDLE_ROWS (WARPS / 2 * EXPERT_TILE_ROWS) /* of a block, gate and up */
#define OUT_ROWS    (WARPS * EXPERT_TILE_ROWS)

static_assert(MIDDLE_ROWS == LOWP_FP8_BLOCK, "a block rounds what it makes of the middle");
static_assert(STAGES_MIN * STAGE_BYTES >= TOKENS * (OUT_ROWS + 1) * 4,
              "results use the stages' memory");

/* Rounded inputs of some tokens of each task. */
struct wide_input {
    uint16_t *codes; /* [tasks, rows, blocks * 128] f16 */
    float *scales;   /* [tasks, blocks, rows] */
    int32_t blocks;
};

struct wide {
    struct expert_ffn_work ffn;
    struct wide_input x, middle;
    int32_t first, rows; /* tokens [first, first + rows) of each task */
};

__device__ __forceinline__ uint16_t *codes_of(const struct wide &wide,
                                              const struct wide_input &input, int task, int row)
{
    size_t width = (size_t)input.blocks * COLUMNS;
    return input.codes + ((size_t)task * (size_t)wide.rows + (size_t)row) * width;
}

__device__ __forceinline__ float *scale_of(const struct wide &wide, const struct wide_input &input,
                                           int task, int block, int row)
{
    return input.scales +
           ((size_t)task * (size_t)input.blocks + (size_t)block) * (size_t)wide.rows + row;
}

/* Rounds 128 values, four a lane, and stores them as row `row`, block `block`; by a warp. */
__device__ __forceinline__ void put_block(const struct wide &wide, const struct wide_input &input,
                                          int task, int row, int block, float4 values)
{
    int lane = (int)threadIdx.x % WARP_LANES;
    float scale;
    uint2 pairs = expert_input_quantise(values, &scale);
    *reinterpret_cast<uint2 *>(codes_of(wide, input, task, row) + block * COLUMNS + lane * 4) =
        pairs;
    if (lane == 0) *scale_of(wide, input, task, block, row) = scale;
}

/* Grid (rows, tasks). */
static __global__ void __launch_bounds__(256) wide_input_kernel(const struct wide wide)
{
    launch_chain();
    const struct expert_task task = wide.ffn.tasks[blockIdx.y];
    int row = (int)blockIdx.x;
    int hidden = wide.ffn.layout.hidden;
    int lane = (int)threadIdx.x % WARP_LANES;
    if (wide.first + row >= task.count) return;
    const float *x = wide.ffn.args.x + (size_t)task.token_rows[wide.first + row] * (size_t)hidden;
    for (int block = (int)threadIdx.x / WARP_LANES; block < wide.x.blocks;
         block += (int)blockDim.x / WARP_LANES) {
        int column = block * COLUMNS + lane * 4;
        float4 values = {0.0f, 0.0f, 0.0f, 0.0f};
        if (column < hidden) values = *reinterpret_cast<const float4 *>(x + column);
        put_block(wide, wide.x, (int)blockIdx.y, row, block, values);
    }
}

/* What a block multiplies: its warp's band of a matrix, and its tokens. */
struct product {
    const uint8_t *codes, *scales; /* of the band; NULL: the warp has none */
    const uint16_t *x;             /* the first token's inputs */
    const float *x_scales;         /* [blocks, rows], from the first token on */
    int32_t columns, x_stride, rows, tokens;
};

/* Starts the copies of the 128 columns of block `idx`; always ends a group of copies. */
__device__ __forceinline__ void fetch(const struct product &product, int idx, uint8_t *stage)
{
    int lane = (int)threadIdx.x % WARP_LANES;
    int tiles = product.columns / EXPERT_TILE_COLUMNS - idx * TILES;
    if (tiles > 0) {
        uint8_t *band = stage + (int)threadIdx.x / WARP_LANES * BAND_BYTES;
        if (product.codes) {
            const uint8_t *codes = product.codes + (size_t)idx * TILES * EXPERT_TILE_BYTES;
            const uint8_t *scales = product.scales + (size_t)idx * TILES * EXPERT_TILE_ROWS;
#pragma unroll
            for (int chunk = lane; chunk < TILES * EXPERT_TILE_BYTES / 16; chunk += WARP_LANES)
                copy_async_16(band + chunk * 16, codes + chunk * 16,
                              chunk < tiles * EXPERT_TILE_BYTES / 16 ? 16 : 0);
            if (lane < TILES)
                copy_async_16(band + TILES * EXPERT_TILE_BYTES + lane * 16, scales + lane * 16,
                              lane < tiles ? 16 : 0);
        }
        /* Two tokens a warp at a time, sixteen lanes a token. */
        for (int token = (int)threadIdx.x / 16; token < product.tokens; token += THREADS / 16)
            copy_async_16(stage + X_AT + token * X_PITCH * 2 + lane % 16 * 16,
                          product.x + (size_t)token * (size_t)product.x_stride + idx * COLUMNS +
                              lane % 16 * 8,
                          16);
        if (threadIdx.x < TOKENS / 4)
            copy_async_16(stage + SCALES_AT + threadIdx.x * 16,
                          product.x_scales + (size_t)idx * (size_t)product.rows + threadIdx.x * 4,
                          max(0, min(4, product.tokens - (int)threadIdx.x * 4)) * 4);
    }
    copy_async_commit();
}

/* The scale codes of a row for the stage's tiles, a byte each, and the largest of them. */
struct row_scales {
    uint32_t codes;
    int largest;
};

__device__ __forceinline__ struct row_scales read_scales(const uint8_t *scales, int row)
{
    struct row_scales read = {0, 0};
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        int code = scales[tile * EXPERT_TILE_ROWS + row];
        read.codes |= (uint32_t)code << (8 * tile);
        read.largest = max(read.largest, code);
    }
    return read;
}

/* Multiplies a tile's nibbles by the power of two from the largest scale to their own, and by what
 * fp4_expand leaves out. */
__device__ __forceinline__ void scale_tile(const struct row_scales &scales, int tile,
                                           uint32_t pairs[4])
{
    int distance = scales.largest - (int)(scales.codes >> (8 * tile) & 0xff);
    uint32_t factor = (uint32_t)(29 - min(28, distance)) << 10;
#pragma unroll
    for (int k = 0; k < 4; k++)
        pairs[k] = multiply_f16(pairs[k], factor | factor << 16);
}

/* sums[n] += the band's 16 rows times the stage's columns of tokens 8 n .. 8 n + 7. Rows are placed
 * as in expert_ffn.cu: row 2g of the band is row g of the product, row 2g + 1 row g + 8. */
__device__ __forceinline__ void multiply_stage(const uint8_t *stage, int tokens,
                                               float sums[TOKEN_TILES][4])
{
    int lane = (int)threadIdx.x % WARP_LANES;
    int g = lane / 4;
    int j = lane % 4;
    const uint8_t *band = stage + (int)threadIdx.x / WARP_LANES * BAND_BYTES;
    const uint16_t *x = reinterpret_cast<const uint16_t *>(stage + X_AT) + g * X_PITCH + j * 8;
    const float *x_scales = reinterpret_cast<const float *>(stage + SCALES_AT);
    struct row_scales upper = read_scales(band + TILES * EXPERT_TILE_BYTES, 2 * g);
    struct row_scales lower = read_scales(band + TILES * EXPERT_TILE_BYTES, 2 * g + 1);
    float part[TOKEN_TILES][4] = {};
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        const uint2 words =
            *reinterpret_cast<const uint2 *>(band + tile * EXPERT_TILE_BYTES + j * 64 + g * 8);
        uint32_t even[4], odd[4];
        fp4_expand(words.x, even);
        fp4_expand(words.y, odd);
        scale_tile(upper, tile, even);
        scale_tile(lower, tile, odd);
        const uint32_t left[4] = {even[0], odd[0], even[1], odd[1]};
        const uint32_t right[4] = {even[2], odd[2], even[3], odd[3]};
#pragma unroll
        for (int n = 0; n < TOKEN_TILES; n++) {
            if (n * 8 >= tokens) continue;
            const uint4 input =
                *reinterpret_cast<const uint4 *>(x + n * 8 * X_PITCH + tile * EXPERT_TILE_COLUMNS);
            mma_f16(part[n], left, input.x, input.y);
            mma_f16(part[n], right, input.z, input.w);
        }
    }
    float upper_scale = e8m0_decode((uint8_t)upper.largest);
    float lower_scale = e8m0_decode((uint8_t)lower.largest);
#pragma unroll
    for (int n = 0; n < TOKEN_TILES; n++) {
        if (n * 8 >= tokens) continue;
        float2 two = *reinterpret_cast<const float2 *>(x_scales + n * 8 + 2 * j);
        sums[n][0] = fmaf(part[n][0], upper_scale * two.x, sums[n][0]);
        sums[n][1] = fmaf(part[n][1], upper_scale * two.y, sums[n][1]);
        sums[n][2] = fmaf(part[n][2], lower_scale * two.x, sums[n][2]);
        sums[n][3] = fmaf(part[n][3], lower_scale * two.y, sums[n][3]);
    }
}

/* All columns; afterwards the stages' memory is free. By the whole block. */
template <int STAGES>
__device__ __forceinline__ void multiply(const struct product &product, uint8_t *stages,
                                         float sums[TOKEN_TILES][4])
{
    int blocks = (product.columns + COLUMNS - 1) / COLUMNS;
    for (int i = 0; i < STAGES - 1; i++)
        fetch(product, i, stages + i * STAGE_BYTES);
    for (int i = 0; i < blocks; i++) {
        copy_async_wait<STAGES - 2>();
        __syncthreads(); /* the stage is there, and the one before has been read */
        fetch(product, i + STAGES - 1, stages + (i + STAGES - 1) % STAGES * STAGE_BYTES);
        if (product.codes) multiply_stage(stages + i % STAGES * STAGE_BYTES, product.tokens, sums);
    }
    copy_async_wait<0>();
    __syncthreads();
}

/* The warp's sums as results[token][first_row + row], rows `pitch` apart. */
__device__ __forceinline__ void put_results(float *results, int pitch, int first_row,
                                            const float sums[TOKEN_TILES][4])
{
    int lane = (int)threadIdx.x % WARP_LANES;
    float *target = results + lane % 4 * 2 * pitch + first_row + lane / 4 * 2;
#pragma unroll
    for (int n = 0; n < TOKEN_TILES; n++, target += 8 * pitch) {
        target[0] = sums[n][0];
        target[pitch] = sums[n][1];
        target[1] = sums[n][2];
        target[pitch + 1] = sums[n][3];
    }
}

__device__ __forceinline__ struct product product_of(const struct wide &wide,
                                                     const struct wide_input &input, int columns,
                                                     int first, int tokens)
{
    struct product product = {.columns = columns};
    product.x = codes_of(wide, input, (int)blockIdx.z, first);
    product.x_scales = scale_of(wide, input, (int)blockIdx.z, 0, first);
    product.x_stride = input.blocks * COLUMNS;
    product.rows = wide.rows;
    product.tokens = tokens;
    return product;
}

/* Points the product at band `band` of a matrix, if there is one. */
__device__ __forceinline__ void set_band(struct product *product, const struct wide &wide,
                                         const uint8_t *slot, int part, int band, int matrix_rows)
{
    size_t tile = (size_t)band * (size_t)(product->columns / EXPERT_TILE_COLUMNS);
    if (band * EXPERT_TILE_ROWS >= matrix_rows) return;
    product->codes = slot + wide.ffn.layout.offset_bytes[part] + tile * EXPERT_TILE_BYTES;
    product->scales = slot + wide.ffn.layout.offset_bytes[part + 1] + tile * EXPERT_TILE_ROWS;
}

/* Grid (token tiles, blocks of 128 rows of the middle, tasks). */
template <int STAGES>
static __global__ void __launch_bounds__(THREADS, 1) wide_gate_up_kernel(const struct wide wide)
{
    launch_chain();
    SL_SHARED(uint8_t, stages);
    const struct expert_task *task = &wide.ffn.tasks[blockIdx.z];
    int first = (int)blockIdx.x * TOKENS;
    int tokens = min(TOKENS, min(wide.rows, task->count - wide.first) - first);
    int warp = (int)threadIdx.x / WARP_LANES;
    int lane = (int)threadIdx.x % WARP_LANES;
    int width = wide.ffn.layout.width;
    if (tokens <= 0) return;
    float sums[TOKEN_TILES][4] = {};
    struct product product = product_of(wide, wide.x, wide.ffn.layout.hidden, first, tokens);
    int band = (int)blockIdx.y * (WARPS / 2) + warp / 2;
    set_band(&product, wide, task->slot, warp % 2 ? EXPERT_W3 : EXPERT_W1, band, width);
    multiply<STAGES>(product, stages, sums);

    float *results = reinterpret_cast<float *>(stages); /* [token][gate or up][row] */
    const int pitch = 2 * MIDDLE_ROWS + 1;
    put_results(results, pitch, warp % 2 * MIDDLE_ROWS + warp / 2 * EXPERT_TILE_ROWS, sums);
    __syncthreads();
    for (int token = warp; token < tokens; token += WARPS) {
        float weight = task->weights[wide.first + first + token];
        float values[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float *gate = results + token * pitch + lane * 4 + i;
            float value =
                swiglu(bf16_round(gate[0]), bf16_round(gate[MIDDLE_ROWS]), wide.ffn.args.limit);
            bool inside = (int)blockIdx.y * MIDDLE_ROWS + lane * 4 + i < width;
            values[i] = inside ? bf16_round(weight * value) : 0.0f;
        }
        put_block(wide, wide.middle, (int)blockIdx.z, first + token, (int)blockIdx.y,
                  {values[0], values[1], values[2], values[3]});
    }
}

/* Grid (token tiles, blocks of 256 rows of the output, tasks). */
template <int STAGES>
static __global__ void __launch_bounds__(THREADS, 1) wide_down_kernel(const struct wide wide)
{
    launch_chain();
    SL_SHARED(uint8_t, stages);
    const struct expert_task *task = &wide.ffn.tasks[blockIdx.z];
    int first = (int)blockIdx.x * TOKENS;
    int tokens = min(TOKENS, min(wide.rows, task->count - wide.first) - first);
    int warp = (int)threadIdx.x / WARP_LANES;
    int hidden = wide.ffn.layout.hidden;
    if (tokens <= 0) return;
    float sums[TOKEN_TILES][4] = {};
    struct product product = product_of(wide, wide.middle, wide.ffn.layout.width, first, tokens);
    set_band(&product, wide, task->slot, EXPERT_W2, (int)blockIdx.y * WARPS + warp, hidden);
    multiply<STAGES>(product, stages, sums);

    float *results = reinterpret_cast<float *>(stages); /* [token][row] */
    const int pitch = OUT_ROWS + 1;
    put_results(results, pitch, warp * EXPERT_TILE_ROWS, sums);
    __syncthreads();
    for (int i = (int)threadIdx.x; i < tokens * OUT_ROWS; i += THREADS) {
        int token = i / OUT_ROWS;
        int row = (int)blockIdx.y * OUT_ROWS + i % OUT_ROWS;
        size_t target = (size_t)task->output_rows[wide.first + first + token] * (size_t)hidden;
        if (row < hidden)
            wide.ffn.args.out[target + (size_t)row] =
                bf16_round(results[token * pitch + i % OUT_ROWS]);
    }
}

/* Scratch for `rows` tokens of each of `tasks` tasks: bytes, and the arrays' places. */
static size_t place_input(struct wide_input *input, int32_t columns, size_t rows, uint8_t *memory)
{
    input->blocks = ceil_div_i32(columns, COLUMNS);
    input->codes = reinterpret_cast<uint16_t *>(memory);
    size_t bytes = rows * (size_t)input->blocks * COLUMNS * sizeof(uint16_t);
    input->scales = reinterpret_cast<float *>(memory + bytes);
    return bytes + align_up(rows * (size_t)input->blocks * sizeof(float), 256);
}

static size_t place_scratch(struct wide *wide, uint8_t *memory, int32_t tasks, int32_t rows)
{
    size_t pairs = (size_t)tasks * (size_t)rows;
    size_t bytes = place_input(&wide->x, wide->ffn.layout.hidden, pairs, memory);
    wide->rows = rows;
    return bytes + place_input(&wide->middle, wide->ffn.layout.width, pairs, memory + bytes);
}

template <int STAGES> static void launch_wide(struct stream *stream, const struct wide *wide)
{
    const struct expert_layout *layout = &wide->ffn.layout;
    unsigned tasks = (unsigned)wide->ffn.args.task_count;
    unsigned tiles = launch_blocks(wide->rows, TOKENS);
    size_t bytes = STAGES * STAGE_BYTES;
    SL_ALLOW_SHARED(stream, wide_gate_up_kernel<STAGES>, bytes);
    SL_ALLOW_SHARED(stream, wide_down_kernel<STAGES>, bytes);
    SL_LAUNCH(stream, wide_input_kernel, dim3((unsigned)wide->rows, tasks), 256, 0, *wide);
    SL_LAUNCH(stream, (wide_gate_up_kernel<STAGES>),
              dim3(tiles, launch_blocks(layout->width, MIDDLE_ROWS), tasks), THREADS, bytes, *wide);
    SL_LAUNCH(stream, (wide_down_kernel<STAGES>),
              dim3(tiles, launch_blocks(layout->hidden, OUT_ROWS), tasks), THREADS, bytes, *wide);
}

void expert_ffn_wide(struct stream *stream, const struct expert_ffn_work *work)
{
    const int32_t tasks_max = 32; /* together: more leave too few rows of scratch for each */
    int32_t task_count = work->args.task_count;
    for (int32_t task = 0; task < task_count; task += tasks_max) {
        struct wide wide = {.ffn = *work};
        int32_t tasks = min_i32(tasks_max, task_count - task);
        int32_t rows = (int32_t)align_up((uint64_t)work->args.scratch_rows, 8);
        while (rows > 8 && place_scratch(&wide, stream->scratch, tasks, rows) > CUDA_SCRATCH_BYTES)
            rows = (int32_t)align_up((uint64_t)rows / 2, 8);
        SL_ASSERT(place_scratch(&wide, stream->scratch, tasks, rows) <= CUDA_SCRATCH_BYTES);
        wide.ffn.tasks = work->tasks + task;
        wide.ffn.args.task_count = tasks;
        for (wide.first = 0; wide.first < work->args.scratch_rows; wide.first += rows) {
            if (stream->shared_bytes_max >= STAGES_MAX * STAGE_BYTES)
                launch_wide<STAGES_MAX>(stream, &wide);
            else
                launch_wide<STAGES_MIN>(stream, &wide);
        }
    }
}
