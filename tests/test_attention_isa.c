/* labels: unit */
/* Every attention and indexer variant this processor has, against the twin within the limits their
 * files state, and the same bits for any number of threads and any split of the tokens. */
#include "kernels/cpu_isa.h"
#include "kernels/lowp.h"
#include "tests/support_ops.h"

#include <math.h>
#include <string.h>

/* Rows as the encoder of the format could have written them. */
static uint8_t *make_rows(uint64_t *seed, const struct row_format *format, int32_t count)
{
    size_t bytes = row_format_bytes(format);
    int32_t width = format->plain + format->rotary;
    if (format->encoding == ROW_F32)
        return (uint8_t *)ops_test_random_bf16(seed, (size_t)count * (size_t)width, 2.0f);
    uint8_t *rows = ops_test_alloc(bytes * (size_t)count);
    for (int32_t i = 0; i < count; i++) {
        uint8_t *row = rows + (size_t)i * bytes;
        int32_t codes = format->encoding == ROW_KV ? format->plain : width / 2;
        int32_t scales = format->encoding == ROW_KV ? (codes + 63) / 64 : (width + 31) / 32;
        for (int32_t c = 0; c < codes; c++)
            row[c] = format->encoding == ROW_KV
                         ? (uint8_t)(test_random_below(seed, 127) | test_random_below(seed, 2) << 7)
                         : (uint8_t)test_random_below(seed, 256);
        for (int32_t s = 0; s < scales; s++)
            row[codes + s] = (uint8_t)(117 + test_random_below(seed, 4));
        for (int32_t c = 0; format->encoding == ROW_KV && c < format->rotary; c++) {
            uint16_t code = bf16_encode(test_random_float(seed) * 2.0f);
            memcpy(row + codes + scales + 2 * c, &code, sizeof code);
        }
    }
    return rows;
}

struct attention_case {
    struct row_format format;
    int32_t heads, tokens, window, ratio, top;
    float magnitude; /* of the queries */
};

/* Fails unless both differ by at most `limit` of the largest element, and a bf16 digit. */
static void check_near(const float *got, const float *want, size_t count, float limit, bool round)
{
    float largest = 0;
    for (size_t i = 0; i < count; i++)
        largest = fmaxf(largest, fabsf(want[i]));
    for (size_t i = 0; i < count; i++) {
        float allowed = largest * limit + (round ? fabsf(want[i]) * 0x1p-7f : 0);
        if (!(fabsf(got[i] - want[i]) <= allowed))
            fail_msg("element %zu is %.9g, expected %.9g", i, (double)got[i], (double)want[i]);
    }
}

static void check_attention(const struct ops *ops, const struct attention_case *test, bool round)
{
    uint64_t seed = (uint64_t)(test->heads * 17 + test->format.plain);
    int32_t width = test->format.plain + test->format.rotary;
    int32_t capacity = test->window + test->tokens;
    int32_t first_position = 700;
    size_t token_floats = (size_t)test->heads * (size_t)width;
    size_t floats = (size_t)test->tokens * token_floats;
    float *want = ops_test_floats(floats), *got = ops_test_floats(floats);
    int32_t *positions = ops_test_alloc(sizeof(int32_t) * (size_t)test->tokens);
    int32_t *selected = ops_test_alloc(sizeof(int32_t) * (size_t)(test->tokens * test->top + 1));
    for (int32_t t = 0; t < test->tokens; t++) {
        positions[t] = t == 0 ? 0 : first_position + t;
        for (int32_t k = 0; k < test->top; k++)
            selected[t * test->top + k] = t == 0 || k >= test->top - t ? -1 : k + k / 3;
    }
    struct attention_args args = {
        .queries = ops_test_random_bf16(&seed, floats, test->magnitude),
        .positions = positions,
        .window_rows = make_rows(&seed, &test->format, capacity),
        .rows = make_rows(&seed, &test->format, 800),
        .selected = test->top ? selected : NULL,
        .sink = ops_test_random(&seed, (size_t)test->heads, 2.0f),
        .out = want,
        .format = test->format,
        .tokens = test->tokens,
        .heads = test->heads,
        .width = width,
        .window = test->window,
        .window_capacity = capacity,
        .ratio = test->ratio,
        .top = test->top,
        .scale = 1.0f / sqrtf((float)width),
        .round = round,
    };
    cpu_attention(ops_test_stream(1), &args);
    args.out = got;
    ops->attention(ops_test_stream(3), &args);
    /* With rounding a weight may fall to the other side of a bf16 tie. */
    check_near(got, want, floats, round ? 1e-3f : 1e-5f, round);
    float *again = ops_test_floats(floats);
    for (int32_t t = 0; t < test->tokens; t++) {
        struct attention_args one = args;
        one.tokens = 1;
        one.queries = args.queries + (size_t)t * token_floats;
        one.positions = positions + t;
        one.selected = test->top ? selected + t * test->top : NULL;
        one.out = again + (size_t)t * token_floats;
        ops->attention(ops_test_stream(2), &one);
    }
    ops_test_same_bits("attention", again, got, floats * sizeof *got);
    ops_test_teardown(NULL);
}

