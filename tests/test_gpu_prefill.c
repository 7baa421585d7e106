/* labels: golden
 *
 * Prompts on a processor with memory of its own, here a simulated one, in chunks of every size and
 * from any position on: the logits of the CPU, bit for bit, while layers stream through it; and the
 * size of a chunk by the memory plan. */
#include "tests/gpu_sim.h"
#include "tests/support.h"
#include "tests/support_engine.h"
#include "tests/support_golden.h"

#include <string.h>

#define TOKENS  300
#define DECODED 8

static char *directory;
static int32_t *ids; /* [TOKENS], of the longest golden sequence */
static float *want;  /* [TOKENS, vocab], computed by the CPU */
static size_t vocab;
static uint64_t slot_bytes;

/* An engine on a simulated GPU with so many slots for experts, of them so many to stream through.
 */
static sl_engine *open_engine(int32_t chunk, int32_t slots, int32_t stream_slots,
                              uint64_t link_bytes_per_second)
{
    struct gpu_sim_options sim = {.memory_bytes = 1u << 30,
                                  .link_bytes_per_second = link_bytes_per_second};
    struct sl_engine_options options = engine_test_options(directory, 64u << 20);
    struct engine_overrides overrides = {.stream_slots = -1};
    struct sl_error error;
    sl_engine *engine = NULL;
    options.cpu_isa = "portable"; /* the simulated GPU's ops: so that results are equal */
    options.chunk_tokens = chunk;
    for (int32_t round = 0; round < 2; round++) { /* the first learns what else needs room */
        overrides.gpu = gpu_sim_create(&sim);
        if (engine_open_with(&options, &overrides, &engine, &error) != SL_OK)
            fail_msg("%s", error.message);
        if (round == 1) break;
        const struct budget *budget = &engine->budget;
        options.gpu_bytes = budget->gpu_dense_bytes + budget->gpu_session_bytes +
                            budget->gpu_workspace_bytes + (uint64_t)slots * slot_bytes;
        /* Its share of this little memory is no matter here. */
        uint64_t enough =
            budget->gpu_dense_bytes + budget->gpu_session_bytes + 2 * budget->gpu_workspace_bytes;
        if (options.gpu_bytes < enough) options.gpu_bytes = enough;
        overrides.stream_slots = stream_slots;
        sl_engine_close(engine);
    }
    assert_int_equal(engine->budget.chunk_tokens, min_i32(chunk, 320));
    return engine;
}

static int set_up(void **state)
{
    struct golden_sequence sequences[8];
    (void)state;
    directory = golden_directory("tiny-a");
    int32_t count = golden_sequences(directory, sequences, 8);
    for (int32_t s = 0; s < count; s++) {
        if (sequences[s].count == TOKENS)
            ids = sequences[s].ids;
        else
            free(sequences[s].ids);
    }
    assert_non_null(ids);
    struct sl_engine_options options = engine_test_options(directory, 64u << 20);
    struct sl_error error;
    options.cpu_isa = "portable";
    sl_engine *engine = engine_test_open(&options, NULL);
    sl_session *session = engine_test_session(engine);
    vocab = (size_t)sl_engine_info(engine).vocab;
    slot_bytes = engine->source.slot_bytes;
    want = calloc(TOKENS * vocab, sizeof *want);
    assert_non_null(want);
    if (sl_session_append(session, ids, TOKENS, want, &error) != SL_OK)
        fail_msg("%s", error.message);
    sl_session_destroy(session);
    sl_engine_close(engine);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    free(directory);
    free(ids);
    free(want);
    return 0;
}

static void golden_prompts_in_chunks_of_every_size(void **state)
{
#if defined(__SANITIZE_THREAD__) /* what threads do is the same at any size */
    static const int32_t chunks[] = {17, 130};
#else
    static const int32_t chunks[] = {1, 17, 64, 130, 600};
#endif
    (void)state;
    for (size_t i = 0; i < SL_COUNT_OF(chunks); i++) {
        /* A link slow enough to be waited for, and one as fast as memory. */
        sl_engine *engine = open_engine(chunks[i], 40, 20, i % 2 ? 500000000 : 0);
        sl_session *session = engine_test_session(engine);
        float *got = calloc(TOKENS * vocab, sizeof *got);
        struct expert_store_stats stats;
        struct sl_error error;
        assert_non_null(got);
        for (int32_t t = 0; t < DECODED; t++)
            if (sl_session_append(session, ids + t, 1, got + (size_t)t * vocab, &error) != SL_OK)
                fail_msg("%s", error.message);
        if (sl_session_append(session, ids + DECODED, TOKENS - DECODED, got + DECODED * vocab,
                              &error) != SL_OK)
            fail_msg("%s", error.message);
        assert_memory_equal(got, want, TOKENS * vocab * sizeof *got);
        expert_store_stats_get(engine->store, &stats);
        print_message("chunks of %d: %llu copies up, %llu streamed; %llu views on the device, %llu "
                      "on the CPU\n",
                      (int)chunks[i], (unsigned long long)stats.copies_up,
                      (unsigned long long)stats.streamed,
                      (unsigned long long)stats.lanes[EXPERT_LANE_DEVICE],
                      (unsigned long long)stats.lanes[EXPERT_LANE_CPU]);
        expert_store_check(engine->store);
        free(got);
        sl_session_destroy(session);
        sl_engine_close(engine);
    }
}

