/* Where the parts of one routed expert lie inside a slot. The same bytes in every tier and on disk
 * once packed, so a copy between tiers never repacks.
 *
 * Layout 2, "tiles": parts in the order w1 s1 w3 s3 w2 s2, each as long as published and on a
 * 64-byte boundary, the whole rounded up to 4096 bytes. A matrix is cut into tiles of 16 rows x 32
 * columns, those of a 16-row band side by side, bands one after the other:
 *
 *   w part: 256 bytes a tile, four groups of 8 columns. A group is 16 little-endian 32-bit lanes,
 *           one a row; the low half of a lane holds the nibbles of the group's columns 0 2 4 6, the
 *           high half those of 1 3 5 7, lowest bits first. So 16-bit words shifted right by 4k hold
 *           the column pair (2k, 2k + 1) of 16 rows in their lowest four bits.
 *   s part: 16 bytes a tile, the e8m0 scale of each row.
 *
 * Placing works on the caller's memory, on any thread, and cannot fail. */
#ifndef SLUICE_KERNELS_EXPERT_LAYOUT_H
#define SLUICE_KERNELS_EXPERT_LAYOUT_H

#include "kernels/base.h"

/* Written into packed files; a file of another layout must be packed again. */
#define EXPERT_LAYOUT_ID 2u

#define EXPERT_TILE_ROWS    16
#define EXPERT_TILE_COLUMNS 32
#define EXPERT_TILE_BYTES   256 /* of nibbles */

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

/* Which tile of its part an element lies in; `columns` is the matrix's width. */
static inline size_t expert_layout_tile(int32_t columns, int32_t row, int32_t column)
{
    return (size_t)(row / EXPERT_TILE_ROWS) * (size_t)(columns / EXPERT_TILE_COLUMNS) +
           (size_t)(column / EXPERT_TILE_COLUMNS);
}

/* Writes a whole slot, gaps zeroed, from the six published tensors: weights row-major with two
 * nibbles a byte, low first, and scales [rows, columns / 32]; part_bytes each, of any alignment. */
void expert_layout_place(const struct expert_layout *layout, const uint8_t *const parts[],
                         uint8_t *slot);

#endif
