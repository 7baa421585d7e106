/* Golden vectors; see the header. */
#include "tests/support_golden.h"

#include "kernels/lowp.h"
#include "runtime/safetensors.h"
#include "tests/support.h"

#include <jansson.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

char *golden_directory(const char *model)
{
    const char *base = getenv("SLUICE_GOLDEN_MODEL");
    return test_path(base && *base ? base : "tests/golden/model", model);
}

static float element(const uint8_t *data, enum dtype dtype, size_t idx)
{
    float f;
    uint16_t half;
    int32_t i32;
    int64_t i64;
    switch (dtype) {
    case DTYPE_F32: memcpy(&f, data + 4 * idx, sizeof f); return f;
    case DTYPE_BF16: memcpy(&half, data + 2 * idx, sizeof half); return bf16_decode(half);
    case DTYPE_I32: memcpy(&i32, data + 4 * idx, sizeof i32); return (float)i32;
    case DTYPE_I64: memcpy(&i64, data + 8 * idx, sizeof i64); return (float)i64;
    case DTYPE_I8: return (float)(int8_t)data[idx];
    case DTYPE_F8_E4M3: return e4m3_decode(data[idx]);
    case DTYPE_F8_E8M0: return e8m0_decode(data[idx]);
    }
    fail_msg("unknown element type %d", (int)dtype);
    return 0;
}

bool golden_read(const char *directory, const char *sequence, const char *suffix, const char *name,
                 struct golden_tensor *out)
{
    struct safetensors *file;
    struct sl_error error;
    char *path = NULL;
    size_t bytes;
    *out = (struct golden_tensor){0};
    if (asprintf(&path, "%s/golden/%s.%s.safetensors", directory, sequence, suffix) < 0)
        fail_msg("out of memory");
    if (access(path, F_OK) != 0) {
        free(path);
        return false;
    }
    if (safetensors_open(path, &file, &error) != SL_OK) fail_msg("%s", error.message);
    const struct safetensors_tensor *tensor = safetensors_find(file, name);
    if (tensor) {
        char *all = test_read_file(path, &bytes);
        const uint8_t *data = (const uint8_t *)all + tensor->offset_bytes;
        size_t count = tensor->bytes / dtype_bytes(tensor->dtype);
        out->rows = tensor->rank ? tensor->shape[0] : 1;
        out->width = out->rows ? (int64_t)count / out->rows : 0;
        out->data = malloc(sizeof(float) * (count + 1));
        assert_non_null(out->data);
        for (size_t i = 0; i < count; i++)
            out->data[i] = element(data, tensor->dtype, i);
        free(all);
    }
    bool found = tensor != NULL;
    safetensors_close(file);
    free(path);
    return found;
}

int32_t golden_sequences(const char *directory, struct golden_sequence *out, int32_t max)
{
    char *path = test_path(directory, "golden/tokens.json");
    json_error_t error;
    json_t *root = json_load_file(path, 0, &error);
    const char *name;
    json_t *list;
    int32_t count = 0;
    if (!root) fail_msg("%s: %s", path, error.text);
    json_object_foreach(root, name, list)
    {
        assert_true(count < max);
        struct golden_sequence *sequence = &out[count++];
        snprintf(sequence->name, sizeof sequence->name, "%s", name);
        sequence->count = (int32_t)json_array_size(list);
        sequence->ids = malloc(sizeof(int32_t) * (json_array_size(list) + 1));
        assert_non_null(sequence->ids);
        for (int32_t i = 0; i < sequence->count; i++)
            sequence->ids[i] = (int32_t)json_integer_value(json_array_get(list, (size_t)i));
    }
    json_decref(root);
    free(path);
    return count;
}

int32_t golden_argmax(const float *x, int64_t count)
{
    int32_t best = 0;
    for (int32_t i = 1; i < count; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

float golden_lead(const float *x, int64_t count)
{
    int32_t best = golden_argmax(x, count);
    float second = -INFINITY;
    for (int32_t i = 0; i < count; i++)
        if (i != best && x[i] > second) second = x[i];
    return x[best] - second;
}
