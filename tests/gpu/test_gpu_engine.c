/* labels: gpu golden
 *
 * The engine end to end on the GPU: the published program's outputs in chunks of every kind,
 * wherever experts lie, recorded passes against plain launches. Linked with the GPU's kernels, and
 * with the emulator's, which is slow: there sequences are short, unless SLUICE_GPU_WHOLE is set.
 * SLUICE_GPU_CHUNKS, as "130 600": instead of all that, the published prompts alone, up to 600
 * tokens, in chunks of these sizes (under emulation some minutes each). */
#include "kernels/cuda/cuda.h"
#include "kernels/gpu.h"
#include "tests/support.h"
#include "tests/support_engine.h"
#include "tests/support_golden.h"
#include "tests/support_golden_check.h"

#include <stdlib.h>
#include <string.h>

#define PROMPT     3 /* tokens in one pass, before those that come one by one */
#define TOKENS_MAX 600
#define CHUNKS_MAX 8

/* Device slots: enough for every expert, a few, a hundredth of the experts, none. */
enum { SLOTS_ALL = 96, SLOTS_FEW = 12, SLOTS_ONE = 1, SLOTS_NONE = 0 };

/* What is run: one golden sequence, and how. */
struct fixture {
    char *directory;
    struct golden_sequence sequence;
    size_t vocab;
    bool whole;                 /* hardware, or patience */
    int32_t chunks[CHUNKS_MAX]; /* sizes to cut all golden prompts into */
    int32_t chunk_count;        /* 0: a short sequence, in chunks of one size */
    bool prompts_only;          /* that, and nothing token by token */
    uint64_t needs;             /* of the GPU, beside experts */
    uint64_t slot_bytes;
};

static struct fixture *fixture;

static sl_engine *open_engine(const struct sl_engine_options *options,
                              const struct engine_overrides *overrides)
{
    struct sl_error error;
    sl_engine *engine;
    if (engine_open_with(options, overrides, &engine, &error) != SL_OK)
        fail_msg("%s", error.message);
    return engine;
}

static struct sl_engine_options options_for(enum sl_numerics numerics)
{
    struct sl_engine_options options = engine_test_options(fixture->directory, 2u << 20);
    options.context_tokens = 640;
    options.numerics = numerics;
    options.device = SL_DEVICE_GPU;
    return options;
}

/* So many device slots: 0 bytes for the GPU mean all of its memory. */
static void bound_slots(struct sl_engine_options *options, int32_t slots)
{
    options->gpu_bytes = fixture->needs + (uint64_t)slots * fixture->slot_bytes;
}

/* A prompt, then token by token; logits of all of them. */
static float *run(sl_engine *engine)
{
    struct sl_error error;
    size_t vocab = (size_t)sl_engine_info(engine).vocab;
    const int32_t *ids = fixture->sequence.ids;
    size_t count = (size_t)fixture->sequence.count;
    float *logits = calloc(count * vocab, sizeof *logits);
    sl_session *session = engine_test_session(engine);
    assert_non_null(logits);
    if (sl_session_append(session, ids, PROMPT, logits, &error) != SL_OK)
        fail_msg("%s", error.message);
    for (size_t t = PROMPT; t < count; t++)
        if (sl_session_append(session, ids + t, 1, logits + t * vocab, &error) != SL_OK)
            fail_msg("%s", error.message);
    sl_session_destroy(session);
    return logits;
}

/* ---- the published outputs ---- */

static sl_engine *open_with_chunk(void *context, const char *directory, enum sl_numerics numerics)
{
    struct sl_engine_options options = options_for(numerics);
    struct engine_overrides overrides = {.rule = DISPATCH_BEST};
    options.model_dir = directory;
    options.with_mtp = true;
    options.ram_bytes = 64u << 20;
    options.chunk_tokens = *(const int32_t *)context;
    sl_engine *engine = open_engine(&options, &overrides);
    assert_int_equal(engine->budget.chunk_tokens, options.chunk_tokens);
    return engine;
}

/* All golden sequences in chunks of every size; or, where that takes too long, those of up to
 * `short_tokens` of one checkpoint in chunks of `short_chunk`. */
