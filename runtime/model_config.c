/* The configuration: tables of fields with their ranges, cross-checks, and the rope tables.
 *
 * Pure functions but for model_config_load, which reads one file; any thread. A field that is
 * absent takes its default where the table gives one and is an error elsewhere. */
#include "runtime/model_config.h"
#include "kernels/ops.h"
#include "runtime/text_file.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <string.h>

#define CONFIG_BYTES_MAX (16u << 20)
#define WIDTH_MAX        65536 /* hidden, expert width, ranks */
#define PROJECTION_MAX   (1 << 20)
#define DRAFTER_STAGES   3  /* of the later checkpoint's drafter */
#define FOUND_BYTES_MAX  80 /* of a value quoted in a message */
#define REQUIRED         INT64_MIN

/* Where values come from and go to, for every check. */
struct config_source {
    const json_t *root;
    const char *path;
    const char *outer; /* of fields within an object: "rope_scaling.", else "" */
    struct sl_error *error;
};

/* ---- messages ----------------------------------------------------------------------------- */

static const char *describe_value(const json_t *value, char *out)
{
    if (!value) return "nothing";
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_ENSURE_ASCII);
    if (!text) return "a value that cannot be shown";
    snprintf(out, FOUND_BYTES_MAX, "%s%s",
             strlen(text) < FOUND_BYTES_MAX ? "" : "a long value: ", text);
    free(text);
    return out;
}

static enum sl_status refuse(const struct config_source *source, enum sl_status status,
                             const char *field, const char *expected, const json_t *found)
{
    char buffer[FOUND_BYTES_MAX];
    return sl_error_set(source->error, status, 0, "%s: field %s%s: expected %s, found %s%s",
                        source->path, source->outer, field, expected, describe_value(found, buffer),
                        status == SL_ERR_UNSUPPORTED ? ": this version cannot run such a model"
                                                     : "");
}

/* ---- numbers ------------------------------------------------------------------------------ */

struct whole_field {
    const char *name;
    size_t offset;
    int64_t min, max, fallback;
};

#define WHOLE(json_name, member, low, high, fallback)                                              \
    {                                                                                              \
        json_name, offsetof(struct model_config, member), low, high, fallback                      \
    }

static const struct whole_field whole_fields[] = {
    WHOLE("vocab_size", vocab, 1, 1 << 24, REQUIRED),
    WHOLE("hidden_size", hidden, 32, WIDTH_MAX, REQUIRED),
    WHOLE("num_hidden_layers", layers, 1, MODEL_LAYERS_MAX - 16, REQUIRED),
    WHOLE("num_nextn_predict_layers", mtp_layers, 0, 16, 0),
    WHOLE("num_hash_layers", hash_layers, 0, MODEL_LAYERS_MAX, REQUIRED),
    WHOLE("num_attention_heads", heads, 1, 4096, REQUIRED),
    WHOLE("head_dim", head_dim, 2, OPS_HEAD_DIM_MAX, REQUIRED),
    WHOLE("qk_rope_head_dim", rotary, 2, MODEL_ROTARY_MAX, REQUIRED),
    WHOLE("q_lora_rank", query_rank, 1, WIDTH_MAX, REQUIRED),
    WHOLE("o_groups", output_groups, 1, 4096, REQUIRED),
    WHOLE("o_lora_rank", output_rank, 1, WIDTH_MAX, REQUIRED),
    WHOLE("sliding_window", window, 1, WIDTH_MAX, REQUIRED),
    WHOLE("index_n_heads", index_heads, 1, 4096, REQUIRED),
    WHOLE("index_head_dim", index_dim, 32, OPS_HEAD_DIM_MAX, REQUIRED),
    WHOLE("index_topk", index_top, 1, 1 << 20, REQUIRED),
    WHOLE("moe_intermediate_size", expert_width, 32, WIDTH_MAX, REQUIRED),
    WHOLE("n_routed_experts", experts, 1, OPS_EXPERTS_MAX, REQUIRED),
    WHOLE("num_experts_per_tok", experts_per_token, 1, OPS_EXPERTS_PER_TOKEN_MAX, REQUIRED),
    WHOLE("hc_mult", streams, 1, OPS_STREAMS_MAX, 4),
    WHOLE("hc_sinkhorn_iters", sinkhorn_iterations, 1, 1000, 20),
    WHOLE("max_position_embeddings", context_max, 1, MODEL_CONTEXT_MAX, REQUIRED),
    WHOLE("bos_token_id", bos_id, 0, (1 << 24) - 1, 0),
    WHOLE("eos_token_id", eos_id, 0, (1 << 24) - 1, 1),
};

