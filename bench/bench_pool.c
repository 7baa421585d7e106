/* What the worker pool costs by itself: empty loops, and empty jobs the caller only looks at, with
 * workers that spin and with workers that sleep. Then what threads bring: loops of arithmetic
 * beside one thread's time, workers on cores of their own and left to the system. */
#include "bench/bench.h"

#include "kernels/cpu/worker_pool.h"
#include "offload/topology.h"

#include <time.h>

#define BATCHES        101 /* a sample is their median, so that being preempted does not count */
#define BATCH          20  /* times of what takes less than the clock can tell */
#define BATCHES_ASLEEP 31

#define SHARED_PARTS 32    /* of a loop that is shared */
#define SHARED_STEPS 20000 /* of a part, some 25 us */
#define SHARED_LOOPS 20    /* a sample is their mean: it counts who waits now and then */

/* Every thread of the loop waits for all of them. */
struct meeting {
    _Atomic uint32_t come;
    uint32_t awaited;
};

struct pool_bench {
    const struct bench_options *options;
    struct worker_pool *pool;
    int32_t threads;
    struct worker_loop loops[2];
    struct worker_job job;
};

static void do_nothing(const void *context, int32_t idx)
{
    (void)context, (void)idx;
}

static void meet(const void *context, int32_t idx)
{
    struct meeting *meeting = *(struct meeting *const *)context;
    (void)idx;
    atomic_fetch_add(&meeting->come, 1);
    while ((int32_t)(atomic_load(&meeting->come) - meeting->awaited) < 0)
        continue;
}

/* Each of these returns nanoseconds a time, for one batch. */
typedef double batch_fn(struct pool_bench *bench);

static double run_loops(struct pool_bench *bench)
{
    uint64_t start_ns = bench_now_ns();
    for (int32_t i = 0; i < BATCH; i++)
        worker_pool_run(bench->pool, bench->threads, do_nothing, NULL);
    return (double)(bench_now_ns() - start_ns) / BATCH;
}

static double run_meetings(struct pool_bench *bench)
{
    struct meeting meeting = {0}, *pointer = &meeting;
    uint64_t start_ns = bench_now_ns();
    for (int32_t i = 0; i < BATCH; i++) {
        meeting.awaited += (uint32_t)bench->threads;
        worker_pool_run(bench->pool, bench->threads, meet, &pointer);
    }
    return (double)(bench_now_ns() - start_ns) / BATCH;
}

static void see_done(struct pool_bench *bench)
{
    while (!worker_pool_done(&bench->job))
        continue;
}

static double submit_jobs(struct pool_bench *bench)
{
    uint64_t start_ns = bench_now_ns();
    for (int32_t i = 0; i < BATCH; i++) {
        worker_pool_submit(bench->pool, &bench->job);
        see_done(bench);
    }
    return (double)(bench_now_ns() - start_ns) / BATCH;
}

static uint64_t let_workers_sleep(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    return bench_now_ns();
}

static double submit_to_sleepers(struct pool_bench *bench)
{
    uint64_t start_ns = let_workers_sleep();
    worker_pool_submit(bench->pool, &bench->job);
    see_done(bench);
    return (double)(bench_now_ns() - start_ns);
}

static double submit_alone_to_sleepers(struct pool_bench *bench)
{
    uint64_t start_ns = let_workers_sleep();
    worker_pool_submit(bench->pool, &bench->job);
    uint64_t end_ns = bench_now_ns();
    see_done(bench);
    return (double)(end_ns - start_ns);
}

static void measure(struct pool_bench *bench, const char *what, batch_fn *batch)
{
    double samples[BENCH_SAMPLES_MAX];
    char name[96];
    bool asleep = batch == submit_to_sleepers || batch == submit_alone_to_sleepers;
    int32_t batches = asleep ? BATCHES_ASLEEP : BATCHES;
    for (int32_t round = 0; round < bench->options->rounds; round++) {
        double times[BATCHES];
        for (int32_t i = 0; i < batches; i++)
            times[i] = batch(bench);
        samples[round] = bench_percentile(times, batches, 50);
    }
    snprintf(name, sizeof name, "%s, %d thread%s", what, (int)bench->threads,
             bench->threads == 1 ? "" : "s");
    bench_print(bench->options, &(struct bench_line){.bench = "pool",
                                                     .name = name,
                                                     .unit = "ns",
                                                     .samples = samples,
                                                     .count = bench->options->rounds});
}

/* ---- loops with work in them -------------------------------------------------------------- */

static void count_up(const void *context, int32_t idx)
{
    uint64_t *sums = *(uint64_t *const *)context;
    uint64_t sum = (uint64_t)idx;
    for (int i = 0; i < SHARED_STEPS; i++)
        sum = sum * 6364136223846793005u + 1;
    sums[idx] = sum;
}

