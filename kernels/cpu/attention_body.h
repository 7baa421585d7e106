/* The attention op, as wide as the file that includes it is compiled for. The steps are those of
 * the twin (attention.c); sums run in vector lanes, and exp is within 2 ulp.
 *
 * A work item is a token and a block of heads. Rows are decoded once an item, 64 at a time; scores
 * are made for a few heads by four rows together, weighted rows summed for four heads together.
 * What a head gets does not depend on which heads share its item. */
#ifndef SLUICE_KERNELS_CPU_ATTENTION_BODY_H
#define SLUICE_KERNELS_CPU_ATTENTION_BODY_H

#include "kernels/cpu/row_codec.h"
#include "kernels/cpu/simd_exp.h"
#include "kernels/cpu/stream.h"
#include "kernels/cpu/visible_rows.h"

#define ATTENTION_HEADS       16 /* of an item, or fewer where there would be few items */
#define ATTENTION_GROUP       64 /* rows, as the published program takes them */
#define ATTENTION_TILE        4  /* rows, and heads of a weighted sum, in registers together */
#define ATTENTION_SCORE_HEADS (SIMD_LANES / 4) /* heads of a tile of scores */
/* Widths are completed with zeros to pairs of vectors; the largest is one already. */
#define ATTENTION_WIDTH_MAX OPS_HEAD_DIM_MAX

/* One work item's memory. */
struct attention_item {
    const struct attention_args *args;
    size_t stride; /* width in whole vectors */
    int32_t head_count;
    _Alignas(64) float rows[ATTENTION_GROUP * ATTENTION_WIDTH_MAX]; /* [group, stride] */
    _Alignas(64) float queries[ATTENTION_HEADS * ATTENTION_WIDTH_MAX];
    _Alignas(64) float sums[ATTENTION_HEADS * ATTENTION_WIDTH_MAX];
    _Alignas(64) float weights[ATTENTION_HEADS][ATTENTION_GROUP];
    float max[ATTENTION_HEADS];
    float weight[ATTENTION_HEADS]; /* sums of the weights, not rounded */
};

/* A cached row as f32, whole vectors where the format allows. */
SIMD_INLINE void attention_decode(const struct row_format *format, const uint8_t *row, float *x)
{
    if (format->encoding != ROW_KV || format->plain % LOWP_KV_BLOCK ||
        format->rotary % SIMD_LANES) {
        row_codec_decode(format, row, x);
        return;
    }
    const uint8_t *scales = row + format->plain;
    const uint8_t *slice = scales + format->plain / LOWP_KV_BLOCK;
    for (int32_t first = 0; first < format->plain; first += LOWP_KV_BLOCK) {
        simd_f32 scale = simd_set1(e8m0_decode(scales[first / LOWP_KV_BLOCK]));
        for (int32_t i = first; i < first + LOWP_KV_BLOCK; i += SIMD_LANES)
            simd_store(x + i, simd_mul(simd_from_e4m3(row + i), scale));
    }
    for (int32_t i = 0; i < format->rotary; i += SIMD_LANES)
        simd_store(x + format->plain + i, simd_from_bf16(slice + 2 * i));
}

/* Scores of some heads with four rows, scaled, into weights. */
SIMD_INLINE void attention_score_tile(struct attention_item *item, int32_t head, int32_t row)
{
    simd_f32 sums[ATTENTION_SCORE_HEADS][ATTENTION_TILE];
    const float *queries = item->queries + (size_t)head * item->stride;
    const float *rows = item->rows + (size_t)row * item->stride;
    for (int h = 0; h < ATTENTION_SCORE_HEADS; h++)
        for (int k = 0; k < ATTENTION_TILE; k++)
            sums[h][k] = simd_zero();
    for (size_t c = 0; c < item->stride; c += SIMD_LANES) {
        simd_f32 keys[ATTENTION_TILE];
        for (size_t k = 0; k < ATTENTION_TILE; k++)
            keys[k] = simd_load(rows + k * item->stride + c);
        for (size_t h = 0; h < ATTENTION_SCORE_HEADS; h++) {
            simd_f32 query = simd_load(queries + h * item->stride + c);
            for (int k = 0; k < ATTENTION_TILE; k++)
                sums[h][k] = simd_fma(query, keys[k], sums[h][k]);
        }
    }
    for (int h = 0; h < ATTENTION_SCORE_HEADS; h++) {
        __m128 scores = simd_sum4(sums[h][0], sums[h][1], sums[h][2], sums[h][3]);
        _mm_storeu_ps(&item->weights[head + h][row],
                      _mm_mul_ps(scores, _mm_set1_ps(item->args->scale)));
    }
}

/* Scores of one head to weights under the new maximum; what was summed before is rescaled. */
SIMD_INLINE void attention_weigh(struct attention_item *item, int32_t head, int32_t count)
{
    float *weights = item->weights[head];
    float *sums = item->sums + (size_t)head * item->stride;
    float max = item->max[head];
    for (int32_t k = 0; k < count; k++)
        max = weights[k] > max ? weights[k] : max;
    for (int32_t k = count; k < ATTENTION_GROUP; k++)
        weights[k] = -INFINITY;                     /* weighs nothing */
    float correction = expf(item->max[head] - max); /* 0 for the first group */
    float weight_sum = 0.0f;
    for (int32_t k = 0; k < ATTENTION_GROUP; k += SIMD_LANES)
        simd_store(weights + k, simd_exp(simd_sub(simd_load(weights + k), simd_set1(max))));
    for (int32_t k = 0; k < count; k++)
        weight_sum += weights[k];
    item->max[head] = max;
    item->weight[head] = item->weight[head] * correction + weight_sum;
    if (item->args->round) quantise_bf16_row(weights, weights, ATTENTION_GROUP);
    if (correction == 1.0f) return;
    for (size_t c = 0; c < item->stride; c += SIMD_LANES)
        simd_store(sums + c, simd_mul(simd_load(sums + c), simd_set1(correction)));
}

