/* A fixed set of threads that work through the indices of loops; see the header.
 *
 * The `range` of a share holds the indices nobody has taken. Whoever shortens it by one owns an
 * index, and the loop cannot end before that index is reported in `unfinished`; so the plain field
 * `loop` may be read after a successful claim. It is written only while nobody holds an index: by
 * submit, and by the thread that reports the last index of a loop and starts the next. A thread
 * that comes late from an earlier loop just takes an index of the present one.
 *
 * A share is taken from the front by its thread and from the back by others, so that each thread
 * reads memory in one run as far as it can: jumping between runs of 128 KiB costs a fifth of the
 * read bandwidth.
 *
 * A worker that wakes is often put on the CPU of the caller who wakes it, above all on virtual
 * machines, where an idle CPU looks taken; it then waits there for as long as the caller works, and
 * the loop takes one thread's time. So workers are pinned, and moved where the caller is found on
 * the CPU of one: a look at each submit, a call of the system only after a move. */
#include "kernels/cpu/worker_pool.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Pauses between two looks at the clock; some microseconds at most. */
#define SPINS_PER_LOOK 32

/* The indices of one thread. Shares are in the order of the threads' nodes. */
struct share {
    _Alignas(64) _Atomic uint64_t range; /* first index << 32 | the index after the last */
};

struct worker {
    struct worker_pool *pool;
    pthread_t thread;   /* of the caller: unset */
    int32_t cpu;        /* it is pinned to, -1: none; of the caller: the one nobody is */
    int32_t share;      /* its own */
    int32_t node_first; /* the shares of its node */
    int32_t node_end;
};

struct worker_pool {
    _Alignas(64) _Atomic uint32_t unfinished; /* indices of the loop not yet reported */
    _Alignas(64) _Atomic uint32_t generation; /* changes with every loop; futex of the workers */
    _Atomic uint32_t sleepers;                /* workers that sleep or are about to */
    _Atomic bool stopping;
    _Alignas(64) _Atomic uint32_t progress; /* with every loop and job; futex of the caller */
    _Atomic bool caller_sleeps;
    _Alignas(64) const struct worker_loop *loop; /* the present one */
    struct worker_job *job;                      /* NULL: none in progress */
    int32_t next_loop;                           /* of the job */
    struct share *shares;                        /* [thread_count] */
    int32_t thread_count;                        /* the caller among them */
    int32_t started;                             /* workers[1 .. started] have a thread */
    int32_t pinned;                              /* workers */
    int32_t caller_cpu;                          /* when it last submitted */
    int64_t spin_ns;
    struct worker workers[]; /* [thread_count] */
};

/* ---- waiting ------------------------------------------------------------------------------ */

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

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* True as soon as `word` is no longer `seen`, false after `spin_ns`. */
static bool spin_while(_Atomic uint32_t *word, uint32_t seen, int64_t spin_ns)
{
    int64_t end_ns = 0;
    for (;;) {
        for (int spin = 0; spin < SPINS_PER_LOOK; spin++) {
            if (atomic_load(word) != seen) return true;
            pause_briefly();
        }
        int64_t time_ns = now_ns();
        if (end_ns == 0) end_ns = time_ns + spin_ns;
        if (time_ns >= end_ns) return false;
    }
}

/* Returns when the generation is no longer `seen`. */
static void wait_for_generation(struct worker_pool *pool, uint32_t seen)
{
    if (spin_while(&pool->generation, seen, pool->spin_ns)) return;
    /* The generation changes before anyone looks at `sleepers`, so either this worker is seen or
     * the kernel sees the change and does not let it sleep. The same goes for the caller below. */
    atomic_fetch_add(&pool->sleepers, 1);
    while (atomic_load(&pool->generation) == seen)
        futex_wait(&pool->generation, seen);
    atomic_fetch_sub(&pool->sleepers, 1);
}

/* Returns when the progress is no longer `seen`. */
static void wait_for_progress(struct worker_pool *pool, uint32_t seen)
{
    if (spin_while(&pool->progress, seen, pool->spin_ns)) return;
    atomic_store(&pool->caller_sleeps, true);
    while (atomic_load(&pool->progress) == seen)
        futex_wait(&pool->progress, seen);
    atomic_store(&pool->caller_sleeps, false);
}

static void tell_workers(struct worker_pool *pool)
{
    atomic_fetch_add(&pool->generation, 1);
    if (atomic_load(&pool->sleepers) > 0) futex_wake(&pool->generation, INT_MAX);
}

static void tell_caller(struct worker_pool *pool)
{
    atomic_fetch_add(&pool->progress, 1);
    if (atomic_load(&pool->caller_sleeps)) futex_wake(&pool->progress, 1);
}

/* ---- working ------------------------------------------------------------------------------ */

