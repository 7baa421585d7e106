/* labels: unit fault
 *
 * Three tiers under a seeded simulator of faults and time: a simulated disk, a simulated device
 * under a virtual clock, and callers that acquire, wait, guess and release at random. After every
 * step the invariants of expert_store_check hold (no slot with two owners, pins and lists
 * consistent, budgets kept), a READY view shows the bytes of the expert it names, and an acquire
 * within the promised number of views succeeds, whatever hangs or has failed. At the end every pin
 * is gone and nothing is left on its way.
 *
 * With a number as argument: that many steps in all, over new seeds, instead of a short run. */
#include "offload/device_sim.h"
#include "offload/expert_store.h"

#include "tests/io_sim.h"
#include "tests/support.h"
#include "tests/support_experts.h"

#include <errno.h>
#include <string.h>

#define LAYERS     3
#define EXPERTS    8
#define COUNT      (LAYERS * EXPERTS)
#define GROUPS_MAX 4
#define GROUP_MAX  6
#define SLOT_BYTES 8192
#define PATIENCE   2000000u /* virtual ns */

/* One caller and its pins. */
struct group {
    struct expert_view views[GROUP_MAX];
    int32_t count;
};

struct world {
    struct test_experts experts;
    struct expert_store *store;
    struct device *device;
    struct device_sim_plan device_plan;
    struct io_sim_plan disk_plan;
    struct group groups[GROUPS_MAX];
    uint64_t now_ns, state;
    uint64_t views, failed_views, busy;
    int64_t token_clock;
    int32_t held; /* views of all groups */
    bool disk_fails;
};

struct setting {
    int32_t host_slots, slots_min, device_slots, depth;
    enum expert_sharing sharing;
    enum residency_policy policy;
    enum dispatch_rule rule;
    int32_t prefetch_max, stream_slots;
    bool rough_disk, rough_link, hangs, dies, unpinned;
};

static uint64_t world_now(void *context)
{
    return ((const struct world *)context)->now_ns;
}

static void world_advance(void *context, uint64_t ns)
{
    ((struct world *)context)->now_ns += ns;
}

static struct expert_ref ref_of(int32_t idx)
{
    return (struct expert_ref){.layer = idx / EXPERTS, .expert = idx % EXPERTS};
}

static uint32_t draw(struct world *world, uint32_t bound)
{
    return test_random_below(&world->state, bound);
}

/* ---- what must hold ---- */

static void check_views(struct world *world, const struct group *group)
{
    for (int32_t i = 0; i < group->count; i++) {
        const struct expert_view *view = &group->views[i];
        if (view->state == EXPERT_VIEW_READY) {
            assert_memory_equal(view->data, test_experts_slot(&world->experts, view->ref),
                                SLOT_BYTES);
            assert_true(view->tier == EXPERT_TIER_DEVICE || view->tier == EXPERT_TIER_HOST);
            assert_int_equal(view->lane == EXPERT_LANE_DEVICE, view->tier == EXPERT_TIER_DEVICE);
        } else if (view->state == EXPERT_VIEW_FAILED) {
            assert_true(world->disk_fails);
            assert_int_not_equal(view->status, SL_OK);
            assert_int_equal(view->slot, -1);
        }
    }
}

static void check_world(struct world *world)
{
    struct expert_store_stats stats;
    expert_store_check(world->store);
    expert_store_stats_get(world->store, &stats);
    assert_int_equal(stats.hits + stats.misses, world->views);
    assert_int_equal(stats.from[0] + stats.from[1] + stats.from[2], world->views);
    for (int i = 0; i < GROUPS_MAX; i++)
        check_views(world, &world->groups[i]);
}

/* ---- steps ---- */

