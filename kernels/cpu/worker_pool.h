/* A fixed set of threads that share the indices of one loop at a time.
 *
 * Owned by a stream. One thread at a time calls run; it works along with the others and returns
 * when every index is done. Idle workers spin for a moment and then sleep in the kernel. */
#ifndef SLUICE_KERNELS_CPU_WORKER_POOL_H
#define SLUICE_KERNELS_CPU_WORKER_POOL_H

#include "kernels/base.h"

#define WORKER_POOL_THREADS_MAX 1024

/* Guaranteed to a worker function; the largest op keeps about 400 KiB on its stack. */
#define WORKER_POOL_STACK_BYTES (2u << 20)

struct worker_pool;

/* Does the part `idx` of a loop; must not call worker_pool_run on the same pool. */
typedef void worker_fn(const void *context, int32_t idx);

/* A pool of `threads` threads, the caller of run among them, so 1 starts none. SL_ERR_ARGUMENT
 * outside 1 .. WORKER_POOL_THREADS_MAX, SL_ERR_NO_MEMORY, SL_ERR_LIMIT when the system refuses
 * another thread. */
SL_MUST_USE enum sl_status worker_pool_create(int32_t threads, struct worker_pool **out);

/* Ends the threads; NULL is allowed. No run may be in progress. */
void worker_pool_destroy(struct worker_pool *pool);

/* Calls fn(context, idx) once for each idx in 0 .. count-1, in no particular order, and returns
 * when all calls have returned; what they wrote is then visible to the caller. */
void worker_pool_run(struct worker_pool *pool, int32_t count, worker_fn *fn, const void *context);

#endif
