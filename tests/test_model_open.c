/* labels: unit fault */
/* Opening a checkpoint: what is bound, what is refused with which words, and files that change
 * while they are in use. */
#include "runtime/model.h"
#include "runtime/safetensors.h"
#include "tests/support.h"
#include "tests/support_checkpoint.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define INDEX_NAME  "model.safetensors.index.json"
#define FIRST_SHARD "model-00001-of-00003.safetensors"

static char *whole; /* an intact checkpoint, made once */

static int make_whole(void **state)
{
    (void)state;
    whole = checkpoint_make(7);
    return 0;
}

static int remove_whole(void **state)
{
    (void)state;
    test_remove_tree(whole);
    free(whole);
    return 0;
}

static struct model *open_model(const char *directory, bool want_mtp)
{
    struct model_open_options options = {
        .directory = directory, .want_mtp = want_mtp, .read_dense = true};
    struct model *model = NULL;
    struct sl_error error = {0};
    if (model_open(&options, &model, &error) != SL_OK) fail_msg("%s", error.message);
    return model;
}

/* Opening fails with this status and a message that holds both strings; removes the directory. */
static void refused(char *directory, enum sl_status expected, const char *first, const char *second)
{
    struct model_open_options options = {.directory = directory, .want_mtp = true};
    struct model *model = NULL;
    struct sl_error error = {0};
    enum sl_status status = model_open(&options, &model, &error);
    assert_null(model);
    if (status != expected || !strstr(error.message, first) || !strstr(error.message, second))
        fail_msg("status %d, expected '%s' and '%s' in '%s'", status, first, second, error.message);
    assert_int_equal(model_open(&options, &model, NULL), expected);
    test_remove_tree(directory);
    free(directory);
}

/* ---- what is bound ------------------------------------------------------------------------ */

/* The bytes of a tensor in the file are those at `data`, which is aligned for `dtype`. */
static void same_bytes(const char *directory, const char *name, enum dtype dtype, const void *data)
{
    char *shard = checkpoint_shard_of(directory, name);
    char *path = test_path(directory, shard);
    struct safetensors *file = NULL;
    char *content = test_read_file(path, NULL);
    assert_int_equal(safetensors_open(path, &file, NULL), SL_OK);
    const struct safetensors_tensor *tensor = safetensors_find(file, name);
    assert_int_equal(tensor->dtype, dtype);
    assert_int_equal((uintptr_t)data % dtype_bytes(dtype), 0);
    assert_memory_equal(content + tensor->offset_bytes, data, tensor->bytes);
    safetensors_close(file);
    free(content);
    free(path);
    free(shard);
}

static void weights_are_bound_to_their_bytes_aligned(void **state)
{
    struct model *model = open_model(whole, true);
    const struct layer_weights *layers = model->layers;
    (void)state;
    assert_true(model->mtp.present);
    assert_true(model->copied_bytes > 0 && model->copied_bytes < model->dense_bytes);
    assert_int_equal(model->skipped_tensors, 0);
    assert_int_equal(model->unknown_tensors, 0);
    same_bytes(whole, "embed.weight", DTYPE_BF16, model->embed.data);
    same_bytes(whole, "head.weight", DTYPE_BF16, model->head.data);
    same_bytes(whole, "hc_head_fn", DTYPE_F32, model->hyper_head.fn.data);
    same_bytes(whole, "layers.0.ffn.gate.tid2eid", DTYPE_I64, layers[0].token_experts);
    same_bytes(whole, "layers.5.ffn.gate.bias", DTYPE_F32, layers[5].router_bias);
    same_bytes(whole, "layers.3.attn.wq_b.weight", DTYPE_F8_E4M3, layers[3].attn.query_up.data);
    same_bytes(whole, "layers.3.attn.wq_b.scale", DTYPE_F8_E8M0, layers[3].attn.query_up.scale);
    same_bytes(whole, "layers.3.attn.compressor.ape", DTYPE_F32, layers[3].attn.compressor.ape);
    same_bytes(whole, "layers.4.attn.indexer.compressor.wgate.weight", DTYPE_BF16,
               layers[4].attn.indexer.compressor.gates.data);
    same_bytes(whole, "layers.1.ffn.shared_experts.w2.weight", DTYPE_F8_E4M3,
               layers[1].shared_down.data);
    same_bytes(whole, "mtp.0.attn.attn_sink", DTYPE_F32, layers[6].attn.sink);
    same_bytes(whole, "mtp.0.enorm.weight", DTYPE_BF16, model->mtp.embed_norm);
    assert_null(layers[0].router_bias);
    assert_null(layers[6].token_experts);
    assert_int_equal(layers[3].ratio, 128);
    assert_true(layers[0].frequencies == layers[6].frequencies);
    assert_true(layers[2].frequencies == layers[3].frequencies);
    assert_true(layers[0].frequencies[1] != layers[2].frequencies[1]);
    assert_int_equal(layers[2].attn.compressor.keys.rows, 256);
    assert_int_equal(layers[3].attn.compressor.keys.rows, 128);
    model_close(model);
}

