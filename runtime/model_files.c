/* Files of an open checkpoint: opening, placing tensors, reading ahead, identity. */
#include "runtime/model_files.h"
#include "runtime/text_file.h"

#include <string.h>
#include <xxhash.h>

#define READ_PART_BYTES     (32u << 20) /* between two calls of progress */
#define FINGERPRINT_BYTES   (64u << 10) /* of data, at both ends of a shard */
#define CONFIG_BYTES_MAX    (16u << 20)
#define HEADER_LENGTH_BYTES 8

/* ---- opening ------------------------------------------------------------------------------ */

static enum sl_status open_all(struct model_files *files, const struct model_open_options *options,
                               struct sl_error *error)
{
    SL_TRY(checkpoint_index_open(options->directory, &files->index, error));
    int32_t count = files->index.file_count;
    files->maps = calloc((size_t)count, sizeof *files->maps);
    files->expert_files = calloc((size_t)count, sizeof *files->expert_files);
    if (!files->maps || !files->expert_files)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for %d files", (int)count);
    for (int32_t i = 0; i < count; i++) {
        const char *path = files->index.files[i].path;
        if (options->progress && !options->progress(options->progress_context, "opening files",
                                                    (uint64_t)i, (uint64_t)count))
            return sl_error_set(error, SL_ERR_CANCELLED, 0, "opening %s was cancelled",
                                options->directory);
        SL_TRY(dense_map_open(path, &files->maps[i], error));
        SL_TRY(io_file_open(path, options->want_direct, &files->expert_files[i], error));
        files->expert_file_count++;
    }
    return SL_OK;
}

enum sl_status model_files_open(const struct model_open_options *options, struct model_files **out,
                                struct sl_error *error)
{
    SL_ASSERT(options && options->directory && out);
    struct model_files *files = calloc(1, sizeof *files);
    if (!files) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for the model's files");
    enum sl_status status = open_all(files, options, error);
    if (status != SL_OK) {
        model_files_close(files);
        return status;
    }
    *out = files;
    return SL_OK;
}

void model_files_close(struct model_files *files)
{
    if (!files) return;
    for (int32_t i = 0; i < files->expert_file_count; i++)
        io_file_close(&files->expert_files[i]);
    for (int32_t i = 0; files->maps && i < files->index.file_count; i++)
        dense_map_close(&files->maps[i]);
    for (size_t i = 0; i < files->tensor_count; i++)
        free(files->tensors[i].copy);
    checkpoint_index_close(&files->index);
    free(files->maps);
    free(files->expert_files);
    free(files->segments);
    free(files->tensors);
    free(files->frequencies);
    free(files);
}

/* ---- dense tensors ------------------------------------------------------------------------ */

static bool grow_tensors(struct model_files *files)
{
    if (files->tensor_count < files->tensor_room) return true;
    size_t room = files->tensor_room ? 2 * files->tensor_room : 256;
    struct dense_tensor *grown = realloc(files->tensors, room * sizeof *grown);
    if (!grown) return false;
    files->tensors = grown;
    files->tensor_room = room;
    return true;
}

enum sl_status model_files_place(struct model_files *files, const struct checkpoint_tensor *tensor,
                                 size_t alignment, const void **data, struct sl_error *error)
{
    const struct safetensors_tensor *record = tensor->tensor;
    struct dense_map *map = &files->maps[tensor->file];
    struct dense_tensor placed = {NULL, record->offset_bytes, record->bytes, tensor->file};
    SL_ASSERT(alignment > 0 && record->bytes > 0);
    if (record->offset_bytes + record->bytes > map->bytes)
        return sl_error_set(error, SL_ERR_IO, 0,
                            "%s: tensor %s: expected data up to byte %llu, found %llu: the file "
                            "was cut while it was opened",
                            map->path, record->name,
                            (unsigned long long)(record->offset_bytes + record->bytes),
                            (unsigned long long)map->bytes);
    if (!grow_tensors(files))
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for the list of tensors");
    if (record->offset_bytes % alignment == 0) {
        *data = map->base + record->offset_bytes;
    } else {
        placed.copy = malloc((size_t)record->bytes);
        if (!placed.copy)
            return sl_error_set(error, SL_ERR_NO_MEMORY, 0,
                                "no memory for tensor %s (%llu bytes), copied because its place "
                                "in %s is not aligned",
                                record->name, (unsigned long long)record->bytes, map->path);
        enum sl_status status = text_file_read_at(map->fd, map->path, record->offset_bytes,
                                                  placed.copy, (size_t)record->bytes, error);
        if (status != SL_OK) {
            free(placed.copy);
            return status;
        }
        *data = placed.copy;
    }
    files->tensors[files->tensor_count++] = placed;
    return SL_OK;
}

