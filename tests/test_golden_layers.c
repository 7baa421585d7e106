/* labels: golden
 *
 * Exact numerics, layer by layer: each sublayer gets the published program's input and must return
 * its output. This is the test of the quantisation points; limits are those of
 * tests/golden/model/README.md. Prints the worst figures beside their limits. */
#include "kernels/lowp.h"
#include "runtime/attention_layer.h"
#include "runtime/engine.h"
#include "runtime/moe.h"
#include "runtime/moe_parts.h"
#include "tests/support.h"
#include "tests/support_golden.h"

#include <math.h>
#include <string.h>

#define SEQUENCES_MAX 8

/* The worst of every kind of comparison over one checkpoint. */
struct worst {
    double attention, moe, hyper_factors, hyper_x;
    double row_elements, key_elements; /* share of elements that differ */
    int32_t index_rows, index_rows_differing;
    int32_t router_rows, router_rows_differing;
    double router_weight;
    int32_t compared;
};

struct fixture {
    sl_engine *engine;
    struct forward *forward;
    const char *directory;
    const struct golden_sequence *sequence;
    struct kv_cache *cache;
    struct golden_tensor rows, rows_mtp; /* positions of reduced tensors, or no data */
    struct golden_tensor margin_router, margin_index;
    struct worst *worst;
};

static bool read_trace(const struct fixture *f, int32_t layer, const char *name,
                       struct golden_tensor *out)
{
    char full[64];
    snprintf(full, sizeof full, "layer%d.%s", layer, name);
    return golden_read(f->directory, f->sequence->name, "exact.trace", full, out);
}

static double relative_rms(const float *a, const float *b, int64_t count)
{
    double difference = 0, sum = 0;
    for (int64_t i = 0; i < count; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        sum += (double)b[i] * b[i];
    }
    return sqrt(difference / sum);
}

static double largest_relative(const float *a, const float *b, int64_t count)
{
    double worst = 0;
    for (int64_t i = 0; i < count; i++)
        worst = fmax(worst, fabs((double)a[i] - b[i]) / fmax(1e-3, fabs((double)b[i])));
    return worst;
}

/* The stored row as f32, decoded here on our own from the layout that kernels/ops.h promises. */
static void decode_row(const struct row_format *format, const uint8_t *row, float *out)
{
    int32_t width = format->plain + format->rotary;
    const uint8_t *scales = row + (format->encoding == ROW_KV ? format->plain : width / 2);
    if (format->encoding == ROW_KEY) {
        for (int32_t i = 0; i < width; i++) {
            uint8_t nibble = (uint8_t)(row[i / 2] >> (i % 2 * 4) & 15);
            out[i] = e2m1_decode(nibble) * e8m0_decode(scales[i / 32]);
        }
        return;
    }
    for (int32_t i = 0; i < format->plain; i++)
        out[i] = e4m3_decode(row[i]) * e8m0_decode(scales[i / 64]);
    for (int32_t i = 0; i < format->rotary; i++) {
        uint16_t code;
        memcpy(&code, scales + (format->plain + 63) / 64 + 2 * i, sizeof code);
        out[format->plain + i] = bf16_decode(code);
    }
}

/* Share of elements of the cached rows that are not the golden ones. */
static double differing_rows(const struct golden_tensor *golden, const struct row_format *format,
                             const uint8_t *rows)
{
    float decoded[OPS_HEAD_DIM_MAX];
    int64_t differing = 0;
    for (int64_t row = 0; row < golden->rows; row++) {
        decode_row(format, rows + (size_t)row * row_format_bytes(format), decoded);
        for (int64_t i = 0; i < golden->width; i++)
            differing += decoded[i] != golden->data[row * golden->width + i];
    }
    return (double)differing / (double)(golden->rows * golden->width);
}

static bool same_set(const int32_t *ours, const float *golden, int64_t count)
{
    int64_t found = 0, wanted = 0, given = 0;
    for (int64_t i = 0; i < count; i++) {
        given += ours[i] >= 0;
        if (golden[i] < 0) continue;
        wanted++;
        for (int64_t j = 0; j < count; j++)
            found += ours[j] == (int32_t)golden[i];
    }
    return found == wanted && given == wanted;
}