static const struct whole_field rope_whole_fields[] = {
    WHOLE("original_max_position_embeddings", yarn_original_context, 1, MODEL_CONTEXT_MAX,
          REQUIRED),
};

static enum sl_status read_whole_fields(const struct config_source *source,
                                        const struct whole_field *fields, size_t count,
                                        struct model_config *out)
{
    for (size_t i = 0; i < count; i++) {
        const struct whole_field *field = &fields[i];
        const json_t *value = json_object_get(source->root, field->name);
        int64_t number = json_is_integer(value) ? json_integer_value(value) : 0;
        bool defaulted = !value && field->fallback != REQUIRED;
        char expected[FOUND_BYTES_MAX];
        if (defaulted) number = field->fallback;
        if ((!json_is_integer(value) && !defaulted) || number < field->min || number > field->max) {
            snprintf(expected, sizeof expected, "a whole number from %lld to %lld",
                     (long long)field->min, (long long)field->max);
            return refuse(source, SL_ERR_FORMAT, field->name, expected, value);
        }
        int32_t stored = (int32_t)number;
        memcpy((char *)out + field->offset, &stored, sizeof stored);
    }
    return SL_OK;
}

struct real_field {
    const char *name;
    size_t offset;
    bool is_double;
    double min, max, fallback; /* fallback 0: required */
};

#define REAL(json_name, member, is_double, low, high, fallback)                                    \
    {                                                                                              \
        json_name, offsetof(struct model_config, member), is_double, low, high, fallback           \
    }

static const struct real_field real_fields[] = {
    REAL("routed_scaling_factor", route_scale, false, 1e-6, 1e6, 1.5),
    REAL("swiglu_limit", swiglu_limit, false, 1e-6, 1e9, 10),
    REAL("rms_norm_eps", norm_epsilon, false, 1e-20, 1, 1e-6),
    REAL("hc_eps", hyper_epsilon, false, 1e-20, 1, 1e-6),
    REAL("rope_theta", rope_theta, true, 2, 1e12, 1e4),
    REAL("compress_rope_theta", compress_rope_theta, true, 2, 1e12, 16e4),
};

static const struct real_field rope_real_fields[] = {
    REAL("factor", yarn_factor, true, 1, 1e6, 0),
    REAL("beta_fast", yarn_beta_fast, true, 1e-3, 1e6, 32),
    REAL("beta_slow", yarn_beta_slow, true, 1e-3, 1e6, 1),
};

static enum sl_status read_real_fields(const struct config_source *source,
                                       const struct real_field *fields, size_t count,
                                       struct model_config *out)
{
    for (size_t i = 0; i < count; i++) {
        const struct real_field *field = &fields[i];
        const json_t *value = json_object_get(source->root, field->name);
        double number = value ? json_number_value(value) : field->fallback;
        char expected[FOUND_BYTES_MAX];
        if ((value && !json_is_number(value)) || !(number >= field->min && number <= field->max)) {
            snprintf(expected, sizeof expected, "a number from %g to %g", field->min, field->max);
            return refuse(source, SL_ERR_FORMAT, field->name, expected, value);
        }
        float narrow = (float)number;
        if (field->is_double)
            memcpy((char *)out + field->offset, &number, sizeof number);
        else
            memcpy((char *)out + field->offset, &narrow, sizeof narrow);
    }
    return SL_OK;
}

