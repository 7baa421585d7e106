/* sl_synth: writes a random checkpoint in the published format.
 *
 * The plan says what, the values are computed block by block, the files hide everything until it is
 * whole. One thread, the caller's; a failure or a cancelled run leaves nothing behind. */
#include "runtime/safetensors.h"
#include "runtime/sl.h"
#include "runtime/synth_files.h"
#include "runtime/synth_plan.h"
#include "runtime/synth_tokenizer.h"
#include "runtime/synth_values.h"

#include <jansson.h>
#include <string.h>
#include <unistd.h>

#define BLOCK_BYTES (4u << 20) /* written at once, and between two calls of progress */

struct synth_run {
    struct synth_plan plan;
    struct synth_values values;
    struct synth_files files;
    uint8_t *block; /* [BLOCK_BYTES] */
    uint64_t done_bytes;
    sl_progress_fn progress; /* may be NULL */
    void *context;
    struct sl_error *error;
};

static enum sl_status no_memory(struct sl_error *error)
{
    return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory to write the checkpoint");
}

/* Bytes of the checkpoint on disk, a little more than will be used: data, headers and index by the
 * number of tensors, the tokenizer by its vocabulary. */
static uint64_t disk_bytes(const struct synth_plan *plan)
{
    return plan->total_bytes + 512 * (uint64_t)plan->count + 64 * (uint64_t)plan->config.vocab +
           (1u << 20);
}

static void shard_name(const struct synth_run *run, int32_t shard, char *out, size_t bytes)
{
    snprintf(out, bytes, "model-%05d-of-%05d.safetensors", (int)shard + 1,
             (int)run->plan.shard_count);
}

/* ---- shards ------------------------------------------------------------------------------- */

/* The header of tensors first .. end - 1: its length, then JSON padded with spaces to 8 bytes. */
static enum sl_status write_header(struct synth_run *run, int fd, size_t first, size_t end)
{
    json_t *root = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    bool built = root != NULL;
    for (size_t i = first; built && i < end; i++) {
        const struct synth_tensor *tensor = &run->plan.tensors[i];
        json_t *shape = tensor->rank == 2 ? json_pack("[I, I]", (json_int_t)tensor->shape[0],
                                                      (json_int_t)tensor->shape[1])
                                          : json_pack("[I]", (json_int_t)tensor->shape[0]);
        json_t *entry =
            json_pack("{s:s, s:o, s:[I, I]}", "dtype", safetensors_dtype_name(tensor->dtype),
                      "shape", shape, "data_offsets", (json_int_t)tensor->offset_bytes,
                      (json_int_t)(tensor->offset_bytes + tensor->bytes));
        built = json_object_set_new(root, tensor->name, entry) == 0;
    }
    char *text = built ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    if (!text) return no_memory(run->error);
    uint64_t text_bytes = strlen(text);
    uint64_t padded_bytes = align_up(text_bytes, 8);
    uint8_t length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (uint8_t)(padded_bytes >> (8 * i));
    enum sl_status status = synth_files_write(&run->files, fd, length, sizeof length, run->error);
    if (status == SL_OK)
        status = synth_files_write(&run->files, fd, text, (size_t)text_bytes, run->error);
    if (status == SL_OK)
        status = synth_files_write(&run->files, fd, "       ", (size_t)(padded_bytes - text_bytes),
                                   run->error);
    free(text);
    return status;
}

static enum sl_status write_tensor(struct synth_run *run, int fd, const struct synth_tensor *tensor)
{
    uint64_t element_bytes = dtype_bytes(tensor->dtype);
    uint64_t elements = tensor->bytes / element_bytes;
    uint64_t unit = tensor->fill == SYNTH_TOKEN_EXPERTS ? (uint64_t)tensor->shape[1] : 8;
    uint64_t block = BLOCK_BYTES / element_bytes / unit * unit;
    SL_ASSERT(block > 0);
    for (uint64_t first = 0; first < elements; first += block) {
        uint64_t count = elements - first < block ? elements - first : block;
        if (run->progress && !run->progress(run->context, "writing the checkpoint", run->done_bytes,
                                            run->plan.total_bytes))
            return sl_error_set(run->error, SL_ERR_CANCELLED, 0, "writing %s was cancelled",
                                run->files.directory);
        synth_values_fill(&run->values, tensor, run->plan.config.experts, first, count, run->block);
        SL_TRY(synth_files_write(&run->files, fd, run->block, (size_t)(count * element_bytes),
                                 run->error));
        run->done_bytes += count * element_bytes;
    }
    return SL_OK;
}