enum sl_status model_files_read(const struct model_files *files,
                                const struct model_open_options *options, struct sl_error *error)
{
    uint64_t total = 0, done = 0;
    for (size_t i = 0; i < files->tensor_count; i++)
        if (!files->tensors[i].copy) total += files->tensors[i].bytes;
    for (size_t i = 0; i < files->tensor_count; i++) {
        const struct dense_tensor *tensor = &files->tensors[i];
        for (uint64_t at = 0; !tensor->copy && at < tensor->bytes; at += READ_PART_BYTES) {
            uint64_t left = tensor->bytes - at;
            uint64_t part = left < READ_PART_BYTES ? left : READ_PART_BYTES;
            if (options->progress &&
                !options->progress(options->progress_context, "reading dense weights", done, total))
                return sl_error_set(error, SL_ERR_CANCELLED, 0, "opening %s was cancelled",
                                    options->directory);
            SL_TRY(dense_map_touch(&files->maps[tensor->file], tensor->offset_bytes + at, part,
                                   error));
            done += part;
        }
    }
    SL_ASSERT(done == total);
    if (options->progress)
        (void)options->progress(options->progress_context, "reading dense weights", total, total);
    return SL_OK;
}

/* ---- identity ----------------------------------------------------------------------------- */

enum sl_status model_check_unchanged(const struct model *model, struct sl_error *error)
{
    SL_ASSERT(model && model->files);
    for (int32_t i = 0; i < model->files->index.file_count; i++)
        SL_TRY(dense_map_check(&model->files->maps[i], error));
    return SL_OK;
}

static enum sl_status hash_range(XXH3_state_t *state, const struct dense_map *map, uint64_t from,
                                 uint64_t to, uint8_t *buffer, struct sl_error *error)
{
    SL_ASSERT(from <= to && to <= map->bytes);
    while (from < to) {
        size_t part = to - from < FINGERPRINT_BYTES ? (size_t)(to - from) : FINGERPRINT_BYTES;
        SL_TRY(text_file_read_at(map->fd, map->path, from, buffer, part, error));
        XXH3_64bits_update(state, buffer, part);
        from += part;
    }
    return SL_OK;
}

/* Size, header, and the first and last bytes of data of one shard. */
static enum sl_status hash_shard(XXH3_state_t *state, const struct dense_map *map, uint8_t *buffer,
                                 struct sl_error *error)
{
    uint8_t size[8], length[HEADER_LENGTH_BYTES];
    uint64_t data_start = 0;
    for (int i = 0; i < 8; i++)
        size[i] = (uint8_t)(map->bytes >> (8 * i));
    XXH3_64bits_update(state, size, sizeof size);
    SL_TRY(text_file_read_at(map->fd, map->path, 0, length, sizeof length, error));
    for (int i = HEADER_LENGTH_BYTES - 1; i >= 0; i--)
        data_start = data_start << 8 | length[i];
    if (data_start > map->bytes - HEADER_LENGTH_BYTES)
        return sl_error_set(error, SL_ERR_IO, 0, "%s changed while in use: its header's length",
                            map->path);
    data_start += HEADER_LENGTH_BYTES;
    uint64_t data_bytes = map->bytes - data_start;
    uint64_t edge = data_bytes < FINGERPRINT_BYTES ? data_bytes : FINGERPRINT_BYTES;
    SL_TRY(hash_range(state, map, 0, data_start + edge, buffer, error));
    return hash_range(state, map, map->bytes - edge, map->bytes, buffer, error);
}

static enum sl_status hash_checkpoint(XXH3_state_t *state, const struct model_files *files,
                                      uint8_t *buffer, struct sl_error *error)
{
    char *path = NULL, *config = NULL;
    size_t config_bytes = 0;
    if (asprintf(&path, "%s/config.json", files->index.directory) < 0)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "out of memory");
    enum sl_status status = text_file_read(path, CONFIG_BYTES_MAX, &config, &config_bytes, error);
    if (status == SL_OK) XXH3_64bits_update(state, config, config_bytes);
    free(config);
    free(path);
    for (int32_t i = 0; status == SL_OK && i < files->index.file_count; i++)
        status = hash_shard(state, &files->maps[i], buffer, error);
    return status;
}

enum sl_status model_fingerprint(const struct model *model, uint64_t *out, struct sl_error *error)
{
    SL_ASSERT(model && model->files && out);
    XXH3_state_t *state = XXH3_createState();
    uint8_t *buffer = malloc(FINGERPRINT_BYTES);
    enum sl_status status;
    if (state && buffer) {
        XXH3_64bits_reset(state);
        status = hash_checkpoint(state, model->files, buffer, error);
        if (status == SL_OK) *out = XXH3_64bits_digest(state);
    } else {
        status = sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for the fingerprint");
    }
    free(buffer);
    XXH3_freeState(state);
    return status;
}
