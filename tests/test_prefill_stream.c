/* labels: golden fault
 *
 * Prompts whose experts pass through the device in whole layers, ahead of their routers: the same
 * logits whatever lies where and whatever breaks, decode finds on the device what it left there,
 * and a prompt that is given up leaves nothing on its way. */
#include "offload/device_sim.h"
#include "runtime/session.h"
#include "tests/io_sim.h"
#include "tests/support.h"
#include "tests/support_checkpoint.h"
#include "tests/support_engine.h"

#include <string.h>

#define TOKENS     100
#define SLOT_BYTES 53248
#define DECODED    24

struct variant {
    const char *what;
    int32_t host_slots, device_slots, stream_slots, chunk_tokens;
    enum sl_tiers tiers;
    struct device_sim_plan plan;
    struct io_sim_plan disk;
    bool threads;
    uint64_t dies_later; /* the way up, after so many copies for the prompt; 0: never */
};

static const struct variant variants[] = {
    {"two layers of room", 200, 48, 32, 100, .tiers = SL_TIERS_INCLUSIVE},
    {"chunks of 17", 200, 48, 32, 17, .tiers = SL_TIERS_INCLUSIVE},
    {"chunks of 64", 200, 48, 32, 64, .tiers = SL_TIERS_EXCLUSIVE},
    {"half a layer of room", 200, 24, 8, 100, .tiers = SL_TIERS_INCLUSIVE},
    {"room for one expert", 200, 8, 1, 33, .tiers = SL_TIERS_INCLUSIVE},
    {"little RAM", 40, 48, 32, 100, .tiers = SL_TIERS_EXCLUSIVE},
    {"very little RAM", 24, 24, 8, 50, .tiers = SL_TIERS_EXCLUSIVE},
    {"a rough disk", 30, 40, 24, 50, .tiers = SL_TIERS_EXCLUSIVE,
     .disk =
         {.seed = 5, .latency_turns_max = 40, .short_permille = 300, .transient_permille = 100}},
    {"a lane that dies", 200, 48, 32, 100, .tiers = SL_TIERS_EXCLUSIVE, .dies_later = 30},
    {"a lane that dies, with little RAM", 40, 48, 32, 50, .tiers = SL_TIERS_EXCLUSIVE,
     .dies_later = 60},
    {"lanes that stall", 200, 48, 32, 50, .tiers = SL_TIERS_EXCLUSIVE,
     .plan = {.jitter_percent = 300, .stall_permille = 100, .stall_ns = 100000000}},
    {"threads that copy", 200, 48, 32, 50, .tiers = SL_TIERS_EXCLUSIVE, .threads = true},
};

static uint64_t now_ns;

static uint64_t read_clock(void *context)
{
    (void)context;
    return now_ns += 5000; /* time passes with every look, so that routers are waited for */
}

static void advance_clock(void *context, uint64_t ns)
{
    (void)context;
    now_ns += ns;
}

static char *directory;
static int32_t ids[TOKENS];
static float *expected; /* [TOKENS, vocab] */

static sl_engine *open_variant(const struct variant *variant)
{
    struct sl_engine_options options = engine_test_options(directory, 0);
    struct sl_error error;
    sl_engine *engine;
    options.ram_bytes = (uint64_t)variant->host_slots * SLOT_BYTES;
    options.chunk_tokens = variant->chunk_tokens;
    options.tiers = variant->tiers;
    options.sim_device_bytes = (uint64_t)variant->device_slots * SLOT_BYTES;
    struct device_sim_options device = {.memory_bytes = options.sim_device_bytes,
                                        .bytes_per_second = {1000000000, 1000000000},
                                        .latency_ns = 5000,
                                        .threads = variant->threads,
                                        .seed = 3,
                                        .plan = variant->plan};
    struct engine_overrides overrides = {.io = &io_sim_ops, .stream_slots = variant->stream_slots};
    device.plan.poison = true;
    if (!variant->threads) {
        device.clock.now_ns = overrides.clock.now_ns = read_clock;
        device.advance = advance_clock;
        overrides.patience_ns = 50000000;
    }
    io_sim_set_plan(&variant->disk);
    if (device_sim_create(&device, &overrides.device, &error) != SL_OK ||
        engine_open_with(&options, &overrides, &engine, &error) != SL_OK)
        fail_msg("%s: %s", variant->what, error.message);
    return engine;
}

