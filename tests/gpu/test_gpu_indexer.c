/* The indexer against its twin: queries bit for bit, scores within a step, and rows that are the
 * best of those scores, ties to the lower row. */
#include "tests/gpu/twin.h"

#include <math.h>
#include <string.h>

#define CANDIDATES  16
#define WIDE_TOKENS 17 /* passes from here on may leave no scores */

struct indexer_case {
    struct row_format format;
    int32_t heads, top, ratio, rows_max, tokens;
    int32_t candidates[CANDIDATES]; /* of the tokens; more of them take these in turn */
    uint32_t distinct;              /* keys, so that scores tie; 0: all differ */
};

static uint8_t *make_keys(struct twin *twin, const struct indexer_case *test)
{
    size_t bytes = row_format_bytes(&test->format);
    int32_t width = test->format.plain + test->format.rotary;
    uint8_t *rows = twin_host(bytes * (size_t)test->rows_max);
    for (int32_t i = 0; i < test->rows_max; i++) {
        uint8_t *row = rows + (size_t)i * bytes;
        if (test->distinct && i >= (int32_t)test->distinct) {
            memcpy(row, rows + bytes * (twin_random(twin) % test->distinct), bytes);
        } else if (test->format.encoding == ROW_F32) {
            twin_fill(twin, (float *)(void *)row, (size_t)width, 1.0f, true);
        } else {
            for (int32_t c = 0; c < width / 2; c++)
                row[c] = (uint8_t)twin_random(twin);
            twin_fill_e8m0(twin, row + width / 2, (size_t)(width + 31) / 32, -3, 0);
        }
    }
    return rows;
}

/* The `top` best rows of scores, ascending, lower rows first among equals. */
static void check_rows(struct twin *twin, const float *scores, int32_t candidates, int32_t top,
                       const int32_t *selected)
{
    float worst = INFINITY;
    int32_t above = 0, equal = 0, taken = 0;
    for (int32_t k = 0; k < top; k++) {
        TWIN_CHECK(twin, selected[k] >= 0 && selected[k] < candidates, "row %d", (int)selected[k]);
        TWIN_CHECK(twin, k == 0 || selected[k] > selected[k - 1], "rows do not ascend at %d",
                   (int)k);
        if (selected[k] < 0 || selected[k] >= candidates) return;
        worst = fminf(worst, scores[selected[k]]);
    }
    for (int32_t k = 0; k < top; k++)
        taken += scores[selected[k]] == worst;
    for (int32_t row = 0; row < candidates; row++)
        above += scores[row] > worst;
    TWIN_CHECK(twin, above + taken == top, "%d rows above, %d at the cut of %d", (int)above,
               (int)taken, (int)top);
    int32_t k = 0;
    for (int32_t row = 0; row < candidates && equal < taken; row++) {
        if (scores[row] != worst) continue;
        while (k < top && selected[k] < row)
            k++;
        TWIN_CHECK(twin, k < top && selected[k] == row, "row %d of equals is left out", (int)row);
        equal++;
    }
}

static void run_gpu(struct twin *twin, const struct indexer_args *host, size_t rows_bytes,
                    float *queries, float *scores, int32_t *selected)
{
    struct indexer_args args = *host;
    size_t query_bytes = 4 * (size_t)args.tokens * (size_t)(args.heads * args.width);
    size_t weight_bytes = 4 * (size_t)args.tokens * (size_t)args.heads;
    size_t score_bytes = 4 * (size_t)args.rows_max;
    size_t selected_bytes = 4 * (size_t)args.tokens * (size_t)args.top;
    void *weights = twin_put(twin, args.weights, weight_bytes);
    void *rows = twin_put(twin, args.rows, rows_bytes);
    void *positions = twin_put(twin, args.positions, 4 * (size_t)args.tokens);
    args.queries = twin_put(twin, args.queries, query_bytes);
    args.weights = weights;
    args.rows = rows;
    args.positions = positions;
    args.scores = twin_put(twin, NULL, score_bytes);
    args.selected = twin_put(twin, NULL, selected_bytes);
    twin->gpu->indexer(twin->gpu_stream, &args);
    twin_get(twin, queries, args.queries, query_bytes);
    twin_get(twin, scores, args.scores, score_bytes);
    twin_get(twin, selected, args.selected, selected_bytes);
    twin_free(twin, weights, weight_bytes);
    twin_free(twin, rows, rows_bytes);
    twin_free(twin, positions, 4 * (size_t)args.tokens);
    twin_free(twin, args.queries, query_bytes);
    twin_free(twin, args.scores, score_bytes);
    twin_free(twin, args.selected, selected_bytes);
}