static void check_compressed(struct fixture *f, int32_t layer)
{
    const struct kv_layer *kv = &f->cache->layers[layer];
    const struct workspace *ws = f->forward->workspace;
    int32_t index_top = f->forward->model->config.index_top;
    struct golden_tensor golden;
    if (read_trace(f, layer, "comp_kv", &golden)) {
        f->worst->row_elements =
            fmax(f->worst->row_elements, differing_rows(&golden, &f->cache->row_format, kv->rows));
        free(golden.data);
    }
    if (read_trace(f, layer, "index_key", &golden)) {
        f->worst->key_elements = fmax(
            f->worst->key_elements, differing_rows(&golden, &f->cache->key_format, kv->index_rows));
        free(golden.data);
    }
    if (!read_trace(f, layer, "index_topk", &golden)) return;
    for (int64_t t = 0; t < golden.rows; t++) {
        const int32_t *ours = ws->selected + t * index_top;
        f->worst->index_rows++;
        if (same_set(ours, golden.data + t * golden.width, golden.width)) continue;
        /* Scores are bf16 values: within one step of them a choice may fall either way. */
        assert_true(f->margin_index.data[t] < 0x1p-7f);
        f->worst->index_rows_differing++;
    }
    free(golden.data);
}

static void check_attention(struct fixture *f, int32_t layer)
{
    struct workspace *ws = f->forward->workspace;
    struct golden_tensor input, output;
    if (!read_trace(f, layer, "attn_in", &input)) return;
    assert_true(read_trace(f, layer, "attn_out", &output));
    struct forward_chunk chunk = {.cache = f->cache, .tokens = (int32_t)input.rows};
    kv_cache_reset(f->cache);
    for (int32_t t = 0; t < chunk.tokens; t++)
        ws->positions[t] = t;
    attention_layer_forward(f->forward, &chunk, layer, input.data, ws->y);
    f->worst->attention =
        fmax(f->worst->attention, relative_rms(ws->y, output.data, output.rows * output.width));
    f->worst->compared++;
    check_compressed(f, layer);
    free(input.data);
    free(output.data);
}

/* Position of a row of a reduced tensor. */
static int32_t position_of(const struct fixture *f, bool mtp, int64_t row)
{
    const struct golden_tensor *rows = mtp ? &f->rows_mtp : &f->rows;
    return rows->data ? (int32_t)rows->data[row] : (int32_t)row;
}

static void check_router(struct fixture *f, int32_t layer, bool mtp)
{
    const struct workspace *ws = f->forward->workspace;
    int32_t top = f->forward->model->config.experts_per_token;
    struct golden_tensor chosen, weights;
    assert_true(read_trace(f, layer, "router_index", &chosen));
    assert_true(read_trace(f, layer, "router_weight", &weights));
    for (int64_t row = 0; row < chosen.rows; row++) {
        const float *golden = chosen.data + row * top;
        const int32_t *ours = ws->chosen + row * top;
        f->worst->router_rows++;
        if (!same_set(ours, golden, top)) {
            /* A tie within rounding may fall either way. */
            assert_true(f->margin_router.data[position_of(f, mtp, row)] < 1e-4f);
            f->worst->router_rows_differing++;
            continue;
        }
        for (int32_t i = 0; i < top; i++)
            for (int32_t j = 0; j < top; j++)
                if (ours[i] == (int32_t)golden[j])
                    f->worst->router_weight = fmax(f->worst->router_weight,
                                                   fabs((double)ws->chosen_weights[row * top + i] -
                                                        weights.data[row * top + j]));
    }
    free(chosen.data);
    free(weights.data);
}

static void check_moe(struct fixture *f, int32_t layer)
{
    struct workspace *ws = f->forward->workspace;
    bool mtp = layer == f->forward->model->config.layers;
    struct golden_tensor input, output;
    int32_t ids[1024];
    if (!read_trace(f, layer, "ffn_in", &input)) return;
    assert_true(read_trace(f, layer, "ffn_out", &output));
    assert_true(input.rows <= 1024 && input.rows == output.rows);
    for (int64_t row = 0; row < input.rows; row++)
        ids[row] = f->sequence->ids[position_of(f, mtp, row) + mtp];
    struct forward_chunk chunk = {.cache = f->cache, .ids = ids, .tokens = (int32_t)input.rows};
    assert_int_equal(moe_forward(f->forward, &chunk, layer, ws->streams, input.data, ws->y), SL_OK);
    moe_launch_combine(f->forward, chunk.tokens, ws->y);
    f->worst->moe =
        fmax(f->worst->moe, relative_rms(ws->y, output.data, output.rows * output.width));
    f->worst->compared++;
    check_router(f, layer, mtp);
    free(input.data);
    free(output.data);
}

