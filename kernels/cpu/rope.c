/* Rotary positions of query, key and output heads, forward and inverse. */
#include "kernels/cpu/rotation.h"
#include "kernels/cpu/stream.h"

static void rope_token(const void *context, int32_t t)
{
    const struct rope_args *args = context;
    struct rotation rotation;
    rotation_init(&rotation, args->positions[t], args->frequencies, args->rotary / 2);
    for (int32_t h = 0; h < args->heads; h++) {
        size_t row = (size_t)t * (size_t)args->heads + (size_t)h;
        float *slice = args->x + (row + 1) * (size_t)args->width - args->rotary;
        rotation_apply(&rotation, slice, args->inverse, args->round);
    }
}

void cpu_rope(struct stream *stream, const struct rope_args *args)
{
    SL_ASSERT(args->rotary >= 0 && args->rotary % 2 == 0);
    SL_ASSERT(args->rotary <= args->width && args->rotary <= OPS_HEAD_DIM_MAX);
    stream_run(stream, args->tokens, rope_token, args);
}
