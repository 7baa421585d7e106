/* Ops without sums against their twins: embed, swiglu, rope. */
#include "tests/gpu/twin.h"

#include <math.h>
#include <string.h>

static const int32_t token_counts[] = {0, 1, 2, 7, 16};

static void embed(struct twin *twin, int32_t tokens, int32_t vocab, int32_t hidden, int32_t streams)
{
    size_t table_bytes = (size_t)vocab * (size_t)hidden * 2;
    size_t out_bytes = (size_t)tokens * (size_t)streams * (size_t)hidden * 4;
    uint16_t *table = twin_host(table_bytes);
    int32_t *ids = twin_host((size_t)tokens * 4);
    float *want = twin_host(out_bytes);
    float *got = twin_host(out_bytes);
    twin_fill_bf16(twin, table, table_bytes / 2, 1);
    for (int32_t t = 0; t < tokens; t++)
        ids[t] = (int32_t)(twin_random(twin) % (uint32_t)vocab);
    if (tokens > 1) ids[tokens - 1] = vocab - 1;

    struct embed_args args = {.ids = ids,
                              .table = {table, NULL, MATRIX_BF16, vocab, hidden},
                              .out = want,
                              .tokens = tokens,
                              .streams = streams};
    twin->cpu->embed(twin->cpu_stream, &args);
    void *device_table = twin_put(twin, table, table_bytes);
    void *device_ids = twin_put(twin, ids, (size_t)tokens * 4);
    void *device_out = twin_put(twin, NULL, out_bytes);
    args.ids = device_ids;
    args.table.data = device_table;
    args.out = device_out;
    twin->gpu->embed(twin->gpu_stream, &args);
    twin_get(twin, got, device_out, out_bytes);
    twin_check_bytes(twin, "rows", got, want, out_bytes);
    twin_free(twin, device_table, table_bytes);
    twin_free(twin, device_ids, (size_t)tokens * 4);
    twin_free(twin, device_out, out_bytes);
    free(table), free(ids), free(want), free(got);
}

static void embed_is_equal(struct twin *twin)
{
    for (size_t i = 0; i < SL_COUNT_OF(token_counts); i++) {
        embed(twin, token_counts[i], 300, 4096, 4);
        embed(twin, token_counts[i], 3, 1, 1);
        embed(twin, token_counts[i], 17, 257, 8);
    }
}

static void swiglu(struct twin *twin, int32_t tokens, int32_t width, float limit, bool round)
{
    size_t count = (size_t)tokens * (size_t)width;
    static const float extremes[] = {0.0f,   -0.0f, 1e30f,  -1e30f, 88.8f,
                                     -88.8f, 10.0f, -10.0f, 1e-40f};
    float *gate = twin_host(count * 4);
    float *up = twin_host(count * 4);
    float *want = twin_host(count * 4);
    float *got = twin_host(count * 4);
    twin_fill(twin, gate, count, 6, round);
    twin_fill(twin, up, count, 6, round);
    for (size_t i = 0; i < count && i < SL_COUNT_OF(extremes); i++) {
        gate[i] = extremes[i];
        up[count - 1 - i] = extremes[i];
    }
    struct swiglu_args args = {gate, up, want, tokens, width, limit, round};
    twin->cpu->swiglu(twin->cpu_stream, &args);
    void *device_gate = twin_put(twin, gate, count * 4);
    void *device_up = twin_put(twin, up, count * 4);
    args.gate = device_gate;
    args.up = device_up;
    args.out = device_gate; /* in place */
    twin->gpu->swiglu(twin->gpu_stream, &args);
    twin_get(twin, got, device_gate, count * 4);
    twin_check_close(twin, "out", got, want, count, round ? 1e-4 : 3e-7, round ? 0x1p-7 : 1e-6);
    twin_free(twin, device_gate, count * 4);
    twin_free(twin, device_up, count * 4);
    free(gate), free(up), free(want), free(got);
}

static void swiglu_is_close(struct twin *twin)
{
    for (size_t i = 0; i < SL_COUNT_OF(token_counts); i++)
        for (int round = 0; round < 2; round++) {
            swiglu(twin, token_counts[i], 2048, 10.0f, round);
            swiglu(twin, token_counts[i], 7, 0.0f, round);
            swiglu(twin, token_counts[i], 257, 10.0f, round);
        }
}

