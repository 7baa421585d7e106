/* labels: golden
 *
 * Passes with a processor that has its own memory, here a simulated one: the same logits as on the
 * CPU, wherever experts lie and whoever computes them; memory that does not suffice; faults. */
#include "tests/gpu_sim.h"
#include "tests/io_sim.h"
#include "tests/support.h"
#include "tests/support_engine.h"
#include "tests/support_golden.h"

#include <errno.h>
#include <string.h>

/* Past the first compressed row of ratio 128; under ThreadSanitizer past some of ratio 4. */
#if defined(__SANITIZE_THREAD__)
#define TOKENS 44
#define SHORT  40
#else
#define TOKENS 140
#define SHORT  60
#endif

struct fixture {
    char *directory;
    int32_t ids[TOKENS];
    float *want; /* [TOKENS, vocab] */
    size_t vocab;
    uint64_t gpu_bytes; /* what the GPU needs beside experts */
    uint64_t slot_bytes;
};

static sl_engine *open_on(struct gpu *gpu, const struct sl_engine_options *options,
                          enum dispatch_rule rule)
{
    struct engine_overrides overrides = {.gpu = gpu, .rule = rule};
    struct sl_error error;
    sl_engine *engine;
    if (engine_open_with(options, &overrides, &engine, &error) != SL_OK)
        fail_msg("%s", error.message);
    return engine;
}

/* Logits of all tokens: some at once, the rest one by one. */
static float *run_tokens(sl_engine *engine, const int32_t *ids, int32_t prompt, int32_t count)
{
    struct sl_error error;
    size_t vocab = (size_t)sl_engine_info(engine).vocab;
    float *logits = calloc(TOKENS * vocab, sizeof *logits);
    sl_session *session = engine_test_session(engine);
    assert_non_null(logits);
    if (sl_session_append(session, ids, (size_t)prompt, logits, &error) != SL_OK)
        fail_msg("%s", error.message);
    for (int32_t t = prompt; t < count; t++)
        if (sl_session_append(session, ids + t, 1, logits + (size_t)t * vocab, &error) != SL_OK)
            fail_msg("%s", error.message);
    sl_session_destroy(session);
    return logits;
}

static void set_up(struct fixture *f)
{
    struct golden_sequence sequences[8];
    f->directory = golden_directory("tiny-a");
    int32_t count = golden_sequences(f->directory, sequences, 8), longest = 0;
    for (int32_t s = 0; s < count; s++)
        if (sequences[s].count > sequences[longest].count) longest = s;
    assert_true(sequences[longest].count >= TOKENS);
    memcpy(f->ids, sequences[longest].ids, sizeof f->ids);
    for (int32_t s = 0; s < count; s++)
        free(sequences[s].ids);
    struct sl_engine_options options = engine_test_options(f->directory, 64u << 20);
    options.cpu_isa = "portable"; /* the simulated GPU's ops: so that results are equal */
    sl_engine *engine = engine_test_open(&options, NULL);
    f->want = run_tokens(engine, f->ids, 33, TOKENS);
    f->vocab = (size_t)sl_engine_info(engine).vocab;
    sl_engine_close(engine);

    struct gpu_sim_options sim = {.memory_bytes = 1u << 30};
    engine = open_on(gpu_sim_create(&sim), &options, DISPATCH_BEST);
    const struct budget *budget = &engine->budget;
    f->gpu_bytes =
        budget->gpu_dense_bytes + budget->gpu_session_bytes + budget->gpu_workspace_bytes;
    f->slot_bytes = engine->source.slot_bytes;
    sl_engine_close(engine);
}

static void tear_down(struct fixture *f)
{
    free(f->directory);
    free(f->want);
}