/* One hyper-connection site: reads `streams`, compares x, post and comb with the golden ones, then
 * writes the golden sublayer output back with the golden factors. */
static void check_site(struct fixture *f, int32_t layer, const char *site,
                       const struct hyper_weights *weights, const char *output_name, float *streams,
                       int32_t tokens)
{
    const struct model_config *config = &f->forward->model->config;
    const struct ops *ops = f->forward->ops;
    struct stream *stream = f->forward->stream;
    struct workspace *ws = f->forward->workspace;
    struct golden_tensor x, post, comb, output;
    char name[32];
    snprintf(name, sizeof name, "hc_%s_x", site);
    assert_true(read_trace(f, layer, name, &x));
    snprintf(name, sizeof name, "hc_%s_post", site);
    assert_true(read_trace(f, layer, name, &post));
    snprintf(name, sizeof name, "hc_%s_comb", site);
    assert_true(read_trace(f, layer, name, &comb));
    assert_true(read_trace(f, layer, output_name, &output));

    struct linear_args mix = {
        .x = streams, .weight = weights->fn, .out = ws->mix, .tokens = tokens, .groups = 1};
    ops->linear(stream, &mix);
    struct hyper_pre_args pre = {.streams = streams,
                                 .mix = ws->mix,
                                 .scale = weights->scale,
                                 .base = weights->base,
                                 .x = ws->x,
                                 .post = ws->post,
                                 .comb = ws->comb,
                                 .tokens = tokens,
                                 .streams_count = config->streams,
                                 .hidden = config->hidden,
                                 .iterations = config->sinkhorn_iterations,
                                 .norm_epsilon = config->norm_epsilon,
                                 .epsilon = config->hyper_epsilon,
                                 .round = true};
    ops->hyper_pre(stream, &pre);
    f->worst->hyper_factors =
        fmax(f->worst->hyper_factors,
             fmax(largest_relative(ws->post, post.data, post.rows * post.width),
                  largest_relative(ws->comb, comb.data, comb.rows * comb.width)));
    f->worst->hyper_x = fmax(f->worst->hyper_x, largest_relative(ws->x, x.data, x.rows * x.width));
    struct hyper_post_args write = {.x = output.data,
                                    .post = post.data,
                                    .comb = comb.data,
                                    .streams = streams,
                                    .tokens = tokens,
                                    .streams_count = config->streams,
                                    .hidden = config->hidden,
                                    .round = true};
    ops->hyper_post(stream, &write);
    free(x.data);
    free(post.data);
    free(comb.data);
    free(output.data);
}

/* Both sites of a layer, from the streams the layer before left. */
static void check_hyper(struct fixture *f, int32_t layer)
{
    const struct model_config *config = &f->forward->model->config;
    const struct layer_weights *weights = &f->forward->model->layers[layer];
    struct golden_tensor before, after;
    if (layer == config->layers || !read_trace(f, layer, "hc_attn_x", &after)) return;
    free(after.data); /* only complete traces have the factors */
    assert_true(read_trace(f, layer, "hc_out", &after));
    int32_t tokens = (int32_t)after.rows;
    size_t floats = (size_t)(after.rows * after.width);
    if (layer == 0) {
        struct golden_tensor embed;
        assert_true(golden_read(f->directory, f->sequence->name, "exact.trace", "embed", &embed));
        before.data = malloc(sizeof(float) * floats);
        assert_non_null(before.data);
        for (int32_t row = 0; row < tokens * config->streams; row++)
            memcpy(before.data + (size_t)row * (size_t)config->hidden,
                   embed.data + (size_t)(row / config->streams) * (size_t)config->hidden,
                   sizeof(float) * (size_t)config->hidden);
        free(embed.data);
    } else {
        assert_true(read_trace(f, layer - 1, "hc_out", &before));
    }
    check_site(f, layer, "attn", &weights->hyper_attn, "attn_out", before.data, tokens);
    check_site(f, layer, "ffn", &weights->hyper_ffn, "ffn_out", before.data, tokens);
    f->worst->hyper_x =
        fmax(f->worst->hyper_x, largest_relative(before.data, after.data, (int64_t)floats));
    f->worst->compared++;
    free(before.data);
    free(after.data);
}

