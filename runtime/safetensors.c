/* Safetensors headers: parsing, checking and looking up by name; see the header for ownership.
 *
 * All names and unknown dtype names live in one block; a table of hashes finds a tensor. */
#include "runtime/safetensors.h"
#include "runtime/text_file.h"

#include <jansson.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

struct safetensors {
    char *path;
    char *names; /* zero-terminated strings, one after another */
    struct safetensors_tensor *tensors;
    size_t count;
    uint32_t *slots; /* [slot_mask + 1]: tensor number + 1, or 0 */
    size_t slot_mask;
};

/* What a header is parsed against. */
struct header_place {
    const char *path;
    uint64_t data_start, data_bytes;
};

static const struct {
    const char *name;
    enum dtype dtype;
} dtype_names[] = {
    {"F32", DTYPE_F32},         {"BF16", DTYPE_BF16}, {"F8_E4M3", DTYPE_F8_E4M3},
    {"F8_E8M0", DTYPE_F8_E8M0}, {"I8", DTYPE_I8},     {"I32", DTYPE_I32},
    {"I64", DTYPE_I64},
};

const char *safetensors_dtype_name(enum dtype dtype)
{
    for (size_t i = 0; i < SL_COUNT_OF(dtype_names); i++)
        if (dtype_names[i].dtype == dtype) return dtype_names[i].name;
    return "of another type";
}

/* ---- one tensor --------------------------------------------------------------------------- */

static enum sl_status parse_shape(const struct header_place *place, const json_t *shape,
                                  struct safetensors_tensor *tensor, struct sl_error *error)
{
    if (!json_is_array(shape) || json_array_size(shape) > SAFETENSORS_RANK_MAX)
        return sl_error_set(error, SL_ERR_FORMAT, 0,
                            "%s: tensor %s: shape: expected a list of at most %d numbers, found %s",
                            place->path, tensor->name, SAFETENSORS_RANK_MAX,
                            json_is_array(shape) ? "a longer list" : "something else");
    tensor->rank = (int32_t)json_array_size(shape);
    for (int32_t i = 0; i < tensor->rank; i++) {
        const json_t *length = json_array_get(shape, (size_t)i);
        if (!json_is_integer(length) || json_integer_value(length) < 0)
            return sl_error_set(error, SL_ERR_FORMAT, 0,
                                "%s: tensor %s: shape: entry %d is not a whole number from 0 up",
                                place->path, tensor->name, (int)i);
        tensor->shape[i] = json_integer_value(length);
    }
    return SL_OK;
}

static enum sl_status parse_offsets(const struct header_place *place, const json_t *offsets,
                                    struct safetensors_tensor *tensor, struct sl_error *error)
{
    const json_t *first = json_array_get(offsets, 0);
    const json_t *last = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last))
        return sl_error_set(error, SL_ERR_FORMAT, 0,
                            "%s: tensor %s: data_offsets: expected two whole numbers", place->path,
                            tensor->name);
    json_int_t begin = json_integer_value(first);
    json_int_t end = json_integer_value(last);
    if (begin < 0 || end < begin)
        return sl_error_set(error, SL_ERR_FORMAT, 0,
                            "%s: tensor %s: data_offsets: expected 0 <= begin <= end, found [%lld, "
                            "%lld]",
                            place->path, tensor->name, (long long)begin, (long long)end);
    if ((uint64_t)end > place->data_bytes)
        return sl_error_set(error, SL_ERR_FORMAT, 0,
                            "%s: tensor %s ends at data byte %lld, but the file holds only %llu "
                            "data bytes: it is cut short (fetch it again) or damaged",
                            place->path, tensor->name, (long long)end,
                            (unsigned long long)place->data_bytes);
    tensor->offset_bytes = place->data_start + (uint64_t)begin;
    tensor->bytes = (uint64_t)(end - begin);
    return SL_OK;
}

/* The bytes that shape and dtype promise against those that the offsets give. */
static enum sl_status check_size(const struct header_place *place,
                                 const struct safetensors_tensor *tensor, struct sl_error *error)
{
    uint64_t expected = dtype_bytes(tensor->dtype);
    if (tensor->dtype == SAFETENSORS_DTYPE_OTHER) return SL_OK;
    for (int32_t i = 0; i < tensor->rank; i++)
        if (!checked_mul(expected, (uint64_t)tensor->shape[i], &expected))
            return sl_error_set(error, SL_ERR_FORMAT, 0,
                                "%s: tensor %s: the product of its shape overflows", place->path,
                                tensor->name);
    if (expected != tensor->bytes)
        return sl_error_set(error, SL_ERR_FORMAT, 0,
                            "%s: tensor %s: expected %llu bytes from shape and dtype %s, found "
                            "data_offsets of %llu bytes",
                            place->path, tensor->name, (unsigned long long)expected,
                            tensor->dtype_name, (unsigned long long)tensor->bytes);
    return SL_OK;
}

