/* labels: golden
 *
 * The CPU backend is batch-invariant: logits are the same to the last bit however the tokens are
 * cut into chunks, however many threads work, however little RAM the experts have and in whatever
 * order their reads end; and wherever experts lie, whoever computes them, and whatever becomes of
 * the link between. */
#include "offload/device_sim.h"
#include "runtime/sl.h"
#include "tests/io_sim.h"
#include "tests/support.h"
#include "tests/support_checkpoint.h"
#include "tests/support_engine.h"
#include "tests/support_golden.h"

#include <stdlib.h>
#include <string.h>

/* Of a sequence of 300; under ThreadSanitizer just past the first group of 128. */
#if defined(__SANITIZE_THREAD__)
#define TOKENS 140
#else
#define TOKENS 300
#endif

struct variant {
    const char *what;
    int32_t chunk_tokens, threads;
    uint64_t ram_bytes;
    enum sl_io io;
    bool buffered_io;
};

/* ---- tiers -------------------------------------------------------------------------------- */

#define TIER_TOKENS 80

/* A device and a disk, and what befalls them. */
struct tier_variant {
    const char *what;
    int32_t host_slots, device_slots;
    enum sl_tiers tiers;
    enum dispatch_rule rule;
    enum residency_policy policy;
    int32_t chunk_tokens;
    struct device_sim_plan plan;
    uint64_t link_bytes_per_second;
    struct io_sim_plan disk;
    bool threads;
};

static const struct tier_variant tier_variants[] = {
    {"exclusive, streamed", 24, 24, SL_TIERS_EXCLUSIVE, DISPATCH_ALWAYS_STREAM, .chunk_tokens = 1},
    {"exclusive, on the CPU", 24, 24, SL_TIERS_EXCLUSIVE, DISPATCH_ALWAYS_CPU, .chunk_tokens = 1},
    {"exclusive, as dispatch says", 30, 12, SL_TIERS_EXCLUSIVE, .chunk_tokens = 1},
    {"least recently used", 24, 24, SL_TIERS_EXCLUSIVE, .policy = RESIDENCY_LRU, .chunk_tokens = 1},
    {"a static set", 24, 24, SL_TIERS_EXCLUSIVE, .policy = RESIDENCY_STATIC, .chunk_tokens = 1},
    {"inclusive", 48, 24, SL_TIERS_INCLUSIVE, DISPATCH_ALWAYS_STREAM, .chunk_tokens = 1},
    {"everything in RAM", 200, 24, .rule = DISPATCH_ALWAYS_STREAM, .chunk_tokens = 1},
    {"everything on the device", 200, 200, .rule = DISPATCH_ALWAYS_STREAM, .chunk_tokens = 1},
    {"the least of RAM and one slot", 6, 1, .rule = DISPATCH_ALWAYS_STREAM, .chunk_tokens = 1},
    {"prefill in one piece", 24, 24, .rule = DISPATCH_ALWAYS_STREAM, .chunk_tokens = TIER_TOKENS},
    {"prefill in chunks", 40, 8, .chunk_tokens = 7},
    {"a lane that dies", 24, 24, .rule = DISPATCH_ALWAYS_STREAM, .chunk_tokens = 1,
     .plan = {.dies_after = {60, 20}}},
    {"lanes that stall", 24, 24, .rule = DISPATCH_ALWAYS_STREAM, .chunk_tokens = 1,
     .plan = {.jitter_percent = 300, .stall_permille = 100, .stall_ns = 100000000}},
    {"a slow link", 24, 24, .chunk_tokens = 1, .link_bytes_per_second = 10000000},
    {"reads in any order, short and interrupted", 24, 24, .chunk_tokens = 1,
     .disk =
         {.seed = 5, .latency_turns_max = 40, .short_permille = 300, .transient_permille = 100}},
    {"threads that copy", 24, 24, .rule = DISPATCH_ALWAYS_STREAM, .chunk_tokens = 1,
     .threads = true, .link_bytes_per_second = 2000000000},
};

static uint64_t virtual_now_ns;

static uint64_t read_virtual_clock(void *context)
{
    (void)context;
    return virtual_now_ns += 100; /* time passes with every look */
}

static void advance_virtual_clock(void *context, uint64_t ns)
{
    (void)context;
    virtual_now_ns += ns;
}

