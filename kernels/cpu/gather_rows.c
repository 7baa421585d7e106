/* Rows picked by a list: out[row] = source[row]. */
#include "kernels/cpu/stream.h"

#include <string.h>

void cpu_gather_rows(struct stream *stream, const struct gather_rows_args *args)
{
    (void)stream;
    SL_ASSERT(args->count >= 0 && args->width > 0);
    for (int32_t i = 0; i < args->count; i++) {
        if (args->rows[i] < 0) continue;
        size_t first = (size_t)args->rows[i] * (size_t)args->width;
        memcpy(args->out + first, args->source + first, sizeof(float) * (size_t)args->width);
    }
}
