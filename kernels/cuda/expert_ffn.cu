/* Routed experts over a few tokens each, fp4 weights straight from their slots.
 *
 * Two launches: gate, up and what lies between them and the last product; then the last product. A
 * block takes one task and a band of output rows, 16 or 64; its warps take
 * shares of the columns, or of the rows. A warp keeps a ring of asynchronous copies in flight,
 * expands nibbles to f16 in registers and multiplies them with up to eight tokens at once on the
 * tensor cores, so that four tokens cost the memory traffic of one. Tokens beyond eight take
 * another round.
 *
 * Exact but for the order of sums: both factors of every product are exact in f16, the scales are
 * powers of two. Against the twin: sums differ by 1e-6 of the sum of magnitudes, and where that
 * crosses a rounding boundary by a step of bf16 or e4m3. */
#include "kernels/cuda/copy_async.cuh"
#include "kernels/cuda/expert_ffn.cuh"
#include "kernels/cuda/expert_input.cuh"
#include "kernels/cuda/fp4.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/numerics.cuh"

#define WARPS       8
#define THREADS     (WARPS * WARP_LANES)
#define BLOCKS_MIN  3 /* a multiprocessor should hold, at four tokens: about 70 KiB in flight */
#define STAGES      4
#define GROUP_TILES 4 /* 128 columns, which share a scale of the inputs */
#define GROUP_CODES (GROUP_TILES * EXPERT_TILE_BYTES)
#define STAGE_BYTES (GROUP_CODES + GROUP_TILES * EXPERT_TILE_ROWS)
#define RING_BYTES  (STAGES * STAGE_BYTES)
#define DOWN_BANDS  4 /* of 16 rows, in a block of the last product */
#define TOKENS      EXPERT_INPUT_TOKENS

/* A call that may bring more tokens to one expert takes the kernels of expert_wide.cu. */
#define FEW_TOKENS_MAX 16

static_assert(WARPS * RING_BYTES >= 2 * WARPS * EXPERT_TILE_ROWS * TOKENS * 4,
              "partial sums use the rings' memory");

/* A warp's share of one or two bands of 16 rows: groups of tiles one after the other, those of two
 * bands in turn. Addresses are the lane's, of the stage to be fetched next. */
template <int BANDS> struct share {
    const uint8_t *codes[BANDS], *scales[BANDS];
    int groups; /* of a band */
    int tiles;  /* of a band, from the next stage on */
};

/* Groups [first, first + groups) of the row's, shares of warp `idx` of `count`. */
template <int BANDS>
__device__ __forceinline__ int share_groups(struct share<BANDS> *share, int columns, int idx,
                                            int count)
{
    int tiles = columns / EXPERT_TILE_COLUMNS;
    int groups = (tiles + GROUP_TILES - 1) / GROUP_TILES;
    int each = (groups + count - 1) / count;
    int first = min(groups, idx * each);
    share->groups = min(groups, first + each) - first;
    share->tiles = min(tiles - first * GROUP_TILES, share->groups * GROUP_TILES);
    return first;
}

template <int BANDS>
__device__ __forceinline__ void share_band(struct share<BANDS> *share, int idx,
                                           const struct expert_layout &layout, const uint8_t *slot,
                                           int part, int columns, int band, int first_group)
{
    int lane = (int)threadIdx.x % WARP_LANES;
    size_t tile =
        (size_t)band * (size_t)(columns / EXPERT_TILE_COLUMNS) + (size_t)first_group * GROUP_TILES;
    share->codes[idx] = slot + layout.offset_bytes[part] + tile * EXPERT_TILE_BYTES + lane * 16;
    share->scales[idx] = slot + layout.offset_bytes[part + 1] + tile * EXPERT_TILE_ROWS + lane * 16;
}

/* Starts the copies of the next stage, which is the band's `band`, with zeros beyond the last tile;
 * always ends a group of copies. */
