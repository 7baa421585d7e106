/* From the published tensors of an expert to its slot; see the header. */
#include "kernels/expert_layout.h"

#include <assert.h>
#include <string.h>

#define GROUPS (EXPERT_TILE_COLUMNS / 8)

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "lanes are read as native 32-bit words");

/* Nibbles 0 .. 7 of both halves to the order 0 2 4 6 1 3 5 7. */
static uint64_t part_pairs(uint64_t nibbles)
{
    uint64_t swap = (nibbles ^ (nibbles >> 4)) & 0x00f000f000f000f0u;
    nibbles ^= swap ^ (swap << 4);
    swap = (nibbles ^ (nibbles >> 8)) & 0x0000ff000000ff00u;
    return nibbles ^ swap ^ (swap << 8);
}

/* One tile's nibbles from 16 bytes of each of its rows. */
static void place_tile(const uint8_t *rows, size_t row_bytes, uint8_t *tile)
{
    uint32_t lanes[GROUPS][EXPERT_TILE_ROWS];
    for (size_t r = 0; r < EXPERT_TILE_ROWS; r++) {
        for (size_t g = 0; g < GROUPS; g += 2) {
            uint64_t nibbles;
            memcpy(&nibbles, rows + r * row_bytes + 4 * g, sizeof nibbles);
            nibbles = part_pairs(nibbles);
            lanes[g][r] = (uint32_t)nibbles;
            lanes[g + 1][r] = (uint32_t)(nibbles >> 32);
        }
    }
    static_assert(sizeof lanes == EXPERT_TILE_BYTES, "a tile is its lanes");
    memcpy(tile, lanes, sizeof lanes);
}

static void place_weights(const uint8_t *weights, int32_t rows, int32_t columns, uint8_t *out)
{
    size_t row_bytes = (size_t)columns / 2;
    for (int32_t row = 0; row < rows; row += EXPERT_TILE_ROWS) {
        for (int32_t column = 0; column < columns; column += EXPERT_TILE_COLUMNS) {
            place_tile(weights + (size_t)row * row_bytes + (size_t)column / 2, row_bytes, out);
            out += EXPERT_TILE_BYTES;
        }
    }
}

static void place_scales(const uint8_t *scales, int32_t rows, int32_t columns, uint8_t *out)
{
    size_t tiles = (size_t)(columns / EXPERT_TILE_COLUMNS);
    for (int32_t row = 0; row < rows; row++) {
        uint8_t *lane = out + expert_layout_tile(columns, row, 0) * EXPERT_TILE_ROWS +
                        (size_t)(row % EXPERT_TILE_ROWS);
        for (size_t tile = 0; tile < tiles; tile++)
            lane[tile * EXPERT_TILE_ROWS] = scales[(size_t)row * tiles + tile];
    }
}

void expert_layout_place(const struct expert_layout *layout, const uint8_t *const parts[],
                         uint8_t *slot)
{
    size_t end = 0;
    SL_ASSERT(layout->hidden % EXPERT_TILE_COLUMNS == 0);
    SL_ASSERT(layout->width % EXPERT_TILE_COLUMNS == 0);
    for (int part = 0; part < EXPERT_PARTS; part++) {
        bool is_down = part == EXPERT_W2 || part == EXPERT_S2;
        int32_t rows = is_down ? layout->hidden : layout->width;
        int32_t columns = is_down ? layout->width : layout->hidden;
        uint8_t *target = slot + layout->offset_bytes[part];
        memset(slot + end, 0, layout->offset_bytes[part] - end);
        if (part % 2 == 0)
            place_weights(parts[part], rows, columns, target);
        else
            place_scales(parts[part], rows, columns, target);
        end = layout->offset_bytes[part] + layout->part_bytes[part];
    }
    memset(slot + end, 0, layout->slot_bytes - end);
}
