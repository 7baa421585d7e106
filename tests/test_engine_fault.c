/* labels: fault
 *
 * Faults under a running engine: a generation that needs bytes which cannot be had gets an error
 * that names the file, keeps its timeline and can go on once the fault is gone; others never
 * notice. */
#include "tests/io_sim.h"
#include "tests/support.h"
#include "tests/support_checkpoint.h"
#include "tests/support_engine.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define RAM_BYTES (1u << 20)
#define TOKENS    24

/* The sequence of every test. */
static void make_tokens(int32_t *ids)
{
    for (int32_t i = 0; i < TOKENS; i++)
        ids[i] = (i * 37 + 11) % 512;
}

/* A fault over the first segment of an expert of layer 0. */
static struct io_sim_fault fault_on(const sl_engine *engine, int32_t expert, int os_errno)
{
    const struct expert_source *source = &engine->source;
    const struct expert_segment *segment = &source->segments[expert * source->segments_per_expert];
    return (struct io_sim_fault){.file = segment->file,
                                 .offset_bytes = segment->offset_bytes,
                                 .bytes = segment->bytes,
                                 .os_errno = os_errno};
}

static bool uses_expert(const struct model *model, int32_t id, int32_t expert)
{
    int32_t top = model->config.experts_per_token;
    for (int32_t i = 0; i < top; i++)
        if (model->layers[0].token_experts[id * top + i] == expert) return true;
    return false;
}

/* The first token of which layer 0 does, or does not, need the expert. */
static int32_t find_token(const struct model *model, int32_t expert, bool needed)
{
    for (int32_t id = 0; id < model->config.vocab; id++)
        if (uses_expert(model, id, expert) == needed) return id;
    fail_msg("no such token");
    return -1;
}

static void an_unreadable_expert_fails_only_who_needs_it(void **state)
{
    char *directory = checkpoint_copy_golden("tiny-a");
    struct sl_engine_options options = engine_test_options(directory, RAM_BYTES);
    struct io_sim_plan plan = {.seed = 5, .latency_turns_max = 4};
    struct sl_error error = {0};
    (void)state;
    /* A page of the neighbour has the fault, too; read ahead, it would be the last one to fail. */
    options.prefetch = SL_PREFETCH_OFF;
    io_sim_set_plan(&plan);
    sl_engine *engine = engine_test_open(&options, &io_sim_ops);
    sl_session *needs = engine_test_session(engine), *other = engine_test_session(engine);
    int32_t bad = find_token(engine->model, 3, true), good = find_token(engine->model, 3, false);
    int32_t ids[] = {good, good, bad, good};
    float *expected = engine_test_reference(directory, ids, 4);
    size_t row = sizeof(float) * 512;

    plan.faults[plan.fault_count++] = fault_on(engine, 3, EIO);
    io_sim_set_plan(&plan);
    assert_int_equal(sl_session_append(needs, ids, 2, NULL, &error), SL_OK);
    assert_int_equal(sl_session_append(needs, ids + 2, 2, NULL, &error), SL_ERR_IO);
    assert_non_null(strstr(error.message, "layer 0 expert 3"));
    assert_non_null(strstr(error.message, directory));
    assert_int_equal(sl_session_length(needs), 2);
    expert_store_check(engine->store);

    assert_int_equal(sl_session_append(other, ids, 2, NULL, &error), SL_OK);
    assert_memory_equal(sl_session_logits(other), expected + 512, row);

    plan.fault_count = 0;
    io_sim_set_plan(&plan);
    assert_int_equal(sl_session_append(needs, ids + 2, 2, NULL, &error), SL_OK);
    assert_memory_equal(sl_session_logits(needs), expected + (size_t)3 * 512, row);
    sl_session_destroy(needs);
    sl_session_destroy(other);
    sl_engine_close(engine);
    free(expected);
    test_remove_tree(directory);
    free(directory);
}

static void a_rough_disk_changes_no_bit(void **state)
{
    char *directory = checkpoint_copy_golden("tiny-a");
    struct sl_engine_options options = engine_test_options(directory, RAM_BYTES);
    int32_t ids[TOKENS];
    (void)state;
    make_tokens(ids);
    float *expected = engine_test_reference(directory, ids, TOKENS);
    for (uint64_t seed = 1; seed <= 6; seed++) {
        struct io_sim_plan plan = {.seed = seed,
                                   .latency_turns_max = (uint32_t)(3 * seed),
                                   .short_permille = 200,
                                   .transient_permille = 100};
        struct sl_error error;
        struct sl_stats stats;
        io_sim_set_plan(&plan);
        sl_engine *engine = engine_test_open(&options, &io_sim_ops);
        sl_session *session = engine_test_session(engine);
        float *logits = calloc((size_t)TOKENS * 512, sizeof *logits);
        assert_non_null(logits);
        if (sl_session_append(session, ids, TOKENS, logits, &error) != SL_OK)
            fail_msg("seed %d: %s", (int)seed, error.message);
        assert_memory_equal(logits, expected, sizeof(float) * TOKENS * 512);
        sl_engine_stats(engine, &stats);
        assert_true(stats.expert_retries > 0 && stats.expert_failures == 0);
        free(logits);
        sl_session_destroy(session);
        sl_engine_close(engine);
    }
    free(expected);
    test_remove_tree(directory);
    free(directory);
}

