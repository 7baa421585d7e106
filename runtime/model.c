/* Opens a checkpoint: every weight bound, the experts' places noted.
 *
 * Files, mappings and copies belong to struct model_files; the layers to struct model. Identity
 * (model_check_unchanged, model_fingerprint) is in model_files.c. */
#include "runtime/model.h"
#include "runtime/model_files.h"
#include "runtime/tensor_bind.h"

#include <inttypes.h>
#include <string.h>

#define MTP_PREFIX "mtp."

/* ---- parts of a layer --------------------------------------------------------------------- */

static const uint16_t *bind_norm(struct tensor_binder *binder, const char *name, int32_t width)
{
    return tensor_bind_array(binder, name, DTYPE_BF16, width, 0);
}

/* `site` is "hc_attn", "hc_ffn" or "hc_head"; the head mixes to M numbers with one scale. */
static struct hyper_weights bind_hyper(struct tensor_binder *binder, const struct model_config *c,
                                       const char *site, bool is_head)
{
    struct hyper_weights hyper;
    int32_t outputs = is_head ? c->streams : (2 + c->streams) * c->streams;
    char name[32];
    snprintf(name, sizeof name, "%s_fn", site);
    hyper.fn = tensor_bind_matrix(binder, name, MATRIX_F32, outputs, c->streams * c->hidden);
    snprintf(name, sizeof name, "%s_base", site);
    hyper.base = tensor_bind_array(binder, name, DTYPE_F32, outputs, 0);
    snprintf(name, sizeof name, "%s_scale", site);
    hyper.scale = tensor_bind_array(binder, name, DTYPE_F32, is_head ? 1 : 3, 0);
    return hyper;
}

/* `owner` is "attn" or "attn.indexer". */
static struct compressor_weights bind_compressor(struct tensor_binder *binder,
                                                 const struct model_config *c, const char *owner,
                                                 int32_t ratio, int32_t width)
{
    struct compressor_weights compressor;
    int32_t rows = ratio == 4 ? 2 * width : width; /* ratio 4 overlaps: two halves */
    char name[64];
    snprintf(name, sizeof name, "%s.compressor.wkv", owner);
    compressor.keys = tensor_bind_matrix(binder, name, MATRIX_BF16, rows, c->hidden);
    snprintf(name, sizeof name, "%s.compressor.wgate", owner);
    compressor.gates = tensor_bind_matrix(binder, name, MATRIX_BF16, rows, c->hidden);
    snprintf(name, sizeof name, "%s.compressor.ape", owner);
    compressor.ape = tensor_bind_array(binder, name, DTYPE_F32, ratio, rows);
    snprintf(name, sizeof name, "%s.compressor.norm.weight", owner);
    compressor.norm = bind_norm(binder, name, width);
    return compressor;
}

static void bind_attention(struct tensor_binder *b, const struct model_config *c, int32_t ratio,
                           struct attention_weights *out)
{
    int32_t heads_width = c->heads * c->head_dim;
    int32_t groups_rank = c->output_groups * c->output_rank;
    out->query_down = tensor_bind_matrix(b, "attn.wq_a", MATRIX_FP8, c->query_rank, c->hidden);
    out->query_norm = bind_norm(b, "attn.q_norm.weight", c->query_rank);
    out->query_up = tensor_bind_matrix(b, "attn.wq_b", MATRIX_FP8, heads_width, c->query_rank);
    out->kv = tensor_bind_matrix(b, "attn.wkv", MATRIX_FP8, c->head_dim, c->hidden);
    out->kv_norm = bind_norm(b, "attn.kv_norm.weight", c->head_dim);
    out->output_down =
        tensor_bind_matrix(b, "attn.wo_a", MATRIX_FP8, groups_rank, heads_width / c->output_groups);
    out->output_up = tensor_bind_matrix(b, "attn.wo_b", MATRIX_FP8, c->hidden, groups_rank);
    out->sink = tensor_bind_array(b, "attn.attn_sink", DTYPE_F32, c->heads, 0);
    if (ratio != 0) out->compressor = bind_compressor(b, c, "attn", ratio, c->head_dim);
    if (ratio != 4) return;
    out->indexer.queries = tensor_bind_matrix(b, "attn.indexer.wq_b", MATRIX_FP8,
                                              c->index_heads * c->index_dim, c->query_rank);
    out->indexer.weights =
        tensor_bind_matrix(b, "attn.indexer.weights_proj", MATRIX_BF16, c->index_heads, c->hidden);
    out->indexer.compressor = bind_compressor(b, c, "attn.indexer", ratio, c->index_dim);
}

