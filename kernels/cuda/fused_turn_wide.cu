/* From one sublayer to the next for the many tokens of a prompt's chunk, in one launch.
 *
 * A block draws a number, and with it work: to mix 64 channels of all streams for 32 tokens and to
 * multiply them by the weights of the next mix, or, where all channels of some tokens are mixed, to
 * add their products and to fold, norm and factor. Numbers are drawn in such an order that a
 * token's streams are read again while they are still in the second-level cache; who waits, waits
 * for blocks that have drawn before it and wait for nobody.
 *
 * KiB a token at 4096 channels that pass memory, read and written, each array once: 256 with the
 * experts' rows (112 of the sublayer's output, 64 and 64 of streams, 16 of the input), 160 without;
 * the chain of ops 448 and 320 (moe_combine 128; hyper_post 144, linear 64, hyper_pre 80, norm 32).
 * Out of the second-level cache 48 of weights, 64 of streams and 16 of sums, where the chain's
 * linear, which multiplies 4 rows by 4 tokens a block, takes 768.
 *
 * Against the chain of twins: what goes into the streams is equal bit for bit; sums of products and
 * of squares go in another order, 2e-6 of the largest, so with `round` one bf16 step, rarely. A
 * token's sums go in the same order whatever its neighbours and whichever block does what. */
#include "kernels/cuda/fused_turn.cuh"
#include "kernels/cuda/hyper_factors.cuh"
#include "kernels/cuda/hyper_post.cuh"

#define THREADS      256
#define WARPS        (THREADS / WARP_LANES)
#define TILE         WARP_LANES /* tokens mixed at once: a lane each */
#define COLUMNS      (TURN_STREAMS * TURN_CHANNELS)
#define WARP_QUADS   (COLUMNS / 4 / WARPS) /* of columns, multiplied by a warp */
#define TILE_STRIDE  (TILE + 1)
#define ROWS_STRIDE  (TURN_ROWS + 1) /* odd, as the strides above and below: no bank twice */
#define FACTORS      (TURN_STREAMS + TURN_STREAMS * TURN_STREAMS)
#define PART_FLOATS  WARP_LANES           /* of a block and token, TURN_SUMS used: a line */
#define READ_TOKENS  WARPS                /* of a block that reads: a warp's each */
#define TILE_READS   (TILE / READ_TOKENS) /* blocks that read a tile */
#define FOLD_MAX     (TURN_HIDDEN_MAX / 4 / THREADS)
#define RESIDENT     3 /* blocks of a multiprocessor, about */
#define SHARED_BYTES sizeof(struct wide_shared)

struct wide_turn {
    struct fused_turn_args args;
    float *parts;      /* [tokens, blocks, PART_FLOATS] */
    uint32_t *drawn;   /* numbers; zero before and after */
    uint32_t *arrived; /* [tiles] blocks that are done with a tile; zero before and after */
    int32_t blocks;    /* of channels */
    int32_t tiles;
    int32_t lead; /* tiles that are mixed before the first is read; at most tiles */
};

/* Of a block that mixes. */
struct wide_shared {
    float4 weights[COLUMNS / 4][ROWS_STRIDE]; /* four columns of a row of fn */
    union {
        float shown[COLUMNS][TILE_STRIDE];  /* the new streams */
        float sums[WARPS][TILE][TURN_SUMS]; /* of each warp's columns */
    };
    float factors[TILE][FACTORS]; /* post, comb */
};

/* What a block does: mix channels `part` of a tile, or read tokens `part` of it. */
struct wide_work {
    int32_t tile, part;
    bool reads;
};

/* Numbers: `lead` tiles to mix; in turn one to mix and the first not read to read; the rest to
 * read. */
static __device__ __forceinline__ struct wide_work work_of(const struct wide_turn &turn,
                                                           int32_t number)
{
    int32_t step = turn.blocks + TILE_READS;
    int32_t n = number - turn.lead * turn.blocks;
    if (n < 0) return {number / turn.blocks, number % turn.blocks, false};
    int32_t both = turn.tiles - turn.lead;
    if (n >= both * step) {
        n -= both * step;
        return {both + n / TILE_READS, n % TILE_READS, true};
    }
    int32_t tile = n / step;
    n %= step;
    if (n < turn.blocks) return {turn.lead + tile, n, false};
    return {tile, n - turn.blocks, true};
}