/* Runs until `step` changes the files under the engine, then expects an error naming `file`. */
static void check_change(void (*step)(const char *path), const char *file)
{
    char *directory = checkpoint_copy_golden("tiny-a");
    struct sl_engine_options options = engine_test_options(directory, RAM_BYTES);
    struct sl_error error = {0};
    int32_t ids[TOKENS];
    char *path = test_path(directory, file);
    make_tokens(ids);
    sl_engine *engine = engine_test_open(&options, NULL);
    sl_session *session = engine_test_session(engine);
    assert_int_equal(sl_session_append(session, ids, 8, NULL, &error), SL_OK);
    step(path);
    assert_int_equal(sl_session_append(session, ids + 8, 8, NULL, &error), SL_ERR_IO);
    assert_non_null(strstr(error.message, file));
    assert_int_equal(sl_session_length(session), 8);
    sl_session_destroy(session);
    sl_engine_close(engine);
    test_remove_tree(directory);
    free(directory);
    free(path);
}

static void cut_in_half(const char *path)
{
    size_t bytes;
    free(test_read_file(path, &bytes));
    assert_int_equal(truncate(path, (off_t)(bytes / 2)), 0);
}

static void write_over(const char *path)
{
    size_t bytes;
    char *data = test_read_file(path, &bytes);
    usleep(20000); /* file times have the kernel's tick for a step */
    test_write_file(path, data, bytes);
    free(data);
}

static void a_file_cut_or_written_under_us_is_named(void **state)
{
    (void)state;
    check_change(cut_in_half, "model-00002-of-00003.safetensors");
    check_change(write_over, "model-00001-of-00003.safetensors");
}

static void a_file_replaced_under_us_goes_on_as_it_was(void **state)
{
    char *directory = checkpoint_copy_golden("tiny-a");
    struct sl_engine_options options = engine_test_options(directory, RAM_BYTES);
    struct sl_error error;
    int32_t ids[TOKENS];
    (void)state;
    make_tokens(ids);
    float *expected = engine_test_reference(directory, ids, TOKENS);
    sl_engine *engine = engine_test_open(&options, NULL);
    sl_session *session = engine_test_session(engine);
    char *path = test_path(directory, "model-00002-of-00003.safetensors");
    char *other = test_path(directory, "other");
    test_write_file(other, "not a checkpoint", 16);
    assert_int_equal(sl_session_append(session, ids, 8, NULL, &error), SL_OK);
    assert_int_equal(rename(other, path), 0);
    assert_int_equal(sl_session_append(session, ids + 8, TOKENS - 8, NULL, &error), SL_OK);
    assert_memory_equal(sl_session_logits(session), expected + (size_t)(TOKENS - 1) * 512,
                        sizeof(float) * 512);
    sl_session_destroy(session);
    sl_engine_close(engine);
    free(expected);
    free(path);
    free(other);
    test_remove_tree(directory);
    free(directory);
}

static void a_damaged_packed_expert_is_caught_when_read(void **state)
{
    char *directory = checkpoint_copy_golden("tiny-a");
    struct sl_engine_options options = engine_test_options(directory, RAM_BYTES);
    struct sl_error error = {0};
    char *path = test_path(directory, "experts.sluice");
    size_t bytes;
    (void)state;
    assert_int_equal(sl_pack(directory, NULL, NULL, NULL, &error), SL_OK);
    sl_engine *engine = engine_test_open(&options, NULL);
    uint64_t at = engine->source.segments[5].offset_bytes + 100;
    int32_t bad = find_token(engine->model, 5, true), good = find_token(engine->model, 5, false);
    sl_engine_close(engine);
    char *data = test_read_file(path, &bytes);
    data[at] ^= 4;
    test_write_file(path, data, bytes);
    free(data);

    engine = engine_test_open(&options, NULL);
    sl_session *session = engine_test_session(engine);
    assert_int_equal(sl_session_append(session, &good, 1, NULL, &error), SL_OK);
    assert_int_equal(sl_session_append(session, &bad, 1, NULL, &error), SL_ERR_CHECKSUM);
    assert_non_null(strstr(error.message, "layer 0 expert 5"));
    assert_int_equal(sl_session_append(session, &good, 1, NULL, &error), SL_OK);
    sl_session_destroy(session);
    sl_engine_close(engine);
    free(path);
    test_remove_tree(directory);
    free(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_unreadable_expert_fails_only_who_needs_it),
        cmocka_unit_test(a_rough_disk_changes_no_bit),
        cmocka_unit_test(a_file_cut_or_written_under_us_is_named),
        cmocka_unit_test(a_file_replaced_under_us_goes_on_as_it_was),
        cmocka_unit_test(a_damaged_packed_expert_is_caught_when_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
