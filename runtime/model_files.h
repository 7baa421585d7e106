/* What an open checkpoint holds on to: headers, mappings, copies of misaligned tensors, files for
 * expert reads, and where experts lie. Owned by struct model; one thread opens and closes it. */
#ifndef SLUICE_RUNTIME_MODEL_FILES_H
#define SLUICE_RUNTIME_MODEL_FILES_H

#include "runtime/checkpoint_index.h"
#include "runtime/dense_map.h"
#include "runtime/model.h"

/* A bound dense tensor: in the mapping of its file, or copied out of it. */
struct dense_tensor {
    void *copy; /* NULL: used in place */
    uint64_t offset_bytes, bytes;
    int32_t file;
};

struct model_files {
    struct checkpoint_index index;
    struct dense_map *maps;          /* [index.file_count] */
    struct io_file *expert_files;    /* [index.file_count] */
    int32_t expert_file_count;       /* how many of them are open */
    struct expert_segment *segments; /* [layers, experts, EXPERT_PARTS] */
    struct dense_tensor *tensors;
    size_t tensor_count, tensor_room;
    float *frequencies; /* [2, rotary / 2]: plain, YaRN */
};

/* Opens index, headers, mappings and expert files of options->directory. */
SL_MUST_USE enum sl_status model_files_open(const struct model_open_options *options,
                                            struct model_files **out, struct sl_error *error);
void model_files_close(struct model_files *files); /* NULL is fine */

/* Address of a tensor's data, aligned to `alignment` bytes: in the mapping, or a copy made now. */
SL_MUST_USE enum sl_status model_files_place(struct model_files *files,
                                             const struct checkpoint_tensor *tensor,
                                             size_t alignment, const void **data,
                                             struct sl_error *error);

/* Touches every tensor placed in a mapping, with progress. */
SL_MUST_USE enum sl_status model_files_read(const struct model_files *files,
                                            const struct model_open_options *options,
                                            struct sl_error *error);

#endif
