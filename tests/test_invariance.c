/* labels: golden
 *
 * The CPU backend is batch-invariant: logits are the same to the last bit however the tokens are
 * cut into chunks, however many threads work, however little RAM the experts have and in whatever
 * order their reads end. */
#include "runtime/sl.h"
#include "tests/support.h"
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
    char *directory = engine_test_copy_model("tiny-a");
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_do_not_depend_on_chunks_threads_cache_or_reads),
        cmocka_unit_test(ten_times_more_experts_than_ram_give_the_same_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
