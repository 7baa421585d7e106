/* labels: unit */
/* Indexer and attention against plain double-precision loops, for any threads and any split. */
#include "tests/support_ops.h"

#include <math.h>
#include <string.h>

static int compare_descending(const void *a, const void *b)
{
    float left = *(const float *)a;
    float right = *(const float *)b;
    return (left < right) - (left > right);
}

/* Fails unless `selected` are the `top` best of args->scores, ascending, lower rows first. */
static void check_selection(const struct indexer_args *args, int32_t candidates)
{
    float *sorted = ops_test_floats((size_t)candidates);
    memcpy(sorted, args->scores, (size_t)candidates * sizeof *sorted);
    qsort(sorted, (size_t)candidates, sizeof *sorted, compare_descending);
    float cut = sorted[args->top - 1];
    int32_t at_cut = 0; /* places left for rows that score exactly `cut` */
    for (int32_t i = 0; i < args->top; i++)
        at_cut += sorted[i] == cut;
    int32_t k = 0;
    for (int32_t row = 0; row < candidates; row++) {
        if (args->scores[row] < cut) continue;
        if (args->scores[row] == cut && at_cut-- <= 0) continue;
        assert_int_equal(args->selected[k], row);
        k++;
    }
    assert_int_equal(k, args->top);
}

static void scores_in_double(const struct indexer_args *args, const float *queries, double *scores,
                             int32_t candidates)
{
    const float *rows = (const float *)(const void *)args->rows;
    double scale = 1 / sqrt((double)args->width * args->heads);
    for (int32_t row = 0; row < candidates; row++) {
        double score = 0;
        for (int32_t h = 0; h < args->heads; h++) {
            double product = 0;
            for (int32_t c = 0; c < args->width; c++)
                product +=
                    (double)queries[h * args->width + c] * (double)rows[row * args->width + c];
            if (args->round) product = ops_test_bf16((double)(float)product);
            double weight = (double)args->weights[h];
            weight = args->round ? ops_test_bf16(weight * scale) : weight * scale;
            double term = fmax(product, 0) * weight;
            score += args->round ? ops_test_bf16(term) : term;
        }
        scores[row] = args->round ? ops_test_bf16(score) : score;
    }
}

static void index_scores_agree_and_the_best_rows_are_selected(void **state)
{
    enum { HEADS = 6, WIDTH = 64, ROWS = 500, TOP = 37 };
    uint64_t seed = 40;
    (void)state;
    for (int round = 0; round < 2; round++) {
        float *queries = ops_test_random_bf16(&seed, HEADS * WIDTH, 2.0f);
        float *original = ops_test_floats(HEADS * WIDTH);
        const int32_t position = 4 * ROWS - 1;
        double want[ROWS];
        memcpy(original, queries, HEADS * WIDTH * sizeof *queries);
        struct indexer_args args = {
            .queries = queries,
            .weights = ops_test_random_bf16(&seed, HEADS, 1.0f),
            .rows = (const uint8_t *)ops_test_random_bf16(&seed, ROWS * WIDTH, 2.0f),
            .positions = &position,
            .scores = ops_test_floats(ROWS),
            .selected = ops_test_alloc(TOP * sizeof(int32_t)),
            .format = {ROW_F32, WIDTH, 0},
            .tokens = 1,
            .heads = HEADS,
            .width = WIDTH,
            .ratio = 4,
            .top = TOP,
            .rows_max = ROWS,
            .round = round};
        cpu_indexer(ops_test_stream(3), &args);
        /* With rounding the queries went through the rotation in place; judge the scores by it. */
        scores_in_double(&args, queries, want, ROWS);
        ops_test_close("scores", args.scores, want, ROWS, round ? 0.02 : 1e-5, 0x1p-6);
        check_selection(&args, ROWS);
        for (int i = 0; !round && i < HEADS * WIDTH; i++)
            assert_true(queries[i] == original[i]);
        for (int h = 0; round && h < HEADS; h++) {
            double rotated[WIDTH];
            double expected[WIDTH];
            for (int i = 0; i < WIDTH; i++) {
                rotated[i] = 0;
                for (int j = 0; j < WIDTH; j++)
                    rotated[i] += (__builtin_popcount((unsigned)(i & j)) % 2 ? -1 : 1) *
                                  (double)original[h * WIDTH + j];
                rotated[i] = ops_test_bf16(rotated[i] / 8);
            }
            ops_test_round_trip_fp4(rotated, expected, WIDTH, 32);
            ops_test_close("query", queries + h * WIDTH, expected, WIDTH, 0, 0);
        }
    }
}

