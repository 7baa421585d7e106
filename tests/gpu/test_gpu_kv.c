/* The ring of window rows and the compressors against their twins, over calls that carry state. */
#include "kernels/cpu/row_codec.h"
#include "tests/gpu/twin.h"

#include <math.h>
#include <string.h>

static void kv_store(struct twin *twin, struct row_format format, int32_t tokens, int32_t capacity,
                     int32_t position, float scale)
{
    size_t width = (size_t)(format.plain + format.rotary);
    size_t row_bytes = row_format_bytes(&format);
    size_t x_bytes = 4 * (size_t)tokens * width;
    size_t ring_bytes = row_bytes * (size_t)capacity;
    float *x = twin_host(x_bytes);
    uint8_t *want = twin_host(ring_bytes);
    uint8_t *got = twin_host(ring_bytes);
    int32_t *positions = twin_host(4 * (size_t)tokens);
    twin_fill(twin, x, x_bytes / 4, scale, true);
    for (int32_t t = 0; t < tokens; t++)
        positions[t] = position + t;
    struct kv_store_args args = {x, positions, want, format, tokens, capacity};
    void *device_x = twin_put(twin, x, x_bytes);
    void *device_positions = twin_put(twin, positions, 4 * (size_t)tokens);
    void *device_rows = twin_put(twin, want, ring_bytes);
    twin->cpu->kv_store(twin->cpu_stream, &args);
    args.x = device_x;
    args.positions = device_positions;
    args.rows = device_rows;
    twin->gpu->kv_store(twin->gpu_stream, &args);
    twin_get(twin, got, device_rows, ring_bytes);
    twin_check_bytes(twin, "ring", got, want, ring_bytes);
    twin_free(twin, device_x, x_bytes);
    twin_free(twin, device_positions, 4 * (size_t)tokens);
    twin_free(twin, device_rows, ring_bytes);
    free(x), free(want), free(got), free(positions);
}

static void kv_store_is_equal(struct twin *twin)
{
    static const int32_t token_counts[] = {0, 1, 2, 7, 16, 300};
    static const int32_t positions[] = {0, 127, 128, 2051, 999983};
    for (size_t i = 0; i < SL_COUNT_OF(token_counts); i++) {
        for (size_t j = 0; j < SL_COUNT_OF(positions); j++)
            kv_store(twin, (struct row_format){ROW_KV, 448, 64}, token_counts[i], 143, positions[j],
                     j == 1 ? 1e-6f : 3.0f);
        kv_store(twin, (struct row_format){ROW_KV, 200, 8}, token_counts[i], 5, 3, 2e4f);
        kv_store(twin, (struct row_format){ROW_KV, 0, 6}, token_counts[i], 1, 3, 1.0f);
        kv_store(twin, (struct row_format){ROW_KEY, 40, 0}, token_counts[i], 7, 9, 0.0f);
        kv_store(twin, (struct row_format){ROW_F32, 31, 2}, token_counts[i], 7, 9, 1.0f);
    }
}

struct compressor {
    struct row_format format;
    int32_t ratio, tokens, first_position, extra_capacity;
    bool overlap, round;
    float gate_scale;
};

/* Arrays of a compressor on the host, and its state and rows on the device. */
struct compressed {
    struct kv_compress_args args; /* the host's; keys, gates and positions of all tokens */
    size_t columns, state_bytes, rows_bytes;
    void *ape, *norm, *frequencies, *state, *rows;
};

