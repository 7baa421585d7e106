/* labels: unit fault */
/* The trace file: what is written is read, by either way of writing, and nothing damaged passes. */
#include "offload/trace_reader.h"
#include "offload/trace_writer.h"
#include "tests/support.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

#define STEP_TOKENS_MAX 40
#define LAYERS          5
#define GUESSES         7

/* A seeded step and its arrays. */
struct made_step {
    struct trace_step step;
    int32_t ids[STEP_TOKENS_MAX];
    uint16_t chosen[LAYERS * STEP_TOKENS_MAX * 4];
    struct predictor_candidate guesses[LAYERS * 2 * STEP_TOKENS_MAX * GUESSES];
    struct trace_timing timings[LAYERS];
};

static struct trace_head make_head(int32_t experts)
{
    return (struct trace_head){.layers = LAYERS,
                               .hash_layers = 2,
                               .experts = experts,
                               .top = 4,
                               .list_count = 2,
                               .guesses = GUESSES,
                               .lists = {{1, PREDICTOR_STREAMS}, {2, PREDICTOR_SHARED}},
                               .slot_bytes = 1u << 20,
                               .fingerprint = 0xfeedbeef12345678,
                               .source = "a test"};
}

/* Guesses exist where a writer keeps them: in steps of few tokens, lists of varying length. */
static void make_step(const struct trace_head *head, uint64_t *random, struct made_step *made)
{
    struct trace_step *step = &made->step;
    int32_t tokens = (int32_t)test_random_below(random, 4) == 0
                         ? 1 + (int32_t)test_random_below(random, STEP_TOKENS_MAX)
                         : 1;
    *step = (struct trace_step){.kind = tokens > 1 ? TRACE_PREFILL : TRACE_DECODE,
                                .position = (int32_t)test_random_below(random, 100000),
                                .tokens = tokens,
                                .layers = LAYERS - (int32_t)test_random_below(random, 2),
                                .start_ns = test_random(random) >> 4,
                                .duration_ns = test_random(random) >> 30,
                                .ids = made->ids,
                                .chosen = made->chosen,
                                .timings = made->timings};
    if (tokens <= TRACE_GUESS_TOKENS_MAX) step->guesses = made->guesses;
    for (int32_t t = 0; t < tokens; t++)
        made->ids[t] = (int32_t)test_random_below(random, 129280);
    for (int32_t i = 0; i < step->layers * tokens * head->top; i++)
        made->chosen[i] = (uint16_t)test_random_below(random, (uint32_t)head->experts);
    for (int32_t row = 0; row < step->layers * 2 * tokens; row++) {
        int32_t length = (int32_t)test_random_below(random, GUESSES + 1);
        for (int32_t g = 0; g < GUESSES; g++) {
            struct predictor_candidate *candidate = &made->guesses[row * GUESSES + g];
            *candidate = (struct predictor_candidate){.expert = -1};
            if (g >= length) continue;
            candidate->expert = (int32_t)test_random_below(random, (uint32_t)head->experts);
            candidate->margin = 7 * test_random_float(random);
        }
    }
    for (int32_t layer = 0; layer < step->layers; layer++)
        made->timings[layer] = (struct trace_timing){.before_ns = (uint32_t)test_random(random),
                                                     .experts_ns = (uint32_t)test_random(random),
                                                     .wait_ns = (uint32_t)test_random(random),
                                                     .missed = test_random_below(random, 7)};
}