static enum sl_status parse_tensor(const struct header_place *place, const json_t *value,
                                   struct safetensors_tensor *tensor, struct sl_error *error)
{
    const char *dtype = json_string_value(json_object_get(value, "dtype"));
    if (!dtype)
        return sl_error_set(error, SL_ERR_FORMAT, 0,
                            "%s: tensor %s: expected an object with dtype, shape and data_offsets",
                            place->path, tensor->name);
    tensor->dtype = SAFETENSORS_DTYPE_OTHER;
    tensor->dtype_name = dtype;
    for (size_t i = 0; i < SL_COUNT_OF(dtype_names); i++) {
        if (strcmp(dtype, dtype_names[i].name) != 0) continue;
        tensor->dtype = dtype_names[i].dtype;
        tensor->dtype_name = dtype_names[i].name;
    }
    SL_TRY(parse_shape(place, json_object_get(value, "shape"), tensor, error));
    SL_TRY(parse_offsets(place, json_object_get(value, "data_offsets"), tensor, error));
    return check_size(place, tensor, error);
}

/* ---- the whole header --------------------------------------------------------------------- */

static bool is_tensor_key(const char *key)
{
    return strcmp(key, "__metadata__") != 0;
}

/* Counts tensors and the bytes of their names and unknown dtype names. */
static size_t measure_names(json_t *root, size_t *name_bytes)
{
    const char *key;
    json_t *value;
    size_t count = 0;
    *name_bytes = 0;
    json_object_foreach(root, key, value)
    {
        const char *dtype = json_string_value(json_object_get(value, "dtype"));
        if (!is_tensor_key(key)) continue;
        *name_bytes += strlen(key) + 1 + (dtype ? strlen(dtype) + 1 : 0);
        count++;
    }
    return count;
}

static enum sl_status read_tensors(struct safetensors *file, const struct header_place *place,
                                   json_t *root, struct sl_error *error)
{
    const char *key;
    json_t *value;
    size_t idx = 0;
    char *name = file->names;
    json_object_foreach(root, key, value)
    {
        struct safetensors_tensor *tensor = &file->tensors[idx];
        if (!is_tensor_key(key)) continue;
        SL_ASSERT(idx < file->count);
        tensor->name = name;
        name = stpcpy(name, key) + 1;
        SL_TRY(parse_tensor(place, value, tensor, error));
        if (tensor->dtype == SAFETENSORS_DTYPE_OTHER) {
            const char *borrowed = tensor->dtype_name;
            tensor->dtype_name = name;
            name = stpcpy(name, borrowed) + 1;
        }
        idx++;
    }
    SL_ASSERT(idx == file->count);
    return SL_OK;
}

static int compare_offsets(const void *left, const void *right)
{
    const struct safetensors_tensor *a = *(const struct safetensors_tensor *const *)left;
    const struct safetensors_tensor *b = *(const struct safetensors_tensor *const *)right;
    if (a->offset_bytes != b->offset_bytes) return a->offset_bytes < b->offset_bytes ? -1 : 1;
    return (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

static enum sl_status check_overlaps(const struct safetensors *file, struct sl_error *error)
{
    const struct safetensors_tensor **sorted = calloc(file->count + 1, sizeof *sorted);
    enum sl_status status = SL_OK;
    if (!sorted)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for the header of %s",
                            file->path);
    for (size_t i = 0; i < file->count; i++)
        sorted[i] = &file->tensors[i];
    qsort(sorted, file->count, sizeof *sorted, compare_offsets);
    for (size_t i = 1; i < file->count && status == SL_OK; i++) {
        const struct safetensors_tensor *a = sorted[i - 1];
        const struct safetensors_tensor *b = sorted[i];
        if (b->offset_bytes < a->offset_bytes + a->bytes)
            status = sl_error_set(error, SL_ERR_FORMAT, 0,
                                  "%s: tensors %s and %s overlap: the second starts at byte %llu, "
                                  "expected %llu or later",
                                  file->path, a->name, b->name, (unsigned long long)b->offset_bytes,
                                  (unsigned long long)(a->offset_bytes + a->bytes));
    }
    free(sorted);
    return status;
}

static size_t home_slot(const struct safetensors *file, const char *name)
{
    return (size_t)XXH3_64bits(name, strlen(name)) & file->slot_mask;
}

static void fill_slots(struct safetensors *file)
{
    for (size_t i = 0; i < file->count; i++) {
        size_t slot = home_slot(file, file->tensors[i].name);
        while (file->slots[slot])
            slot = (slot + 1) & file->slot_mask;
        file->slots[slot] = (uint32_t)(i + 1);
    }
}

static enum sl_status build(struct safetensors *file, const struct header_place *place,
                            json_t *root, struct sl_error *error)
{
    size_t name_bytes = 0;
    size_t slots = 4;
    file->count = measure_names(root, &name_bytes);
    SL_ASSERT(file->count < UINT32_MAX / 4);
    while (slots < 2 * file->count)
        slots *= 2;
    file->slot_mask = slots - 1;
    file->path = strdup(place->path);
    file->names = malloc(name_bytes + 1);
    file->tensors = calloc(file->count + 1, sizeof *file->tensors);
    file->slots = calloc(slots, sizeof *file->slots);
    if (!file->path || !file->names || !file->tensors || !file->slots)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for the header of %s",
                            place->path);
    SL_TRY(read_tensors(file, place, root, error));
    SL_TRY(check_overlaps(file, error));
    fill_slots(file);
    return SL_OK;
}