/* One in some 10^8 angles may round to the other neighbour; none of these does. */
static void rope(struct twin *twin, const int32_t *positions, const struct rope_args *shape,
                 float frequency_base)
{
    size_t count = (size_t)shape->tokens * (size_t)shape->heads * (size_t)shape->width;
    int32_t pairs = shape->rotary / 2;
    struct twin_array x = twin_array_make(twin, count * 4);
    struct twin_array frequencies = twin_array_make(twin, (size_t)pairs * 4);
    struct twin_array at = twin_array_make(twin, (size_t)shape->tokens * 4);
    twin_fill(twin, x.host, count, 1, shape->round);
    memcpy(at.host, positions, at.bytes);
    for (int32_t j = 0; j < pairs; j++)
        ((float *)frequencies.host)[j] = 1.0f / powf(frequency_base, (float)j / (float)pairs);
    twin_upload(twin, &x), twin_upload(twin, &frequencies), twin_upload(twin, &at);
    struct rope_args args = *shape;
    args.x = x.host, args.positions = at.host, args.frequencies = frequencies.host;
    twin->cpu->rope(twin->cpu_stream, &args);
    args.x = x.device, args.positions = at.device, args.frequencies = frequencies.device;
    twin->gpu->rope(twin->gpu_stream, &args);
    twin_check_bytes(twin, "x", twin_download(twin, &x), x.host, x.bytes);
    twin_array_free(twin, &x), twin_array_free(twin, &frequencies), twin_array_free(twin, &at);
}

static void rope_is_equal(struct twin *twin)
{
    static const int32_t fixed[] = {0,       1,       127,      128,       129,   2051,
                                    65535,   65536,   2050,     2052,      99999, 999999,
                                    1000000, 1048575, 16777217, 2147483647};
    int32_t positions[SL_COUNT_OF(fixed)];
    for (int32_t tokens = 0; tokens <= 16; tokens += tokens < 2 ? 1 : 7)
        for (int mode = 0; mode < 4; mode++) {
            struct rope_args args = {.tokens = tokens, .inverse = mode & 1, .round = mode & 2};
            for (size_t i = 0; i < SL_COUNT_OF(fixed); i++)
                positions[i] = tokens == 16 ? fixed[i] : (int32_t)(twin_random(twin) % 1100000);
            args.heads = 64, args.width = 512, args.rotary = 64;
            rope(twin, positions, &args, 10000);
            args.heads = 1;
            rope(twin, positions, &args, 160000);
            args.heads = 17, args.width = 6, args.rotary = 6;
            rope(twin, positions, &args, 10000);
            args.rotary = 0;
            rope(twin, positions, &args, 10000);
        }
}

static void gather(struct twin *twin, int32_t count, int32_t width)
{
    size_t floats = (size_t)count * (size_t)width;
    float *source = twin_host(floats * 4);
    float *want = twin_host(floats * 4);
    float *got = twin_host(floats * 4);
    int32_t *rows = twin_host((size_t)count * 4);
    twin_fill(twin, source, floats, 1, false);
    twin_fill(twin, want, floats, 1, false);
    for (int32_t i = 0; i < count; i++) /* every third row, backwards, the others not */
        rows[i] = i % 3 == 0 ? count - 1 - i : -1;
    void *device_source = twin_put(twin, source, floats * 4);
    void *device_out = twin_put(twin, want, floats * 4);
    void *device_rows = twin_put(twin, rows, (size_t)count * 4);
    struct gather_rows_args args = {source, rows, want, count, width};
    twin->cpu->gather_rows(twin->cpu_stream, &args);
    args = (struct gather_rows_args){device_source, device_rows, device_out, count, width};
    twin->gpu->gather_rows(twin->gpu_stream, &args);
    twin_get(twin, got, device_out, floats * 4);
    twin_check_bytes(twin, "rows", got, want, floats * 4);
    twin_free(twin, device_source, floats * 4);
    twin_free(twin, device_out, floats * 4);
    twin_free(twin, device_rows, (size_t)count * 4);
    free(source), free(want), free(got), free(rows);
}

static void gather_rows_is_equal(struct twin *twin)
{
    for (size_t i = 0; i < SL_COUNT_OF(token_counts); i++) {
        gather(twin, 6 * token_counts[i], 4096);
        gather(twin, token_counts[i], 1);
        gather(twin, 3 * token_counts[i], 257);
    }
}

int main(int argc, char **argv)
{
    static const struct twin_case cases[] = {
        {"embed equals its twin", embed_is_equal},
        {"swiglu is close to its twin", swiglu_is_close},
        {"gather_rows equals its twin", gather_rows_is_equal},
        {"rope equals its twin", rope_is_equal},
    };
    return twin_main(argc, argv, cases, SL_COUNT_OF(cases));
}
