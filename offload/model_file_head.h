/* The packed experts file: every routed expert of a checkpoint as one aligned, checksummed slot, so
 * that a single direct read brings it where it is computed from. To lie on several disks it may be
 * cut into parts, each a file of its own. This is its format, and its head made, written and read;
 * no memory of its own, any thread.
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
 *          48  u64 bytes of this file
 *          56  u64 fingerprint of the checkpoint the experts came from
 *          64  u64 XXH3-64 of the index with its padding; 0 while the file is being written
 *          72  u32 part, from 0
 *          76  u32 parts of the set, 2 .. MODEL_FILE_PARTS_MAX; 0: a whole file, and part is 0
 *          80  zeros
 *        4088  u64 XXH3-64 of the 4088 bytes before
 *   4096  index: u64 XXH3-64 of each slot, then zeros up to data start
 *   data  slots of slot_bytes, one after the other
 *
 * Slot i of a whole file is expert i = layer * experts + expert. Part p of n holds the experts with
 * i mod n == p in that order, so that its slot s is expert s * n + p: consecutive experts of a
 * layer lie on different disks.
 *
 * So a checksum covers every byte. Magic, version and the head's checksum keep their places in
 * later versions; a reader that does not know the version asks to pack again.
 *
 * Outside bytes never stop the process. */
#ifndef SLUICE_OFFLOAD_MODEL_FILE_HEAD_H
#define SLUICE_OFFLOAD_MODEL_FILE_HEAD_H

#include "offload/expert_plan.h"

#define MODEL_FILE_VERSION        1u
#define MODEL_FILE_HEAD_BYTES     4096u
#define MODEL_FILE_LAYERS_MAX     1024
#define MODEL_FILE_EXPERTS_MAX    4096
#define MODEL_FILE_PARTS_MAX      16
#define MODEL_FILE_SLOT_BYTES_MAX EXPERT_SLOT_BYTES_MAX

/* What the experts are, the same for a file and for the checkpoint it was packed from; and which of
 * them the file holds. */
struct model_file_spec {
    int32_t layers, experts;
    uint64_t slot_bytes;
    uint64_t fingerprint;
    int32_t part, parts; /* both 0: all of them; else part 0 .. parts - 1 */
};

struct model_file_head {
    struct model_file_spec spec;
    bool finished;       /* false: a pack is writing the file, or was cut off */
    uint64_t slot_count; /* experts in this file, at least 1 */
    uint64_t index_start_bytes, data_start_bytes, file_bytes;
    uint64_t index_checksum;
};

/* XXH3-64, as every checksum of the format. */
uint64_t model_file_checksum(const void *data, size_t bytes);

/* True and the head of a file of such experts, not finished, unless `spec` is out of the format's
 * bounds. */
bool model_file_head_make(const struct model_file_spec *spec, struct model_file_head *out);

/* Writes the head in its outside form, [MODEL_FILE_HEAD_BYTES]. */
void model_file_head_encode(const struct model_file_head *head, uint8_t *out);

/* Whether a file of `spec` holds expert layer * experts + expert, and in which of its slots. */
bool model_file_holds(const struct model_file_spec *spec, uint64_t expert_idx);
uint64_t model_file_slot_idx(const struct model_file_spec *spec, uint64_t expert_idx);

/* Where a slot starts in the file. */
uint64_t model_file_slot_start(const struct model_file_head *head, uint64_t slot_idx);

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

#endif
