/* Fused launches against the chains of ops that they replace. */
#include "kernels/fused.h"
#include "tests/gpu/twin.h"

#include <string.h>

#define STREAMS 4
#define MIXES   ((2 + STREAMS) * STREAMS)
#define TOP     6

/* ---- turn ---- */

struct turn_arrays {
    struct twin_array x, post, comb, streams, scale, base, fn, norm, routed, host_routed, gather;
    struct twin_array mix, out; /* the host's alone; the input of the next sublayer */
};

static struct turn_arrays make_arrays(struct twin *twin, int32_t tokens, int32_t hidden, bool round)
{
    size_t rows = (size_t)tokens, width = (size_t)hidden, pairs = rows * TOP;
    struct turn_arrays a = {
        .x = twin_floats(twin, rows * width, 2, round),
        .post = twin_floats(twin, rows * STREAMS, 1, false),
        .comb = twin_floats(twin, rows * STREAMS * STREAMS, 0.5f, false),
        .streams = twin_floats(twin, rows * STREAMS * width, 3, round),
        .scale = twin_floats(twin, 3, 1, false),
        .base = twin_floats(twin, MIXES, 1, false),
        .fn = twin_floats(twin, MIXES * STREAMS * width, 0.02f, false),
        .norm = twin_array_make(twin, width * 2),
        .routed = twin_floats(twin, pairs * width, 1, round),
        .host_routed = twin_floats(twin, pairs * width, 1, round),
        .gather = twin_array_make(twin, pairs * 4),
        .mix = twin_array_make(twin, rows * MIXES * 4),
        .out = twin_array_make(twin, rows * width * 4),
    };
    twin_fill_bf16(twin, a.norm.host, width, 1);
    twin_upload(twin, &a.norm);
    int32_t *gather = a.gather.host;
    for (size_t i = 0; i < pairs; i++) /* every other row, at the front of the list */
        gather[i] = 2 * i < pairs && 2 * i + 1 < pairs ? (int32_t)(2 * i + 1) : -1;
    twin_upload(twin, &a.gather);
    return a;
}

static void free_arrays(struct twin *twin, struct turn_arrays *a)
{
    struct twin_array *all[] = {&a->x,      &a->post, &a->comb, &a->streams, &a->scale,
                                &a->base,   &a->fn,   &a->norm, &a->routed,  &a->host_routed,
                                &a->gather, &a->mix,  &a->out};
    for (size_t i = 0; i < SL_COUNT_OF(all); i++)
        twin_array_free(twin, all[i]);
}

/* The arguments with the host's or the device's arrays. */
static struct fused_turn_args turn_args(const struct turn_arrays *a, int32_t tokens, int32_t hidden,
                                        bool experts, bool round, bool device)
{
#define AT(array) (device ? a->array.device : a->array.host)
    return (struct fused_turn_args){
        .post = {AT(x), AT(post), AT(comb), AT(streams), tokens, STREAMS, hidden, round},
        .pre = {AT(streams), device ? NULL : a->mix.host, AT(scale), AT(base), AT(out), AT(post),
                AT(comb), tokens, STREAMS, hidden, 20, 1e-6f, 1e-6f, round},
        .fn = AT(fn),
        .norm = AT(norm),
        .routed = experts ? AT(routed) : NULL,
        .host_routed = AT(host_routed),
        .gather = tokens <= FUSED_TOKENS_MAX ? AT(gather) : NULL,
        .top = TOP};
#undef AT
}

static void run_chain(struct twin *twin, const struct fused_turn_args *args, float *mix)
{
    const struct ops *cpu = twin->cpu;
    int32_t tokens = args->post.tokens, hidden = args->post.hidden;
    if (args->routed) {
        struct gather_rows_args gather = {args->host_routed, args->gather, (float *)args->routed,
                                          tokens * TOP, hidden};
        struct moe_combine_args combine = {args->routed,    args->post.x, (float *)args->post.x,
                                           tokens,          TOP,          hidden,
                                           args->post.round};
        if (args->gather) cpu->gather_rows(twin->cpu_stream, &gather);
        cpu->moe_combine(twin->cpu_stream, &combine);
    }
    cpu->hyper_post(twin->cpu_stream, &args->post);
    struct linear_args linear = {.x = args->post.streams,
                                 .weight = {args->fn, NULL, MATRIX_F32, MIXES, STREAMS * hidden},
                                 .out = mix,
                                 .tokens = tokens,
                                 .groups = 1};
    cpu->linear(twin->cpu_stream, &linear);
    cpu->hyper_pre(twin->cpu_stream, &args->pre);
    struct norm_args norm = {args->pre.x,    args->norm, args->pre.x,
                             tokens,         hidden,     args->pre.norm_epsilon,
                             args->pre.round};
    cpu->norm(twin->cpu_stream, &norm);
}

