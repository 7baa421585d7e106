/* labels: gpu emulated
 *
 * What only the emulated GPU can be made to do, under the engine: waits by kernels and not by the
 * driver, faults of the device, memory that cannot be pinned. tests/gpu/test_gpu_engine.c has the
 * rest. */
#include "kernels/gpu.h"
#include "tests/cuda_emulator/emulator.h"
#include "tests/support.h"
#include "tests/support_engine.h"
#include "tests/support_golden.h"

#include <string.h>

/* A short golden sequence, for fibers are slow; its last tokens come one by one, so that a pass is
 * launched plainly, recorded, and replayed. */
#define SEQUENCE "t7"
#define TOKENS   7
#define PROMPT   3

struct fixture {
    char *directory;
    int32_t ids[TOKENS];
    size_t vocab;
    float *want;    /* [TOKENS, vocab] golden */
    uint64_t needs; /* of the GPU, beside experts */
    uint64_t slot_bytes;
};

static struct fixture *fixture;

static struct gpu *open_gpu(void)
{
    struct gpu *gpu;
    struct sl_error error;
    if (gpu_open(&gpu, &error) != SL_OK) fail_msg("%s", error.message);
    return gpu;
}

static struct sl_engine_options options_for(int32_t slots)
{
    struct sl_engine_options options = engine_test_options(fixture->directory, 2u << 20);
    options.context_tokens = 64;
    options.gpu_bytes = fixture->needs + (uint64_t)slots * fixture->slot_bytes;
    return options;
}

static sl_engine *open_engine(const struct sl_engine_options *options, struct gpu *gpu,
                              enum dispatch_rule rule)
{
    struct engine_overrides overrides = {.gpu = gpu, .rule = rule};
    struct sl_error error;
    sl_engine *engine;
    if (engine_open_with(options, &overrides, &engine, &error) != SL_OK)
        fail_msg("%s", error.message);
    return engine;
}

/* A prompt, then token by token; logits of all of them. */
static enum sl_status append_all(sl_session *session, size_t vocab, float *logits,
                                 struct sl_error *error)
{
    SL_TRY(sl_session_append(session, fixture->ids, PROMPT, logits, error));
    for (size_t t = PROMPT; t < TOKENS; t++)
        SL_TRY(sl_session_append(session, fixture->ids + t, 1, logits + t * vocab, error));
    return SL_OK;
}

static float *read_logits(void)
{
    struct golden_tensor golden;
    if (!golden_read(fixture->directory, SEQUENCE, "exact", "logits_prefill", &golden))
        fail_msg("no golden logits");
    assert_int_equal(golden.rows, TOKENS);
    fixture->vocab = (size_t)golden.width;
    return golden.data;
}

static int set_up(void **state)
{
    struct golden_sequence sequences[8];
    static struct fixture made;
    (void)state;
    fixture = &made;
    made.directory = golden_directory("tiny-a");
    int32_t count = golden_sequences(made.directory, sequences, 8);
    for (int32_t s = 0; s < count; s++) {
        if (strcmp(sequences[s].name, SEQUENCE) == 0)
            memcpy(made.ids, sequences[s].ids, sizeof made.ids);
        free(sequences[s].ids);
    }
    made.want = read_logits();

    struct sl_engine_options options = options_for(0);
    options.gpu_bytes = 0;
    sl_engine *engine = open_engine(&options, open_gpu(), DISPATCH_BEST);
    const struct budget *budget = &engine->budget;
    made.needs = budget->gpu_dense_bytes + budget->gpu_session_bytes + budget->gpu_workspace_bytes;
    made.slot_bytes = engine->source.slot_bytes;
    sl_engine_close(engine);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    free(fixture->directory);
    free(fixture->want);
    return 0;
}

static int32_t argmax(const float *x)
{
    return golden_argmax(x, (int64_t)fixture->vocab);
}

