/* labels: unit */
/* Router, routed experts and residual streams against plain double-precision loops. */
#include "kernels/lowp.h"
#include "tests/support_expert.h"
#include "tests/support_ops.h"

#include <math.h>

static double activation_in_double(float logit)
{
    return sqrt(logit > 20.0f ? (double)logit : log1p(exp((double)logit)));
}

static void router_takes_the_best_by_bias_and_weighs_without_it(void **state)
{
    enum { TOKENS = 6, EXPERTS = 33, TOP = 6 };
    uint64_t seed = 20;
    float *logits = ops_test_random(&seed, TOKENS * EXPERTS, 6.0f);
    float *bias = ops_test_random(&seed, EXPERTS, 0.5f);
    int32_t chosen[TOKENS * TOP];
    float weights[TOKENS * TOP];
    (void)state;
    bias[EXPERTS - 1] = 50.0f; /* chosen for its bias alone */
    for (int e = 0; e < EXPERTS; e++)
        logits[5 * EXPERTS + e] = e < 4 ? -1.0f : 25.0f;
    struct router_args args = {logits,  bias,   NULL,    NULL, chosen,
                               weights, TOKENS, EXPERTS, TOP,  1.5f};
    cpu_router(ops_test_stream(3), &args);
    for (int t = 0; t < TOKENS; t++) {
        double sum = 0;
        for (int k = 0; k < TOP; k++)
            sum += activation_in_double(logits[t * EXPERTS + chosen[t * TOP + k]]);
        for (int k = 0; k < TOP; k++) {
            int32_t id = chosen[t * TOP + k];
            double activation = activation_in_double(logits[t * EXPERTS + id]);
            assert_true(k == 0 || chosen[t * TOP + k - 1] < id);
            assert_float_equal(weights[t * TOP + k], (float)(1.5 * activation / sum), 1e-6f);
            /* At most TOP - 1 experts score higher. */
            int higher = 0;
            for (int e = 0; e < EXPERTS; e++)
                higher += activation_in_double(logits[t * EXPERTS + e]) + (double)bias[e] >
                          activation + (double)bias[id] + 1e-6;
            assert_in_range(higher, 0, TOP - 1);
        }
        assert_int_equal(chosen[t * TOP + TOP - 1], EXPERTS - 1);
    }
}

static void router_ties_go_to_the_lower_id_and_nan_comes_last(void **state)
{
    float logits[16] = {1, 2, 2, 1, 2, 2, 1, 1, NAN, 2, 0, 0, 0, 0, 0, 0};
    const float bias[16] = {0};
    int32_t chosen[16];
    float weights[16];
    struct router_args args = {logits, bias, NULL, NULL, chosen, weights, 1, 16, 4, 1.0f};
    struct stream *stream = ops_test_stream(1);
    (void)state;
    cpu_router(stream, &args);
    assert_int_equal(chosen[0], 1);
    assert_int_equal(chosen[1], 2);
    assert_int_equal(chosen[2], 4);
    assert_int_equal(chosen[3], 5);
    for (int e = 0; e < 16; e++)
        logits[e] = NAN;
    args.top = 16;
    cpu_router(stream, &args);
    for (int k = 0; k < 16; k++)
        assert_int_equal(chosen[k], k);
    logits[3] = 1.0f;
    args.top = 1;
    cpu_router(stream, &args);
    assert_int_equal(chosen[0], 3);
}