static struct compressed make(struct twin *twin, const struct compressor *test)
{
    int32_t width = test->format.plain + test->format.rotary;
    int32_t halves = test->overlap ? 2 : 1;
    struct compressed made = {.columns = (size_t)(halves * width)};
    size_t count = (size_t)test->tokens * made.columns;
    float *keys = twin_host(4 * count), *gates = twin_host(4 * count);
    float *ape = twin_host(4 * (size_t)test->ratio * made.columns);
    float *frequencies = twin_host(4 * (size_t)(test->format.rotary / 2));
    uint16_t *norm = twin_host(2 * (size_t)width);
    int32_t *positions = twin_host(4 * (size_t)test->tokens);
    twin_fill(twin, keys, count, 1.0f, false);
    twin_fill(twin, gates, count, test->gate_scale, false);
    twin_fill(twin, ape, (size_t)test->ratio * made.columns, 0.5f, false);
    twin_fill_bf16(twin, norm, (size_t)width, 1.5f);
    for (int32_t j = 0; j < test->format.rotary / 2; j++)
        frequencies[j] = powf(0.7f, (float)j);
    for (int32_t t = 0; t < test->tokens; t++)
        positions[t] = test->first_position + t;
    made.args = (struct kv_compress_args){
        .keys = keys,
        .gates = gates,
        .ape = ape,
        .norm = norm,
        .frequencies = frequencies,
        .format = test->format,
        .positions = positions,
        .ratio = test->ratio,
        .width = width,
        .rows_max = (test->first_position + test->tokens) / test->ratio,
        .state_capacity = halves * test->ratio + test->extra_capacity,
        .epsilon = 1e-6f,
        .overlap = test->overlap,
        .hadamard = test->format.encoding == ROW_KEY,
        .round = test->round,
    };
    made.state_bytes = 4 * 2 * made.columns * (size_t)made.args.state_capacity;
    made.rows_bytes = row_format_bytes(&test->format) * (size_t)made.args.rows_max;
    /* The state of the tokens before, as if they had been through the op. */
    made.args.state = twin_host(made.state_bytes);
    twin_fill(twin, made.args.state, made.state_bytes / 4, 1.0f, false);
    made.args.rows = twin_host(made.rows_bytes);
    made.ape = twin_put(twin, ape, 4 * (size_t)test->ratio * made.columns);
    made.norm = twin_put(twin, norm, 2 * (size_t)width);
    made.frequencies = twin_put(twin, frequencies, 4 * (size_t)(test->format.rotary / 2));
    return made;
}

/* The tokens in calls of `step`, from the state that `state` [state_bytes] holds and leaves. */
static void run_gpu(struct twin *twin, const struct compressed *made, int32_t tokens, int32_t step,
                    float *state, uint8_t *rows)
{
    struct kv_compress_args args = made->args;
    args.ape = made->ape;
    args.norm = made->norm;
    args.frequencies = made->frequencies;
    args.state = twin_put(twin, state, made->state_bytes);
    args.rows = twin_put(twin, rows, made->rows_bytes);
    for (int32_t first = 0; first < tokens; first += step) {
        args.tokens = min_i32(step, tokens - first);
        size_t bytes = 4 * (size_t)args.tokens * made->columns;
        size_t offset = (size_t)first * made->columns;
        void *keys = twin_put(twin, made->args.keys + offset, bytes);
        void *gates = twin_put(twin, made->args.gates + offset, bytes);
        void *positions = twin_put(twin, made->args.positions + first, 4 * (size_t)args.tokens);
        args.keys = keys;
        args.gates = gates;
        args.positions = positions;
        twin->gpu->kv_compress(twin->gpu_stream, &args);
        twin_free(twin, keys, bytes);
        twin_free(twin, gates, bytes);
        twin_free(twin, positions, 4 * (size_t)args.tokens);
    }
    twin_get(twin, state, args.state, made->state_bytes);
    twin_get(twin, rows, args.rows, made->rows_bytes);
    twin_free(twin, args.state, made->state_bytes);
    twin_free(twin, args.rows, made->rows_bytes);
}

static void check_rows(struct twin *twin, const struct compressor *test, int32_t rows_max,
                       const uint8_t *got, const uint8_t *want)
{
    size_t width = (size_t)(test->format.plain + test->format.rotary);
    size_t row_bytes = row_format_bytes(&test->format);
    int32_t first = test->first_position / test->ratio;
    size_t floats = (size_t)(rows_max - first) * width;
    float *a = twin_host(4 * floats), *b = twin_host(4 * floats);
    for (int32_t row = first; row < rows_max; row++) {
        size_t place = (size_t)(row - first) * width;
        row_codec_decode(&test->format, got + (size_t)row * row_bytes, a + place);
        row_codec_decode(&test->format, want + (size_t)row * row_bytes, b + place);
    }
    /* Where a sum falls on the other side of a boundary a code is its neighbour. */
    double rms = !test->round ? 1e-6 : test->format.encoding == ROW_KEY ? 3e-2 : 3e-3;
    double max = !test->round ? 1e-5 : test->format.encoding == ROW_KEY ? 0.34 : 0.0626;
    twin_check_close(twin, "rows", a, b, floats, rms, max);
    free(a), free(b);
}

