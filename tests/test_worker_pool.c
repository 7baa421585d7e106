/* labels: unit */
/* The worker pool: every index once, everything visible afterwards, asleep or awake, with a caller
 * who helps or does not, on one node or several. */
#include "kernels/cpu/worker_pool.h"
#include "tests/support.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <time.h>

#define COUNT_MAX 4096

struct tally {
    _Atomic int calls[COUNT_MAX];
    int64_t *values; /* [COUNT_MAX], plain memory: visibility is the pool's promise */
    int64_t factor;
};

static void count_call(const void *context, int32_t idx)
{
    const struct tally *tally = context;
    atomic_fetch_add_explicit((_Atomic int *)&tally->calls[idx], 1, memory_order_relaxed);
    tally->values[idx] = idx * tally->factor;
}

static struct worker_pool *make_pool(const struct worker_pool_options *options)
{
    struct worker_pool *pool = NULL;
    assert_int_equal(worker_pool_create(options, &pool), SL_OK);
    return pool;
}

static struct worker_pool *plain_pool(int32_t threads)
{
    return make_pool(&(struct worker_pool_options){.threads = threads});
}

static void sleep_us(long us)
{
    nanosleep(&(struct timespec){.tv_nsec = us * 1000}, NULL);
}

static struct tally *make_tally(void)
{
    struct tally *tally = calloc(1, sizeof *tally);
    assert_non_null(tally);
    tally->values = calloc(COUNT_MAX, sizeof *tally->values);
    assert_non_null(tally->values);
    return tally;
}

static void free_tally(struct tally *tally)
{
    free(tally->values);
    free(tally);
}

static void run_and_check(struct worker_pool *pool, struct tally *tally, int32_t count,
                          int64_t factor)
{
    for (int32_t i = 0; i < COUNT_MAX; i++)
        atomic_store(&tally->calls[i], 0);
    memset(tally->values, 0, COUNT_MAX * sizeof *tally->values);
    tally->factor = factor;
    worker_pool_run(pool, count, count_call, tally);
    for (int32_t i = 0; i < COUNT_MAX; i++) {
        assert_int_equal(atomic_load(&tally->calls[i]), i < count);
        assert_int_equal(tally->values[i], i < count ? i * factor : 0);
    }
}

static void every_index_runs_once_for_any_threads_and_count(void **state)
{
    static const int32_t counts[] = {0, 1, 2, 3, 7, 8, 64, 1000, COUNT_MAX};
    struct tally *tally = make_tally();
    (void)state;
    for (int32_t threads = 1; threads <= 8; threads++) {
        struct worker_pool *pool = plain_pool(threads);
        for (size_t i = 0; i < SL_COUNT_OF(counts); i++)
            run_and_check(pool, tally, counts[i], threads * 10 + (int64_t)i);
        worker_pool_destroy(pool);
    }
    free_tally(tally);
}

/* A loop right after a loop, thousands of times: a late worker must not touch the next one. */
static void loops_follow_each_other_without_mixing(void **state)
{
    uint64_t seed = 3;
    struct tally *tally = make_tally();
    (void)state;
    for (int32_t threads = 2; threads <= 5; threads += 3) {
        struct worker_pool *pool = plain_pool(threads);
        for (int64_t round = 1; round <= 3000; round++) {
            int32_t count = (int32_t)test_random_below(&seed, 12);
            for (int32_t i = 0; i < 12; i++)
                tally->values[i] = -1;
            tally->factor = round;
            worker_pool_run(pool, count, count_call, tally);
            for (int32_t i = 0; i < 12; i++)
                assert_int_equal(tally->values[i], i < count ? i * round : -1);
        }
        worker_pool_destroy(pool);
    }
    free_tally(tally);
}

static void workers_that_fell_asleep_wake_again(void **state)
{
    struct tally *tally = make_tally();
    struct worker_pool *pool = plain_pool(4);
    (void)state;
    for (int i = 0; i < 20; i++) {
        /* Far longer than workers spin. */
        sleep_us(i % 2 ? 5000 : 100);
        run_and_check(pool, tally, 100 + i, i + 1);
    }
    worker_pool_destroy(pool);
    free_tally(tally);
}

static void sleep_a_little(const void *context, int32_t idx)
{
    count_call(context, idx);
    sleep_us(3000);
}