template <int BANDS>
__device__ __forceinline__ void fetch(struct share<BANDS> *share, int band, uint8_t *stage)
{
    int lane = (int)threadIdx.x % WARP_LANES;
    if (share->tiles > 0) {
        int bytes = share->tiles * EXPERT_TILE_BYTES - lane * 16;
        copy_async_16(stage + lane * 16, share->codes[band], bytes > 0 ? 16 : 0);
        copy_async_16(stage + GROUP_CODES / 2 + lane * 16, share->codes[band] + GROUP_CODES / 2,
                      bytes > GROUP_CODES / 2 ? 16 : 0);
        if (lane < GROUP_TILES)
            copy_async_16(stage + GROUP_CODES + lane * 16, share->scales[band],
                          lane < share->tiles ? 16 : 0);
        share->codes[band] += GROUP_CODES;
        share->scales[band] += GROUP_TILES * EXPERT_TILE_ROWS;
        if (band == BANDS - 1) share->tiles -= GROUP_TILES;
    }
    copy_async_commit();
}

/* The f32 bits of 2^(code - 127) from a byte at bit `shift`. Code 0 becomes zero rather than
 * 2^-127: so small a weight is lost beside any other. */
__device__ __forceinline__ float scale_of(uint32_t bytes, int shift)
{
    return lowp_from_bits((shift <= 23 ? bytes << (23 - shift) : bytes >> (shift - 23)) &
                          0x7f800000u);
}

/* sums += 16 rows x 128 columns of a stage times the inputs of the tokens. Row 2g of the band is
 * row g of the product, row 2g + 1 row g + 8, so that a lane reads its weights in one piece. `x`
 * and `scale_left`, `scale_right` are the lane's: columns 8j .. 8j + 7 of token g, and the scales
 * of tokens 2j and 2j + 1 for these columns. */