/* us of a loop, on average; before each, the caller sleeps for `idle_us`. */
static double shared_loop_us(struct worker_pool *pool, long idle_us)
{
    uint64_t sums[SHARED_PARTS] = {0}, *pointer = sums, elapsed_ns = 0;
    for (int i = 0; i < SHARED_LOOPS; i++) {
        if (idle_us) nanosleep(&(struct timespec){.tv_nsec = idle_us * 1000}, NULL);
        uint64_t start_ns = bench_now_ns();
        worker_pool_run(pool, SHARED_PARTS, count_up, &pointer);
        elapsed_ns += bench_now_ns() - start_ns;
    }
    SL_ASSERT(sums[0] != 0);
    return (double)elapsed_ns / 1e3 / SHARED_LOOPS;
}

static void measure_shared(struct pool_bench *bench, struct worker_pool *alone, const char *how,
                           long idle_us)
{
    double samples[BENCH_SAMPLES_MAX], bounds[BENCH_SAMPLES_MAX], ratios[BENCH_SAMPLES_MAX];
    int32_t rounds = bench->options->rounds;
    char name[96];
    for (int32_t round = 0; round < rounds; round++) {
        bounds[round] = shared_loop_us(alone, 0) / bench->threads;
        samples[round] = shared_loop_us(bench->pool, idle_us);
        ratios[round] = bounds[round] / samples[round];
    }
    snprintf(name, sizeof name, "loop of work after %ld us, %d threads, %s", idle_us,
             (int)bench->threads, how);
    bench_print(bench->options,
                &(struct bench_line){.bench = "pool",
                                     .name = name,
                                     .unit = "us",
                                     .samples = samples,
                                     .count = rounds,
                                     .ceiling = bench_percentile(bounds, rounds, 50),
                                     .ratio = bench_percentile(ratios, rounds, 50)});
}

static bool make_pool(struct pool_bench *bench, const struct topology *topology, bool on_cores)
{
    int32_t cpus[TOPOLOGY_CORES_MAX], nodes[TOPOLOGY_CORES_MAX];
    struct worker_pool_options options = {.threads = bench->threads};
    if (on_cores && bench->threads <= topology->core_count) {
        topology_place(topology, bench->threads, cpus, nodes);
        options.cpus = cpus;
        options.nodes = nodes;
    }
    return worker_pool_create(&options, &bench->pool) == SL_OK;
}

static bool share_work(struct pool_bench *bench, const struct topology *topology)
{
    static const long idle_us[] = {0, 200, 2000, 20000};
    struct worker_pool *alone;
    if (worker_pool_create(&(struct worker_pool_options){.threads = 1}, &alone) != SL_OK)
        return false;
    bool made = true;
    for (int on_cores = 1; on_cores >= 0 && made; on_cores--) {
        made = make_pool(bench, topology, on_cores);
        for (size_t i = 0; made && i < SL_COUNT_OF(idle_us); i++)
            measure_shared(bench, alone, on_cores ? "on cores" : "left to the system", idle_us[i]);
        if (made) worker_pool_destroy(bench->pool);
    }
    worker_pool_destroy(alone);
    return made;
}

int bench_pool(const struct bench_options *options)
{
    struct topology topology;
    topology_detect(&topology);
    int32_t threads_max = min_i32(options->threads, WORKER_POOL_THREADS_MAX);
    for (int32_t threads = 1;; threads = min_i32(2 * threads, threads_max)) {
        struct pool_bench bench = {.options = options, .threads = threads};
        /* An index for each thread that works; the caller of a job does not. */
        bench.loops[0] = bench.loops[1] =
            (struct worker_loop){.fn = do_nothing, .count = threads - 1};
        bench.job.loops = bench.loops;
        if (!make_pool(&bench, &topology, true)) {
            fprintf(stderr, "sluice-bench: cannot start %d threads\n", (int)threads);
            return 1;
        }
        measure(&bench, "empty loop", run_loops);
        if (threads > 1) {
            measure(&bench, "loop that every thread joins", run_meetings);
            bench.job.loop_count = 1;
            measure(&bench, "submit to done", submit_jobs);
            measure(&bench, "submit to done, workers asleep", submit_to_sleepers);
            measure(&bench, "submit alone, workers asleep", submit_alone_to_sleepers);
            bench.job.loop_count = 2;
            measure(&bench, "submit to done, two loops", submit_jobs);
        }
        worker_pool_destroy(bench.pool);
        if (threads > 1 && !share_work(&bench, &topology)) return 1;
        if (threads == threads_max) return 0;
    }
}
