/* The index file, the shards it names, and lookup; see the header. */
#include "runtime/checkpoint_index.h"
#include "runtime/text_file.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

#define INDEX_NAME      "model.safetensors.index.json"
#define SINGLE_NAME     "model.safetensors"
#define INDEX_BYTES_MAX (256u << 20)

static enum sl_status no_memory(struct sl_error *error)
{
    return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for the checkpoint's index");
}

/* ---- names of shards ---------------------------------------------------------------------- */

/* A shard lies in the checkpoint's own directory: no path, nothing hidden. */
static bool is_plain_name(const char *name)
{
    return name[0] && name[0] != '.' && !strchr(name, '/');
}

static int compare_names(const void *left, const void *right)
{
    return strcmp(*(const char *const *)left, *(const char *const *)right);
}

/* Distinct file names in the values of the weight map, as keys of a new object. */
static enum sl_status collect_names(json_t *weight_map, const char *path, json_t **names,
                                    struct sl_error *error)
{
    const char *key;
    json_t *value;
    json_t *found = json_object();
    if (!found) return no_memory(error);
    json_object_foreach(weight_map, key, value)
    {
        const char *name = json_string_value(value);
        enum sl_status status = SL_OK;
        if (!name || !is_plain_name(name))
            status = sl_error_set(error, SL_ERR_FORMAT, 0,
                                  "%s: weight_map: tensor %s: expected the name of a file in the "
                                  "same directory, found %s",
                                  path, key, name ? name : "no string");
        else if (!json_object_get(found, name) && json_object_set_new(found, name, json_null()))
            status = no_memory(error);
        else if (json_object_size(found) > CHECKPOINT_FILES_MAX)
            status = sl_error_set(error, SL_ERR_LIMIT, 0,
                                  "%s: expected at most %d files, found "
                                  "more",
                                  path, CHECKPOINT_FILES_MAX);
        if (status != SL_OK) {
            json_decref(found);
            return status;
        }
    }
    *names = found;
    return SL_OK;
}

/* Turns file names in the weight map into numbers of files, ascending by name. */
static enum sl_status number_files(struct checkpoint_index *index, json_t *names,
                                   struct sl_error *error)
{
    const char *sorted[CHECKPOINT_FILES_MAX];
    const char *key;
    json_t *value;
    int32_t count = 0;
    SL_ASSERT(json_object_size(names) <= CHECKPOINT_FILES_MAX);
    json_object_foreach(names, key, value) sorted[count++] = key;
    qsort(sorted, (size_t)count, sizeof sorted[0], compare_names);
    index->files = calloc((size_t)count + 1, sizeof *index->files);
    if (!index->files) return no_memory(error);
    index->file_count = count;
    for (int32_t i = 0; i < count; i++) {
        if (asprintf(&index->files[i].path, "%s/%s", index->directory, sorted[i]) < 0) {
            index->files[i].path = NULL;
            return no_memory(error);
        }
        if (json_object_set_new_nocheck(names, sorted[i], json_integer(i))) return no_memory(error);
    }
    void *at = json_object_iter(index->weight_map);
    for (; at; at = json_object_iter_next(index->weight_map, at)) {
        json_t *number = json_object_get(names, json_string_value(json_object_iter_value(at)));
        if (json_object_iter_set(index->weight_map, at, number)) return no_memory(error);
    }
    return SL_OK;
}

static enum sl_status parse_index(struct checkpoint_index *index, const char *path,
                                  const char *text, size_t bytes, struct sl_error *error)
{
    json_error_t json_error = {0};
    json_t *names = NULL;
    json_t *root = bytes ? json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &json_error) : NULL;
    json_t *weight_map = json_object_get(root, "weight_map");
    if (!json_is_object(weight_map) || json_object_size(weight_map) == 0) {
        json_decref(root);
        return sl_error_set(error, SL_ERR_FORMAT, 0,
                            "%s: expected a JSON object with a weight_map, found %s%s", path,
                            root    ? "something else"
                            : bytes ? "an error: "
                                    : "an empty file",
                            root || !bytes ? "" : json_error.text);
    }
    index->weight_map = json_incref(weight_map);
    json_decref(root);
    SL_TRY(collect_names(index->weight_map, path, &names, error));
    enum sl_status status = number_files(index, names, error);
    json_decref(names);
    return status;
}

/* ---- opening ------------------------------------------------------------------------------ */

