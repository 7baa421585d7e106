/* Packing: the experts of a published checkpoint, brought into one file that is read slot by slot,
 * and finding that file again.
 *
 * sl_pack and sl_verify are declared in sl.h. Both run on the caller's thread, hold one slot in
 * memory and can be cancelled between two experts. */
#ifndef SLUICE_RUNTIME_PACK_H
#define SLUICE_RUNTIME_PACK_H

#include "offload/model_file.h"
#include "runtime/model.h"
#include "runtime/sl.h"

/* The packed file's name inside a checkpoint's directory. */
#define PACK_FILE_NAME "experts.sluice"

/* What a packed file of `model` must hold: its routed experts, the MTP block's if bound. Reads the
 * little that the fingerprint takes. */
SL_MUST_USE enum sl_status pack_spec(const struct model *model, struct model_file_spec *out,
                                     struct sl_error *error);

/* Opens the checkpoint with every layer that it can run. */
SL_MUST_USE enum sl_status pack_open_model(const char *model_dir, struct model **out,
                                           struct model_file_spec *spec, struct sl_error *error);

/* Where the experts of an opened model are read from under these options: the packed file they
 * name, the one in the checkpoint's directory, or the checkpoint itself, and then *packed is NULL.
 * A packed file must be of this checkpoint (model_file_match). `*source` has as many layers as the
 * model runs and lives as long as model and *packed; the caller closes *packed. */
SL_MUST_USE enum sl_status pack_open_source(const struct model *model,
                                            const struct sl_engine_options *options,
                                            struct model_file **packed,
                                            struct expert_source *source, struct sl_error *error);

#endif
