/* Products of a few weight rows with a few tokens: the core of linear and expert_ffn.
 *
 * A row is decoded in pieces of 128 columns and each piece is used for all tokens. Every sum is
 * built piece by piece in column order, so it depends on its row and token alone. fp8 pieces are
 * multiplied by their scale as sums, fp4 values as they are decoded; both are exact. */
#ifndef SLUICE_KERNELS_CPU_ROW_PANEL_H
#define SLUICE_KERNELS_CPU_ROW_PANEL_H

#include "kernels/base.h"

#define ROW_PANEL_ROWS   8
#define ROW_PANEL_TOKENS 64

enum weight_format { WEIGHT_F32, WEIGHT_BF16, WEIGHT_FP8, WEIGHT_FP4 };

/* Weight rows, borrowed. Scales: WEIGHT_FP8 one e8m0 per 128 x 128 tile, WEIGHT_FP4 one per row
 * and 32 columns. WEIGHT_FP4 comes in the tiles of expert_layout.h, the rest as rows. */
struct weight_rows {
    const void *data; /* [rows, columns] */
    const uint8_t *scale;
    enum weight_format format;
    int32_t columns; /* a multiple of 32 for WEIGHT_FP4 */
};

struct row_panel {
    const struct weight_rows *weight;
    const float *x;    /* [tokens, ..] */
    size_t x_stride;   /* elements from one token to the next */
    int32_t tokens;    /* at most ROW_PANEL_TOKENS */
    int32_t row;       /* the first */
    int32_t row_count; /* at most ROW_PANEL_ROWS */
};

/* sums[i][t] = row (panel->row + i) times token t. */
void row_panel_multiply(const struct row_panel *panel,
                        float sums[ROW_PANEL_ROWS][ROW_PANEL_TOKENS]);

#endif
