/* Scores of a query over compressed keys, and the rows with the largest scores. */
#include "kernels/cpu/indexer_query.h"

#include "kernels/cpu/dot.h"
#include "kernels/cpu/row_codec.h"

static void prepare_head(const void *context, int32_t head)
{
    indexer_round_head(context, head);
}

static void scale_weights(const struct indexer_args *args, const float *weights, float *scaled)
{
    float scale = (float)(1.0 / sqrt((double)args->width) / sqrt((double)args->heads));
    for (int32_t h = 0; h < args->heads; h++) {
        float weight = quantise_bf16_if(weights[h], args->round);
        scaled[h] = quantise_bf16_if(weight * scale, args->round);
    }
    for (int32_t h = args->heads; h < indexer_padded_heads(args); h++)
        scaled[h] = 0.0f;
}

static float score_row(const struct indexer_query *query, const float *key)
{
    const struct indexer_args *args = query->args;
    float score = 0.0f;
    for (int32_t h = 0; h < args->heads; h++) {
        const float *head = query->heads + (size_t)h * (size_t)args->width;
        float product = quantise_bf16_if(dot_f32(head, key, args->width), args->round);
        float positive = product > 0.0f ? product : 0.0f;
        score += quantise_bf16_if(positive * query->weights[h], args->round);
    }
    return quantise_bf16_if(score, args->round);
}

static void score_rows(const void *context, int32_t item)
{
    const struct indexer_query *query = context;
    const struct indexer_args *args = query->args;
    size_t row_bytes = row_format_bytes(&args->format);
    int32_t end = min_i32((item + 1) * INDEXER_ROWS_PER_ITEM, query->candidates);
    float key[OPS_HEAD_DIM_MAX];
    for (int32_t row = item * INDEXER_ROWS_PER_ITEM; row < end; row++) {
        row_codec_decode(&args->format, args->rows + (size_t)row * row_bytes, key);
        args->scores[row] = score_row(query, key);
    }
}

/* True when row a is to be given up before row b; without scores the higher row is. */
static bool ranks_below(const float *scores, int32_t a, int32_t b)
{
    if (scores && scores[a] != scores[b]) return scores[a] < scores[b];
    return a > b;
}

/* Restores the heap (worst row at the root) below `node`. */
static void sift_down(const float *scores, int32_t *heap, int32_t count, int32_t node)
{
    int32_t row = heap[node];
    for (;;) {
        int32_t child = 2 * node + 1;
        if (child >= count) break;
        if (child + 1 < count && ranks_below(scores, heap[child + 1], heap[child])) child++;
        if (!ranks_below(scores, heap[child], row)) break;
        heap[node] = heap[child];
        node = child;
    }
    heap[node] = row;
}

static void make_heap(const float *scores, int32_t *heap, int32_t count)
{
    for (int32_t node = count / 2 - 1; node >= 0; node--)
        sift_down(scores, heap, count, node);
}

/* By heap, because the library's sort may allocate. */
static void sort_ascending(int32_t *rows, int32_t count)
{
    make_heap(NULL, rows, count);
    for (int32_t end = count - 1; end > 0; end--) {
        int32_t highest = rows[0];
        rows[0] = rows[end];
        rows[end] = highest;
        sift_down(NULL, rows, end, 0);
    }
}

/* The `top` best of more than `top` rows, ascending. */
static void select_rows(const float *scores, int32_t candidates, int32_t top, int32_t *selected)
{
    for (int32_t i = 0; i < top; i++)
        selected[i] = i;
    make_heap(scores, selected, top);
    for (int32_t row = top; row < candidates; row++) {
        if (!ranks_below(scores, selected[0], row)) continue;
        selected[0] = row;
        sift_down(scores, selected, top, 0);
    }
    sort_ascending(selected, top);
}

void indexer_run(struct stream *stream, const struct indexer_args *args,
                 const struct indexer_workers *workers)
{
    SL_ASSERT(row_codec_supported(&args->format));
    SL_ASSERT(row_codec_width(&args->format) == args->width);
    SL_ASSERT(args->heads >= 1 && indexer_padded_heads(args) <= STREAM_SCRATCH_FLOATS);
    SL_ASSERT(args->ratio >= 1 && args->top >= 1);
    for (int32_t t = 0; t < args->tokens; t++) {
        size_t heads = (size_t)t * (size_t)args->heads;
        int32_t *selected = args->selected + (size_t)t * (size_t)args->top;
        int32_t candidates = (args->positions[t] + 1) / args->ratio;
        SL_ASSERT(candidates >= 0 && candidates <= args->rows_max);
        if (candidates <= args->top) {
            for (int32_t i = 0; i < args->top; i++)
                selected[i] = i < candidates ? i : -1;
            continue;
        }
        struct indexer_query query = {
            .args = args,
            .heads = args->queries + heads * (size_t)args->width,
            .weights = stream->scratch,
            .candidates = candidates,
        };
        scale_weights(args, args->weights + heads, query.weights);
        if (args->round || workers->prepare_always)
            stream_run(stream, args->heads, workers->prepare_head, &query);
        stream_run(stream, ceil_div_i32(candidates, INDEXER_ROWS_PER_ITEM), workers->score_rows,
                   &query);
        select_rows(args->scores, candidates, args->top, selected);
    }
}

void cpu_indexer(struct stream *stream, const struct indexer_args *args)
{
    static const struct indexer_workers twin = {prepare_head, score_rows, false};
    indexer_run(stream, args, &twin);
}
