/* Binding of single tensors; see the header. */
#include "runtime/tensor_bind.h"

#include <inttypes.h>
#include <string.h>

#define NAME_BYTES_MAX  192
#define SHAPE_BYTES_MAX 192

static void describe_shape(const int64_t *shape, int32_t rank, char *out)
{
    size_t used = 0;
    out[0] = 0;
    for (int32_t i = 0; i < rank && used < SHAPE_BYTES_MAX; i++)
        used += (size_t)snprintf(out + used, SHAPE_BYTES_MAX - used, "%s%" PRId64, i ? ", " : "",
                                 shape[i]);
}

static void refuse(struct tensor_binder *binder, const char *name,
                   const struct checkpoint_tensor *found, enum dtype dtype, const int64_t *shape,
                   int32_t rank)
{
    const struct checkpoint_index *index = &binder->files->index;
    char expected[SHAPE_BYTES_MAX], actual[SHAPE_BYTES_MAX];
    describe_shape(shape, rank, expected);
    if (found->tensor) {
        describe_shape(found->tensor->shape, found->tensor->rank, actual);
        binder->status = sl_error_set(
            binder->error, SL_ERR_FORMAT, 0, "%s: tensor %s: expected %s [%s], found %.32s [%s]",
            index->files[found->file].path, name, safetensors_dtype_name(dtype), expected,
            found->tensor->dtype_name, actual);
    } else {
        const char *place = found->file < 0 ? index->directory : index->files[found->file].path;
        binder->status = sl_error_set(binder->error, SL_ERR_FORMAT, 0,
                                      "%s: tensor %s: expected %s [%s], found none", place, name,
                                      safetensors_dtype_name(dtype), expected);
    }
}

struct checkpoint_tensor tensor_bind_find(struct tensor_binder *binder, const char *name,
                                          enum dtype dtype, int64_t rows, int64_t columns)
{
    const struct checkpoint_tensor none = {NULL, -1};
    const int64_t shape[2] = {rows, columns};
    struct checkpoint_tensor found;
    char full[NAME_BYTES_MAX];
    int32_t rank = columns ? 2 : 1;
    if (binder->status != SL_OK) return none;
    int length = snprintf(full, sizeof full, "%s%s", binder->prefix, name);
    SL_ASSERT(length > 0 && (size_t)length < sizeof full && rows > 0);
    bool matches = checkpoint_index_find(&binder->files->index, full, &found) &&
                   found.tensor->dtype == dtype && found.tensor->rank == rank &&
                   found.tensor->shape[0] == rows &&
                   (rank == 1 || found.tensor->shape[1] == columns);
    if (matches) return found;
    refuse(binder, full, &found, dtype, shape, rank);
    return none;
}

const void *tensor_bind_array(struct tensor_binder *binder, const char *name, enum dtype dtype,
                              int64_t rows, int64_t columns)
{
    struct checkpoint_tensor found = tensor_bind_find(binder, name, dtype, rows, columns);
    size_t alignment = dtype_bytes(dtype);
    const void *data = NULL;
    if (!found.tensor || binder->check_only) return NULL;
    binder->status = model_files_place(binder->files, &found, alignment, &data, binder->error);
    if (binder->status != SL_OK) return NULL;
    binder->dense_bytes += found.tensor->bytes;
    if (found.tensor->offset_bytes % alignment) binder->copied_bytes += found.tensor->bytes;
    return data;
}

struct matrix tensor_bind_matrix(struct tensor_binder *binder, const char *name,
                                 enum matrix_format format, int32_t rows, int32_t columns)
{
    struct matrix matrix = {.format = format, .rows = rows, .columns = columns};
    char weight[NAME_BYTES_MAX], scale[NAME_BYTES_MAX];
    snprintf(weight, sizeof weight, "%s.weight", name);
    snprintf(scale, sizeof scale, "%s.scale", name);
    switch (format) {
    case MATRIX_F32: matrix.data = tensor_bind_array(binder, name, DTYPE_F32, rows, columns); break;
    case MATRIX_BF16:
        matrix.data = tensor_bind_array(binder, weight, DTYPE_BF16, rows, columns);
        break;
    case MATRIX_FP8:
        matrix.data = tensor_bind_array(binder, weight, DTYPE_F8_E4M3, rows, columns);
        matrix.scale = tensor_bind_array(binder, scale, DTYPE_F8_E8M0, ceil_div_i32(rows, 128),
                                         ceil_div_i32(columns, 128));
        break;
    }
    return matrix;
}