static void router_by_table_ignores_the_scores_for_the_choice(void **state)
{
    static const int64_t table[3][2] = {{5, 1}, {0, 7}, {3, 2}};
    static const int32_t ids[2] = {2, 0};
    uint64_t seed = 21;
    float *logits = ops_test_random(&seed, 2 * 8, 3.0f);
    int32_t chosen[4];
    float weights[4];
    (void)state;
    cpu_router(ops_test_stream(1), &(struct router_args){logits, NULL, &table[0][0], ids, chosen,
                                                         weights, 2, 8, 2, 1.5f});
    assert_int_equal(chosen[0], 2);
    assert_int_equal(chosen[1], 3);
    assert_int_equal(chosen[2], 1);
    assert_int_equal(chosen[3], 5);
    for (int t = 0; t < 2; t++) {
        double a = activation_in_double(logits[t * 8 + chosen[2 * t]]);
        double b = activation_in_double(logits[t * 8 + chosen[2 * t + 1]]);
        assert_float_equal(weights[2 * t], (float)(1.5 * a / (a + b)), 1e-6f);
        assert_float_equal(weights[2 * t + 1], (float)(1.5 * b / (a + b)), 1e-6f);
    }
}

static void experts_agree_and_depend_on_their_token_alone(void **state)
{
    enum { TOKENS = 70, TOP = 2 };
    uint64_t seed = 22;
    const struct test_expert *experts[2] = {test_expert_make(&seed, 160, 96, 122, 4),
                                            test_expert_make(&seed, 160, 96, 122, 4)};
    float *x = ops_test_random_bf16(&seed, TOKENS * 160, 2.0f);
    float *weights = ops_test_random(&seed, TOKENS * TOP, 1.0f);
    size_t out_count = TOKENS * TOP * 160;
    double *want = ops_test_alloc(out_count * sizeof *want);
    float *out = ops_test_floats(out_count);
    float *again = ops_test_floats(out_count);
    float *scratch = ops_test_floats(TOKENS * 3 * 96);
    int32_t token_rows[TOKENS];
    int32_t output_rows[2][TOKENS];
    (void)state;
    for (int32_t t = 0; t < TOKENS; t++) {
        token_rows[t] = TOKENS - 1 - t;
        for (int32_t e = 0; e < 2; e++)
            output_rows[e][t] = token_rows[t] * TOP + e;
    }
    for (int round = 0; round < 2; round++) {
        for (int32_t e = 0; e < 2; e++)
            for (int32_t t = 0; t < TOKENS; t++)
                test_expert_in_double(experts[e], x + token_rows[t] * 160,
                                      (double)weights[e * TOKENS + t], round,
                                      want + output_rows[e][t] * 160);
        struct expert_task tasks[2];
        for (int e = 0; e < 2; e++)
            tasks[e] = (struct expert_task){experts[e]->slot, token_rows, output_rows[e],
                                            weights + e * TOKENS, TOKENS};
        struct expert_ffn_args args = {.x = x,
                                       .out = out,
                                       .tasks = tasks,
                                       .layout = &experts[0]->layout,
                                       .scratch = scratch,
                                       .task_count = 2,
                                       .scratch_rows = TOKENS,
                                       .limit = 10.0f,
                                       .round = round};
        cpu_expert_ffn(ops_test_stream(1), &args);
        /* A middle value at a rounding edge may fall to either side: a few percent of itself. */
        assert_true(test_expert_relative_rms(out, want, out_count) < (round ? 0.006 : 1e-6));

        for (int32_t threads = 2; threads <= 4; threads++) {
            struct stream *stream = ops_test_stream(threads);
            for (int32_t first = 0, step = threads * 3; first < TOKENS; first += step) {
                for (int e = 0; e < 2; e++)
                    tasks[e] = (struct expert_task){
                        experts[e]->slot, token_rows + first, output_rows[e] + first,
                        weights + e * TOKENS + first, min_i32(step, TOKENS - first)};
                args.out = again;
                cpu_expert_ffn(stream, &args);
            }
            ops_test_same_bits("expert", again, out, out_count * sizeof *out);
        }
    }
}