static void experts_are_located_part_by_part(void **state)
{
    static const char *const parts[EXPERT_PARTS] = {"w1.weight", "w1.scale",  "w3.weight",
                                                    "w3.scale",  "w2.weight", "w2.scale"};
    struct model *model = open_model(whole, true);
    const struct expert_source *source = &model->experts;
    struct safetensors *shards[3];
    (void)state;
    assert_int_equal(source->layers, 7);
    assert_int_equal(source->experts, 16);
    assert_int_equal(source->file_count, 3);
    for (int i = 0; i < 3; i++)
        assert_int_equal(safetensors_open(source->files[i].path, &shards[i], NULL), SL_OK);
    for (int at = 0; at < 7 * 16 * EXPERT_PARTS; at++) {
        const struct expert_segment *segment = &source->segments[at];
        int layer = at / (16 * EXPERT_PARTS), part = at % EXPERT_PARTS;
        char owner[32], name[96];
        snprintf(owner, sizeof owner, layer < 6 ? "layers.%d" : "mtp.%d", layer % 6);
        snprintf(name, sizeof name, "%s.ffn.experts.%d.%s", owner, at / EXPERT_PARTS % 16,
                 parts[part]);
        const struct safetensors_tensor *tensor = safetensors_find(shards[segment->file], name);
        assert_non_null(tensor);
        assert_int_equal(segment->offset_bytes, tensor->offset_bytes);
        assert_int_equal(segment->bytes, tensor->bytes);
        assert_int_equal(segment->slot_offset_bytes, model->expert_layout.offset_bytes[part]);
    }
    for (int i = 0; i < 3; i++)
        safetensors_close(shards[i]);
    model_close(model);
}

static void without_mtp_the_block_is_checked_but_not_bound(void **state)
{
    struct model *model = open_model(whole, false);
    (void)state;
    assert_false(model->mtp.present);
    assert_int_equal(model->config.mtp_layers, 1);
    assert_int_equal(model->experts.layers, 6);
    assert_int_equal(model->skipped_tensors, 0);
    model_close(model);
    char *copy = checkpoint_copy(whole);
    char *shard = checkpoint_shard_of(copy, "mtp.0.norm.weight");
    checkpoint_edit_header(copy, shard, "\"mtp.0.norm.weight\"", "\"mtp.0.norm.other\"");
    free(shard);
    refused(copy, SL_ERR_FORMAT, "mtp.0.norm.weight: expected BF16 [256]", "found none");
}

static void a_checkpoint_without_mtp_tensors_opens(void **state)
{
    char *copy = checkpoint_copy(whole);
    (void)state;
    checkpoint_edit_text(copy, "config.json", "\"num_nextn_predict_layers\": 1",
                         "\"num_nextn_predict_layers\": 0");
    checkpoint_edit_text(copy, "config.json", "  128,\n  0\n ]", "  128\n ]");
    struct model *model = open_model(copy, true);
    assert_false(model->mtp.present);
    assert_true(model->skipped_tensors > 100);
    assert_int_equal(model->unknown_tensors, 0);
    model_close(model);
    test_remove_tree(copy);
    free(copy);
}