static void check_golden(void (*compare)(const struct golden_check *, const char *),
                         int32_t short_chunk, int32_t short_tokens)
{
    bool all = fixture->chunk_count > 0;
    for (int32_t i = 0; i < max_i32(fixture->chunk_count, 1); i++) {
        int32_t chunk = all ? fixture->chunks[i] : short_chunk;
        struct golden_check check = {.open = open_with_chunk,
                                     .context = &chunk,
                                     .tokens_max = all ? TOKENS_MAX : short_tokens,
                                     .sequences_min = all ? 4 : 1,
                                     .rows_min = all ? 21 : 16,
                                     .prompts_only = fixture->prompts_only};
        printf("chunks of %d:\n", (int)chunk);
        compare(&check, "tiny-a");
        if (all) compare(&check, "tiny-b");
    }
}

static void f32_logits_are_the_published_ones_in_chunks_of_every_kind(void **state)
{
    (void)state;
    check_golden(golden_check_f32, 1, 1);
}

static void exact_logits_agree_statistically_with_the_published_ones(void **state)
{
    (void)state;
    check_golden(golden_check_exact, 16, 7);
}

/* ---- residency ---- */

/* Of the rows whose golden best is clear, 97 of 100 must have the same best; returns how many do.
 */
static int32_t compare_tokens(const float *got, const struct golden_tensor *golden,
                              const struct golden_tensor *rows)
{
    int32_t compared = 0, equal = 0;
    for (int64_t i = 0; i < golden->rows; i++) {
        const float *expected = golden->data + i * golden->width;
        int64_t position = rows->data ? (int64_t)rows->data[i] : i;
        if (golden_lead(expected, golden->width) < 1.0f) continue;
        equal += golden_argmax(got + position * golden->width, golden->width) ==
                 golden_argmax(expected, golden->width);
        compared++;
    }
    printf("%d of %d golden tokens, ", equal, compared);
    assert_true(100 * equal >= 97 * compared);
    return equal;
}

static void exact_tokens_are_the_published_ones_wherever_experts_lie(void **state)
{
    static const struct {
        int32_t slots;
        enum dispatch_rule rule;
    } cases[] = {{SLOTS_ALL, DISPATCH_BEST},
                 {SLOTS_FEW, DISPATCH_BEST},
                 {SLOTS_ONE, DISPATCH_ALWAYS_STREAM},
                 {SLOTS_NONE, DISPATCH_BEST}};
    struct golden_tensor golden, rows;
    (void)state;
    assert_true(
        golden_read(fixture->directory, fixture->sequence.name, "exact", "logits_decode", &golden));
    golden_read(fixture->directory, fixture->sequence.name, "exact", "rows", &rows);
    for (size_t i = 0; i < SL_COUNT_OF(cases); i++) {
        struct sl_engine_options options = options_for(SL_NUMERICS_EXACT);
        struct engine_overrides overrides = {.rule = cases[i].rule};
        struct sl_stats stats;
        bound_slots(&options, cases[i].slots);
        sl_engine *engine = open_engine(&options, &overrides);
        float *got = run(engine);
        sl_engine_stats(engine, &stats);
        int32_t equal = compare_tokens(got, &golden, &rows);
        printf("%d device slots: %llu experts on the GPU, %llu on the CPU\n", stats.device_slots,
               (unsigned long long)stats.on_device, (unsigned long long)stats.on_cpu);
        assert_true(equal > 2);
        assert_true(cases[i].slots == SLOTS_NONE || stats.on_device > 0);
        expert_store_check(engine->store);
        free(got);
        sl_engine_close(engine);
    }
    free(golden.data);
    free(rows.data);
}

/* ---- recordings ---- */

