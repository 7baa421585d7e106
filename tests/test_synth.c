/* labels: unit fault */
/* Random checkpoints: determinism, plausible values, and what a failed run leaves behind. */
#include "kernels/lowp.h"
#include "runtime/model.h"
#include "runtime/sl.h"
#include "runtime/synth_plan.h"
#include "runtime/synth_tokenizer.h"
#include "runtime/synth_values.h"
#include "tests/support.h"
#include "tests/support_checkpoint.h"

#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const file_names[] = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "model.safetensors.index.json",
    "model-00001-of-00003.safetensors",
    "model-00002-of-00003.safetensors",
    "model-00003-of-00003.safetensors",
};

static int count_entries(const char *directory)
{
    DIR *stream = opendir(directory);
    int count = 0;
    assert_non_null(stream);
    while (readdir(stream))
        count++;
    closedir(stream);
    return count - 2; /* . and .. */
}

static bool same_file(const char *left, const char *right, const char *name)
{
    char *paths[2] = {test_path(left, name), test_path(right, name)};
    size_t bytes[2];
    char *data[2];
    for (int i = 0; i < 2; i++)
        data[i] = test_read_file(paths[i], &bytes[i]);
    bool same = bytes[0] == bytes[1] && memcmp(data[0], data[1], bytes[0]) == 0;
    for (int i = 0; i < 2; i++) {
        free(paths[i]);
        free(data[i]);
    }
    return same;
}

static void discard(char *directory)
{
    test_remove_tree(directory);
    free(directory);
}

static void the_same_seed_writes_the_same_bytes(void **state)
{
    char *first = checkpoint_make(3), *second = checkpoint_make(3), *other = checkpoint_make(4);
    (void)state;
    assert_int_equal(count_entries(first), SL_COUNT_OF(file_names));
    for (size_t i = 0; i < SL_COUNT_OF(file_names); i++)
        assert_true(same_file(first, second, file_names[i]));
    assert_false(same_file(first, other, "model-00001-of-00003.safetensors"));
    discard(first);
    discard(second);
    discard(other);
}

static struct model *open_checkpoint(const char *directory)
{
    struct model_open_options options = {.directory = directory, .want_mtp = true};
    struct model *model = NULL;
    struct sl_error error = {0};
    if (model_open(&options, &model, &error) != SL_OK) fail_msg("%s", error.message);
    return model;
}

static void layers_are_the_same_in_a_shorter_checkpoint(void **state)
{
    char *full = checkpoint_make(3), *cut = test_make_directory("cut");
    struct sl_error error = {0};
    (void)state;
    if (sl_synth("tiny", cut, 3, 3, NULL, NULL, &error) != SL_OK) fail_msg("%s", error.message);
    struct model *long_model = open_checkpoint(full), *short_model = open_checkpoint(cut);
    assert_int_equal(short_model->config.layers, 3);
    assert_int_equal(short_model->config.ratios[2], 4);
    assert_true(short_model->mtp.present);
    assert_memory_equal(long_model->layers[2].attn.query_up.data,
                        short_model->layers[2].attn.query_up.data, 512 * 128);
    assert_memory_equal(long_model->layers[6].attn.query_up.data,
                        short_model->layers[3].attn.query_up.data, 512 * 128);
    model_close(long_model);
    model_close(short_model);
    discard(full);
    discard(cut);
}

static void one_layer_opens_with_its_hash_table_and_mtp(void **state)
{
    char *directory = test_make_directory("one");
    (void)state;
    assert_int_equal(sl_synth("tiny", directory, 1, 1, NULL, NULL, NULL), SL_OK);
    struct model *model = open_checkpoint(directory);
    assert_int_equal(model->config.hash_layers, 1);
    assert_non_null(model->layers[0].token_experts);
    assert_null(model->layers[1].token_experts);
    model_close(model);
    discard(directory);
}

static void presets_have_the_sizes_promised(void **state)
{
    struct synth_plan plan;
    uint64_t experts = 0;
    (void)state;
    assert_int_equal(synth_plan_init(&plan, "small", 0, NULL), SL_OK);
    assert_true(plan.total_bytes > 900000000 && plan.total_bytes < 1100000000);
    for (size_t i = 0; i < plan.count; i++)
        if (strstr(plan.tensors[i].name, ".experts.")) experts += plan.tensors[i].bytes;
    assert_true(experts > plan.total_bytes / 100 * 85);
    synth_plan_deinit(&plan);
    /* The published model has exactly these. */
    assert_int_equal(synth_plan_init(&plan, "flash", 0, NULL), SL_OK);
    assert_int_equal(plan.count, 69187);
    assert_int_equal(plan.total_bytes, 159609485896);
    assert_int_equal(plan.shard_count, 46);
    synth_plan_deinit(&plan);
}

