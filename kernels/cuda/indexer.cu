/* The indexer: scores of compressed keys for each query, and the best rows, in four launches for
 * all tokens of a call (five with f32 numerics): queries (indexer_query.cu), scores with a first
 * count (indexer_score.cu, or below for other formats), counts and rows (indexer_select.cu). Scores
 * stay in device memory, and rows come out in the twin's order, ties to the lower row.
 *
 * args->scores holds the scores of the last token afterwards, as with the twin. Passes of many
 * tokens leave it alone and keep no scores at all: indexer_wide.cu. */
#include "kernels/cuda/indexer.cuh"
#include "kernels/cuda/numerics.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/rows.cuh"

#include <math.h>

#define WARPS    8
#define THREADS  (WARPS * WARP_LANES)
#define CHANNELS (OPS_HEAD_DIM_MAX / WARP_LANES) /* of a lane */

/* Any format, a warp for each row: the twin's sum over heads, products by lanes. Grid (blocks that
 * take rows in turn, tokens). */
static __global__ void __launch_bounds__(THREADS) indexer_any_kernel(struct indexer_work work)
{
    launch_chain();
    const struct indexer_args &args = work.args;
    int t = (int)blockIdx.y;
    int lane = (int)threadIdx.x % WARP_LANES;
    if (indexer_takes_all(work, t)) return;
    int candidates = indexer_candidates(work, t);
    size_t token = (size_t)(work.first_token + t) * (size_t)args.heads;
    const float *queries = args.queries + token * (size_t)args.width;
    const float *weights = work.weights + (size_t)t * (size_t)work.heads_padded;
    uint32_t *bins = work.bins + (size_t)t * 2 * INDEXER_BINS;
    for (int row = (int)(blockIdx.x * WARPS + threadIdx.x / WARP_LANES); row < candidates;
         row += (int)gridDim.x * WARPS) {
        const uint8_t *bytes = args.rows + (size_t)row * (size_t)work.row_bytes;
        float key[CHANNELS];
#pragma unroll
        for (int i = 0; i < CHANNELS; i++) {
            int c = i * WARP_LANES + lane;
            key[i] = c < args.width ? rows_value(args.format, bytes, c) : 0.0f;
        }
        float score = 0.0f;
        for (int h = 0; h < args.heads; h++) {
            const float *query = queries + (size_t)h * (size_t)args.width;
            float product = 0.0f;
#pragma unroll
            for (int i = 0; i < CHANNELS; i++) {
                int c = i * WARP_LANES + lane;
                if (c < args.width) product = fmaf(query[c], key[i], product);
            }
            product = round_if(warp_sum(product), args.round);
            float positive = product > 0.0f ? product : 0.0f;
            score += round_if(positive * weights[h], args.round);
        }
        score =
            round_if(score, args.round) + 0.0f; /* never minus zero: bins must be as comparisons */
        if (lane > 0) continue;
        indexer_scores(work, t)[row] = score;
        atomicAdd(&bins[indexer_first_bin(score)], 1u);
    }
}

void indexer_score_any(struct stream *stream, const struct indexer_work *work)
{
    int32_t blocks = min_i32(ceil_div_i32(work->args.rows_max, WARPS),
                             ceil_div_i32(8 * stream->processors, work->tokens));
    SL_LAUNCH(stream, indexer_any_kernel, dim3((unsigned)blocks, (unsigned)work->tokens), THREADS,
              0, *work);
}

/* Bytes of a token's scratch, all arrays together; their addresses for `tokens` tokens. */
static size_t place_scratch(struct indexer_work *work, uint8_t *scratch, int32_t tokens)
{
    size_t count = (size_t)tokens;
    size_t heads = (size_t)work->heads_padded;
    size_t at = 0;
    work->queries = reinterpret_cast<uint16_t *>(scratch + at);
    at += align_up(count * heads * INDEXER_QUERY_PITCH * sizeof(uint16_t), 256);
    work->scores = reinterpret_cast<float *>(scratch + at);
    at += align_up(count * (size_t)work->args.rows_max * sizeof(float), 256);
    work->bins = reinterpret_cast<uint32_t *>(scratch + at);
    at += count * 2 * INDEXER_BINS * sizeof(uint32_t);
    work->counts = reinterpret_cast<uint32_t *>(scratch + at);
    at +=
        align_up(count * (size_t)work->blocks * (size_t)work->count_stride * sizeof(uint32_t), 256);
    work->weights = reinterpret_cast<float *>(scratch + at);
    at += align_up(count * heads * sizeof(float), 256);
    return at;
}

bool indexer_launch(struct stream *stream, const struct indexer_args *args,
                    const struct rope_args *rope)
{
    SL_ASSERT(rows_supported(&args->format));
    SL_ASSERT(args->format.plain + args->format.rotary == args->width);
    SL_ASSERT(args->heads >= 1 && args->ratio >= 1 && args->top >= 1 && args->rows_max >= 0);
    SL_ASSERT(!args->round || (args->width & (args->width - 1)) == 0);
    double root = sqrt((double)args->width);
    struct indexer_work work = {.args = *args};
    work.heads_padded = (int32_t)align_up((uint64_t)args->heads, 16);
    work.blocks = max_i32(1, ceil_div_i32(args->rows_max, INDEXER_BLOCK_ROWS));
    work.row_bytes = (int32_t)row_format_bytes(&args->format);
    work.scale = (float)(1.0 / root / sqrt((double)args->heads));
    work.rotation_scale = (float)(1.0 / root);
    work.count_stride = args->round ? INDEXER_ROUND_COUNTS : INDEXER_COUNTS;
    work.packed = args->round && args->format.encoding == ROW_KEY && args->width == INDEXER_WIDTH &&
                  work.heads_padded <= INDEXER_HEADS_MAX &&
                  ((uintptr_t)args->rows | (uintptr_t)args->queries) % 16 == 0 &&
                  indexer_score_bytes(work.heads_padded) <= (size_t)stream->shared_bytes_max;
    if (rope) {
        if (!work.packed) return false;
        work.frequencies = rope->frequencies;
        work.rotary = rope->rotary;
    }
    if (indexer_wide(stream, &work)) return true;
    SL_ASSERT(place_scratch(&work, stream->scratch, 1) <= CUDA_SCRATCH_BYTES);
    int32_t together = args->tokens;
    while (place_scratch(&work, stream->scratch, together) > CUDA_SCRATCH_BYTES)
        together = (together + 1) / 2;
    for (int32_t first = 0; first < args->tokens; first += together) {
        work.first_token = first;
        work.tokens = min_i32(together, args->tokens - first);
        indexer_prepare(stream, &work);
        if (work.packed)
            indexer_score_packed(stream, &work);
        else
            indexer_score_any(stream, &work);
        indexer_select(stream, &work);
    }
    return true;
}

extern "C" void cuda_indexer(struct stream *stream, const struct indexer_args *args)
{
    (void)indexer_launch(stream, args, NULL);
}
