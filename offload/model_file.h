/* The packed experts file: every routed expert of a checkpoint as one aligned, checksummed slot, so
 * that a single direct read brings it where it is computed from.
 *
 * Format 1, all numbers little-endian:
 *
 *      0  head, 4096 bytes
 *           0  char[8] magic: "SLEXPERT", or "SLUNFNSH" in a file that is still being written
 *           8  u32 format version
 *          12  u32 EXPERT_LAYOUT_ID, what lies where inside a slot
 *          16  u32 layers
 *          20  u32 experts of a layer
 *          24  u64 slot_bytes, a multiple of 4096
 *          32  u64 index start, 4096
 *          40  u64 data start, the first multiple of 4096 after the index
 *          48  u64 bytes of the whole file
 *          56  u64 fingerprint of the checkpoint the experts came from
 *          64  u64 XXH3-64 of the index with its padding; 0 while the file is being written
 *          72  zeros
 *        4088  u64 XXH3-64 of the 4088 bytes before
 *   4096  index: u64 XXH3-64 of each slot, [layers, experts], then zeros up to data start
 *   data  slots: expert (l, e) at data start + (l * experts + e) * slot_bytes
 *
 * So a checksum covers every byte. Magic, version and the head's checksum keep their places in
 * later versions; a reader that does not know the version asks to pack again.
 *
 * Opened and owned by one thread; the source it hands out is read-only. Outside bytes never stop
 * the process, and nothing is allocated for a claim that the file's real size does not bear out. */
#ifndef SLUICE_OFFLOAD_MODEL_FILE_H
#define SLUICE_OFFLOAD_MODEL_FILE_H

#include "offload/expert_plan.h"

#define MODEL_FILE_VERSION        1u
#define MODEL_FILE_HEAD_BYTES     4096u
#define MODEL_FILE_LAYERS_MAX     1024
#define MODEL_FILE_EXPERTS_MAX    4096
#define MODEL_FILE_SLOT_BYTES_MAX EXPERT_SLOT_BYTES_MAX

/* What the experts are: the same for a file and for the checkpoint it was packed from. */
struct model_file_spec {
    int32_t layers, experts;
    uint64_t slot_bytes;
    uint64_t fingerprint;
};

struct model_file_head {
    struct model_file_spec spec;
    bool finished; /* false: a pack is writing the file, or was cut off */
    uint64_t index_start_bytes, data_start_bytes, file_bytes;
    uint64_t index_checksum;
};

struct model_file;

/* XXH3-64, as every checksum of the format. */
uint64_t model_file_checksum(const void *data, size_t bytes);

/* True and the head of a file of such experts, not finished, unless `spec` is out of the format's
 * bounds. */
bool model_file_head_make(const struct model_file_spec *spec, struct model_file_head *out);

/* Writes the head in its outside form, [MODEL_FILE_HEAD_BYTES]. */
void model_file_head_encode(const struct model_file_head *head, uint8_t *out);

/* Where expert (layer, expert) starts in the file. */
uint64_t model_file_slot_start(const struct model_file_head *head, int32_t layer, int32_t expert);

/* Whether `data` starts as a packed file does, finished or not. */
bool model_file_has_magic(const void *data, size_t bytes);

/* Reads and checks the head at the start of `data`; `file_bytes` is the real size of the file,
 * `path` is for messages. SL_ERR_FORMAT: no packed file, cut short or senseless; SL_ERR_CHECKSUM:
 * damaged; SL_ERR_UNSUPPORTED: another version or layout, to be packed again. An unfinished file is
 * accepted and marked. */
SL_MUST_USE enum sl_status model_file_parse_head(const void *data, size_t bytes,
                                                 uint64_t file_bytes, const char *path,
                                                 struct model_file_head *out,
                                                 struct sl_error *error);

/* Opens a finished packed file, for direct reads when `want_direct` and the file system can. The
 * statuses of model_file_parse_head, SL_ERR_FORMAT for an unfinished file, SL_ERR_CHECKSUM for a
 * damaged index, SL_ERR_IO, SL_ERR_NO_MEMORY. Slots are not read. */
SL_MUST_USE enum sl_status model_file_open(const char *path, bool want_direct,
                                           struct model_file **out, struct sl_error *error);
void model_file_close(struct model_file *file); /* NULL is fine */

#define MODEL_FILE_COPIES_MAX 8

/* Takes in a copy of the same file, on another disk: experts are then read from the copies in turn,
 * so that all disks work. `copy` is the file's from here on, also on failure: SL_ERR_FORMAT when
 * its contents differ, SL_ERR_LIMIT when there are too many. Before the source is used. */
SL_MUST_USE enum sl_status model_file_add_copy(struct model_file *file, struct model_file *copy,
                                               struct sl_error *error);

/* Where the slots lie: one segment an expert, with checksums. Valid until the file is closed. */
const struct expert_source *model_file_source(const struct model_file *file);
uint64_t model_file_fingerprint(const struct model_file *file);

/* SL_OK if the file holds the experts of the checkpoint that `spec` describes; it may hold more
 * layers (the MTP block's): the caller then lowers `layers` in a copy of the source. SL_ERR_FORMAT
 * says what differs. */
SL_MUST_USE enum sl_status model_file_match(const struct model_file *file,
                                            const struct model_file_spec *spec,
                                            struct sl_error *error);

#endif
