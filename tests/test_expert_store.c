/* labels: unit */
/* The expert store over a simulated disk: whatever the order of calls, the latencies and the
 * faults, a READY view shows the bytes of the expert it names, the invariants hold after every
 * step, and the pins return to zero. */
#include "offload/expert_store.h"

#include "tests/io_sim.h"
#include "tests/support.h"
#include "tests/support_experts.h"

#include <errno.h>
#include <string.h>

#define LAYERS     3
#define EXPERTS    8
#define GROUPS_MAX 4
#define GROUP_MAX  6
#define STEPS      12000

/* One caller and its pins. */
struct group {
    struct expert_view views[GROUP_MAX];
    int32_t count;
};

struct world {
    struct test_experts experts;
    struct expert_store *store;
    struct group groups[GROUPS_MAX];
    int32_t slots, pinned;
    uint64_t state, views, failed_views;
    bool faults_expected;
};

static struct expert_ref ref_of(int32_t index)
{
    return (struct expert_ref){.layer = index / EXPERTS, .expert = index % EXPERTS};
}

static void check_views(struct world *world, const struct group *group)
{
    for (int32_t i = 0; i < group->count; i++) {
        const struct expert_view *view = &group->views[i];
        if (view->state == EXPERT_VIEW_READY) {
            assert_memory_equal(view->data, test_experts_slot(&world->experts, view->ref),
                                world->experts.source.slot_bytes);
        } else if (view->state == EXPERT_VIEW_FAILED) {
            assert_true(world->faults_expected);
            assert_int_not_equal(view->status, SL_OK);
            assert_int_equal(view->slot, -1);
            assert_true(strstr(expert_store_last_failure(world->store), "layer ") != NULL);
        }
    }
}

static void choose_refs(struct world *world, struct expert_ref *refs, int32_t count)
{
    bool taken[LAYERS * EXPERTS] = {false};
    for (int32_t i = 0; i < count;) {
        uint32_t index = test_random_below(&world->state, LAYERS * EXPERTS);
        if (taken[index]) continue;
        taken[index] = true;
        refs[i++] = ref_of((int32_t)index);
    }
}

static void step_acquire(struct world *world, struct group *group)
{
    struct expert_ref refs[GROUP_MAX];
    int32_t limit = min_i32(GROUP_MAX, world->slots);
    int32_t count = (int32_t)test_random_below(&world->state, (uint32_t)limit + 1);
    choose_refs(world, refs, count);
    enum sl_status status = expert_store_acquire(world->store, refs, NULL, count, group->views);
    if (world->pinned + count > world->slots) {
        /* Shared experts may still make it fit; nothing is pinned when it does not. */
        if (status == SL_ERR_BUSY) return;
    }
    assert_int_equal(status, SL_OK);
    group->count = count;
    world->pinned += count;
    world->views += (uint64_t)count;
}

static void step_release(struct world *world, struct group *group)
{
    for (int32_t i = 0; i < group->count; i++)
        world->failed_views += group->views[i].state == EXPERT_VIEW_FAILED;
    expert_store_release(world->store, group->views, group->count);
    world->pinned -= group->count;
    group->count = 0;
}

static void step_wait(struct world *world, struct group *group)
{
    int32_t before = 0, after = 0;
    for (int32_t i = 0; i < group->count; i++)
        before += group->views[i].state == EXPERT_VIEW_PENDING;
    expert_store_wait(world->store, group->views, group->count);
    for (int32_t i = 0; i < group->count; i++)
        after += group->views[i].state == EXPERT_VIEW_PENDING;
    assert_true(before == 0 || after < before);
}

static void check_stats(const struct world *world)
{
    struct expert_store_stats stats;
    expert_store_stats_get(world->store, &stats);
    assert_int_equal(stats.hits + stats.misses, world->views);
    assert_true(stats.slots_pinned <= world->pinned);
    assert_true(stats.slots_ready <= stats.slots);
    if (!world->faults_expected) assert_string_equal(expert_store_last_failure(world->store), "");
}

