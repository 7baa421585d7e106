/* Where the parts of one routed expert lie inside a slot. The same bytes in every tier and on disk
 * once packed, so a copy between tiers never repacks.
 *
 * Layout 1, "rows": each matrix is row-major as published (two e2m1 nibbles a byte, low nibble
 * first; one e8m0 scale per row and 32 columns), parts in the order w1 s1 w3 s3 w2 s2, each on a
 * 64-byte boundary, the whole rounded up to 4096 bytes. */
#ifndef SLUICE_KERNELS_EXPERT_LAYOUT_H
#define SLUICE_KERNELS_EXPERT_LAYOUT_H

#include "kernels/base.h"

/* Written into packed files; a file of another layout must be packed again. */
#define EXPERT_LAYOUT_ID 1u

enum expert_part { EXPERT_W1, EXPERT_S1, EXPERT_W3, EXPERT_S3, EXPERT_W2, EXPERT_S2, EXPERT_PARTS };

struct expert_layout {
    int32_t hidden;                    /* D: columns of w1 and w3, rows of w2 */
    int32_t width;                     /* F: rows of w1 and w3, columns of w2 */
    size_t offset_bytes[EXPERT_PARTS]; /* from the start of the slot */
    size_t part_bytes[EXPERT_PARTS];   /* as published, without padding */
    size_t slot_bytes;                 /* a multiple of SL_PAGE_BYTES */
};

/* Layout of an expert with `hidden` and `width` both positive multiples of 32 and at most 2^20. */
static inline struct expert_layout expert_layout_make(int32_t hidden, int32_t width)
{
    struct expert_layout layout = {.hidden = hidden, .width = width};
    size_t weights = (size_t)hidden * (size_t)width / 2;
    size_t scales = (size_t)hidden * (size_t)width / 32;
    size_t end = 0;
    SL_ASSERT(hidden > 0 && hidden % 32 == 0 && width > 0 && width % 32 == 0);
    for (int part = 0; part < EXPERT_PARTS; part++) {
        layout.part_bytes[part] = part % 2 ? scales : weights;
        layout.offset_bytes[part] = end;
        end = align_up(end + layout.part_bytes[part], 64);
    }
    layout.slot_bytes = align_up(end, SL_PAGE_BYTES);
    return layout;
}

#endif
