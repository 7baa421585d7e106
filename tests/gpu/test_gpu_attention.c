/* Attention against its twin: the native rows by the tensor cores and every other form by the plain
 * kernel, around the edges of window and groups, and a token's bits whatever its neighbours. */
#include "tests/gpu/twin.h"

#include "kernels/lowp.h"

#include <math.h>
#include <string.h>

#define WIDE_TOKENS 17 /* passes from here on sum in another order than shorter ones */

/* Rows as the encoder of the format could have written them. */
static uint8_t *make_rows(struct twin *twin, const struct row_format *format, int32_t count)
{
    size_t bytes = row_format_bytes(format);
    int32_t width = format->plain + format->rotary;
    uint8_t *rows = twin_host(bytes * (size_t)count);
    if (format->encoding == ROW_F32) {
        twin_fill(twin, (float *)(void *)rows, (size_t)count * (size_t)width, 1.0f, true);
        return rows;
    }
    SL_ASSERT(format->encoding == ROW_KV);
    for (int32_t i = 0; i < count; i++) {
        uint8_t *row = rows + (size_t)i * bytes;
        int32_t scales = (format->plain + 63) / 64;
        uint16_t slice[OPS_HEAD_DIM_MAX];
        twin_fill_e4m3(twin, row, (size_t)format->plain);
        twin_fill_e8m0(twin, row + format->plain, (size_t)scales, -10, -7);
        twin_fill_bf16(twin, slice, (size_t)format->rotary, 2.0f);
        memcpy(row + format->plain + scales, slice, 2 * (size_t)format->rotary);
    }
    return rows;
}

struct attention_case {
    struct row_format format;
    int32_t heads, window, ratio, top;
    float magnitude; /* of the queries */
    int32_t first_position, tokens;
};

/* Runs the op on the GPU with device copies of what args name. */
static void run_gpu(struct twin *twin, const struct attention_args *host, size_t window_bytes,
                    size_t rows_bytes, float *out)
{
    struct attention_args args = *host;
    size_t query_bytes = 4 * (size_t)args.tokens * (size_t)args.heads * (size_t)args.width;
    size_t position_bytes = 4 * (size_t)args.tokens;
    size_t selected_bytes = args.selected ? 4 * (size_t)args.tokens * (size_t)args.top : 0;
    size_t sink_bytes = 4 * (size_t)args.heads;
    void *queries = twin_put(twin, args.queries, query_bytes);
    void *positions = twin_put(twin, args.positions, position_bytes);
    void *window = twin_put(twin, args.window_rows, window_bytes);
    void *rows = twin_put(twin, args.rows, rows_bytes);
    void *selected = twin_put(twin, args.selected, selected_bytes);
    void *sink = twin_put(twin, args.sink, sink_bytes);
    args.queries = queries;
    args.positions = positions;
    args.window_rows = window;
    args.rows = rows;
    args.selected = args.selected ? selected : NULL;
    args.sink = sink;
    args.out = twin_put(twin, NULL, query_bytes);
    twin->gpu->attention(twin->gpu_stream, &args);
    twin_get(twin, out, args.out, query_bytes);
    twin_free(twin, queries, query_bytes);
    twin_free(twin, positions, position_bytes);
    twin_free(twin, window, window_bytes);
    twin_free(twin, rows, rows_bytes);
    twin_free(twin, selected, selected_bytes);
    twin_free(twin, sink, sink_bytes);
    twin_free(twin, args.out, query_bytes);
}

/* The same for `tokens` of the tokens, from `first` on. */
static struct attention_args tokens_of(const struct attention_args *args, int32_t first,
                                       int32_t tokens)
{
    struct attention_args part = *args;
    part.tokens = tokens;
    part.queries = args->queries + (size_t)first * (size_t)args->heads * (size_t)args->width;
    part.positions = args->positions + first;
    part.selected = args->selected ? args->selected + first * args->top : NULL;
    return part;
}

