/* Attention with AVX2 and FMA, in f32. Within 1e-5 of the largest visible value of a channel, or
 * one bf16 rounding with `round`. */
#include "kernels/cpu/attention_body.h"
#include "kernels/cpu/variants.h"

void cpu_attention_avx2(struct stream *stream, const struct attention_args *args)
{
    attention_run(stream, args);
}
