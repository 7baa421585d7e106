/* Making, copying and damaging checkpoints; see the header. */
#include "tests/support_checkpoint.h"
#include "runtime/safetensors.h"
#include "runtime/sl.h"
#include "tests/support.h"
#include "tests/support_golden.h"

#include <dirent.h>
#include <jansson.h>
#include <string.h>
#include <unistd.h>

#define INDEX_NAME "model.safetensors.index.json"

char *checkpoint_make(uint64_t seed)
{
    char *directory = test_make_directory("checkpoint");
    struct sl_error error = {0};
    if (sl_synth("tiny", directory, 0, seed, NULL, NULL, &error) != SL_OK)
        fail_msg("%s", error.message);
    return directory;
}

char *checkpoint_copy(const char *directory)
{
    char *copy = test_make_directory("checkpoint");
    DIR *stream = opendir(directory);
    const struct dirent *entry;
    assert_non_null(stream);
    while ((entry = readdir(stream))) {
        if (!strstr(entry->d_name, ".json") && !strstr(entry->d_name, ".safetensors")) continue;
        char *from = test_path(directory, entry->d_name);
        char *to = test_path(copy, entry->d_name);
        size_t bytes;
        char *data = test_read_file(from, &bytes);
        test_write_file(to, data, bytes);
        free(data);
        free(to);
        free(from);
    }
    closedir(stream);
    return copy;
}

char *checkpoint_copy_golden(const char *model)
{
    char *from = golden_directory(model);
    char *copy = checkpoint_copy(from);
    free(from);
    return copy;
}

/* `text` with the first occurrence replaced; heap memory. */
static char *replaced(const char *text, const char *find, const char *replacement)
{
    const char *at = strstr(text, find);
    char *result = NULL;
    if (!at) fail_msg("no '%s' to replace", find);
    if (asprintf(&result, "%.*s%s%s", (int)(at - text), text, replacement, at + strlen(find)) < 0)
        fail_msg("out of memory");
    return result;
}

void checkpoint_edit_text(const char *directory, const char *file, const char *find,
                          const char *replacement)
{
    char *path = test_path(directory, file);
    char *text = test_read_file(path, NULL);
    char *changed = replaced(text, find, replacement);
    test_write_file(path, changed, strlen(changed));
    free(changed);
    free(text);
    free(path);
}

/* Writes a safetensors file: header text and data. */
static void write_shard(const char *path, const char *header, const char *data, size_t data_bytes)
{
    uint64_t header_bytes = strlen(header);
    size_t bytes = 8 + (size_t)header_bytes + data_bytes;
    char *file = malloc(bytes);
    assert_non_null(file);
    memcpy(file, &header_bytes, 8);
    memcpy(file + 8, header, (size_t)header_bytes);
    memcpy(file + 8 + header_bytes, data, data_bytes);
    test_write_file(path, file, bytes);
    free(file);
}

void checkpoint_edit_header(const char *directory, const char *file, const char *find,
                            const char *replacement)
{
    char *path = test_path(directory, file);
    size_t bytes;
    uint64_t header_bytes;
    char *data = test_read_file(path, &bytes);
    memcpy(&header_bytes, data, 8);
    char *header = strndup(data + 8, (size_t)header_bytes);
    assert_non_null(header);
    char *changed = replaced(header, find, replacement);
    write_shard(path, changed, data + 8 + header_bytes, bytes - 8 - (size_t)header_bytes);
    free(changed);
    free(header);
    free(data);
    free(path);
}

char *checkpoint_shard_of(const char *directory, const char *tensor)
{
    char *path = test_path(directory, INDEX_NAME);
    json_t *root = json_load_file(path, 0, NULL);
    const char *name =
        json_string_value(json_object_get(json_object_get(root, "weight_map"), tensor));
    if (!name) fail_msg("no %s in %s", tensor, path);
    char *shard = strdup(name);
    json_decref(root);
    free(path);
    return shard;
}

void checkpoint_merge(const char *directory)
{
    char *index_path = test_path(directory, INDEX_NAME);
    char *merged_path = test_path(directory, "model.safetensors");
    json_t *header = json_object();
    char *data = NULL;
    size_t data_bytes = 0;
    for (int i = 1; i <= 3; i++) {
        char name[64];
        snprintf(name, sizeof name, "model-%05d-of-00003.safetensors", i);
        char *path = test_path(directory, name);
        struct safetensors *shard = NULL;
        size_t bytes;
        char *content = test_read_file(path, &bytes);
        assert_int_equal(safetensors_open(path, &shard, NULL), SL_OK);
        for (size_t k = 0; k < safetensors_count(shard); k++) {
            const struct safetensors_tensor *t = safetensors_at(shard, k);
            json_t *shape = json_array();
            for (int32_t d = 0; d < t->rank; d++)
                json_array_append_new(shape, json_integer(t->shape[d]));
            json_object_set_new(header, t->name,
                                json_pack("{s:s, s:o, s:[I, I]}", "dtype", t->dtype_name, "shape",
                                          shape, "data_offsets", (json_int_t)data_bytes,
                                          (json_int_t)(data_bytes + t->bytes)));
            data = realloc(data, data_bytes + (size_t)t->bytes);
            assert_non_null(data);
            memcpy(data + data_bytes, content + t->offset_bytes, (size_t)t->bytes);
            data_bytes += (size_t)t->bytes;
        }
        safetensors_close(shard);
        assert_int_equal(unlink(path), 0);
        free(content);
        free(path);
    }
    char *text = json_dumps(header, JSON_COMPACT);
    write_shard(merged_path, text, data, data_bytes);
    assert_int_equal(unlink(index_path), 0);
    free(text);
    json_decref(header);
    free(data);
    free(merged_path);
    free(index_path);
}