/* Until nothing has travelled for a while. */
static void settle(sl_engine *engine)
{
    for (int32_t quiet = 0, turns = 0; quiet < 300; turns++) {
        bool busy = io_sim_counts_get().in_flight > 0;
        for (int lane = 0; lane < DEVICE_LANES; lane++)
            busy = busy || (!engine->device->ops->lane_fault(engine->device, lane) &&
                            device_sim_in_flight(engine->device, lane) > 0);
        quiet = busy ? 0 : quiet + 1;
        now_ns += 100000;
        expert_store_poll(engine->store);
        assert_true(turns < 100000);
    }
    expert_store_check(engine->store);
}

static void check_nothing_is_left(sl_engine *engine)
{
    struct expert_store_stats stats;
    settle(engine);
    expert_store_stats_get(engine->store, &stats);
    assert_int_equal(stats.stream_used, 0);
    assert_int_equal(stats.device_pinned + stats.slots_pinned, 0);
}

static void logits_are_the_same_and_a_lane_that_dies_is_told_of(void **state)
{
    (void)state;
    for (size_t i = 0; i < SL_COUNT_OF(variants); i++) {
        const struct variant *variant = &variants[i];
        sl_engine *engine = open_variant(variant);
        sl_session *session = engine_test_session(engine);
        size_t vocab = (size_t)sl_engine_info(engine).vocab;
        float *logits = calloc(TOKENS * vocab, sizeof *logits);
        struct sl_error error;
        struct expert_store_stats stats;
        assert_non_null(logits);
        /* Some tokens one by one, so that the device is full when the prompt comes. */
        for (int32_t t = 0; t < DECODED; t++)
            if (sl_session_append(session, ids + t, 1, logits + (size_t)t * vocab, &error))
                fail_msg("%s: %s", variant->what, error.message);
        expert_store_stats_get(engine->store, &stats);
        struct device_sim_plan plan = variant->plan;
        plan.poison = true;
        if (variant->dies_later) plan.dies_after[DEVICE_UP] = stats.copies_up + variant->dies_later;
        device_sim_set_plan(engine->device, &plan);
        if (sl_session_append(session, ids + DECODED, TOKENS - DECODED, logits + DECODED * vocab,
                              &error))
            fail_msg("%s: %s", variant->what, error.message);
        assert_memory_equal(logits, expected, sizeof *logits * TOKENS * vocab);
        expert_store_stats_get(engine->store, &stats);
        print_message("%s: %llu copies up, %llu of them streamed; %llu views on the device, %llu "
                      "on the CPU\n",
                      variant->what, (unsigned long long)stats.copies_up,
                      (unsigned long long)stats.streamed,
                      (unsigned long long)stats.lanes[EXPERT_LANE_DEVICE],
                      (unsigned long long)stats.lanes[EXPERT_LANE_CPU]);
        if (variant->dies_later) assert_non_null(strstr(sl_engine_notice(engine, 0), "as planned"));
        assert_true(stats.streamed > 0 || variant->plan.stall_ns > 0 || variant->threads);
        /* Of the device's slots no more than were set aside have been streamed through. */
        assert_int_equal(stats.stream_slots, variant->stream_slots);
        check_nothing_is_left(engine);
        sl_session_destroy(session);
        sl_engine_close(engine);
        free(logits);
    }
}

/* What decode would find: experts that stay on the device, and the heat of all. */
struct residency_seen {
    bool stays[1024];
    float heat[1024];
    int32_t count;
};