/* Adds the weighted rows to the sums of four heads. */
SIMD_INLINE void attention_add_rows(struct attention_item *item, int32_t head, int32_t count)
{
    enum { WIDE = 2 }; /* vectors of channels in registers */
    size_t stride = item->stride;
    for (size_t c = 0; c < stride; c += WIDE * SIMD_LANES) {
        simd_f32 sums[ATTENTION_TILE][WIDE];
        float *target = item->sums + (size_t)head * stride + c;
        for (size_t h = 0; h < ATTENTION_TILE; h++)
            for (size_t i = 0; i < WIDE; i++)
                sums[h][i] = simd_load(target + h * stride + i * SIMD_LANES);
        for (int32_t k = 0; k < count; k++) {
            const float *row = item->rows + (size_t)k * stride + c;
            for (int h = 0; h < ATTENTION_TILE; h++)
                for (int i = 0; i < WIDE; i++)
                    sums[h][i] = simd_fma(simd_load(row + i * SIMD_LANES),
                                          simd_set1(item->weights[head + h][k]), sums[h][i]);
        }
        for (size_t h = 0; h < ATTENTION_TILE; h++)
            for (size_t i = 0; i < WIDE; i++)
                simd_store(target + h * stride + i * SIMD_LANES, sums[h][i]);
    }
}

static void attention_take_group(struct attention_item *item, const struct visible_rows *visible,
                                 int32_t first, int32_t count)
{
    int32_t tiled = ceil_div_i32(count, ATTENTION_TILE) * ATTENTION_TILE;
    int32_t heads = ceil_div_i32(item->head_count, ATTENTION_TILE) * ATTENTION_TILE;
    for (int32_t k = 0; k < count; k++)
        attention_decode(&item->args->format, visible_row(visible, first + k),
                         item->rows + (size_t)k * item->stride);
    /* Rows that only fill the tile: their scores are overwritten. */
    memset(item->rows + (size_t)count * item->stride, 0,
           (size_t)(tiled - count) * item->stride * sizeof(float));
    for (int32_t head = 0; head < heads; head += ATTENTION_SCORE_HEADS)
        for (int32_t k = 0; k < tiled; k += ATTENTION_TILE)
            attention_score_tile(item, head, k);
    for (int32_t head = 0; head < heads; head++)
        attention_weigh(item, head, count);
    for (int32_t head = 0; head < heads; head += ATTENTION_TILE)
        attention_add_rows(item, head, count);
}

/* Divides by the sum of the weights, the sink's among them. */
static void attention_finish(const struct attention_item *item, int32_t head, float sink,
                             float *out)
{
    const float *sums = item->sums + (size_t)head * item->stride;
    float total = item->weight[head] + expf(sink - item->max[head]);
    for (int32_t c = 0; c < item->args->width; c++)
        out[c] = sums[c] / total;
    if (item->args->round) quantise_bf16_row(out, out, item->args->width);
}

struct attention_call {
    const struct attention_args *args;
    int32_t item_heads;
};

static void attention_run_item(const void *context, int32_t idx)
{
    const struct attention_call *call = context;
    const struct attention_args *args = call->args;
    int32_t item_heads = call->item_heads;
    int32_t blocks = ceil_div_i32(args->heads, item_heads);
    int32_t t = idx / blocks;
    int32_t head_first = idx % blocks * item_heads;
    size_t width = (size_t)args->width;
    size_t first = ((size_t)t * (size_t)args->heads + (size_t)head_first) * width;
    struct visible_rows visible = visible_rows_make(args, t);
    int32_t row_count = visible.window_count + visible.compressed_count;
    struct attention_item item; /* large: filled as needed */
    item.args = args;
    item.stride = align_up(width, 2 * SIMD_LANES);
    item.head_count = min_i32(item_heads, args->heads - head_first);
    if (row_count == 0) { /* all weight is the sink's */
        memset(args->out + first, 0, (size_t)item.head_count * width * sizeof(float));
        return;
    }
    memset(item.queries, 0, (size_t)item_heads * item.stride * sizeof(float));
    memset(item.sums, 0, (size_t)item_heads * item.stride * sizeof(float));
    if (item.stride != width) memset(item.rows, 0, ATTENTION_GROUP * item.stride * sizeof(float));
    for (int32_t h = 0; h < item_heads; h++) {
        item.max[h] = -INFINITY;
        item.weight[h] = 0.0f;
        if (h < item.head_count)
            memcpy(item.queries + (size_t)h * item.stride,
                   args->queries + first + (size_t)h * width, width * sizeof(float));
    }
    for (int32_t group = 0; group < row_count; group += ATTENTION_GROUP)
        attention_take_group(&item, &visible, group, min_i32(ATTENTION_GROUP, row_count - group));
    for (int32_t h = 0; h < item.head_count; h++)
        attention_finish(&item, h, args->sink[head_first + h],
                         args->out + first + (size_t)h * width);
}

static void attention_run(struct stream *stream, const struct attention_args *args)
{
    struct attention_call call = {args, ATTENTION_HEADS};
    int32_t threads = worker_pool_threads(stream->pool);
    int32_t items = args->tokens * ceil_div_i32(args->heads, ATTENTION_HEADS);
    visible_rows_check(args);
    /* Decoding the rows again in every item is cheaper than a thread without work. */
    if (threads > 1 && items < 2 * threads) call.item_heads = ATTENTION_TILE;
    stream_run(stream, args->tokens * ceil_div_i32(args->heads, call.item_heads),
               attention_run_item, &call);
}

#endif
