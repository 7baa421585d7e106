/* labels: fault
 *
 * Degraded service by name: a disk that is silent for seconds, fails or slows, a lane of the link
 * that dies or hangs, memory that is smaller than asked or may not be pinned, a profile that cannot
 * be read. What is asked for still comes, whole, and the store says what happened. And the tiers
 * once more over real files, with real threads that read and copy, in real time. */
#include "offload/arena.h"
#include "offload/device_sim.h"
#include "offload/expert_store.h"

#include "tests/io_sim.h"
#include "tests/support.h"
#include "tests/support_experts.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>

#define LAYERS     2
#define EXPERTS    8
#define COUNT      (LAYERS * EXPERTS)
#define SLOT_BYTES 8192

struct fixture {
    struct test_experts experts;
    struct device *device;
    struct expert_store *store;
    struct device_sim_plan plan;
    uint64_t now_ns;
    int64_t token_clock;
};

static uint64_t fixture_now(void *context)
{
    return ((struct fixture *)context)->now_ns += 50; /* time passes with every look */
}

/* A turn of the simulated disk. */
static void fixture_tick(void *context)
{
    ((struct fixture *)context)->now_ns += 20000;
}

static void fixture_advance(void *context, uint64_t ns)
{
    ((struct fixture *)context)->now_ns += ns;
}

/* Experts on a simulated disk; `change` alters the options, and may be NULL. */
static void open_fixture(struct fixture *fixture, int32_t host_slots, int32_t device_slots,
                         void (*change)(struct expert_store_options *, struct device_sim_options *))
{
    struct sl_error error;
    *fixture = (struct fixture){0};
    test_experts_init(&fixture->experts, TEST_EXPERTS_PACKED, LAYERS, EXPERTS, false, 11);
    fixture->experts.source.checksums = fixture->experts.checksums;
    struct device_sim_options device = {
        .memory_bytes = (uint64_t)device_slots * SLOT_BYTES,
        .bytes_per_second = {1000000000, 1000000000},
        .clock = {fixture_now, fixture},
        .advance = fixture_advance,
        .plan = {.poison = true},
    };
    struct expert_store_options options = {
        .source = &fixture->experts.source,
        .ram_bytes = (uint64_t)host_slots * SLOT_BYTES,
        .slots_min = 4,
        .depth = 4,
        .io_override = &io_sim_ops,
        .device_bytes = (uint64_t)device_slots * SLOT_BYTES,
        .sharing = EXPERT_EXCLUSIVE,
        .rule = DISPATCH_ALWAYS_STREAM,
        .clock = {fixture_now, fixture},
    };
    io_sim_set_plan(&(struct io_sim_plan){.latency_turns_max = 3});
    if (change) change(&options, &device);
    fixture->plan = device.plan;
    if (device_slots > 0)
        assert_int_equal(device_sim_create(&device, &fixture->device, &error), SL_OK);
    options.device = fixture->device;
    if (expert_store_create(&options, &fixture->store, &error) != SL_OK)
        fail_msg("%s", error.message);
}

static void close_fixture(struct fixture *fixture)
{
    expert_store_check(fixture->store);
    expert_store_destroy(fixture->store);
    if (fixture->device) fixture->device->ops->destroy(fixture->device);
    test_experts_deinit(&fixture->experts);
}

/* Acquires four experts a time from `first` on, `count` in all, and looks at every byte. */
static void use(struct fixture *fixture, int32_t first, int32_t count)
{
    struct expert_ref refs[4];
    struct expert_view views[4];
    for (int32_t done = 0; done < count; done += 4) {
        for (int32_t i = 0; i < 4; i++) {
            int32_t idx = (first + done + i) % COUNT;
            refs[i] = (struct expert_ref){.layer = idx / EXPERTS, .expert = idx % EXPERTS};
        }
        expert_store_layer(fixture->store, fixture->token_clock++, refs[0].layer, 1);
        assert_int_equal(expert_store_acquire(fixture->store, refs, NULL, 4, views), SL_OK);
        for (int32_t pending = 4; pending > 0;) {
            expert_store_wait(fixture->store, views, 4);
            pending = 0;
            for (int32_t i = 0; i < 4; i++)
                pending += views[i].state == EXPERT_VIEW_PENDING;
        }
        for (int32_t i = 0; i < 4; i++) {
            assert_int_equal(views[i].state, EXPERT_VIEW_READY);
            assert_memory_equal(views[i].data, test_experts_slot(&fixture->experts, refs[i]),
                                SLOT_BYTES);
        }
        expert_store_check(fixture->store);
        expert_store_release(fixture->store, views, 4);
    }
}

