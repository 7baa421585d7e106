/* Routed experts' results in ascending order, plus the shared expert's. */
#include "kernels/cpu/quantise.h"
#include "kernels/cpu/stream.h"

static void combine_token(const void *context, int32_t t)
{
    const struct moe_combine_args *args = context;
    size_t hidden = (size_t)args->hidden;
    const float *routed = args->routed + (size_t)t * (size_t)args->top * hidden;
    for (size_t c = 0; c < hidden; c++) {
        float sum = 0.0f;
        for (int32_t k = 0; k < args->top; k++)
            sum += routed[(size_t)k * hidden + c];
        sum += args->shared[(size_t)t * hidden + c];
        args->out[(size_t)t * hidden + c] = quantise_bf16_if(sum, args->round);
    }
}

void cpu_moe_combine(struct stream *stream, const struct moe_combine_args *args)
{
    SL_ASSERT(args->hidden >= 1 && args->top >= 0);
    stream_run(stream, args->tokens, combine_token, args);
}
