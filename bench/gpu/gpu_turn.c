/* From one sublayer to the next for a prompt's chunk (kernels/fused.h), and the chain of ops in its
 * place, beside the bytes that must pass memory once: the sublayer's output and, after the experts,
 * their rows, the streams in and out, the next input. */
#include "bench/gpu/gpu_bench.h"
#include "kernels/fused.h"

#define STREAMS    4
#define MIXES      ((2 + STREAMS) * STREAMS)
#define TOP        6
#define TOKENS_MAX 8192

struct turn_case {
    struct fused_turn_args args;
    float *mix; /* of the chain */
    bool chained;
};

static void launch_chain_of_ops(struct gpu_bench *bench, const struct turn_case *test)
{
    const struct fused_turn_args *args = &test->args;
    const struct ops *ops = bench->gpu->ops;
    struct stream *stream = bench->gpu->stream;
    int32_t tokens = args->post.tokens, hidden = args->post.hidden;
    struct moe_combine_args combine = {.routed = args->routed,
                                       .shared = args->post.x,
                                       .out = (float *)args->post.x,
                                       .tokens = tokens,
                                       .top = TOP,
                                       .hidden = hidden,
                                       .round = true};
    struct linear_args linear = {.x = args->post.streams,
                                 .weight = {args->fn, NULL, MATRIX_F32, MIXES, STREAMS * hidden},
                                 .out = test->mix,
                                 .tokens = tokens,
                                 .groups = 1};
    struct norm_args norm = {.x = args->pre.x,
                             .weight = args->norm,
                             .out = args->pre.x,
                             .rows = tokens,
                             .width = hidden,
                             .epsilon = args->pre.norm_epsilon,
                             .round = true};
    if (args->routed) ops->moe_combine(stream, &combine);
    ops->hyper_post(stream, &args->post);
    ops->linear(stream, &linear);
    ops->hyper_pre(stream, &args->pre);
    ops->norm(stream, &norm);
}

static void launch_turn(struct gpu_bench *bench, void *context, int32_t repeat)
{
    const struct turn_case *test = context;
    (void)repeat;
    if (test->chained)
        launch_chain_of_ops(bench, test);
    else if (!bench->gpu->ops->fused->turn(bench->gpu->stream, &test->args))
        bench->failures++;
}

void gpu_bench_turns(struct gpu_bench *bench)
{
    static const int32_t chunks[] = {128, 512, 2048, TOKENS_MAX};
    int32_t hidden = bench->tiny ? 256 : 4096;
    size_t rows = bench->tiny ? 17 : TOKENS_MAX, width = (size_t)hidden;
    struct turn_case test = {.mix = gpu_bench_put(bench, NULL, rows * MIXES * sizeof(float))};
    float *x = gpu_bench_put_floats(bench, rows * width);
    float *input = gpu_bench_put(bench, NULL, rows * width * sizeof *input);
    float *streams = gpu_bench_put_floats(bench, rows * STREAMS * width);
    float *routed = gpu_bench_put_floats(bench, rows * TOP * width);
    float *post = gpu_bench_put_floats(bench, rows * STREAMS);
    float *comb = gpu_bench_put_floats(bench, rows * STREAMS * STREAMS);
    float *factors = gpu_bench_put_floats(bench, 3 + MIXES);
    if (bench->failures > 0) return;
    test.args = (struct fused_turn_args){
        .post = {.x = x,
                 .post = post,
                 .comb = comb,
                 .streams = streams,
                 .streams_count = STREAMS,
                 .hidden = hidden,
                 .round = true},
        .pre = {.streams = streams,
                .mix = test.mix,
                .scale = factors,
                .base = factors + 3,
                .x = input,
                .post = post,
                .comb = comb,
                .streams_count = STREAMS,
                .hidden = hidden,
                .iterations = 20,
                .norm_epsilon = 1e-6f,
                .epsilon = 1e-6f,
                .round = true},
        .fn = gpu_bench_put_floats(bench, MIXES * STREAMS * width),
        .norm = (const uint16_t *)(const void *)gpu_bench_fresh(bench, width * sizeof(uint16_t)),
        .top = TOP};
    for (size_t n = 0; n < (bench->tiny ? 1 : SL_COUNT_OF(chunks)); n++) {
        int32_t tokens = bench->tiny ? (int32_t)rows : chunks[n];
        for (int experts = 0; experts < 2; experts++)
            for (int chained = 0; chained < 2; chained++) {
                char name[96];
                double floats = (double)(2 + 2 * STREAMS + (experts ? TOP : 0)) * hidden;
                if (bench->failures > 0) return;
                test.args.post.tokens = test.args.pre.tokens = tokens;
                test.args.routed = experts ? routed : NULL;
                test.chained = chained;
                snprintf(name, sizeof name, "turn after %s%s, chunk of %d",
                         experts ? "experts" : "attention", chained ? ", op by op" : "",
                         (int)tokens);
                gpu_bench_measure_bound(bench, name, 0, 4 * floats * tokens, launch_turn, &test);
            }
    }
}