static bool noticed(const struct fixture *fixture, const char *part)
{
    const char *notice;
    for (int32_t i = 0; (notice = expert_store_notice(fixture->store, i)); i++)
        if (strstr(notice, part)) return true;
    return false;
}

static void expect_notice(const struct fixture *fixture, const char *part)
{
    const char *notice;
    if (noticed(fixture, part)) return;
    for (int32_t i = 0; (notice = expert_store_notice(fixture->store, i)); i++)
        print_message("notice: %s\n", notice);
    fail_msg("no notice says \"%s\"", part);
}

/* ---- lanes ---- */

static void up_dies(struct expert_store_options *options, struct device_sim_options *device)
{
    (void)options;
    device->plan.dies_after[DEVICE_UP] = 7;
}

static void test_when_the_link_up_dies_the_cpu_takes_over(void **state)
{
    struct fixture fixture;
    struct expert_store_stats stats;
    (void)state;
    open_fixture(&fixture, 8, 6, up_dies);
    use(&fixture, 0, 64);
    expect_notice(&fixture, "copies to the device have ended");
    expect_notice(&fixture, "failed after 7 copies");
    expect_notice(&fixture, "computed on the CPU");
    expert_store_stats_get(fixture.store, &stats);
    assert_int_equal(stats.copies_up, 6); /* one of the seven tried the link at the start */
    assert_true(stats.lanes[EXPERT_LANE_CPU] > 0 && stats.lanes[EXPERT_LANE_DEVICE] > 0);
    assert_non_null(rates_reason(expert_store_rates(fixture.store), RATES_UP));
    close_fixture(&fixture);
}

static void test_views_of_a_copy_that_fails_go_on_from_ram(void **state)
{
    struct fixture fixture;
    struct expert_ref refs[4] = {{0, 0}, {0, 1}, {0, 2}, {0, 3}};
    struct expert_view views[4], others[3];
    struct expert_store_stats stats;
    (void)state;
    open_fixture(&fixture, 8, 6, NULL);
    expert_store_layer(fixture.store, 0, 0, 1);
    assert_int_equal(expert_store_acquire(fixture.store, refs, NULL, 4, views), SL_OK);
    /* Read, and on its way up: then the lane dies. */
    while (device_sim_in_flight(fixture.device, DEVICE_UP) < 3)
        expert_store_poll(fixture.store);
    assert_int_equal(expert_store_acquire(fixture.store, refs, NULL, 3, others), SL_OK);
    fixture.plan.dies_after[DEVICE_UP] = 1; /* that was the first try of the link */
    device_sim_set_plan(fixture.device, &fixture.plan);
    for (int i = 0; i < 8; i++) {
        expert_store_poll(fixture.store);
        expert_store_check(fixture.store);
    }
    for (int32_t i = 0; i < 4; i++)
        while (views[i].state == EXPERT_VIEW_PENDING)
            expert_store_wait(fixture.store, views, 4);
    expert_store_check(fixture.store); /* the others have not looked yet */
    for (int32_t i = 0; i < 4; i++) {
        assert_int_equal(views[i].state, EXPERT_VIEW_READY);
        assert_int_equal(views[i].lane, EXPERT_LANE_CPU);
        assert_memory_equal(views[i].data, test_experts_slot(&fixture.experts, refs[i]),
                            SLOT_BYTES);
    }
    expert_store_release(fixture.store, views, 4);
    expert_store_check(fixture.store);
    /* These wait for the device slots themselves; the third is given back without having looked. */
    for (int32_t i = 0; i < 2; i++) {
        assert_int_equal(others[i].tier, EXPERT_TIER_DEVICE);
        expert_store_wait(fixture.store, &others[i], 1);
        assert_int_equal(others[i].tier, EXPERT_TIER_HOST);
        assert_memory_equal(others[i].data, test_experts_slot(&fixture.experts, refs[i]),
                            SLOT_BYTES);
        expert_store_check(fixture.store);
    }
    expert_store_release(fixture.store, others, 3);
    expert_store_check(fixture.store);
    expert_store_stats_get(fixture.store, &stats);
    assert_int_equal(stats.slots_pinned, 0);
    assert_int_equal(stats.device_pinned, 0);
    assert_true(stats.redirects >= 2);
    close_fixture(&fixture);
}