static void selection_is_padded_and_ties_go_to_lower_rows(void **state)
{
    enum { ROWS = 64, TOP = 8, TOKENS = 4 };
    static const int32_t positions[TOKENS] = {2, 3, 31, 255};
    float *keys = ops_test_floats(ROWS);
    float queries[TOKENS] = {1, 1, 1, 1};
    static const float weights[TOKENS] = {1, 1, 1, 1};
    float scores[ROWS];
    int32_t selected[TOKENS * TOP];
    static const int32_t want[TOKENS * TOP] = {-1, -1, -1, -1, -1, -1, -1, -1, 0,  -1, -1,
                                               -1, -1, -1, -1, -1, 0,  1,  2,  3,  4,  5,
                                               6,  7,  0,  1,  2,  3,  4,  40, 50, 60};
    (void)state;
    for (int i = 0; i < ROWS; i++)
        keys[i] = 1.0f;
    keys[40] = keys[50] = keys[60] = 2.0f;
    struct indexer_args args = {queries,
                                weights,
                                (const uint8_t *)keys,
                                positions,
                                scores,
                                selected,
                                {ROW_F32, 1, 0},
                                TOKENS,
                                1,
                                1,
                                4,
                                TOP,
                                ROWS,
                                false};
    cpu_indexer(ops_test_stream(2), &args);
    for (int i = 0; i < TOKENS * TOP; i++)
        assert_int_equal(selected[i], want[i]);
}

static void a_quarter_million_rows_are_selected_alike_by_any_threads(void **state)
{
    enum { ROWS = 262144, TOP = 512 };
    uint64_t seed = 41;
    const int32_t position = 4 * ROWS - 1;
    float query = 1.0f;
    const float weight = 1.0f;
    float *keys = ops_test_random_bf16(&seed, ROWS, 1.0f);
    int32_t *first = NULL;
    (void)state;
    for (int32_t threads = 1; threads <= 4; threads++) {
        struct indexer_args args = {.queries = &query,
                                    .weights = &weight,
                                    .rows = (const uint8_t *)keys,
                                    .positions = &position,
                                    .scores = ops_test_floats(ROWS),
                                    .selected = ops_test_alloc(TOP * sizeof(int32_t)),
                                    .format = {ROW_F32, 1, 0},
                                    .tokens = 1,
                                    .heads = 1,
                                    .width = 1,
                                    .ratio = 4,
                                    .top = TOP,
                                    .rows_max = ROWS};
        cpu_indexer(ops_test_stream(threads), &args);
        if (!first) {
            check_selection(&args, ROWS);
            first = args.selected;
        }
        ops_test_same_bits("selection", args.selected, first, TOP * sizeof *first);
    }
}

