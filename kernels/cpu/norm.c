/* RMS norm of rows with a weight. */
#include "kernels/cpu/rms.h"
#include "kernels/cpu/stream.h"

static void norm_row(const void *context, int32_t row)
{
    const struct norm_args *args = context;
    size_t first = (size_t)row * (size_t)args->width;
    rms_norm(args->x + first, args->weight, args->out + first, args->width, args->epsilon,
             args->round);
}

void cpu_norm(struct stream *stream, const struct norm_args *args)
{
    SL_ASSERT(args->width >= 1);
    stream_run(stream, args->rows, norm_row, args);
}