/* ---- what this version can run ------------------------------------------------------------ */

/* A field with one value that we can run; absent is fine unless required. */
struct fixed_field {
    const char *name, *expected; /* the value as compact JSON */
    bool required;
};

static const struct fixed_field fixed_fields[] = {
    {"model_type", "\"deepseek_v4\"", true},
    {"architectures", "[\"DeepseekV4ForCausalLM\"]", false},
    {"scoring_func", "\"sqrtsoftplus\"", false},
    {"topk_method", "\"noaux_tc\"", false},
    {"norm_topk_prob", "true", false},
    {"hidden_act", "\"silu\"", false},
    {"tie_word_embeddings", "false", false},
    {"attention_bias", "false", false},
    {"num_key_value_heads", "1", false},
    {"n_shared_experts", "1", false},
    {"expert_dtype", "\"fp4\"", false},
    {"torch_dtype", "\"bfloat16\"", false},
};

static const struct fixed_field quantization_fields[] = {
    {"quant_method", "\"fp8\"", true},
    {"fmt", "\"e4m3\"", true},
    {"scale_fmt", "\"ue8m0\"", true},
    {"weight_block_size", "[128,128]", true},
    {"activation_scheme", "\"dynamic\"", false},
};

static enum sl_status check_fixed_fields(const struct config_source *source,
                                         const struct fixed_field *fields, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const json_t *value = json_object_get(source->root, fields[i].name);
        if (!value && !fields[i].required) continue;
        json_t *expected = json_loads(fields[i].expected, JSON_DECODE_ANY, NULL);
        if (!expected) return sl_error_set(source->error, SL_ERR_NO_MEMORY, 0, "out of memory");
        bool equal = value && json_equal(value, expected);
        json_decref(expected);
        if (!equal)
            return refuse(source, SL_ERR_UNSUPPORTED, fields[i].name, fields[i].expected, value);
    }
    return SL_OK;
}

/* Turns `inner`, a copy of `source`, to the object `field` inside it, whose fields get the name
 * `outer` in front. */
static enum sl_status enter(const struct config_source *source, const char *field,
                            const char *outer, struct config_source *inner)
{
    const json_t *value = json_object_get(source->root, field);
    if (!json_is_object(value)) return refuse(source, SL_ERR_FORMAT, field, "an object", value);
    inner->root = value;
    inner->outer = outer;
    return SL_OK;
}

static enum sl_status read_rope_scaling(const struct config_source *source,
                                        struct model_config *out)
{
    struct config_source rope = *source;
    SL_TRY(enter(source, "rope_scaling", "rope_scaling.", &rope));
    const json_t *type = json_object_get(rope.root, "type");
    if (!type) type = json_object_get(rope.root, "rope_type");
    if (!json_is_string(type) || strcmp(json_string_value(type), "yarn") != 0)
        return refuse(&rope, SL_ERR_UNSUPPORTED, "type", "\"yarn\"", type);
    SL_TRY(read_real_fields(&rope, rope_real_fields, SL_COUNT_OF(rope_real_fields), out));
    return read_whole_fields(&rope, rope_whole_fields, SL_COUNT_OF(rope_whole_fields), out);
}

/* ---- relations between fields ------------------------------------------------------------- */

static enum sl_status require(const struct config_source *source, bool holds, const char *field,
                              const char *expected)
{
    if (holds) return SL_OK;
    return refuse(source, SL_ERR_FORMAT, field, expected, json_object_get(source->root, field));
}

