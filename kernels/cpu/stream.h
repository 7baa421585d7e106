/* The CPU's stream: worker threads and a little scratch memory for the ops.
 *
 * Created by ops_cpu()->stream_create; one thread at a time submits ops, and every op is finished
 * when it returns. */
#ifndef SLUICE_KERNELS_CPU_STREAM_H
#define SLUICE_KERNELS_CPU_STREAM_H

#include "kernels/cpu/worker_pool.h"
#include "kernels/ops.h"

/* Room for quantised inputs and pooled rows, e.g. 256 tokens of 4096; also the widest input an op
 * can quantise. */
#define STREAM_SCRATCH_FLOATS (1 << 20)

struct stream {
    struct worker_pool *pool;
    float *scratch;    /* [STREAM_SCRATCH_FLOATS] */
    struct blas *blas; /* of the tables that use OpenBLAS, else NULL */
};

/* Members of every CPU op table; see struct ops. */
enum sl_status cpu_stream_create(const struct stream_options *options, struct stream **out);
void cpu_stream_destroy(struct stream *stream);
enum sl_status cpu_stream_sync(struct stream *stream);

/* Calls fn(context, idx) for idx in 0 .. count-1 on the stream's threads. */
static inline void stream_run(struct stream *stream, int32_t count, worker_fn *fn,
                              const void *context)
{
    worker_pool_run(stream->pool, count, fn, context);
}

#endif