static sl_engine *open_tiers(const struct tier_variant *variant, const char *directory)
{
    uint64_t slot = 53248, rate = variant->link_bytes_per_second;
    struct sl_engine_options options = engine_test_options(directory, 0);
    struct sl_error error;
    sl_engine *engine;
    if (rate == 0) rate = 1000000000;
    options.ram_bytes = (uint64_t)variant->host_slots * slot;
    options.chunk_tokens = variant->chunk_tokens;
    options.tiers = variant->tiers;
    options.sim_device_bytes = (uint64_t)variant->device_slots * slot;
    struct device_sim_options device = {.memory_bytes = options.sim_device_bytes,
                                        .bytes_per_second = {rate, rate},
                                        .latency_ns = 5000,
                                        .threads = variant->threads,
                                        .seed = 3,
                                        .plan = variant->plan};
    struct engine_overrides overrides = {
        .io = &io_sim_ops, .rule = variant->rule, .policy = variant->policy};
    device.plan.poison = true;
    if (!variant->threads) {
        device.clock.now_ns = overrides.clock.now_ns = read_virtual_clock;
        device.advance = advance_virtual_clock;
        overrides.patience_ns = 10000000;
    }
    io_sim_set_plan(&variant->disk);
    if (device_sim_create(&device, &overrides.device, &error) != SL_OK ||
        engine_open_with(&options, &overrides, &engine, &error) != SL_OK)
        fail_msg("%s: %s", variant->what, error.message);
    return engine;
}

static void check_tiers(const struct tier_variant *variant, const char *directory,
                        const int32_t *ids, const float *expected)
{
    sl_engine *engine = open_tiers(variant, directory);
    sl_session *session = engine_test_session(engine);
    size_t vocab = (size_t)sl_engine_info(engine).vocab;
    float *logits = calloc(TIER_TOKENS * vocab, sizeof *logits);
    struct sl_error error;
    struct sl_stats stats;
    assert_non_null(logits);
    if (sl_session_append(session, ids, TIER_TOKENS, logits, &error) != SL_OK)
        fail_msg("%s: %s", variant->what, error.message);
    if (memcmp(logits, expected, sizeof *logits * TIER_TOKENS * vocab) != 0)
        fail_msg("%s: logits differ", variant->what);
    sl_engine_stats(engine, &stats);
    print_message(
        "%s: %llu found on the device, %llu in RAM, %llu on disk; %llu run on the device, "
        "%llu on the CPU; %llu sent back, %llu given up\n",
        variant->what, (unsigned long long)stats.from_device, (unsigned long long)stats.from_ram,
        (unsigned long long)stats.from_disk, (unsigned long long)stats.on_device,
        (unsigned long long)stats.on_cpu, (unsigned long long)stats.demotions,
        (unsigned long long)stats.redirects);
    assert_true(stats.device_slots <= variant->device_slots);
    assert_true(stats.expert_ram_bytes <= (uint64_t)variant->host_slots * 53248);
    if (variant->rule == DISPATCH_ALWAYS_STREAM) assert_true(stats.on_device > 0);
    if (variant->plan.dies_after[0] > 0) {
        assert_true(stats.on_cpu > 0);
        assert_non_null(sl_engine_notice(engine, 0));
        assert_non_null(strstr(sl_engine_notice(engine, 0), "as planned"));
    }
    sl_session_destroy(session);
    sl_engine_close(engine);
    free(logits);
}

static void logits_do_not_depend_on_tiers_lanes_or_links(void **state)
{
    char *directory = checkpoint_copy_golden("tiny-a");
    int32_t ids[TIER_TOKENS];
    struct sl_error error;
    (void)state;
    for (int32_t i = 0; i < TIER_TOKENS; i++)
        ids[i] = (i * 37 + i / 9) % 512;
    float *expected = engine_test_reference(directory, ids, TIER_TOKENS);
    /* Packed experts need no staging: the budget is all slots. */
    assert_int_equal(sl_pack(directory, NULL, NULL, NULL, &error), SL_OK);
    for (size_t i = 0; i < SL_COUNT_OF(tier_variants); i++)
        check_tiers(&tier_variants[i], directory, ids, expected);
    free(expected);
    test_remove_tree(directory);
    free(directory);
}

/* ---- chunks, threads, reads --------------------------------------------------------------- */

