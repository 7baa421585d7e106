/* Packing: the experts of a published checkpoint, brought into one file that is read slot by slot.
 *
 * sl_pack and sl_verify are declared in sl.h. Both run on the caller's thread, hold one slot in
 * memory and can be cancelled between two experts. */
#ifndef SLUICE_RUNTIME_PACK_H
#define SLUICE_RUNTIME_PACK_H

#include "offload/model_file.h"
#include "runtime/model.h"

/* The packed file's name inside a checkpoint's directory. */
#define PACK_FILE_NAME "experts.sluice"

/* What a packed file of `model` must hold: its routed experts, the MTP block's if bound. Reads the
 * little that the fingerprint takes. */
SL_MUST_USE enum sl_status pack_spec(const struct model *model, struct model_file_spec *out,
                                     struct sl_error *error);

/* Opens the checkpoint with every layer that it can run. */
SL_MUST_USE enum sl_status pack_open_model(const char *model_dir, struct model **out,
                                           struct model_file_spec *spec, struct sl_error *error);

#endif