static enum sl_status check_attention(const struct config_source *source,
                                      const struct model_config *c)
{
    SL_TRY(require(source, c->heads % c->output_groups == 0, "o_groups",
                   "a divisor of num_attention_heads"));
    SL_TRY(require(source, c->heads * c->head_dim <= PROJECTION_MAX, "num_attention_heads",
                   "at most 1048576 / head_dim"));
    SL_TRY(require(source, c->output_groups * c->output_rank <= PROJECTION_MAX, "o_lora_rank",
                   "at most 1048576 / o_groups"));
    SL_TRY(require(source, c->rotary % 2 == 0 && c->rotary <= c->head_dim, "qk_rope_head_dim",
                   "an even number up to head_dim"));
    SL_TRY(require(source, (c->head_dim - c->rotary) % 64 == 0, "head_dim",
                   "qk_rope_head_dim plus a multiple of 64"));
    SL_TRY(require(source, (c->index_dim & (c->index_dim - 1)) == 0, "index_head_dim",
                   "a power of two"));
    SL_TRY(require(source, c->index_dim >= c->rotary, "index_head_dim",
                   "a number not below qk_rope_head_dim"));
    SL_TRY(require(source, c->index_heads * c->index_dim <= PROJECTION_MAX, "index_n_heads",
                   "at most 1048576 / index_head_dim"));
    return require(source, c->yarn_beta_fast > c->yarn_beta_slow, "rope_scaling",
                   "beta_fast above beta_slow");
}

static enum sl_status check_experts(const struct config_source *source,
                                    const struct model_config *c)
{
    SL_TRY(require(source, c->hidden % 32 == 0, "hidden_size", "a multiple of 32"));
    SL_TRY(require(source, c->expert_width % 32 == 0, "moe_intermediate_size", "a multiple of 32"));
    SL_TRY(require(source, c->experts_per_token <= c->experts, "num_experts_per_tok",
                   "at most n_routed_experts"));
    SL_TRY(require(source, c->hash_layers <= c->layers, "num_hash_layers",
                   "at most num_hidden_layers"));
    SL_TRY(require(source, c->bos_id < c->vocab, "bos_token_id", "an id below vocab_size"));
    return require(source, c->eos_id < c->vocab, "eos_token_id", "an id below vocab_size");
}

static enum sl_status read_ratios(const struct config_source *source, struct model_config *out)
{
    const json_t *ratios = json_object_get(source->root, "compress_ratios");
    size_t count = json_array_size(ratios); /* 0 for what is no list */
    size_t expected = (size_t)(out->layers + out->mtp_layers);
    size_t with_drafter = (size_t)(out->layers + DRAFTER_STAGES);
    char text[FOUND_BYTES_MAX];
    SL_ASSERT(expected <= MODEL_LAYERS_MAX && with_drafter <= MODEL_LAYERS_MAX);
    if (count != expected && !(out->drafter_0731 && count == with_drafter))
        return sl_error_set(source->error, SL_ERR_FORMAT, 0,
                            "%s: field compress_ratios: expected %zu entries (num_hidden_layers + "
                            "num_nextn_predict_layers), found %zu",
                            source->path, expected, count);
    for (size_t i = 0; i < count; i++) {
        const json_t *entry = json_array_get(ratios, i);
        json_int_t ratio = json_is_integer(entry) ? json_integer_value(entry) : -1;
        bool is_main = i < (size_t)out->layers;
        if (ratio != 0 && !(is_main && (ratio == 4 || ratio == 128))) {
            snprintf(text, sizeof text, "compress_ratios[%zu]", i);
            return refuse(source, SL_ERR_UNSUPPORTED, text,
                          is_main ? "0, 4 or 128" : "0 for an MTP block", entry);
        }
        out->ratios[i] = (int32_t)ratio;
    }
    return SL_OK;
}

static bool has_drafter(const json_t *root)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)root, key,
                        value) if (strncmp(key, "dspark_", strlen("dspark_")) == 0) return true;
    return false;
}

