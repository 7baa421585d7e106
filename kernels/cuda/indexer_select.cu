/* The best rows by their scores, ascending, ties to the lower row.
 *
 * Scores as unsigned keys are narrowed to the key of the last row that is taken: counts by the
 * highest 11 bits come with the scores; of the keys in the bin that holds the cut, the next bits
 * are counted by blocks of 2048 rows each. A bf16 score has five of them and is then known; a f32
 * has eleven, counted over all, and ten, counted by blocks. With the counts of the blocks before it
 * every block knows where its rows go, so nothing depends on the order in which blocks run. */
#include "kernels/cuda/indexer.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"

#define THREADS     256
#define WARPS       (THREADS / WARP_LANES)
#define THREAD_ROWS (INDEXER_BLOCK_ROWS / THREADS)
#define BINS_MAX    INDEXER_BINS

/* The bin that holds the cut: fewer than `need` entries lie above it, at least that many at or
 * above. `rest` of its own are to be taken. */
struct cut {
    int bin;
    uint32_t rest;
};

/* By all threads; bins [count], count a multiple of 32 and at most BINS_MAX, in any memory. */
__device__ __forceinline__ struct cut find_cut(const uint32_t *bins, int count, uint32_t need,
                                               uint32_t *parts, struct cut *found)
{
    int each = (count + THREADS - 1) / THREADS;
    int last = count - 1 - (int)threadIdx.x * each; /* the thread's bins go down from here */
    uint32_t own = 0;
    uint32_t total;
    for (int i = 0; i < each; i++)
        if (last - i >= 0) own += bins[last - i];
    uint32_t above = block_scan(own, parts, &total);
    if (above < need && above + own >= need) {
        int bin = last;
        for (; above + bins[bin] < need; bin--)
            above += bins[bin];
        found->bin = bin;
        found->rest = need - above;
    }
    __syncthreads();
    struct cut cut = *found;
    __syncthreads(); /* the next call may write */
    return cut;
}

/* The key's bits [low, low + bits). */
__device__ __forceinline__ int bits_of(uint32_t key, int low, int bits)
{
    return (int)(key >> low & ((1u << bits) - 1));
}

/* Where the last counting begins: bits known before it, and how many it adds. */
__device__ __forceinline__ int last_bits(const struct indexer_work &work)
{
    return work.args.round ? 16 - INDEXER_BINS_BITS : INDEXER_LAST_BITS;
}

__device__ __forceinline__ int known_bits(const struct indexer_work &work)
{
    return work.args.round ? INDEXER_BINS_BITS : 32 - INDEXER_LAST_BITS;
}

/* The first known_bits of the cut's key, and how many rows that begin so are to be taken. */
__device__ __forceinline__ uint32_t find_prefix(const struct indexer_work &work, int t,
                                                uint32_t *parts, struct cut *found, uint32_t *rest)
{
    const uint32_t *bins = work.bins + (size_t)t * 2 * INDEXER_BINS;
    struct cut cut = find_cut(bins, INDEXER_BINS, (uint32_t)work.args.top, parts, found);
    uint32_t prefix = (uint32_t)cut.bin;
    if (!work.args.round) {
        cut = find_cut(bins + INDEXER_BINS, INDEXER_BINS, cut.rest, parts, found);
        prefix = prefix << INDEXER_BINS_BITS | (uint32_t)cut.bin;
    }
    *rest = cut.rest;
    return prefix;
}

/* f32 scores only: counts by the second 11 bits of keys in the first cut's bin. Grid (blocks,
 * tokens). */
static __global__ void __launch_bounds__(THREADS) indexer_narrow_kernel(struct indexer_work work)
{
    launch_chain();
    __shared__ uint32_t parts[WARPS];
    __shared__ struct cut found;
    int t = (int)blockIdx.y;
    if (indexer_takes_all(work, t)) return;
    uint32_t *bins = work.bins + (size_t)t * 2 * INDEXER_BINS;
    struct cut cut = find_cut(bins, INDEXER_BINS, (uint32_t)work.args.top, parts, &found);
    int first = (int)blockIdx.x * INDEXER_BLOCK_ROWS;
    int end = min(first + INDEXER_BLOCK_ROWS, indexer_candidates(work, t));
    const float *scores = indexer_scores(work, t);
    for (int row = first + (int)threadIdx.x; row < end; row += THREADS) {
        uint32_t key = indexer_key(scores[row]);
        if (bits_of(key, 32 - INDEXER_BINS_BITS, INDEXER_BINS_BITS) != cut.bin) continue;
        int bin = bits_of(key, 32 - 2 * INDEXER_BINS_BITS, INDEXER_BINS_BITS);
        atomicAdd(&bins[INDEXER_BINS + bin], 1u);
    }
}

/* counts[block]: by the last bits of keys with the cut's prefix, then of all keys above it. Grid
 * (blocks, tokens). */
static __global__ void __launch_bounds__(THREADS) indexer_count_kernel(struct indexer_work work)
{
    launch_chain();
    __shared__ uint32_t counts[INDEXER_COUNTS];
    __shared__ uint32_t parts[WARPS];
    __shared__ struct cut found;
    int t = (int)blockIdx.y;
    if (indexer_takes_all(work, t)) return;
    int first = (int)blockIdx.x * INDEXER_BLOCK_ROWS;
    int end = min(first + INDEXER_BLOCK_ROWS, indexer_candidates(work, t));
    int known = known_bits(work);
    int last = last_bits(work);
    if (first >= end) return;
    for (int i = (int)threadIdx.x; i <= 1 << last; i += THREADS)
        counts[i] = 0;
    uint32_t rest;
    uint32_t prefix = find_prefix(work, t, parts, &found, &rest);
    const float *scores = indexer_scores(work, t);
    for (int row = first + (int)threadIdx.x; row < end; row += THREADS) {
        uint32_t key = indexer_key(scores[row]);
        uint32_t head = key >> (32 - known);
        if (head > prefix) atomicAdd(&counts[1 << last], 1u);
        if (head == prefix) atomicAdd(&counts[bits_of(key, 32 - known - last, last)], 1u);
    }
    __syncthreads();
    uint32_t *out =
        work.counts + ((size_t)t * (size_t)work.blocks + blockIdx.x) * (size_t)work.count_stride;
    for (int i = (int)threadIdx.x; i <= 1 << last; i += THREADS)
        out[i] = counts[i];
}