static enum sl_status read_index(struct checkpoint_index *index, struct sl_error *error)
{
    struct sl_error read_error = {0};
    char *path = NULL, *text = NULL;
    size_t bytes = 0;
    if (asprintf(&path, "%s/%s", index->directory, INDEX_NAME) < 0) return no_memory(error);
    enum sl_status status = text_file_read(path, INDEX_BYTES_MAX, &text, &bytes, &read_error);
    if (status == SL_OK) {
        status = parse_index(index, path, text, bytes, error);
    } else if (read_error.os_errno == ENOENT) {
        status = SL_OK;
        index->files = calloc(1, sizeof *index->files);
        if (!index->files) {
            status = no_memory(error);
        } else {
            index->file_count = 1;
            if (asprintf(&index->files[0].path, "%s/%s", index->directory, SINGLE_NAME) < 0) {
                index->files[0].path = NULL;
                status = no_memory(error);
            }
        }
    } else if (error) {
        *error = read_error;
    }
    free(text);
    free(path);
    return status;
}

static enum sl_status open_file(const struct checkpoint_index *index, struct checkpoint_file *file,
                                struct sl_error *error)
{
    struct sl_error open_error = {0};
    enum sl_status status = safetensors_open(file->path, &file->header, &open_error);
    if (status != SL_OK) {
        if (open_error.os_errno == ENOENT && index->weight_map)
            return sl_error_set(error, status, ENOENT,
                                "%s is missing: " INDEX_NAME " names it; the download is "
                                "incomplete",
                                file->path);
        if (open_error.os_errno == ENOENT)
            return sl_error_set(error, status, ENOENT,
                                "%s holds no checkpoint: expected " INDEX_NAME " or " SINGLE_NAME
                                " in it, found neither",
                                index->directory);
        if (error) *error = open_error;
        return status;
    }
    file->used = calloc(safetensors_count(file->header) + 1, sizeof *file->used);
    return file->used ? SL_OK : no_memory(error);
}

enum sl_status checkpoint_index_open(const char *directory, struct checkpoint_index *out,
                                     struct sl_error *error)
{
    SL_ASSERT(directory && out);
    memset(out, 0, sizeof *out);
    out->directory = strdup(directory);
    enum sl_status status = out->directory ? read_index(out, error) : no_memory(error);
    for (int32_t i = 0; status == SL_OK && i < out->file_count; i++)
        status = open_file(out, &out->files[i], error);
    if (status != SL_OK) checkpoint_index_close(out);
    return status;
}

void checkpoint_index_close(struct checkpoint_index *index)
{
    for (int32_t i = 0; i < index->file_count; i++) {
        free(index->files[i].path);
        safetensors_close(index->files[i].header);
        free(index->files[i].used);
    }
    free(index->files);
    free(index->directory);
    json_decref(index->weight_map);
    memset(index, 0, sizeof *index);
}

/* ---- looking up --------------------------------------------------------------------------- */

bool checkpoint_index_find(struct checkpoint_index *index, const char *name,
                           struct checkpoint_tensor *out)
{
    SL_ASSERT(index->file_count > 0);
    *out = (struct checkpoint_tensor){NULL, 0};
    if (index->weight_map) {
        const json_t *number = json_object_get(index->weight_map, name);
        out->file = number ? (int32_t)json_integer_value(number) : -1;
        if (!number) return false;
    }
    SL_ASSERT(out->file >= 0 && out->file < index->file_count);
    struct checkpoint_file *holder = &index->files[out->file];
    out->tensor = safetensors_find(holder->header, name);
    if (out->tensor) holder->used[out->tensor - safetensors_at(holder->header, 0)] = true;
    return out->tensor != NULL;
}

bool checkpoint_index_has_prefix(const struct checkpoint_index *index, const char *prefix)
{
    for (int32_t i = 0; i < index->file_count; i++) {
        const struct safetensors *header = index->files[i].header;
        for (size_t k = 0; k < safetensors_count(header); k++)
            if (strncmp(safetensors_at(header, k)->name, prefix, strlen(prefix)) == 0) return true;
    }
    return false;
}

int32_t checkpoint_index_unused(const struct checkpoint_index *index, const char *prefix,
                                bool starts)
{
    int32_t count = 0;
    for (int32_t i = 0; i < index->file_count; i++) {
        const struct checkpoint_file *file = &index->files[i];
        for (size_t k = 0; k < safetensors_count(file->header); k++) {
            const char *name = safetensors_at(file->header, k)->name;
            if (!file->used[k] && (strncmp(name, prefix, strlen(prefix)) == 0) == starts) count++;
        }
    }
    return count;
}