static void check_step(const struct trace_head *head, const struct trace_step *found,
                       const struct made_step *made)
{
    const struct trace_step *step = &made->step;
    size_t pairs = (size_t)step->layers * (size_t)step->tokens;
    assert_non_null(found);
    assert_int_equal(found->kind, step->kind);
    assert_int_equal(found->position, step->position);
    assert_int_equal(found->tokens, step->tokens);
    assert_int_equal(found->layers, step->layers);
    assert_int_equal(found->start_ns, step->start_ns);
    assert_int_equal(found->duration_ns, step->duration_ns);
    assert_memory_equal(found->ids, step->ids, 4 * (size_t)step->tokens);
    assert_memory_equal(found->chosen, step->chosen, 2 * pairs * (size_t)head->top);
    assert_memory_equal(found->timings, step->timings,
                        sizeof *step->timings * (size_t)step->layers);
    assert_int_equal(found->guesses != NULL, step->guesses != NULL);
    for (size_t i = 0; step->guesses && i < pairs * 2 * GUESSES; i++) {
        assert_int_equal(found->guesses[i].expert, step->guesses[i].expert);
        assert_true(found->guesses[i].margin - step->guesses[i].margin < 0.0002f);
        assert_true(found->guesses[i].margin - step->guesses[i].margin > -0.0002f);
    }
}

/* Writes `count` steps of seed `seed`, whole or in pieces; the path is the caller's to free. */
static char *write_trace(const char *directory, const char *name, const struct trace_head *head,
                         uint64_t seed, int32_t count, bool pieces)
{
    char *path = test_path(directory, name);
    struct made_step *made = calloc(1, sizeof *made);
    struct trace_writer *writer;
    struct sl_error error;
    assert_non_null(made);
    if (trace_writer_open(path, head, STEP_TOKENS_MAX, &writer, &error) != SL_OK)
        fail_msg("%s", error.message);
    for (int32_t i = 0; i < count; i++) {
        make_step(head, &seed, made);
        const struct trace_step *step = &made->step;
        if (!pieces) {
            trace_writer_step(writer, step);
            continue;
        }
        size_t row = (size_t)step->tokens * (size_t)head->top;
        if (i == 1) { /* given up half way: leaves no trace */
            trace_writer_begin(writer, step, 17);
            trace_writer_abandon(writer);
        }
        trace_writer_begin(writer, step, step->start_ns);
        for (int32_t layer = 0; layer < step->layers; layer++) {
            int32_t chosen[STEP_TOKENS_MAX * 4];
            for (size_t c = 0; c < row; c++)
                chosen[c] = step->chosen[(size_t)layer * row + c];
            trace_writer_layer(writer, layer, chosen);
            for (int32_t list = 0; list < 2; list++)
                for (int32_t t = 0; t < step->tokens; t++)
                    trace_writer_list(
                        writer, list, t,
                        made->guesses + ((layer * 2 + list) * step->tokens + t) * GUESSES, GUESSES);
            trace_writer_timing(writer, &step->timings[layer]);
        }
        trace_writer_end(writer, step->start_ns + step->duration_ns);
    }
    assert_int_equal(trace_writer_close(writer, &error), SL_OK);
    free(made);
    return path;
}

static void steps_come_back_as_they_were_written(void **state)
{
    struct made_step *made = calloc(1, sizeof *made);
    (void)state;
    assert_non_null(made);
    char *directory = test_make_directory("trace");
    for (int32_t shape = 0; shape < 2; shape++) {
        struct trace_head head = make_head(shape ? 300 : 256);
        /* Enough for several blocks. */
        char *path = write_trace(directory, "t", &head, 7 + (uint64_t)shape, 900, false);
        struct trace_reader *reader;
        struct sl_error error;
        if (trace_reader_open(path, &reader, &error) != SL_OK) fail_msg("%s", error.message);
        assert_memory_equal(trace_reader_head(reader), &head, sizeof head);
        for (int32_t pass = 0; pass < 2; pass++) {
            uint64_t seed = 7 + (uint64_t)shape;
            const struct trace_step *step;
            for (int32_t i = 0; i < 900; i++) {
                make_step(&head, &seed, made);
                if (trace_reader_next(reader, &step, &error) != SL_OK)
                    fail_msg("%s", error.message);
                check_step(&head, step, made);
            }
            assert_int_equal(trace_reader_next(reader, &step, &error), SL_OK);
            assert_null(step);
            assert_int_equal(trace_reader_next(reader, &step, &error), SL_OK);
            assert_null(step);
            trace_reader_rewind(reader);
        }
        trace_reader_close(reader);
        free(path);
    }
    free(made);
    test_remove_tree(directory);
    free(directory);
}

