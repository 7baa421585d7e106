/* Writes a block's output back into the residual streams and mixes them, in place. */
#include "kernels/cpu/quantise.h"
#include "kernels/cpu/stream.h"

/* Channels mixed at a time: every new stream needs all old ones. */
#define CHANNEL_BLOCK 64

static void write_channels(const struct hyper_post_args *args, int32_t t, int32_t first,
                           int32_t count)
{
    int32_t n = args->streams_count;
    size_t hidden = (size_t)args->hidden;
    const float *x = args->x + (size_t)t * hidden + first;
    const float *post = args->post + (size_t)t * (size_t)n;
    const float *comb = args->comb + (size_t)t * (size_t)(n * n);
    float *streams = args->streams + (size_t)t * (size_t)n * hidden + first;
    float old[OPS_STREAMS_MAX][CHANNEL_BLOCK];
    for (int32_t i = 0; i < n; i++)
        memcpy(old[i], streams + (size_t)i * hidden, (size_t)count * sizeof(float));
    for (int32_t j = 0; j < n; j++) {
        float *target = streams + (size_t)j * hidden;
        float mixed[CHANNEL_BLOCK] = {0};
        for (int32_t i = 0; i < n; i++)
            for (int32_t c = 0; c < count; c++)
                mixed[c] += comb[i * n + j] * old[i][c];
        for (int32_t c = 0; c < count; c++)
            target[c] = post[j] * x[c] + mixed[c];
        if (args->round) quantise_bf16_row(target, target, count);
    }
}

static void write_token(const void *context, int32_t t)
{
    const struct hyper_post_args *args = context;
    /* Another thread may have written it: its lines then come from that thread's cache, together.
     */
    const float *x = args->x + (size_t)t * (size_t)args->hidden;
    for (int32_t c = 0; c < args->hidden; c += 16)
        __builtin_prefetch(x + c);
    for (int32_t first = 0; first < args->hidden; first += CHANNEL_BLOCK)
        write_channels(args, t, first, min_i32(CHANNEL_BLOCK, args->hidden - first));
}

void cpu_hyper_post(struct stream *stream, const struct hyper_post_args *args)
{
    SL_ASSERT(args->streams_count >= 1 && args->streams_count <= OPS_STREAMS_MAX);
    SL_ASSERT(args->hidden >= 1);
    stream_run(stream, args->tokens, write_token, args);
}