static void attention(struct twin *twin, const struct attention_case *test, bool round)
{
    int32_t width = test->format.plain + test->format.rotary;
    int32_t capacity = test->window + test->tokens + 1;
    int32_t last = test->first_position + test->tokens - 1;
    int32_t row_count = test->ratio ? (last + 1) / test->ratio + 1 : 1;
    size_t token_floats = (size_t)test->heads * (size_t)width;
    size_t floats = (size_t)test->tokens * token_floats;
    size_t row_bytes = row_format_bytes(&test->format);
    float *queries = twin_host(4 * floats);
    float *want = twin_host(4 * floats);
    float *got = twin_host(4 * floats);
    float *alone = twin_host(4 * floats);
    float *sink = twin_host(4 * (size_t)test->heads);
    int32_t *positions = twin_host(4 * (size_t)test->tokens);
    int32_t *selected = twin_host(4 * (size_t)(test->tokens * test->top));
    uint8_t *window = make_rows(twin, &test->format, capacity);
    uint8_t *rows = make_rows(twin, &test->format, row_count);
    twin_fill(twin, queries, floats, test->magnitude, true);
    twin_fill(twin, sink, (size_t)test->heads, 1.0f, false);
    for (int32_t t = 0; t < test->tokens; t++) {
        int32_t visible = test->ratio ? (test->first_position + t + 1) / test->ratio : 0;
        int32_t chosen = 0;
        positions[t] = test->first_position + t;
        /* As many as there are, or a random ascending choice. */
        for (int32_t row = 0; row < visible && chosen < test->top; row++) {
            uint32_t left = (uint32_t)(visible - row);
            if (twin_random(twin) % left < (uint32_t)(test->top - chosen))
                selected[t * test->top + chosen++] = row;
        }
        for (; chosen < test->top; chosen++)
            selected[t * test->top + chosen] = -1;
    }
    struct attention_args args = {
        .queries = queries,
        .positions = positions,
        .window_rows = window,
        .rows = rows,
        .selected = test->top ? selected : NULL,
        .sink = sink,
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
    size_t window_bytes = row_bytes * (size_t)capacity;
    size_t rows_bytes = row_bytes * (size_t)row_count;
    twin->cpu->attention(twin->cpu_stream, &args);
    run_gpu(twin, &args, window_bytes, rows_bytes, got);
    twin_check_close(twin, "out", got, want, floats, round ? 4e-4 : 3e-6, round ? 0x1p-7 : 1e-5);
    bool wide = round && test->tokens >= WIDE_TOKENS;
    if (test->tokens > WIDE_TOKENS) { /* bit by bit the same in a shorter pass */
        int32_t t = test->tokens - WIDE_TOKENS;
        struct attention_args part = tokens_of(&args, t, WIDE_TOKENS);
        run_gpu(twin, &part, window_bytes, rows_bytes, alone);
        twin_check_bytes(twin, "a part alone", alone, got + (size_t)t * token_floats,
                         4 * WIDE_TOKENS * token_floats);
    }
    for (int32_t t = 0; t < test->tokens; t += wide ? 1 + test->tokens / 3 : 5) {
        struct attention_args one = tokens_of(&args, t, 1);
        run_gpu(twin, &one, window_bytes, rows_bytes, alone);
        if (wide)
            twin_check_close(twin, "a token alone", got + (size_t)t * token_floats, alone,
                             token_floats, 4e-4, 0x1p-7);
        else
            twin_check_bytes(twin, "a token alone", alone, got + (size_t)t * token_floats,
                             4 * token_floats);
    }
    free(queries), free(want), free(got), free(alone), free(sink);
    free(positions), free(selected), free(window), free(rows);
}

static void native_rows_are_close(struct twin *twin)
{
    static const struct attention_case cases[] = {
        /* The window alone, filling up and full. */
        {{ROW_KV, 448, 64}, 64, 128, 0, 0, 1.0f, 0, 2},
        {{ROW_KV, 448, 64}, 16, 128, 0, 0, 8.0f, 15, 2},
        {{ROW_KV, 448, 64}, 8, 128, 0, 0, 1.0f, 126, 4},
        /* All compressed rows of ratio 128: one row appears at 127; several groups. */
        {{ROW_KV, 448, 64}, 16, 128, 128, 0, 1.0f, 126, 3},
        {{ROW_KV, 448, 64}, 17, 128, 128, 0, 2.0f, 128 * 100 + 77, 2},
        /* Chosen rows of ratio 4, all of them up to 2050, then some. */
        {{ROW_KV, 448, 64}, 64, 128, 4, 512, 1.0f, 2050, 2},
        {{ROW_KV, 448, 64}, 5, 128, 4, 512, 1.0f, 9001, 2},
        {{ROW_KV, 448, 64}, 5, 128, 4, 512, 20.0f, 5, 7},
        {{ROW_KV, 448, 64}, 70, 128, 4, 30, 1.0f, 300, 1},
        {{ROW_KV, 448, 64}, 3, 1, 4, 3, 1.0f, 40, 16},
        {{ROW_KV, 448, 64}, 3, 0, 0, 0, 1.0f, 40, 2},
    };
    for (size_t i = 0; i < SL_COUNT_OF(cases); i++)
        attention(twin, &cases[i], true);
}

static void wide_passes_are_close(struct twin *twin)
{
    static const struct attention_case cases[] = {
        /* From the start on, and over the edge of the window; nothing but the sink. */
        {{ROW_KV, 448, 64}, 64, 128, 0, 0, 1.0f, 0, 17},
        {{ROW_KV, 448, 64}, 3, 128, 128, 0, 8.0f, 112, 17},
        {{ROW_KV, 448, 64}, 3, 0, 0, 0, 1.0f, 40, 17},
        /* Chosen rows, more heads than a block has; around 2051; near a million. */
        {{ROW_KV, 448, 64}, 65, 40, 4, 9, 20.0f, 31, 18},
        {{ROW_KV, 448, 64}, 5, 20, 4, 44, 1.0f, 2042, 17},
        {{ROW_KV, 448, 64}, 4, 20, 0, 0, 1.0f, 1000001, 64},
    };
    /* Seconds for a GPU, minutes for the emulator. */
    static const struct attention_case large[] = {
        {{ROW_KV, 448, 64}, 64, 128, 4, 512, 1.0f, 2000, 64},
        {{ROW_KV, 448, 64}, 16, 128, 128, 0, 1.0f, 0, 129},
        {{ROW_KV, 448, 64}, 16, 128, 4, 512, 4.0f, 9001, 130},
        {{ROW_KV, 448, 64}, 4, 128, 128, 0, 1.0f, 1000001, 17},
        {{ROW_KV, 448, 64}, 4, 128, 4, 512, 1.0f, 1900, 1000},
        {{ROW_KV, 448, 64}, 2, 128, 128, 0, 1.0f, 130000, 1000},
        {{ROW_KV, 448, 64}, 1, 128, 4, 512, 1.0f, 0, 4096},
    };
    for (size_t i = 0; i < SL_COUNT_OF(cases); i++)
        attention(twin, &cases[i], true);
    for (size_t i = 0; i < SL_COUNT_OF(large) && !twin->device.emulated; i++)
        attention(twin, &large[i], true);
}

static void positions_near_a_million_are_close(struct twin *twin)
{
    static const struct attention_case test = {{ROW_KV, 448, 64}, 2, 128, 128, 0, 1.0f, 1000001, 1};
    attention(twin, &test, true);
}

static void other_rows_are_close(struct twin *twin)
{
    static const struct attention_case cases[] = {
        {{ROW_KV, 200, 8}, 5, 37, 4, 9, 1.0f, 700, 4},
        {{ROW_KV, 64, 4}, 17, 1, 0, 0, 1.0f, 3, 2},
        {{ROW_F32, 1, 0}, 1, 5, 1, 0, 1.0f, 0, 3},
        {{ROW_F32, 1000, 24}, 3, 66, 4, 0, 1.0f, 100, 2},
        {{ROW_F32, 31, 2}, 3, 63, 4, 1, 300.0f, 70, 2},
        {{ROW_F32, 16, 16}, 3, 0, 0, 0, 1.0f, 9, 2},
        {{ROW_F32, 448, 64}, 4, 128, 4, 64, 1.0f, 1000, 1},
    };
    for (size_t i = 0; i < SL_COUNT_OF(cases); i++) {
        attention(twin, &cases[i], false);
        attention(twin, &cases[i], true);
    }
    static const struct attention_case native = {{ROW_KV, 448, 64}, 2, 128, 4, 64, 1.0f, 1000, 1};
    attention(twin, &native, false);
}

/* Huge scores neither overflow nor lose the sink. */
static void the_sink_counts(struct twin *twin)
{
    struct row_format format = {ROW_KV, 448, 64};
    size_t row_bytes = row_format_bytes(&format);
    uint8_t *rows = twin_host(2 * row_bytes);
    static const int32_t position = 1;
    static const float sinks[] = {-3e38f, 0.0f, 80.0f, 1e4f};
    float queries[512] = {0}, want[512], got[512], sink;
    rows[0] = 0x7e; /* 448 in a block of scale 2^4 */
    rows[448] = 131;
    rows[row_bytes] = 0xfe;
    rows[row_bytes + 448] = 131;
    for (size_t i = 0; i < SL_COUNT_OF(sinks); i++)
        for (int big = 0; big < 2; big++) {
            queries[0] = big ? 8192.0f : 0.0f;
            sink = sinks[i];
            struct attention_args args = {queries, &position, rows, NULL, NULL, &sink,
                                          want,    format,    1,    1,    512,  128,
                                          2,       0,         0,    1.0f, true};
            args.window = 2;
            twin->cpu->attention(twin->cpu_stream, &args);
            run_gpu(twin, &args, 2 * row_bytes, 0, got);
            twin_check_close(twin, "out", got, want, 512, 1e-3, 0x1p-7);
        }
    free(rows);
}

int main(int argc, char **argv)
{
    static const struct twin_case cases[] = {
        {"attention over native rows is close to its twin", native_rows_are_close},
        {"wide passes are close to the twin and to short ones", wide_passes_are_close},
        {"positions near a million", positions_near_a_million_are_close},
        {"attention over other rows is close to its twin", other_rows_are_close},
        {"the sink counts", the_sink_counts},
    };
    return twin_main(argc, argv, cases, SL_COUNT_OF(cases));
}
