/* labels: gpu emulated
 *
 * Prompts in chunks of more than 16 tokens on the GPU's own kernels, compiled for the CPU
 * (tests/cuda_emulator), while layers stream through its memory: the logits of the CPU, and with
 * exact numerics, where the kernels of wide passes run, its tokens. */
#include "kernels/gpu.h"
#include "tests/support.h"
#include "tests/support_engine.h"
#include "tests/support_golden.h"

#include <math.h>

#define TOKENS 18 /* fibers are slow */
/* The golden model's indexer chooses 8 rows of four tokens each: it has to choose from 36 on. */
#define EXACT_TOKENS 36
#define STREAM       16

static char *directory;
static int32_t ids[EXACT_TOKENS];
static size_t vocab;

static struct sl_engine_options options_for(int32_t chunk, enum sl_numerics numerics)
{
    struct sl_engine_options options = engine_test_options(directory, 64u << 20);
    options.context_tokens = 64;
    options.chunk_tokens = chunk;
    options.numerics = numerics;
    return options;
}

/* Logits of all tokens, the prompt going in in one call. */
static float *run(sl_engine *engine, int32_t tokens)
{
    struct sl_error error;
    sl_session *session = engine_test_session(engine);
    vocab = (size_t)sl_engine_info(engine).vocab;
    float *logits = calloc((size_t)tokens * vocab, sizeof *logits);
    assert_non_null(logits);
    if (sl_session_append(session, ids, (size_t)tokens, logits, &error) != SL_OK)
        fail_msg("%s", error.message);
    sl_session_destroy(session);
    return logits;
}

static sl_engine *open_gpu_engine(int32_t chunk, enum sl_numerics numerics)
{
    struct sl_engine_options options = options_for(chunk, numerics);
    struct engine_overrides overrides = {.stream_slots = -1};
    struct sl_error error;
    sl_engine *engine = NULL;
    for (int32_t round = 0; round < 2; round++) { /* the first learns what else needs room */
        if (gpu_open(&overrides.gpu, &error) != SL_OK ||
            engine_open_with(&options, &overrides, &engine, &error) != SL_OK)
            fail_msg("%s", error.message);
        if (round == 1) break;
        const struct budget *budget = &engine->budget;
        options.gpu_bytes =
            budget->gpu_dense_bytes + budget->gpu_session_bytes + 2 * budget->gpu_workspace_bytes;
        overrides.stream_slots = STREAM;
        sl_engine_close(engine);
    }
    assert_int_equal(engine->budget.chunk_tokens, chunk);
    return engine;
}

static float *run_cpu(int32_t tokens, enum sl_numerics numerics)
{
    struct sl_engine_options options = options_for(16, numerics);
    options.device = SL_DEVICE_CPU;
    sl_engine *engine = engine_test_open(&options, NULL);
    float *logits = run(engine, tokens);
    sl_engine_close(engine);
    return logits;
}

static void logits_of_wide_chunks_are_those_of_the_cpu(void **state)
{
    static const int32_t chunks[] = {TOKENS};
    (void)state;
    float *want = run_cpu(TOKENS, SL_NUMERICS_F32);
    for (size_t i = 0; i < SL_COUNT_OF(chunks); i++) {
        sl_engine *engine = open_gpu_engine(chunks[i], SL_NUMERICS_F32);
        float *got = run(engine, TOKENS);
        struct expert_store_stats stats;
        double worst = 0;
        expert_store_stats_get(engine->store, &stats);
        for (size_t v = 0; v < TOKENS * vocab; v++)
            worst = fmax(worst, fabs((double)got[v] - (double)want[v]));
        printf("chunks of %d: difference %.2e (limit "
               "1e-3), %llu copies up, %llu streamed\n",
               (int)chunks[i], worst, (unsigned long long)stats.copies_up,
               (unsigned long long)stats.streamed);
        assert_true(worst <= 1e-3);
        assert_true(stats.lanes[EXPERT_LANE_DEVICE] > 0);
        free(got);
        sl_engine_close(engine);
    }
    free(want);
}

/* Sums differ in their order, so only tokens whose logit leads clearly must agree. */
static void exact_tokens_of_a_wide_chunk_are_those_of_the_cpu(void **state)
{
    int32_t clear = 0;
    (void)state;
    float *want = run_cpu(EXACT_TOKENS, SL_NUMERICS_EXACT);
    sl_engine *engine = open_gpu_engine(EXACT_TOKENS, SL_NUMERICS_EXACT);
    float *got = run(engine, EXACT_TOKENS);
    sl_engine_close(engine);
    for (size_t t = 0; t < EXACT_TOKENS; t++) {
        const float *row = want + t * vocab;
        if (golden_lead(row, (int64_t)vocab) < 1.0f) continue;
        assert_int_equal(golden_argmax(got + t * vocab, (int64_t)vocab),
                         golden_argmax(row, (int64_t)vocab));
        clear++;
    }
    printf("%d tokens with a clear lead, all the same\n", clear);
    assert_true(clear > EXACT_TOKENS / 4);
    free(want), free(got);
}

static int set_up(void **state)
{
    struct golden_sequence sequences[8];
    (void)state;
    directory = golden_directory("tiny-a");
    int32_t count = golden_sequences(directory, sequences, 8), longest = 0;
    for (int32_t s = 0; s < count; s++)
        if (sequences[s].count > sequences[longest].count) longest = s;
    for (int32_t t = 0; t < EXACT_TOKENS; t++)
        ids[t] = sequences[longest].ids[t];
    for (int32_t s = 0; s < count; s++)
        free(sequences[s].ids);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    free(directory);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_of_wide_chunks_are_those_of_the_cpu),
        cmocka_unit_test(exact_tokens_of_a_wide_chunk_are_those_of_the_cpu),
    };
    struct gpu *gpu;
    struct sl_error error;
    if (gpu_open(&gpu, &error) != SL_OK) {
        printf("skipped: %s\n", error.message);
        return 77;
    }
    gpu->gpu_ops->destroy(gpu);
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
