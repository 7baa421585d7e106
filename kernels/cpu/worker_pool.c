/* A fixed set of threads that share the indices of one loop at a time; see the header.
 *
 * `unclaimed` counts down the indices nobody has taken. Whoever lowers it by one owns an index, and
 * the loop cannot end before that index is reported in `unfinished`; so the plain fields fn,
 * context and count may be read after a successful claim, and are written only between loops. */
#include "kernels/cpu/worker_pool.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

/* About 50 microseconds: longer than the gap between two ops, far shorter than one disk read. */
#define SPINS_MAX 1000

struct worker_pool {
    _Alignas(64) _Atomic uint32_t unclaimed;  /* indices not yet taken */
    _Alignas(64) _Atomic uint32_t unfinished; /* indices not yet done; futex of the caller */
    _Alignas(64) _Atomic uint32_t generation; /* changes with every loop; futex of the workers */
    _Atomic uint32_t sleepers;                /* workers that sleep or are about to */
    _Atomic bool caller_sleeps;
    _Atomic bool stopping;
    worker_fn *fn;
    const void *context;
    uint32_t count;
    int32_t worker_count; /* threads started */
    pthread_t workers[];
};

static void futex_wait(_Atomic uint32_t *word, uint32_t expected)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int waiters_max)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, waiters_max, NULL, NULL, 0);
}

static void pause_briefly(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Takes indices and works on them until none is left. */
static void work(struct worker_pool *pool)
{
    uint32_t left = atomic_load_explicit(&pool->unclaimed, memory_order_relaxed);
    while (left > 0) {
        if (!atomic_compare_exchange_weak_explicit(&pool->unclaimed, &left, left - 1,
                                                   memory_order_acquire, memory_order_relaxed))
            continue;
        pool->fn(pool->context, (int32_t)(pool->count - left));
        if (atomic_fetch_sub(&pool->unfinished, 1) == 1 && atomic_load(&pool->caller_sleeps))
            futex_wake(&pool->unfinished, 1);
        left = atomic_load_explicit(&pool->unclaimed, memory_order_relaxed);
    }
}

/* Returns when the generation is no longer `seen`. */
static void wait_for_generation(struct worker_pool *pool, uint32_t seen)
{
    for (int spin = 0; spin < SPINS_MAX; spin++) {
        if (atomic_load(&pool->generation) != seen) return;
        pause_briefly();
    }
    /* The caller changes the generation before it looks at `sleepers`, so either it sees this
     * worker or the kernel sees the change and does not let it sleep. */
    atomic_fetch_add(&pool->sleepers, 1);
    while (atomic_load(&pool->generation) == seen)
        futex_wait(&pool->generation, seen);
    atomic_fetch_sub(&pool->sleepers, 1);
}

static void *worker_main(void *argument)
{
    struct worker_pool *pool = argument;
    uint32_t seen = 0;
    while (!atomic_load(&pool->stopping)) {
        wait_for_generation(pool, seen);
        seen = atomic_load(&pool->generation);
        work(pool);
    }
    return NULL;
}

static void announce(struct worker_pool *pool)
{
    atomic_fetch_add(&pool->generation, 1);
    if (atomic_load(&pool->sleepers) > 0) futex_wake(&pool->generation, INT_MAX);
}

enum sl_status worker_pool_create(int32_t threads, struct worker_pool **out)
{
    SL_ASSERT(out != NULL);
    *out = NULL;
    if (threads < 1 || threads > WORKER_POOL_THREADS_MAX) return SL_ERR_ARGUMENT;
    size_t bytes = sizeof(struct worker_pool) + (size_t)(threads - 1) * sizeof(pthread_t);
    struct worker_pool *pool = aligned_alloc(64, align_up(bytes, 64));
    if (!pool) return SL_ERR_NO_MEMORY;
    atomic_init(&pool->unclaimed, 0);
    atomic_init(&pool->unfinished, 0);
    atomic_init(&pool->generation, 0);
    atomic_init(&pool->sleepers, 0);
    atomic_init(&pool->caller_sleeps, false);
    atomic_init(&pool->stopping, false);
    pool->worker_count = 0;
    if (threads == 1) {
        *out = pool;
        return SL_OK;
    }

    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes) != 0) {
        free(pool);
        return SL_ERR_NO_MEMORY;
    }
    bool started = pthread_attr_setstacksize(&attributes, WORKER_POOL_STACK_BYTES) == 0;
    while (started && pool->worker_count < threads - 1) {
        pthread_t *worker = &pool->workers[pool->worker_count];
        started = pthread_create(worker, &attributes, worker_main, pool) == 0;
        if (started) pool->worker_count++;
    }
    pthread_attr_destroy(&attributes);
    if (!started) {
        worker_pool_destroy(pool);
        return SL_ERR_LIMIT;
    }
    *out = pool;
    return SL_OK;
}

void worker_pool_destroy(struct worker_pool *pool)
{
    if (!pool) return;
    SL_ASSERT(atomic_load(&pool->unfinished) == 0);
    atomic_store(&pool->stopping, true);
    announce(pool);
    for (int32_t i = 0; i < pool->worker_count; i++)
        pthread_join(pool->workers[i], NULL);
    free(pool);
}

/* Returns when every index is done. */
static void wait_for_end(struct worker_pool *pool)
{
    for (int spin = 0; spin < SPINS_MAX; spin++) {
        if (atomic_load(&pool->unfinished) == 0) return;
        pause_briefly();
    }
    atomic_store(&pool->caller_sleeps, true);
    uint32_t left;
    while ((left = atomic_load(&pool->unfinished)) > 0)
        futex_wait(&pool->unfinished, left);
    atomic_store(&pool->caller_sleeps, false);
}

void worker_pool_run(struct worker_pool *pool, int32_t count, worker_fn *fn, const void *context)
{
    SL_ASSERT(count >= 0);
    if (pool->worker_count == 0 || count <= 1) {
        for (int32_t idx = 0; idx < count; idx++)
            fn(context, idx);
        return;
    }
    SL_ASSERT(atomic_load(&pool->unfinished) == 0);
    pool->fn = fn;
    pool->context = context;
    pool->count = (uint32_t)count;
    atomic_store(&pool->unfinished, (uint32_t)count);
    atomic_store_explicit(&pool->unclaimed, (uint32_t)count, memory_order_release);
    announce(pool);
    work(pool);
    wait_for_end(pool);
}