/* Writes the shard that starts with tensor `*next` and moves `*next` past it. */
static enum sl_status write_shard(struct synth_run *run, int32_t shard, size_t *next)
{
    const struct synth_plan *plan = &run->plan;
    size_t first = *next, end = first;
    char name[64];
    int fd = -1;
    shard_name(run, shard, name, sizeof name);
    while (end < plan->count && plan->tensors[end].shard == shard)
        end++;
    SL_TRY(synth_files_create(&run->files, name, &fd, run->error));
    enum sl_status status = write_header(run, fd, first, end);
    for (size_t i = first; status == SL_OK && i < end; i++)
        status = write_tensor(run, fd, &plan->tensors[i]);
    if (status != SL_OK) {
        close(fd);
        return status;
    }
    *next = end;
    return synth_files_close(&run->files, fd, run->error);
}

/* ---- small files -------------------------------------------------------------------------- */

static enum sl_status write_text(struct synth_run *run, const char *name, const char *text)
{
    int fd = -1;
    if (!text) return no_memory(run->error);
    SL_TRY(synth_files_create(&run->files, name, &fd, run->error));
    enum sl_status status = synth_files_write(&run->files, fd, text, strlen(text), run->error);
    if (status != SL_OK) {
        close(fd);
        return status;
    }
    return synth_files_close(&run->files, fd, run->error);
}

/* Writes and releases `root`; NULL counts as out of memory. */
static enum sl_status write_json(struct synth_run *run, const char *name, json_t *root)
{
    char *text = root ? json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(7)) : NULL;
    json_decref(root);
    enum sl_status status = write_text(run, name, text);
    free(text);
    return status;
}

static enum sl_status write_index(struct synth_run *run)
{
    const struct synth_plan *plan = &run->plan;
    json_t *map = json_object();
    bool built = map != NULL;
    for (size_t i = 0; built && i < plan->count; i++) {
        char name[64];
        shard_name(run, plan->tensors[i].shard, name, sizeof name);
        built = json_object_set_new(map, plan->tensors[i].name, json_string(name)) == 0;
    }
    json_t *root = built ? json_pack("{s:{s:I}, s:O}", "metadata", "total_size",
                                     (json_int_t)plan->total_bytes, "weight_map", map)
                         : NULL;
    json_decref(map);
    return write_json(run, "model.safetensors.index.json", root);
}

static json_t *attention_fields(const struct model_config *c)
{
    return json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i}",
                     "num_attention_heads", c->heads, "num_key_value_heads", 1, "head_dim",
                     c->head_dim, "qk_rope_head_dim", c->rotary, "q_lora_rank", c->query_rank,
                     "o_groups", c->output_groups, "o_lora_rank", c->output_rank, "sliding_window",
                     c->window, "index_n_heads", c->index_heads, "index_head_dim", c->index_dim,
                     "index_topk", c->index_top);
}

static json_t *expert_fields(const struct model_config *c)
{
    return json_pack("{s:i, s:i, s:i, s:i, s:i, s:s, s:s, s:b, s:f, s:f, s:s, s:s}",
                     "moe_intermediate_size", c->expert_width, "n_routed_experts", c->experts,
                     "n_shared_experts", 1, "num_experts_per_tok", c->experts_per_token,
                     "num_hash_layers", c->hash_layers, "scoring_func", "sqrtsoftplus",
                     "topk_method", "noaux_tc", "norm_topk_prob", 1, "routed_scaling_factor",
                     (double)c->route_scale, "swiglu_limit", (double)c->swiglu_limit, "hidden_act",
                     "silu", "expert_dtype", "fp4");
}

static json_t *number_fields(const struct model_config *c)
{
    return json_pack("{s:i, s:i, s:f, s:f, s:f, s:f, s:{s:s, s:f, s:i, s:f, s:f}, "
                     "s:{s:s, s:s, s:s, s:[i, i], s:s}}",
                     "hc_mult", c->streams, "hc_sinkhorn_iters", c->sinkhorn_iterations, "hc_eps",
                     (double)c->hyper_epsilon, "rms_norm_eps", (double)c->norm_epsilon,
                     "rope_theta", c->rope_theta, "compress_rope_theta", c->compress_rope_theta,
                     "rope_scaling", "type", "yarn", "factor", c->yarn_factor,
                     "original_max_position_embeddings", c->yarn_original_context, "beta_fast",
                     c->yarn_beta_fast, "beta_slow", c->yarn_beta_slow, "quantization_config",
                     "quant_method", "fp8", "fmt", "e4m3", "scale_fmt", "ue8m0",
                     "weight_block_size", 128, 128, "activation_scheme", "dynamic");
}