/* Every entry of the table must name an expert: the router uses them as they are. */
static const int64_t *bind_token_experts(struct tensor_binder *binder, const struct model_config *c)
{
    const char *name = "ffn.gate.tid2eid";
    const int64_t *table =
        tensor_bind_array(binder, name, DTYPE_I64, c->vocab, c->experts_per_token);
    int64_t count = (int64_t)c->vocab * c->experts_per_token;
    for (int64_t i = 0; table && i < count; i++) {
        if (table[i] >= 0 && table[i] < c->experts) continue;
        const struct dense_tensor *placed =
            &binder->files->tensors[binder->files->tensor_count - 1];
        binder->status = sl_error_set(
            binder->error, SL_ERR_FORMAT, 0,
            "%s: tensor %s%s: token %" PRId64 ": expected experts from 0 to %d, found %" PRId64,
            binder->files->index.files[placed->file].path, binder->prefix, name,
            i / c->experts_per_token, (int)c->experts - 1, table[i]);
        return NULL;
    }
    return table;
}

static void bind_layer(struct tensor_binder *b, const struct model_config *c, int32_t layer,
                       struct layer_weights *out)
{
    bool is_hash = layer < c->hash_layers;
    bool plain = c->ratios[layer] == 0;
    out->ratio = c->ratios[layer];
    out->frequencies = b->files->frequencies + (plain ? 0 : c->rotary / 2);
    out->attn_norm = bind_norm(b, "attn_norm.weight", c->hidden);
    out->ffn_norm = bind_norm(b, "ffn_norm.weight", c->hidden);
    out->hyper_attn = bind_hyper(b, c, "hc_attn", false);
    out->hyper_ffn = bind_hyper(b, c, "hc_ffn", false);
    bind_attention(b, c, out->ratio, &out->attn);
    out->router = tensor_bind_matrix(b, "ffn.gate", MATRIX_BF16, c->experts, c->hidden);
    if (is_hash)
        out->token_experts = bind_token_experts(b, c);
    else
        out->router_bias = tensor_bind_array(b, "ffn.gate.bias", DTYPE_F32, c->experts, 0);
    out->shared_gate =
        tensor_bind_matrix(b, "ffn.shared_experts.w1", MATRIX_FP8, c->expert_width, c->hidden);
    out->shared_up =
        tensor_bind_matrix(b, "ffn.shared_experts.w3", MATRIX_FP8, c->expert_width, c->hidden);
    out->shared_down =
        tensor_bind_matrix(b, "ffn.shared_experts.w2", MATRIX_FP8, c->hidden, c->expert_width);
}

/* ---- experts ------------------------------------------------------------------------------ */

static void bind_experts(struct tensor_binder *binder, const struct model *model,
                         struct expert_segment *segments)
{
    static const char *const part_names[EXPERT_PARTS] = {"w1.weight", "w1.scale",  "w3.weight",
                                                         "w3.scale",  "w2.weight", "w2.scale"};
    const struct model_config *c = &model->config;
    const struct expert_layout *layout = &model->expert_layout;
    for (int32_t expert = 0; expert < c->experts; expert++) {
        for (int part = 0; part < EXPERT_PARTS && binder->status == SL_OK; part++) {
            bool is_down = part == EXPERT_W2 || part == EXPERT_S2;
            bool is_scale = part % 2 != 0;
            int32_t rows = is_down ? c->hidden : c->expert_width;
            int32_t columns = is_down ? c->expert_width : c->hidden;
            char name[64];
            snprintf(name, sizeof name, "ffn.experts.%d.%s", (int)expert, part_names[part]);
            struct checkpoint_tensor found =
                tensor_bind_find(binder, name, is_scale ? DTYPE_F8_E8M0 : DTYPE_I8, rows,
                                 is_scale ? columns / 32 : columns / 2);
            if (!found.tensor) return;
            SL_ASSERT(found.tensor->bytes == layout->part_bytes[part]);
            if (!segments) continue;
            segments[(size_t)expert * EXPERT_PARTS + (size_t)part] =
                (struct expert_segment){.offset_bytes = found.tensor->offset_bytes,
                                        .bytes = found.tensor->bytes,
                                        .slot_offset_bytes = layout->offset_bytes[part],
                                        .file = found.file};
        }
    }
}

static void place_expert(const void *context, const uint8_t *const segments[], uint8_t *slot)
{
    expert_layout_place(context, segments, slot);
}

static enum sl_status prepare_experts(struct model *model, int32_t layers, struct sl_error *error)
{
    const struct model_config *c = &model->config;
    struct model_files *files = model->files;
    model->expert_layout = expert_layout_make(c->hidden, c->expert_width);
    files->segments =
        calloc((size_t)layers * (size_t)c->experts, EXPERT_PARTS * sizeof *files->segments);
    if (!files->segments)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for the list of experts");
    model->experts = (struct expert_source){.layers = layers,
                                            .experts = c->experts,
                                            .slot_bytes = model->expert_layout.slot_bytes,
                                            .files = files->expert_files,
                                            .file_count = files->expert_file_count,
                                            .segments = files->segments,
                                            .segments_per_expert = EXPERT_PARTS,
                                            .place = place_expert,
                                            .place_context = &model->expert_layout};
    return SL_OK;
}