static void pieces_give_the_same_steps_as_the_whole(void **state)
{
    struct trace_head head = make_head(256);
    char *directory = test_make_directory("trace");
    char *whole = write_trace(directory, "whole", &head, 3, 60, false);
    char *pieces = write_trace(directory, "pieces", &head, 3, 60, true);
    struct trace_reader *a, *b;
    struct sl_error error;
    (void)state;
    assert_int_equal(trace_reader_open(whole, &a, &error), SL_OK);
    assert_int_equal(trace_reader_open(pieces, &b, &error), SL_OK);
    for (int32_t i = 0; i < 60; i++) {
        const struct trace_step *x, *y;
        assert_int_equal(trace_reader_next(a, &x, &error), SL_OK);
        assert_int_equal(trace_reader_next(b, &y, &error), SL_OK);
        assert_non_null(x);
        assert_non_null(y);
        assert_int_equal(x->tokens, y->tokens);
        assert_int_equal(x->duration_ns, y->duration_ns);
        assert_memory_equal(x->chosen, y->chosen,
                            2 * (size_t)(x->layers * x->tokens) * (size_t)head.top);
        assert_int_equal(x->guesses != NULL, y->guesses != NULL);
        if (x->guesses)
            assert_memory_equal(x->guesses, y->guesses,
                                8 * (size_t)(x->layers * x->tokens) * 2 * GUESSES);
        assert_memory_equal(x->timings, y->timings, sizeof *x->timings * (size_t)x->layers);
    }
    trace_reader_close(a), trace_reader_close(b);
    free(whole), free(pieces);
    test_remove_tree(directory);
    free(directory);
}

/* Reads all steps of these bytes; the status of the first failure, and its message. */
static enum sl_status read_all(const void *data, size_t bytes, int32_t *steps,
                               struct sl_error *error)
{
    struct trace_reader *reader;
    const struct trace_step *step;
    *steps = 0;
    enum sl_status status = trace_reader_open_memory(data, bytes, "here.trace", &reader, error);
    if (status != SL_OK) return status;
    while ((status = trace_reader_next(reader, &step, error)) == SL_OK && step)
        (*steps)++;
    trace_reader_close(reader);
    return status;
}

static void every_damaged_byte_is_refused_by_name_and_offset(void **state)
{
    struct trace_head head = make_head(256);
    char *directory = test_make_directory("trace");
    char *path = write_trace(directory, "t", &head, 5, 3, false);
    size_t bytes = 0;
    char *data = test_read_file(path, &bytes);
    struct sl_error error;
    int32_t steps = 0;
    (void)state;
    assert_int_equal(read_all(data, bytes, &steps, &error), SL_OK);
    assert_int_equal(steps, 3);
    for (size_t at = 0; at < bytes; at++) {
        data[at] = (char)(data[at] ^ 0x10);
        enum sl_status status = read_all(data, bytes, &steps, &error);
        if (status == SL_OK) fail_msg("a flipped byte at %zu was not noticed", at);
        assert_non_null(strstr(error.message, "here.trace"));
        if (at >= TRACE_HEAD_BYTES) assert_non_null(strstr(error.message, "offset "));
        data[at] = (char)(data[at] ^ 0x10);
    }
    free(data), free(path);
    test_remove_tree(directory);
    free(directory);
}