static void check_sequence(struct fixture *f)
{
    struct golden_tensor probe;
    if (!read_trace(f, 0, "attn_in", &probe)) return;
    free(probe.data);
    golden_read(f->directory, f->sequence->name, "exact.trace", "rows", &f->rows);
    golden_read(f->directory, f->sequence->name, "exact.trace", "rows_mtp", &f->rows_mtp);
    assert_true(
        golden_read(f->directory, f->sequence->name, "exact", "margin_router", &f->margin_router));
    assert_true(
        golden_read(f->directory, f->sequence->name, "exact", "margin_index", &f->margin_index));
    for (int32_t layer = 0; layer <= f->forward->model->config.layers; layer++) {
        check_attention(f, layer);
        check_moe(f, layer);
        check_hyper(f, layer);
    }
    free(f->rows.data);
    free(f->rows_mtp.data);
    free(f->margin_router.data);
    free(f->margin_index.data);
}

static void check_model(const char *model)
{
    struct golden_sequence sequences[SEQUENCES_MAX];
    char *directory = golden_directory(model);
    int32_t count = golden_sequences(directory, sequences, SEQUENCES_MAX);
    struct sl_engine_options options = sl_engine_options_default();
    struct sl_error error;
    struct worst worst = {0};
    struct fixture f = {.directory = directory, .worst = &worst};
    options.model_dir = directory;
    options.with_mtp = true;
    options.threads = 1;
    options.context_tokens = 640;
    options.chunk_tokens = 640;
    options.ram_bytes = 64u << 20;
    if (sl_engine_open(&options, &f.engine, &error) != SL_OK) fail_msg("%s", error.message);
    f.forward = &f.engine->forward;
    struct kv_cache_options cache = {.config = &f.engine->model->config,
                                     .layers = f.engine->model->config.layers + 1,
                                     .context_tokens = 640,
                                     .slack_tokens = 640};
    assert_int_equal(kv_cache_create(&cache, &f.cache), SL_OK);
    for (int32_t s = 0; s < count; s++) {
        f.sequence = &sequences[s];
        check_sequence(&f);
        free(sequences[s].ids);
    }
    printf(
        "%s: attention %.4f (0.025), MoE %.5f (0.01), hyper factors %.1e (1e-5), hyper x %.1e "
        "(2^-8), rows differing %.3f%% (0.5%%), keys differing %.3f%% (0.5%%), index sets "
        "differing %d of %d (ties only), router sets differing %d of %d (ties only), router weight "
        "%.1e (1e-5)\n",
        model, worst.attention, worst.moe, worst.hyper_factors, worst.hyper_x,
        100 * worst.row_elements, 100 * worst.key_elements, worst.index_rows_differing,
        worst.index_rows, worst.router_rows_differing, worst.router_rows, worst.router_weight);
    assert_true(worst.compared > 2 * f.engine->model->config.layers);
    assert_true(worst.attention <= 0.025);
    assert_true(worst.moe <= 0.01);
    assert_true(worst.hyper_factors <= 1e-5);
    assert_true(worst.hyper_x <= 0x1p-8);
    assert_true(worst.row_elements <= 0.005 && worst.key_elements <= 0.005);
    assert_true(worst.router_weight <= 1e-5);
    kv_cache_destroy(f.cache);
    sl_engine_close(f.engine);
    free(directory);
}

static void sublayers_of_tiny_a_quantise_like_the_published_program(void **state)
{
    (void)state;
    check_model("tiny-a");
}

static void sublayers_of_tiny_b_quantise_like_the_published_program(void **state)
{
    (void)state;
    check_model("tiny-b");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sublayers_of_tiny_a_quantise_like_the_published_program),
        cmocka_unit_test(sublayers_of_tiny_b_quantise_like_the_published_program),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
