/* The clamped SwiGLU between the products of the shared expert. */
#include "kernels/cpu/activation.h"
#include "kernels/cpu/quantise.h"
#include "kernels/cpu/stream.h"

static void swiglu_token(const void *context, int32_t t)
{
    const struct swiglu_args *args = context;
    size_t first = (size_t)t * (size_t)args->width;
    for (size_t c = first; c < first + (size_t)args->width; c++)
        args->out[c] = quantise_bf16_if(activation_swiglu(args->gate[c], args->up[c], args->limit),
                                        args->round);
}

void cpu_swiglu(struct stream *stream, const struct swiglu_args *args)
{
    SL_ASSERT(args->width >= 1 && args->limit >= 0.0f);
    stream_run(stream, args->tokens, swiglu_token, args);
}
