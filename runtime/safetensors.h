/* Reads safetensors files: header, names, shapes, and where the data lies.
 *
 * Opening checks the whole header against the file's real size; nothing is allocated because the
 * header merely claims it. Names and records live as long as the struct. */
#ifndef SLUICE_RUNTIME_SAFETENSORS_H
#define SLUICE_RUNTIME_SAFETENSORS_H

#include "kernels/base.h"

#define SAFETENSORS_RANK_MAX         8
#define SAFETENSORS_HEADER_BYTES_MAX (256u << 20)

/* In place of a dtype that we do not know: equal to none of the list, dtype_bytes is 0. */
#define SAFETENSORS_DTYPE_OTHER ((enum dtype)0xff)

struct safetensors_tensor {
    const char *name;
    const char *dtype_name; /* as written in the file */
    enum dtype dtype;       /* or SAFETENSORS_DTYPE_OTHER: such a tensor cannot be used */
    int32_t rank;
    int64_t shape[SAFETENSORS_RANK_MAX];
    uint64_t offset_bytes; /* of the data, from the start of the file */
    uint64_t bytes;        /* == product of shape * element size, if the dtype is known */
};

struct safetensors;

/* Parses a header held in memory: `header` is the JSON text, `data_bytes` the bytes that follow it
 * in the file, `data_start` their offset. `path` is for messages. Tensors of a dtype we do not know
 * are an error only when somebody asks for them; overlapping, out-of-range or wrongly sized ones
 * always. */
SL_MUST_USE enum sl_status safetensors_parse(const char *header, size_t header_bytes,
                                             uint64_t data_start, uint64_t data_bytes,
                                             const char *path, struct safetensors **out,
                                             struct sl_error *error);

/* The published name of a dtype ("BF16"); static. */
const char *safetensors_dtype_name(enum dtype dtype);

/* Opens `path`, reads and parses its header; the file is closed again. */
SL_MUST_USE enum sl_status safetensors_open(const char *path, struct safetensors **out,
                                            struct sl_error *error);
void safetensors_close(struct safetensors *file);

const char *safetensors_path(const struct safetensors *file);
size_t safetensors_count(const struct safetensors *file);
const struct safetensors_tensor *safetensors_at(const struct safetensors *file, size_t idx);
/* Borrowed, or NULL. */
const struct safetensors_tensor *safetensors_find(const struct safetensors *file, const char *name);

#endif