static void check_attentions(const struct ops *ops)
{
    static const struct attention_case cases[] = {
        {{ROW_KV, 448, 64}, 64, 3, 128, 4, 150, 2.0f},
        {{ROW_KV, 448, 64}, 16, 2, 128, 128, 0, 8.0f},
        {{ROW_KV, 200, 8}, 5, 4, 37, 4, 9, 1.0f},
        {{ROW_KV, 64, 4}, 17, 2, 1, 0, 0, 1.0f},
        {{ROW_F32, 1, 0}, 1, 3, 5, 1, 0, 1.0f},
        {{ROW_F32, 1000, 24}, 33, 2, 66, 4, 0, 1.0f},
        {{ROW_F32, 31, 2}, 3, 2, 63, 4, 1, 300.0f},
        {{ROW_F32, 16, 16}, 3, 2, 0, 0, 0, 1.0f},
    };
    for (size_t i = 0; i < SL_COUNT_OF(cases); i++) {
        check_attention(ops, &cases[i], false);
        check_attention(ops, &cases[i], true);
    }
}

static void attention_agrees_and_depends_on_the_token_alone(void **state)
{
    (void)state;
    ops_test_each_variant(check_attentions);
}

static void check_indexer(const struct ops *ops, const struct row_format *format, int32_t heads,
                          int32_t candidates, bool round)
{
    enum { TOKENS = 3, TOP = 5 };
    uint64_t seed = (uint64_t)(heads + candidates);
    int32_t width = format->plain + format->rotary;
    size_t token_floats = (size_t)heads * (size_t)width;
    float *queries = ops_test_random_bf16(&seed, TOKENS * token_floats, 2.0f);
    float *copy = ops_test_floats(TOKENS * token_floats);
    int32_t positions[TOKENS] = {4 * candidates - 1, 4 * TOP + 3, 4 * candidates - 1};
    int32_t selected[TOKENS * TOP], wanted[TOKENS * TOP];
    memcpy(copy, queries, TOKENS * token_floats * sizeof *copy);
    struct indexer_args args = {
        .queries = queries,
        .weights = ops_test_random_bf16(&seed, (size_t)(TOKENS * heads), 1.0f),
        .rows = make_rows(&seed, format, candidates),
        .positions = positions,
        .scores = ops_test_floats((size_t)candidates),
        .selected = wanted,
        .format = *format,
        .tokens = TOKENS,
        .heads = heads,
        .width = width,
        .ratio = 4,
        .top = TOP,
        .rows_max = candidates,
        .round = round,
    };
    cpu_indexer(ops_test_stream(1), &args);
    float *want = args.scores; /* of the last token */
    args.queries = copy;
    args.scores = ops_test_floats((size_t)candidates);
    args.selected = selected;
    ops->indexer(ops_test_stream(3), &args);
    ops_test_same_bits("queries", copy, queries, TOKENS * token_floats * sizeof *copy);
    check_near(args.scores, want, (size_t)candidates, round ? 0x1p-7f : 2e-6f, round);
    for (int32_t k = 1; k < TOP; k++)
        assert_true(selected[2 * TOP + k - 1] < selected[2 * TOP + k]);
    /* The selection is that of the scores: nothing left out is better than what is in. */
    float worst = INFINITY;
    for (int32_t k = 0; k < TOP; k++)
        worst = fminf(worst, args.scores[selected[2 * TOP + k]]);
    int32_t better = 0;
    for (int32_t row = 0; row < candidates; row++)
        better += args.scores[row] > worst;
    assert_true(better < TOP);
    ops_test_teardown(NULL);
}

static void check_indexers(const struct ops *ops)
{
    static const struct row_format formats[] = {
        {ROW_KEY, 64, 64}, {ROW_KEY, 32, 0}, {ROW_F32, 64, 64}, {ROW_F32, 1, 0}, {ROW_KEY, 8, 8}};
    for (size_t i = 0; i < SL_COUNT_OF(formats); i++) {
        for (int round = 0; round < 2; round++) {
            check_indexer(ops, &formats[i], 64, 300, round);
            check_indexer(ops, &formats[i], 5, 131, round);
            check_indexer(ops, &formats[i], 17, 7, round);
        }
    }
}

static void indexers_agree(void **state)
{
    (void)state;
    ops_test_each_variant(check_indexers);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(attention_agrees_and_depends_on_the_token_alone,
                                  ops_test_teardown),
        cmocka_unit_test_teardown(indexers_agree, ops_test_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