__device__ __forceinline__ void multiply_stage(const uint8_t *stage, const uint16_t *x,
                                               float scale_left, float scale_right, float sums[4])
{
    int lane = (int)threadIdx.x % WARP_LANES;
    const uint8_t *codes = stage + lane % 4 * 64 + lane / 4 * 8;
    const uint8_t *scales = stage + GROUP_CODES + lane / 4 * 2;
    float part[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int tile = 0; tile < GROUP_TILES; tile++) {
        const uint2 words = *reinterpret_cast<const uint2 *>(codes + tile * EXPERT_TILE_BYTES);
        const uint4 input = *reinterpret_cast<const uint4 *>(x + tile * EXPERT_TILE_COLUMNS);
        uint32_t pair = *reinterpret_cast<const uint16_t *>(scales + tile * EXPERT_TILE_ROWS);
        uint32_t even[4], odd[4];
        fp4_expand(words.x, even);
        fp4_expand(words.y, odd);
        const uint32_t left[4] = {even[0], odd[0], even[1], odd[1]};
        const uint32_t right[4] = {even[2], odd[2], even[3], odd[3]};
        float products[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        mma_f16(products, left, input.x, input.y);
        mma_f16(products, right, input.z, input.w);
        part[0] = fmaf(products[0], scale_of(pair, 0), part[0]);
        part[1] = fmaf(products[1], scale_of(pair, 0), part[1]);
        part[2] = fmaf(products[2], scale_of(pair, 8), part[2]);
        part[3] = fmaf(products[3], scale_of(pair, 8), part[3]);
    }
    sums[0] = fmaf(part[0], scale_left, sums[0]);
    sums[1] = fmaf(part[1], scale_right, sums[1]);
    sums[2] = fmaf(part[2], scale_left, sums[2]);
    sums[3] = fmaf(part[3], scale_right, sums[3]);
}

template <int BANDS>
__device__ __forceinline__ void fetch_first(struct share<BANDS> *share, uint8_t *ring)
{
    for (int i = 0; i < STAGES - 1; i++)
        fetch(share, i % BANDS, ring + i * STAGE_BYTES);
}

/* All stages of a warp's share, from column group `first_group` on; STAGES - 1 have been fetched.
 */
template <int BANDS>
__device__ __forceinline__ void multiply_share(struct share<BANDS> *share, uint8_t *ring,
                                               const struct expert_input &input, int first_group,
                                               float sums[BANDS][4])
{
    int lane = (int)threadIdx.x % WARP_LANES;
    int token = lane % 4 * 2;
    const uint16_t *x =
        expert_input_codes(input, lane / 4) + first_group * LOWP_FP8_BLOCK + lane % 4 * 8;
    const float *scale_left = expert_input_scales(input, token) + first_group;
    const float *scale_right = expert_input_scales(input, token + 1) + first_group;
    int at = 0;                            /* the stage to be used, in the ring */
    int free = (STAGES - 1) * STAGE_BYTES; /* the one used last */
    for (int i = 0; i < share->groups; i++) {
#pragma unroll
        for (int band = 0; band < BANDS; band++) {
            copy_async_wait<STAGES - 2>();
            __syncwarp(); /* the stage is there, and the one before has been read */
            fetch(share, (band + STAGES - 1) % BANDS, ring + free);
            multiply_stage(ring + at, x, scale_left[i] * FP4_MISSING, scale_right[i] * FP4_MISSING,
                           sums[band]);
            free = at;
            at = at + STAGE_BYTES == RING_BYTES ? 0 : at + STAGE_BYTES;
        }
        x += LOWP_FP8_BLOCK;
    }
    copy_async_wait<0>();
}

/* Where a warp's sums [rows, tokens] lie for the block to add up. */
__device__ __forceinline__ void put_sums(float *parts, const float sums[4])
{
    int lane = (int)threadIdx.x % WARP_LANES;
    int row = lane / 4 * 2;
    int token = lane % 4 * 2;
    parts[row * TOKENS + token] = sums[0];
    parts[row * TOKENS + token + 1] = sums[1];
    parts[(row + 1) * TOKENS + token] = sums[2];
    parts[(row + 1) * TOKENS + token + 1] = sums[3];
}

/* middle = bf16(weight * swiglu(w1 x, w3 x)) for 16 rows; grid (bands, tasks). */
static __global__ void __launch_bounds__(THREADS, BLOCKS_MIN)
    gate_up_kernel(const struct expert_ffn_work ffn)
{
    launch_chain();
    SL_SHARED(uint8_t, shared);
    expert_table_await<THREADS>(ffn.table);
    const struct expert_task task = ffn.tasks[blockIdx.y];
    if (task.count <= 0) return;
    int warp = (int)threadIdx.x / WARP_LANES;
    int hidden = ffn.layout.hidden;
    int width = ffn.layout.width;
    uint8_t *ring = shared + warp * RING_BYTES;
    float *parts = reinterpret_cast<float *>(shared);
    struct expert_input input =
        expert_input_make(shared + WARPS * RING_BYTES, hidden, min(ffn.args.scratch_rows, TOKENS));

    for (int first = 0; first < task.count; first += ffn.together) {
        float sums[2][4] = {};
        struct share<2> share;
        int group = share_groups(&share, hidden, warp, WARPS);
        share_band(&share, 0, ffn.layout, task.slot, EXPERT_W1, hidden, (int)blockIdx.x, group);
        share_band(&share, 1, ffn.layout, task.slot, EXPERT_W3, hidden, (int)blockIdx.x, group);
        fetch_first(&share, ring);
        input.tokens = min(ffn.together, task.count - first);
        expert_input_fill(input, ffn.args.x, task.token_rows + first);
        __syncthreads();
        multiply_share(&share, ring, input, group, sums);
        __syncthreads(); /* the rings become the partial sums */
        for (int band = 0; band < 2; band++)
            put_sums(parts + (warp * 2 + band) * EXPERT_TILE_ROWS * TOKENS, sums[band]);
        __syncthreads();
        int row = (int)threadIdx.x % EXPERT_TILE_ROWS;
        int token = (int)threadIdx.x / EXPERT_TILE_ROWS;
        if (token < input.tokens) {
            float gate = 0.0f;
            float up = 0.0f;
            for (int w = 0; w < WARPS; w++) {
                gate += parts[(2 * w * EXPERT_TILE_ROWS + row) * TOKENS + token];
                up += parts[((2 * w + 1) * EXPERT_TILE_ROWS + row) * TOKENS + token];
            }
            float value = swiglu(bf16_round(gate), bf16_round(up), ffn.args.limit);
            size_t pair = (size_t)blockIdx.y * (size_t)ffn.args.scratch_rows + first + token;
            ffn.middle[pair * (size_t)width + blockIdx.x * EXPERT_TILE_ROWS + row] =
                bf16_round(task.weights[first + token] * value);
        }
        __syncthreads(); /* the partial sums become rings, the inputs the next tokens' */
    }
}

/* out = w2 middle for 64 rows, two warps a band; grid (row blocks, tasks). */
static __global__ void __launch_bounds__(THREADS, BLOCKS_MIN)
    down_kernel(const struct expert_ffn_work ffn)
{
    launch_chain();
    SL_SHARED(uint8_t, shared);
    expert_table_forget(ffn.table);
    const struct expert_task task = ffn.tasks[blockIdx.y];
    if (task.count <= 0) return;
    int warp = (int)threadIdx.x / WARP_LANES;
    int hidden = ffn.layout.hidden;
    int width = ffn.layout.width;
    uint8_t *ring = shared + warp * RING_BYTES;
    float *parts = reinterpret_cast<float *>(shared);
    struct expert_input input =
        expert_input_make(shared + WARPS * RING_BYTES, width, min(ffn.args.scratch_rows, TOKENS));
    int band = (int)blockIdx.x * DOWN_BANDS + warp / 2;

    for (int first = 0; first < task.count; first += ffn.together) {
        float sums[1][4] = {};
        const float *middle =
            ffn.middle +
            ((size_t)blockIdx.y * (size_t)ffn.args.scratch_rows + first) * (size_t)width;
        struct share<1> share = {
        };
        int group = 0;
        if (band * EXPERT_TILE_ROWS < hidden) {
            group = share_groups(&share, width, warp % 2, 2);
            share_band(&share, 0, ffn.layout, task.slot, EXPERT_W2, width, band, group);
        }
        fetch_first(&share, ring);
        input.tokens = min(ffn.together, task.count - first);
        expert_input_fill(input, middle, NULL);
        __syncthreads();
        multiply_share(&share, ring, input, group, sums);
        __syncthreads();
        put_sums(parts + warp * EXPERT_TILE_ROWS * TOKENS, sums[0]);
        __syncthreads();
        for (int i = (int)threadIdx.x; i < DOWN_BANDS * EXPERT_TILE_ROWS * TOKENS; i += THREADS) {
            int row = i % (DOWN_BANDS * EXPERT_TILE_ROWS);
            int token = i / (DOWN_BANDS * EXPERT_TILE_ROWS);
            int out_row = (int)blockIdx.x * DOWN_BANDS * EXPERT_TILE_ROWS + row;
            if (token >= input.tokens || out_row >= hidden) continue;
            const float *sum =
                parts +
                ((row / EXPERT_TILE_ROWS * 2) * EXPERT_TILE_ROWS + row % EXPERT_TILE_ROWS) *
                    TOKENS +
                token;
            ffn.args.out[(size_t)task.output_rows[first + token] * (size_t)hidden + out_row] =
                bf16_round(sum[0] + sum[EXPERT_TILE_ROWS * TOKENS]);
        }
        __syncthreads();
    }
}

/* Dynamic shared memory of a kernel whose inputs have `columns`, `tokens` at once. */
static size_t shared_bytes(int32_t columns, int32_t tokens)
{
    return WARPS * RING_BYTES + expert_input_bytes(columns, tokens);
}

/* As many tokens at once as the call can bring, a product holds and shared memory allows. */
static int32_t tokens_together(const struct stream *stream, const struct expert_ffn_args *args)
{
    int32_t columns = max_i32(args->layout->hidden, args->layout->width);
    int32_t tokens = min_i32(args->scratch_rows, TOKENS);
    while (tokens > 1 && shared_bytes(columns, tokens) > (size_t)stream->shared_bytes_max)
        tokens--;
    SL_ASSERT(shared_bytes(columns, tokens) <= (size_t)stream->shared_bytes_max);
    return tokens;
}

static void launch_exact(struct stream *stream, const struct expert_ffn_work *ffn)
{
    const struct expert_layout *layout = &ffn->layout;
    size_t gate_bytes = shared_bytes(layout->hidden, ffn->together);
    size_t down_bytes = shared_bytes(layout->width, ffn->together);
    unsigned tasks = (unsigned)ffn->args.task_count;
    SL_ALLOW_SHARED(stream, gate_up_kernel, gate_bytes);
    SL_ALLOW_SHARED(stream, down_kernel, down_bytes);
    SL_LAUNCH(stream, gate_up_kernel, dim3((unsigned)layout->width / EXPERT_TILE_ROWS, tasks),
              THREADS, gate_bytes, *ffn);
    SL_LAUNCH(stream, down_kernel,
              dim3(launch_blocks(layout->hidden, DOWN_BANDS * EXPERT_TILE_ROWS), tasks), THREADS,
              down_bytes, *ffn);
}

/* Tasks of a call whose results of the first products fit into scratch. */
static int32_t tasks_together(const struct expert_ffn_args *args)
{
    size_t bytes = (size_t)args->scratch_rows * (size_t)args->layout->width * sizeof(float);
    SL_ASSERT(bytes <= CUDA_SCRATCH_BYTES);
    return min_i32(args->task_count, (int32_t)(CUDA_SCRATCH_BYTES / bytes));
}

static void check(const struct expert_ffn_args *args)
{
    const struct expert_layout *layout = args->layout;
    SL_ASSERT(layout->hidden > 0 && layout->hidden % EXPERT_TILE_COLUMNS == 0);
    SL_ASSERT(layout->width > 0 && layout->width % EXPERT_TILE_COLUMNS == 0);
    SL_ASSERT((uintptr_t)args->x % 16 == 0);
    SL_ASSERT(args->task_count >= 0 && args->scratch_rows >= 0);
}

bool expert_ffn_few(struct stream *stream, struct expert_ffn_work *work)
{
    const struct expert_ffn_args *args = &work->args;
    check(args);
    if (!args->round || args->scratch_rows > FEW_TOKENS_MAX) return false;
    if (args->task_count == 0 || args->scratch_rows == 0) return false;
    if (tasks_together(args) < args->task_count) return false;
    work->tasks = args->tasks;
    work->middle = reinterpret_cast<float *>(stream->scratch);
    work->together = tokens_together(stream, args);
    launch_exact(stream, work);
    return true;
}

/* Tasks, and what they point to, are device memory; a task without tokens costs nothing else, so a
 * recorded launch may hold more than there are. The layout is the host's. */
extern "C" void cuda_expert_ffn(struct stream *stream, const struct expert_ffn_args *args)
{
    struct expert_ffn_work ffn = {
        .args = *args, .layout = *args->layout, .middle = NULL, .tasks = args->tasks};
    check(args);
    if (args->task_count == 0 || args->scratch_rows == 0) return;
    SL_ASSERT(args->tokens > 0 && args->tokens <= args->scratch_rows);
    if (args->round && args->tokens > FEW_TOKENS_MAX) {
        expert_ffn_wide(stream, &ffn);
        return;
    }
    ffn.args.scratch_rows = args->tokens;
    ffn.together = tokens_together(stream, &ffn.args);
    int32_t together = tasks_together(&ffn.args);
    for (int32_t first = 0; first < args->task_count; first += together) {
        ffn.middle = reinterpret_cast<float *>(stream->scratch);
        ffn.tasks = args->tasks + first;
        ffn.args.task_count = min_i32(together, args->task_count - first);
        if (args->round)
            launch_exact(stream, &ffn);
        else
            expert_ffn_plain(stream, &ffn);
    }
}