static void a_fault_of_the_device_ends_the_generation_and_says_so(void **state)
{
    (void)state;
    float *logits = calloc(TOKENS * fixture->vocab, sizeof *logits);
    assert_non_null(logits);
    for (int64_t after = 5; after < 500; after = after * 9 + 3) {
        struct sl_engine_options options = options_for(12);
        struct sl_error error = {0};
        sl_engine *engine = open_engine(&options, open_gpu(), DISPATCH_BEST);
        sl_session *session = engine_test_session(engine);
        cuda_emulator_fail_after(after);
        enum sl_status status = append_all(session, fixture->vocab, logits, &error);
        if (status != SL_OK) {
            assert_int_equal(status, SL_ERR_IO);
            assert_non_null(strstr(error.message, "GPU"));
            /* And nothing hangs or answers afterwards. */
            assert_int_equal(sl_session_append(session, fixture->ids, 1, NULL, &error), SL_ERR_IO);
        }
        printf("after %lld kernels: %s\n", (long long)after, error.message);
        assert_true(status != SL_OK);
        sl_session_destroy(session);
        sl_engine_close(engine);
        cuda_emulator_revive();
    }
    free(logits);
    assert_int_equal(cuda_emulator_memory_used(), 0);
    assert_int_equal(cuda_emulator_registered(), 0);
}

static void memory_that_cannot_be_pinned_is_told_and_works(void **state)
{
    (void)state;
    struct sl_engine_options options = options_for(12);
    sl_engine *engine = open_engine(&options, open_gpu(), DISPATCH_ALWAYS_STREAM);
    sl_session *session = engine_test_session(engine);
    struct sl_error error;
    cuda_emulator_allow(false, true);
    for (size_t t = 0; t < 2; t++) /* RAM is pinned between passes */
        if (sl_session_append(session, fixture->ids + t, 1, NULL, &error) != SL_OK)
            fail_msg("%s", error.message);
    cuda_emulator_allow(true, true);
    assert_int_equal(argmax(sl_session_logits(session)), argmax(fixture->want + fixture->vocab));
    bool told = false;
    for (int32_t i = 0; sl_engine_notice(engine, i); i++)
        told = told || strstr(sl_engine_notice(engine, i), "ulimit -l") != NULL;
    assert_true(told);
    sl_session_destroy(session);
    sl_engine_close(engine);
}

/* As f32 numerics wait; of exact ones the experts' kernels do it themselves. */
static void a_stream_waits_for_the_host_by_the_driver_and_by_a_kernel(void **state)
{
    enum { WORDS = 1000 };
    (void)state;
    for (int way = 0; way < 2; way++) {
        struct sl_error error;
        void *words, *target, *copied;
        cuda_emulator_allow(true, way != 1); /* 1: waits are kernels */
        struct gpu *gpu = open_gpu();
        const struct gpu_ops *ops = gpu->gpu_ops;
        const size_t bytes = WORDS * sizeof(uint32_t);
        assert_int_equal(strstr(ops->describe(gpu), "waiting by kernels") != NULL, way);
        assert_int_equal(ops->alloc(gpu, GPU_MAPPED, bytes + sizeof(uint32_t), &words, &error), 0);
        assert_int_equal(ops->alloc(gpu, GPU_MAPPED, bytes, &copied, &error), 0);
        assert_int_equal(ops->alloc(gpu, GPU_DEVICE, bytes, &target, &error), 0);
        uint32_t *flag = (uint32_t *)words + WORDS;
        const struct gpu_piece piece = {target, words, bytes};
        if (ops->set_loading) {
            ops->set_loading(gpu, true);
            ops->take(gpu, flag, 1, &piece, 1);
            ops->set_loading(gpu, false);
        }
        ops->take(gpu, flag, 1, &piece, 1);
        ops->copy(gpu, copied, target, bytes);
        assert_false(ops->is_idle(gpu));
        for (uint32_t i = 0; i < WORDS; i++)
            ((uint32_t *)words)[i] = i * 2654435761u;
        __atomic_store_n(flag, 1u, __ATOMIC_RELEASE);
        assert_int_equal(ops->sync(gpu, &error), SL_OK);
        assert_memory_equal(copied, words, bytes);
        ops->free(gpu, GPU_MAPPED, words);
        ops->free(gpu, GPU_MAPPED, copied);
        ops->free(gpu, GPU_DEVICE, target);
        ops->destroy(gpu);
    }
    cuda_emulator_allow(true, true);
}

/* With an argument, only the cases whose names match it. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stream_waits_for_the_host_by_the_driver_and_by_a_kernel),
        cmocka_unit_test(memory_that_cannot_be_pinned_is_told_and_works),
        cmocka_unit_test(a_fault_of_the_device_ends_the_generation_and_says_so),
    };
    struct gpu *gpu;
    struct sl_error error;
    if (gpu_open(&gpu, &error) != SL_OK) {
        printf("skipped: %s\n", error.message);
        return 77;
    }
    gpu->gpu_ops->destroy(gpu);
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