/* Cuts the indices into the threads' shares and opens them. */
static void deal(struct worker_pool *pool, int32_t count)
{
    uint64_t threads = (uint64_t)pool->thread_count;
    uint64_t first = 0;
    atomic_store_explicit(&pool->unfinished, (uint32_t)count, memory_order_relaxed);
    for (uint64_t i = 0; i < threads; i++) {
        uint64_t end = (uint64_t)count * (i + 1) / threads;
        atomic_store_explicit(&pool->shares[i].range, first << 32 | end, memory_order_release);
        first = end;
    }
}

/* Starts the job's next loop that has indices, or ends the job. Only while nobody holds an index.
 */
static void advance(struct worker_pool *pool)
{
    struct worker_job *job = pool->job;
    while (pool->next_loop < job->loop_count) {
        const struct worker_loop *loop = &job->loops[pool->next_loop++];
        SL_ASSERT(loop->count >= 0);
        if (loop->count == 0) continue;
        pool->loop = loop;
        deal(pool, loop->count);
        tell_workers(pool);
        tell_caller(pool);
        return;
    }
    pool->job = NULL;
    /* From here on the job's memory is the caller's, and the next job may be on its way. */
    atomic_store_explicit(&job->done, true, memory_order_release);
    tell_caller(pool);
}

static bool claim(struct share *share, bool from_front, int32_t *idx)
{
    uint64_t range = atomic_load_explicit(&share->range, memory_order_relaxed);
    for (;;) {
        uint32_t first = (uint32_t)(range >> 32), end = (uint32_t)range;
        if (first == end) return false;
        uint64_t rest = from_front ? range + ((uint64_t)1 << 32) : range - 1;
        *idx = (int32_t)(from_front ? first : end - 1);
        if (atomic_compare_exchange_weak_explicit(&share->range, &range, rest, memory_order_acquire,
                                                  memory_order_relaxed))
            return true;
    }
}

/* An index of the own share, or else of one on the same node, or else of any. */
static bool claim_any(struct worker_pool *pool, const struct worker *worker, int32_t *idx)
{
    if (claim(&pool->shares[worker->share], true, idx)) return true;
    for (int32_t i = worker->node_first; i < worker->node_end; i++)
        if (claim(&pool->shares[i], false, idx)) return true;
    for (int32_t i = 0; i < pool->thread_count; i++)
        if (claim(&pool->shares[i], false, idx)) return true;
    return false;
}

/* Takes indices and works on them until there is none to take. */
static void work(const struct worker *worker)
{
    struct worker_pool *pool = worker->pool;
    for (;;) {
        /* Reported together: the loop cannot end in between, so all are of the same one. */
        uint32_t finished = 0;
        for (int32_t idx; claim_any(pool, worker, &idx); finished++)
            pool->loop->fn(pool->loop->context, idx);
        if (finished == 0) return;
        if (atomic_fetch_sub(&pool->unfinished, finished) == finished) advance(pool);
    }
}

static void *worker_main(void *argument)
{
    const struct worker *worker = argument;
    struct worker_pool *pool = worker->pool;
    uint32_t seen = 0;
    while (!atomic_load(&pool->stopping)) {
        wait_for_generation(pool, seen);
        seen = atomic_load(&pool->generation);
        work(worker);
    }
    return NULL;
}

/* ---- life --------------------------------------------------------------------------------- */

static bool options_are_valid(const struct worker_pool_options *options)
{
    int32_t threads = options->threads;
    if (threads < 1 || threads > WORKER_POOL_THREADS_MAX) return false;
    if (options->spin_us < 0 || options->spin_us > WORKER_POOL_SPIN_US_MAX) return false;
    for (int32_t i = 0; options->nodes && i < threads; i++)
        if (options->nodes[i] < 0 || options->nodes[i] >= threads) return false;
    return true;
}

/* Gives each worker its share, those of a node side by side. */
static void assign_shares(struct worker_pool *pool, const int32_t *nodes)
{
    int32_t assigned = 0;
    for (int32_t node = 0; assigned < pool->thread_count; node++) {
        int32_t first = assigned;
        for (int32_t i = 0; i < pool->thread_count; i++)
            if ((nodes ? nodes[i] : 0) == node) pool->workers[i].share = assigned++;
        for (int32_t i = 0; i < pool->thread_count; i++) {
            if ((nodes ? nodes[i] : 0) != node) continue;
            pool->workers[i].node_first = first;
            pool->workers[i].node_end = assigned;
        }
    }
}

/* The pool with its shares, without threads; NULL when memory ran out. */
static struct worker_pool *make_pool(const struct worker_pool_options *options)
{
    int32_t threads = options->threads;
    size_t pool_bytes = sizeof(struct worker_pool) + (size_t)threads * sizeof(struct worker);
    struct worker_pool *pool = aligned_alloc(64, align_up(pool_bytes, 64));
    struct share *shares = aligned_alloc(64, (size_t)threads * sizeof *shares);
    if (!pool || !shares) {
        free(pool);
        free(shares);
        return NULL;
    }
    int32_t spin_us = options->spin_us ? options->spin_us : WORKER_POOL_SPIN_US;
    *pool = (struct worker_pool){.shares = shares,
                                 .thread_count = threads,
                                 .caller_cpu = -1,
                                 .spin_ns = (int64_t)spin_us * 1000};
    for (int32_t i = 0; i < threads; i++) {
        shares[i] = (struct share){0};
        pool->workers[i] = (struct worker){.pool = pool, .cpu = -1};
    }
    assign_shares(pool, options->nodes);
    return pool;
}