static void run_steps(struct world *world, int32_t steps)
{
    struct expert_ref refs[GROUP_MAX];
    for (int32_t step = 0; step < steps; step++) {
        struct group *group = &world->groups[test_random_below(&world->state, GROUPS_MAX)];
        switch (test_random_below(&world->state, 8)) {
        case 0:
        case 1:
        case 2:
            if (group->count == 0) step_acquire(world, group);
            break;
        case 3: step_release(world, group); break;
        case 4:
        case 5: step_wait(world, group); break;
        case 6: {
            int32_t count = (int32_t)test_random_below(&world->state, GROUP_MAX + 1);
            choose_refs(world, refs, count);
            test_guess(world->store, refs, count);
            break;
        }
        default: expert_store_poll(world->store); break;
        }
        expert_store_check(world->store);
        check_stats(world);
        check_views(world, group);
    }
}

/* Everything is given back, and every read that was begun comes to its end. */
static void settle_world(struct world *world)
{
    struct expert_store_stats stats;
    for (int32_t i = 0; i < GROUPS_MAX; i++)
        step_release(world, &world->groups[i]);
    expert_store_check(world->store);
    for (int32_t i = 0; i < 100 || (i < 100000 && io_sim_counts_get().in_flight > 0); i++)
        expert_store_poll(world->store);
    expert_store_stats_get(world->store, &stats);
    assert_int_equal(io_sim_counts_get().in_flight, 0);
    assert_int_equal(stats.slots_pinned, 0);
    assert_true(stats.ram_bytes >= (uint64_t)stats.slots * stats.slot_bytes);
}

static void run_world(enum test_experts_form form, const struct io_sim_plan *plan, uint64_t seed,
                      int32_t slots, int32_t depth, bool checksums)
{
    struct world world = {.slots = slots, .state = seed};
    struct sl_error error;
    test_experts_init(&world.experts, form, LAYERS, EXPERTS, seed % 2 == 0, seed);
    if (checksums) world.experts.source.checksums = world.experts.checksums;
    world.faults_expected =
        plan->fault_count > 0 || plan->refuse_permille > 0 || plan->transient_permille > 100;
    struct expert_store_options options = {
        .source = &world.experts.source,
        .slots_min = slots,
        .depth = depth,
        .io_override = &io_sim_ops,
    };
    /* The least budget that does: one byte less must be refused, naming the amount needed. */
    struct expert_store_stats stats;
    options.ram_bytes = UINT64_MAX;
    assert_int_equal(expert_store_create(&options, &world.store, &error), SL_OK);
    expert_store_stats_get(world.store, &stats);
    uint64_t staging_bytes = stats.ram_bytes - (uint64_t)stats.slots * stats.slot_bytes;
    assert_int_equal(stats.slots, LAYERS * EXPERTS);
    expert_store_destroy(world.store);
    options.ram_bytes = staging_bytes + (uint64_t)slots * stats.slot_bytes - 1;
    assert_int_equal(expert_store_create(&options, &world.store, &error), SL_ERR_NO_MEMORY);
    options.ram_bytes++;
    io_sim_set_plan(plan);
    assert_int_equal(expert_store_create(&options, &world.store, &error), SL_OK);
    run_steps(&world, STEPS);
    settle_world(&world);
    expert_store_stats_get(world.store, &stats);
    assert_int_equal(stats.slots, slots);
    assert_true(stats.ram_bytes <= options.ram_bytes);
    /* The ranges of the faults lie within packed experts; elsewhere they may fall into gaps. */
    if (form == TEST_EXPERTS_PACKED)
        assert_int_equal(stats.failures > 0 && world.failed_views > 0, world.faults_expected);
    /* Whatever was read whole is still here or was evicted. */
    if (form == TEST_EXPERTS_PACKED && !world.faults_expected && plan->short_permille == 0)
        assert_int_equal(stats.bytes_read / stats.slot_bytes,
                         stats.evictions + (uint64_t)stats.slots_ready);
    expert_store_destroy(world.store);
    test_experts_deinit(&world.experts);
}

