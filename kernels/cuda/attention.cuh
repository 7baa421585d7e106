/* Attention over native rows: what its two kernels share; attention.cu tells how they work. */
#ifndef SLUICE_KERNELS_CUDA_ATTENTION_CUH
#define SLUICE_KERNELS_CUDA_ATTENTION_CUH

#include "kernels/cuda/rows.cuh"

#define ATTENTION_WIDTH       512
#define ATTENTION_PLAIN       448 /* channels of e4m3; the rest is bf16 */
#define ATTENTION_ROTARY      (ATTENTION_WIDTH - ATTENTION_PLAIN)
#define ATTENTION_ROW_BYTES   584
#define ATTENTION_TILE        16 /* rows of a product */
#define ATTENTION_GROUP_TILES 4  /* 64 rows, as the published program takes them */
#define ATTENTION_WIDE_TOKENS 17 /* of a pass that takes attention_wide */

/* One call, or the tokens of it whose scores fit into scratch. */
struct attention {
    struct attention_args args;
    float *scores;    /* [tokens, heads, capacity], scaled; -inf beyond the last row of a tile */
    float *maxima;    /* [tokens, heads, capacity / ATTENTION_TILE] of each tile */
    int32_t capacity; /* rows, whole groups */
    int32_t first_token, tokens;
    /* Fused with what stands around it: heads are normed and rotated on their way in, rotated back
     * on their way out, by these frequencies [ATTENTION_ROTARY / 2]. NULL: neither. */
    const float *frequencies;
    float norm_epsilon;
};

/* A call by the two kernels, with args, frequencies and norm_epsilon set; false, and nothing
 * launched: not its numerics or shape, or no room for the scores of a token. */
bool attention_few(struct stream *stream, struct attention *work);

void attention_score(struct stream *stream, const struct attention *work);
void attention_sum(struct stream *stream, const struct attention *work);

/* Native rows by passes of many tokens; false, and nothing launched, where there are few or the
 * device lacks the shared memory. */
bool attention_wide(struct stream *stream, const struct attention_args *args);

#endif