/* Decoded value of element i of a filled tensor. */
static double decoded(const struct synth_tensor *tensor, const uint8_t *data, uint64_t i)
{
    switch (tensor->dtype) {
    case DTYPE_F32: return (double)((const float *)(const void *)data)[i];
    case DTYPE_BF16: return (double)bf16_decode(((const uint16_t *)(const void *)data)[i]);
    case DTYPE_F8_E4M3: return (double)e4m3_decode(data[i]);
    case DTYPE_F8_E8M0: return (double)e8m0_decode(data[i]);
    default: return (double)e2m1_decode(data[i] & 15);
    }
}

static void values_have_the_mean_and_deviation_planned(void **state)
{
    struct synth_plan plan;
    struct synth_values values;
    int checked = 0;
    (void)state;
    assert_int_equal(synth_plan_init(&plan, "tiny", 0, NULL), SL_OK);
    synth_values_init(&values, 11);
    for (size_t t = 0; t < plan.count; t++) {
        const struct synth_tensor *tensor = &plan.tensors[t];
        uint64_t count = tensor->bytes / dtype_bytes(tensor->dtype);
        double sum = 0, squares = 0, deviation = (double)tensor->deviation;
        if (tensor->fill == SYNTH_TOKEN_EXPERTS || count < 4096) continue;
        if (tensor->fill == SYNTH_CODES_FP8) deviation = (double)SYNTH_FP8_DEVIATION;
        if (tensor->fill == SYNTH_CODES_FP4) deviation = (double)SYNTH_FP4_DEVIATION;
        uint8_t *data = malloc(tensor->bytes);
        assert_non_null(data);
        synth_values_fill(&values, tensor, plan.config.experts, 0, count, data);
        for (uint64_t i = 0; i < count; i++) {
            double value = decoded(tensor, data, i);
            assert_true(isfinite(value));
            sum += value;
            squares += value * value;
        }
        if (tensor->fill != SYNTH_SCALES)
            assert_true(fabs(sum / (double)count - (double)tensor->mean) < 0.08 * deviation);
        assert_true(fabs(sqrt(squares / (double)count) / deviation - 1) < 0.06);
        free(data);
        checked++;
    }
    assert_true(checked > 300);
    synth_plan_deinit(&plan);
}

static void values_do_not_depend_on_the_cut(void **state)
{
    struct synth_plan plan;
    struct synth_values values;
    (void)state;
    assert_int_equal(synth_plan_init(&plan, "tiny", 1, NULL), SL_OK);
    synth_values_init(&values, 5);
    for (size_t t = 0; t < plan.count; t++) {
        const struct synth_tensor *tensor = &plan.tensors[t];
        size_t width = dtype_bytes(tensor->dtype);
        uint64_t count = tensor->bytes / width;
        uint8_t *at_once = malloc(tensor->bytes), *in_parts = malloc(tensor->bytes);
        assert_true(at_once && in_parts);
        synth_values_fill(&values, tensor, 16, 0, count, at_once);
        for (uint64_t first = 0; first < count; first += 24) {
            uint64_t part = count - first < 24 ? count - first : 24;
            synth_values_fill(&values, tensor, 16, first, part, in_parts + first * width);
        }
        assert_memory_equal(at_once, in_parts, tensor->bytes);
        free(at_once);
        free(in_parts);
    }
    synth_plan_deinit(&plan);
}

static void rows_of_the_hash_table_name_distinct_experts(void **state)
{
    char *directory = checkpoint_make(9);
    struct model *model = open_checkpoint(directory);
    const int64_t *table = model->layers[1].token_experts;
    int seen[16] = {0};
    (void)state;
    for (int row = 0; row < 512; row++)
        for (int k = 0; k < 4; k++) {
            for (int j = 0; j < k; j++)
                assert_true(table[4 * row + k] != table[4 * row + j]);
            seen[table[4 * row + k]]++;
        }
    for (int expert = 0; expert < 16; expert++)
        assert_true(seen[expert] > 64 && seen[expert] < 256);
    model_close(model);
    discard(directory);
}