static void indexer(struct twin *twin, const struct indexer_case *test, bool round)
{
    int32_t width = test->format.plain + test->format.rotary;
    size_t floats = (size_t)test->tokens * (size_t)(test->heads * width);
    size_t selected_count = (size_t)test->tokens * (size_t)test->top;
    size_t rows_bytes = row_format_bytes(&test->format) * (size_t)test->rows_max;
    float *queries = twin_host(4 * floats), *want_queries = twin_host(4 * floats);
    float *got_queries = twin_host(4 * floats);
    float *weights = twin_host(4 * (size_t)(test->tokens * test->heads));
    float *want_scores = twin_host(4 * (size_t)test->rows_max);
    float *scores = twin_host(4 * (size_t)test->rows_max);
    int32_t *want = twin_host(4 * selected_count), *got = twin_host(4 * selected_count);
    int32_t *alone = twin_host(4 * selected_count);
    int32_t *positions = twin_host(4 * (size_t)test->tokens);
    bool wide = test->tokens >= WIDE_TOKENS;
    uint8_t *rows = make_keys(twin, test);
    twin_fill(twin, queries, floats, 1.0f, true);
    twin_fill(twin, weights, (size_t)(test->tokens * test->heads), 1.0f, true);
    for (int32_t t = 0; t < test->tokens; t++)
        positions[t] = test->candidates[t % CANDIDATES] * test->ratio + test->ratio - 2;
    memcpy(want_queries, queries, 4 * floats);
    struct indexer_args args = {
        want_queries, weights,     rows,  positions,   want_scores, want,           test->format,
        test->tokens, test->heads, width, test->ratio, test->top,   test->rows_max, round};
    twin->cpu->indexer(twin->cpu_stream, &args);
    args.queries = queries;
    run_gpu(twin, &args, rows_bytes, got_queries, scores, got);
    twin_check_bytes(twin, "queries", got_queries, want_queries, 4 * floats);
    int32_t last = test->candidates[(test->tokens - 1) % CANDIDATES];
    if (last > test->top && !wide) {
        twin_check_close(twin, "scores", scores, want_scores, (size_t)last, round ? 5e-4 : 1e-6,
                         round ? 0x1p-7 : 4e-6);
        check_rows(twin, scores, last, test->top, got + selected_count - (size_t)test->top);
        if (memcmp(scores, want_scores, 4 * (size_t)last) == 0)
            twin_check_bytes(twin, "rows", got + selected_count - (size_t)test->top,
                             want + selected_count - (size_t)test->top, 4 * (size_t)test->top);
    } else if (last <= test->top) {
        twin_check_bytes(twin, "rows", got + selected_count - (size_t)test->top,
                         want + selected_count - (size_t)test->top, 4 * (size_t)test->top);
    }
    /* Each token as the only one, whose scores then are the ones to look at. */
    for (int32_t t = 0; t + !wide < test->tokens; t += wide ? 1 + test->tokens / 60 : 1) {
        int32_t candidates = test->candidates[t % CANDIDATES];
        struct indexer_args one = args;
        one.tokens = 1;
        one.queries = queries + (size_t)t * (size_t)(test->heads * width);
        one.weights = weights + (size_t)t * (size_t)test->heads;
        one.positions = positions + t;
        run_gpu(twin, &one, rows_bytes, got_queries, scores, alone);
        twin_check_bytes(twin, "a token alone", alone, got + t * test->top, 4 * (size_t)test->top);
        if (candidates > test->top) check_rows(twin, scores, candidates, test->top, alone);
    }
    free(queries), free(want_queries), free(got_queries), free(weights), free(want_scores);
    free(scores), free(want), free(got), free(alone), free(positions), free(rows);
}

