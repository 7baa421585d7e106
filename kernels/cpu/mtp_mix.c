/* Input of the MTP block: an embedding added to every residual stream. */
#include "kernels/cpu/quantise.h"
#include "kernels/cpu/stream.h"

static void mix_token(const void *context, int32_t t)
{
    const struct mtp_mix_args *args = context;
    size_t size = (size_t)args->hidden_size;
    const float *embedding = args->embedding + (size_t)t * size;
    for (int32_t m = 0; m < args->streams_count; m++) {
        size_t first = ((size_t)t * (size_t)args->streams_count + (size_t)m) * size;
        for (size_t c = 0; c < size; c++)
            args->out[first + c] =
                quantise_bf16_if(embedding[c] + args->hidden[first + c], args->round);
    }
}

void cpu_mtp_mix(struct stream *stream, const struct mtp_mix_args *args)
{
    SL_ASSERT(args->streams_count >= 1 && args->hidden_size >= 1);
    stream_run(stream, args->tokens, mix_token, args);
}