/* The next number, and what it means; all threads of the block call. */
static __device__ __forceinline__ struct wide_work draw_work(const struct wide_turn &turn)
{
    __shared__ uint32_t number;
    if (threadIdx.x == 0) {
        number = atomicAdd(turn.drawn, 1u);
        if (number == gridDim.x - 1) *turn.drawn = 0;
    }
    __syncthreads();
    return work_of(turn, (int32_t)number);
}

/* ---- mixing ---- */

static __device__ __forceinline__ float4 load_quad(const float *at)
{
    return *reinterpret_cast<const float4 *>(at);
}

/* Element e, known when compiling. */
static __device__ __forceinline__ float quad_at(const float4 &quad, int e)
{
    return e == 0 ? quad.x : e == 1 ? quad.y : e == 2 ? quad.z : quad.w;
}

static __device__ __forceinline__ float4 add_quad(float4 a, float4 b)
{
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

static __device__ __forceinline__ float4 round_quad(float4 quad, bool round)
{
    return make_float4(round_if(quad.x, round), round_if(quad.y, round), round_if(quad.z, round),
                       round_if(quad.w, round));
}

/* Four channels of what the sublayer gave for token t. */
static __device__ __forceinline__ float4 output_of(const struct fused_turn_args &args, size_t t,
                                                   int32_t c)
{
    size_t hidden = (size_t)args.post.hidden;
    float4 own = load_quad(args.post.x + t * hidden + (size_t)c);
    if (!args.routed) return own;
    const float *rows = args.routed + t * (size_t)args.top * hidden + (size_t)c;
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 8
    for (int32_t k = 0; k < args.top; k++)
        sum = add_quad(sum, load_quad(rows + (size_t)k * hidden));
    sum = add_quad(sum, own);
    return round_quad(sum, args.post.round);
}

/* This block's columns of fn, and the factors of the tile's tokens. */
static __device__ __forceinline__ void load_shared(const struct wide_turn &turn,
                                                   struct wide_work work,
                                                   struct wide_shared *shared)
{
    const struct fused_turn_args &args = turn.args;
    const int32_t quads = TURN_CHANNELS / 4;
    size_t hidden = (size_t)args.post.hidden;
    for (int32_t i = (int32_t)threadIdx.x; i < TURN_ROWS * COLUMNS / 4; i += THREADS) {
        int32_t row = i / (COLUMNS / 4);
        int32_t quad = i % (COLUMNS / 4);
        size_t column = (size_t)(quad / quads) * hidden + (size_t)work.part * TURN_CHANNELS +
                        (size_t)(quad % quads) * 4;
        shared->weights[quad][row] =
            load_quad(args.fn + (size_t)row * TURN_STREAMS * hidden + column);
    }
    int32_t first = work.tile * TILE;
    for (int32_t i = (int32_t)threadIdx.x; i < TILE * FACTORS; i += THREADS) {
        int32_t t = first + i / FACTORS;
        int32_t f = i % FACTORS;
        if (t >= args.post.tokens) break;
        shared->factors[i / FACTORS][f] =
            f < TURN_STREAMS
                ? args.post.post[(size_t)t * TURN_STREAMS + (size_t)f]
                : args.post.comb[(size_t)t * (FACTORS - TURN_STREAMS) + (size_t)(f - TURN_STREAMS)];
    }
}

/* Mixes four channels of a token's streams in place, and shows the new ones. */
static __device__ __forceinline__ void mix_quad(const struct hyper_post_args &post, size_t t,
                                                int32_t c, float4 x, const float *factors,
                                                float (*shown)[TILE_STRIDE], int32_t place)
{
    size_t hidden = (size_t)post.hidden;
    float *streams = post.streams + t * TURN_STREAMS * hidden + (size_t)c;
    float4 old[TURN_STREAMS];
#pragma unroll
    for (int i = 0; i < TURN_STREAMS; i++)
        old[i] = load_quad(streams + (size_t)i * hidden);
    float mixed[4][TURN_STREAMS];
#pragma unroll
    for (int e = 0; e < 4; e++) {
        float olds[TURN_STREAMS];
#pragma unroll
        for (int i = 0; i < TURN_STREAMS; i++)
            olds[i] = quad_at(old[i], e);
        hyper_post_mix<TURN_STREAMS>(factors, factors + TURN_STREAMS, olds, quad_at(x, e),
                                     post.round, mixed[e]);
    }
#pragma unroll
    for (int j = 0; j < TURN_STREAMS; j++) {
        *reinterpret_cast<float4 *>(streams + (size_t)j * hidden) =
            make_float4(mixed[0][j], mixed[1][j], mixed[2][j], mixed[3][j]);
#pragma unroll
        for (int e = 0; e < 4; e++)
            shown[j * TURN_CHANNELS + c % TURN_CHANNELS + e][place] = mixed[e][j];
    }
}

/* By a warp: all sums over its columns, a token a lane. */
static __device__ __forceinline__ void multiply_columns(const struct wide_shared *shared,
                                                        float (&sums)[TURN_SUMS])
{
    int32_t lane = (int32_t)threadIdx.x % WARP_LANES;
    int32_t first = (int32_t)threadIdx.x / WARP_LANES * WARP_QUADS;
#pragma unroll
    for (int r = 0; r < TURN_SUMS; r++)
        sums[r] = 0.0f;
    for (int32_t quad = first; quad < first + WARP_QUADS; quad++) {
        float in[4];
#pragma unroll
        for (int e = 0; e < 4; e++)
            in[e] = shared->shown[quad * 4 + e][lane];
#pragma unroll
        for (int r = 0; r < TURN_ROWS; r++) {
            float4 w = shared->weights[quad][r];
            sums[r] = fmaf(w.x, in[0], sums[r]);
            sums[r] = fmaf(w.y, in[1], sums[r]);
            sums[r] = fmaf(w.z, in[2], sums[r]);
            sums[r] = fmaf(w.w, in[3], sums[r]);
        }
#pragma unroll
        for (int e = 0; e < 4; e++)
            sums[TURN_ROWS] = fmaf(in[e], in[e], sums[TURN_ROWS]);
    }
}

/* The block's part of the sums of a tile's tokens: the warps' in order. */
static __device__ __forceinline__ void write_parts(const struct wide_turn &turn,
                                                   struct wide_work work,
                                                   const struct wide_shared *shared)
{
    int32_t row = (int32_t)threadIdx.x % WARP_LANES;
    if (row >= TURN_SUMS) return;
    for (int32_t i = (int32_t)threadIdx.x / WARP_LANES; i < TILE; i += WARPS) {
        int32_t t = work.tile * TILE + i;
        if (t >= turn.args.post.tokens) return;
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++)
            sum += shared->sums[w][i][row];
        turn.parts[((size_t)t * (size_t)turn.blocks + (size_t)work.part) * PART_FLOATS +
                   (size_t)row] = sum;
    }
}