static void the_later_drafter_is_skipped_and_counted(void **state)
{
    char *copy = checkpoint_copy(whole);
    (void)state;
    checkpoint_edit_text(copy, "config.json", "\"hc_mult\"",
                         "\"dspark_block_size\": 5, \"hc_mult\"");
    checkpoint_edit_text(copy, "config.json", "  128,\n  0\n ]", "  128,\n  0, 0, 0\n ]");
    struct model *model = open_model(copy, true);
    assert_true(model->config.drafter_0731);
    assert_false(model->mtp.present);
    assert_true(model->skipped_tensors > 100);
    model_close(model);
    test_remove_tree(copy);
    free(copy);
}

static void tensors_that_nobody_needs_are_counted(void **state)
{
    char *copy = checkpoint_copy(whole);
    (void)state;
    checkpoint_edit_header(copy, FIRST_SHARD, "{\"__metadata__\":",
                           "{\"extra.weight\":{\"dtype\":\"F16\",\"shape\":[0],\"data_offsets\":"
                           "[0,0]},\"__metadata__\":");
    struct model *model = open_model(copy, true);
    assert_int_equal(model->unknown_tensors, 1);
    model_close(model);
    test_remove_tree(copy);
    free(copy);
}

static void one_file_without_an_index_opens(void **state)
{
    char *copy = checkpoint_copy(whole);
    (void)state;
    struct model *apart = open_model(whole, true);
    checkpoint_merge(copy);
    struct model *model = open_model(copy, true);
    assert_int_equal(model->experts.file_count, 1);
    assert_int_equal(model->dense_bytes, apart->dense_bytes);
    assert_memory_equal(model->head.data, apart->head.data, 512 * 256 * 2);
    model_close(model);
    model_close(apart);
    test_remove_tree(copy);
    free(copy);
}

/* ---- damaged checkpoints ------------------------------------------------------------------ */

static void a_directory_without_a_checkpoint_says_so(void **state)
{
    char *empty = test_make_directory("empty");
    char *copy = checkpoint_copy(whole);
    char *config = test_path(copy, "config.json");
    char *alone = test_make_directory("alone");
    char *alone_config = test_path(alone, "config.json");
    size_t bytes;
    (void)state;
    char *text = test_read_file(config, &bytes);
    test_write_file(alone_config, text, bytes);
    free(text);
    free(alone_config);
    free(config);
    refused(empty, SL_ERR_IO, "holds no checkpoint", "expected a config.json in it, found none");
    refused(strdup("/nonexistent-directory"), SL_ERR_IO, "/nonexistent-directory",
            "holds no checkpoint");
    refused(test_path(copy, FIRST_SHARD), SL_ERR_IO, FIRST_SHARD, "holds no checkpoint");
    refused(alone, SL_ERR_IO, "holds no checkpoint", "found neither");
    test_remove_tree(copy);
    free(copy);
}

static void files_that_end_early_are_refused(void **state)
{
    static const char *const names[] = {"config.json", INDEX_NAME, FIRST_SHARD};
    static const char *const words[] = {"the file is empty", "found an empty file",
                                        "at least 8 bytes, found 0"};
    char *copy = checkpoint_copy(whole);
    char *path = test_path(copy, FIRST_SHARD);
    struct stat status;
    (void)state;
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(truncate(path, status.st_size - 1), 0);
    free(path);
    refused(copy, SL_ERR_FORMAT, FIRST_SHARD, "cut short");
    for (size_t i = 0; i < SL_COUNT_OF(names); i++) {
        copy = checkpoint_copy(whole);
        path = test_path(copy, names[i]);
        test_write_file(path, "", 0);
        free(path);
        refused(copy, SL_ERR_FORMAT, names[i], words[i]);
    }
}

static void a_header_longer_than_its_file_is_refused(void **state)
{
    char *copy = checkpoint_copy(whole);
    char *path = test_path(copy, FIRST_SHARD);
    int fd = open(path, O_WRONLY);
    uint64_t length = 1u << 30;
    (void)state;
    assert_int_equal(pwrite(fd, &length, 8, 0), 8);
    close(fd);
    free(path);
    refused(copy, SL_ERR_FORMAT, FIRST_SHARD, "expected a header of 1073741824 bytes, found");
}

