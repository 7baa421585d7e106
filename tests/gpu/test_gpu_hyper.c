/* The residual streams' ops against their twins: hyper_pre, hyper_post, hyper_head, mtp_mix. */
#include "tests/gpu/twin.h"

#include <math.h>
#include <string.h>

static const int32_t token_counts[] = {0, 1, 2, 7, 16};
static const int32_t shapes[][2] = {{4, 4096}, {4, 7},   {1, 64}, {2, 129},
                                    {3, 33},   {5, 257}, {8, 1}};

struct shape {
    int32_t tokens, streams, hidden;
    float scale; /* of the streams */
    bool round;
};

static void for_all_shapes(struct twin *twin, void (*run)(struct twin *, const struct shape *))
{
    static const float scales[] = {1.0f, 0.0f, 1e-8f, 300.0f};
    for (size_t i = 0; i < SL_COUNT_OF(token_counts); i++)
        for (size_t j = 0; j < SL_COUNT_OF(shapes); j++)
            for (size_t k = 0; k < SL_COUNT_OF(scales); k++)
                for (int round = 0; round < 2; round++) {
                    struct shape shape = {token_counts[i], shapes[j][0], shapes[j][1], scales[k],
                                          round};
                    if (k > 0 && shape.tokens != 2) continue;
                    run(twin, &shape);
                }
}

static void pre(struct twin *twin, const struct shape *shape)
{
    size_t tokens = (size_t)shape->tokens, n = (size_t)shape->streams;
    size_t hidden = (size_t)shape->hidden;
    struct twin_array streams = twin_array_make(twin, tokens * n * hidden * 4);
    struct twin_array mix = twin_array_make(twin, tokens * (2 + n) * n * 4);
    struct twin_array scale = twin_array_make(twin, 3 * 4);
    struct twin_array base = twin_array_make(twin, (2 + n) * n * 4);
    struct twin_array x = twin_array_make(twin, tokens * hidden * 4);
    struct twin_array post = twin_array_make(twin, tokens * n * 4);
    struct twin_array comb = twin_array_make(twin, tokens * n * n * 4);
    twin_fill(twin, streams.host, tokens * n * hidden, shape->scale, shape->round);
    /* z = mix / rms stays within a few units, as in the model. */
    twin_fill(twin, mix.host, tokens * (2 + n) * n, 2 * shape->scale, false);
    twin_fill(twin, scale.host, 3, 1, false);
    twin_fill(twin, base.host, (2 + n) * n, 2, false);
    struct hyper_pre_args args = {streams.host, mix.host,  scale.host, base.host, x.host,
                                  post.host,    comb.host, 0,          0,         0,
                                  20,           1e-6f,     1e-6f,      false};
    args.tokens = shape->tokens;
    args.streams_count = shape->streams;
    args.hidden = shape->hidden;
    args.round = shape->round;
    twin->cpu->hyper_pre(twin->cpu_stream, &args);
    twin_upload(twin, &streams), twin_upload(twin, &mix);
    twin_upload(twin, &scale), twin_upload(twin, &base);
    args.streams = streams.device, args.mix = mix.device;
    args.scale = scale.device, args.base = base.device;
    args.x = x.device, args.post = post.device, args.comb = comb.device;
    twin->gpu->hyper_pre(twin->gpu_stream, &args);
    double rms_limit = shape->round ? 3e-4 : 2e-6;
    double max_limit = shape->round ? 0x1p-8 : 2e-6;
    twin_check_close(twin, "x", twin_download(twin, &x), x.host, tokens * hidden, rms_limit,
                     max_limit);
    twin_check_close(twin, "post", twin_download(twin, &post), post.host, tokens * n, 2e-6, 4e-6);
    twin_check_close(twin, "comb", twin_download(twin, &comb), comb.host, tokens * n * n, 4e-6,
                     8e-6);
    twin_array_free(twin, &streams), twin_array_free(twin, &mix), twin_array_free(twin, &scale);
    twin_array_free(twin, &base), twin_array_free(twin, &x), twin_array_free(twin, &post);
    twin_array_free(twin, &comb);
}

static void hyper_pre_is_close(struct twin *twin)
{
    for_all_shapes(twin, pre);
}

