/* NVIDIA's library of matrix products, cuBLASLt, loaded when somebody asks for it: a program starts
 * and computes without it.
 *
 * One thread at a time calls. A product's plan, what the library chose for its sizes, is made once
 * and kept for the next call; making it takes time of the host's, allocates inside the library and
 * must not be recorded, launching does neither. */
#ifndef SLUICE_KERNELS_CUDA_CUBLAS_H
#define SLUICE_KERNELS_CUDA_CUBLAS_H

#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

struct cublas;

/* SL_ERR_UNSUPPORTED with a sentence when this build knows nothing of the library, or the loader
 * does not find it. Acts on the current device. */
enum sl_status cublas_open(struct cublas **out, struct sl_error *error) SL_MUST_USE;
void cublas_close(struct cublas *cublas); /* NULL is fine */

/* 130100 for 13.1.0. */
int32_t cublas_version(const struct cublas *cublas);

/* What is multiplied, with sums in f32. */
enum cublas_format {
    CUBLAS_BF16,       /* bf16 by bf16, out in bf16 */
    CUBLAS_FP8_BLOCKS, /* e4m3 by e4m3 with scales, out in f32: compute capability 9.0, 12.9.0 on */
};

/* out = x W^T; all of it device memory, scales and operands on 16-byte boundaries. */
struct cublas_product {
    enum cublas_format format;
    const void *weight;        /* [rows, columns] */
    const void *x;             /* [tokens, columns] */
    const float *weight_scale; /* of e4m3: [rows / 128, columns / 128], both rounded up, the latter
                                * to a multiple of 4; of a block of 128 x 128 each */
    const float *x_scale;      /* of e4m3: [columns / 128, tokens], of 128 columns each */
    void *out;                 /* [tokens, rows] */
    int32_t tokens, rows, columns;
    size_t workspace_from; /* of the stream's scratch: what lies before may be an operand */
};

/* Whether the library has a way for a product of these sizes on this device. */
bool cublas_can(struct cublas *cublas, const struct cublas_product *product);

/* Queues a product that cublas_can multiply. */
void cublas_multiply(struct cublas *cublas, struct stream *stream,
                     const struct cublas_product *product);

#ifdef __cplusplus
}
#endif
#endif
