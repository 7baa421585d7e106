/* Packed experts (model_file_head.h has the format), opened for the expert store: one whole file,
 * copies of it, or all parts of a set, each on a disk of its own.
 *
 * Opened and owned by one thread; the source it hands out is read-only. */
#ifndef SLUICE_OFFLOAD_MODEL_FILE_H
#define SLUICE_OFFLOAD_MODEL_FILE_H

#include "offload/model_file_head.h"

#define MODEL_FILE_FILES_MAX MODEL_FILE_PARTS_MAX

struct model_file;

/* Opens a finished packed file, for direct reads when `want_direct` and the file system can. The
 * statuses of model_file_parse_head, SL_ERR_FORMAT for an unfinished file, SL_ERR_CHECKSUM for a
 * damaged index, SL_ERR_IO, SL_ERR_NO_MEMORY. Slots are not read; nothing is allocated for a claim
 * that the file's real size does not bear out. */
SL_MUST_USE enum sl_status model_file_open(const char *path, bool want_direct,
                                           struct model_file **out, struct sl_error *error);
void model_file_close(struct model_file *file); /* NULL is fine */

/* Takes in another file, in any order: a copy of the same whole file, of which experts are then
 * read in turn, or another part of the same set. So all their disks work. `other`, opened by
 * itself, is the file's from here on, also on failure. SL_ERR_FORMAT says what does not fit: other
 * contents or another set, a part that is there already, whole files among parts. SL_ERR_LIMIT: too
 * many. Before the source is used. */
SL_MUST_USE enum sl_status model_file_join(struct model_file *file, struct model_file *other,
                                           struct sl_error *error);

/* SL_OK for whole files and when every part is there; else SL_ERR_FORMAT names a missing one. */
SL_MUST_USE enum sl_status model_file_check_complete(const struct model_file *file,
                                                     struct sl_error *error);
bool model_file_is_part(const struct model_file *file); /* or several */

/* Where the slots lie: one segment an expert, with checksums, once the file is complete; before
 * that, segments of file -1 stand for what missing parts hold. Valid until the file is closed. */
const struct expert_source *model_file_source(const struct model_file *file);
uint64_t model_file_fingerprint(const struct model_file *file);

/* SL_OK if the file holds the experts of the checkpoint that `spec` describes; it may hold more
 * layers (the MTP block's): the caller then lowers `layers` in a copy of the source. SL_ERR_FORMAT
 * says what differs. */
SL_MUST_USE enum sl_status model_file_match(const struct model_file *file,
                                            const struct model_file_spec *spec,
                                            struct sl_error *error);

#endif
