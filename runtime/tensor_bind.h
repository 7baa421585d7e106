/* Binds weights by name, shape and dtype.
 *
 * The first failure sticks in `status`: every later call does nothing and returns NULL or zeros,
 * so a list of bindings reads as a list and is checked once at its end. One thread. */
#ifndef SLUICE_RUNTIME_TENSOR_BIND_H
#define SLUICE_RUNTIME_TENSOR_BIND_H

#include "runtime/model_files.h"

struct tensor_binder {
    struct model_files *files;
    struct sl_error *error; /* may be NULL */
    enum sl_status status;
    bool check_only; /* check names, shapes and dtypes; hand out nothing */
    char prefix[64]; /* "layers.3." or "" */
    uint64_t dense_bytes, copied_bytes;
};

/* The tensor prefix + name, checked; `columns` 0 means rank 1. Nothing is placed. */
struct checkpoint_tensor tensor_bind_find(struct tensor_binder *binder, const char *name,
                                          enum dtype dtype, int64_t rows, int64_t columns);

/* Address of its data, or NULL after a failure and with check_only. */
const void *tensor_bind_array(struct tensor_binder *binder, const char *name, enum dtype dtype,
                              int64_t rows, int64_t columns);

/* A matrix: `name` as it stands for f32, `name`.weight for bf16, `name`.weight and .scale for fp8.
 */
struct matrix tensor_bind_matrix(struct tensor_binder *binder, const char *name,
                                 enum matrix_format format, int32_t rows, int32_t columns);

#endif
