/* The indexer with the rotation of its queries by position, in the indexer's launches. Equal to the
 * chain on the same device bit for bit. */
#include "kernels/cuda/indexer.cuh"
#include "kernels/fused.h"

extern "C" bool cuda_fused_indexer(struct stream *stream, const struct fused_indexer_args *args)
{
    const struct rope_args *rope = &args->rope;
    const struct indexer_args *indexer = &args->indexer;
    SL_ASSERT(rope->x == indexer->queries && rope->tokens == indexer->tokens);
    SL_ASSERT(rope->heads == indexer->heads && rope->width == indexer->width);
    SL_ASSERT(rope->positions == indexer->positions && rope->round == indexer->round);
    SL_ASSERT(!rope->inverse && rope->rotary >= 0 && rope->rotary <= rope->width);
    if (indexer->tokens > FUSED_TOKENS_MAX || rope->rotary % 4 != 0) return false;
    return indexer_launch(stream, indexer, rope);
}