static void run_seeds(const char *name, struct io_sim_plan plan, bool checksums)
{
    /* The minimum of slots, few, and as many as there are experts. */
    static const int32_t slot_counts[] = {1, 2, 7, 13, LAYERS * EXPERTS};
    for (uint64_t seed = 1; seed <= SL_COUNT_OF(slot_counts) * 2; seed++) {
        enum test_experts_form form =
            seed > SL_COUNT_OF(slot_counts) ? TEST_EXPERTS_UNPACKED : TEST_EXPERTS_PACKED;
        int32_t slots = slot_counts[seed % SL_COUNT_OF(slot_counts)];
        int32_t depth = 1 + (int32_t)(seed * 5 % 8);
        plan.seed = seed * 977;
        print_message("%s: seed %llu, %d slots, depth %d\n", name, (unsigned long long)seed,
                      (int)slots, (int)depth);
        run_world(form, &plan, seed, slots, depth, checksums);
    }
}

static void test_views_show_their_expert(void **state)
{
    (void)state;
    run_seeds("calm", (struct io_sim_plan){.latency_turns_max = 4}, false);
}

static void test_short_and_interrupted_reads_do_no_harm(void **state)
{
    (void)state;
    run_seeds("rough",
              (struct io_sim_plan){
                  .latency_turns_max = 9, .short_permille = 300, .transient_permille = 80},
              true);
}

static void test_faults_hit_only_the_views_that_need_the_bytes(void **state)
{
    (void)state;
    struct io_sim_plan plan = {
        .latency_turns_max = 6,
        .short_permille = 100,
        .transient_permille = 400,
        .refuse_permille = 20,
        .fault_count = 3,
        .faults = {{.offset_bytes = 9000, .bytes = 10, .os_errno = EIO},
                   {.offset_bytes = 50000, .bytes = 1, .flip = true},
                   {.offset_bytes = 70000, .bytes = 5000, .stall_turns = 200}},
    };
    run_seeds("faulty", plan, true);
}

/* ---- named behaviours ---- */

struct fixture {
    struct test_experts experts;
    struct expert_store *store;
};

static void open_fixture(struct fixture *fixture, enum test_experts_form form, int32_t slots,
                         int32_t depth, const struct io_sim_plan *plan)
{
    struct sl_error error;
    test_experts_init(&fixture->experts, form, LAYERS, EXPERTS, false, 5);
    struct expert_store_options options = {
        .source = &fixture->experts.source,
        .ram_bytes = (uint64_t)slots * fixture->experts.source.slot_bytes,
        .slots_min = slots,
        .depth = depth,
        .io_override = &io_sim_ops,
    };
    io_sim_set_plan(plan);
    assert_int_equal(expert_store_create(&options, &fixture->store, &error), SL_OK);
}

static void close_fixture(struct fixture *fixture)
{
    expert_store_destroy(fixture->store);
    test_experts_deinit(&fixture->experts);
}

static void acquire_and_wait(struct expert_store *store, int32_t index, struct expert_view *view)
{
    struct expert_ref ref = ref_of(index);
    assert_int_equal(expert_store_acquire(store, &ref, NULL, 1, view), SL_OK);
    expert_store_wait(store, view, 1);
    assert_int_equal(view->state, EXPERT_VIEW_READY);
}

static void test_the_least_recently_used_expert_gives_way(void **state)
{
    struct fixture fixture;
    struct expert_view view;
    struct expert_store_stats stats;
    static const int32_t order[] = {0, 1, 2, 0, 3}; /* 0 is used again, so 1 must go for 3 */
    (void)state;
    open_fixture(&fixture, TEST_EXPERTS_PACKED, 3, 2, &(struct io_sim_plan){0});
    for (size_t i = 0; i < SL_COUNT_OF(order); i++) {
        acquire_and_wait(fixture.store, order[i], &view);
        expert_store_release(fixture.store, &view, 1);
    }
    assert_true(expert_store_is_resident(fixture.store, ref_of(0)));
    assert_false(expert_store_is_resident(fixture.store, ref_of(1)));
    assert_true(expert_store_is_resident(fixture.store, ref_of(2)));
    assert_true(expert_store_is_resident(fixture.store, ref_of(3)));
    expert_store_stats_get(fixture.store, &stats);
    assert_int_equal(stats.hits, 1);
    assert_int_equal(stats.misses, 4);
    assert_int_equal(stats.evictions, 1);
    assert_int_equal(stats.bytes_read, 4 * stats.slot_bytes);
    close_fixture(&fixture);
}

