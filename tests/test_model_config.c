/* labels: unit */
/* The configuration: fields read, values refused by name, and the rope tables. */
#include "runtime/model_config.h"
#include "tests/support.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The published shape of the large model, without optional fields. */
static const char flash[] =
    "{'model_type':'deepseek_v4','architectures':['DeepseekV4ForCausalLM'],'vocab_size':129280,"
    "'hidden_size':4096,'num_hidden_layers':43,'num_nextn_predict_layers':1,'num_hash_layers':3,"
    "'num_attention_heads':64,'num_key_value_heads':1,'head_dim':512,'qk_rope_head_dim':64,"
    "'q_lora_rank':1024,'o_groups':8,'o_lora_rank':1024,'sliding_window':128,'index_n_heads':64,"
    "'index_head_dim':128,'index_topk':512,'moe_intermediate_size':2048,'n_routed_experts':256,"
    "'n_shared_experts':1,'num_experts_per_tok':6,'scoring_func':'sqrtsoftplus',"
    "'topk_method':'noaux_tc','norm_topk_prob':true,'hidden_act':'silu','rope_scaling':{"
    "'type':'yarn','factor':16,'original_max_position_embeddings':65536,'beta_fast':32,"
    "'beta_slow':1},'max_position_embeddings':1048576,'quantization_config':{"
    "'quant_method':'fp8','fmt':'e4m3','scale_fmt':'ue8m0','weight_block_size':[128,128],"
    "'activation_scheme':'dynamic'},'tie_word_embeddings':false,'unheard_of':[1,{}],"
    "'compress_ratios':[0,0,4,128,4,128,4,128,4,128,4,128,4,128,4,128,4,128,4,128,4,128,4,128,4,"
    "128,4,128,4,128,4,128,4,128,4,128,4,128,4,128,4,128,4,0]}";

/* The configuration above as JSON, changed: `field` ("a" or "a.b") set to `value`, or removed when
 * NULL. */
static json_t *changed(const char *field, const char *value)
{
    char text[sizeof flash];
    memcpy(text, flash, sizeof flash);
    for (char *at = text; *at; at++)
        if (*at == '\'') *at = '"';
    json_t *root = json_loads(text, 0, NULL);
    assert_non_null(root);
    if (!field) return root;
    const char *dot = strchr(field, '.');
    json_t *owner = root;
    if (dot) {
        char outer[64];
        snprintf(outer, sizeof outer, "%.*s", (int)(dot - field), field);
        owner = json_object_get(root, outer);
        field = dot + 1;
    }
    if (value)
        assert_int_equal(json_object_set_new(owner, field, json_loads(value, JSON_DECODE_ANY, 0)),
                         0);
    else
        assert_int_equal(json_object_del(owner, field), 0);
    return root;
}

/* Releases `root`. */
static enum sl_status parse(json_t *root, struct model_config *out, struct sl_error *error)
{
    char *text = json_dumps(root, 0);
    enum sl_status status = model_config_parse(text, strlen(text), "dir/config.json", out, error);
    json_decref(root);
    free(text);
    return status;
}

static void refused(const char *field, const char *value, enum sl_status expected)
{
    struct model_config config;
    struct sl_error error = {0};
    enum sl_status status = parse(changed(field, value), &config, &error);
    if (status != expected) fail_msg("%s = %s: status %d", field, value, status);
    if (!strstr(error.message, field) || !strstr(error.message, "dir/config.json") ||
        !strstr(error.message, "expected") || !strstr(error.message, "found"))
        fail_msg("%s: message '%s'", field, error.message);
}

static void the_large_model_is_read_with_defaults(void **state)
{
    struct model_config c;
    struct sl_error error = {0};
    (void)state;
    if (parse(changed(NULL, NULL), &c, &error) != SL_OK) fail_msg("%s", error.message);
    assert_int_equal(c.vocab, 129280);
    assert_int_equal(c.layers, 43);
    assert_int_equal(c.mtp_layers, 1);
    assert_int_equal(c.head_dim, 512);
    assert_int_equal(c.ratios[2], 4);
    assert_int_equal(c.ratios[41], 128);
    assert_int_equal(c.ratios[42], 4);
    assert_int_equal(c.ratios[43], 0);
    assert_int_equal(c.streams, 4);
    assert_int_equal(c.sinkhorn_iterations, 20);
    assert_int_equal(c.eos_id, 1);
    assert_true(c.route_scale == 1.5f && c.swiglu_limit == 10.0f && c.norm_epsilon == 1e-6f);
    assert_true(c.rope_theta == 1e4 && c.compress_rope_theta == 16e4 && c.yarn_factor == 16);
    assert_false(c.drafter_0731);
}

