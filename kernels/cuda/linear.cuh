/* The ways of a linear, for its launcher alone: each takes what it can and says so. */
#ifndef SLUICE_KERNELS_CUDA_LINEAR_CUH
#define SLUICE_KERNELS_CUDA_LINEAR_CUH

#include "kernels/cuda/stream.h"

/* Tensor cores; false when the shape, the alignment or the numerics are not for them. */
bool linear_tiles_fp8(struct stream *stream, const struct linear_args *args);
bool linear_tiles_bf16(struct stream *stream, const struct linear_args *args);

/* The same for more than LINEAR_TOKENS_FEW tokens: a weight is read once for up to 128 of them.
 * `items` are all taken, and have one input: it is converted once. */
#define LINEAR_TOKENS_FEW 16
bool linear_wide_takes(const struct stream *stream, const struct linear_args *args);
void linear_wide(struct stream *stream, const struct linear_args *items, int32_t count);

/* And through cuBLASLt: what linear_wide takes, too, and the stream's choice sends there. */
bool linear_cublas_takes(const struct stream *stream, const struct linear_args *args);
void linear_cublas(struct stream *stream, const struct linear_args *items, int32_t count);

/* At most LINEAR_ITEMS_MAX products of the same more than LINEAR_TOKENS_FEW tokens, each by its
 * way, inputs converted once for all that read one alike; false, and nothing is launched, if one of
 * them is for neither way. */
#define LINEAR_ITEMS_MAX 8
bool linear_many(struct stream *stream, const struct linear_args *items, int32_t count);

/* f32 sums of anything. */
void linear_float(struct stream *stream, const struct linear_args *args);

/* Whether whole blocks of 128 columns and tiles of 8 rows lie on boundaries of vectors. */
#define LINEAR_COLUMNS   128
#define LINEAR_TILE_ROWS 8
static inline bool linear_tiles_fit(const struct linear_args *args)
{
    uintptr_t addresses =
        reinterpret_cast<uintptr_t>(args->weight.data) | reinterpret_cast<uintptr_t>(args->x);
    return args->weight.columns % LINEAR_COLUMNS == 0 &&
           args->weight.rows / args->groups % LINEAR_TILE_ROWS == 0 && addresses % 16 == 0;
}

#endif