static void tokenizer_is_whole(int vocab_size)
{
    char *text = synth_tokenizer_text(vocab_size);
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    json_t *vocab = json_object_get(json_object_get(root, "model"), "vocab");
    json_t *merges = json_object_get(json_object_get(root, "model"), "merges");
    bool *used = calloc((size_t)vocab_size, sizeof *used);
    const char *key;
    json_t *value;
    size_t i;
    assert_true(root && used);
    json_object_foreach(vocab, key, value)
    {
        assert_in_range(json_integer_value(value), 0, vocab_size - 1);
        assert_false(used[json_integer_value(value)]);
        used[json_integer_value(value)] = true;
    }
    assert_int_equal(json_object_size(vocab), 3 + 256 + json_array_size(merges));
    assert_int_equal(json_integer_value(json_object_get(vocab, "!")), 3);
    assert_int_equal(json_integer_value(json_object_get(vocab, "\xc4\x80")), 3 + 188);
    json_array_foreach(merges, i, value)
    {
        char joined[64], *space = NULL;
        snprintf(joined, sizeof joined, "%s", json_string_value(value));
        space = strchr(joined, ' ');
        memmove(space, space + 1, strlen(space));
        assert_int_equal(json_integer_value(json_object_get(vocab, joined)), 259 + i);
    }
    json_array_foreach(json_object_get(root, "added_tokens"), i, value)
    {
        json_int_t id = json_integer_value(json_object_get(value, "id"));
        assert_in_range(id, 0, vocab_size - 1);
        assert_true(used[id] == (i < 3));
        used[id] = true;
    }
    for (int id = 0; id < vocab_size; id++)
        assert_true(used[id]);
    free(used);
    json_decref(root);
    free(text);
}

static void the_tokenizer_fills_the_vocabulary_and_its_merges_build(void **state)
{
    (void)state;
    tokenizer_is_whole(SYNTH_TOKENIZER_VOCAB_MIN);
    tokenizer_is_whole(4096);
    tokenizer_is_whole(129280);
}

static void the_tokenizer_opens_and_gives_text_back(void **state)
{
    static const char prompt[] = "<\xef\xbd\x9cUser\xef\xbd\x9c>the caf\xc3\xa9, 1234 \n<think>";
    char *directory = test_make_directory("tokenizer");
    char *path = test_path(directory, "tokenizer.json");
    char *text = synth_tokenizer_text(SYNTH_TOKENIZER_VOCAB_MIN);
    sl_tokenizer *tokenizer = NULL;
    struct sl_error error = {0};
    int32_t *ids = NULL;
    size_t count = 0;
    char decoded[sizeof prompt] = "";
    size_t used = 0;
    (void)state;
    test_write_file(path, text, strlen(text));
    if (sl_tokenizer_open(path, &tokenizer, &error) != SL_OK) fail_msg("%s", error.message);
    assert_int_equal(sl_tokenizer_vocab(tokenizer), SYNTH_TOKENIZER_VOCAB_MIN);
    assert_int_equal(
        sl_tokenizer_encode(tokenizer, prompt, sizeof prompt - 1, &ids, &count, &error), SL_OK);
    assert_int_equal(ids[0], sl_tokenizer_added_id(tokenizer, "<\xef\xbd\x9cUser\xef\xbd\x9c>"));
    assert_true(count < 24);
    for (size_t i = 0; i < count; i++) {
        size_t bytes = 0;
        const char *part = sl_tokenizer_bytes(tokenizer, ids[i], &bytes);
        assert_true(part && used + bytes < sizeof decoded);
        memcpy(decoded + used, part, bytes);
        used += bytes;
    }
    assert_int_equal(used, sizeof prompt - 1);
    assert_memory_equal(decoded, prompt, used);
    free(ids);
    sl_tokenizer_close(tokenizer);
    free(text);
    free(path);
    discard(directory);
}

/* ---- the directory ------------------------------------------------------------------------ */

static void wrong_arguments_are_refused(void **state)
{
    struct sl_error error = {0};
    (void)state;
    assert_int_equal(sl_synth("huge", "/tmp/x", 0, 0, NULL, NULL, &error), SL_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "expected tiny, small or flash, found huge"));
    assert_int_equal(sl_synth("tiny", "/tmp/x", -1, 0, NULL, NULL, &error), SL_ERR_ARGUMENT);
    assert_int_equal(sl_synth("tiny", "/tmp/x", 1000, 0, NULL, NULL, &error), SL_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "layers: expected 0 to"));
    assert_int_equal(sl_synth(NULL, "/tmp/x", 0, 0, NULL, NULL, &error), SL_ERR_ARGUMENT);
    assert_int_equal(sl_synth("tiny", "/nonexistent/a/b", 0, 0, NULL, NULL, &error), SL_ERR_IO);
    assert_non_null(strstr(error.message, "/nonexistent/a/b"));
}