static int32_t choose_refs(struct world *world, struct expert_ref *refs, int32_t count)
{
    bool taken[COUNT] = {false};
    /* A few experts are asked for often, so that there is something to learn. */
    for (int32_t i = 0; i < count;) {
        uint32_t idx = draw(world, 3) ? draw(world, COUNT / 3) * 3 : draw(world, COUNT);
        if (taken[idx]) continue;
        taken[idx] = true;
        refs[i++] = ref_of((int32_t)idx);
    }
    return count;
}

static void step_acquire(struct world *world, struct group *group)
{
    struct expert_ref refs[GROUP_MAX];
    int32_t tokens[GROUP_MAX];
    struct expert_store_stats stats;
    expert_store_stats_get(world->store, &stats);
    int32_t limit = min_i32(min_i32(GROUP_MAX, stats.slots), COUNT / 3);
    int32_t count = choose_refs(world, refs, (int32_t)draw(world, (uint32_t)limit + 1));
    for (int32_t i = 0; i < count; i++)
        tokens[i] = 1 + (int32_t)draw(world, 9);
    enum sl_status status = expert_store_acquire(world->store, refs, tokens, count, group->views);
    if (status == SL_ERR_BUSY) {
        assert_true(world->held + count > expert_store_views_max(world->store));
        world->busy++;
        return;
    }
    assert_int_equal(status, SL_OK);
    group->count = count;
    world->held += count;
    world->views += (uint64_t)count;
}

static void step_release(struct world *world, struct group *group)
{
    for (int32_t i = 0; i < group->count; i++)
        world->failed_views += group->views[i].state == EXPERT_VIEW_FAILED;
    expert_store_release(world->store, group->views, group->count);
    world->held -= group->count;
    group->count = 0;
}

/* Waits either for the first or for all. */
static void step_wait(struct world *world, struct group *group)
{
    bool all = draw(world, 2);
    for (int32_t before = GROUP_MAX + 1, pending = GROUP_MAX; all || before > GROUP_MAX;) {
        before = pending;
        pending = 0;
        expert_store_wait(world->store, group->views, group->count);
        for (int32_t i = 0; i < group->count; i++)
            pending += group->views[i].state == EXPERT_VIEW_PENDING;
        if (pending == 0) break;
        assert_true(pending < before || before == GROUP_MAX);
    }
}

static void step_guess(struct world *world)
{
    struct expert_ref refs[GROUP_MAX];
    int32_t count = choose_refs(world, refs, (int32_t)draw(world, GROUP_MAX + 1));
    for (int32_t i = 0; i < count; i++) {
        struct expert_guess guess = {
            .ref = refs[i],
            .probability = (float)draw(world, 101) / 100,
            .token_clock = world->token_clock + draw(world, 3),
        };
        expert_store_guess(world->store, &guess, 1);
    }
}

/* What a prefill wants next, of this layer and others; or nothing more. */
static void step_stream(struct world *world)
{
    struct expert_ref refs[COUNT / 3];
    int32_t count = choose_refs(world, refs, (int32_t)draw(world, COUNT / 3));
    expert_store_stream(world->store, refs, count);
    if (draw(world, 3) == 0) (void)expert_store_step(world->store);
}

static void step_trouble(struct world *world, const struct setting *setting)
{
    struct device_sim_plan *plan = &world->device_plan;
    for (int lane = 0; lane < DEVICE_LANES && setting->hangs; lane++)
        plan->hangs[lane] = draw(world, 4) == 0;
    if (setting->rough_link) plan->slower_times = draw(world, 4) ? 1 : 10;
    device_sim_set_plan(world->device, plan);
    if (!setting->rough_disk) return;
    /* The disk slows tenfold for a while, and now and then is silent for long. */
    world->disk_plan.latency_turns_max = draw(world, 4) ? 6 : 60;
    world->disk_plan.faults[2].stall_turns = draw(world, 4) ? 0 : 400;
    io_sim_set_plan(&world->disk_plan);
}

