/* What the indexer's kernels share: a token's scratch memory, and their launchers in order. */
#ifndef SLUICE_KERNELS_CUDA_INDEXER_CUH
#define SLUICE_KERNELS_CUDA_INDEXER_CUH

#include "kernels/cuda/launch.cuh"
#include "kernels/lowp.h"

/* Scores are sorted into bins by their highest bits; see indexer_select.cu. */
#define INDEXER_BINS_BITS    11
#define INDEXER_BINS         (1 << INDEXER_BINS_BITS)
#define INDEXER_LAST_BITS    10 /* of a f32; 5 of a bf16 value */
#define INDEXER_COUNTS       ((1 << INDEXER_LAST_BITS) + 1)
#define INDEXER_ROUND_COUNTS ((1 << (16 - INDEXER_BINS_BITS)) + 1)
#define INDEXER_BLOCK_ROWS   2048 /* of a block that selects */

/* Queries for the tensor cores: 128 channels of f16 and padding, so that lanes of two heads meet
 * different banks of shared memory. */
#define INDEXER_WIDTH       128
#define INDEXER_QUERY_PITCH 160
#define INDEXER_HEADS_MAX   128
#define INDEXER_KEY_BYTES   68

/* One call, or the part of it whose scratch fits. Token t of the part has its memory at t times the
 * stride of each array. */
struct indexer_work {
    struct indexer_args args;
    float *scores;     /* [tokens, rows_max]; of the call's last token args.scores */
    uint32_t *bins;    /* [tokens, 2, INDEXER_BINS]; NULL with indexer_wide */
    uint32_t *counts;  /* [tokens, blocks, count_stride] */
    float *weights;    /* [tokens, heads_padded], scaled, then zeros */
    uint16_t *queries; /* [tokens, heads_padded, INDEXER_QUERY_PITCH] f16, channels in the order of
                          indexer_query.cu; what a head's values must be multiplied by is in its
                          weight */
    int32_t tokens, first_token, heads_padded, blocks;
    int32_t row_bytes;
    int32_t count_stride; /* bins of the last bits, and one */
    float scale;          /* of the weights */
    float rotation_scale;
    bool packed; /* the tensor cores' way: round, ROW_KEY, 128 channels */
    /* Queries come unrotated: their last channels are rotated first, by these frequencies
     * [rotary / 2]. NULL: they come as the op wants them. With `packed` alone. */
    const float *frequencies;
    int32_t rotary;
};

/* The op, behind `rope` of its queries unless that is NULL; false, and nothing launched: with
 * `rope`, not `packed`. */
bool indexer_launch(struct stream *stream, const struct indexer_args *args,
                    const struct rope_args *rope);

/* Rotates and rounds the queries, scales the weights, clears the bins. */
void indexer_prepare(struct stream *stream, const struct indexer_work *work);
/* Scores and the first bins: any format, and packed keys. */
void indexer_score_any(struct stream *stream, const struct indexer_work *work);
void indexer_score_packed(struct stream *stream, const struct indexer_work *work);
/* Shared memory that packed keys take with so many heads. */
size_t indexer_score_bytes(int32_t heads_padded);
/* Scores and choice of packed keys by passes of many tokens; false, and nothing launched, where the
 * others are to do it. The call's scratch and first_token are its own matter. */
bool indexer_wide(struct stream *stream, const struct indexer_work *call);
/* The best rows, from scores and bins. */
void indexer_select(struct stream *stream, const struct indexer_work *work);

/* Rows that token t of the part may choose from. */
__device__ __forceinline__ int32_t indexer_candidates(const struct indexer_work &work, int32_t t)
{
    return (work.args.positions[work.first_token + t] + 1) / work.args.ratio;
}

/* Where everything is chosen there is nothing to do. */
__device__ __forceinline__ bool indexer_takes_all(const struct indexer_work &work, int32_t t)
{
    return indexer_candidates(work, t) <= work.args.top;
}

__device__ __forceinline__ float *indexer_scores(const struct indexer_work &work, int32_t t)
{
    if (work.first_token + t == work.args.tokens - 1) return work.args.scores;
    return work.scores + (size_t)t * (size_t)work.args.rows_max;
}

/* Unsigned numbers in the order of the scores. */
__device__ __forceinline__ uint32_t indexer_key(float score)
{
    uint32_t bits = lowp_bits(score);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ uint32_t indexer_first_bin(float score)
{
    return indexer_key(score) >> (32 - INDEXER_BINS_BITS);
}

#endif