static void down_dies(struct expert_store_options *options, struct device_sim_options *device)
{
    (void)options;
    device->plan.dies_after[DEVICE_DOWN] = 3;
}

static void test_when_the_link_down_dies_victims_are_dropped(void **state)
{
    struct fixture fixture;
    struct expert_store_stats before, after;
    uint64_t random = 3;
    (void)state;
    open_fixture(&fixture, 8, 4, down_dies);
    for (int i = 0; i < 400 && !noticed(&fixture, "copies from the device have ended"); i++)
        use(&fixture, (int32_t)test_random_below(&random, COUNT), 4);
    expect_notice(&fixture, "copies from the device have ended");
    expert_store_stats_get(fixture.store, &before);
    use(&fixture, 0, 400);
    expert_store_stats_get(fixture.store, &after);
    assert_true(after.device_evictions > before.device_evictions); /* still in use */
    assert_int_equal(after.copies_down, before.copies_down);
    close_fixture(&fixture);
}

static void test_a_link_that_hangs_is_left_alone_until_it_moves(void **state)
{
    struct fixture fixture;
    struct expert_store_stats stats;
    uint64_t on_device;
    (void)state;
    open_fixture(&fixture, 8, 6, NULL);
    use(&fixture, 0, 16);
    fixture.plan.hangs[DEVICE_UP] = fixture.plan.hangs[DEVICE_DOWN] = true;
    device_sim_set_plan(fixture.device, &fixture.plan);
    use(&fixture, 0, 64);
    expect_notice(&fixture, "no copy to the device has ended for 2.0 s");
    expert_store_stats_get(fixture.store, &stats);
    assert_true(stats.redirects > 0);
    assert_non_null(rates_reason(expert_store_rates(fixture.store), RATES_UP));
    on_device = stats.copies_up;
    fixture.plan.hangs[DEVICE_UP] = fixture.plan.hangs[DEVICE_DOWN] = false;
    device_sim_set_plan(fixture.device, &fixture.plan);
    use(&fixture, 0, 64);
    expect_notice(&fixture, "copies to the device go on again");
    expert_store_stats_get(fixture.store, &stats);
    assert_true(stats.copies_up > on_device + 1);
    assert_null(rates_reason(expert_store_rates(fixture.store), RATES_UP));
    close_fixture(&fixture);
}

static void dead_from_the_start(struct expert_store_options *options,
                                struct device_sim_options *device)
{
    (void)options;
    device->plan.hangs[DEVICE_UP] = true;
}

static void test_a_link_that_never_works_is_found_when_opened(void **state)
{
    struct test_experts experts;
    struct fixture fixture = {0};
    struct expert_store *store;
    struct device *device;
    struct sl_error error;
    (void)state;
    test_experts_init(&experts, TEST_EXPERTS_PACKED, LAYERS, EXPERTS, false, 11);
    struct device_sim_options sim = {.memory_bytes = 4 * SLOT_BYTES,
                                     .clock = {fixture_now, &fixture},
                                     .advance = fixture_advance};
    struct expert_store_options options = {.source = &experts.source,
                                           .ram_bytes = 8 * SLOT_BYTES,
                                           .depth = 2,
                                           .io_override = &io_sim_ops,
                                           .device_bytes = 4 * SLOT_BYTES,
                                           .clock = {fixture_now, &fixture}};
    dead_from_the_start(&options, &sim);
    assert_int_equal(device_sim_create(&sim, &device, &error), SL_OK);
    options.device = device;
    assert_int_equal(expert_store_create(&options, &store, &error), SL_ERR_IO);
    assert_non_null(strstr(error.message, "does not give back the bytes it was sent"));
    device->ops->destroy(device);
    test_experts_deinit(&experts);
}