static void wrong_json_is_refused_with_its_file(void **state)
{
    char *copy = checkpoint_copy(whole);
    (void)state;
    checkpoint_edit_text(copy, "config.json", "{", "[");
    refused(copy, SL_ERR_FORMAT, "config.json", "expected JSON");
    copy = checkpoint_copy(whole);
    checkpoint_edit_text(copy, INDEX_NAME, "}", "");
    refused(copy, SL_ERR_FORMAT, INDEX_NAME, "found an error");
    copy = checkpoint_copy(whole);
    checkpoint_edit_text(copy, INDEX_NAME, "weight_map", "weights");
    refused(copy, SL_ERR_FORMAT, INDEX_NAME, "weight_map");
    copy = checkpoint_copy(whole);
    checkpoint_edit_header(copy, FIRST_SHARD, ":", ";");
    refused(copy, SL_ERR_FORMAT, FIRST_SHARD, "not a JSON object");
    copy = checkpoint_copy(whole);
    checkpoint_edit_text(copy, "config.json", "\"hidden_size\": 256", "\"hidden_size\": -256");
    refused(copy, SL_ERR_FORMAT, "hidden_size", "found -256");
}

static void an_index_may_only_name_files_beside_it(void **state)
{
    static const char *const names[] = {"../x.safetensors", "/etc/passwd", "", ".hidden", "a/b"};
    char *copy;
    (void)state;
    for (size_t i = 0; i < SL_COUNT_OF(names); i++) {
        copy = checkpoint_copy(whole);
        checkpoint_edit_text(copy, INDEX_NAME, FIRST_SHARD, names[i]);
        refused(copy, SL_ERR_FORMAT, "tensor embed.weight: expected the name of a file", names[i]);
    }
    copy = checkpoint_copy(whole);
    checkpoint_edit_text(copy, INDEX_NAME, "\"" FIRST_SHARD "\"", "17");
    refused(copy, SL_ERR_FORMAT, "tensor embed.weight: expected the name of a file", "no string");
    copy = checkpoint_copy(whole);
    checkpoint_edit_text(copy, INDEX_NAME, FIRST_SHARD, "absent.safetensors");
    refused(copy, SL_ERR_IO, "absent.safetensors is missing", "download is incomplete");
}

static void a_missing_tensor_is_named_with_its_file(void **state)
{
    char *copy = checkpoint_copy(whole);
    char *shard = checkpoint_shard_of(copy, "layers.2.attn.wkv.weight");
    (void)state;
    checkpoint_edit_header(copy, shard, "layers.2.attn.wkv.weight", "layers.2.attn.wkv.height");
    refused(copy, SL_ERR_FORMAT, shard,
            "tensor layers.2.attn.wkv.weight: expected F8_E4M3 [128, 256], found none");
    free(shard);
    copy = checkpoint_copy(whole);
    checkpoint_edit_text(copy, INDEX_NAME, "layers.3.ffn.experts.9.w2.scale", "other");
    refused(copy, SL_ERR_FORMAT, copy,
            "layers.3.ffn.experts.9.w2.scale: expected F8_E8M0 [256, 4], found none");
}

/* The header entry of a tensor up to its offsets is changed from `find` to `replacement`. */
static void mistyped(const char *find, const char *replacement, const char *tensor,
                     const char *words)
{
    char *copy = checkpoint_copy(whole);
    char *shard = checkpoint_shard_of(copy, tensor);
    checkpoint_edit_header(copy, shard, find, replacement);
    refused(copy, SL_ERR_FORMAT, shard, words);
    free(shard);
}

static void a_wrong_dtype_or_shape_is_named_with_what_was_expected(void **state)
{
    (void)state;
    mistyped("attn.wq_a.weight\":{\"dtype\":\"F8_E4M3\"", "attn.wq_a.weight\":{\"dtype\":\"I8\"",
             "layers.0.attn.wq_a.weight",
             "layers.0.attn.wq_a.weight: expected F8_E4M3 [128, 256], found I8 [128, 256]");
    mistyped("embed.weight\":{\"dtype\":\"BF16\"", "embed.weight\":{\"dtype\":\"F16\"",
             "embed.weight", "embed.weight: expected BF16 [512, 256], found F16 [512, 256]");
    mistyped("wq_a.weight\":{\"dtype\":\"F8_E4M3\",\"shape\":[128,256]",
             "wq_a.weight\":{\"dtype\":\"F8_E4M3\",\"shape\":[256,128]",
             "layers.0.attn.wq_a.weight", "expected F8_E4M3 [128, 256], found F8_E4M3 [256, 128]");
    mistyped("embed.weight\":{\"dtype\":\"BF16\",\"shape\":[512,256]",
             "embed.weight\":{\"dtype\":\"BF16\",\"shape\":[131072]", "embed.weight",
             "expected BF16 [512, 256], found BF16 [131072]");
    mistyped("embed.weight\":{\"dtype\":\"BF16\",\"shape\":[512,256]",
             "embed.weight\":{\"dtype\":\"BF16\",\"shape\":[512,255]", "embed.weight",
             "tensor embed.weight: expected 261120 bytes");
}

