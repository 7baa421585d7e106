/* The indexer for passes of many tokens: scores and choice in one launch, without scores in memory.
 *
 * A block keeps the queries of up to four tokens in shared memory and goes through the keys from
 * the first on, 512 a step, a tile of 32 a warp; an expanded tile serves all its tokens. Of a token
 * it keeps a buffer of candidates, scores as 16 bits (a bf16 value in the order of numbers) and
 * rows. A row enters if it is above the worst of the best rows so far: at equality the lower row
 * wins, and later rows are higher. Where a step might overflow the buffer, a warp for each token
 * finds the best `top` in it by bisection of scores, then of rows among equals, and drops the rest.
 * Rows in random order need that some four times for 65,536 candidates, ascending ones every third
 * step.
 *
 * Scores have the bits of indexer_score.cu, so the choice is exactly that of the kernels for few
 * tokens; which of them runs depends on what fills the device. Bounds the launch: 64 heads * 128
 * multiply-adds a candidate. */
#include "kernels/cuda/indexer_keys.cuh"
#include "kernels/cuda/reduce.cuh"

#define WARPS       16
#define THREADS     (WARPS * WARP_LANES)
#define HEADS       64
#define STEP_ROWS   (WARPS * INDEXER_TILE_ROWS)
#define CAPACITY    2048                        /* of a token's buffer */
#define LANE_WORDS  (CAPACITY / WARP_LANES / 2) /* scores of a buffer, two a word */
#define TOP_MAX     512
#define ROWS_MAX    (1 << 18) /* their bits take the place of the keys at the end */
#define TOKENS_MIN  17
#define TOKENS_LAST 4 /* of a block, at most */

/* Candidates of a token. */
struct buffer {
    uint32_t rows[CAPACITY];
    uint16_t scores[CAPACITY];
};

template <int TOKENS> struct wide_shared {
    uint8_t keys[WARPS][INDEXER_TILE_BYTES]; /* at the end a bit a row */
    uint16_t queries[TOKENS][HEADS * INDEXER_QUERY_PITCH];
    struct buffer buffers[TOKENS];
    uint32_t weights[TOKENS][HEADS / 2]; /* pairs of bf16 */
    uint32_t counts[TOKENS];             /* candidates in the buffer */
    int32_t worst[TOKENS];               /* score that a row must exceed; -1: none */
    int32_t limits[TOKENS];              /* rows to choose from */
    int32_t most;                        /* of these */
    uint32_t parts[WARPS];
};

static_assert(ROWS_MAX / 8 <= WARPS * INDEXER_TILE_BYTES, "a bit for each row");
static_assert(sizeof(struct wide_shared<TOKENS_LAST>) <= 163 * 1024, "what sm_80 has");
static_assert(CAPACITY >= TOP_MAX + 2 * STEP_ROWS, "room for a step after dropping");

__device__ __forceinline__ uint32_t warp_count(uint32_t value)
{
#pragma unroll
    for (int offset = WARP_LANES / 2; offset > 0; offset /= 2)
        value += __shfl_xor_sync(WARP_ALL, value, offset);
    return value;
}

/* The `top`-th largest score of a buffer, of which a lane has words of two; the largest value that
 * as many reach. */
__device__ __forceinline__ uint32_t find_score(const uint32_t words[LANE_WORDS], uint32_t top)
{
    uint32_t cut = 0;
    for (uint32_t bit = 0x8000; bit > 0; bit /= 2) {
        uint32_t reach = 0;
#pragma unroll
        for (int i = 0; i < LANE_WORDS; i++)
            reach += (uint32_t)((words[i] & 0xffff) >= (cut | bit)) +
                     (uint32_t)((words[i] >> 16) >= (cut | bit));
        if (warp_count(reach) >= top) cut |= bit;
    }
    return cut;
}

/* The row of the `need`-th lowest of the lane's equal entries (bits of `equal`). */
__device__ __forceinline__ uint32_t find_row(const uint32_t *rows, uint64_t equal, uint32_t need)
{
    uint32_t bound = 0;
    for (uint32_t bit = ROWS_MAX / 2; bit > 0; bit /= 2) {
        uint32_t below = 0;
        for (uint64_t rest = equal; rest;) {
            int i = 63 - __clzll((long long)rest);
            rest ^= (uint64_t)1 << i;
            below += rows[i * WARP_LANES + (int)threadIdx.x % WARP_LANES] < (bound | bit);
        }
        if (warp_count(below) < need) bound |= bit;
    }
    return bound;
}

