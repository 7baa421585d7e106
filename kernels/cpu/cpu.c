/* The table of CPU ops and the life of a CPU stream.
 *
 * A stream owns its threads and scratch; ops run on the calling thread and those threads and have
 * finished when they return, so sync has nothing to wait for and no fault to report. */
#include "kernels/cpu/stream.h"

enum sl_status cpu_stream_create(const struct stream_options *options, struct stream **out)
{
    enum sl_status status = SL_ERR_NO_MEMORY;
    *out = NULL;
    struct stream *stream = calloc(1, sizeof *stream);
    if (!stream) return SL_ERR_NO_MEMORY;
    stream->scratch = aligned_alloc(64, STREAM_SCRATCH_FLOATS * sizeof(float));
    if (!stream->scratch) goto fail;
    struct worker_pool_options pool = {
        .threads = options->threads, .cpus = options->cpus, .nodes = options->nodes};
    status = worker_pool_create(&pool, &stream->pool);
    if (status != SL_OK) goto fail;
    *out = stream;
    return SL_OK;
fail:
    free(stream->scratch);
    free(stream);
    return status;
}

void cpu_stream_destroy(struct stream *stream)
{
    if (!stream) return;
    worker_pool_destroy(stream->pool);
    free(stream->scratch);
    free(stream);
}

enum sl_status cpu_stream_sync(struct stream *stream)
{
    SL_ASSERT(stream != NULL);
    return SL_OK;
}

int32_t cpu_stream_pinned(const struct stream *stream)
{
    return worker_pool_pinned(stream->pool);
}

const struct ops *ops_cpu(void)
{
    static const struct ops table = {
        .name = "cpu",
        .stream_create = cpu_stream_create,
        .stream_destroy = cpu_stream_destroy,
        .stream_sync = cpu_stream_sync,
#define X(op) .op = cpu_##op,
        SL_OPS(X)
#undef X
    };
    return &table;
}