static __device__ __forceinline__ void mix_tile(const struct wide_turn &turn, struct wide_work work,
                                                struct wide_shared *shared)
{
    const struct fused_turn_args &args = turn.args;
    const int32_t quads = TURN_CHANNELS / 4;
    int32_t lane = (int32_t)threadIdx.x % WARP_LANES;
    int32_t warp = (int32_t)threadIdx.x / WARP_LANES;
    int32_t c = work.part * TURN_CHANNELS + (int32_t)threadIdx.x % quads * 4;
    load_shared(turn, work, shared);
    __syncthreads();
    for (int32_t i = (int32_t)threadIdx.x / quads; i < TILE; i += THREADS / quads) {
        int32_t t = work.tile * TILE + i;
        if (t >= args.post.tokens) break; /* what is shown of no token becomes sums of none */
        mix_quad(args.post, (size_t)t, c, output_of(args, (size_t)t, c), shared->factors[i],
                 shared->shown, i);
    }
    __syncthreads();
    float sums[TURN_SUMS];
    multiply_columns(shared, sums);
    __syncthreads(); /* the sums take the place of what was shown */
#pragma unroll
    for (int r = 0; r < TURN_SUMS; r++)
        shared->sums[warp][lane][r] = sums[r];
    __syncthreads();
    write_parts(turn, work, shared);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) atomicAdd(turn.arrived + work.tile, 1u);
}

/* ---- reading ---- */