/* Logits of the first TOKENS tokens of tiny-a's t300 and the MTP block's, in one array. */
static float *run_variant(const struct variant *variant, const struct golden_sequence *sequence,
                          size_t *floats, struct sl_stats *stats)
{
    char *directory = golden_directory("tiny-a");
    struct sl_engine_options options = sl_engine_options_default();
    struct sl_error error;
    sl_engine *engine;
    sl_session *session;
    options.model_dir = directory;
    options.with_mtp = true;
    options.context_tokens = TOKENS;
    options.chunk_tokens = variant->chunk_tokens;
    options.threads = variant->threads;
    options.ram_bytes = variant->ram_bytes;
    options.io = variant->io;
    options.buffered_io = variant->buffered_io;
    if (sl_engine_open(&options, &engine, &error) != SL_OK) fail_msg("%s", error.message);
    size_t vocab = (size_t)sl_engine_info(engine).vocab;
    *floats = vocab * (2 * TOKENS - 1);
    float *logits = calloc(*floats, sizeof *logits);
    assert_non_null(logits);
    assert_int_equal(sl_session_create(engine, &session, &error), SL_OK);
    if (sl_session_append_mtp(session, sequence->ids, TOKENS, logits, logits + vocab * TOKENS,
                              &error) != SL_OK)
        fail_msg("%s", error.message);
    sl_engine_stats(engine, stats);
    assert_int_equal(stats->threads, variant->threads);
    assert_in_range(stats->threads_pinned, 0, variant->threads - 1); /* the caller is left free */
    sl_session_destroy(session);
    sl_engine_close(engine);
    free(directory);
    return logits;
}

static void logits_do_not_depend_on_chunks_threads_cache_or_reads(void **state)
{
    static const uint64_t all = 64u << 20;
    static const uint64_t few = 2u << 20; /* about a quarter of the experts beside the staging */
    static const struct variant variants[] = {
        {"one piece", TOKENS, 1, all, SL_IO_AUTO, false},
        {"chunks of 1", 1, 1, all, SL_IO_AUTO, false},
        {"chunks of 3", 3, 2, all, SL_IO_AUTO, false},
        {"chunks of 64", 64, 1, all, SL_IO_AUTO, false},
        {"chunks of 128", 128, 2, all, SL_IO_AUTO, false},
        {"chunks of 130", 130, 3, all, SL_IO_AUTO, false},
        {"chunks of 1000", 1000, 4, all, SL_IO_AUTO, false},
        {"a small cache", 130, 2, few, SL_IO_AUTO, false},
        {"a small cache, token by token", 1, 2, few, SL_IO_AUTO, false},
        {"pread", 64, 2, few, SL_IO_PREAD, false},
        {"buffered reads", 64, 2, few, SL_IO_AUTO, true},
    };
    struct golden_sequence sequences[8];
    char *directory = golden_directory("tiny-a");
    int32_t count = golden_sequences(directory, sequences, 8);
    const struct golden_sequence *sequence = NULL;
    size_t floats, first_floats = 0;
    float *first = NULL;
    (void)state;
    for (int32_t i = 0; i < count; i++)
        if (sequences[i].count == 300) sequence = &sequences[i];
    assert_non_null(sequence);
    for (size_t v = 0; v < sizeof variants / sizeof variants[0]; v++) {
        struct sl_stats stats;
        float *logits = run_variant(&variants[v], sequence, &floats, &stats);
        if (!first) {
            first = logits;
            first_floats = floats;
            continue;
        }
        if (memcmp(first, logits, sizeof(float) * first_floats) != 0)
            fail_msg("%s: logits differ", variants[v].what);
        if (variants[v].ram_bytes == few) {
            assert_true(stats.expert_ram_bytes <= few);
            assert_true(stats.expert_evictions > 0);
        }
        free(logits);
    }
    free(first);
    for (int32_t i = 0; i < count; i++)
        free(sequences[i].ids);
    free(directory);
}