static void post(struct twin *twin, const struct shape *shape)
{
    size_t tokens = (size_t)shape->tokens, n = (size_t)shape->streams;
    size_t hidden = (size_t)shape->hidden;
    struct twin_array streams = twin_array_make(twin, tokens * n * hidden * 4);
    struct twin_array x = twin_array_make(twin, tokens * hidden * 4);
    struct twin_array factors = twin_array_make(twin, tokens * n * 4);
    struct twin_array comb = twin_array_make(twin, tokens * n * n * 4);
    twin_fill(twin, streams.host, tokens * n * hidden, shape->scale, shape->round);
    twin_fill(twin, x.host, tokens * hidden, 1, shape->round);
    twin_fill(twin, factors.host, tokens * n, 1, false);
    twin_fill(twin, comb.host, tokens * n * n, 1, false);
    twin_upload(twin, &streams), twin_upload(twin, &x);
    twin_upload(twin, &factors), twin_upload(twin, &comb);
    struct hyper_post_args args = {.x = x.host,
                                   .post = factors.host,
                                   .comb = comb.host,
                                   .streams = streams.host,
                                   .tokens = shape->tokens,
                                   .streams_count = shape->streams,
                                   .hidden = shape->hidden,
                                   .round = shape->round};
    twin->cpu->hyper_post(twin->cpu_stream, &args);
    args.x = x.device, args.post = factors.device;
    args.comb = comb.device, args.streams = streams.device;
    twin->gpu->hyper_post(twin->gpu_stream, &args);
    twin_check_bytes(twin, "streams", twin_download(twin, &streams), streams.host, streams.bytes);
    twin_array_free(twin, &streams), twin_array_free(twin, &x);
    twin_array_free(twin, &factors), twin_array_free(twin, &comb);
}

static void hyper_post_is_equal(struct twin *twin)
{
    for_all_shapes(twin, post);
}

static void head(struct twin *twin, const struct shape *shape)
{
    size_t tokens = (size_t)shape->tokens, n = (size_t)shape->streams;
    size_t hidden = (size_t)shape->hidden;
    struct twin_array streams = twin_array_make(twin, tokens * n * hidden * 4);
    struct twin_array mix = twin_array_make(twin, tokens * n * 4);
    struct twin_array scale = twin_array_make(twin, 4);
    struct twin_array base = twin_array_make(twin, n * 4);
    struct twin_array x = twin_array_make(twin, tokens * hidden * 4);
    twin_fill(twin, streams.host, tokens * n * hidden, shape->scale, shape->round);
    twin_fill(twin, mix.host, tokens * n, 2 * shape->scale, false);
    twin_fill(twin, scale.host, 1, 1, false);
    twin_fill(twin, base.host, n, 2, false);
    twin_upload(twin, &streams), twin_upload(twin, &mix);
    twin_upload(twin, &scale), twin_upload(twin, &base);
    struct hyper_head_args args = {.streams = streams.host,
                                   .mix = mix.host,
                                   .scale = scale.host,
                                   .base = base.host,
                                   .x = x.host,
                                   .tokens = shape->tokens,
                                   .streams_count = shape->streams,
                                   .hidden = shape->hidden,
                                   .norm_epsilon = 1e-6f,
                                   .epsilon = 1e-6f,
                                   .round = shape->round};
    twin->cpu->hyper_head(twin->cpu_stream, &args);
    args.streams = streams.device, args.mix = mix.device;
    args.scale = scale.device, args.base = base.device, args.x = x.device;
    twin->gpu->hyper_head(twin->gpu_stream, &args);
    twin_check_close(twin, "x", twin_download(twin, &x), x.host, tokens * hidden,
                     shape->round ? 3e-4 : 2e-6, shape->round ? 0x1p-8 : 2e-6);
    twin_array_free(twin, &streams), twin_array_free(twin, &mix);
    twin_array_free(twin, &scale), twin_array_free(twin, &base), twin_array_free(twin, &x);
}

static void hyper_head_is_close(struct twin *twin)
{
    for_all_shapes(twin, head);
}

static void mix_embedding(struct twin *twin, const struct shape *shape)
{
    size_t row = (size_t)shape->tokens * (size_t)shape->hidden;
    struct twin_array embedding = twin_array_make(twin, row * 4);
    struct twin_array hidden = twin_array_make(twin, row * (size_t)shape->streams * 4);
    twin_fill(twin, embedding.host, row, 1, shape->round);
    twin_fill(twin, hidden.host, hidden.bytes / 4, shape->scale, shape->round);
    twin_upload(twin, &embedding), twin_upload(twin, &hidden);
    struct mtp_mix_args args = {embedding.host, hidden.host,   hidden.host, shape->tokens,
                                shape->streams, shape->hidden, shape->round};
    twin->cpu->mtp_mix(twin->cpu_stream, &args);
    args.embedding = embedding.device;
    args.hidden = args.out = hidden.device; /* in place */
    twin->gpu->mtp_mix(twin->gpu_stream, &args);
    twin_check_bytes(twin, "out", twin_download(twin, &hidden), hidden.host, hidden.bytes);
    twin_array_free(twin, &embedding), twin_array_free(twin, &hidden);
}

static void mtp_mix_is_equal(struct twin *twin)
{
    for_all_shapes(twin, mix_embedding);
}

int main(int argc, char **argv)
{
    static const struct twin_case cases[] = {
        {"hyper_pre is close to its twin", hyper_pre_is_close},
        {"hyper_post equals its twin", hyper_post_is_equal},
        {"hyper_head is close to its twin", hyper_head_is_close},
        {"mtp_mix equals its twin", mtp_mix_is_equal},
    };
    return twin_main(argc, argv, cases, SL_COUNT_OF(cases));
}
