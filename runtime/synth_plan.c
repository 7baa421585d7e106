/* Presets and the list of tensors; see the header. */
#include "runtime/synth_plan.h"

#include <math.h>
#include <string.h>

/* ---- presets ------------------------------------------------------------------------------ */

struct preset {
    const char *name;
    uint64_t shard_bytes_max;
    struct model_config config;
};

/* What all presets share is filled in by configure(). */
static const struct preset presets[] = {
    {.name = "tiny", /* 12 MB: for tests */
     .shard_bytes_max = 4 << 20,
     .config = {.vocab = 512,
                .hidden = 256,
                .layers = 6,
                .hash_layers = 2,
                .heads = 4,
                .head_dim = 128,
                .query_rank = 128,
                .output_groups = 2,
                .output_rank = 128,
                .index_heads = 16,
                .index_top = 8,
                .expert_width = 128,
                .experts = 16,
                .experts_per_token = 4,
                .context_max = 1024,
                .yarn_original_context = 512}},
    {.name = "small", /* 1 GB, nine tenths of it experts: to try offloading */
     .shard_bytes_max = 256 << 20,
     .config = {.vocab = 4096,
                .hidden = 1024,
                .layers = 12,
                .hash_layers = 3,
                .heads = 16,
                .head_dim = 256,
                .query_rank = 256,
                .output_groups = 4,
                .output_rank = 256,
                .index_heads = 16,
                .index_top = 128,
                .expert_width = 640,
                .experts = 64,
                .experts_per_token = 6,
                .context_max = 65536,
                .yarn_original_context = 4096}},
    {.name = "flash", /* 160 GB: the shapes of the published model */
     .shard_bytes_max = 3500000000,
     .config = {.vocab = 129280,
                .hidden = 4096,
                .layers = 43,
                .hash_layers = 3,
                .heads = 64,
                .head_dim = 512,
                .query_rank = 1024,
                .output_groups = 8,
                .output_rank = 1024,
                .index_heads = 64,
                .index_top = 512,
                .expert_width = 2048,
                .experts = 256,
                .experts_per_token = 6,
                .context_max = 1048576,
                .yarn_original_context = 65536}},
};

static enum sl_status configure(struct synth_plan *plan, const char *preset, int32_t layers,
                                struct sl_error *error)
{
    struct model_config *c = &plan->config;
    for (size_t i = 0; i < SL_COUNT_OF(presets); i++) {
        if (strcmp(presets[i].name, preset) != 0) continue;
        plan->preset = presets[i].name;
        plan->shard_bytes_max = presets[i].shard_bytes_max;
        *c = presets[i].config;
    }
    if (!plan->preset)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "preset: expected tiny, small or flash, found %s", preset);
    if (layers < 0 || layers > SYNTH_LAYERS_MAX)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "layers: expected 0 to %d, found %d",
                            SYNTH_LAYERS_MAX, (int)layers);
    if (layers) c->layers = layers;
    c->hash_layers = min_i32(c->hash_layers, c->layers);
    c->mtp_layers = 1;
    c->rotary = 64;
    c->window = 128;
    c->index_dim = 128;
    c->streams = 4;
    c->sinkhorn_iterations = 20;
    c->bos_id = 0;
    c->eos_id = 1;
    c->route_scale = 1.5f;
    c->swiglu_limit = 10.0f;
    c->norm_epsilon = c->hyper_epsilon = 1e-6f;
    c->rope_theta = 10000;
    c->compress_rope_theta = 160000;
    c->yarn_factor = 16;
    c->yarn_beta_fast = 32;
    c->yarn_beta_slow = 1;
    for (int32_t i = 0; i < c->layers; i++)
        c->ratios[i] = i < 2 ? 0 : i % 2 ? 128 : 4;
    c->ratios[c->layers] = 0;
    return SL_OK;
}

/* ---- tensors ------------------------------------------------------------------------------ */

/* Collects tensors; a failed allocation sticks. */
struct plan_writer {
    struct synth_plan *plan;
    const char *prefix;
    bool failed;
};

static void add(struct plan_writer *writer, const char *name, struct synth_tensor tensor)
{
    struct synth_plan *plan = writer->plan;
    if (writer->failed) return;
    if (plan->count == plan->room) {
        size_t room = plan->room ? 2 * plan->room : 1024;
        struct synth_tensor *grown = realloc(plan->tensors, room * sizeof *grown);
        writer->failed = !grown;
        if (!grown) return;
        plan->tensors = grown;
        plan->room = room;
    }
    int length = snprintf(tensor.name, sizeof tensor.name, "%s%s", writer->prefix, name);
    SL_ASSERT(length > 0 && length < SYNTH_NAME_BYTES_MAX);
    tensor.rank = tensor.shape[1] ? 2 : 1;
    tensor.bytes = dtype_bytes(tensor.dtype) * (uint64_t)tensor.shape[0] *
                   (uint64_t)(tensor.rank == 2 ? tensor.shape[1] : 1);
    plan->tensors[plan->count++] = tensor;
}