static enum sl_status read_config(const struct config_source *source, struct model_config *out)
{
    struct config_source quantization = *source;
    SL_TRY(check_fixed_fields(source, fixed_fields, SL_COUNT_OF(fixed_fields)));
    SL_TRY(enter(source, "quantization_config", "quantization_config.", &quantization));
    SL_TRY(
        check_fixed_fields(&quantization, quantization_fields, SL_COUNT_OF(quantization_fields)));
    SL_TRY(read_whole_fields(source, whole_fields, SL_COUNT_OF(whole_fields), out));
    SL_TRY(read_real_fields(source, real_fields, SL_COUNT_OF(real_fields), out));
    SL_TRY(read_rope_scaling(source, out));
    SL_TRY(check_attention(source, out));
    SL_TRY(check_experts(source, out));
    out->drafter_0731 = has_drafter(source->root);
    SL_TRY(read_ratios(source, out));
    /* The later drafter's stages are no MTP blocks, and of a chain of blocks only the first runs.
     */
    out->mtp_layers = out->drafter_0731 ? 0 : min_i32(out->mtp_layers, 1);
    return SL_OK;
}

enum sl_status model_config_parse(const char *text, size_t bytes, const char *path,
                                  struct model_config *out, struct sl_error *error)
{
    json_error_t json_error;
    struct model_config config = {0};
    SL_ASSERT(path && out && (text || bytes == 0));
    json_t *root = bytes ? json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &json_error) : NULL;
    if (!root)
        return sl_error_set(error, SL_ERR_FORMAT, 0, "%s: expected JSON, found an error: %s", path,
                            bytes ? json_error.text : "the file is empty");
    struct config_source source = {root, path, "", error};
    enum sl_status status = json_is_object(root) ? read_config(&source, &config)
                                                 : sl_error_set(error, SL_ERR_FORMAT, 0,
                                                                "%s: expected a JSON object", path);
    json_decref(root);
    if (status == SL_OK) *out = config;
    return status;
}

enum sl_status model_config_load(const char *directory, struct model_config *out,
                                 struct sl_error *error)
{
    struct sl_error read_error = {0};
    char *path = NULL, *text = NULL;
    size_t bytes = 0;
    SL_ASSERT(directory && out);
    if (asprintf(&path, "%s/config.json", directory) < 0)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "out of memory");
    enum sl_status status = text_file_read(path, CONFIG_BYTES_MAX, &text, &bytes, &read_error);
    if (status == SL_OK) {
        status = model_config_parse(text, bytes, path, out, error);
    } else if (read_error.os_errno == ENOENT || read_error.os_errno == ENOTDIR) {
        sl_error_set(error, status, read_error.os_errno,
                     "%s holds no checkpoint: expected a config.json in it, found none", directory);
    } else if (error) {
        *error = read_error;
    }
    free(text);
    free(path);
    return status;
}

/* ---- rope tables -------------------------------------------------------------------------- */

/* The channel pair that turns `turns` times within the original context, as a real number. */
static double yarn_correction(const struct model_config *config, double turns)
{
    return config->rotary * log(config->yarn_original_context / (turns * 2 * M_PI)) /
           (2 * log(config->compress_rope_theta));
}

void model_config_rope_frequencies(const struct model_config *config, int32_t ratio,
                                   float *frequencies)
{
    double low = fmax(floor(yarn_correction(config, config->yarn_beta_fast)), 0);
    double high = fmin(ceil(yarn_correction(config, config->yarn_beta_slow)), config->rotary - 1);
    float theta = (float)(ratio ? config->compress_rope_theta : config->rope_theta);
    SL_ASSERT(frequencies && config->rotary >= 2 && config->rotary <= MODEL_ROTARY_MAX);
    SL_ASSERT(ratio == 0 || ratio == 4 || ratio == 128);
    if (low == high) high += 0.001;
    for (int32_t j = 0; j < config->rotary / 2; j++) {
        float base = 1.0f / powf(theta, (float)(2 * j) / (float)config->rotary);
        /* How much of the channel is stretched: 0 for those that turn often, 1 for slow ones. */
        float ramp = ((float)j - (float)low) / (float)(high - low);
        float stretched = fminf(fmaxf(ramp, 0.0f), 1.0f);
        frequencies[j] =
            ratio ? base / (float)config->yarn_factor * stretched + base * (1.0f - stretched)
                  : base;
    }
}