static void a_trace_cut_short_gives_its_whole_blocks_and_then_says_where_it_ends(void **state)
{
    struct trace_head head = make_head(256);
    char *directory = test_make_directory("trace");
    char *path = write_trace(directory, "t", &head, 5, 900, false);
    size_t bytes = 0;
    char *data = test_read_file(path, &bytes);
    struct sl_error error;
    int32_t steps = 0, whole = 0;
    (void)state;
    for (size_t length = 0; length < bytes; length += length < 2000 ? 1 : 4099) {
        assert_int_not_equal(read_all(data, length, &steps, &error), SL_OK);
        assert_true(steps >= whole); /* a longer piece never gives less */
        whole = steps;
        if (length < TRACE_HEAD_BYTES) continue;
        const char *place = strstr(error.message, "here.trace ends early, in the block at offset ");
        assert_non_null(place);
        unsigned long long offset = strtoull(strstr(place, "offset ") + 7, NULL, 10);
        assert_true(offset <= length && length < offset + TRACE_BLOCK_HEAD_BYTES + (1u << 20));
    }
    assert_true(whole > 0);
    free(data), free(path);
    test_remove_tree(directory);
    free(directory);
}

static void bytes_after_the_end_are_refused(void **state)
{
    struct trace_head head = make_head(256);
    char *directory = test_make_directory("trace");
    char *path = write_trace(directory, "t", &head, 5, 3, false);
    size_t bytes = 0;
    char *data = test_read_file(path, &bytes);
    struct sl_error error;
    int32_t steps = 0;
    (void)state;
    assert_int_equal(read_all(data, bytes + 1, &steps, &error), SL_ERR_FORMAT);
    assert_non_null(strstr(error.message, "bytes after the end"));
    free(data), free(path);
    test_remove_tree(directory);
    free(directory);
}

static void a_full_disk_ends_the_recording_with_a_reason(void **state)
{
    struct trace_head head = make_head(256);
    struct made_step *made = calloc(1, sizeof *made);
    struct trace_writer *writer;
    struct sl_error error = {.message = ""};
    uint64_t seed = 1;
    (void)state;
    assert_non_null(made);
    if (access("/dev/full", W_OK) != 0) skip();
    /* The head goes out at once. */
    assert_int_equal(trace_writer_open("/dev/full", &head, STEP_TOKENS_MAX, &writer, &error),
                     SL_ERR_IO);
    assert_non_null(strstr(error.message, "/dev/full"));
    int pipe_ends[2];
    char path[64];
    assert_int_equal(pipe(pipe_ends), 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", pipe_ends[1]);
    assert_int_equal(trace_writer_open(path, &head, STEP_TOKENS_MAX, &writer, &error), SL_OK);
    close(pipe_ends[0]);
    make_step(&head, &seed, made);
    trace_writer_step(writer, &made->step);
    /* Nobody reads any more: the write fails, the steps after it are taken all the same. */
    trace_writer_step(writer, &made->step);
    assert_int_equal(trace_writer_close(writer, &error), SL_ERR_IO);
    assert_non_null(strstr(error.message, path));
    close(pipe_ends[1]);
    free(made);
}

static void shapes_out_of_bounds_are_refused(void **state)
{
    struct trace_head head = make_head(256);
    struct trace_writer *writer;
    struct sl_error error;
    (void)state;
    head.top = 257;
    assert_int_equal(trace_writer_open("/nowhere", &head, 1, &writer, &error), SL_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "experts per token"));
    head = make_head(256);
    head.lists[1].distance = 3;
    assert_int_equal(trace_writer_open("/nowhere", &head, 1, &writer, &error), SL_ERR_ARGUMENT);
    head = make_head(256);
    assert_int_equal(trace_writer_open("/nowhere/at/all", &head, 1, &writer, &error),
                     SL_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "/nowhere/at/all"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_come_back_as_they_were_written),
        cmocka_unit_test(pieces_give_the_same_steps_as_the_whole),
        cmocka_unit_test(every_damaged_byte_is_refused_by_name_and_offset),
        cmocka_unit_test(a_trace_cut_short_gives_its_whole_blocks_and_then_says_where_it_ends),
        cmocka_unit_test(bytes_after_the_end_are_refused),
        cmocka_unit_test(a_full_disk_ends_the_recording_with_a_reason),
        cmocka_unit_test(shapes_out_of_bounds_are_refused),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
