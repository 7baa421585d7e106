/* Folds the residual streams into the one row the head reads. */
#include "kernels/cpu/hyper_mix.h"
#include "kernels/cpu/stream.h"

static void fold_token(const void *context, int32_t t)
{
    const struct hyper_head_args *args = context;
    int32_t n = args->streams_count;
    const float *streams = args->streams + (size_t)t * (size_t)n * (size_t)args->hidden;
    const float *mix = args->mix + (size_t)t * (size_t)n;
    float pre[OPS_STREAMS_MAX];
    float inverse = rms_inverse(streams, n * args->hidden, args->norm_epsilon);
    hyper_mix_factors(mix, inverse, args->scale[0], args->base, n, pre);
    for (int32_t i = 0; i < n; i++)
        pre[i] += args->epsilon;
    hyper_mix_fold(streams, pre, n, args->hidden, args->round,
                   args->x + (size_t)t * (size_t)args->hidden);
}

void cpu_hyper_head(struct stream *stream, const struct hyper_head_args *args)
{
    SL_ASSERT(args->streams_count >= 1 && args->streams_count <= OPS_STREAMS_MAX);
    SL_ASSERT(args->hidden >= 1);
    stream_run(stream, args->tokens, fold_token, args);
}