static void ten_times_more_experts_than_ram_give_the_same_tokens(void **state)
{
    char *directory = checkpoint_copy_golden("tiny-a");
    int32_t ids[64];
    struct sl_error error;
    (void)state;
    for (int32_t i = 0; i < 64; i++)
        ids[i] = (i * 29 + 3) % 512;
    float *expected = engine_test_reference(directory, ids, 64);
    assert_int_equal(sl_pack(directory, NULL, NULL, NULL, &error), SL_OK);
    struct sl_engine_options options = engine_test_options(directory, 0);
    /* Packed experts need no staging: the budget is all slots. */
    options.ram_bytes = 96 * 53248 / 10;
    sl_engine *engine = engine_test_open(&options, NULL);
    sl_session *session = engine_test_session(engine);
    float *logits = calloc((size_t)64 * 512, sizeof *logits);
    struct sl_stats stats;
    assert_non_null(logits);
    for (int32_t i = 0; i < 64; i++)
        assert_int_equal(sl_session_append(session, ids + i, 1, logits + i * 512, &error), SL_OK);
    assert_memory_equal(logits, expected, sizeof(float) * 64 * 512);
    sl_engine_stats(engine, &stats);
    assert_true(stats.expert_slots * 10 <= stats.expert_slots_total);
    assert_true(stats.expert_ram_bytes <= options.ram_bytes);
    free(logits);
    free(expected);
    sl_session_destroy(session);
    sl_engine_close(engine);
    test_remove_tree(directory);
    free(directory);
}

/* Fails unless an engine over the packed files `list` computes `expected` [count, 512]. */
static void assert_same_logits(const char *directory, const char *list, int32_t files,
                               const int32_t *ids, size_t count, const float *expected)
{
    struct sl_engine_options options = engine_test_options(directory, 20 * 53248);
    struct sl_error error;
    options.experts_file = list;
    sl_engine *engine = engine_test_open(&options, NULL);
    assert_int_equal(engine->source.file_count, files);
    sl_session *session = engine_test_session(engine);
    float *logits = calloc(count * 512, sizeof *logits);
    assert_non_null(logits);
    assert_int_equal(sl_session_append(session, ids, count, logits, &error), SL_OK);
    assert_memory_equal(logits, expected, sizeof(float) * count * 512);
    free(logits);
    sl_session_destroy(session);
    sl_engine_close(engine);
}

static void copies_and_parts_of_the_experts_give_the_same_tokens(void **state)
{
    char *directory = checkpoint_copy_golden("tiny-a"), *second = test_path(directory, "second");
    char *first = test_path(directory, "experts.sluice");
    char *copies = NULL, *wrong = NULL, *parts = NULL, *turned = NULL;
    int32_t ids[32];
    struct sl_error error;
    sl_engine *engine;
    (void)state;
    for (int32_t i = 0; i < 32; i++)
        ids[i] = (i * 31 + 5) % 512;
    float *expected = engine_test_reference(directory, ids, 32);
    assert_true(asprintf(&copies, "%s,%s", first, second) > 0);
    assert_true(asprintf(&wrong, "%s,%s/config.json", first, directory) > 0);
    assert_true(asprintf(&parts, "%s/0,%s/1,%s/2", directory, directory, directory) > 0);
    assert_true(asprintf(&turned, "%s/2,%s/0,%s/1", directory, directory, directory) > 0);
    assert_int_equal(sl_pack(directory, NULL, NULL, NULL, &error), SL_OK);
    assert_int_equal(sl_pack(directory, second, NULL, NULL, &error), SL_OK);
    assert_int_equal(sl_pack(directory, parts, NULL, NULL, &error), SL_OK);
    struct sl_engine_options options = engine_test_options(directory, 20 * 53248);
    options.experts_file = wrong;
    assert_int_equal(sl_engine_open(&options, &engine, &error), SL_ERR_FORMAT);
    assert_same_logits(directory, first, 1, ids, 32, expected);
    assert_same_logits(directory, copies, 2, ids, 32, expected);
    assert_same_logits(directory, parts, 3, ids, 32, expected);
    assert_same_logits(directory, turned, 3, ids, 32, expected);
    free(expected);
    test_remove_tree(directory);
    free(first), free(second), free(copies), free(wrong), free(parts), free(turned);
    free(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_do_not_depend_on_chunks_threads_cache_or_reads),
        cmocka_unit_test(logits_do_not_depend_on_tiers_lanes_or_links),
        cmocka_unit_test(copies_and_parts_of_the_experts_give_the_same_tokens),
        cmocka_unit_test(ten_times_more_experts_than_ram_give_the_same_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