/* What the rows before a block's hold: above the cut's key, and equal to it. */
struct before {
    uint32_t above, equal;
};

/* By all threads; `sums` [INDEXER_COUNTS] becomes the counts of all blocks together. */
__device__ __forceinline__ struct before add_counts(const struct indexer_work &work, int t,
                                                    int blocks, uint32_t rest, uint32_t *sums,
                                                    uint32_t *parts, struct cut *found,
                                                    struct cut *cut)
{
    const uint32_t *counts =
        work.counts + (size_t)t * (size_t)work.blocks * (size_t)work.count_stride;
    size_t stride = (size_t)work.count_stride;
    int last = last_bits(work);
    for (int i = (int)threadIdx.x; i < 1 << last; i += THREADS)
        sums[i] = 0;
    __syncthreads();
#pragma unroll 4
    for (int i = (int)threadIdx.x; i < blocks << last; i += THREADS) {
        uint32_t count = counts[(size_t)(i >> last) * stride + (i & ((1 << last) - 1))];
        if (count) atomicAdd(&sums[i & ((1 << last) - 1)], count);
    }
    __syncthreads();
    *cut = find_cut(sums, 1 << last, rest, parts, found);
    uint32_t above = 0;
    uint32_t equal = 0;
    for (int i = (int)threadIdx.x; i < (int)blockIdx.x * ((1 << last) - cut->bin); i += THREADS) {
        int b = i / ((1 << last) - cut->bin);
        int bin = cut->bin + 1 + i % ((1 << last) - cut->bin); /* the last is all keys above */
        above += counts[(size_t)b * stride + bin];
    }
    for (int b = (int)threadIdx.x; b < (int)blockIdx.x; b += THREADS)
        equal += counts[(size_t)b * stride + cut->bin];
    struct before before;
    block_scan(above, parts, &before.above);
    block_scan(equal, parts, &before.equal);
    return before;
}

/* Grid (blocks, tokens). */
static __global__ void __launch_bounds__(THREADS) indexer_select_kernel(struct indexer_work work)
{
    launch_chain();
    __shared__ uint32_t sums[INDEXER_COUNTS];
    __shared__ uint32_t parts[WARPS];
    __shared__ struct cut found;
    int t = (int)blockIdx.y;
    int candidates = indexer_candidates(work, t);
    int32_t *selected = work.args.selected + (size_t)(work.first_token + t) * (size_t)work.args.top;
    if (indexer_takes_all(work, t)) {
        for (int i = (int)(blockIdx.x * THREADS + threadIdx.x); i < work.args.top;
             i += (int)gridDim.x * THREADS)
            selected[i] = i < candidates ? i : -1;
        return;
    }
    int first = (int)blockIdx.x * INDEXER_BLOCK_ROWS;
    if (first >= candidates) return;
    int blocks = (candidates + INDEXER_BLOCK_ROWS - 1) / INDEXER_BLOCK_ROWS;
    int known = known_bits(work);
    int last = last_bits(work);
    uint32_t rest;
    struct cut cut;
    uint32_t prefix = find_prefix(work, t, parts, &found, &rest);
    struct before before = add_counts(work, t, blocks, rest, sums, parts, &found, &cut);
    uint32_t key_bits = prefix << last | (uint32_t)cut.bin; /* of the cut, the rest shifted out */

    const float *scores = indexer_scores(work, t);
    int row_first = first + (int)threadIdx.x * THREAD_ROWS;
    uint32_t above = 0; /* bit i: row_first + i is above the cut */
    uint32_t equal = 0;
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; i++) {
        if (row_first + i >= candidates) continue;
        uint32_t bits = indexer_key(scores[row_first + i]) >> (32 - known - last);
        above |= (uint32_t)(bits > key_bits) << i;
        equal |= (uint32_t)(bits == key_bits) << i;
    }
    uint32_t total;
    uint32_t both =
        block_scan((uint32_t)__popc(above) << 16 | (uint32_t)__popc(equal), parts, &total);
    before.above += both >> 16;
    before.equal += both & 0xffff;
    for (int i = 0; i < THREAD_ROWS; i++) {
        bool is_above = above >> i & 1;
        bool is_equal = equal >> i & 1;
        if (is_above || (is_equal && before.equal < cut.rest))
            selected[before.above + min(before.equal, cut.rest)] = row_first + i;
        before.above += is_above;
        before.equal += is_equal;
    }
}

void indexer_select(struct stream *stream, const struct indexer_work *work)
{
    static_assert(INDEXER_BLOCK_ROWS < 65536, "two counts share a word");
    dim3 grid((unsigned)work->blocks, (unsigned)work->tokens);
    if (!work->args.round) SL_LAUNCH(stream, indexer_narrow_kernel, grid, THREADS, 0, *work);
    SL_LAUNCH(stream, indexer_count_kernel, grid, THREADS, 0, *work);
    SL_LAUNCH(stream, indexer_select_kernel, grid, THREADS, 0, *work);
}
