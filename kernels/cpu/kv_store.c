/* Key/value rows into the ring of window rows. On the calling thread alone: encoding is cheap, and
 * of two positions that share a slot the later token must win. */
#include "kernels/cpu/row_codec.h"
#include "kernels/cpu/stream.h"

void cpu_kv_store(struct stream *stream, const struct kv_store_args *args)
{
    SL_ASSERT(stream != NULL);
    SL_ASSERT(row_codec_supported(&args->format));
    SL_ASSERT(args->capacity >= 1);
    size_t row_bytes = row_format_bytes(&args->format);
    size_t width = (size_t)row_codec_width(&args->format);
    for (int32_t t = 0; t < args->tokens; t++) {
        SL_ASSERT(args->positions[t] >= 0);
        size_t slot = (size_t)(args->positions[t] % args->capacity);
        row_codec_encode(&args->format, args->x + (size_t)t * width, args->rows + slot * row_bytes);
    }
}