static void other_peoples_files_are_left_alone(void **state)
{
    static const char *const names[] = {"notes.txt", "model-00001-of-00046.safetensors",
                                        "config.json"};
    (void)state;
    for (size_t i = 0; i < SL_COUNT_OF(names); i++) {
        char *directory = test_make_directory("theirs");
        char *path = test_path(directory, names[i]);
        struct sl_error error = {0};
        test_write_file(path, "{}", 2);
        assert_int_equal(sl_synth("tiny", directory, 0, 0, NULL, NULL, &error), SL_ERR_ARGUMENT);
        assert_non_null(strstr(error.message, "choose another directory"));
        assert_int_equal(count_entries(directory), 1);
        assert_int_equal(access(path, F_OK), 0);
        free(path);
        discard(directory);
    }
}

static void a_checkpoint_of_ours_is_replaced(void **state)
{
    char *directory = checkpoint_make(1), *fresh = checkpoint_make(2);
    char *foreign = test_path(directory, "notes.txt");
    (void)state;
    test_write_file(foreign, "x", 1);
    assert_int_equal(sl_synth("tiny", directory, 0, 2, NULL, NULL, NULL), SL_OK);
    for (size_t i = 0; i < SL_COUNT_OF(file_names); i++)
        assert_true(same_file(directory, fresh, file_names[i]));
    assert_int_equal(count_entries(directory), SL_COUNT_OF(file_names) + 1);
    assert_int_equal(access(foreign, F_OK), 0);
    assert_int_equal(sl_synth("tiny", directory, 1, 2, NULL, NULL, NULL), SL_OK);
    struct model *model = open_checkpoint(directory);
    assert_int_equal(model->config.layers, 1);
    model_close(model);
    free(foreign);
    discard(directory);
    discard(fresh);
}

static bool stop_halfway(void *context, const char *what, uint64_t done, uint64_t total)
{
    (void)context, (void)what;
    return done < total / 2;
}

static void a_cancelled_run_leaves_nothing(void **state)
{
    char *parent = test_make_directory("cancel");
    char *directory = test_path(parent, "made");
    struct sl_error error = {0};
    (void)state;
    assert_int_equal(sl_synth("tiny", directory, 0, 1, stop_halfway, NULL, &error),
                     SL_ERR_CANCELLED);
    assert_int_equal(access(directory, F_OK), -1);
    assert_int_equal(sl_synth("tiny", parent, 0, 1, stop_halfway, NULL, &error), SL_ERR_CANCELLED);
    assert_int_equal(count_entries(parent), 0);
    free(directory);
    discard(parent);
}

/* A limit on file sizes stands in for a full disk: the write fails in the middle. */
static void a_failed_write_leaves_nothing_that_opens(void **state)
{
    char *directory = test_make_directory("full");
    struct sl_error error = {0};
    struct rlimit old, low;
    (void)state;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    low = old;
    low.rlim_cur = 1 << 20;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    enum sl_status status = sl_synth("tiny", directory, 0, 1, NULL, NULL, &error);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    signal(SIGXFSZ, handler);
    assert_int_equal(status, SL_ERR_IO);
    assert_non_null(strstr(error.message, directory));
    assert_int_equal(count_entries(directory), 0);
    discard(directory);
}

static void a_killed_run_is_taken_over(void **state)
{
    char *directory = test_make_directory("killed");
    char *marker = test_path(directory, "sluice-synth.part");
    char *part = test_path(directory, "model-00001-of-00003.safetensors.part");
    (void)state;
    test_write_file(marker, "", 0);
    test_write_file(part, "half", 4);
    assert_int_equal(sl_synth("tiny", directory, 0, 1, NULL, NULL, NULL), SL_OK);
    assert_int_equal(count_entries(directory), SL_COUNT_OF(file_names));
    free(part);
    free(marker);
    discard(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_seed_writes_the_same_bytes),
        cmocka_unit_test(layers_are_the_same_in_a_shorter_checkpoint),
        cmocka_unit_test(one_layer_opens_with_its_hash_table_and_mtp),
        cmocka_unit_test(presets_have_the_sizes_promised),
        cmocka_unit_test(values_have_the_mean_and_deviation_planned),
        cmocka_unit_test(values_do_not_depend_on_the_cut),
        cmocka_unit_test(rows_of_the_hash_table_name_distinct_experts),
        cmocka_unit_test(the_tokenizer_fills_the_vocabulary_and_its_merges_build),
        cmocka_unit_test(the_tokenizer_opens_and_gives_text_back),
        cmocka_unit_test(wrong_arguments_are_refused),
        cmocka_unit_test(other_peoples_files_are_left_alone),
        cmocka_unit_test(a_checkpoint_of_ours_is_replaced),
        cmocka_unit_test(a_cancelled_run_leaves_nothing),
        cmocka_unit_test(a_failed_write_leaves_nothing_that_opens),
        cmocka_unit_test(a_killed_run_is_taken_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