static void kv_compress(struct twin *twin, const struct compressor *test)
{
    static const int32_t steps[] = {1, 3, 7};
    struct compressed made = make(twin, test);
    float *start = twin_host(made.state_bytes), *state = twin_host(made.state_bytes);
    float *state_again = twin_host(made.state_bytes);
    uint8_t *rows = twin_host(made.rows_bytes), *rows_again = twin_host(made.rows_bytes);
    struct kv_compress_args args = made.args;
    memcpy(start, args.state, made.state_bytes);
    memcpy(state, start, made.state_bytes);
    args.tokens = test->tokens;
    twin->cpu->kv_compress(twin->cpu_stream, &args);
    run_gpu(twin, &made, test->tokens, max_i32(1, test->tokens), state, rows);
    twin_check_bytes(twin, "state", state, args.state, made.state_bytes);
    check_rows(twin, test, args.rows_max, rows, args.rows);
    for (size_t i = 0; i < SL_COUNT_OF(steps) && test->tokens <= 150; i++) {
        memcpy(state_again, start, made.state_bytes);
        memset(rows_again, 0, made.rows_bytes);
        run_gpu(twin, &made, test->tokens, steps[i], state_again, rows_again);
        twin_check_bytes(twin, "state in other calls", state_again, state, made.state_bytes);
        twin_check_bytes(twin, "rows in other calls", rows_again, rows, made.rows_bytes);
    }
    twin_free(twin, made.ape, 4 * (size_t)test->ratio * made.columns);
    twin_free(twin, made.norm, 2 * (size_t)args.width);
    twin_free(twin, made.frequencies, 4 * (size_t)(test->format.rotary / 2));
    free((void *)(uintptr_t)args.keys), free((void *)(uintptr_t)args.gates);
    free((void *)(uintptr_t)args.ape), free((void *)(uintptr_t)args.norm);
    free((void *)(uintptr_t)args.frequencies), free((void *)(uintptr_t)args.positions);
    free(args.state), free(args.rows), free(start), free(state), free(state_again);
    free(rows), free(rows_again);
}

static void both_ratios_are_close(struct twin *twin)
{
    static const struct compressor tests[] = {
        {{ROW_KV, 448, 64}, 4, 0, 5, 0, true, true, 2.0f},
        {{ROW_KV, 448, 64}, 4, 1, 3, 0, true, true, 2.0f},
        {{ROW_KV, 448, 64}, 4, 16, 0, 2, true, true, 2.0f},
        {{ROW_KV, 448, 64}, 4, 16, 2047, 8, true, true, 30.0f},
        {{ROW_KV, 448, 64}, 128, 2, 126, 0, false, true, 2.0f},
        {{ROW_KV, 448, 64}, 128, 131, 127, 3, false, true, 4.0f},
        {{ROW_KEY, 64, 64}, 4, 16, 6, 0, true, true, 2.0f},
        {{ROW_KEY, 64, 64}, 4, 1, 2051, 0, true, true, 2.0f},
        {{ROW_KEY, 16, 16}, 4, 7, 0, 1, true, true, 2.0f},
    };
    for (size_t i = 0; i < SL_COUNT_OF(tests); i++)
        kv_compress(twin, &tests[i]);
}

static void odd_shapes_are_close(struct twin *twin)
{
    static const struct compressor tests[] = {
        {{ROW_F32, 37, 6}, 4, 75, 0, 5, true, false, 4.0f},
        {{ROW_F32, 37, 6}, 16, 75, 9, 0, false, false, 4.0f},
        {{ROW_F32, 1, 0}, 1, 9, 0, 0, false, false, 1.0f},
        {{ROW_F32, 64, 64}, 4, 10, 0, 0, true, true, 1.0f},
        {{ROW_KV, 200, 8}, 3, 40, 1, 2, true, true, 1.0f},
    };
    for (size_t i = 0; i < SL_COUNT_OF(tests); i++)
        kv_compress(twin, &tests[i]);
}

static void many_tokens_and_far_positions(struct twin *twin)
{
    static const struct compressor tests[] = {
        {{ROW_KV, 448, 64}, 4, 150, 2, 0, true, true, 2.0f},
        {{ROW_KEY, 64, 64}, 4, 200, 4, 3, true, true, 2.0f},
        {{ROW_KV, 16, 16}, 4, 16, 999986, 0, true, true, 2.0f},
        {{ROW_KV, 448, 64}, 128, 5, 999935, 0, false, true, 2.0f},
    };
    for (size_t i = 0; i < SL_COUNT_OF(tests); i++)
        kv_compress(twin, &tests[i]);
}

int main(int argc, char **argv)
{
    static const struct twin_case cases[] = {
        {"kv_store equals its twin", kv_store_is_equal},
        {"compressors of both ratios are close to their twin", both_ratios_are_close},
        {"compressors of odd shapes are close to their twin", odd_shapes_are_close},
        {"many tokens, and positions near a million", many_tokens_and_far_positions},
    };
    return twin_main(argc, argv, cases, SL_COUNT_OF(cases));
}