static void test_acquire_beyond_the_slots_is_busy_and_pins_nothing(void **state)
{
    struct fixture fixture;
    struct expert_view held[2], views[2];
    struct expert_ref first[2] = {ref_of(0), ref_of(1)}, second[2] = {ref_of(1), ref_of(2)};
    struct expert_store_stats stats;
    (void)state;
    open_fixture(&fixture, TEST_EXPERTS_PACKED, 2, 2, &(struct io_sim_plan){0});
    assert_int_equal(expert_store_acquire(fixture.store, first, NULL, 2, held), SL_OK);
    assert_int_equal(expert_store_acquire(fixture.store, second, NULL, 2, views), SL_ERR_BUSY);
    expert_store_release(fixture.store, held, 2);
    expert_store_stats_get(fixture.store, &stats);
    assert_int_equal(stats.slots_pinned, 0);
    assert_int_equal(expert_store_acquire(fixture.store, second, NULL, 2, views), SL_OK);
    expert_store_release(fixture.store, views, 2);
    expert_store_check(fixture.store);
    close_fixture(&fixture);
}

static void test_two_callers_share_one_read(void **state)
{
    struct fixture fixture;
    struct expert_view a, b;
    struct expert_ref ref = ref_of(7);
    (void)state;
    open_fixture(&fixture, TEST_EXPERTS_PACKED, 4, 2,
                 &(struct io_sim_plan){.latency_turns_max = 9});
    assert_int_equal(expert_store_acquire(fixture.store, &ref, NULL, 1, &a), SL_OK);
    assert_int_equal(expert_store_acquire(fixture.store, &ref, NULL, 1, &b), SL_OK);
    expert_store_wait(fixture.store, &a, 1);
    expert_store_wait(fixture.store, &b, 1);
    assert_ptr_equal(a.data, b.data);
    assert_int_equal(io_sim_counts_get().reads, 1);
    expert_store_release(fixture.store, &a, 1);
    assert_memory_equal(b.data, test_experts_slot(&fixture.experts, ref), 8192);
    expert_store_release(fixture.store, &b, 1);
    close_fixture(&fixture);
}

static void test_prefetched_experts_are_hits_and_pinned_ones_stay(void **state)
{
    struct fixture fixture;
    struct expert_view view, later;
    struct expert_ref refs[3] = {ref_of(1), ref_of(2), ref_of(3)};
    struct expert_store_stats stats;
    (void)state;
    open_fixture(&fixture, TEST_EXPERTS_PACKED, 2, 4, &(struct io_sim_plan){0});
    acquire_and_wait(fixture.store, 0, &view);
    test_guess(fixture.store, refs, 1);
    for (int i = 0; i < 4; i++)
        expert_store_poll(fixture.store);
    assert_true(expert_store_is_resident(fixture.store, refs[0]));
    acquire_and_wait(fixture.store, 1, &later);
    expert_store_stats_get(fixture.store, &stats);
    assert_int_equal(stats.hits, 1);
    assert_int_equal(stats.misses, 1);
    test_guess(fixture.store, refs, 3); /* every slot is pinned: nothing may move */
    for (int i = 0; i < 8; i++)
        expert_store_poll(fixture.store);
    assert_true(expert_store_is_resident(fixture.store, ref_of(0)));
    assert_true(expert_store_is_resident(fixture.store, refs[0]));
    expert_store_release(fixture.store, &view, 1);
    expert_store_release(fixture.store, &later, 1);
    close_fixture(&fixture);
}

static void test_reads_in_flight_stay_within_the_depth(void **state)
{
    struct fixture fixture;
    struct expert_view views[12];
    struct expert_ref refs[12];
    (void)state;
    for (int32_t i = 0; i < 12; i++)
        refs[i] = ref_of(i);
    open_fixture(&fixture, TEST_EXPERTS_PACKED, 12, 3, &(struct io_sim_plan){0});
    assert_int_equal(expert_store_acquire(fixture.store, refs, NULL, 12, views), SL_OK);
    for (int32_t i = 0; i < 12; i++)
        expert_store_wait(fixture.store, views, 12);
    for (int32_t i = 0; i < 12; i++)
        assert_int_equal(views[i].state, EXPERT_VIEW_READY);
    assert_int_equal(io_sim_counts_get().in_flight_max, 3);
    expert_store_release(fixture.store, views, 12);
    close_fixture(&fixture);
}

