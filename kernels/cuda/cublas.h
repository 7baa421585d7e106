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

/* out = x W^T in bf16 with f32 sums; all of it device memory. */
struct cublas_product {
    const uint16_t *weight; /* [rows, columns] */
    const uint16_t *x;      /* [tokens, columns] */
    uint16_t *out;          /* [tokens, rows] */
    int32_t tokens, rows, columns;
};

/* Queues a product, with the stream's scratch as workspace. False, and nothing is queued, when the
 * library has no way for these sizes on this device. */
bool cublas_multiply(struct cublas *cublas, struct stream *stream,
                     const struct cublas_product *product);

#ifdef __cplusplus
}
#endif
#endif
