/* labels: unit */
/* Statistics of a trace that was counted by hand. */
#include "offload/trace_writer.h"
#include "runtime/trace_stats.h"
#include "tests/support.h"

#include <math.h>
#include <string.h>

/* Two layers, the first from a table, of sixteen experts, two for a token; four tokens. */
static const uint16_t chosen[4][2][2] = {
    {{0, 1}, {4, 5}}, {{0, 1}, {4, 6}}, {{2, 3}, {4, 5}}, {{0, 1}, {7, 5}}};

static void counts_are_those_made_by_hand(void **state)
{
    char *directory = test_make_directory("trace-stats");
    char *path = test_path(directory, "t");
    struct trace_head head = {.layers = 2,
                              .hash_layers = 1,
                              .experts = 16,
                              .top = 2,
                              .list_count = 1,
                              .guesses = 4,
                              .lists = {{1, PREDICTOR_SHARED}},
                              .source = "by hand"};
    struct trace_writer *writer;
    struct trace_reader *reader;
    struct trace_stats stats;
    struct sl_error error;
    (void)state;
    assert_int_equal(trace_writer_open(path, &head, 1, &writer, &error), SL_OK);
    for (int32_t t = 0; t < 4; t++) {
        /* Always the same guess about layer 1: 4 first, 6 second. */
        struct predictor_candidate guesses[2][4] = {{{4, 1}, {6, 0.5f}, {-1, 0}, {-1, 0}},
                                                    {{-1, 0}, {-1, 0}, {-1, 0}, {-1, 0}}};
        struct trace_step step = {.kind = TRACE_DECODE,
                                  .position = t,
                                  .tokens = 1,
                                  .layers = 2,
                                  .duration_ns = 500,
                                  .ids = &t,
                                  .chosen = &chosen[t][0][0],
                                  .guesses = &guesses[0][0]};
        trace_writer_step(writer, &step);
    }
    assert_int_equal(trace_writer_close(writer, &error), SL_OK);
    assert_int_equal(trace_reader_open(path, &reader, &error), SL_OK);
    assert_int_equal(trace_stats_init(&stats, reader, &error), SL_OK);
    assert_int_equal(stats.tokens, 4);
    assert_int_equal(stats.accesses, 16);
    assert_int_equal(stats.live, 8);
    /* 3 3 1 1 and 3 3 1 1 of 16 uses: 8 uses need 3 experts, of 32. */
    assert_true(fabs(stats.covering[0] - 3.0 / 32) < 1e-9);
    assert_true(fabs(stats.distinct[0] - 2.0) < 1e-9);
    assert_true(fabs(stats.distinct[1] - (2 + 4 + 3 + 3) / 4.0) < 1e-9);
    /* Used by the token before: 0 1 and 4 at the second, 4 at the third, 5 at the last. */
    assert_int_equal(stats.reused[0], 5);
    assert_int_equal(stats.reusable, 12);
    const struct trace_stats_list *list = &stats.lists[0];
    assert_int_equal(list->chosen, 8);
    assert_int_equal(list->found[0], 4); /* 4 three times, 6 once */
    /* Six slots hold all that was used before: missed are 4 5, 6 and 7. */
    assert_int_equal(stats.slots[3], 6);
    assert_int_equal(list->missed[3], 4);
    assert_int_equal(list->by_depth[3][0].right, 2);   /* 4 and 6, each the first time */
    assert_int_equal(list->by_depth[3][0].guessed, 3); /* and 6 in vain at the first token */
    trace_stats_deinit(&stats);
    trace_reader_close(reader);
    test_remove_tree(directory);
    free(path), free(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(counts_are_those_made_by_hand)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