static void the_later_checkpoint_is_known_by_its_drafter(void **state)
{
    struct model_config c;
    struct sl_error error = {0};
    (void)state;
    for (int longer = 0; longer < 2; longer++) {
        json_t *root = changed("dspark_block_size", "5");
        json_t *ratios = json_object_get(root, "compress_ratios");
        for (int i = 0; longer && i < 2; i++)
            json_array_append_new(ratios, json_integer(0));
        if (parse(root, &c, &error) != SL_OK) fail_msg("%s", error.message);
        assert_true(c.drafter_0731);
        assert_int_equal(c.mtp_layers, 0);
        assert_int_equal(c.layers, 43);
    }
    json_t *root = changed(NULL, NULL);
    for (int i = 0; i < 2; i++)
        json_array_append_new(json_object_get(root, "compress_ratios"), json_integer(0));
    assert_int_equal(parse(root, &c, &error), SL_ERR_FORMAT);
    assert_non_null(strstr(error.message, "expected 44 entries"));
    assert_non_null(strstr(error.message, "found 46"));
}

static void absurd_numbers_are_refused_by_name(void **state)
{
    static const char *const fields[] = {
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "head_dim",
        "num_attention_heads",
        "qk_rope_head_dim",
        "q_lora_rank",
        "o_groups",
        "o_lora_rank",
        "sliding_window",
        "index_n_heads",
        "index_head_dim",
        "index_topk",
        "n_routed_experts",
        "moe_intermediate_size",
        "hc_mult",
        "hc_sinkhorn_iters",
        "rope_scaling.original_max_position_embeddings",
    };
    static const char *const values[] = {"0", "-1", "1e3", "99999999999", "\"64\"", "null", "[]"};
    (void)state;
    for (size_t i = 0; i < SL_COUNT_OF(fields); i++)
        for (size_t k = 0; k < SL_COUNT_OF(values); k++)
            refused(fields[i], values[k], SL_ERR_FORMAT);
    refused("num_hash_layers", "44", SL_ERR_FORMAT);
    refused("num_experts_per_tok", "33", SL_ERR_FORMAT);
    refused("rope_theta", "0", SL_ERR_FORMAT);
    refused("rope_theta", "\"x\"", SL_ERR_FORMAT);
    refused("swiglu_limit", "-10", SL_ERR_FORMAT);
    refused("rms_norm_eps", "true", SL_ERR_FORMAT);
    refused("rope_scaling.factor", "0.5", SL_ERR_FORMAT);
    refused("eos_token_id", "129280", SL_ERR_FORMAT);
}

static void fields_that_must_be_there_are_missed_by_name(void **state)
{
    static const char *const fields[] = {"vocab_size",          "hidden_size",
                                         "num_hash_layers",     "compress_ratios",
                                         "rope_scaling.factor", "max_position_embeddings"};
    (void)state;
    for (size_t i = 0; i < SL_COUNT_OF(fields); i++)
        refused(fields[i], NULL, SL_ERR_FORMAT);
    refused("model_type", NULL, SL_ERR_UNSUPPORTED);
    refused("quantization_config.fmt", NULL, SL_ERR_UNSUPPORTED);
    refused("rope_scaling", NULL, SL_ERR_FORMAT);
    refused("quantization_config", NULL, SL_ERR_FORMAT);
}

static void numbers_that_do_not_fit_together_are_refused(void **state)
{
    (void)state;
    refused("o_groups", "7", SL_ERR_FORMAT);
    refused("qk_rope_head_dim", "63", SL_ERR_FORMAT);
    refused("head_dim", "500", SL_ERR_FORMAT);
    refused("index_head_dim", "96", SL_ERR_FORMAT);
    refused("index_head_dim", "32", SL_ERR_FORMAT); /* below the rotary slice */
    refused("hidden_size", "4112", SL_ERR_FORMAT);
    refused("moe_intermediate_size", "2056", SL_ERR_FORMAT);
    refused("n_routed_experts", "5", SL_ERR_FORMAT);
    refused("num_attention_heads", "4096", SL_ERR_FORMAT);
    refused("compress_ratios", "[0,4]", SL_ERR_FORMAT);
    refused("compress_ratios", "7", SL_ERR_FORMAT);
    refused("num_hidden_layers", "42", SL_ERR_FORMAT);
}

static void other_models_are_unsupported_not_malformed(void **state)
{
    (void)state;
    refused("model_type", "\"deepseek_v3\"", SL_ERR_UNSUPPORTED);
    refused("architectures", "[\"LlamaForCausalLM\"]", SL_ERR_UNSUPPORTED);
    refused("scoring_func", "\"sigmoid\"", SL_ERR_UNSUPPORTED);
    refused("topk_method", "\"greedy\"", SL_ERR_UNSUPPORTED);
    refused("norm_topk_prob", "false", SL_ERR_UNSUPPORTED);
    refused("hidden_act", "\"gelu\"", SL_ERR_UNSUPPORTED);
    refused("tie_word_embeddings", "true", SL_ERR_UNSUPPORTED);
    refused("num_key_value_heads", "2", SL_ERR_UNSUPPORTED);
    refused("n_shared_experts", "2", SL_ERR_UNSUPPORTED);
    refused("expert_dtype", "\"fp8\"", SL_ERR_UNSUPPORTED);
    refused("rope_scaling.type", "\"linear\"", SL_ERR_UNSUPPORTED);
    refused("quantization_config.fmt", "\"e5m2\"", SL_ERR_UNSUPPORTED);
    refused("quantization_config.weight_block_size", "[64,64]", SL_ERR_UNSUPPORTED);

    struct model_config c;
    struct sl_error error = {0};
    json_t *root = changed(NULL, NULL);
    json_array_set_new(json_object_get(root, "compress_ratios"), 5, json_integer(8));
    assert_int_equal(parse(root, &c, &error), SL_ERR_UNSUPPORTED);
    assert_non_null(strstr(error.message, "compress_ratios[5]: expected 0, 4 or 128, found 8"));
}