static void turn(struct twin *twin, int32_t tokens, int32_t hidden, bool experts, bool round)
{
    struct turn_arrays a = make_arrays(twin, tokens, hidden, round);
    struct fused_turn_args on_host = turn_args(&a, tokens, hidden, experts, round, false);
    struct fused_turn_args on_device = turn_args(&a, tokens, hidden, experts, round, true);
    size_t rows = (size_t)tokens;
    TWIN_CHECK(twin, twin->gpu->fused->turn(twin->gpu_stream, &on_device),
               "%d tokens of %d refused", (int)tokens, (int)hidden);
    run_chain(twin, &on_host, a.mix.host);
    twin_check_bytes(twin, "streams", twin_download(twin, &a.streams), a.streams.host,
                     a.streams.bytes);
    twin_check_close(twin, "post", twin_download(twin, &a.post), a.post.host, rows * STREAMS, 2e-5,
                     2e-5);
    twin_check_close(twin, "comb", twin_download(twin, &a.comb), a.comb.host,
                     rows * STREAMS * STREAMS, 2e-5, 2e-5);
    twin_check_close(twin, "input", twin_download(twin, &a.out), a.out.host, rows * (size_t)hidden,
                     round ? 2e-4 : 2e-5, round ? 0x1p-7 : 2e-5);
    free_arrays(twin, &a);
}

static void turn_is_its_chain(struct twin *twin)
{
    static const int32_t token_counts[] = {0, 1, 2, 5, 16}, widths[] = {64, 320, 4096};
    for (size_t i = 0; i < SL_COUNT_OF(token_counts); i++)
        for (size_t j = 0; j < SL_COUNT_OF(widths); j++)
            for (int experts = 0; experts < 2; experts++)
                turn(twin, token_counts[i], widths[j], experts, j != 1);
}

static void turn_of_a_chunk_is_its_chain(struct twin *twin)
{
    static const int32_t token_counts[] = {17, 128, 129}, widths[] = {64, 320, 1024};
    for (size_t i = 0; i < SL_COUNT_OF(token_counts); i++)
        for (size_t j = 0; j < (i == 0 ? SL_COUNT_OF(widths) : 2); j++)
            turn(twin, token_counts[i], widths[j], (i + j) % 2 == 0, j != 1);
}

/* Tokens of a chunk, from `first` on, in a turn of their own, the streams as they came. */
static void turn_part(struct twin *twin, struct turn_arrays *a, int32_t first, int32_t tokens,
                      int32_t hidden)
{
    struct fused_turn_args args = turn_args(a, tokens, hidden, true, true, true);
    size_t skip = (size_t)first, width = (size_t)hidden;
    args.post.x += skip * width;
    args.pre.x += skip * width;
    args.routed += skip * TOP * width;
    args.post.streams = (float *)a->streams.device + skip * STREAMS * width;
    args.pre.streams = args.post.streams;
    args.pre.post += skip * STREAMS;
    args.post.post = args.pre.post;
    args.pre.comb += skip * STREAMS * STREAMS;
    args.post.comb = args.pre.comb;
    twin_upload(twin, &a->streams);
    twin_upload(twin, &a->post);
    twin_upload(twin, &a->comb);
    TWIN_CHECK(twin, twin->gpu->fused->turn(twin->gpu_stream, &args), "refused");
}

static void a_token_turns_alike_whatever_its_neighbours(struct twin *twin)
{
    const int32_t tokens = 129, hidden = 320, first = 41, few = 50;
    struct turn_arrays a = make_arrays(twin, tokens, hidden, true);
    struct twin_array *arrays[] = {&a.streams, &a.post, &a.comb, &a.out};
    size_t whole = (size_t)tokens, skip = (size_t)first;
    uint8_t *kept[SL_COUNT_OF(arrays)];
    turn_part(twin, &a, 0, tokens, hidden);
    for (size_t i = 0; i < SL_COUNT_OF(arrays); i++) {
        kept[i] = twin_host(arrays[i]->bytes);
        memcpy(kept[i], twin_download(twin, arrays[i]), arrays[i]->bytes);
    }
    turn_part(twin, &a, first, few, hidden);
    for (size_t i = 0; i < SL_COUNT_OF(arrays); i++) {
        size_t bytes = arrays[i]->bytes / whole;
        const uint8_t *got = twin_download(twin, arrays[i]);
        twin_check_bytes(twin, "a token's part", got + skip * bytes, kept[i] + skip * bytes,
                         (size_t)few * bytes);
        free(kept[i]);
    }
    free_arrays(twin, &a);
}

