/* The three ways of a linear, for its launcher alone: each takes what it can and says so. */
#ifndef SLUICE_KERNELS_CUDA_LINEAR_CUH
#define SLUICE_KERNELS_CUDA_LINEAR_CUH

#include "kernels/cuda/stream.h"

/* Tensor cores; false when the shape, the alignment or the numerics are not for them. */
bool linear_tiles_fp8(struct stream *stream, const struct linear_args *args);
bool linear_tiles_bf16(struct stream *stream, const struct linear_args *args);

/* f32 sums of anything. */
void linear_float(struct stream *stream, const struct linear_args *args);

#endif