/* ---- the whole model ---------------------------------------------------------------------- */

/* The block's own weights, its layer, and its experts; only checked unless the model wants it. */
static void bind_mtp(struct tensor_binder *binder, struct model *model)
{
    const struct model_config *c = &model->config;
    struct layer_weights unused = {0};
    struct mtp_weights mtp = {.present = model->mtp.present};
    size_t first_segment = (size_t)c->layers * (size_t)c->experts * EXPERT_PARTS;
    binder->check_only = !mtp.present;
    snprintf(binder->prefix, sizeof binder->prefix, MTP_PREFIX "0.");
    mtp.embed_proj = tensor_bind_matrix(binder, "e_proj", MATRIX_FP8, c->hidden, c->hidden);
    mtp.hidden_proj = tensor_bind_matrix(binder, "h_proj", MATRIX_FP8, c->hidden, c->hidden);
    mtp.embed_norm = bind_norm(binder, "enorm.weight", c->hidden);
    mtp.hidden_norm = bind_norm(binder, "hnorm.weight", c->hidden);
    mtp.norm = bind_norm(binder, "norm.weight", c->hidden);
    mtp.hyper_head = bind_hyper(binder, c, "hc_head", true);
    /* MTP is no hash layer: its id is past all of them. */
    SL_ASSERT(c->layers >= c->hash_layers);
    bind_layer(binder, c, c->layers, mtp.present ? &model->layers[c->layers] : &unused);
    bind_experts(binder, model, mtp.present ? model->files->segments + first_segment : NULL);
    binder->check_only = false;
    if (mtp.present) model->mtp = mtp;
}

static enum sl_status bind_model(struct model *model, struct sl_error *error)
{
    const struct model_config *c = &model->config;
    struct tensor_binder binder = {.files = model->files, .error = error};
    model->embed = tensor_bind_matrix(&binder, "embed", MATRIX_BF16, c->vocab, c->hidden);
    model->head = tensor_bind_matrix(&binder, "head", MATRIX_BF16, c->vocab, c->hidden);
    model->norm = bind_norm(&binder, "norm.weight", c->hidden);
    model->hyper_head = bind_hyper(&binder, c, "hc_head", true);
    for (int32_t layer = 0; layer < c->layers && binder.status == SL_OK; layer++) {
        snprintf(binder.prefix, sizeof binder.prefix, "layers.%d.", (int)layer);
        bind_layer(&binder, c, layer, &model->layers[layer]);
        bind_experts(&binder, model,
                     model->files->segments + (size_t)layer * (size_t)c->experts * EXPERT_PARTS);
    }
    if (c->mtp_layers && binder.status == SL_OK) bind_mtp(&binder, model);
    model->dense_bytes = binder.dense_bytes;
    model->copied_bytes = binder.copied_bytes;
    model->skipped_tensors = checkpoint_index_unused(&model->files->index, MTP_PREFIX, true);
    model->unknown_tensors = checkpoint_index_unused(&model->files->index, MTP_PREFIX, false);
    return binder.status;
}

static enum sl_status open_parts(struct model *model, const struct model_open_options *options,
                                 struct sl_error *error)
{
    struct model_config *c = &model->config;
    SL_TRY(model_config_load(options->directory, c, error));
    SL_TRY(model_files_open(options, &model->files, error));
    /* A copy without the block's tensors generates all the same. */
    if (!checkpoint_index_has_prefix(&model->files->index, MTP_PREFIX "0.")) c->mtp_layers = 0;
    model->mtp.present = options->want_mtp && c->mtp_layers > 0;
    int32_t layers = c->layers + (model->mtp.present ? 1 : 0);
    SL_ASSERT(layers <= MODEL_LAYERS_MAX);
    model->layers = calloc((size_t)layers, sizeof *model->layers);
    model->files->frequencies = calloc((size_t)c->rotary, sizeof *model->files->frequencies);
    if (!model->layers || !model->files->frequencies)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for %d layers", (int)layers);
    model_config_rope_frequencies(c, 0, model->files->frequencies);
    model_config_rope_frequencies(c, 4, model->files->frequencies + c->rotary / 2);
    SL_TRY(prepare_experts(model, layers, error));
    SL_TRY(bind_model(model, error));
    if (options->read_dense) SL_TRY(model_files_read(model->files, options, error));
    return model_check_unchanged(model, error);
}

enum sl_status model_open(const struct model_open_options *options, struct model **out,
                          struct sl_error *error)
{
    SL_ASSERT(options && options->directory && out);
    struct model *model = calloc(1, sizeof *model);
    if (!model) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for the model");
    enum sl_status status = open_parts(model, options, error);
    if (status != SL_OK) {
        model_close(model);
        return status;
    }
    *out = model;
    return SL_OK;
}

void model_close(struct model *model)
{
    if (!model) return;
    model_files_close(model->files);
    free(model->layers);
    free(model);
}
