/* labels: fault */
/* Memory: every allocation of creation may fail and leaves nothing behind, and after creation the
 * store neither takes nor gives any. */
#include "offload/expert_store.h"

#include "tests/io_sim.h"
#include "tests/support.h"
#include "tests/support_alloc.h"
#include "tests/support_experts.h"

#include <errno.h>
#include <string.h>

static struct expert_store_options options_of(const struct test_experts *experts,
                                              const struct io_ops *override, enum io_kind kind)
{
    return (struct expert_store_options){
        .source = &experts->source,
        .ram_bytes = 1 << 20,
        .slots_min = 4,
        .depth = 3,
        .io = kind,
        .io_override = override,
    };
}

static void fail_each(const struct expert_store_options *options)
{
    struct expert_store *store;
    struct sl_error error;
    enum sl_status status = SL_ERR_NO_MEMORY;
    for (int64_t failing = 0; status != SL_OK; failing++) {
        alloc_watch(failing);
        error.message[0] = 0;
        status = expert_store_create(options, &store, &error);
        if (status == SL_OK) break;
        assert_int_equal(status, SL_ERR_NO_MEMORY);
        assert_true(strlen(error.message) > 0);
        assert_true(failing < 100);
    }
    assert_true(alloc_seen() + alloc_freed() >= 7);
    alloc_watch(ALLOC_NONE);
    expert_store_destroy(store);
}

static void test_every_failed_allocation_of_creation_is_an_error(void **state)
{
    struct test_experts experts;
    struct expert_store_options options;
    (void)state;
    test_experts_init(&experts, TEST_EXPERTS_UNPACKED, 2, 4, true, 6);
    options = options_of(&experts, &io_sim_ops, IO_AUTO);
    fail_each(&options);
    options = options_of(&experts, NULL, IO_PREAD);
    fail_each(&options);
    test_experts_deinit(&experts);
}

static void use_store(struct expert_store *store, int rounds)
{
    uint64_t random = 3;
    for (int round = 0; round < rounds; round++) {
        struct expert_ref refs[3];
        struct expert_view views[3];
        for (int32_t i = 0; i < 3; i++)
            refs[i] = (struct expert_ref){.layer = (int32_t)test_random_below(&random, 2),
                                          .expert = (int32_t)test_random_below(&random, 4)};
        test_guess(store, refs, 2);
        if (expert_store_acquire(store, refs, NULL, 3, views) != SL_OK) fail_msg("busy");
        for (int i = 0; i < 3; i++)
            expert_store_wait(store, views, 3);
        expert_store_poll(store);
        expert_store_release(store, views, 3);
    }
}

static void test_after_creation_nothing_is_allocated_or_freed(void **state)
{
    static const struct io_ops *const doors[] = {NULL, &io_sim_ops};
    (void)state;
    for (size_t i = 0; i < 2 * SL_COUNT_OF(doors); i++) {
        struct test_experts experts;
        struct expert_store *store;
        struct expert_store_stats stats;
        struct sl_error error;
        struct io_sim_plan plan = {
            .latency_turns_max = 3,
            .short_permille = 200,
            .transient_permille = 200,
            .fault_count = 1,
            .faults = {{.offset_bytes = 0, .bytes = 1, .os_errno = EIO}},
        };
        test_experts_init(&experts, TEST_EXPERTS_UNPACKED, 2, 4, true, 6);
        struct expert_store_options options =
            options_of(&experts, doors[i / 2], i % 2 ? IO_PREAD : IO_AUTO);
        io_sim_set_plan(&plan);
        assert_int_equal(expert_store_create(&options, &store, &error), SL_OK);
        /* Room for three only, so that there are evictions. */
        expert_store_stats_get(store, &stats);
        expert_store_destroy(store);
        options.slots_min = 3;
        options.ram_bytes = stats.ram_bytes - (uint64_t)(stats.slots - 3) * stats.slot_bytes;
        assert_int_equal(expert_store_create(&options, &store, &error), SL_OK);
        alloc_watch(ALLOC_NONE);
        use_store(store, 300);
        assert_int_equal(alloc_seen() + alloc_freed(), 0);
        expert_store_stats_get(store, &stats);
        assert_true(stats.evictions > 100);
        expert_store_destroy(store);
        test_experts_deinit(&experts);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_failed_allocation_of_creation_is_an_error),
        cmocka_unit_test(test_after_creation_nothing_is_allocated_or_freed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