static json_t *general_fields(const struct synth_plan *plan)
{
    const struct model_config *c = &plan->config;
    json_t *ratios = json_array();
    for (int32_t i = 0; ratios && i < c->layers + c->mtp_layers; i++)
        json_array_append_new(ratios, json_integer(c->ratios[i]));
    return json_pack("{s:[s], s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:b, s:s, s:b, s:o}",
                     "architectures", "DeepseekV4ForCausalLM", "model_type", "deepseek_v4",
                     SYNTH_MARK, plan->preset, "vocab_size", c->vocab, "hidden_size", c->hidden,
                     "num_hidden_layers", c->layers, "num_nextn_predict_layers", c->mtp_layers,
                     "max_position_embeddings", c->context_max, "bos_token_id", c->bos_id,
                     "eos_token_id", c->eos_id, "tie_word_embeddings", 0, "torch_dtype", "bfloat16",
                     "attention_bias", 0, "compress_ratios", ratios);
}

static enum sl_status write_config(struct synth_run *run)
{
    const struct model_config *c = &run->plan.config;
    json_t *parts[] = {general_fields(&run->plan), attention_fields(c), expert_fields(c),
                       number_fields(c)};
    json_t *root = json_object();
    bool built = root != NULL;
    for (size_t i = 0; i < SL_COUNT_OF(parts); i++) {
        built = built && parts[i] && json_object_update(root, parts[i]) == 0;
        json_decref(parts[i]);
    }
    if (!built) {
        json_decref(root);
        root = NULL;
    }
    return write_json(run, "config.json", root);
}

/* ---- the run ------------------------------------------------------------------------------ */

static enum sl_status write_all(struct synth_run *run)
{
    size_t next = 0;
    char *tokenizer = synth_tokenizer_text(run->plan.config.vocab);
    const struct model_config *c = &run->plan.config;
    SL_ASSERT(c->vocab >= SYNTH_TOKENIZER_VOCAB_MIN);
    enum sl_status status = write_text(run, "tokenizer.json", tokenizer);
    free(tokenizer);
    for (int32_t shard = 0; status == SL_OK && shard < run->plan.shard_count; shard++)
        status = write_shard(run, shard, &next);
    SL_TRY(status);
    SL_ASSERT(next == run->plan.count && run->done_bytes == run->plan.total_bytes);
    SL_TRY(write_index(run));
    SL_TRY(
        write_json(run, "generation_config.json",
                   json_pack("{s:i, s:i, s:b, s:f, s:f}", "bos_token_id", c->bos_id, "eos_token_id",
                             c->eos_id, "do_sample", 1, "temperature", 1.0, "top_p", 1.0)));
    SL_TRY(write_config(run)); /* last: without it nothing opens */
    SL_TRY(synth_files_finish(&run->files, run->error));
    if (run->progress)
        (void)run->progress(run->context, "writing the checkpoint", run->plan.total_bytes,
                            run->plan.total_bytes);
    return SL_OK;
}

enum sl_status sl_synth(const char *preset, const char *directory, int32_t layers, uint64_t seed,
                        sl_progress_fn progress, void *context, struct sl_error *error)
{
    struct synth_run run = {.progress = progress, .context = context, .error = error};
    if (!preset || !directory || !*directory)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "expected a preset and a directory");
    SL_TRY(synth_plan_init(&run.plan, preset, layers, error));
    synth_values_init(&run.values, seed);
    run.block = malloc(BLOCK_BYTES);
    enum sl_status status = run.block ? SL_OK : no_memory(error);
    if (status == SL_OK)
        status = synth_files_begin(&run.files, directory, disk_bytes(&run.plan), error);
    if (status == SL_OK) {
        status = write_all(&run);
        synth_files_deinit(&run.files, status == SL_OK);
    }
    free(run.block);
    synth_plan_deinit(&run.plan);
    return status;
}