static void hyper_pre_in_double(const struct hyper_pre_args *args, int t, double *x, double *post,
                                double *comb)
{
    int n = args->streams_count;
    const float *streams = args->streams + (size_t)(t * n * args->hidden);
    const float *mix = args->mix + t * (2 + n) * n;
    double sum = 0;
    for (int i = 0; i < n * args->hidden; i++)
        sum += (double)streams[i] * (double)streams[i];
    double inverse = 1 / sqrt(sum / (n * args->hidden) + (double)args->norm_epsilon);
    double z[80];
    for (int i = 0; i < (2 + n) * n; i++)
        z[i] = (double)mix[i] * inverse *
                   (double)args->scale[i < n       ? 0
                                       : i < 2 * n ? 1
                                                   : 2] +
               (double)args->base[i];
    for (int c = 0; c < args->hidden; c++)
        x[c] = 0;
    for (int i = 0; i < n; i++) {
        double pre = 1 / (1 + exp(-z[i])) + (double)args->epsilon;
        post[i] = 2 / (1 + exp(-z[n + i]));
        for (int c = 0; c < args->hidden; c++)
            x[c] += pre * (double)streams[i * args->hidden + c];
        double row = 0;
        for (int j = 0; j < n; j++)
            row += exp(z[2 * n + i * n + j]);
        for (int j = 0; j < n; j++)
            comb[i * n + j] = exp(z[2 * n + i * n + j]) / row + (double)args->epsilon;
    }
    for (int step = 1; step < 2 * args->iterations; step++) {
        bool columns = step % 2 == 1;
        for (int a = 0; a < n; a++) {
            double total = (double)args->epsilon;
            for (int b = 0; b < n; b++)
                total += comb[columns ? b * n + a : a * n + b];
            for (int b = 0; b < n; b++)
                comb[columns ? b * n + a : a * n + b] /= total;
        }
    }
}

static void check_hyper(int n, int hidden, int iterations)
{
    enum { TOKENS = 3 };
    uint64_t seed = (uint64_t)(23 + n);
    size_t stream_count = (size_t)(TOKENS * n * hidden);
    float *streams = ops_test_random_bf16(&seed, stream_count, 2.0f);
    float *x = ops_test_floats((size_t)(TOKENS * hidden));
    float *post = ops_test_floats((size_t)(TOKENS * n));
    float *comb = ops_test_floats((size_t)(TOKENS * n * n));
    float *base = ops_test_random(&seed, (size_t)((2 + n) * n), 1.0f);
    float *scale = ops_test_random(&seed, 3, 1.0f);
    float *mix = ops_test_random(&seed, (size_t)(TOKENS * (2 + n) * n), 5.0f);
    struct hyper_pre_args pre = {streams, mix, scale,  base,       x,     post,  comb,
                                 TOKENS,  n,   hidden, iterations, 1e-6f, 1e-6f, false};
    double *want = ops_test_alloc((size_t)(hidden * n) * sizeof *want);
    double want_post[8];
    double want_comb[64];
    cpu_hyper_pre(ops_test_stream(2), &pre);
    for (int t = 0; t < TOKENS; t++) {
        hyper_pre_in_double(&pre, t, want, want_post, want_comb);
        ops_test_close("hyper_pre x", x + t * hidden, want, (size_t)hidden, 3e-6, 0);
        ops_test_close("post", post + t * n, want_post, (size_t)n, 0, 3e-6);
        ops_test_close("comb", comb + t * n * n, want_comb, (size_t)(n * n), 1e-7, 1e-5);
    }
    struct hyper_head_args head = {streams, mix, scale,  base,  ops_test_floats((size_t)hidden),
                                   1,       n,   hidden, 1e-6f, 1e-6f,
                                   false};
    cpu_hyper_head(ops_test_stream(1), &head);
    ops_test_same_bits("head of token 0", head.x, x, (size_t)hidden * sizeof *x);

    double *mixed = ops_test_alloc(stream_count * sizeof *mixed);
    for (int i = 0; i < TOKENS * n * hidden; i++) {
        int t = i / (n * hidden);
        int j = i / hidden % n;
        int c = i % hidden;
        mixed[i] = (double)post[t * n + j] * (double)x[t * hidden + c];
        for (int s = 0; s < n; s++)
            mixed[i] +=
                (double)comb[(t * n + s) * n + j] * (double)streams[(t * n + s) * hidden + c];
    }
    cpu_hyper_post(ops_test_stream(3),
                   &(struct hyper_post_args){x, post, comb, streams, TOKENS, n, hidden, false});
    ops_test_close("hyper_post", streams, mixed, stream_count, 1e-5, 1e-6);
    ops_test_teardown(NULL);
}

