/* Writes a packed experts file (model_file_head.h), whole or one part of a set, beside its final
 * name, so that no half file ever stands under that name and a pack that was killed goes on where
 * it stopped.
 *
 * The file grows as NAME.partial, under a magic that no reader accepts. A slot's checksum enters
 * the index there only after the slot has reached the disk; a later run trusts none of it, but
 * reads every recorded slot back and writes again what differs. At the end, once all is on disk,
 * the head gets the final magic and the file its name.
 *
 * Owned by one thread; a lock on the partial file keeps a second writer out. After a failed call
 * only close or discard may follow. */
#ifndef SLUICE_OFFLOAD_MODEL_FILE_WRITER_H
#define SLUICE_OFFLOAD_MODEL_FILE_WRITER_H

#include "offload/model_file_head.h"

struct model_file_writer;

/* Starts or resumes the file `path` for such experts, all or those of spec's part, taking the disk
 * space it needs. What an earlier run left for other experts is dropped; a file of either name that
 * is no packed file is left alone and refused. SL_ERR_ARGUMENT: such a foreign file, or no such
 * directory; SL_ERR_BUSY: another writer; SL_ERR_UNSUPPORTED: a spec out of bounds; SL_ERR_IO with
 * ENOSPC: says how many bytes are needed and free. */
SL_MUST_USE enum sl_status model_file_writer_open(const char *path,
                                                  const struct model_file_spec *spec,
                                                  struct model_file_writer **out,
                                                  struct sl_error *error);

/* Whether no expert is recorded, neither by this run nor by an earlier one. */
bool model_file_writer_is_empty(const struct model_file_writer *writer);

/* Reads back what an earlier run recorded of this expert into `slot` [slot_bytes]; `*present` is
 * true when it is there and whole, and then nothing needs to be put. Before any put of it. */
SL_MUST_USE enum sl_status model_file_writer_recall(struct model_file_writer *writer,
                                                    struct expert_ref ref, void *slot,
                                                    bool *present, struct sl_error *error);

/* Writes the slot of one expert that the file is to hold, once; any order. */
SL_MUST_USE enum sl_status model_file_writer_put(struct model_file_writer *writer,
                                                 struct expert_ref ref, const void *slot,
                                                 struct sl_error *error);

/* Brings what was put to the disk, then records it: a run that is killed later keeps it. */
SL_MUST_USE enum sl_status model_file_writer_flush(struct model_file_writer *writer,
                                                   struct sl_error *error);

/* After every expert of the file was put or recalled: completes the file and gives it its name,
 * replacing a packed file that stood there. */
SL_MUST_USE enum sl_status model_file_writer_finish(struct model_file_writer *writer,
                                                    struct sl_error *error);

/* Frees the writer; without finish, the partial file stays for a later run. NULL is fine. */
void model_file_writer_close(struct model_file_writer *writer);

/* Frees the writer and removes the partial file: for a failure that going on cannot mend. */
void model_file_writer_discard(struct model_file_writer *writer);

/* The name under which the file grows, for messages; borrowed. */
const char *model_file_writer_partial(const struct model_file_writer *writer);

#endif
