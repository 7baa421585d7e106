/* Attention for every row format and width, without scratch memory: a block for each token and
 * head. attention.cu uses it where its own kernels do not apply. */
#ifndef SLUICE_KERNELS_CUDA_ATTENTION_PLAIN_CUH
#define SLUICE_KERNELS_CUDA_ATTENTION_PLAIN_CUH

#include "kernels/cuda/stream.h"

/* Shapes have been checked. */
void attention_plain(struct stream *stream, const struct attention_args *args);

#endif