/* One query of args, head by head, in double; rows are those of ops_test_kv_format or f32. */
static void attend_in_double(const struct attention_args *args, int32_t t, double *out)
{
    size_t row_bytes = row_format_bytes(&args->format);
    int32_t position = args->positions[t];
    int32_t oldest = max_i32(0, position - args->window + 1);
    int32_t own = position + 1 - oldest;
    int32_t more = args->ratio ? (position + 1) / args->ratio : 0;
    const int32_t *selected = args->selected ? args->selected + t * args->top : NULL;
    double *row = ops_test_alloc((size_t)args->width * sizeof *row);
    for (int32_t h = 0; h < args->heads; h++) {
        const float *query = args->queries + (t * args->heads + h) * args->width;
        double *sum = out + h * args->width;
        double total = exp((double)args->sink[h]);
        for (int32_t c = 0; c < args->width; c++)
            sum[c] = 0;
        for (int32_t k = 0; k < own + more; k++) {
            int32_t idx = k < own ? (oldest + k) % args->window_capacity : k - own;
            if (k >= own && selected) idx = k - own < args->top ? selected[k - own] : -1;
            if (idx < 0) break;
            const uint8_t *bytes =
                (k < own ? args->window_rows : args->rows) + (size_t)idx * row_bytes;
            double product = 0;
            ops_test_kv_row(bytes, row);
            for (int32_t c = 0; c < args->width; c++)
                product += row[c] * (double)query[c];
            double weight = exp(product * (double)args->scale);
            total += weight;
            for (int32_t c = 0; c < args->width; c++)
                sum[c] += weight * row[c];
        }
        for (int32_t c = 0; c < args->width; c++)
            sum[c] /= total;
    }
}

/* Rows of ops_test_kv_format with random content. */
static uint8_t *make_rows(uint64_t *seed, int32_t count)
{
    uint8_t *rows = ops_test_alloc((size_t)count * row_format_bytes(&ops_test_kv_format));
    int32_t *positions = ops_test_alloc((size_t)count * sizeof *positions);
    for (int32_t i = 0; i < count; i++)
        positions[i] = i;
    cpu_kv_store(ops_test_stream(1),
                 &(struct kv_store_args){ops_test_random(seed, (size_t)count * 208, 1.0f),
                                         positions, rows, ops_test_kv_format, count, count});
    return rows;
}

static void check_attention(int32_t ratio, bool select, int32_t heads, bool round)
{
    enum { TOKENS = 7, WIDTH = 208, TOP = 90 };
    static const int32_t positions[TOKENS] = {0, 1, 5, 126, 127, 128, 700};
    uint64_t seed = (uint64_t)(50 + ratio);
    size_t per_token = (size_t)heads * WIDTH;
    int32_t *selected = ops_test_alloc(TOKENS * TOP * sizeof *selected);
    for (int32_t t = 0; t < TOKENS; t++)
        for (int32_t k = 0; k < TOP; k++)
            selected[t * TOP + k] = ratio && k < (positions[t] + 1) / ratio ? k : -1;
    float *out = ops_test_floats(TOKENS * per_token);
    float *again = ops_test_floats(TOKENS * per_token);
    double *want = ops_test_alloc(TOKENS * per_token * sizeof *want);
    struct attention_args args = {.queries = ops_test_random_bf16(&seed, TOKENS * per_token, 3.0f),
                                  .positions = positions,
                                  .window_rows = make_rows(&seed, 140),
                                  .rows = ratio ? make_rows(&seed, 180) : NULL,
                                  .selected = select ? selected : NULL,
                                  .sink = ops_test_random(&seed, (size_t)heads, 2.0f),
                                  .out = out,
                                  .format = ops_test_kv_format,
                                  .tokens = TOKENS,
                                  .heads = heads,
                                  .width = WIDTH,
                                  .window = 128,
                                  .window_capacity = 140,
                                  .ratio = ratio,
                                  .top = TOP,
                                  .scale = 0.1f,
                                  .round = round};
    for (int32_t t = 0; t < TOKENS; t++)
        attend_in_double(&args, t, want + (size_t)t * per_token);
    cpu_attention(ops_test_stream(1), &args);
    ops_test_close("attention", out, want, TOKENS * per_token, round ? 0.004 : 1e-5,
                   round ? 0x1p-7 : 1e-5);
    const struct attention_args whole = args;
    for (int32_t threads = 2; threads <= 4; threads++) {
        struct stream *stream = ops_test_stream(threads);
        for (int32_t t = 0; t < TOKENS; t += threads - 1) {
            args.tokens = min_i32(threads - 1, TOKENS - t);
            args.positions = whole.positions + t;
            args.queries = whole.queries + (size_t)t * per_token;
            args.out = again + (size_t)t * per_token;
            if (select) args.selected = selected + t * TOP;
            cpu_attention(stream, &args);
        }
        ops_test_same_bits("attention", again, out, TOKENS * per_token * sizeof *out);
    }
    ops_test_teardown(NULL);
}