static void the_caller_sleeps_until_slow_work_is_done(void **state)
{
    struct tally *tally = make_tally();
    struct worker_pool *pool = plain_pool(3);
    (void)state;
    for (int i = 1; i <= 10; i++) {
        tally->factor = i;
        worker_pool_run(pool, 4, sleep_a_little, tally);
        for (int32_t k = 0; k < 4; k++) {
            assert_int_equal(tally->values[k], k * i);
            assert_int_equal(atomic_load(&tally->calls[k]), i);
        }
    }
    worker_pool_destroy(pool);
    free_tally(tally);
}

static void pools_come_and_go_without_work(void **state)
{
    (void)state;
    for (int i = 0; i < 100; i++) {
        struct worker_pool *pool = plain_pool(1 + i % 8);
        worker_pool_destroy(pool);
    }
    worker_pool_destroy(NULL);
}

static void impossible_options_are_refused(void **state)
{
    static const int32_t low[] = {0, -1}, high[] = {0, 2};
    static const struct worker_pool_options options[] = {
        {.threads = INT32_MIN},
        {.threads = -1},
        {.threads = 0},
        {.threads = WORKER_POOL_THREADS_MAX + 1},
        {.threads = INT32_MAX},
        {.threads = 2, .spin_us = -1},
        {.threads = 2, .spin_us = WORKER_POOL_SPIN_US_MAX + 1},
        {.threads = 2, .nodes = low},
        {.threads = 2, .nodes = high},
    };
    (void)state;
    for (size_t i = 0; i < SL_COUNT_OF(options); i++) {
        struct worker_pool *pool = (struct worker_pool *)&pool;
        assert_int_equal(worker_pool_create(&options[i], &pool), SL_ERR_ARGUMENT);
        assert_null(pool);
    }
}

/* ---- jobs --------------------------------------------------------------------------------- */

#define CHAIN_MAX 6

/* A chain in which every loop needs all of the one before it: values[i] becomes 1 + the sum of all
 * values of the loop before. */
struct link {
    const int64_t *before; /* [before_count] */
    int64_t *values;
    int32_t before_count;
};

static void sum_before(const void *context, int32_t idx)
{
    const struct link *link = context;
    int64_t sum = 1;
    for (int32_t i = 0; i < link->before_count; i++)
        sum += link->before[i];
    link->values[idx] = sum;
}

struct chain {
    int64_t values[CHAIN_MAX][64];
    struct link links[CHAIN_MAX];
    struct worker_loop loops[CHAIN_MAX];
    struct worker_job job;
};

static void make_chain(struct chain *chain, uint64_t *seed)
{
    memset(chain, 0, sizeof *chain);
    int32_t loops = (int32_t)test_random_below(seed, CHAIN_MAX + 1);
    for (int32_t i = 0; i < loops; i++) {
        /* Empty loops, too: they are passed over. */
        int32_t count = (int32_t)test_random_below(seed, test_random_below(seed, 2) ? 4 : 64);
        chain->links[i].values = chain->values[i];
        if (i > 0) {
            chain->links[i].before = chain->values[i - 1];
            chain->links[i].before_count = chain->loops[i - 1].count;
        }
        chain->loops[i] = (struct worker_loop){sum_before, &chain->links[i], count};
    }
    chain->job.loops = chain->loops;
    chain->job.loop_count = loops;
}

static void check_chain(const struct chain *chain)
{
    int64_t sum = 0;
    for (int32_t i = 0; i < chain->job.loop_count; i++) {
        int32_t count = chain->loops[i].count;
        for (int32_t k = 0; k < 64; k++)
            assert_int_equal(chain->values[i][k], k < count ? sum + 1 : 0);
        sum = count * (sum + 1);
    }
}

static void a_loop_of_a_chain_sees_all_of_the_one_before(void **state)
{
    static const int32_t nodes[] = {0, 1, 2, 1, 0};
    uint64_t seed = 11;
    struct chain chain;
    (void)state;
    for (int32_t threads = 1; threads <= 5; threads++) {
        /* The shortest spin makes falling asleep and waking part of it. */
        struct worker_pool *pool = make_pool(&(struct worker_pool_options){
            .threads = threads, .nodes = threads > 2 ? nodes : NULL, .spin_us = threads % 2});
        for (int round = 0; round < 1500; round++) {
            make_chain(&chain, &seed);
            worker_pool_submit(pool, &chain.job);
            worker_pool_wait(pool, &chain.job);
            assert_true(worker_pool_done(&chain.job));
            worker_pool_wait(pool, &chain.job); /* again: returns at once */
            check_chain(&chain);
        }
        worker_pool_destroy(pool);
    }
}