static void turn_refuses_what_it_cannot_take(struct twin *twin)
{
    struct turn_arrays a = make_arrays(twin, 1, 64, true);
    struct fused_turn_args args = turn_args(&a, 1, 64, false, true, true);
    args.post.streams_count = args.pre.streams_count = 3;
    TWIN_CHECK(twin, !twin->gpu->fused->turn(twin->gpu_stream, &args), "three streams taken");
    args = turn_args(&a, 1, 32, false, true, true);
    TWIN_CHECK(twin, !twin->gpu->fused->turn(twin->gpu_stream, &args), "32 channels taken");
    args = turn_args(&a, FUSED_TOKENS_MAX + 1, 64, true, true, true);
    args.gather = a.gather.device;
    TWIN_CHECK(twin, !twin->gpu->fused->turn(twin->gpu_stream, &args), "a chunk's rows gathered");
    free_arrays(twin, &a);
}

/* ---- latents ---- */

#define RANK   256
#define HEAD   512
#define INDEX  128
#define ROTARY 64

struct compressor {
    struct twin_array keys, gates, ape, norm, state, rows;
    size_t row_bytes;
};

static struct compressor make_compressor(struct twin *twin, int32_t tokens, int32_t width,
                                         const struct row_format *format)
{
    size_t columns = 2 * (size_t)width, rows_max = 64;
    struct compressor c = {.keys = twin_floats(twin, (size_t)tokens * columns, 1, true),
                           .gates = twin_floats(twin, (size_t)tokens * columns, 1, true),
                           .ape = twin_floats(twin, 4 * columns, 1, false),
                           .norm = twin_array_make(twin, (size_t)width * 2),
                           .state = twin_floats(twin, 32 * 2 * columns, 1, false),
                           .row_bytes = row_format_bytes(format)};
    c.rows = twin_array_make(twin, rows_max * c.row_bytes);
    twin_upload(twin, &c.rows);
    twin_fill_bf16(twin, c.norm.host, (size_t)width, 1);
    twin_upload(twin, &c.norm);
    return c;
}

static struct kv_compress_args compress_args(const struct compressor *c, bool device,
                                             const float *frequencies, const int32_t *positions,
                                             const struct row_format *format, int32_t tokens,
                                             bool hadamard)
{
#define AT(array) (device ? c->array.device : c->array.host)
    return (struct kv_compress_args){.keys = AT(keys),
                                     .gates = AT(gates),
                                     .ape = AT(ape),
                                     .norm = AT(norm),
                                     .frequencies = frequencies,
                                     .state = AT(state),
                                     .rows = AT(rows),
                                     .format = *format,
                                     .positions = positions,
                                     .tokens = tokens,
                                     .ratio = 4,
                                     .width = format->plain + format->rotary,
                                     .rows_max = 64,
                                     .state_capacity = 32,
                                     .epsilon = 1e-6f,
                                     .overlap = true,
                                     .hadamard = hadamard,
                                     .round = true};
#undef AT
}

static void free_compressor(struct twin *twin, struct compressor *c)
{
    struct twin_array *all[] = {&c->keys, &c->gates, &c->ape, &c->norm, &c->state, &c->rows};
    for (size_t i = 0; i < SL_COUNT_OF(all); i++)
        twin_array_free(twin, all[i]);
}

/* Bytes that differ, of all. */
static void check_few_differ(struct twin *twin, const char *what, const uint8_t *got,
                             const uint8_t *want, size_t bytes)
{
    size_t differ = 0;
    for (size_t i = 0; i < bytes; i++)
        differ += got[i] != want[i];
    TWIN_CHECK(twin, differ * 200 <= bytes, "%s: %zu of %zu bytes differ", what, differ, bytes);
}