static void attention_agrees_and_depends_on_its_token_alone(void **state)
{
    (void)state;
    for (int round = 0; round < 2; round++) {
        check_attention(0, false, 3, round);
        check_attention(4, true, 3, round);
        check_attention(4, false, 17, round);
        check_attention(128, false, 1, round);
    }
}

/* A head over two rows: f32 rows, the first without a score, the second seen in channel 1. */
static float attend_two_rows(struct stream *stream, float score)
{
    static const int32_t positions[1] = {1};
    const float queries[2] = {score, 0};
    const float rows[4] = {0, 0, 1, 1};
    const float sink[1] = {-1000.0f};
    float out[2];
    cpu_attention(stream, &(struct attention_args){.queries = queries,
                                                   .positions = positions,
                                                   .window_rows = (const uint8_t *)rows,
                                                   .sink = sink,
                                                   .out = out,
                                                   .format = {ROW_F32, 2, 0},
                                                   .tokens = 1,
                                                   .heads = 1,
                                                   .width = 2,
                                                   .window = 2,
                                                   .window_capacity = 2,
                                                   .scale = 1.0f,
                                                   .round = true});
    return out[1];
}

static void weights_are_rounded_above_the_line_but_not_below(void **state)
{
    struct stream *stream = ops_test_stream(1);
    int telling = 0; /* cases in which another way of rounding shows */
    (void)state;
    for (int i = 1; i < 200; i++) {
        double weight = exp(-0.01 * i);
        double rounded = ops_test_bf16(weight);
        double want = ops_test_bf16(rounded / (1 + weight));
        assert_true((double)attend_two_rows(stream, -0.01f * (float)i) == want);
        telling += want != ops_test_bf16(weight / (1 + weight));
        telling += want != ops_test_bf16(rounded / (1 + rounded));
    }
    assert_true(telling > 20);
}

static void huge_scores_neither_overflow_nor_lose_the_sink(void **state)
{
    enum { WIDTH = 16 };
    static const int32_t positions[1] = {1};
    float queries[WIDTH] = {1e4f};
    float rows[2 * WIDTH] = {0};
    float sink[1] = {-3e38f};
    float out[WIDTH];
    (void)state;
    rows[0] = 1e4f;
    rows[WIDTH] = -1e4f;
    struct attention_args args = {
        queries, positions, (uint8_t *)rows, NULL, NULL, sink, out, {ROW_F32, WIDTH, 0},
        1,       1,         WIDTH,           128,  128,  0,    0,   1.0f,
        false};
    cpu_attention(ops_test_stream(1), &args);
    assert_true(out[0] == 1e4f && out[1] == 0.0f);
    queries[0] = 0.0f;
    sink[0] = 80.0f; /* a sink far above the scores takes nearly everything */
    cpu_attention(ops_test_stream(1), &args);
    assert_true(fabsf(out[0]) < 1e-20f);
    sink[0] = 1e4f;
    cpu_attention(ops_test_stream(1), &args);
    assert_true(out[0] == 0.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(index_scores_agree_and_the_best_rows_are_selected,
                                  ops_test_teardown),
        cmocka_unit_test_teardown(selection_is_padded_and_ties_go_to_lower_rows, ops_test_teardown),
        cmocka_unit_test_teardown(a_quarter_million_rows_are_selected_alike_by_any_threads,
                                  ops_test_teardown),
        cmocka_unit_test_teardown(attention_agrees_and_depends_on_its_token_alone,
                                  ops_test_teardown),
        cmocka_unit_test_teardown(weights_are_rounded_above_the_line_but_not_below,
                                  ops_test_teardown),
        cmocka_unit_test_teardown(huge_scores_neither_overflow_nor_lose_the_sink,
                                  ops_test_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