static void a_table_that_names_no_expert_is_refused(void **state)
{
    char *copy = checkpoint_copy(whole);
    char *path = test_path(copy, FIRST_SHARD);
    struct safetensors *file = NULL;
    int64_t wrong = 16;
    (void)state;
    assert_int_equal(safetensors_open(path, &file, NULL), SL_OK);
    uint64_t offset = safetensors_find(file, "layers.0.ffn.gate.tid2eid")->offset_bytes;
    safetensors_close(file);
    int fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, &wrong, 8, (off_t)(offset + 8 * (4 * 511 + 3))), 8);
    close(fd);
    free(path);
    refused(copy, SL_ERR_FORMAT, FIRST_SHARD,
            "tensor layers.0.ffn.gate.tid2eid: token 511: expected experts from 0 to 15, found 16");
}

static void what_is_no_readable_file_is_refused(void **state)
{
    static const char *const names[] = {"config.json", INDEX_NAME, FIRST_SHARD};
    (void)state;
    for (size_t i = 0; i < SL_COUNT_OF(names); i++) {
        char *copy = checkpoint_copy(whole);
        char *path = test_path(copy, names[i]);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(mkdir(path, 0755), 0);
        free(path);
        refused(copy, SL_ERR_FORMAT, names[i], "expected a regular file, found a directory");
    }
    for (size_t i = 0; i < SL_COUNT_OF(names) && geteuid() != 0; i++) {
        char *copy = checkpoint_copy(whole);
        char *path = test_path(copy, names[i]);
        assert_int_equal(chmod(path, 0), 0);
        free(path);
        refused(copy, SL_ERR_IO, names[i], "Permission denied");
    }
}

static bool stop_after(void *context, const char *what, uint64_t done, uint64_t total)
{
    int *left = context;
    assert_non_null(what);
    assert_true(done <= total);
    return (*left)-- > 0;
}

static void opening_can_be_cancelled_at_every_step(void **state)
{
    int left = 0, steps = 0;
    struct model_open_options options = {
        .directory = whole, .read_dense = true, .progress = stop_after, .progress_context = &left};
    struct model *model = NULL;
    struct sl_error error = {0};
    enum sl_status status;
    (void)state;
    do {
        left = steps++;
        status = model_open(&options, &model, &error);
        assert_true(status == SL_OK || status == SL_ERR_CANCELLED);
    } while (status != SL_OK && steps < 1000);
    assert_true(steps > 100 && steps < 1000);
    model_close(model);
}

/* ---- files in use ------------------------------------------------------------------------- */

static void a_file_cut_while_in_use_is_reported_not_fatal(void **state)
{
    char *copy = checkpoint_copy(whole);
    char *path = test_path(copy, FIRST_SHARD);
    struct model_open_options options = {.directory = copy};
    struct model *model = NULL;
    struct sl_error error = {0};
    uint32_t sum = 0;
    (void)state;
    assert_int_equal(model_open(&options, &model, NULL), SL_OK);
    assert_int_equal(model_check_unchanged(model, &error), SL_OK);
    const volatile uint8_t *embed = model->embed.data;
    assert_int_equal(truncate(path, 4096), 0);
    for (size_t i = 0; i < 512 * 256 * 2; i++)
        sum |= i >= 4096 ? embed[i] : 0u;
    assert_int_equal(sum, 0);
    assert_int_equal(model_check_unchanged(model, &error), SL_ERR_IO);
    assert_non_null(strstr(error.message, path));
    assert_non_null(strstr(error.message, "found 4096"));
    uint64_t hash;
    assert_int_equal(model_fingerprint(model, &hash, &error), SL_ERR_IO);
    model_close(model);
    test_remove_tree(copy);
    free(path);
    free(copy);
}