static void a_prompt_goes_on_from_any_position(void **state)
{
    (void)state;
    sl_engine *engine = open_engine(64, 40, 20, 0);
    sl_session *session = engine_test_session(engine);
    struct sl_error error;
    /* Prefixes that end within a window, at a compressed row, one before and one after it. */
    static const size_t ends[] = {17, 63, 64, 65, 127, 128, 129, 200, 255, 256, TOKENS};
    for (size_t i = 0; i < SL_COUNT_OF(ends); i++) {
        if (sl_session_sync(session, ids, ends[i], NULL, NULL, &error) != SL_OK)
            fail_msg("%s", error.message);
        assert_memory_equal(sl_session_logits(session), want + (ends[i] - 1) * vocab,
                            vocab * sizeof *want);
    }
    sl_session_destroy(session);
    sl_engine_close(engine);
}

static bool stop_in_the_third_layer(void *context, size_t done, size_t total)
{
    (void)done;
    (void)total;
    return ++*(int32_t *)context < 4;
}

static void a_prompt_given_up_is_taken_up_again(void **state)
{
    (void)state;
    sl_engine *engine = open_engine(130, 40, 20, 0);
    sl_session *session = engine_test_session(engine);
    struct sl_error error;
    int32_t calls = 0;
    assert_int_equal(sl_session_sync(session, ids, TOKENS, stop_in_the_third_layer, &calls, &error),
                     SL_ERR_CANCELLED);
    expert_store_check(engine->store);
    if (sl_session_sync(session, ids, TOKENS, NULL, NULL, &error) != SL_OK)
        fail_msg("%s", error.message);
    assert_memory_equal(sl_session_logits(session), want + (TOKENS - 1) * vocab,
                        vocab * sizeof *want);
    sl_session_destroy(session);
    sl_engine_close(engine);
}

static void the_chunk_is_as_large_as_its_share_of_the_memory(void **state)
{
    (void)state;
    sl_engine *engine = open_engine(16, 40, 0, 0);
    struct budget_request request = {.model = engine->model,
                                     .source = &engine->source,
                                     .ram_bytes = 64u << 20,
                                     .available_bytes = UINT64_C(1) << 40,
                                     .with_gpu = true,
                                     .context_tokens = engine->model->config.context_max};
    struct budget least, plan, larger;
    struct sl_error error;
    request.chunk_tokens = 16;
    request.gpu_bytes = 1u << 30;
    assert_int_equal(budget_plan(&request, &least, &error), SL_OK);
    uint64_t needs = least.gpu_dense_bytes + least.gpu_session_bytes + least.gpu_workspace_bytes;
    request.chunk_tokens = 0;
    for (uint64_t bytes = needs; bytes < needs + (64u << 20); bytes += bytes / 16) {
        request.gpu_bytes = bytes;
        assert_int_equal(budget_plan(&request, &plan, &error), SL_OK);
        assert_true(plan.fits);
        assert_true(plan.chunk_tokens >= 16);
        uint64_t left = bytes - plan.gpu_dense_bytes - plan.gpu_session_bytes;
        assert_true(plan.chunk_tokens == 16 || 8 * plan.gpu_workspace_bytes <= left);
        request.gpu_bytes = 2 * bytes;
        assert_int_equal(budget_plan(&request, &larger, &error), SL_OK);
        assert_true(larger.chunk_tokens >= plan.chunk_tokens);
        /* What is asked for is a bound. */
        request.chunk_tokens = 40;
        assert_int_equal(budget_plan(&request, &larger, &error), SL_OK);
        assert_in_range(larger.chunk_tokens, 16, 40);
        request.chunk_tokens = 0;
    }
    assert_true(plan.chunk_tokens > 16);
    sl_engine_close(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_prompts_in_chunks_of_every_size),
        cmocka_unit_test(a_prompt_goes_on_from_any_position),
        cmocka_unit_test(a_prompt_given_up_is_taken_up_again),
        cmocka_unit_test(the_chunk_is_as_large_as_its_share_of_the_memory),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
