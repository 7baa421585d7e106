/* Experts on the CPU in production: the steps around the products, shared by the instruction sets.
 *
 * The experts of a call go together: inputs are quantised and packed once per expert and token,
 * then one parallel region multiplies by all w1 and w3, a second by all w2. A 16-row band of a
 * matrix is read from memory once and used for all tokens of the batch in blocks of eight. Sums are
 * built in column order alike for any number of tokens, so a token's result depends on nothing but
 * itself. Memory is the stream's and the caller's scratch; nothing is allocated, nothing fails. */
#ifndef SLUICE_KERNELS_CPU_EXPERT_BATCH_H
#define SLUICE_KERNELS_CPU_EXPERT_BATCH_H

#include "kernels/ops.h"

#define EXPERT_BLOCK_TOKENS 8 /* multiplied at once */

/* One 16-row band of a matrix. */
struct expert_band {
    const uint8_t *codes;  /* [tiles, EXPERT_TILE_BYTES] */
    const uint8_t *scales; /* [tiles, EXPERT_TILE_ROWS] */
    int32_t tiles;
};

/* Quantised inputs of a block of tokens, in whatever form the instruction set multiplies. */
struct expert_panel {
    uint8_t *data;  /* [columns / 32, tokens, panel_bytes], 8-byte aligned */
    int32_t tokens; /* 1 .. EXPERT_BLOCK_TOKENS */
};

/* The inner functions of one instruction set. */
struct expert_kernel {
    size_t panel_bytes; /* of one token and 32 columns, at most 112 */
    /* Rounds columns first .. first + count - 1 of a token (`first` a multiple of 128, `count` of
     * 32) as quantise_aq128 does and packs them. */
    void (*pack)(const struct expert_panel *panel, int32_t token, int32_t first, int32_t count,
                 const float *x);
    /* sums[t] = the band times token t. Against exact products of the rounded inputs, the rms of
     * the error over a matrix is at most 2e-5 of the rms of the products. */
    void (*multiply)(const struct expert_band *band, const struct expert_panel *panel,
                     float sums[][EXPERT_TILE_ROWS]);
    /* The middle of one token for one band from its two sums. */
    void (*activate)(const float *gate, const float *up, float weight, float limit, float *out);
};

/* expert_ffn with `round`. */
void expert_batch_run(struct stream *stream, const struct expert_ffn_args *args,
                      const struct expert_kernel *kernel);

/* Only where the processor has the instruction set. */
extern const struct expert_kernel expert_kernel_avx2;
extern const struct expert_kernel expert_kernel_avx512;
extern const struct expert_kernel expert_kernel_amx;
void cpu_expert_ffn_avx2(struct stream *stream, const struct expert_ffn_args *args);
void cpu_expert_ffn_avx512(struct stream *stream, const struct expert_ffn_args *args);
void cpu_expert_ffn_amx(struct stream *stream, const struct expert_ffn_args *args);

#endif