/* ---- disk ---- */

static void test_a_silent_disk_is_waited_for_and_told_of(void **state)
{
    struct fixture fixture;
    (void)state;
    open_fixture(&fixture, 8, 2, NULL);
    use(&fixture, 8, 8);
    io_sim_set_plan(&(struct io_sim_plan){
        .fault_count = 1,
        .faults = {{.offset_bytes = 5 * SLOT_BYTES, .bytes = 1, .stall_turns = 150000}},
        .tick = fixture_tick,
        .tick_context = &fixture,
    });
    use(&fixture, 0, 16);
    expect_notice(&fixture, "the disk answered after a silence of 3.");
    close_fixture(&fixture);
}

static void test_a_disk_ten_times_slower_is_noticed_by_its_rate(void **state)
{
    struct fixture fixture;
    struct io_sim_plan plan = {
        .latency_turns_max = 4, .tick = fixture_tick, .tick_context = &fixture};
    (void)state;
    open_fixture(&fixture, 8, 2, NULL);
    io_sim_set_plan(&plan);
    use(&fixture, 0, 400);
    double before = rates_disk_ns(expert_store_rates(fixture.store), 4);
    plan.latency_turns_max = 40;
    io_sim_set_plan(&plan);
    use(&fixture, 0, 400);
    double after = rates_disk_ns(expert_store_rates(fixture.store), 4);
    assert_true(after > 5 * before && after < 20 * before);
    close_fixture(&fixture);
}

static void test_a_bad_sector_fails_its_expert_in_every_tier(void **state)
{
    struct fixture fixture;
    struct expert_view view;
    struct expert_ref bad = {0, 5};
    (void)state;
    open_fixture(&fixture, 8, 4, NULL);
    struct io_sim_plan plan = {
        .fault_count = 1,
        .faults = {{.offset_bytes = 5 * SLOT_BYTES, .bytes = 1, .os_errno = EIO}}};
    io_sim_set_plan(&plan);
    assert_int_equal(expert_store_acquire(fixture.store, &bad, NULL, 1, &view), SL_OK);
    expert_store_wait(fixture.store, &view, 1);
    assert_int_equal(view.state, EXPERT_VIEW_FAILED);
    assert_int_equal(view.status, SL_ERR_IO);
    assert_int_equal(expert_store_tier(fixture.store, bad), EXPERT_TIER_DISK);
    expert_store_release(fixture.store, &view, 1);
    io_sim_set_plan(&(struct io_sim_plan){0});
    use(&fixture, 0, 16); /* mended: and nothing of it was kept */
    close_fixture(&fixture);
}

/* ---- memory and profile ---- */

static void pins_two(struct expert_store_options *options, struct device_sim_options *device)
{
    (void)options;
    device->pin_bytes_max = 2 * SLOT_BYTES;
}

static void test_ram_that_may_not_be_pinned_is_copied_all_the_same(void **state)
{
    struct fixture fixture;
    (void)state;
    open_fixture(&fixture, 8, 4, pins_two);
    use(&fixture, 0, 64);
    expect_notice(&fixture, "could not be pinned is copied more slowly");
    expect_notice(&fixture, "pins no more than 16384 bytes");
    assert_int_equal(device_sim_pinned_bytes(fixture.device), 2 * SLOT_BYTES);
    close_fixture(&fixture);
}

static void wants_more_device(struct expert_store_options *options,
                              struct device_sim_options *device)
{
    options->device_bytes = 12 * SLOT_BYTES;
    device->memory_bytes = 5 * SLOT_BYTES;
}

