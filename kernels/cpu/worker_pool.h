/* A fixed set of threads that work through the indices of loops, while the caller helps or does
 * something else.
 *
 * Owned by a stream. One thread at a time, the caller, submits, waits and runs; it counts as worker
 * 0. No locks: threads take indices from atomic counters, and an idle worker spins for a bounded
 * time and then sleeps in the kernel. Nothing is allocated after create.
 *
 * Every loop is cut into one contiguous share of its indices per worker, those of a NUMA node's
 * workers side by side and at the same place for the same count, so that the rows of a matrix are
 * read in long runs and by the same node each time; who has finished his share takes from the
 * others, on his node first.
 * Memory is not placed by this: experts' slots are best interleaved over the nodes, until the
 * memory of weights is first touched by the shares that read it. What a loop computes must depend
 * on neither. */
#ifndef SLUICE_KERNELS_CPU_WORKER_POOL_H
#define SLUICE_KERNELS_CPU_WORKER_POOL_H

#include "kernels/base.h"

#include <stdatomic.h>

#define WORKER_POOL_THREADS_MAX 1024

/* How long an idle worker, or a caller that waits, spins before it sleeps, unless told otherwise:
 * longer than the gap between two ops, far shorter than one disk read. */
#define WORKER_POOL_SPIN_US     50
#define WORKER_POOL_SPIN_US_MAX 1000000

/* Guaranteed to a worker function; the largest op keeps about 400 KiB on its stack. */
#define WORKER_POOL_STACK_BYTES (2u << 20)

struct worker_pool;

/* Workers are pinned to their CPUs. The caller is left where the system puts it; a worker on whose
 * CPU it is found changes to cpus[0], which then is free, so all of them must suit any. A second
 * hardware thread of a worker's core is not noticed. */
struct worker_pool_options {
    int32_t threads;      /* the caller among them, so 1 starts none */
    int32_t spin_us;      /* up to WORKER_POOL_SPIN_US_MAX; 0: WORKER_POOL_SPIN_US */
    const int32_t *cpus;  /* [threads] CPU of each, -1: any; NULL: any for all */
    const int32_t *nodes; /* [threads] NUMA node of each, 0 .. threads-1; NULL: all on one */
};

/* Does the part `idx` of a loop; must not call the pool it runs on. */
typedef void worker_fn(const void *context, int32_t idx);

/* fn(context, idx) for each idx in 0 .. count-1, in no particular order. */
struct worker_loop {
    worker_fn *fn;
    const void *context;
    int32_t count;
};

/* Loops one after the other: what one wrote is visible to the next. The caller's memory, with all
 * it points to, from submit until the job is done. */
struct worker_job {
    const struct worker_loop *loops; /* [loop_count] */
    int32_t loop_count;
    atomic_bool done; /* the pool's */
};

/* SL_ERR_ARGUMENT for a number outside its bounds, SL_ERR_NO_MEMORY, SL_ERR_LIMIT when the system
 * refuses another thread. A CPU that cannot be had leaves its worker unpinned; see
 * worker_pool_pinned. */
SL_MUST_USE enum sl_status worker_pool_create(const struct worker_pool_options *options,
                                              struct worker_pool **out);

/* Ends the threads; NULL is allowed. No job may be in progress. */
void worker_pool_destroy(struct worker_pool *pool);

/* How many threads work, the caller among them. */
int32_t worker_pool_threads(const struct worker_pool *pool);

/* How many workers run on one CPU each. */
int32_t worker_pool_pinned(const struct worker_pool *pool);

/* Hands a job to the workers and returns at once; none may be in progress. A pool of one thread has
 * no workers: the job then waits for worker_pool_wait. */
void worker_pool_submit(struct worker_pool *pool, struct worker_job *job);

/* True when the job is over, and what it wrote is visible. A look at a flag: ask as often as you
 * like. Once it says true the job's memory is free and waiting is not needed. */
static inline bool worker_pool_done(const struct worker_job *job)
{
    return atomic_load_explicit(&job->done, memory_order_acquire);
}

/* Works along until the job is done; at once when it is. */
void worker_pool_wait(struct worker_pool *pool, struct worker_job *job);

/* Submits one loop and waits for it. */
void worker_pool_run(struct worker_pool *pool, int32_t count, worker_fn *fn, const void *context);

#endif