/* Keeps the best `top` of `count` candidates, in their order, and returns the worst score among
 * them; by one warp. Not inlined: beside the caller's expanded keys its words would spill. */
static __device__ __attribute__((noinline)) uint32_t keep_best(struct buffer *buffer,
                                                               uint32_t count, uint32_t top)
{
    uint32_t lane = threadIdx.x % WARP_LANES;
    uint32_t words[LANE_WORDS];
#pragma unroll
    for (uint32_t i = 0; i < LANE_WORDS; i++) {
        uint32_t first = 2 * i * WARP_LANES + lane;
        uint32_t second = first + WARP_LANES;
        words[i] = first < count ? buffer->scores[first] : 0u;
        words[i] |= second < count ? (uint32_t)buffer->scores[second] << 16 : 0u;
    }
    uint32_t cut = find_score(words, top);
    uint32_t above = 0;
    uint64_t equal = 0;
#pragma unroll
    for (uint32_t i = 0; i < 2 * LANE_WORDS; i++) {
        uint32_t score = words[i / 2] >> (i % 2 * 16) & 0xffff;
        above += score > cut;
        if (score == cut && i * WARP_LANES + lane < count) equal |= (uint64_t)1 << i;
    }
    uint32_t need = top - warp_count(above);
    uint32_t bound = ROWS_MAX;
    if (warp_count((uint32_t)__popcll(equal)) > need) bound = find_row(buffer->rows, equal, need);
    uint32_t kept = 0;
    for (uint32_t first = 0; first < count; first += WARP_LANES) {
        uint32_t i = first + lane;
        uint32_t row = 0;
        uint32_t score = 0;
        if (i < count) {
            row = buffer->rows[i];
            score = buffer->scores[i];
        }
        bool keep = i < count && (score > cut || (score == cut && row <= bound));
        uint32_t votes = __ballot_sync(WARP_ALL, keep); /* and all have read */
        uint32_t place = kept + (uint32_t)__popc(votes & ((1u << lane) - 1));
        if (keep) {
            buffer->rows[place] = row;
            buffer->scores[place] = (uint16_t)score;
        }
        kept += (uint32_t)__popc(votes);
        __syncwarp();
    }
    return cut;
}

/* Adds the lanes' rows that are above the worst; returns how many candidates there are then, as far
 * as this warp knows. */
__device__ __forceinline__ uint32_t append(struct buffer *buffer, uint32_t *count, bool take,
                                           uint32_t row, uint32_t score)
{
    uint32_t lane = threadIdx.x % WARP_LANES;
    uint32_t votes = __ballot_sync(WARP_ALL, take);
    if (votes == 0) return 0;
    uint32_t first = 0;
    if (lane == 0) first = atomicAdd(count, (uint32_t)__popc(votes));
    first = __shfl_sync(WARP_ALL, first, 0);
    if (take) {
        uint32_t place = first + (uint32_t)__popc(votes & ((1u << lane) - 1));
        buffer->rows[place] = row;
        buffer->scores[place] = (uint16_t)score;
    }
    return first + (uint32_t)__popc(votes);
}

/* The rows of a buffer in ascending order, by the block, through a bit for each of `candidates`. */
__device__ __forceinline__ void write_rows(const struct buffer *buffer, int top, int candidates,
                                           uint32_t *bits, uint32_t *parts, int32_t *selected)
{
    int words = (candidates + 31) / 32;
    int each = (words + THREADS - 1) / THREADS;
    int begin = (int)threadIdx.x * each;
    int end = min(words, begin + each);
    for (int i = (int)threadIdx.x; i < words; i += THREADS)
        bits[i] = 0;
    __syncthreads();
    for (int i = (int)threadIdx.x; i < top; i += THREADS)
        atomicOr(&bits[buffer->rows[i] / 32], 1u << buffer->rows[i] % 32);
    __syncthreads();
    uint32_t own = 0;
    uint32_t total;
    for (int i = begin; i < end; i++)
        own += (uint32_t)__popc(bits[i]);
    uint32_t place = block_scan(own, parts, &total);
    for (int i = begin; i < end; i++)
        for (uint32_t rest = bits[i]; rest; rest &= rest - 1)
            selected[place++] = i * 32 + __ffs((int)rest) - 1;
    __syncthreads(); /* the bits have been read */
}

