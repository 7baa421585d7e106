/* Reads the residual streams: one input for the block, and the factors hyper_post will use. */
#include "kernels/cpu/hyper_mix.h"
#include "kernels/cpu/stream.h"

/* One column step: every column divided by its sum. */
static void normalise_columns(float *a, int32_t n, float epsilon)
{
    for (int32_t j = 0; j < n; j++) {
        float sum = 0.0f;
        for (int32_t i = 0; i < n; i++)
            sum += a[i * n + j];
        for (int32_t i = 0; i < n; i++)
            a[i * n + j] /= sum + epsilon;
    }
}

static void normalise_rows(float *a, int32_t n, float epsilon)
{
    for (int32_t i = 0; i < n; i++) {
        float sum = 0.0f;
        for (int32_t j = 0; j < n; j++)
            sum += a[i * n + j];
        for (int32_t j = 0; j < n; j++)
            a[i * n + j] /= sum + epsilon;
    }
}

static void softmax_rows(float *a, int32_t n, float epsilon)
{
    for (int32_t i = 0; i < n; i++) {
        float *row = a + i * n;
        float max = row[0];
        float sum = 0.0f;
        for (int32_t j = 1; j < n; j++)
            max = row[j] > max ? row[j] : max;
        for (int32_t j = 0; j < n; j++) {
            row[j] = expf(row[j] - max);
            sum += row[j];
        }
        for (int32_t j = 0; j < n; j++)
            row[j] = row[j] / sum + epsilon;
    }
}

/* a [n, n] towards doubly stochastic; the softmax stands for the first row step. */
static void sinkhorn(float *a, int32_t n, int32_t iterations, float epsilon)
{
    softmax_rows(a, n, epsilon);
    normalise_columns(a, n, epsilon);
    for (int32_t i = 1; i < iterations; i++) {
        normalise_rows(a, n, epsilon);
        normalise_columns(a, n, epsilon);
    }
}

static void read_token(const void *context, int32_t t)
{
    const struct hyper_pre_args *args = context;
    int32_t n = args->streams_count;
    const float *streams = args->streams + (size_t)t * (size_t)n * (size_t)args->hidden;
    const float *mix = args->mix + (size_t)t * (size_t)((2 + n) * n);
    float *post = args->post + (size_t)t * (size_t)n;
    float *comb = args->comb + (size_t)t * (size_t)(n * n);
    float pre[OPS_STREAMS_MAX];
    float inverse = rms_inverse(streams, n * args->hidden, args->norm_epsilon);
    hyper_mix_factors(mix, inverse, args->scale[0], args->base, n, pre);
    for (int32_t i = 0; i < n; i++)
        pre[i] += args->epsilon;
    hyper_mix_factors(mix + n, inverse, args->scale[1], args->base + n, n, post);
    for (int32_t i = 0; i < n; i++)
        post[i] *= 2.0f;
    for (int32_t i = 0; i < n * n; i++)
        comb[i] = mix[2 * n + i] * inverse * args->scale[2] + args->base[2 * n + i];
    sinkhorn(comb, n, args->iterations, args->epsilon);
    hyper_mix_fold(streams, pre, n, args->hidden, args->round,
                   args->x + (size_t)t * (size_t)args->hidden);
}

void cpu_hyper_pre(struct stream *stream, const struct hyper_pre_args *args)
{
    SL_ASSERT(args->streams_count >= 1 && args->streams_count <= OPS_STREAMS_MAX);
    SL_ASSERT(args->hidden >= 1 && args->iterations >= 1);
    stream_run(stream, args->tokens, read_token, args);
}