/* Until all channels of the tile are mixed and multiplied, and can be seen. */
static __device__ __forceinline__ void await_tile(const struct wide_turn &turn, int32_t tile)
{
    if (threadIdx.x == 0)
        while (__ldcv(turn.arrived + tile) < (uint32_t)turn.blocks)
            __nanosleep(200);
    __syncthreads();
    __threadfence();
}

/* By a warp: the sums of token t [TURN_SUMS], parts in order, and what follows of them. */
static __device__ __forceinline__ void read_sums(const struct wide_turn &turn, size_t t,
                                                 float *sums, float *factors)
{
    const struct hyper_pre_args &pre = turn.args.pre;
    int32_t lane = (int32_t)threadIdx.x % WARP_LANES;
    if (lane < TURN_SUMS) {
        const float *parts = turn.parts + t * (size_t)turn.blocks * PART_FLOATS + (size_t)lane;
        float sum = 0.0f;
#pragma unroll 8
        for (int32_t b = 0; b < turn.blocks; b++)
            sum += __ldcg(parts + (size_t)b * PART_FLOATS);
        sums[lane] = sum;
    }
    __syncwarp();
    float mean = sums[TURN_ROWS] / (float)(TURN_STREAMS * pre.hidden);
    float inverse = 1.0f / sqrtf(mean + pre.norm_epsilon);
    if (lane < TURN_STREAMS)
        factors[lane] =
            hyper_mix_factor(sums[lane], inverse, pre.scale[0], pre.base[lane]) + pre.epsilon;
    hyper_write_factors(pre, t, sums, inverse);
}

/* The input of token t by the block: its streams folded and normed. */
static __device__ __forceinline__ void write_input(const struct fused_turn_args &args, size_t t,
                                                   const float *factors, float *warp_parts)
{
    const struct hyper_pre_args &pre = args.pre;
    size_t hidden = (size_t)pre.hidden;
    const float *streams = pre.streams + t * TURN_STREAMS * hidden;
    float4 folded[FOLD_MAX];
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < FOLD_MAX; i++) {
        int32_t c = 4 * (i * THREADS + (int32_t)threadIdx.x);
        if (c >= pre.hidden) continue;
        float sums[4];
#pragma unroll
        for (int s = 0; s < TURN_STREAMS; s++) {
            float4 in =
                __ldcg(reinterpret_cast<const float4 *>(streams + (size_t)s * hidden + (size_t)c));
#pragma unroll
            for (int e = 0; e < 4; e++) {
                float product = factors[s] * quad_at(in, e);
                sums[e] = s == 0 ? product : sums[e] + product;
            }
        }
#pragma unroll
        for (int e = 0; e < 4; e++) {
            sums[e] = round_if(sums[e], pre.round);
            squares = fmaf(sums[e], sums[e], squares);
        }
        folded[i] = make_float4(sums[0], sums[1], sums[2], sums[3]);
    }
    squares = block_sum(squares, warp_parts);
    float inverse = 1.0f / sqrtf(squares / (float)pre.hidden + pre.norm_epsilon);
#pragma unroll
    for (int i = 0; i < FOLD_MAX; i++) {
        int32_t c = 4 * (i * THREADS + (int32_t)threadIdx.x);
        if (c >= pre.hidden) continue;
        ushort4 weights = *reinterpret_cast<const ushort4 *>(args.norm + c);
        float4 out = make_float4(bf16_decode(weights.x) * (folded[i].x * inverse),
                                 bf16_decode(weights.y) * (folded[i].y * inverse),
                                 bf16_decode(weights.z) * (folded[i].z * inverse),
                                 bf16_decode(weights.w) * (folded[i].w * inverse));
        *reinterpret_cast<float4 *>(pre.x + t * hidden + (size_t)c) = round_quad(out, pre.round);
    }
}