static void test_a_broken_door_fails_every_view_and_hangs_nobody(void **state)
{
    struct fixture fixture;
    struct expert_view views[6];
    struct expert_ref refs[6];
    (void)state;
    for (int32_t i = 0; i < 6; i++)
        refs[i] = ref_of(i);
    open_fixture(&fixture, TEST_EXPERTS_PACKED, 8, 2,
                 &(struct io_sim_plan){.latency_turns_max = 3});
    io_sim_set_plan(&(struct io_sim_plan){.reap_fails = true});
    for (int round = 0; round < 2; round++) {
        assert_int_equal(expert_store_acquire(fixture.store, refs, NULL, 6, views), SL_OK);
        for (int32_t i = 0; i < 6; i++)
            expert_store_wait(fixture.store, views, 6);
        for (int32_t i = 0; i < 6; i++) {
            assert_int_equal(views[i].state, EXPERT_VIEW_FAILED);
            assert_int_equal(views[i].status, SL_ERR_IO);
        }
        expert_store_check(fixture.store);
        expert_store_release(fixture.store, views, 6);
    }
    close_fixture(&fixture);
}

static void test_sources_that_cannot_be_right_are_refused(void **state)
{
    struct test_experts experts;
    struct expert_store *store;
    struct sl_error error;
    (void)state;
    test_experts_init(&experts, TEST_EXPERTS_UNPACKED, 1, 2, false, 3);
    struct expert_store_options options = {
        .source = &experts.source, .ram_bytes = 1 << 20, .depth = 2, .io_override = &io_sim_ops};
    struct expert_segment *segment = &experts.segments[8], whole = *segment;
    const struct expert_segment wrong[] = {
        {whole.offset_bytes, whole.bytes, whole.slot_offset_bytes, 2},
        {whole.offset_bytes, whole.bytes, whole.slot_offset_bytes, -1},
        {whole.offset_bytes, 0, whole.slot_offset_bytes, 0},
        {experts.files[0].bytes, 1, whole.slot_offset_bytes, 0},
        {UINT64_MAX, whole.bytes, whole.slot_offset_bytes, 0},
        {whole.offset_bytes, UINT64_MAX, whole.slot_offset_bytes, 0},
        {whole.offset_bytes, whole.bytes, 0, 0}, /* over another part */
        {whole.offset_bytes, whole.bytes, 8192, 0},
    };
    for (size_t i = 0; i < SL_COUNT_OF(wrong); i++) {
        *segment = wrong[i];
        assert_int_equal(expert_store_create(&options, &store, &error), SL_ERR_ARGUMENT);
        assert_non_null(strstr(error.message, "layer 0 expert 1"));
    }
    *segment = whole;
    options.depth = 65;
    assert_int_equal(expert_store_create(&options, &store, &error), SL_ERR_ARGUMENT);
    options.depth = 0;
    assert_int_equal(expert_store_create(&options, &store, &error), SL_ERR_ARGUMENT);
    options.depth = 1;
    experts.source.slot_bytes = 8191;
    assert_int_equal(expert_store_create(&options, &store, &error), SL_ERR_ARGUMENT);
    experts.source.slot_bytes = 8192;
    experts.source.layers = INT32_MAX;
    assert_int_equal(expert_store_create(&options, &store, &error), SL_ERR_ARGUMENT);
    experts.source.layers = 1;
    assert_int_equal(expert_store_create(&options, &store, &error), SL_OK);
    expert_store_destroy(store);
    test_experts_deinit(&experts);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_views_show_their_expert),
        cmocka_unit_test(test_short_and_interrupted_reads_do_no_harm),
        cmocka_unit_test(test_faults_hit_only_the_views_that_need_the_bytes),
        cmocka_unit_test(test_the_least_recently_used_expert_gives_way),
        cmocka_unit_test(test_acquire_beyond_the_slots_is_busy_and_pins_nothing),
        cmocka_unit_test(test_two_callers_share_one_read),
        cmocka_unit_test(test_prefetched_experts_are_hits_and_pinned_ones_stay),
        cmocka_unit_test(test_reads_in_flight_stay_within_the_depth),
        cmocka_unit_test(test_a_broken_door_fails_every_view_and_hangs_nobody),
        cmocka_unit_test(test_sources_that_cannot_be_right_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