static void recorded_passes_and_plain_launches_agree(void **state)
{
    float *got[2];
    (void)state;
    for (int way = 0; way < 2; way++) {
        struct sl_engine_options options = options_for(SL_NUMERICS_EXACT);
        struct engine_overrides overrides = {.rule = DISPATCH_ALWAYS_STREAM};
        struct sl_error error;
        struct sl_stats stats;
        bound_slots(&options, SLOTS_ALL);
        if (gpu_open(&overrides.gpu, &error) != SL_OK) fail_msg("%s", error.message);
        struct gpu_ops without = *overrides.gpu->gpu_ops;
        without.record = NULL;
        if (way == 1) overrides.gpu->gpu_ops = &without;
        sl_engine *engine = open_engine(&options, &overrides);
        got[way] = run(engine);
        sl_engine_stats(engine, &stats);
        assert_int_equal(stats.on_cpu, 0); /* whose sums go another way */
        sl_engine_close(engine);
    }
    assert_memory_equal(got[0], got[1],
                        (size_t)fixture->sequence.count * fixture->vocab * sizeof *got[0]);
    free(got[0]);
    free(got[1]);
}

/* ---- life ---- */

static void choose_sequence(struct fixture *into, const char *name)
{
    struct golden_sequence sequences[8];
    int32_t count = golden_sequences(into->directory, sequences, 8);
    for (int32_t s = 0; s < count; s++)
        if (strcmp(sequences[s].name, name) == 0)
            into->sequence = sequences[s];
        else
            free(sequences[s].ids);
    assert_true(into->sequence.count > PROMPT);
}

/* The sizes of chunks asked for; of hardware all kinds: one token, a whole pass of decode, wide
 * passes of one piece of attention's window and of more, with and without a rest. */
static void choose_chunks(struct fixture *into)
{
    static const int32_t every_kind[] = {1, 16, 17, 64, 130, 600};
    const char *asked = getenv("SLUICE_GPU_CHUNKS");
    into->prompts_only = asked != NULL;
    if (!asked && into->whole) {
        memcpy(into->chunks, every_kind, sizeof every_kind);
        into->chunk_count = SL_COUNT_OF(every_kind);
    }
    while (asked && *asked) {
        char *end;
        long chunk = strtol(asked, &end, 10);
        if (end == asked || chunk < 1 || chunk > TOKENS_MAX || into->chunk_count == CHUNKS_MAX)
            fail_msg("SLUICE_GPU_CHUNKS: up to %d sizes of 1 to %d tokens", CHUNKS_MAX, TOKENS_MAX);
        into->chunks[into->chunk_count++] = (int32_t)chunk;
        asked = end;
    }
}

static int set_up(void **state)
{
    static struct fixture made;
    struct cuda_device_info info;
    struct engine_overrides overrides = {.rule = DISPATCH_BEST};
    (void)state;
    fixture = &made;
    assert_int_equal(cuda_device_open(0, &info, NULL), SL_OK);
    made.whole = !info.emulated || getenv("SLUICE_GPU_WHOLE") != NULL;
    made.directory = golden_directory("tiny-a");
    choose_chunks(&made);
    choose_sequence(&made, made.whole ? "t130" : "t7");

    struct sl_engine_options options = options_for(SL_NUMERICS_EXACT);
    sl_engine *engine = open_engine(&options, &overrides);
    const struct budget *budget = &engine->budget;
    made.needs = budget->gpu_dense_bytes + budget->gpu_session_bytes + budget->gpu_workspace_bytes;
    made.slot_bytes = engine->source.slot_bytes;
    made.vocab = (size_t)sl_engine_info(engine).vocab;
    sl_engine_close(engine);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    free(fixture->directory);
    free(fixture->sequence.ids);
    return 0;
}

/* With an argument, only the cases whose names match it. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f32_logits_are_the_published_ones_in_chunks_of_every_kind),
        cmocka_unit_test(exact_logits_agree_statistically_with_the_published_ones),
        cmocka_unit_test(exact_tokens_are_the_published_ones_wherever_experts_lie),
        cmocka_unit_test(recorded_passes_and_plain_launches_agree),
    };
    struct cuda_device_info info;
    struct sl_error error;
    if (cuda_device_open(0, &info, &error) != SL_OK) {
        printf("skipped: %s\n", error.message);
        return 77;
    }
    setvbuf(stdout, NULL, _IOLBF, 0); /* minutes lie between lines */
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    else if (getenv("SLUICE_GPU_CHUNKS"))
        cmocka_set_test_filter("*_logits_*");
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