static void packed_keys_are_close(struct twin *twin)
{
    static const struct indexer_case cases[] = {
        {{ROW_KEY, 64, 64}, 64, 512, 4, 700, 3, {513, 512, 700}, 0},
        {{ROW_KEY, 64, 64}, 5, 16, 4, 300, 7, {0, 1, 15, 16, 17, 299, 300}, 0},
        {{ROW_KEY, 64, 64}, 17, 37, 4, 5000, 2, {4999, 5000}, 0},
        {{ROW_KEY, 0, 128}, 128, 5, 1, 64, 1, {63}, 0},
        {{ROW_KEY, 64, 64}, 8, 100, 4, 4500, 2, {4400, 4401}, 9},
        {{ROW_KEY, 64, 64}, 8, 100, 4, 4500, 1, {4097}, 1},
    };
    for (size_t i = 0; i < SL_COUNT_OF(cases); i++)
        indexer(twin, &cases[i], true);
}

/* Passes that keep no scores choose what a token alone does: with one, two and four tokens a block,
 * all of few candidates, ties at the cut and everywhere, buffers that overflow once and never. */
static void wide_passes_choose_the_same(struct twin *twin)
{
    static const struct indexer_case cases[] = {
        {{ROW_KEY, 64, 64}, 64, 20, 4, 70, 17, {0, 1, 19, 20, 21, 22, 32, 33, 64, 65, 70}, 0},
        {{ROW_KEY, 64, 64}, 5, 512, 4, 2600, 17, {511, 512, 513, 514, 2600, 2599, 2050}, 0},
        {{ROW_KEY, 64, 64}, 17, 100, 4, 700, 24, {699, 700, 3, 650, 101, 512, 513, 544}, 9},
        {{ROW_KEY, 0, 128}, 16, 300, 1, 2300, 30, {2300, 0, 2200, 2, 0, 301, 0, 300}, 1},
    };
    static const struct indexer_case large[] = {
        {{ROW_KEY, 64, 64}, 64, 512, 4, 2200, 600, {513, 2049, 2200, 512, 1999, 700}, 0},
        {{ROW_KEY, 64, 64}, 64, 512, 4, 5000, 1000, {5000, 4999, 4096}, 40},
        {{ROW_KEY, 64, 64}, 2, 512, 4, 262144, 256, {262144, 262143, 131073}, 0},
        {{ROW_KEY, 64, 64}, 8, 512, 4, 2000, 4096, {1, 600, 2000, 1500}, 0},
    };
    for (size_t i = 0; i < SL_COUNT_OF(cases); i++)
        indexer(twin, &cases[i], true);
    for (size_t i = 0; i < SL_COUNT_OF(large) && !twin->device.emulated; i++)
        indexer(twin, &large[i], true);
}

static void other_keys_are_close(struct twin *twin)
{
    static const struct indexer_case cases[] = {
        {{ROW_KEY, 32, 0}, 6, 20, 4, 150, 2, {149, 150}, 0},
        {{ROW_KEY, 8, 8}, 3, 5, 4, 131, 2, {130, 131}, 7},
        {{ROW_F32, 64, 64}, 6, 37, 4, 200, 2, {200, 199}, 0},
        {{ROW_F32, 1, 0}, 1, 8, 4, 64, 2, {63, 64}, 3},
        {{ROW_F32, 512, 512}, 2, 3, 2, 20, 1, {20}, 0},
    };
    for (size_t i = 0; i < SL_COUNT_OF(cases); i++) {
        indexer(twin, &cases[i], false);
        indexer(twin, &cases[i], true);
    }
    static const struct indexer_case odd = {{ROW_F32, 30, 7}, 3, 6, 4, 4200, 2, {4100, 4200}, 0};
    static const struct indexer_case native = {{ROW_KEY, 64, 64}, 3, 6, 4, 90, 2, {88, 90}, 0};
    indexer(twin, &odd, false);
    indexer(twin, &native, false);
}

static void a_quarter_million_keys(struct twin *twin)
{
    static const struct indexer_case test = {{ROW_KEY, 64, 64}, 2, 512, 4, 262144, 1, {262144}, 0};
    indexer(twin, &test, true);
}

int main(int argc, char **argv)
{
    static const struct twin_case cases[] = {
        {"packed keys are close to their twin", packed_keys_are_close},
        {"wide passes choose the same rows", wide_passes_choose_the_same},
        {"other keys are close to their twin", other_keys_are_close},
        {"a quarter million keys", a_quarter_million_keys},
    };
    return twin_main(argc, argv, cases, SL_COUNT_OF(cases));
}