/* The launch against the same chain on the same processor. */
static void latents(struct twin *twin, int32_t tokens, int32_t compressors)
{
    static const struct row_format formats[2] = {{ROW_KV, HEAD - ROTARY, ROTARY},
                                                 {ROW_KEY, INDEX - ROTARY, ROTARY}};
    const struct ops *gpu = twin->gpu;
    size_t rows = (size_t)tokens;
    struct twin_array query = twin_floats(twin, rows * RANK, 2, true),
                      kv = twin_floats(twin, rows * HEAD, 2, true), ring[2],
                      query_norm = twin_array_make(twin, RANK * 2),
                      kv_norm = twin_array_make(twin, HEAD * 2),
                      frequencies = twin_floats(twin, ROTARY / 2, 0.1f, false),
                      positions = twin_array_make(twin, rows * 4);
    struct compressor sides[2][2];
    struct kv_compress_args compress[2][2];
    twin_fill_bf16(twin, query_norm.host, RANK, 1);
    twin_fill_bf16(twin, kv_norm.host, HEAD, 1);
    for (int32_t t = 0; t < tokens; t++)
        ((int32_t *)positions.host)[t] = 9 + t;
    twin_upload(twin, &query_norm), twin_upload(twin, &kv_norm), twin_upload(twin, &positions);
    for (int side = 0; side < 2; side++) {
        uint64_t seed = twin->seed;
        ring[side] = twin_array_make(twin, 20 * row_format_bytes(&formats[0]));
        twin_upload(twin, &ring[side]);
        for (int32_t i = 0; i < 2; i++) {
            sides[side][i] = make_compressor(twin, tokens, i == 0 ? HEAD : INDEX, &formats[i]);
            compress[side][i] = compress_args(&sides[side][i], true, frequencies.device,
                                              positions.device, &formats[i], tokens, i == 1);
        }
        if (side == 0) twin->seed = seed; /* the same numbers again */
    }
    struct norm_args query_args = {
        query.device, query_norm.device, query.device, tokens, RANK, 1e-6f, true};
    struct norm_args kv_args = {kv.device, kv_norm.device, kv.device, tokens, HEAD, 1e-6f, true};
    struct kv_store_args store = {kv.device,  positions.device, ring[0].device,
                                  formats[0], tokens,           20};
    struct fused_latents_args args = {.query = query_args,
                                      .kv = kv_args,
                                      .store = store,
                                      .frequencies = frequencies.device,
                                      .compress = compress[0],
                                      .compress_count = compressors};
    TWIN_CHECK(twin, gpu->fused->latents(twin->gpu_stream, &args), "refused");
    float *fused_query = twin_host(query.bytes);
    memcpy(fused_query, twin_download(twin, &query), query.bytes);
    twin_upload(twin, &query);
    gpu->norm(twin->gpu_stream, &query_args);
    twin_check_close(twin, "query", fused_query, twin_download(twin, &query), rows * RANK, 1e-4,
                     0x1p-7);
    struct rope_args rope = {.x = kv.device,
                             .positions = positions.device,
                             .frequencies = frequencies.device,
                             .tokens = tokens,
                             .heads = 1,
                             .width = HEAD,
                             .rotary = ROTARY,
                             .round = true};
    store.rows = ring[1].device;
    gpu->norm(twin->gpu_stream, &kv_args);
    gpu->rope(twin->gpu_stream, &rope);
    gpu->kv_store(twin->gpu_stream, &store);
    check_few_differ(twin, "window", twin_download(twin, &ring[0]), twin_download(twin, &ring[1]),
                     ring[0].bytes);
    for (int32_t i = 0; i < compressors; i++) {
        gpu->kv_compress(twin->gpu_stream, &compress[1][i]);
        for (int part = 0; part < 2; part++) {
            struct twin_array *fused = part ? &sides[0][i].rows : &sides[0][i].state;
            struct twin_array *alone = part ? &sides[1][i].rows : &sides[1][i].state;
            twin_check_bytes(twin, part ? "compressed rows" : "state", twin_download(twin, fused),
                             twin_download(twin, alone), fused->bytes);
        }
    }
    for (int side = 0; side < 2; side++) {
        free_compressor(twin, &sides[side][0]);
        free_compressor(twin, &sides[side][1]);
        twin_array_free(twin, &ring[side]);
    }
    struct twin_array *all[] = {&query, &kv, &query_norm, &kv_norm, &frequencies, &positions};
    for (size_t i = 0; i < SL_COUNT_OF(all); i++)
        twin_array_free(twin, all[i]);
    free(fused_query);
}

static void latents_are_their_chain(struct twin *twin)
{
    static const int32_t token_counts[] = {0, 1, 3, 16};
    for (size_t i = 0; i < SL_COUNT_OF(token_counts); i++)
        for (int32_t compressors = 0; compressors <= 2; compressors++)
            latents(twin, token_counts[i], compressors);
}

int main(int argc, char **argv)
{
    static const struct twin_case cases[] = {
        {"turn is its chain", turn_is_its_chain},
        {"turn of a chunk is its chain", turn_of_a_chunk_is_its_chain},
        {"a token turns alike whatever its neighbours",
         a_token_turns_alike_whatever_its_neighbours},
        {"turn refuses what it cannot take", turn_refuses_what_it_cannot_take},
        {"latents are their chain", latents_are_their_chain},
    };
    return twin_main(argc, argv, cases, SL_COUNT_OF(cases));
}
