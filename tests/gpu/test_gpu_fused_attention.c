/* Attention and the indexer fused with what stands around them, against the chains of ops that they
 * replace, on the same processor. */
#include "kernels/fused.h"
#include "tests/gpu/twin.h"

#include <math.h>
#include <string.h>

#define WINDOW 128
#define ROTARY 64
#define INDEX  128

static struct twin_array consecutive(struct twin *twin, int32_t first, int32_t tokens)
{
    struct twin_array array = twin_array_make(twin, sizeof(int32_t) * (size_t)tokens);
    for (int32_t t = 0; t < tokens; t++)
        ((int32_t *)array.host)[t] = first + t;
    twin_upload(twin, &array);
    return array;
}

static void free_all(struct twin *twin, struct twin_array **arrays, size_t count)
{
    for (size_t i = 0; i < count; i++)
        twin_array_free(twin, arrays[i]);
}

/* What the fused launch left in `array` is kept, and the array is as it was before. */
static void *keep_and_restore(struct twin *twin, struct twin_array *array)
{
    void *kept = twin_host(array->bytes);
    memcpy(kept, twin_download(twin, array), array->bytes);
    twin_upload(twin, array);
    return kept;
}

/* ---- attention ---- */

/* Rows as kv_store writes them. */
static struct twin_array make_rows(struct twin *twin, const struct row_format *format, size_t count)
{
    size_t bytes = row_format_bytes(format), scales = (size_t)(format->plain + 63) / 64;
    struct twin_array rows = twin_array_make(twin, bytes * count);
    for (size_t i = 0; i < count; i++) {
        uint8_t *row = (uint8_t *)rows.host + i * bytes;
        uint16_t slice[ROTARY];
        twin_fill_e4m3(twin, row, (size_t)format->plain);
        twin_fill_e8m0(twin, row + format->plain, scales, -10, -7);
        twin_fill_bf16(twin, slice, ROTARY, 2.0f);
        memcpy(row + (size_t)format->plain + scales, slice, sizeof slice);
    }
    twin_upload(twin, &rows);
    return rows;
}

static struct rope_args rope_of(const struct attention_args *attention, const float *frequencies,
                                float *x, bool inverse)
{
    return (struct rope_args){x,
                              attention->positions,
                              frequencies,
                              attention->tokens,
                              attention->heads,
                              attention->width,
                              ROTARY,
                              inverse,
                              attention->round};
}

/* `last` is the position of the last token; with `ratio` all compressed rows are seen. */
static void attention(struct twin *twin, int32_t tokens, int32_t heads, int32_t ratio, int32_t last)
{
    static const struct row_format format = {ROW_KV, 448, ROTARY};
    const struct ops *gpu = twin->gpu;
    int32_t width = format.plain + format.rotary, capacity = WINDOW + tokens;
    size_t count = (size_t)tokens * (size_t)heads * (size_t)width;
    struct twin_array queries = twin_floats(twin, count, 2, true),
                      out = twin_floats(twin, count, 1, true),
                      sink = twin_floats(twin, (size_t)heads, 1, false),
                      frequencies = twin_floats(twin, ROTARY / 2, 0.1f, false),
                      positions = consecutive(twin, last + 1 - tokens, tokens),
                      window = make_rows(twin, &format, (size_t)capacity),
                      rows = make_rows(twin, &format, (size_t)(ratio ? (last + 1) / ratio + 1 : 1));
    struct fused_attention_args args = {
        .heads = {queries.device, tokens * heads, width, 1e-6f, true},
        .attention = {.queries = queries.device,
                      .positions = positions.device,
                      .window_rows = window.device,
                      .rows = rows.device,
                      .sink = sink.device,
                      .out = out.device,
                      .format = format,
                      .tokens = tokens,
                      .heads = heads,
                      .width = width,
                      .window = WINDOW,
                      .window_capacity = capacity,
                      .ratio = ratio,
                      .scale = 1.0f / sqrtf((float)width),
                      .round = true}};
    args.rope = rope_of(&args.attention, frequencies.device, queries.device, false);
    args.back = rope_of(&args.attention, frequencies.device, out.device, true);
    TWIN_CHECK(twin, gpu->fused->attention(twin->gpu_stream, &args), "refused");
    float *fused = keep_and_restore(twin, &out);
    twin_upload(twin, &queries);
    gpu->head_norm(twin->gpu_stream, &args.heads);
    gpu->rope(twin->gpu_stream, &args.rope);
    gpu->attention(twin->gpu_stream, &args.attention);
    gpu->rope(twin->gpu_stream, &args.back);
    /* Equal but for heads whose norm is a step off. */
    twin_check_close(twin, "out", fused, twin_download(twin, &out), count, 4e-4, 0x1p-7);
    free(fused);
    struct twin_array *all[] = {&queries, &out, &sink, &frequencies, &positions, &window, &rows};
    free_all(twin, all, SL_COUNT_OF(all));
}

