/* The dense weights moved out of the mapped files, in the checkpoint's own precision: a copy of a
 * model whose pointers are addresses in a GPU's memory, or in large pages of RAM. Used by the
 * engine's thread while it opens. */
#ifndef SLUICE_RUNTIME_MODEL_UPLOAD_H
#define SLUICE_RUNTIME_MODEL_UPLOAD_H

#include "kernels/gpu.h"
#include "runtime/model.h"

#define MODEL_UPLOAD_PIECE_BYTES (16u << 20) /* of pinned RAM that the bytes pass through */

/* Device memory that model_upload takes. */
uint64_t model_upload_bytes(const struct model *model);

/* Copies every weight that ops read. `*out` has the configuration, the expert layout and the
 * weights; no files, no experts' source. SL_ERR_NO_MEMORY, SL_ERR_IO (the device), SL_ERR_CANCELLED
 * (by progress). The model's files may be checked afterwards for pages lost on the way. */
SL_MUST_USE enum sl_status model_upload(const struct model *model, struct gpu *gpu,
                                        model_progress_fn progress, void *progress_context,
                                        struct model **out, struct sl_error *error);

/* The same into RAM, model_upload_bytes of it: tensors lie anywhere in a file, and CPUs read them
 * faster from the start of a cache line on and through few large pages. NULL in `*out` with SL_OK
 * when the system refuses the memory: the mapping serves as well. SL_ERR_CANCELLED by progress. */
SL_MUST_USE enum sl_status model_place(const struct model *model, model_progress_fn progress,
                                       void *progress_context, struct model **out,
                                       struct sl_error *error);

/* What either made; `gpu` is NULL for model_place's. NULL models are fine. */
void model_upload_free(struct model *uploaded, struct gpu *gpu);

#endif
