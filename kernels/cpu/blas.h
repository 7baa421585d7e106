/* Wide products through OpenBLAS, for prefill where that is faster than the exact kernels and
 * results may depend on how many tokens a call has.
 *
 * The library is loaded when a stream that uses it is created, and only then: linked, it would
 * start threads in every program. Values are rounded at the same points as in the exact ops; only
 * the order of the f32 sums is OpenBLAS's. Every worker calls sgemm on its own tiles and OpenBLAS
 * uses no threads of its own; on its first products it takes working memory that it keeps. */
#ifndef SLUICE_KERNELS_CPU_BLAS_H
#define SLUICE_KERNELS_CPU_BLAS_H

#include "kernels/ops.h"

/* Fewest tokens that go to OpenBLAS. fp8 [2048, 4096] on one core of a Zen 4 EPYC, OpenBLAS 0.3.21
 * with its own choice of kernels, processor time in ms (sluice-bench prefill, medians of 7):
 *
 *     tokens      16    32    64   128   256
 *     avx2       5.5  10.9  16.7  34.5  78.6
 *     OpenBLAS   8.0  11.0  15.3  27.7  54.3
 *     avx512     3.0   5.4   8.1  16.0  34.0
 *
 * So the avx512 kernels never use it. Nor do experts: at 256 tokens 134 ms (avx2) and 67 (avx512)
 * against 153 through OpenBLAS, at 64 tokens 35 to 41, 17 and 41. */
#define BLAS_LINEAR_TOKENS_MIN 64

/* Weights of one sgemm, 128 KiB of a worker's stack, and its most tokens. */
#define BLAS_TILE_ROWS    128
#define BLAS_TILE_COLUMNS 256
#define BLAS_TOKENS_MAX   256

struct blas;

/* Loads OpenBLAS and tells it to use no threads. SL_ERR_UNSUPPORTED when it is not there or this
 * build does without, SL_ERR_NO_MEMORY. */
SL_MUST_USE enum sl_status blas_open(struct blas **out);
void blas_close(struct blas *blas); /* NULL is allowed */

/* One row-major product out = x times the transposed weights, or added to what out holds. */
struct blas_product {
    const float *x;       /* [tokens, ..] */
    const float *weights; /* [rows, ..] */
    float *out;           /* [tokens, ..] */
    int32_t tokens, rows, columns;
    int32_t x_stride, weights_stride, out_stride;
    bool add;
};

void blas_multiply(const struct blas *blas, const struct blas_product *product);

/* Streams of the tables that use OpenBLAS. */
enum sl_status blas_stream_create(const struct stream_options *options, struct stream **out);
void blas_stream_destroy(struct stream *stream);

/* linear with fp8 weights for any number of tokens, where the processor has AVX2. */
void cpu_linear_blas_avx2(struct stream *stream, const struct linear_args *args);
/* The op of a table: the former for fp8 and enough tokens, else the exact kernel. */
void cpu_linear_wide_avx2(struct stream *stream, const struct linear_args *args);

#endif