static void logits_are_those_of_the_cpu(void **state)
{
    /* Device memory for all experts, for a few, for one, for none; streamed, or left to the CPU;
     * RAM for all that a chunk may choose, or not, when host and GPU meet at every layer. */
    static const struct {
        int32_t slots, tokens;
        enum dispatch_rule rule;
        bool no_recording;
        uint64_t ram_bytes;
        int32_t recordings_failing;
    } cases[] = {{1000, TOKENS, DISPATCH_BEST, false, 4u << 20, 0},
                 {12, SHORT, DISPATCH_BEST, true, 4u << 20, 0},
                 {12, SHORT, DISPATCH_ALWAYS_STREAM, false, 4u << 20, 1},
                 {12, SHORT, DISPATCH_ALWAYS_CPU, false, 4u << 20, 0},
                 {1, SHORT, DISPATCH_ALWAYS_STREAM, false, 4u << 20, 0},
                 {1, SHORT, DISPATCH_ALWAYS_STREAM, false, 700u << 10, 0},
                 {0, SHORT, DISPATCH_BEST, false, 4u << 20, 0}};
    struct fixture f;
    (void)state;
    set_up(&f);
    for (size_t i = 0; i < SL_COUNT_OF(cases); i++) {
        struct gpu_sim_options sim = {.memory_bytes = 1u << 30,
                                      .no_recording = cases[i].no_recording,
                                      .recordings_failing = cases[i].recordings_failing};
        struct gpu *gpu = gpu_sim_create(&sim);
        struct sl_engine_options options = engine_test_options(f.directory, cases[i].ram_bytes);
        options.gpu_bytes = f.gpu_bytes + (uint64_t)cases[i].slots * f.slot_bytes;
        options.cpu_isa = "portable";
        sl_engine *engine = open_on(gpu, &options, cases[i].rule);
        float *got = run_tokens(engine, f.ids, 33, cases[i].tokens);
        struct sl_stats stats;
        sl_engine_stats(engine, &stats);
        printf("%d device slots: on device %llu, on CPU %llu, promotions %llu, replays %llu\n",
               stats.device_slots, (unsigned long long)stats.on_device,
               (unsigned long long)stats.on_cpu, (unsigned long long)stats.promotions,
               (unsigned long long)gpu_sim_replays(gpu));
        assert_memory_equal(got, f.want, (size_t)cases[i].tokens * f.vocab * sizeof *got);
        assert_int_equal(gpu_sim_replays(gpu) > 0, !cases[i].no_recording);
        assert_true(stats.lookahead_layers > 0 || cases[i].slots == 1000);
        assert_true(cases[i].slots == 0 || cases[i].rule == DISPATCH_ALWAYS_CPU ||
                    stats.on_device > 0);
        expert_store_check(engine->store);
        free(got);
        sl_engine_close(engine);
    }
    tear_down(&f);
}

/* A table has two entries a choice, of which one names rows; a row number is said three times, and
 * once more where the CPU may have computed it. However long a chunk may be. */
static void a_pass_takes_over_the_link_what_its_tokens_need(void **state)
{
    enum { PASSES = 3 };
    struct fixture f;
    struct gpu_sim_options sim = {.memory_bytes = 1u << 30};
    (void)state;
    set_up(&f);
    struct sl_engine_options options = engine_test_options(f.directory, 4u << 20);
    struct gpu *gpu = gpu_sim_create(&sim);
    sl_engine *engine = open_on(gpu, &options, DISPATCH_BEST);
    const struct model_config *config = &engine->model->config;
    uint64_t choices = (uint64_t)(PASSES * config->layers * config->experts_per_token);
    free(run_tokens(engine, f.ids, 1, PASSES));
    assert_int_equal(gpu_sim_taken_bytes(gpu),
                     choices * (2 * sizeof(struct expert_task) + 4 * sizeof(int32_t)));
    sl_engine_close(engine);
    tear_down(&f);
}

static void what_does_not_fit_is_refused_with_what_would(void **state)
{
    struct fixture f;
    struct gpu_sim_options sim = {.memory_bytes = 1u << 30};
    struct sl_error error;
    sl_engine *engine;
    (void)state;
    set_up(&f);
    struct sl_engine_options options = engine_test_options(f.directory, 2u << 20);
    options.gpu_bytes = f.gpu_bytes - 1;
    struct engine_overrides overrides = {.gpu = gpu_sim_create(&sim)};
    assert_int_equal(engine_open_with(&options, &overrides, &engine, &error), SL_ERR_NO_MEMORY);
    const char *advice = strstr(error.message, "--ctx ");
    assert_non_null(advice);
    options.context_tokens = atoi(advice + strlen("--ctx "));
    assert_in_range(options.context_tokens, 1, 319);
    sl_engine_close(open_on(gpu_sim_create(&sim), &options, DISPATCH_BEST));
    options.context_tokens++;
    overrides.gpu = gpu_sim_create(&sim);
    assert_int_equal(engine_open_with(&options, &overrides, &engine, &error), SL_ERR_NO_MEMORY);

    options.gpu_bytes = 1000;
    overrides.gpu = gpu_sim_create(&sim);
    assert_int_equal(engine_open_with(&options, &overrides, &engine, &error), SL_ERR_NO_MEMORY);
    assert_non_null(strstr(error.message, "--device cpu"));
    tear_down(&f);
}