static void step(struct world *world, const struct setting *setting)
{
    struct group *group = &world->groups[draw(world, GROUPS_MAX)];
    switch (draw(world, 13)) {
    case 0:
    case 1:
    case 2:
    case 3:
        if (group->count == 0) step_acquire(world, group);
        break;
    case 4:
    case 5: step_release(world, group); break;
    case 6:
    case 7:
    case 8: step_wait(world, group); break;
    case 9: step_guess(world); break;
    case 10:
        world->token_clock += draw(world, 2);
        expert_store_layer(world->store, world->token_clock, (int32_t)draw(world, LAYERS),
                           draw(world, 5) ? 1 : 100);
        if (draw(world, 20) == 0) step_trouble(world, setting);
        break;
    case 11: step_stream(world); break;
    default:
        world->now_ns += draw(world, 200000);
        expert_store_poll(world->store);
        break;
    }
    check_world(world);
}

/* ---- worlds ---- */

static void plan_trouble(struct world *world, const struct setting *setting, uint64_t seed)
{
    world->disk_plan = (struct io_sim_plan){.seed = seed * 977, .latency_turns_max = 4};
    if (setting->rough_disk)
        world->disk_plan = (struct io_sim_plan){
            .seed = seed * 977,
            .latency_turns_max = 6,
            .short_permille = 100,
            .transient_permille = 300,
            .refuse_permille = 10,
            .fault_count = 3,
            .faults = {{.offset_bytes = 9000, .bytes = 10, .os_errno = EIO},
                       {.offset_bytes = 50000, .bytes = 1, .flip = true},
                       {.offset_bytes = 70000, .bytes = 5000, .stall_turns = 200}},
        };
    world->disk_fails = setting->rough_disk;
    world->device_plan = (struct device_sim_plan){.poison = true};
    if (setting->rough_link) {
        world->device_plan.jitter_percent = 300;
        world->device_plan.stall_permille = 50;
        world->device_plan.stall_ns = PATIENCE * 3;
    }
    if (setting->dies) {
        world->device_plan.dies_after[DEVICE_UP] = 1 + draw(world, 60);
        world->device_plan.dies_after[DEVICE_DOWN] = 1 + draw(world, 30);
    }
}

static void open_world(struct world *world, const struct setting *setting, uint64_t seed)
{
    struct sl_error error;
    *world = (struct world){.state = seed};
    enum test_experts_form form = seed % 3 ? TEST_EXPERTS_PACKED : TEST_EXPERTS_UNPACKED;
    test_experts_init(&world->experts, form, LAYERS, EXPERTS, seed % 2 == 0, seed);
    world->experts.source.checksums = world->experts.checksums;
    plan_trouble(world, setting, seed);
    struct device_sim_options device = {
        .memory_bytes = (uint64_t)(setting->device_slots + 4) * SLOT_BYTES, /* more than is ours */
        .bytes_per_second = {200000000, 100000000}, /* 41 and 82 us an expert */
        .latency_ns = 5000,
        .pin_bytes_max = setting->unpinned ? 2 * SLOT_BYTES : 0,
        .clock = {world_now, world},
        .advance = world_advance,
        .seed = seed,
        .plan = world->device_plan,
    };
    assert_int_equal(device_sim_create(&device, &world->device, &error), SL_OK);
    struct expert_store_options options = {
        .source = &world->experts.source,
        .ram_bytes = UINT64_MAX,
        .slots_min = setting->slots_min,
        .depth = setting->depth,
        .io_override = &io_sim_ops,
        .device = world->device,
        .device_bytes = (uint64_t)setting->device_slots * SLOT_BYTES + 1,
        .sharing = setting->sharing,
        .policy = setting->policy,
        .rule = setting->rule,
        .prefetch_max = setting->prefetch_max,
        .stream_slots = setting->stream_slots,
        .patience_ns = PATIENCE,
        .clock = {world_now, world},
    };
    /* Staging is beside the slots: learn how much. */
    uint64_t staging = 0;
    if (form == TEST_EXPERTS_UNPACKED) {
        options.device = NULL;
        struct expert_store_stats stats;
        assert_int_equal(expert_store_create(&options, &world->store, &error), SL_OK);
        expert_store_stats_get(world->store, &stats);
        staging = stats.ram_bytes - (uint64_t)stats.slots * SLOT_BYTES;
        expert_store_destroy(world->store);
        options.device = world->device;
    }
    options.ram_bytes = staging + (uint64_t)setting->host_slots * SLOT_BYTES;
    io_sim_set_plan(&world->disk_plan);
    if (expert_store_create(&options, &world->store, &error) != SL_OK)
        fail_msg("%s", error.message);
}