/* Token t's candidates where it has to choose; 0 where it takes all, or is not there. */
__device__ __forceinline__ int choice_of(const struct indexer_work &work, int t)
{
    if (t >= work.tokens || indexer_takes_all(work, t)) return 0;
    return indexer_candidates(work, t);
}

/* Queries and weights of the block's tokens into shared memory; buffers are empty. */
template <int TOKENS>
__device__ __forceinline__ void load_tokens(const struct indexer_work &work, int first,
                                            struct wide_shared<TOKENS> *shared)
{
    int tokens = min(TOKENS, work.tokens - first);
    int words = work.heads_padded * INDEXER_QUERY_PITCH / 8;
    for (int k = 0; k < tokens; k++) {
        const uint4 *packed =
            reinterpret_cast<const uint4 *>(work.queries) + (size_t)(first + k) * (size_t)words;
        uint4 *queries = reinterpret_cast<uint4 *>(shared->queries[k]);
        const float *scaled = work.weights + (size_t)(first + k) * (size_t)work.heads_padded;
        for (int i = (int)threadIdx.x; i < words; i += THREADS)
            queries[i] = packed[i];
        for (int i = (int)threadIdx.x; i < work.heads_padded / 2; i += THREADS)
            shared->weights[k][i] = pack_bf16(scaled[2 * i], scaled[2 * i + 1]);
    }
    if (threadIdx.x < TOKENS) {
        shared->counts[threadIdx.x] = 0;
        shared->worst[threadIdx.x] = -1;
        shared->limits[threadIdx.x] = choice_of(work, first + (int)threadIdx.x);
    }
}

/* Starts the copy of a tile, of `rows` rows in all. */
__device__ __forceinline__ void fetch_tile(const uint8_t *keys, int tile, int rows, uint8_t *stage)
{
    indexer_fetch(keys, (int64_t)tile * INDEXER_TILE_BYTES, (int64_t)rows * INDEXER_KEY_BYTES,
                  stage);
}

/* Grid (tokens / TOKENS). */
template <int TOKENS>
static __global__ void __launch_bounds__(THREADS, 1) indexer_wide_kernel(struct indexer_work work)
{
    launch_chain();
    SL_SHARED(struct wide_shared<TOKENS>, shared);
    const struct indexer_args &args = work.args;
    int warp = (int)threadIdx.x / WARP_LANES;
    int first = (int)blockIdx.x * TOKENS;
    int most = 0;
    for (int k = 0; k < TOKENS; k++)
        most = max(most, choice_of(work, first + k));
    uint8_t *stage = shared->keys[warp];
    fetch_tile(args.rows, warp, most, stage);
    load_tokens(work, first, shared);
    if (threadIdx.x == 0) shared->most = most;
    __syncthreads();
    for (int step = 0; step < shared->most; step += STEP_ROWS) {
        struct indexer_keys keys;
        int row = step + warp * INDEXER_TILE_ROWS + indexer_lane_row();
        bool full = false;
        copy_async_wait<0>();
        __syncwarp();
        indexer_expand(stage, &keys);
        __syncwarp(); /* all have read */
        fetch_tile(args.rows, step / INDEXER_TILE_ROWS + WARPS + warp, shared->most, stage);
#pragma unroll 1
        for (int k = 0; k < TOKENS; k++) {
            if (step + warp * INDEXER_TILE_ROWS >= shared->limits[k]) continue;
            float score =
                indexer_score(keys, shared->queries[k], shared->weights[k], work.heads_padded);
            uint32_t bits = indexer_key(score) >> 16;
            bool take = row < shared->limits[k] && (int32_t)bits > shared->worst[k];
            full |= append(&shared->buffers[k], &shared->counts[k], take, (uint32_t)row, bits) >
                    CAPACITY - STEP_ROWS;
        }
        bool last = step + STEP_ROWS >= shared->most;
        if (!__syncthreads_or(full) && !last) continue;
        uint32_t top = (uint32_t)args.top;
        if (warp < TOKENS && shared->counts[warp] > top) {
            uint32_t worst = keep_best(&shared->buffers[warp], shared->counts[warp], top);
            if (threadIdx.x % WARP_LANES == 0) {
                shared->counts[warp] = top;
                shared->worst[warp] = (int32_t)worst;
            }
        }
        __syncthreads();
    }
    copy_async_wait<0>();
    __syncthreads();
#pragma unroll 1
    for (int k = 0; k < TOKENS && first + k < work.tokens; k++) {
        int32_t *selected =
            args.selected + (size_t)(work.first_token + first + k) * (size_t)args.top;
        int candidates = indexer_candidates(work, first + k);
        if (indexer_takes_all(work, first + k)) {
            for (int i = (int)threadIdx.x; i < args.top; i += THREADS)
                selected[i] = i < candidates ? i : -1;
            continue;
        }
        write_rows(&shared->buffers[k], args.top, candidates,
                   reinterpret_cast<uint32_t *>(shared->keys), shared->parts, selected);
    }
}