enum sl_status safetensors_parse(const char *header, size_t header_bytes, uint64_t data_start,
                                 uint64_t data_bytes, const char *path, struct safetensors **out,
                                 struct sl_error *error)
{
    struct header_place place = {path, data_start, data_bytes};
    json_error_t json_error;
    uint64_t end = 0;
    SL_ASSERT(path && out && (header || header_bytes == 0));
    SL_ASSERT(checked_add(data_start, data_bytes, &end));
    json_t *root =
        header_bytes ? json_loadb(header, header_bytes, JSON_REJECT_DUPLICATES, &json_error) : NULL;
    if (!json_is_object(root)) {
        bool parsed = root || header_bytes == 0;
        json_decref(root);
        return sl_error_set(error, SL_ERR_FORMAT, 0, "%s: the header is not a JSON object: %s",
                            path, parsed ? "something else was found" : json_error.text);
    }
    struct safetensors *file = calloc(1, sizeof *file);
    enum sl_status status =
        file ? build(file, &place, root, error)
             : sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for the header of %s", path);
    json_decref(root);
    if (status != SL_OK) {
        safetensors_close(file);
        return status;
    }
    *out = file;
    return SL_OK;
}

/* Checks the length that the first eight bytes claim against the file, then reads that header. */
static enum sl_status read_header(int fd, const char *path, uint64_t file_bytes, char **header,
                                  size_t *header_bytes, struct sl_error *error)
{
    uint8_t raw[8];
    uint64_t length = 0;
    if (file_bytes < sizeof raw)
        return sl_error_set(error, SL_ERR_FORMAT, 0,
                            "%s: expected a safetensors file of at least 8 bytes, found %llu: "
                            "fetch it again",
                            path, (unsigned long long)file_bytes);
    SL_TRY(text_file_read_at(fd, path, 0, raw, sizeof raw, error));
    for (int i = 7; i >= 0; i--)
        length = length << 8 | raw[i];
    if (length > file_bytes - sizeof raw)
        return sl_error_set(error, SL_ERR_FORMAT, 0,
                            "%s: expected a header of %llu bytes, found a file of %llu bytes: it "
                            "is cut short (fetch it again) or not a safetensors file",
                            path, (unsigned long long)length, (unsigned long long)file_bytes);
    if (length > SAFETENSORS_HEADER_BYTES_MAX)
        return sl_error_set(error, SL_ERR_FORMAT, 0,
                            "%s: expected a header of at most %u bytes, found %llu", path,
                            SAFETENSORS_HEADER_BYTES_MAX, (unsigned long long)length);
    *header = malloc((size_t)length + 1);
    *header_bytes = (size_t)length;
    if (!*header)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for the header of %s", path);
    return text_file_read_at(fd, path, sizeof raw, *header, (size_t)length, error);
}

enum sl_status safetensors_open(const char *path, struct safetensors **out, struct sl_error *error)
{
    int fd = -1;
    uint64_t file_bytes = 0;
    char *header = NULL;
    size_t header_bytes = 0;
    SL_ASSERT(path && out);
    SL_TRY(text_file_open(path, &fd, &file_bytes, error));
    enum sl_status status = read_header(fd, path, file_bytes, &header, &header_bytes, error);
    close(fd);
    if (status == SL_OK) {
        uint64_t data_start = 8 + (uint64_t)header_bytes;
        SL_ASSERT(data_start <= file_bytes);
        status = safetensors_parse(header, header_bytes, data_start, file_bytes - data_start, path,
                                   out, error);
    }
    free(header);
    return status;
}

void safetensors_close(struct safetensors *file)
{
    if (!file) return;
    free(file->path);
    free(file->names);
    free(file->tensors);
    free(file->slots);
    free(file);
}

/* ---- looking up --------------------------------------------------------------------------- */

const char *safetensors_path(const struct safetensors *file)
{
    return file->path;
}

size_t safetensors_count(const struct safetensors *file)
{
    return file->count;
}

const struct safetensors_tensor *safetensors_at(const struct safetensors *file, size_t idx)
{
    SL_ASSERT(idx < file->count);
    return &file->tensors[idx];
}

const struct safetensors_tensor *safetensors_find(const struct safetensors *file, const char *name)
{
    size_t slot = home_slot(file, name);
    while (file->slots[slot]) {
        const struct safetensors_tensor *tensor = &file->tensors[file->slots[slot] - 1];
        if (strcmp(tensor->name, name) == 0) return tensor;
        slot = (slot + 1) & file->slot_mask;
    }
    return NULL;
}