static void test_a_device_with_less_memory_than_asked_gets_fewer_slots(void **state)
{
    struct fixture fixture;
    struct expert_store_stats stats;
    (void)state;
    open_fixture(&fixture, 8, 12, wants_more_device);
    use(&fixture, 0, 32);
    expect_notice(&fixture, "5 device slots instead of 12");
    expert_store_stats_get(fixture.store, &stats);
    assert_int_equal(stats.device_slots, 5);
    close_fixture(&fixture);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
static void test_an_arena_smaller_than_asked_serves_with_what_there_is(void **state)
{
    struct sl_error error;
    struct arena arena;
    struct rlimit before, low;
    (void)state;
    assert_int_equal(getrlimit(RLIMIT_AS, &before), 0);
    low = before;
    low.rlim_cur = (rlim_t)1 << 30;
    assert_int_equal(setrlimit(RLIMIT_AS, &low), 0);
    enum sl_status status = arena_open((size_t)2 << 30, 1 << 20, 1 << 20, NULL, &arena, &error);
    assert_int_equal(setrlimit(RLIMIT_AS, &before), 0);
    assert_int_equal(status, SL_OK);
    assert_true(arena.bytes < (size_t)1 << 30 && arena.bytes >= (size_t)1 << 20);
    assert_int_equal(arena.bytes % (1 << 20), 0);
    assert_non_null(strstr(arena.reason, "ulimit -v"));
    arena.memory[0] = arena.memory[arena.bytes - 1] = 1;
    arena_close(&arena);
}
#endif

static void bad_profile(struct expert_store_options *options, struct device_sim_options *device)
{
    (void)device;
    options->profile_path = "/nonexistent/profile";
}

static void test_a_profile_that_cannot_be_read_costs_a_warm_start_only(void **state)
{
    struct fixture fixture;
    (void)state;
    open_fixture(&fixture, 8, 4, bad_profile);
    use(&fixture, 0, 16);
    expect_notice(&fixture, "starting without the profile of earlier runs");
    expect_notice(&fixture, "/nonexistent/profile");
    close_fixture(&fixture);
}

/* ---- prefill ---- */

/* One acquire of up to eight experts in a pass of `tokens`, waited for and given back. */
static void pass(struct fixture *fixture, const int32_t *idx, int32_t count, int32_t tokens)
{
    struct expert_ref refs[8];
    struct expert_view views[8];
    assert_true(count <= 8);
    for (int32_t i = 0; i < count; i++)
        refs[i] = (struct expert_ref){.layer = idx[i] / EXPERTS, .expert = idx[i] % EXPERTS};
    expert_store_layer(fixture->store, fixture->token_clock++, 0, tokens);
    assert_true(count <= expert_store_views_max(fixture->store));
    assert_int_equal(expert_store_acquire(fixture->store, refs, NULL, count, views), SL_OK);
    for (int32_t i = 0; i < count; i++)
        while (views[i].state == EXPERT_VIEW_PENDING)
            expert_store_wait(fixture->store, views, count);
    expert_store_release(fixture->store, views, count);
}

static void one_at_least(struct expert_store_options *options, struct device_sim_options *device)
{
    (void)device;
    options->slots_min = 1;
    options->policy = RESIDENCY_LRU;
}

static void test_prefill_leaves_what_decode_uses_where_it_is(void **state)
{
    struct fixture fixture;
    int32_t lost = 0;
    (void)state;
    open_fixture(&fixture, 8, 0, one_at_least);
    for (int32_t idx = 0; idx < 8; idx++)
        pass(&fixture, &idx, 1, 1); /* RAM is full of what decode uses */
    int32_t views_max;
    expert_store_layer(fixture.store, fixture.token_clock, 0, 100);
    views_max = expert_store_views_max(fixture.store);
    assert_in_range(views_max, 1, 2);
    /* A prompt over every expert, twice. */
    for (int32_t i = 0; i < 2 * COUNT; i++) {
        int32_t idx = i % COUNT;
        pass(&fixture, &idx, 1, 100);
        expert_store_check(fixture.store);
    }
    for (int32_t idx = 0; idx < 8; idx++)
        lost += !expert_store_is_resident(fixture.store, (struct expert_ref){0, idx});
    assert_true(lost <= views_max);
    /* Decode itself does displace. */
    for (int32_t idx = 8; idx < COUNT; idx++)
        pass(&fixture, &idx, 1, 1);
    for (int32_t idx = 0; idx < 8; idx++)
        assert_false(expert_store_is_resident(fixture.store, (struct expert_ref){0, idx}));
    close_fixture(&fixture);
}

/* ---- threads ---- */

static void test_threads_that_read_and_copy_give_the_right_bytes(void **state)
{
    struct sl_error error;
    uint64_t random = 17;
    (void)state;
    for (int round = 0; round < 2; round++) {
        struct test_experts experts;
        struct expert_store_stats stats;
        struct expert_store *store;
        struct device *device;
        test_experts_init(&experts, round ? TEST_EXPERTS_UNPACKED : TEST_EXPERTS_PACKED, LAYERS,
                          EXPERTS, round, 21);
        experts.source.checksums = experts.checksums;
        struct device_sim_options sim = {.memory_bytes = 5 * SLOT_BYTES,
                                         .bytes_per_second = {400000000, 400000000},
                                         .threads = true,
                                         .plan = {.poison = true, .jitter_percent = 100}};
        struct expert_store_options options = {.source = &experts.source,
                                               .ram_bytes = round ? 250000 : 7 * SLOT_BYTES,
                                               .slots_min = 4,
                                               .depth = 2,
                                               .io = IO_PREAD,
                                               .device_bytes = 5 * SLOT_BYTES,
                                               .sharing = EXPERT_EXCLUSIVE};
        assert_int_equal(device_sim_create(&sim, &device, &error), SL_OK);
        options.device = device;
        if (expert_store_create(&options, &store, &error) != SL_OK) fail_msg("%s", error.message);
        for (int step = 0; step < 600; step++) {
            struct expert_ref refs[4];
            struct expert_view views[4];
            for (int32_t i = 0; i < 4; i++)
                refs[i] =
                    (struct expert_ref){.layer = step % LAYERS,
                                        .expert = (int32_t)(test_random_below(&random, 2)) + 2 * i};
            expert_store_layer(store, step / LAYERS, step % LAYERS, 1);
            if (step == 500)
                device_sim_set_plan(device, &(struct device_sim_plan){.dies_after = {1, 1}});
            assert_int_equal(expert_store_acquire(store, refs, NULL, 4, views), SL_OK);
            test_guess(store, refs, 2, step / LAYERS + 1);
            for (int32_t i = 0; i < 4; i++) {
                while (views[i].state == EXPERT_VIEW_PENDING)
                    expert_store_wait(store, views, 4);
                assert_int_equal(views[i].state, EXPERT_VIEW_READY);
                assert_memory_equal(views[i].data, test_experts_slot(&experts, refs[i]),
                                    SLOT_BYTES);
            }
            expert_store_release(store, views, 4);
            expert_store_check(store);
        }
        expert_store_stats_get(store, &stats);
        assert_true(stats.copies_up > 0);
        assert_true(round == 1 || stats.copies_down > 0); /* then all of them are in RAM */
        assert_non_null(expert_store_notice(store, 0));   /* both lanes died at the end */
        expert_store_destroy(store);
        device->ops->destroy(device);
        test_experts_deinit(&experts);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_when_the_link_up_dies_the_cpu_takes_over),
        cmocka_unit_test(test_views_of_a_copy_that_fails_go_on_from_ram),
        cmocka_unit_test(test_when_the_link_down_dies_victims_are_dropped),
        cmocka_unit_test(test_a_link_that_hangs_is_left_alone_until_it_moves),
        cmocka_unit_test(test_a_link_that_never_works_is_found_when_opened),
        cmocka_unit_test(test_a_silent_disk_is_waited_for_and_told_of),
        cmocka_unit_test(test_a_disk_ten_times_slower_is_noticed_by_its_rate),
        cmocka_unit_test(test_a_bad_sector_fails_its_expert_in_every_tier),
        cmocka_unit_test(test_ram_that_may_not_be_pinned_is_copied_all_the_same),
        cmocka_unit_test(test_a_device_with_less_memory_than_asked_gets_fewer_slots),
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
        cmocka_unit_test(test_an_arena_smaller_than_asked_serves_with_what_there_is),
#endif
        cmocka_unit_test(test_a_profile_that_cannot_be_read_costs_a_warm_start_only),
        cmocka_unit_test(test_prefill_leaves_what_decode_uses_where_it_is),
        cmocka_unit_test(test_threads_that_read_and_copy_give_the_right_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
