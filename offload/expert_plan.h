/* How one expert is read: which byte ranges of which files, and where they land. Pure arithmetic
 * over a source; no memory of its own, any thread.
 *
 * A source is straight when every segment may be read into its place in the slot as it is. The
 * others go through staging: segments that adjoin in the file, or nearly, become one aligned read,
 * and their parts are copied or rearranged into the slot afterwards. */
#ifndef SLUICE_OFFLOAD_EXPERT_PLAN_H
#define SLUICE_OFFLOAD_EXPERT_PLAN_H

#include "offload/expert_store.h"

/* A gap this small costs less to read than a read of its own. */
#define EXPERT_GAP_BYTES_MAX (64u << 10)
/* Half of what the kernel registers as one buffer, so that staging fits one as well. */
#define EXPERT_SLOT_BYTES_MAX (512ull << 20)

struct expert_extent {
    uint64_t offset_bytes;      /* in the file; aligned as the file asks */
    size_t bytes;               /* to ask for, alignment included */
    size_t needed_bytes;        /* that must arrive; the file may end behind them */
    size_t target_offset_bytes; /* in the slot when straight, else in staging */
    int32_t file;
};

struct expert_plan {
    struct expert_extent extents[EXPERT_SEGMENTS_MAX];
    int32_t extent_count;
    size_t staging_bytes; /* a multiple of SL_PAGE_BYTES; 0 when straight */
};

/* SL_ERR_ARGUMENT with a sentence when a size, file or range cannot be right: segments outside
 * their file or slot, or over each other in the slot. */
SL_MUST_USE enum sl_status expert_plan_check_source(const struct expert_source *source,
                                                    struct sl_error *error);
bool expert_plan_is_straight(const struct expert_source *source);

/* `expert_idx` is layer * experts + expert; the source has passed the check. */
void expert_plan_make(const struct expert_source *source, int32_t expert_idx, bool straight,
                      struct expert_plan *out);

/* Completes a slot whose reads have arrived: copies or rearranges the segments out of `staging`
 * (NULL when straight) and zeroes what no segment covers. */
void expert_plan_place(const struct expert_source *source, int32_t expert_idx,
                       const struct expert_plan *plan, const uint8_t *staging, uint8_t *slot);

#endif