/* A kernel by the tokens of a block. */
struct wide_kernel {
    void (*kernel)(struct indexer_work);
    size_t shared_bytes;
    int32_t tokens;
};

static const struct wide_kernel wide_kernels[] = {
    {indexer_wide_kernel<1>, sizeof(struct wide_shared<1>), 1},
    {indexer_wide_kernel<2>, sizeof(struct wide_shared<2>), 2},
    {indexer_wide_kernel<TOKENS_LAST>, sizeof(struct wide_shared<TOKENS_LAST>), TOKENS_LAST},
};

/* The kernel whose blocks fill the device best, or NULL where the kernels that spread a token over
 * the device are expected to be faster. A block's time is taken as that of its tokens and a quarter
 * of one for its keys, that of the others as one and a half of their share: estimates, since no GPU
 * has run either. */
static const struct wide_kernel *choose(const struct stream *stream, int32_t tokens)
{
    const struct wide_kernel *best = NULL;
    int64_t best_quarters = 6 * (int64_t)tokens / stream->processors;
    for (size_t i = 0; i < SL_COUNT_OF(wide_kernels); i++) {
        const struct wide_kernel *one = &wide_kernels[i];
        int64_t waves = ceil_div_i32(ceil_div_i32(tokens, one->tokens), stream->processors);
        int64_t quarters = waves * (4 * one->tokens + 1);
        if (one->shared_bytes > (size_t)stream->shared_bytes_max || quarters > best_quarters)
            continue;
        best = one;
        best_quarters = quarters;
    }
    return best;
}

bool indexer_wide(struct stream *stream, const struct indexer_work *call)
{
    struct indexer_work work = *call;
    const struct wide_kernel *wide = choose(stream, work.args.tokens);
    if (!work.packed || work.args.tokens < TOKENS_MIN || wide == NULL) return false;
    if (work.heads_padded > HEADS || work.args.top > TOP_MAX || work.args.rows_max > ROWS_MAX)
        return false;
    size_t token_floats = (size_t)work.heads_padded;
    size_t token_bytes = token_floats * (INDEXER_QUERY_PITCH * sizeof(uint16_t) + sizeof(float));
    int32_t together = (int32_t)(CUDA_SCRATCH_BYTES / token_bytes);
    int32_t wave = stream->processors * wide->tokens;
    if (together >= wave) together -= together % wave; /* no part ends with idle processors */
    work.bins = NULL;
    for (int32_t first = 0; first < work.args.tokens; first += together) {
        work.first_token = first;
        work.tokens = min_i32(together, work.args.tokens - first);
        work.queries = reinterpret_cast<uint16_t *>(stream->scratch);
        work.weights = reinterpret_cast<float *>(work.queries + (size_t)work.tokens * token_floats *
                                                                    INDEXER_QUERY_PITCH);
        indexer_prepare(stream, &work);
        SL_ALLOW_SHARED(stream, wide->kernel, wide->shared_bytes);
        SL_LAUNCH(stream, wide->kernel, launch_blocks(work.tokens, wide->tokens), THREADS,
                  wide->shared_bytes, work);
    }
    return true;
}
