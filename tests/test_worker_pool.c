/* labels: unit */
/* The worker pool: every index once, everything visible afterwards, asleep or awake. */
#include "kernels/cpu/worker_pool.h"
#include "tests/support.h"

#include <stdatomic.h>
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
        struct worker_pool *pool = NULL;
        assert_int_equal(worker_pool_create(threads, &pool), SL_OK);
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
        struct worker_pool *pool = NULL;
        assert_int_equal(worker_pool_create(threads, &pool), SL_OK);
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
    struct worker_pool *pool = NULL;
    (void)state;
    assert_int_equal(worker_pool_create(4, &pool), SL_OK);
    for (int i = 0; i < 20; i++) {
        /* Far longer than workers spin. */
        nanosleep(&(struct timespec){.tv_nsec = i % 2 ? 5000000 : 100000}, NULL);
        run_and_check(pool, tally, 100 + i, i + 1);
    }
    worker_pool_destroy(pool);
    free_tally(tally);
}

static void sleep_a_little(const void *context, int32_t idx)
{
    count_call(context, idx);
    nanosleep(&(struct timespec){.tv_nsec = 3000000}, NULL);
}

static void the_caller_sleeps_until_slow_work_is_done(void **state)
{
    struct tally *tally = make_tally();
    struct worker_pool *pool = NULL;
    (void)state;
    assert_int_equal(worker_pool_create(3, &pool), SL_OK);
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
        struct worker_pool *pool = NULL;
        assert_int_equal(worker_pool_create(1 + i % 8, &pool), SL_OK);
        worker_pool_destroy(pool);
    }
    worker_pool_destroy(NULL);
}

static void impossible_thread_counts_are_refused(void **state)
{
    static const int32_t counts[] = {INT32_MIN, -1, 0, WORKER_POOL_THREADS_MAX + 1, INT32_MAX};
    (void)state;
    for (size_t i = 0; i < SL_COUNT_OF(counts); i++) {
        struct worker_pool *pool = (struct worker_pool *)&pool;
        assert_int_equal(worker_pool_create(counts[i], &pool), SL_ERR_ARGUMENT);
        assert_null(pool);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_index_runs_once_for_any_threads_and_count),
        cmocka_unit_test(loops_follow_each_other_without_mixing),
        cmocka_unit_test(workers_that_fell_asleep_wake_again),
        cmocka_unit_test(the_caller_sleeps_until_slow_work_is_done),
        cmocka_unit_test(pools_come_and_go_without_work),
        cmocka_unit_test(impossible_thread_counts_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