static void look(sl_engine *engine, struct residency_seen *out)
{
    const struct expert_source *source = &engine->source;
    *out = (struct residency_seen){.count = source->layers * source->experts};
    assert_true(out->count <= 1024);
    for (int32_t i = 0; i < out->count; i++) {
        struct expert_ref ref = {.layer = i / source->experts, .expert = i % source->experts};
        out->stays[i] = expert_store_stays(engine->store, ref);
        out->heat[i] = heat_rate(expert_store_heat(engine->store), i);
    }
}

static void decode_finds_on_the_device_what_it_left_there(void **state)
{
    (void)state;
    for (size_t i = 0; i < 7; i++) {
        sl_engine *engine = open_variant(&variants[i]);
        sl_session *session = engine_test_session(engine);
        struct residency_seen *before = calloc(2, sizeof *before), *after = before + 1;
        struct expert_store_stats stats[2];
        struct sl_error error;
        int32_t staying = 0, prompt = TOKENS - DECODED, chunk = variants[i].chunk_tokens;
        /* Whole chunks: what is left over would be few enough to count as decode. */
        if (chunk < prompt) prompt = prompt / chunk * chunk;
        assert_non_null(before);
        for (int32_t t = 0; t < DECODED; t++)
            assert_int_equal(sl_session_append(session, ids + t, 1, NULL, &error), SL_OK);
        settle(engine);
        look(engine, before);
        expert_store_stats_get(engine->store, &stats[0]);
        assert_int_equal(sl_session_append(session, ids + DECODED, (size_t)prompt, NULL, &error),
                         SL_OK);
        look(engine, after);
        expert_store_stats_get(engine->store, &stats[1]);
        assert_true(stats[1].streamed > stats[0].streamed);
        assert_int_equal(stats[1].device_evictions, stats[0].device_evictions);
        assert_int_equal(stats[1].demotions, stats[0].demotions);
        for (int32_t e = 0; e < before->count; e++) {
            assert_true(after->stays[e] >= before->stays[e]);
            assert_true(after->heat[e] == before->heat[e]);
            staying += before->stays[e];
        }
        assert_true(staying > 0);
        sl_session_destroy(session);
        sl_engine_close(engine);
        free(before);
    }
}

struct stop {
    int32_t left;
};

static bool count_down(void *context, size_t done, size_t total)
{
    struct stop *stop = context;
    (void)done;
    (void)total;
    return stop->left-- > 0;
}

static void a_prompt_given_up_leaves_nothing_on_its_way(void **state)
{
    (void)state;
    for (int32_t at = 0; at < 12; at++) {
        const struct variant *variant = &variants[at % 2 ? 1 : 6];
        sl_engine *engine = open_variant(variant);
        sl_session *session = engine_test_session(engine);
        size_t vocab = (size_t)sl_engine_info(engine).vocab;
        struct stop stop = {.left = at};
        struct sl_error error;
        assert_int_equal(sl_session_sync(session, ids, TOKENS, count_down, &stop, &error),
                         SL_ERR_CANCELLED);
        /* Closing at once is as good as settling, or going on. */
        if (at % 3 == 1) check_nothing_is_left(engine);
        if (at % 3 == 2) {
            if (sl_session_sync(session, ids, TOKENS, NULL, NULL, &error) != SL_OK)
                fail_msg("%s", error.message);
            assert_memory_equal(sl_session_logits(session), expected + (TOKENS - 1) * vocab,
                                vocab * sizeof(float));
        }
        sl_session_destroy(session);
        sl_engine_close(engine);
    }
}

static int set_up(void **state)
{
    struct sl_error error;
    (void)state;
    directory = checkpoint_copy_golden("tiny-a");
    for (int32_t i = 0; i < TOKENS; i++)
        ids[i] = (i * 37 + i / 9) % 512;
    expected = engine_test_reference(directory, ids, TOKENS);
    assert_int_equal(sl_pack(directory, NULL, NULL, NULL, &error), SL_OK);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    free(expected);
    test_remove_tree(directory);
    free(directory);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_the_same_and_a_lane_that_dies_is_told_of),
        cmocka_unit_test(decode_finds_on_the_device_what_it_left_there),
        cmocka_unit_test(a_prompt_given_up_leaves_nothing_on_its_way),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