/* Everything is given back, lanes that hang go on, and every read and copy comes to its end. */
static void close_world(struct world *world)
{
    struct expert_store_stats stats;
    for (int32_t i = 0; i < GROUPS_MAX; i++)
        step_release(world, &world->groups[i]);
    expert_store_check(world->store);
    memset(world->device_plan.hangs, 0, sizeof world->device_plan.hangs);
    device_sim_set_plan(world->device, &world->device_plan);
    for (int32_t quiet = 0, i = 0; quiet < 200; i++) {
        world->now_ns += 100000;
        expert_store_poll(world->store);
        bool busy = io_sim_counts_get().in_flight > 0 ||
                    device_sim_in_flight(world->device, DEVICE_UP) > 0 ||
                    device_sim_in_flight(world->device, DEVICE_DOWN) > 0;
        quiet = busy ? 0 : quiet + 1;
        assert_true(i < 100000); /* promotions come to rest as well */
    }
    expert_store_check(world->store);
    expert_store_stats_get(world->store, &stats);
    assert_int_equal(stats.slots_pinned, 0);
    assert_int_equal(stats.device_pinned, 0);
    expert_store_destroy(world->store);
    assert_int_equal(device_sim_pinned_bytes(world->device), 0);
    world->device->ops->destroy(world->device);
    test_experts_deinit(&world->experts);
}

static void add_stats(struct expert_store_stats *sum, const struct expert_store_stats *stats)
{
    sum->hits += stats->hits;
    sum->misses += stats->misses;
    sum->failures += stats->failures;
    sum->promotions += stats->promotions;
    sum->demotions += stats->demotions;
    sum->redirects += stats->redirects;
    sum->copies_up += stats->copies_up;
    sum->copies_down += stats->copies_down;
    sum->streamed += stats->streamed;
    sum->device_evictions += stats->device_evictions;
    sum->evictions += stats->evictions;
    for (int i = 0; i < EXPERT_LANES; i++)
        sum->lanes[i] += stats->lanes[i];
}

static struct setting draw_setting(uint64_t seed)
{
    static const int32_t host[] = {1, 2, 7, 13, COUNT}, device[] = {1, 2, 5, 12, COUNT};
    uint64_t state = seed * 31;
    struct setting setting = {
        .host_slots = host[test_random_below(&state, SL_COUNT_OF(host))],
        .device_slots = device[test_random_below(&state, SL_COUNT_OF(device))],
        .depth = 1 + (int32_t)test_random_below(&state, 8),
        .policy = (enum residency_policy)test_random_below(&state, RESIDENCY_CLAIRVOYANT),
        .rule = (enum dispatch_rule)test_random_below(&state, 3),
        .prefetch_max = (int32_t)test_random_below(&state, 5) - 1,
        .rough_disk = test_random_below(&state, 2),
        .rough_link = test_random_below(&state, 2),
        .hangs = test_random_below(&state, 3) == 0,
        .dies = test_random_below(&state, 3) == 0,
        .unpinned = test_random_below(&state, 4) == 0,
        .stream_slots = (int32_t)test_random_below(&state, 7),
    };
    bool fits = setting.host_slots == COUNT || setting.host_slots > setting.device_slots;
    setting.sharing = (enum expert_sharing)test_random_below(&state, fits ? 3 : 2);
    setting.slots_min = 1 + (int32_t)test_random_below(&state, (uint32_t)setting.host_slots);
    if (setting.sharing == EXPERT_INCLUSIVE && setting.host_slots < COUNT)
        setting.slots_min = min_i32(setting.slots_min, setting.host_slots - setting.device_slots);
    return setting;
}