static void a_file_written_to_while_in_use_is_reported(void **state)
{
    char *copy = checkpoint_copy(whole);
    char *path = test_path(copy, "model-00003-of-00003.safetensors");
    struct model *model = open_model(copy, false);
    struct sl_error error = {0};
    const struct timespec times[2] = {{1000, 0}, {1000, 0}};
    (void)state;
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    assert_int_equal(model_check_unchanged(model, &error), SL_ERR_IO);
    assert_non_null(strstr(error.message, path));
    assert_non_null(strstr(error.message, "written to"));
    model_close(model);
    test_remove_tree(copy);
    free(path);
    free(copy);
}

/* ---- identity ----------------------------------------------------------------------------- */

static uint64_t fingerprint_of(const char *directory)
{
    struct model *model = open_model(directory, false);
    struct sl_error error = {0};
    uint64_t hash = 0;
    if (model_fingerprint(model, &hash, &error) != SL_OK) fail_msg("%s", error.message);
    model_close(model);
    return hash;
}

static void the_fingerprint_follows_the_content_not_the_place(void **state)
{
    char *copy = checkpoint_copy(whole);
    char *path = test_path(copy, "model-00002-of-00003.safetensors");
    struct stat status;
    uint64_t hash = fingerprint_of(whole);
    (void)state;
    assert_int_equal(fingerprint_of(copy), hash);
    assert_int_equal(stat(path, &status), 0);
    int fd = open(path, O_RDWR);
    uint8_t last;
    assert_int_equal(pread(fd, &last, 1, status.st_size - 1), 1);
    last ^= 1;
    assert_int_equal(pwrite(fd, &last, 1, status.st_size - 1), 1);
    assert_int_not_equal(fingerprint_of(copy), hash);
    last ^= 1;
    assert_int_equal(pwrite(fd, &last, 1, status.st_size - 1), 1);
    assert_int_equal(fingerprint_of(copy), hash);
    assert_int_equal(ftruncate(fd, status.st_size + 1), 0);
    assert_int_not_equal(fingerprint_of(copy), hash);
    assert_int_equal(ftruncate(fd, status.st_size), 0);
    checkpoint_edit_text(copy, "config.json", "\"hc_mult\"", " \"hc_mult\"");
    assert_int_not_equal(fingerprint_of(copy), hash);
    close(fd);
    test_remove_tree(copy);
    free(path);
    free(copy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_are_bound_to_their_bytes_aligned),
        cmocka_unit_test(experts_are_located_part_by_part),
        cmocka_unit_test(without_mtp_the_block_is_checked_but_not_bound),
        cmocka_unit_test(a_checkpoint_without_mtp_tensors_opens),
        cmocka_unit_test(the_later_drafter_is_skipped_and_counted),
        cmocka_unit_test(tensors_that_nobody_needs_are_counted),
        cmocka_unit_test(one_file_without_an_index_opens),
        cmocka_unit_test(a_directory_without_a_checkpoint_says_so),
        cmocka_unit_test(files_that_end_early_are_refused),
        cmocka_unit_test(a_header_longer_than_its_file_is_refused),
        cmocka_unit_test(wrong_json_is_refused_with_its_file),
        cmocka_unit_test(an_index_may_only_name_files_beside_it),
        cmocka_unit_test(a_missing_tensor_is_named_with_its_file),
        cmocka_unit_test(a_wrong_dtype_or_shape_is_named_with_what_was_expected),
        cmocka_unit_test(a_table_that_names_no_expert_is_refused),
        cmocka_unit_test(what_is_no_readable_file_is_refused),
        cmocka_unit_test(opening_can_be_cancelled_at_every_step),
        cmocka_unit_test(a_file_cut_while_in_use_is_reported_not_fatal),
        cmocka_unit_test(a_file_written_to_while_in_use_is_reported),
        cmocka_unit_test(the_fingerprint_follows_the_content_not_the_place),
    };
    return cmocka_run_group_tests(tests, make_whole, remove_whole);
}
