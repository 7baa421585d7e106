/* Token ids to rows of the embedding, once per residual stream. */
#include "kernels/cpu/stream.h"
#include "kernels/lowp.h"

static void embed_token(const void *context, int32_t t)
{
    const struct embed_args *args = context;
    size_t hidden = (size_t)args->table.columns;
    int32_t id = args->ids[t];
    SL_ASSERT(id >= 0 && id < args->table.rows);
    const uint16_t *row = (const uint16_t *)args->table.data + (size_t)id * hidden;
    float *out = args->out + (size_t)t * (size_t)args->streams * hidden;
    for (size_t c = 0; c < hidden; c++)
        out[c] = bf16_decode(row[c]);
    for (int32_t m = 1; m < args->streams; m++)
        memcpy(out + (size_t)m * hidden, out, hidden * sizeof(float));
}

void cpu_embed(struct stream *stream, const struct embed_args *args)
{
    SL_ASSERT(args->table.format == MATRIX_BF16);
    SL_ASSERT(args->streams >= 1 && args->table.columns >= 1);
    stream_run(stream, args->tokens, embed_token, args);
}