static void run_world(uint64_t seed, int64_t steps, struct expert_store_stats *sum)
{
    struct world *world = calloc(1, sizeof *world);
    struct setting setting = draw_setting(seed);
    struct expert_store_stats stats;
    assert_non_null(world);
    print_message("seed %llu: %d host slots (%d at least), %d device slots, depth %d, sharing %d, "
                  "policy %d, rule %d%s%s%s%s%s\n",
                  (unsigned long long)seed, (int)setting.host_slots, (int)setting.slots_min,
                  (int)setting.device_slots, (int)setting.depth, (int)setting.sharing,
                  (int)setting.policy, (int)setting.rule, setting.rough_disk ? ", rough disk" : "",
                  setting.rough_link ? ", rough link" : "", setting.hangs ? ", hangs" : "",
                  setting.dies ? ", dies" : "", setting.unpinned ? ", unpinned" : "");
    open_world(world, &setting, seed);
    for (int64_t i = 0; i < steps; i++)
        step(world, &setting);
    expert_store_stats_get(world->store, &stats);
    add_stats(sum, &stats);
    assert_true(stats.device_bytes <= (uint64_t)setting.device_slots * SLOT_BYTES);
    close_world(world);
    free(world);
}

static int64_t steps_total = 60000;
static uint64_t first_seed = 1;

static void test_a_million_steps_break_no_promise(void **state)
{
    int64_t each = 3000;
    struct expert_store_stats sum = {0};
    (void)state;
    for (int64_t done = 0, seed = (int64_t)first_seed; done < steps_total; done += each, seed++)
        run_world((uint64_t)seed, min_i32(3000, (int32_t)(steps_total - done)), &sum);
    print_message("%lld steps: %llu hits, %llu misses, %llu failed reads, %llu copies up, %llu "
                  "down, %llu promotions, %llu demotions, %llu redirects, %llu evictions from RAM, "
                  "%llu from the device, %llu streamed, %llu views run on the CPU, %llu on the "
                  "device\n",
                  (long long)steps_total, (unsigned long long)sum.hits,
                  (unsigned long long)sum.misses, (unsigned long long)sum.failures,
                  (unsigned long long)sum.copies_up, (unsigned long long)sum.copies_down,
                  (unsigned long long)sum.promotions, (unsigned long long)sum.demotions,
                  (unsigned long long)sum.redirects, (unsigned long long)sum.evictions,
                  (unsigned long long)sum.device_evictions, (unsigned long long)sum.streamed,
                  (unsigned long long)sum.lanes[EXPERT_LANE_CPU],
                  (unsigned long long)sum.lanes[EXPERT_LANE_DEVICE]);
    /* It has all been exercised, or nothing would have been shown. */
    assert_true(sum.failures > 0 && sum.promotions > 0 && sum.demotions > 0);
    assert_true(sum.streamed > 0);
    assert_true(sum.redirects > 0 && sum.evictions > 0 && sum.device_evictions > 0);
    assert_true(sum.lanes[EXPERT_LANE_CPU] > 0 && sum.lanes[EXPERT_LANE_DEVICE] > 0);
}

int main(int argument_count, char **arguments)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_million_steps_break_no_promise),
    };
    if (argument_count > 1) {
        steps_total = strtoll(arguments[1], NULL, 10);
        first_seed = 1000;
    }
    if (argument_count > 2) first_seed = strtoull(arguments[2], NULL, 10);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