static void residual_streams_are_read_and_written_as_specified(void **state)
{
    (void)state;
    check_hyper(4, 129, 20);
    check_hyper(4, 1, 1);
    check_hyper(8, 67, 3);
    check_hyper(1, 64, 20);
    check_hyper(3, 200, 2);
}

static void rounding_only_rounds_what_is_computed_without_it(void **state)
{
    enum { TOKENS = 2, M = 4, HIDDEN = 70 };
    uint64_t seed = 24;
    float *plain = ops_test_random_bf16(&seed, TOKENS * M * HIDDEN, 2.0f);
    float *rounded = ops_test_floats(TOKENS * M * HIDDEN);
    float *x = ops_test_random_bf16(&seed, TOKENS * HIDDEN, 2.0f);
    float *post = ops_test_random(&seed, TOKENS * M, 1.0f);
    float *comb = ops_test_random(&seed, TOKENS * M * M, 1.0f);
    struct stream *stream = ops_test_stream(1);
    (void)state;
    for (int i = 0; i < TOKENS * M * HIDDEN; i++)
        rounded[i] = plain[i];
    cpu_hyper_post(stream, &(struct hyper_post_args){x, post, comb, plain, TOKENS, M, HIDDEN, 0});
    cpu_hyper_post(stream, &(struct hyper_post_args){x, post, comb, rounded, TOKENS, M, HIDDEN, 1});
    for (int i = 0; i < TOKENS * M * HIDDEN; i++)
        assert_true(rounded[i] == bf16_round(plain[i]));

    struct mtp_mix_args mix = {x, rounded, plain, TOKENS, M, HIDDEN, false};
    cpu_mtp_mix(stream, &mix);
    for (int i = 0; i < TOKENS * M * HIDDEN; i++)
        assert_true(plain[i] == x[i / (M * HIDDEN) * HIDDEN + i % HIDDEN] + rounded[i]);
    mix.out = rounded;
    mix.round = true;
    cpu_mtp_mix(stream, &mix);
    for (int i = 0; i < TOKENS * M * HIDDEN; i++)
        assert_true(rounded[i] == bf16_round(plain[i]));
}

static void rows_are_gathered_where_the_list_says(void **state)
{
    enum { ROWS = 5, WIDTH = 7 };
    float source[ROWS * WIDTH], out[ROWS * WIDTH] = {0};
    const int32_t rows[] = {3, -1, 0, -1};
    struct gather_rows_args args = {source, rows, out, 4, WIDTH};
    (void)state;
    for (int i = 0; i < ROWS * WIDTH; i++)
        source[i] = (float)(i + 1);
    cpu_gather_rows(ops_test_stream(1), &args);
    for (int i = 0; i < ROWS * WIDTH; i++)
        assert_true(out[i] == (i / WIDTH == 3 || i / WIDTH == 0 ? source[i] : 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(router_takes_the_best_by_bias_and_weighs_without_it,
                                  ops_test_teardown),
        cmocka_unit_test_teardown(router_ties_go_to_the_lower_id_and_nan_comes_last,
                                  ops_test_teardown),
        cmocka_unit_test_teardown(router_by_table_ignores_the_scores_for_the_choice,
                                  ops_test_teardown),
        cmocka_unit_test_teardown(experts_agree_and_depend_on_their_token_alone, ops_test_teardown),
        cmocka_unit_test_teardown(residual_streams_are_read_and_written_as_specified,
                                  ops_test_teardown),
        cmocka_unit_test_teardown(rows_are_gathered_where_the_list_says, ops_test_teardown),
        cmocka_unit_test_teardown(rounding_only_rounds_what_is_computed_without_it,
                                  ops_test_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