static void workers_finish_a_job_the_caller_only_looks_at(void **state)
{
    uint64_t seed = 12;
    struct chain chain;
    (void)state;
    for (int32_t threads = 2; threads <= 4; threads++) {
        struct worker_pool *pool = plain_pool(threads);
        for (int round = 0; round < 300; round++) {
            make_chain(&chain, &seed);
            if (round % 100 == 0) sleep_us(2000); /* the workers sleep when the job comes */
            worker_pool_submit(pool, &chain.job);
            while (!worker_pool_done(&chain.job))
                sched_yield();
            check_chain(&chain);
            /* What follows needs no wait: the job is over. */
            if (round % 3 == 0)
                worker_pool_run(pool, 5, sum_before, &(struct link){.values = chain.values[0]});
        }
        worker_pool_destroy(pool);
    }
}

struct gate {
    atomic_bool open;
    _Atomic int32_t entered;
};

static void pass_gate(const void *context, int32_t idx)
{
    struct gate *gate = *(struct gate *const *)context;
    (void)idx;
    atomic_fetch_add(&gate->entered, 1);
    while (!atomic_load(&gate->open))
        sched_yield();
}

static void submit_returns_while_the_job_is_worked_on(void **state)
{
    struct gate gate = {false, 0}, *pointer = &gate;
    struct worker_loop loops[] = {{pass_gate, &pointer, 2}, {pass_gate, &pointer, 1}};
    struct worker_job job = {.loops = loops, .loop_count = 2};
    struct worker_pool *pool = plain_pool(3);
    (void)state;
    worker_pool_submit(pool, &job);
    while (atomic_load(&gate.entered) < 2)
        sched_yield();
    assert_false(worker_pool_done(&job)); /* both workers stand at the gate, the caller is here */
    atomic_store(&gate.open, true);
    worker_pool_wait(pool, &job);
    assert_int_equal(atomic_load(&gate.entered), 3);
    worker_pool_destroy(pool);
}

static void a_pool_without_workers_works_in_wait(void **state)
{
    int64_t values[2] = {0};
    struct link link = {.values = values};
    struct worker_loop loop = {sum_before, &link, 2};
    struct worker_job job = {.loops = &loop, .loop_count = 1};
    struct worker_pool *pool = plain_pool(1);
    (void)state;
    worker_pool_submit(pool, &job);
    assert_false(worker_pool_done(&job));
    assert_int_equal(values[0], 0);
    worker_pool_wait(pool, &job);
    assert_true(worker_pool_done(&job));
    assert_int_equal(values[0] + values[1], 2);
    worker_pool_destroy(pool);
}

/* ---- nodes -------------------------------------------------------------------------------- */

/* A loop in which every thread's first index waits for all threads to have one, and a thread that
 * `holder` names by its index keeps it until all other indices are done. */
struct shares {
    pthread_t takers[COUNT_MAX];
    _Atomic int32_t *entered, *done;
    int32_t count, threads, holder;
};

static _Thread_local const void *entered_loop;

static void take_from_shares(const void *context, int32_t idx)
{
    struct shares *shares = *(struct shares *const *)context;
    shares->takers[idx] = pthread_self();
    if (entered_loop != context) {
        entered_loop = context;
        atomic_fetch_add(shares->entered, 1);
        while (atomic_load(shares->entered) < shares->threads)
            sched_yield();
    }
    while (idx == shares->holder && atomic_load(shares->done) < shares->count - 1)
        sched_yield();
    atomic_fetch_add(shares->done, 1);
}

static void run_shares(struct worker_pool *pool, struct shares *shares)
{
    _Atomic int32_t entered = 0, done = 0;
    shares->entered = &entered;
    shares->done = &done;
    entered_loop = NULL;
    worker_pool_run(pool, shares->count, take_from_shares, &shares);
    assert_int_equal(atomic_load(&done), shares->count);
}

