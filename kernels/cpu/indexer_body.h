/* The indexer's scores, as wide as the file that includes it is compiled for: lanes are heads, so
 * the queries are kept transposed behind the scaled weights. Products, relu, weights and roundings
 * are the twin's (indexer.c); the sum over heads runs in lanes. */
#ifndef SLUICE_KERNELS_CPU_INDEXER_BODY_H
#define SLUICE_KERNELS_CPU_INDEXER_BODY_H

#include "kernels/cpu/indexer_query.h"
#include "kernels/cpu/row_codec.h"
#include "kernels/cpu/simd.h"

#define INDEXER_TILE 4                /* rows in registers together */
#define INDEXER_WIDE (SIMD_LANES / 4) /* vectors of heads in registers together */

/* [width, padded heads] */
static inline float *indexer_transposed(const struct indexer_query *query)
{
    return query->weights + indexer_padded_heads(query->args);
}

static void indexer_prepare(const void *context, int32_t head)
{
    const struct indexer_query *query = context;
    size_t width = (size_t)query->args->width;
    size_t padded = (size_t)indexer_padded_heads(query->args);
    const float *x = query->heads + (size_t)head * width;
    float *transposed = indexer_transposed(query);
    if (query->args->round) indexer_round_head(query, head);
    for (size_t c = 0; c < width; c++)
        transposed[c * padded + (size_t)head] = x[c];
    if (head + 1 < query->args->heads) return;
    for (size_t c = 0; c < width; c++)
        for (size_t h = (size_t)head + 1; h < padded; h++)
            transposed[c * padded + h] = 0.0f;
}

/* sums[r] += the weighted products of `vectors` vectors of heads from `head` on with four keys. */
SIMD_INLINE void indexer_score_heads(const struct indexer_query *query, const float *const *keys,
                                     int32_t head, int vectors, simd_f32 *sums)
{
    size_t padded = (size_t)indexer_padded_heads(query->args);
    const float *column = indexer_transposed(query) + head;
    simd_f32 products[INDEXER_TILE][INDEXER_WIDE];
    for (int r = 0; r < INDEXER_TILE; r++)
        for (int v = 0; v < vectors; v++)
            products[r][v] = simd_zero();
    for (int32_t c = 0; c < query->args->width; c++, column += padded) {
        simd_f32 heads[INDEXER_WIDE];
        for (int v = 0; v < vectors; v++)
            heads[v] = simd_load(column + v * SIMD_LANES);
        for (int r = 0; r < INDEXER_TILE; r++) {
            simd_f32 key = simd_set1(keys[r][c]);
            for (int v = 0; v < vectors; v++)
                products[r][v] = simd_fma(heads[v], key, products[r][v]);
        }
    }
    for (int v = 0; v < vectors; v++) {
        simd_f32 weight = simd_load(query->weights + head + v * SIMD_LANES);
        for (int r = 0; r < INDEXER_TILE; r++) {
            simd_f32 positive = simd_max(products[r][v], simd_zero());
            if (query->args->round) positive = simd_round_bf16(positive);
            simd_f32 term = simd_mul(positive, weight);
            if (query->args->round) term = simd_round_bf16(term);
            sums[r] = simd_add(sums[r], term);
        }
    }
}

static void indexer_score_rows(const void *context, int32_t item)
{
    const struct indexer_query *query = context;
    const struct indexer_args *args = query->args;
    size_t row_bytes = row_format_bytes(&args->format);
    int32_t end = min_i32((item + 1) * INDEXER_ROWS_PER_ITEM, query->candidates);
    float decoded[INDEXER_TILE][OPS_HEAD_DIM_MAX];
    for (int32_t row = item * INDEXER_ROWS_PER_ITEM; row < end; row += INDEXER_TILE) {
        const float *keys[INDEXER_TILE];
        simd_f32 sums[INDEXER_TILE];
        float scores[INDEXER_TILE];
        int32_t count = min_i32(INDEXER_TILE, end - row);
        for (int32_t r = 0; r < INDEXER_TILE; r++) {
            keys[r] = decoded[min_i32(r, count - 1)];
            sums[r] = simd_zero();
            if (r >= count) continue;
            row_codec_decode(&args->format, args->rows + (size_t)(row + r) * row_bytes, decoded[r]);
        }
        for (int32_t head = 0; head < indexer_padded_heads(args);) {
            int32_t vectors = (indexer_padded_heads(args) - head) / SIMD_LANES;
            bool wide = vectors >= INDEXER_WIDE;
            if (wide)
                indexer_score_heads(query, keys, head, INDEXER_WIDE, sums);
            else
                indexer_score_heads(query, keys, head, 1, sums);
            head += (wide ? INDEXER_WIDE : 1) * SIMD_LANES;
        }
        _mm_storeu_ps(scores, simd_sum4(sums[0], sums[1], sums[2], sums[3]));
        for (int32_t r = 0; r < count; r++)
            args->scores[row + r] = quantise_bf16_if(scores[r], args->round);
    }
}

static void indexer_run_wide(struct stream *stream, const struct indexer_args *args)
{
    static const struct indexer_workers workers = {indexer_prepare, indexer_score_rows, true};
    int64_t floats = (int64_t)indexer_padded_heads(args) * (args->width + 1);
    if (floats <= STREAM_SCRATCH_FLOATS)
        indexer_run(stream, args, &workers);
    else
        cpu_indexer(stream, args);
}

#endif