/* The same prompt and answer again, after something went wrong. */
static void check_recovered(const struct fixture *f, sl_session *session)
{
    struct sl_error error;
    if (sl_session_sync(session, f->ids, 40, NULL, NULL, &error) != SL_OK)
        fail_msg("%s", error.message);
    assert_memory_equal(sl_session_logits(session), f->want + 39 * f->vocab,
                        f->vocab * sizeof(float));
}

static void an_expert_that_cannot_be_read_fails_the_pass_and_nothing_else(void **state)
{
    struct fixture f;
    struct sl_error error = {0};
    struct io_sim_plan plan = {.seed = 5, .latency_turns_max = 4};
    struct gpu_sim_options sim = {.memory_bytes = 1u << 30};
    (void)state;
    set_up(&f);
    struct sl_engine_options options = engine_test_options(f.directory, 1u << 20);
    options.cpu_isa = "portable";
    options.gpu_bytes = f.gpu_bytes + 4 * f.slot_bytes;
    struct engine_overrides overrides = {.gpu = gpu_sim_create(&sim), .io = &io_sim_ops};
    io_sim_set_plan(&plan);
    sl_engine *engine;
    if (engine_open_with(&options, &overrides, &engine, &error) != SL_OK)
        fail_msg("%s", error.message);
    sl_session *session = engine_test_session(engine);
    const struct expert_source *source = &engine->source;
    int failures = 0;
    for (int32_t layer = 0; layer < source->layers; layer++) {
        int32_t first = layer * source->experts * source->segments_per_expert;
        plan.faults[0] = (struct io_sim_fault){
            .file = source->segments[first].file, .bytes = UINT64_MAX / 2, .os_errno = EIO};
        plan.fault_count = 1; /* every read */
        io_sim_set_plan(&plan);
        for (int32_t t = 0; t < 12; t++)
            failures += sl_session_append(session, f.ids + t + layer, 1, NULL, &error) == SL_ERR_IO;
        plan.fault_count = 0;
        io_sim_set_plan(&plan);
        expert_store_check(engine->store);
        check_recovered(&f, session);
    }
    printf("%d failed passes: %s\n", failures, error.message);
    assert_true(failures > 0);
    assert_non_null(strstr(error.message, "expert"));
    sl_session_destroy(session);
    sl_engine_close(engine);
    tear_down(&f);
}

static void a_fault_of_the_gpu_ends_its_generations_and_says_so(void **state)
{
    struct fixture f;
    (void)state;
    set_up(&f);
    for (int64_t after = 0; after < 3000; after = after * 3 + 7) {
        struct gpu_sim_options sim = {.memory_bytes = 1u << 30};
        struct gpu *gpu = gpu_sim_create(&sim);
        struct sl_engine_options options = engine_test_options(f.directory, 4u << 20);
        struct sl_error error = {0};
        options.gpu_bytes = f.gpu_bytes + 12 * f.slot_bytes;
        sl_engine *engine = open_on(gpu, &options, DISPATCH_BEST);
        sl_session *session = engine_test_session(engine);
        gpu_sim_fail_after(gpu, after);
        enum sl_status status = SL_OK;
        for (int32_t t = 0; t < 30 && status == SL_OK; t++)
            status = sl_session_append(session, f.ids + t, 1, NULL, &error);
        assert_int_equal(status, SL_ERR_IO);
        assert_non_null(strstr(error.message, "the simulated GPU failed"));
        assert_null(sl_session_logits(session));
        assert_int_equal(sl_session_append(session, f.ids, 1, NULL, &error), SL_ERR_IO);
        expert_store_check(engine->store);
        sl_session_destroy(session);
        sl_engine_close(engine);
    }
    tear_down(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_those_of_the_cpu),
        cmocka_unit_test(a_pass_takes_over_the_link_what_its_tokens_need),
        cmocka_unit_test(what_does_not_fit_is_refused_with_what_would),
        cmocka_unit_test(an_expert_that_cannot_be_read_fails_the_pass_and_nothing_else),
        cmocka_unit_test(a_fault_of_the_gpu_ends_its_generations_and_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