static void each_thread_begins_with_its_own_share(void **state)
{
    /* Threads of node 0: 0, 2 and 4; of node 1: 1; of node 2: none; of node 3: 3 and 5. */
    static const int32_t nodes[] = {0, 1, 0, 3, 0, 3};
    static struct shares shares;
    (void)state;
    for (int round = 0; round < 20; round++) {
        struct worker_pool *pool =
            make_pool(&(struct worker_pool_options){.threads = 6, .nodes = nodes});
        shares = (struct shares){.count = 60, .threads = 6, .holder = -1};
        run_shares(pool, &shares);
        /* Shares of ten, those of node 0 first: the caller's is the first of all. All threads came
         * in, each to its own share, before one went on; so the shares' first indices have
         * different takers. */
        static const int32_t first[] = {0, 10, 20, 30, 40, 50};
        assert_true(pthread_equal(shares.takers[0], pthread_self()));
        for (size_t i = 0; i < SL_COUNT_OF(first); i++)
            for (size_t k = 0; k < i; k++)
                assert_false(pthread_equal(shares.takers[first[i]], shares.takers[first[k]]));
        worker_pool_destroy(pool);
    }
}

static void a_slow_node_s_share_is_taken_by_the_others(void **state)
{
    static const int32_t nodes[] = {0, 1};
    static struct shares shares;
    struct worker_pool *pool =
        make_pool(&(struct worker_pool_options){.threads = 2, .nodes = nodes});
    (void)state;
    shares = (struct shares){.count = 40, .threads = 2, .holder = 20};
    run_shares(pool, &shares);
    for (int32_t idx = 0; idx < 40; idx++)
        assert_int_equal(pthread_equal(shares.takers[idx], pthread_self()) != 0, idx != 20);
    worker_pool_destroy(pool);
}

static void every_index_runs_once_on_any_nodes(void **state)
{
    uint64_t seed = 21;
    struct tally *tally = make_tally();
    (void)state;
    for (int round = 0; round < 60; round++) {
        int32_t nodes[8];
        int32_t threads = 1 + (int32_t)test_random_below(&seed, 8);
        for (int32_t i = 0; i < threads; i++)
            nodes[i] = (int32_t)test_random_below(&seed, (uint32_t)threads);
        struct worker_pool *pool =
            make_pool(&(struct worker_pool_options){.threads = threads, .nodes = nodes});
        for (int64_t k = 1; k <= 6; k++)
            run_and_check(pool, tally, (int32_t)test_random_below(&seed, k % 2 ? 20 : COUNT_MAX),
                          k);
        worker_pool_destroy(pool);
    }
    free_tally(tally);
}

/* ---- CPUs --------------------------------------------------------------------------------- */

struct places {
    cpu_set_t cpus[8]; /* of the thread that did the index */
    _Atomic int32_t *entered;
    int32_t threads;
};

static void note_place(const void *context, int32_t idx)
{
    struct places *places = *(struct places *const *)context;
    SL_ASSERT(sched_getaffinity(0, sizeof *places->cpus, &places->cpus[idx]) == 0);
    atomic_fetch_add(places->entered, 1);
    while (atomic_load(places->entered) < places->threads) /* one index for each thread */
        sched_yield();
}

static void find_places(struct worker_pool *pool, int32_t threads, struct places *places)
{
    _Atomic int32_t entered = 0;
    *places = (struct places){.entered = &entered, .threads = threads};
    worker_pool_run(pool, threads, note_place, &places);
}

static int32_t pinned_to(const struct places *places, int32_t cpu)
{
    int32_t threads = 0;
    for (int32_t i = 0; i < places->threads; i++)
        threads += CPU_COUNT(&places->cpus[i]) == 1 && CPU_ISSET((size_t)cpu, &places->cpus[i]);
    return threads;
}

/* The first and the last CPU this thread may use; false when they are the same. */
static bool find_two_cpus(cpu_set_t *allowed, int32_t *first, int32_t *last)
{
    *first = *last = -1;
    assert_int_equal(sched_getaffinity(0, sizeof *allowed, allowed), 0);
    for (int32_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET((size_t)cpu, allowed)) continue;
        if (*first < 0) *first = cpu;
        *last = cpu;
    }
    return *first != *last;
}

static void go_to(int32_t cpu)
{
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET((size_t)cpu, &cpus);
    assert_int_equal(sched_setaffinity(0, sizeof cpus, &cpus), 0);
}