static void attention_is_its_chain(struct twin *twin)
{
    attention(twin, 0, 8, 0, 10);
    attention(twin, 1, 64, 0, 0);
    attention(twin, 1, 64, 128, 100 * 128 + 5);
    attention(twin, 3, 13, 128, 300);
    attention(twin, 16, 16, 0, 1000000);
}

static void attention_refuses_what_it_cannot_take(struct twin *twin)
{
    struct fused_attention_args args = {.heads = {NULL, 17, 512, 1e-6f, true},
                                        .attention = {.format = {ROW_KV, 448, ROTARY},
                                                      .tokens = 17,
                                                      .heads = 1,
                                                      .width = 512,
                                                      .round = true}};
    args.rope = rope_of(&args.attention, NULL, NULL, false);
    args.back = rope_of(&args.attention, NULL, NULL, true);
    TWIN_CHECK(twin, !twin->gpu->fused->attention(twin->gpu_stream, &args), "17 tokens taken");
    args.heads.rows = args.attention.tokens = args.rope.tokens = args.back.tokens = 1;
    args.heads.round = args.attention.round = args.rope.round = args.back.round = false;
    float sink = 0;
    args.attention.sink = &sink;
    args.rope.frequencies = args.back.frequencies = &sink;
    TWIN_CHECK(twin, !twin->gpu->fused->attention(twin->gpu_stream, &args), "f32 taken");
}

/* ---- indexer ---- */

static void indexer(struct twin *twin, int32_t tokens, int32_t heads, int32_t last)
{
    static const struct row_format format = {ROW_KEY, INDEX - ROTARY, ROTARY};
    enum { RATIO = 4, TOP = 64, ROWS = 500 };
    const struct ops *gpu = twin->gpu;
    struct twin_array queries = twin_floats(twin, (size_t)tokens * (size_t)heads * INDEX, 2, true),
                      weights = twin_floats(twin, (size_t)tokens * (size_t)heads, 1, true),
                      frequencies = twin_floats(twin, ROTARY / 2, 0.1f, false),
                      positions = consecutive(twin, last + 1 - tokens, tokens),
                      rows = twin_array_make(twin, row_format_bytes(&format) * ROWS),
                      scores = twin_array_make(twin, sizeof(float) * ROWS),
                      selected = twin_array_make(twin, sizeof(int32_t) * (size_t)tokens * TOP);
    for (size_t i = 0; i < rows.bytes; i++) {
        bool is_scale = i % row_format_bytes(&format) >= INDEX / 2;
        ((uint8_t *)rows.host)[i] =
            (uint8_t)(is_scale ? 125 + twin_random(twin) % 3 : twin_random(twin));
    }
    twin_upload(twin, &rows), twin_upload(twin, &scores), twin_upload(twin, &selected);
    struct fused_indexer_args args = {
        .rope = {queries.device, positions.device, frequencies.device, tokens, heads, INDEX, ROTARY,
                 false, true},
        .indexer = {queries.device, weights.device, rows.device, positions.device, scores.device,
                    selected.device, format, tokens, heads, INDEX, RATIO, TOP, ROWS, true}};
    TWIN_CHECK(twin, gpu->fused->indexer(twin->gpu_stream, &args), "refused");
    float *fused_scores = keep_and_restore(twin, &scores);
    int32_t *fused_selected = keep_and_restore(twin, &selected);
    twin_upload(twin, &queries);
    gpu->rope(twin->gpu_stream, &args.rope);
    gpu->indexer(twin->gpu_stream, &args.indexer);
    twin_check_bytes(twin, "scores", fused_scores, twin_download(twin, &scores), scores.bytes);
    twin_check_bytes(twin, "rows", fused_selected, twin_download(twin, &selected), selected.bytes);
    free(fused_scores), free(fused_selected);
    struct twin_array *all[] = {&queries, &weights, &frequencies, &positions,
                                &rows,    &scores,  &selected};
    free_all(twin, all, SL_COUNT_OF(all));
}

static void indexer_is_its_chain(struct twin *twin)
{
    indexer(twin, 0, 8, 10);
    indexer(twin, 1, 64, 1999);
    indexer(twin, 3, 13, 1203);
    indexer(twin, 16, 8, 270); /* all rows are taken, then some */
}

int main(int argc, char **argv)
{
    static const struct twin_case cases[] = {
        {"attention is its chain", attention_is_its_chain},
        {"attention refuses what it cannot take", attention_refuses_what_it_cannot_take},
        {"indexer is its chain", indexer_is_its_chain},
    };
    return twin_main(argc, argv, cases, SL_COUNT_OF(cases));
}