static __device__ __forceinline__ void read_tile(const struct wide_turn &turn,
                                                 struct wide_work work)
{
    __shared__ float sums[READ_TOKENS][TURN_SUMS];
    __shared__ float factors[READ_TOKENS][TURN_STREAMS];
    __shared__ float warp_parts[WARPS_MAX];
    int32_t warp = (int32_t)threadIdx.x / WARP_LANES;
    int32_t first = work.tile * TILE + work.part * READ_TOKENS;
    int32_t end = min(first + READ_TOKENS, turn.args.pre.tokens);
    await_tile(turn, work.tile);
    if (first + warp < end) read_sums(turn, (size_t)(first + warp), sums[warp], factors[warp]);
    __syncthreads();
    for (int32_t t = first; t < end; t++)
        write_input(turn.args, (size_t)t, factors[t - first], warp_parts);
    if (threadIdx.x > 0) return;
    uint32_t before = atomicAdd(turn.arrived + work.tile, 1u);
    if (before == (uint32_t)(turn.blocks + TILE_READS) - 1) turn.arrived[work.tile] = 0;
}

/* Grid: a block for each number. */
static __global__ void __launch_bounds__(THREADS, RESIDENT)
    turn_wide_kernel(const struct wide_turn turn)
{
    static_assert(WARP_QUADS * 4 * WARPS == COLUMNS && TILE_READS * READ_TOKENS == TILE, "shares");
    static_assert(TURN_SUMS <= PART_FLOATS && TURN_SUMS % 2 == 1, "parts, and banks");
    SL_SHARED(struct wide_shared, shared);
    launch_chain();
    struct wide_work work = draw_work(turn);
    if (work.reads)
        read_tile(turn, work);
    else
        mix_tile(turn, work, shared);
}

/* Tokens of one launch: scratch has room for their parts, and tickets for their tiles. */
static int32_t launch_tokens_max(int32_t blocks)
{
    size_t parts = CUDA_SCRATCH_BYTES / ((size_t)blocks * PART_FLOATS * sizeof(float));
    size_t tiles = parts / TILE;
    return (int32_t)(tiles < CUDA_TICKETS - 1 ? tiles : CUDA_TICKETS - 1) * TILE;
}

/* The same turn of `tokens` tokens from `first` on. */
static struct fused_turn_args args_of(const struct fused_turn_args *args, int32_t first,
                                      int32_t tokens)
{
    struct fused_turn_args part = *args;
    size_t skip = (size_t)first;
    size_t hidden = (size_t)args->post.hidden;
    part.post.tokens = part.pre.tokens = tokens;
    part.post.x += skip * hidden;
    part.post.post += skip * TURN_STREAMS;
    part.post.comb += skip * TURN_STREAMS * TURN_STREAMS;
    part.post.streams += skip * TURN_STREAMS * hidden;
    part.pre.streams += skip * TURN_STREAMS * hidden;
    part.pre.x += skip * hidden;
    part.pre.post += skip * TURN_STREAMS;
    part.pre.comb += skip * TURN_STREAMS * TURN_STREAMS;
    if (part.routed) part.routed += skip * (size_t)args->top * hidden;
    return part;
}

bool turn_wide(struct stream *stream, const struct fused_turn_args *args)
{
    uintptr_t addresses =
        reinterpret_cast<uintptr_t>(args->post.x) | reinterpret_cast<uintptr_t>(args->pre.x) |
        reinterpret_cast<uintptr_t>(args->post.streams) | reinterpret_cast<uintptr_t>(args->fn) |
        reinterpret_cast<uintptr_t>(args->routed);
    if (addresses % 16 != 0 || reinterpret_cast<uintptr_t>(args->norm) % 8 != 0) return false;
    struct wide_turn turn = {.parts = reinterpret_cast<float *>(stream->scratch),
                             .drawn = stream->tickets,
                             .arrived = stream->tickets + 1,
                             .blocks = args->post.hidden / TURN_CHANNELS};
    int32_t tokens_max = launch_tokens_max(turn.blocks);
    SL_ALLOW_SHARED(stream, turn_wide_kernel, SHARED_BYTES);
    for (int32_t first = 0; first < args->post.tokens; first += tokens_max) {
        turn.args = args_of(args, first, min_i32(tokens_max, args->post.tokens - first));
        turn.tiles = ceil_div_i32(turn.args.post.tokens, TILE);
        /* Blocks that run at once are then busy with mixing while the first tile is finished. */
        turn.lead = min_i32(turn.tiles, stream->processors * RESIDENT / turn.blocks + 1);
        SL_LAUNCH(stream, turn_wide_kernel, (unsigned)(turn.tiles * (turn.blocks + TILE_READS)),
                  THREADS, SHARED_BYTES, turn);
    }
    return true;
}
