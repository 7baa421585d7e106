/* Attention with what stands around it, in attention's two launches: the first norms and rotates
 * heads as it loads them, the second rotates back what it writes.
 *
 * Against the chain on the same device: the sum of a head's squares goes in another order, so its
 * norm is rarely a bf16 step off; the rest is equal bit for bit. */
#include "kernels/cuda/attention.cuh"
#include "kernels/fused.h"

static void check_rope(const struct rope_args *rope, const struct attention_args *attention,
                       const float *x)
{
    SL_ASSERT(rope->x == x && rope->tokens == attention->tokens);
    SL_ASSERT(rope->heads == attention->heads && rope->width == attention->width);
    SL_ASSERT(rope->positions == attention->positions && rope->round == attention->round);
}

extern "C" bool cuda_fused_attention(struct stream *stream, const struct fused_attention_args *args)
{
    const struct attention_args *attention = &args->attention;
    struct attention work = {.args = *attention,
                             .frequencies = args->rope.frequencies,
                             .norm_epsilon = args->heads.epsilon};
    check_rope(&args->rope, attention, attention->queries);
    check_rope(&args->back, attention, attention->out);
    SL_ASSERT(args->heads.x == attention->queries && args->heads.width == attention->width);
    SL_ASSERT(args->heads.rows == attention->tokens * attention->heads);
    SL_ASSERT(!args->rope.inverse && args->back.inverse && args->heads.round == attention->round);
    if (attention->tokens > FUSED_TOKENS_MAX || args->rope.rotary != ATTENTION_ROTARY) return false;
    if (args->back.rotary != args->rope.rotary || args->back.frequencies != args->rope.frequencies)
        return false;
    return attention_few(stream, &work);
}