static void what_is_no_configuration_is_refused(void **state)
{
    static const char *const texts[] = {"", "{", "[]", "{\"a\":1,\"a\":1}", "null", "{\"a\":\x80}"};
    struct model_config c;
    (void)state;
    for (size_t i = 0; i < SL_COUNT_OF(texts); i++) {
        struct sl_error error = {0};
        assert_int_equal(
            model_config_parse(texts[i], strlen(texts[i]), "dir/config.json", &c, &error),
            SL_ERR_FORMAT);
        assert_non_null(strstr(error.message, "dir/config.json"));
    }
}

static int32_t ulps(float a, float b)
{
    int32_t x, y;
    memcpy(&x, &a, sizeof x);
    memcpy(&y, &b, sizeof y);
    return abs(x - y);
}

/* From the published program: base 10000 plain; base 160000 with factor 16 over 65536. */
static void rope_tables_are_those_of_the_published_program(void **state)
{
    static const struct {
        int32_t pair;
        float plain, yarn;
    } expected[] = {
        {0, 0x1p+0f, 0x1p+0f},
        {1, 0x1.7ff222p-1f, 0x1.601474p-1f},
        {2, 0x1.1feb34p-1f, 0x1.e4383ep-2f},
        {7, 0x1.111aeep-3f, 0x1.29d2c6p-4f},
        {15, 0x1.b4f7e4p-7f, 0x1.dc846ep-9f},
        {16, 0x1.47ae14p-7f, 0x1.28f5c2p-9f},
        {17, 0x1.eb736p-8f, 0x1.6e29cp-10f},
        {18, 0x1.708938p-8f, 0x1.bd7b6cp-11f},
        {20, 0x1.9e7c7p-9f, 0x1.37675ep-12f},
        {23, 0x1.5d931cp-10f, 0x1.7d36bep-15f},
        {24, 0x1.0624dep-10f, 0x1.47ae18p-16f},
        {25, 0x1.892918p-11f, 0x1.6887ap-18f},
        {26, 0x1.26d42cp-11f, 0x1.efd74cp-19f},
        {31, 0x1.17a8e4p-13f, 0x1.30f89ap-21f},
    };
    struct model_config c;
    float plain[32], yarn[32], hca[32];
    (void)state;
    assert_int_equal(parse(changed(NULL, NULL), &c, NULL), SL_OK);
    model_config_rope_frequencies(&c, 0, plain);
    model_config_rope_frequencies(&c, 4, yarn);
    model_config_rope_frequencies(&c, 128, hca);
    assert_memory_equal(yarn, hca, sizeof yarn);
    for (size_t i = 0; i < SL_COUNT_OF(expected); i++) {
        assert_true(ulps(plain[expected[i].pair], expected[i].plain) <= 2);
        assert_true(ulps(yarn[expected[i].pair], expected[i].yarn) <= 2);
    }
}

static void rope_tables_are_finite_for_every_accepted_context(void **state)
{
    static const char *const contexts[] = {"1", "7", "200", "16777216"};
    struct model_config c;
    float yarn[32];
    (void)state;
    for (size_t i = 0; i < SL_COUNT_OF(contexts); i++) {
        json_t *root = changed("rope_scaling.original_max_position_embeddings", contexts[i]);
        assert_int_equal(parse(root, &c, NULL), SL_OK);
        model_config_rope_frequencies(&c, 4, yarn);
        for (int j = 0; j < 32; j++)
            assert_true(isfinite(yarn[j]) && yarn[j] > 0 && yarn[j] <= 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_large_model_is_read_with_defaults),
        cmocka_unit_test(the_later_checkpoint_is_known_by_its_drafter),
        cmocka_unit_test(absurd_numbers_are_refused_by_name),
        cmocka_unit_test(fields_that_must_be_there_are_missed_by_name),
        cmocka_unit_test(numbers_that_do_not_fit_together_are_refused),
        cmocka_unit_test(other_models_are_unsupported_not_malformed),
        cmocka_unit_test(what_is_no_configuration_is_refused),
        cmocka_unit_test(rope_tables_are_those_of_the_published_program),
        cmocka_unit_test(rope_tables_are_finite_for_every_accepted_context),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
