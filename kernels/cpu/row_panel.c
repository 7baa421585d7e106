/* Products of a few weight rows with a few tokens; see the header. Memory is the caller's, any
 * number of threads may call at once, nothing can fail. */
#include "kernels/cpu/row_panel.h"

#include "kernels/cpu/dot.h"
#include "kernels/cpu/row_codec.h"
#include "kernels/expert_layout.h"

/* Columns decoded at a time: the block that shares an fp8 scale. */
#define PIECE LOWP_FP8_BLOCK

/* Decodes the columns of one row in one tile of fp4. */
static void decode_tile(const struct weight_rows *weight, int32_t row, int32_t column, float *out)
{
    size_t tile = expert_layout_tile(weight->columns, row, column);
    size_t lane = (size_t)(row % EXPERT_TILE_ROWS);
    const uint8_t *codes = (const uint8_t *)weight->data + tile * EXPERT_TILE_BYTES + 4 * lane;
    float scale = e8m0_decode(weight->scale[tile * EXPERT_TILE_ROWS + lane]);
    for (int32_t i = 0; i < EXPERT_TILE_COLUMNS; i += 8, codes += 4 * EXPERT_TILE_ROWS) {
        /* Bytes hold the column pairs (0, 2), (4, 6), (1, 3), (5, 7). */
        for (int32_t pair = 0; pair < 4; pair++) {
            float *target = out + i + 4 * (pair % 2) + pair / 2;
            target[0] = code_table_e2m1[codes[pair]][0] * scale;
            target[2] = code_table_e2m1[codes[pair]][1] * scale;
        }
    }
}

/* Decodes `length` columns from `column` on; returns the factor still missing. */
static float decode_piece(const struct weight_rows *weight, int32_t row, int32_t column,
                          int32_t length, float *out)
{
    size_t columns = (size_t)weight->columns;
    size_t first = (size_t)row * columns + (size_t)column;
    switch (weight->format) {
    case WEIGHT_F32: memcpy(out, (const float *)weight->data + first, 4 * (size_t)length); break;
    case WEIGHT_BF16: {
        const uint16_t *codes = (const uint16_t *)weight->data + first;
        for (int32_t i = 0; i < length; i++)
            out[i] = bf16_decode(codes[i]);
        break;
    }
    case WEIGHT_FP8: {
        const uint8_t *codes = (const uint8_t *)weight->data + first;
        size_t tiles = (columns + PIECE - 1) / PIECE;
        for (int32_t i = 0; i < length; i++)
            out[i] = code_table_e4m3[codes[i]];
        return e8m0_decode(weight->scale[(size_t)(row / PIECE) * tiles + (size_t)(column / PIECE)]);
    }
    case WEIGHT_FP4: {
        for (int32_t i = 0; i < length; i += EXPERT_TILE_COLUMNS)
            decode_tile(weight, row, column + i, out + i);
        break;
    }
    }
    return 1.0f;
}

void row_panel_multiply(const struct row_panel *panel, float sums[ROW_PANEL_ROWS][ROW_PANEL_TOKENS])
{
    _Alignas(64) float piece[ROW_PANEL_ROWS][PIECE];
    float factor[ROW_PANEL_ROWS];
    SL_DEBUG_ASSERT(panel->row_count <= ROW_PANEL_ROWS && panel->tokens <= ROW_PANEL_TOKENS);
    for (int32_t r = 0; r < panel->row_count; r++)
        memset(sums[r], 0, (size_t)panel->tokens * sizeof(float));
    for (int32_t column = 0; column < panel->weight->columns; column += PIECE) {
        int32_t length = min_i32(PIECE, panel->weight->columns - column);
        for (int32_t r = 0; r < panel->row_count; r++)
            factor[r] = decode_piece(panel->weight, panel->row + r, column, length, piece[r]);
        for (int32_t t = 0; t < panel->tokens; t++) {
            const float *x = panel->x + (size_t)t * panel->x_stride + column;
            for (int32_t r = 0; r < panel->row_count; r++)
                sums[r][t] += dot_f32(x, piece[r], length) * factor[r];
        }
    }
}
