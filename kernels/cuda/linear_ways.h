/* What a GPU stream knows of the ways of its linears of many tokens, beside what every op sees. */
#ifndef SLUICE_KERNELS_CUDA_LINEAR_WAYS_H
#define SLUICE_KERNELS_CUDA_LINEAR_WAYS_H

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/stream.h"

/* Every stream of cuda_stream_create begins one. */
struct linear_ways {
    struct stream stream;
    enum cuda_linears linears; /* which way they take */
    struct cublas *cublas;     /* the stream's; NULL: not loaded */
};

static inline const struct linear_ways *linear_ways_of(const struct stream *stream)
{
    return (const struct linear_ways *)stream;
}

#endif