static void add_normal(struct plan_writer *writer, const char *name, enum dtype dtype, int64_t rows,
                       int64_t columns, float mean, float deviation)
{
    add(writer, name,
        (struct synth_tensor){.dtype = dtype,
                              .fill = SYNTH_NORMAL,
                              .shape = {rows, columns},
                              .mean = mean,
                              .deviation = deviation});
}

/* bf16 norm weights around `mean`. */
static void add_norm(struct plan_writer *writer, const char *name, int64_t width, float mean)
{
    add_normal(writer, name, DTYPE_BF16, width, 0, mean, 0.2f * mean);
}

/* A bf16 matrix whose outputs have `gain` times the size of its inputs. */
static void add_bf16(struct plan_writer *writer, const char *name, int64_t rows, int64_t columns,
                     float gain)
{
    add_normal(writer, name, DTYPE_BF16, rows, columns, 0, gain / sqrtf((float)columns));
}

static void add_fp8(struct plan_writer *writer, const char *name, int64_t rows, int64_t columns,
                    float gain)
{
    char full[SYNTH_NAME_BYTES_MAX];
    snprintf(full, sizeof full, "%s.weight", name);
    add(writer, full,
        (struct synth_tensor){
            .dtype = DTYPE_F8_E4M3, .fill = SYNTH_CODES_FP8, .shape = {rows, columns}});
    snprintf(full, sizeof full, "%s.scale", name);
    add(writer, full,
        (struct synth_tensor){.dtype = DTYPE_F8_E8M0,
                              .fill = SYNTH_SCALES,
                              .shape = {(rows + 127) / 128, (columns + 127) / 128},
                              .deviation = gain / sqrtf((float)columns) / SYNTH_FP8_DEVIATION});
}

static void add_fp4(struct plan_writer *writer, int32_t expert, const char *part, int64_t rows,
                    int64_t columns, float gain)
{
    char full[SYNTH_NAME_BYTES_MAX];
    snprintf(full, sizeof full, "ffn.experts.%d.%s.weight", (int)expert, part);
    add(writer, full,
        (struct synth_tensor){
            .dtype = DTYPE_I8, .fill = SYNTH_CODES_FP4, .shape = {rows, columns / 2}});
    snprintf(full, sizeof full, "ffn.experts.%d.%s.scale", (int)expert, part);
    add(writer, full,
        (struct synth_tensor){.dtype = DTYPE_F8_E8M0,
                              .fill = SYNTH_SCALES,
                              .shape = {rows, columns / 32},
                              .deviation = gain / sqrtf((float)columns) / SYNTH_FP4_DEVIATION});
}

static void add_hyper(struct plan_writer *writer, const struct model_config *c, const char *site,
                      bool is_head)
{
    int64_t outputs = is_head ? c->streams : (2 + c->streams) * c->streams;
    int64_t columns = (int64_t)c->streams * c->hidden;
    char name[SYNTH_NAME_BYTES_MAX];
    snprintf(name, sizeof name, "%s_fn", site);
    add_normal(writer, name, DTYPE_F32, outputs, columns, 0, 1 / sqrtf((float)columns));
    snprintf(name, sizeof name, "%s_scale", site);
    add_normal(writer, name, DTYPE_F32, is_head ? 1 : 3, 0, 0.4f, 0.05f);
    snprintf(name, sizeof name, "%s_base", site);
    add_normal(writer, name, DTYPE_F32, outputs, 0, 0.1f, 0.6f);
}

static void add_compressor(struct plan_writer *writer, const struct model_config *c,
                           const char *owner, int32_t ratio, int32_t width)
{
    int64_t rows = ratio == 4 ? 2 * width : width;
    char name[SYNTH_NAME_BYTES_MAX];
    snprintf(name, sizeof name, "%s.compressor.ape", owner);
    add_normal(writer, name, DTYPE_F32, ratio, rows, 0, 0.3f);
    snprintf(name, sizeof name, "%s.compressor.wkv.weight", owner);
    add_bf16(writer, name, rows, c->hidden, 1);
    snprintf(name, sizeof name, "%s.compressor.wgate.weight", owner);
    add_bf16(writer, name, rows, c->hidden, 1.2f);
    snprintf(name, sizeof name, "%s.compressor.norm.weight", owner);
    add_norm(writer, name, width, 1);
}