static void workers_run_on_the_cpus_asked_for_and_the_caller_where_it_likes(void **state)
{
    cpu_set_t before, after;
    struct places places;
    int32_t first, last;
    (void)state;
    if (!find_two_cpus(&before, &first, &last)) skip(); /* pinned or not is the same */
    int32_t cpus[] = {first, last, -1, last};
    struct worker_pool *pool = make_pool(&(struct worker_pool_options){.threads = 4, .cpus = cpus});
    assert_int_equal(worker_pool_pinned(pool), 2);
    find_places(pool, 4, &places);
    assert_int_equal(pinned_to(&places, first) + pinned_to(&places, last), 2);
    assert_int_equal(sched_getaffinity(0, sizeof after, &after), 0);
    assert_true(CPU_EQUAL(&before, &after));
    worker_pool_destroy(pool);
}

static void a_worker_gives_its_cpu_up_to_the_caller(void **state)
{
    cpu_set_t before;
    struct places places;
    int32_t first, last;
    (void)state;
    if (!find_two_cpus(&before, &first, &last)) skip(); /* nowhere else to go */
    for (int round = 0; round < 20; round++) {
        int32_t cpus[] = {round % 3 ? first : -1, last};
        struct worker_pool *pool =
            make_pool(&(struct worker_pool_options){.threads = 2, .cpus = cpus});
        for (int i = 0; i < 4; i++) {
            int32_t place = (i + round) % 2 ? first : last;
            go_to(place);
            find_places(pool, 2, &places);
            /* The caller's own set counts as well. */
            assert_int_equal(pinned_to(&places, place), round % 3 || place == first ? 1 : 2);
        }
        assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
        worker_pool_destroy(pool);
    }
}

static void a_cpu_that_cannot_be_had_leaves_its_thread_free(void **state)
{
    static const int32_t cpus[] = {CPU_SETSIZE - 1, CPU_SETSIZE - 1, CPU_SETSIZE, INT32_MAX};
    cpu_set_t before, after;
    struct tally *tally = make_tally();
    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    if (CPU_ISSET(CPU_SETSIZE - 1, &before)) skip(); /* a machine that has it */
    struct worker_pool *pool = make_pool(&(struct worker_pool_options){.threads = 4, .cpus = cpus});
    assert_int_equal(worker_pool_pinned(pool), 0);
    run_and_check(pool, tally, 100, 3);
    worker_pool_destroy(pool);
    assert_int_equal(sched_getaffinity(0, sizeof after, &after), 0);
    assert_true(CPU_EQUAL(&before, &after));
    free_tally(tally);
}

/* Not speed: what is measured is CPU time that should not be used at all. */
static void an_idle_pool_uses_no_cpu_time(void **state)
{
    struct timespec before, after;
    struct worker_pool *pool = plain_pool(4);
    struct tally *tally = make_tally();
    (void)state;
    run_and_check(pool, tally, 64, 1);
    sleep_us(10000); /* the last spins end */
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    sleep_us(200000);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    int64_t used_us =
        (after.tv_sec - before.tv_sec) * 1000000 + (after.tv_nsec - before.tv_nsec) / 1000;
    print_message("%lld us of CPU time in 200000 us\n", (long long)used_us);
    assert_true(used_us < 100000);
    worker_pool_destroy(pool);
    free_tally(tally);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_index_runs_once_for_any_threads_and_count),
        cmocka_unit_test(loops_follow_each_other_without_mixing),
        cmocka_unit_test(workers_that_fell_asleep_wake_again),
        cmocka_unit_test(the_caller_sleeps_until_slow_work_is_done),
        cmocka_unit_test(pools_come_and_go_without_work),
        cmocka_unit_test(impossible_options_are_refused),
        cmocka_unit_test(a_loop_of_a_chain_sees_all_of_the_one_before),
        cmocka_unit_test(workers_finish_a_job_the_caller_only_looks_at),
        cmocka_unit_test(submit_returns_while_the_job_is_worked_on),
        cmocka_unit_test(a_pool_without_workers_works_in_wait),
        cmocka_unit_test(each_thread_begins_with_its_own_share),
        cmocka_unit_test(a_slow_node_s_share_is_taken_by_the_others),
        cmocka_unit_test(every_index_runs_once_on_any_nodes),
        cmocka_unit_test(workers_run_on_the_cpus_asked_for_and_the_caller_where_it_likes),
        cmocka_unit_test(a_worker_gives_its_cpu_up_to_the_caller),
        cmocka_unit_test(a_cpu_that_cannot_be_had_leaves_its_thread_free),
        cmocka_unit_test(an_idle_pool_uses_no_cpu_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
