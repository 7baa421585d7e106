/* Inputs of products with many tokens, as their kernels read them. */
#ifndef SLUICE_KERNELS_CUDA_LINEAR_INPUT_CUH
#define SLUICE_KERNELS_CUDA_LINEAR_INPUT_CUH

#include "kernels/cuda/stream.h"

/* Whole blocks of 128 columns, 16-byte aligned. */
struct linear_input {
    const float *x; /* [count] */
    uint16_t *out;  /* [count] bf16 */
    int64_t count;
    bool quantise; /* through e4m3 with a scale a block, which is exact in bf16 */
    bool swap; /* columns 4i .. 4i+3 lie as 0 2 1 3, the order in which e4m3 weights come apart */
};

void linear_input_bf16(struct stream *stream, const struct linear_input *input);

/* e4m3 codes with the scale of each 128 columns: codes [tokens, columns], scales [columns / 128,
 * tokens]. */
void linear_input_fp8(struct stream *stream, const float *x, int32_t tokens, int32_t columns,
                      uint8_t *codes, float *scales);

#endif