static void add_attention(struct plan_writer *w, const struct model_config *c, int32_t ratio)
{
    int64_t heads_width = (int64_t)c->heads * c->head_dim;
    int64_t groups_rank = (int64_t)c->output_groups * c->output_rank;
    add_normal(w, "attn.attn_sink", DTYPE_F32, c->heads, 0, 0, 0.5f);
    add_fp8(w, "attn.wq_a", c->query_rank, c->hidden, 1);
    add_norm(w, "attn.q_norm.weight", c->query_rank, 1);
    add_fp8(w, "attn.wq_b", heads_width, c->query_rank, 1);
    add_fp8(w, "attn.wkv", c->head_dim, c->hidden, 1);
    add_norm(w, "attn.kv_norm.weight", c->head_dim, 1.4f);
    add_fp8(w, "attn.wo_a", groups_rank, heads_width / c->output_groups, 1);
    add_fp8(w, "attn.wo_b", c->hidden, groups_rank, 0.4f);
    if (ratio) add_compressor(w, c, "attn", ratio, c->head_dim);
    if (ratio != 4) return;
    add_fp8(w, "attn.indexer.wq_b", (int64_t)c->index_heads * c->index_dim, c->query_rank, 1);
    add_bf16(w, "attn.indexer.weights_proj.weight", c->index_heads, c->hidden, 1);
    add_compressor(w, c, "attn.indexer", ratio, c->index_dim);
}

/* Gate and up are large and down is small, so that some channels reach swiglu_limit while the sum
 * over experts stays near the size of the input. */
static void add_moe(struct plan_writer *w, const struct model_config *c, bool is_hash)
{
    add_bf16(w, "ffn.gate.weight", c->experts, c->hidden, 1);
    if (is_hash)
        add(w, "ffn.gate.tid2eid",
            (struct synth_tensor){.dtype = DTYPE_I64,
                                  .fill = SYNTH_TOKEN_EXPERTS,
                                  .shape = {c->vocab, c->experts_per_token}});
    else
        add_normal(w, "ffn.gate.bias", DTYPE_F32, c->experts, 0, 0, 0.05f);
    for (int32_t expert = 0; expert < c->experts; expert++) {
        add_fp4(w, expert, "w1", c->expert_width, c->hidden, 2);
        add_fp4(w, expert, "w2", c->hidden, c->expert_width, 0.25f);
        add_fp4(w, expert, "w3", c->expert_width, c->hidden, 2);
    }
    add_fp8(w, "ffn.shared_experts.w1", c->expert_width, c->hidden, 2);
    add_fp8(w, "ffn.shared_experts.w2", c->hidden, c->expert_width, 0.25f);
    add_fp8(w, "ffn.shared_experts.w3", c->expert_width, c->hidden, 2);
}

static void add_layer(struct plan_writer *w, const struct model_config *c, int32_t layer)
{
    add_attention(w, c, c->ratios[layer]);
    add_norm(w, "attn_norm.weight", c->hidden, 1);
    add_moe(w, c, layer < c->hash_layers);
    add_norm(w, "ffn_norm.weight", c->hidden, 1);
    add_hyper(w, c, "hc_attn", false);
    add_hyper(w, c, "hc_ffn", false);
}

static void add_mtp(struct plan_writer *w, const struct model_config *c)
{
    add_fp8(w, "e_proj", c->hidden, c->hidden, 1);
    add_fp8(w, "h_proj", c->hidden, c->hidden, 1);
    add_norm(w, "enorm.weight", c->hidden, 1);
    add_norm(w, "hnorm.weight", c->hidden, 1);
    add_norm(w, "norm.weight", c->hidden, 1);
    add_layer(w, c, c->layers);
    add_hyper(w, c, "hc_head", true);
}

/* ---- the plan ----------------------------------------------------------------------------- */

static void place_tensors(struct synth_plan *plan)
{
    uint64_t used = 0;
    plan->shard_count = 1;
    for (size_t i = 0; i < plan->count; i++) {
        struct synth_tensor *tensor = &plan->tensors[i];
        if (used && used + tensor->bytes > plan->shard_bytes_max) {
            plan->shard_count++;
            used = 0;
        }
        tensor->shard = plan->shard_count - 1;
        tensor->offset_bytes = used;
        used += tensor->bytes;
        plan->total_bytes += tensor->bytes;
    }
}

enum sl_status synth_plan_init(struct synth_plan *plan, const char *preset, int32_t layers,
                               struct sl_error *error)
{
    struct plan_writer writer = {.plan = plan, .prefix = ""};
    const struct model_config *c = &plan->config;
    char prefix[SYNTH_NAME_BYTES_MAX];
    memset(plan, 0, sizeof *plan);
    SL_TRY(configure(plan, preset, layers, error));
    add_normal(&writer, "embed.weight", DTYPE_BF16, c->vocab, c->hidden, 0, 1);
    for (int32_t layer = 0; layer < c->layers; layer++) {
        snprintf(prefix, sizeof prefix, "layers.%d.", (int)layer);
        writer.prefix = prefix;
        add_layer(&writer, c, layer);
    }
    writer.prefix = "mtp.0.";
    add_mtp(&writer, c);
    writer.prefix = "";
    add_norm(&writer, "norm.weight", c->hidden, 1);
    add_bf16(&writer, "head.weight", c->vocab, c->hidden, 4);
    add_hyper(&writer, c, "hc_head", true);
    if (writer.failed) {
        synth_plan_deinit(plan);
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for the list of tensors");
    }
    place_tensors(plan);
    return SL_OK;
}

void synth_plan_deinit(struct synth_plan *plan)
{
    free(plan->tensors);
    memset(plan, 0, sizeof *plan);
}
