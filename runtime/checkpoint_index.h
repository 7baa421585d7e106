/* The files of a checkpoint: which shards there are, their headers, and which holds a tensor.
 *
 * Owns the headers; names and records are borrowed until close. Cold path, one thread. */
#ifndef SLUICE_RUNTIME_CHECKPOINT_INDEX_H
#define SLUICE_RUNTIME_CHECKPOINT_INDEX_H

#include "runtime/safetensors.h"

#define CHECKPOINT_FILES_MAX 1024

struct json_t;

struct checkpoint_file {
    char *path;
    struct safetensors *header;
    bool *used; /* [tensors of the header]: checkpoint_index_find found it */
};

struct checkpoint_index {
    char *directory;
    struct checkpoint_file *files; /* ascending by name */
    int32_t file_count;
    struct json_t *weight_map; /* tensor name to number of file; NULL: one file without an index */
};

/* A tensor and the number of the file it lies in. */
struct checkpoint_tensor {
    const struct safetensors_tensor *tensor;
    int32_t file;
};

/* Reads DIR/model.safetensors.index.json and the header of every shard it names, or the header of
 * DIR/model.safetensors where there is no index. */
SL_MUST_USE enum sl_status checkpoint_index_open(const char *directory,
                                                 struct checkpoint_index *out,
                                                 struct sl_error *error);
void checkpoint_index_close(struct checkpoint_index *index); /* zeroed memory is fine */

/* Finds a tensor and marks it as used. When it is missing, returns false with `out->tensor` NULL
 * and `out->file` the file that should hold it, or -1 when the index does not know the name. */
bool checkpoint_index_find(struct checkpoint_index *index, const char *name,
                           struct checkpoint_tensor *out);

/* True if some tensor's name starts with `prefix`. */
bool checkpoint_index_has_prefix(const struct checkpoint_index *index, const char *prefix);

/* How many tensors in the files were never found, whose names do (or do not) start with `prefix`.
 */
int32_t checkpoint_index_unused(const struct checkpoint_index *index, const char *prefix,
                                bool starts);

#endif