/* False for -1 and for a number that no set can hold. */
static bool make_cpu_set(int32_t cpu, cpu_set_t *out)
{
    CPU_ZERO(out);
    if (cpu < 0 || cpu >= CPU_SETSIZE) return false;
    CPU_SET((size_t)cpu, out);
    return true;
}

static bool start_thread(struct worker *worker, const cpu_set_t *cpus)
{
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes) != 0) return false;
    /* Pinned by attribute, so that its stack is first touched on the node where it stays. */
    bool started = pthread_attr_setstacksize(&attributes, WORKER_POOL_STACK_BYTES) == 0 &&
                   (!cpus || pthread_attr_setaffinity_np(&attributes, sizeof *cpus, cpus) == 0) &&
                   pthread_create(&worker->thread, &attributes, worker_main, worker) == 0;
    pthread_attr_destroy(&attributes);
    return started;
}

/* Starts the next worker, on `cpu` if the system lets it. */
static bool start_worker(struct worker_pool *pool, int32_t cpu)
{
    struct worker *worker = &pool->workers[pool->started + 1];
    cpu_set_t cpus;
    bool pinned = make_cpu_set(cpu, &cpus) && start_thread(worker, &cpus);
    if (!pinned && !start_thread(worker, NULL)) return false;
    worker->cpu = pinned ? cpu : -1;
    pool->pinned += pinned;
    pool->started++;
    return true;
}

enum sl_status worker_pool_create(const struct worker_pool_options *options,
                                  struct worker_pool **out)
{
    SL_ASSERT(options && out);
    *out = NULL;
    if (!options_are_valid(options)) return SL_ERR_ARGUMENT;
    struct worker_pool *pool = make_pool(options);
    if (!pool) return SL_ERR_NO_MEMORY;
    for (int32_t i = 1; i < options->threads; i++) {
        if (start_worker(pool, options->cpus ? options->cpus[i] : -1)) continue;
        worker_pool_destroy(pool);
        return SL_ERR_LIMIT;
    }
    if (options->cpus) pool->workers[0].cpu = options->cpus[0];
    *out = pool;
    return SL_OK;
}

void worker_pool_destroy(struct worker_pool *pool)
{
    if (!pool) return;
    SL_ASSERT(pool->job == NULL);
    atomic_store(&pool->stopping, true);
    tell_workers(pool);
    for (int32_t i = 1; i <= pool->started; i++)
        pthread_join(pool->workers[i].thread, NULL);
    free(pool->shares);
    free(pool);
}

int32_t worker_pool_threads(const struct worker_pool *pool)
{
    return pool->thread_count;
}

int32_t worker_pool_pinned(const struct worker_pool *pool)
{
    return pool->pinned;
}

/* ---- jobs --------------------------------------------------------------------------------- */

/* Moves the worker on whose CPU the caller is now to the one that is nobody's. */
static void keep_off_caller(struct worker_pool *pool)
{
    cpu_set_t cpus;
    int cpu = sched_getcpu();
    if (cpu == pool->caller_cpu) return;
    pool->caller_cpu = cpu;
    for (int32_t i = 1; i <= pool->started; i++) {
        struct worker *worker = &pool->workers[i];
        if (worker->cpu != cpu || !make_cpu_set(pool->workers[0].cpu, &cpus)) continue;
        if (pthread_setaffinity_np(worker->thread, sizeof cpus, &cpus) != 0) return;
        worker->cpu = pool->workers[0].cpu;
        pool->workers[0].cpu = cpu;
        return;
    }
}

void worker_pool_submit(struct worker_pool *pool, struct worker_job *job)
{
    SL_ASSERT(pool->job == NULL);
    if (pool->pinned > 0) keep_off_caller(pool);
    SL_ASSERT(job->loop_count >= 0);
    atomic_store_explicit(&job->done, false, memory_order_relaxed);
    pool->job = job;
    pool->next_loop = 0;
    advance(pool);
}

void worker_pool_wait(struct worker_pool *pool, struct worker_job *job)
{
    for (;;) {
        uint32_t seen = atomic_load(&pool->progress);
        work(&pool->workers[0]);
        if (worker_pool_done(job)) return;
        wait_for_progress(pool, seen);
    }
}

void worker_pool_run(struct worker_pool *pool, int32_t count, worker_fn *fn, const void *context)
{
    SL_ASSERT(count >= 0);
    if (pool->started == 0 || count <= 1) {
        for (int32_t idx = 0; idx < count; idx++)
            fn(context, idx);
        return;
    }
    struct worker_loop loop = {.fn = fn, .context = context, .count = count};
    struct worker_job job = {.loops = &loop, .loop_count = 1};
    worker_pool_submit(pool, &job);
    worker_pool_wait(pool, &job);
}
