/* labels: golden */
/* Reading ahead and recording change nothing but the time: logits are the same to the last bit,
 * what the table tells is read exactly, and a trace holds what really happened. */
#include "offload/trace_reader.h"
#include "tests/support.h"
#include "tests/support_engine.h"
#include "tests/support_golden.h"

#include <string.h>
#include <unistd.h>

#define TOKENS 48
#define VOCAB  512

struct fixture {
    char *directory, *model;
    int32_t ids[TOKENS];
};

static int make_fixture(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    assert_non_null(fixture);
    *state = fixture;
    fixture->directory = test_make_directory("lookahead");
    fixture->model = golden_directory("tiny-a");
    for (int32_t i = 0; i < TOKENS; i++)
        fixture->ids[i] = (i * 29 + i * i + 3) % VOCAB;
    return 0;
}

static int remove_fixture(void **state)
{
    struct fixture *fixture = *state;
    test_remove_tree(fixture->directory);
    free(fixture->directory);
    free(fixture->model);
    free(fixture);
    return 0;
}

struct variant {
    const char *what;
    enum sl_prefetch prefetch;
    int32_t depth, step;
    bool trace, every_guess;
    const char *policy; /* NULL: the usual */
};

/* Logits of all tokens under a variant, in RAM for about a quarter of the experts. */
static float *run_variant(const struct fixture *f, const struct variant *variant)
{
    struct sl_engine_options options = engine_test_options(f->model, 2u << 20);
    char *path = test_path(f->directory, "variant.trace");
    struct sl_error error;
    options.prefetch = variant->prefetch;
    options.prefetch_depth = variant->depth;
    options.policy = variant->policy;
    sl_engine *engine = engine_test_open(&options, NULL);
    sl_session *session = engine_test_session(engine);
    float *logits = calloc((size_t)TOKENS * VOCAB, sizeof *logits);
    assert_non_null(logits);
    if (variant->trace && sl_trace_start(engine, path, variant->every_guess, &error) != SL_OK)
        fail_msg("%s", error.message);
    for (int32_t at = 0; at < TOKENS; at += variant->step) {
        int32_t count = min_i32(variant->step, TOKENS - at);
        sl_session_expect(session, f->ids + at, (size_t)count, 1);
        if (sl_session_append(session, f->ids + at, (size_t)count, logits + at * VOCAB, &error) !=
            SL_OK)
            fail_msg("%s", error.message);
    }
    assert_int_equal(sl_trace_stop(engine, &error), SL_OK);
    sl_session_destroy(session);
    sl_engine_close(engine);
    free(path);
    return logits;
}

static void logits_do_not_depend_on_reading_ahead_or_recording(void **state)
{
    static const struct variant variants[] = {
        {"off", SL_PREFETCH_OFF, 0, 1, false, false, NULL},
        {"off, least recently used", SL_PREFETCH_OFF, 0, 1, false, false, "lru"},
        {"2 ahead, least frequently used", SL_PREFETCH_AUTO, 2, 1, false, false, "lfu"},
        {"a static set", SL_PREFETCH_AUTO, 1, 16, false, false, "static"},
        {"off, recorded", SL_PREFETCH_OFF, 0, 1, true, false, NULL},
        {"the table", SL_PREFETCH_HASH, 0, 1, false, false, NULL},
        {"routers 1 ahead", SL_PREFETCH_AUTO, 1, 1, false, false, NULL},
        {"routers 2 ahead", SL_PREFETCH_AUTO, 2, 1, false, false, NULL},
        {"recorded", SL_PREFETCH_AUTO, 2, 1, true, false, NULL},
        {"every guess recorded", SL_PREFETCH_AUTO, 1, 1, true, true, NULL},
        {"every guess recorded, none used", SL_PREFETCH_OFF, 0, 5, true, true, NULL},
        {"steps of 16", SL_PREFETCH_AUTO, 2, 16, true, true, NULL},
        {"steps of all", SL_PREFETCH_AUTO, 2, TOKENS, true, false, NULL},
    };
    const struct fixture *f = *state;
    float *first = NULL;
    for (size_t v = 0; v < SL_COUNT_OF(variants); v++) {
        float *logits = run_variant(f, &variants[v]);
        if (first && memcmp(first, logits, sizeof(float) * TOKENS * VOCAB) != 0)
            fail_msg("%s: logits differ", variants[v].what);
        if (first)
            free(logits);
        else
            first = logits;
    }
    free(first);
}

/* ---- what the table tells ----------------------------------------------------------------- */

/* Experts of (layer, expert) pairs that were chosen. */
struct routes {
    int32_t layers, experts, top, tokens; /* tokens seen so far */
    uint8_t *seen;                        /* [layers, experts] */
    int32_t *chosen;                      /* [TOKENS, layers, top] */
};

static void note_route(void *context, int32_t layer, int32_t first_position, int32_t tokens,
                       int32_t top, const int32_t *experts, const float *weights)
{
    struct routes *routes = context;
    (void)weights;
    for (int32_t t = 0; t < tokens; t++)
        for (int32_t k = 0; k < top; k++) {
            int32_t expert = experts[t * top + k];
            routes->seen[layer * routes->experts + expert] = 1;
            routes->chosen[((first_position + t) * routes->layers + layer) * top + k] = expert;
        }
}

static struct routes make_routes(const sl_engine *engine)
{
    struct sl_model_info info = sl_engine_info(engine);
    struct routes routes = {
        .layers = info.layers, .experts = info.experts, .top = info.experts_per_token};
    routes.seen = calloc((size_t)(info.layers * info.experts), 1);
    routes.chosen = calloc((size_t)(TOKENS * info.layers * routes.top), sizeof *routes.chosen);
    assert_non_null(routes.seen);
    assert_non_null(routes.chosen);
    return routes;
}

static void free_routes(struct routes *routes)
{
    free(routes->seen);
    free(routes->chosen);
}

/* Takes in reads until as many as there are hints have come, or a second is over. */
static void settle(sl_engine *engine)
{
    uint64_t last = UINT64_MAX;
    for (int32_t quiet = 0; quiet < 20;) {
        struct expert_store_stats stats;
        expert_store_poll(engine->store);
        expert_store_stats_get(engine->store, &stats);
        quiet = stats.reads == last ? quiet + 1 : 0;
        last = stats.reads;
        usleep(2000);
    }
}

static void the_table_finds_all_and_reads_nothing_else(void **state)
{
    const struct fixture *f = *state;
    struct sl_engine_options options = engine_test_options(f->model, 64u << 20);
    struct sl_error error;
    options.prefetch = SL_PREFETCH_HASH;
    sl_engine *engine = engine_test_open(&options, NULL);
    sl_session *session = engine_test_session(engine);
    struct routes routes = make_routes(engine);
    int32_t tables = 0;
    sl_session_on_route(session, note_route, &routes);
    for (int32_t at = 0; at < TOKENS; at++) {
        /* First a token at a time, then the rest at once. */
        int32_t count = at < TOKENS / 2 ? 1 : TOKENS - at;
        sl_session_expect(session, f->ids + at, (size_t)count, 1);
        settle(engine);
        assert_int_equal(sl_session_append(session, f->ids + at, (size_t)count, NULL, &error),
                         SL_OK);
        at += count - 1;
    }
    for (int32_t layer = 0; layer < routes.layers; layer++) {
        struct sl_layer_stats stats;
        sl_engine_layer_stats(engine, layer, &stats);
        assert_true(stats.asked > 0);
        tables += stats.from_table;
        if (stats.from_table) assert_int_equal(stats.missed, 0);
    }
    assert_int_equal(tables, 2);
    /* Nothing is evicted here, so without waste each expert that was read was chosen. */
    uint64_t distinct = 0;
    for (int32_t i = 0; i < routes.layers * routes.experts; i++)
        distinct += routes.seen[i];
    struct expert_store_stats store;
    expert_store_stats_get(engine->store, &store);
    assert_int_equal(store.evictions, 0);
    assert_int_equal(store.slots_ready, distinct);
    free_routes(&routes);
    sl_session_destroy(session);
    sl_engine_close(engine);
}

static void expecting_what_does_not_come_only_costs_time(void **state)
{
    const struct fixture *f = *state;
    struct sl_engine_options options = engine_test_options(f->model, 1u << 20);
    struct sl_error error;
    sl_engine *engine = engine_test_open(&options, NULL);
    sl_session *session = engine_test_session(engine);
    float *expected = engine_test_reference(f->model, f->ids, 8);
    const int32_t outside[] = {VOCAB, -1};
    for (int32_t i = 0; i < 8; i++) {
        int32_t other = (f->ids[i] + 17) % VOCAB;
        float logits[VOCAB];
        sl_session_expect(session, &other, 1, 0.5f);
        sl_session_expect(session, outside, 2, 1);
        assert_int_equal(sl_session_append(session, f->ids + i, 1, logits, &error), SL_OK);
        assert_memory_equal(logits, expected + i * VOCAB, sizeof logits);
    }
    free(expected);
    sl_session_destroy(session);
    sl_engine_close(engine);
}

/* ---- what a trace holds ------------------------------------------------------------------- */

static void a_trace_holds_tokens_choices_and_guesses_worth_having(void **state)
{
    const struct fixture *f = *state;
    struct sl_engine_options options = engine_test_options(f->model, 2u << 20);
    char *path = test_path(f->directory, "whole.trace");
    struct sl_error error;
    sl_engine *engine = engine_test_open(&options, NULL);
    sl_session *session = engine_test_session(engine);
    struct routes routes = make_routes(engine);
    sl_session_on_route(session, note_route, &routes);
    assert_int_equal(sl_trace_start(engine, path, true, &error), SL_OK);
    assert_int_equal(sl_trace_start(engine, path, true, &error), SL_ERR_BUSY);
    /* A prompt of 20 in chunks of 16 and 4, then one by one. */
    assert_int_equal(sl_session_append(session, f->ids, 20, NULL, &error), SL_OK);
    for (int32_t i = 20; i < TOKENS; i++)
        assert_int_equal(sl_session_append(session, f->ids + i, 1, NULL, &error), SL_OK);
    assert_int_equal(sl_trace_stop(engine, &error), SL_OK);
    sl_session_destroy(session);
    sl_engine_close(engine);

    struct trace_reader *reader;
    const struct trace_step *step;
    int32_t position = 0, found = 0, chosen = 0;
    assert_int_equal(trace_reader_open(path, &reader, &error), SL_OK);
    const struct trace_head *head = trace_reader_head(reader);
    assert_int_equal(head->layers, routes.layers);
    assert_int_equal(head->hash_layers, 2);
    assert_int_equal(head->list_count, TRACE_LISTS_MAX);
    assert_int_not_equal(head->fingerprint, 0);
    while (trace_reader_next(reader, &step, &error) == SL_OK && step) {
        assert_int_equal(step->position, position);
        assert_int_equal(step->layers, routes.layers);
        assert_memory_equal(step->ids, f->ids + position, 4 * (size_t)step->tokens);
        assert_true(step->duration_ns > 0);
        for (int32_t layer = 0; layer < step->layers; layer++)
            for (int32_t t = 0; t < step->tokens; t++)
                for (int32_t k = 0; k < head->top; k++)
                    assert_int_equal(
                        step->chosen[(layer * step->tokens + t) * head->top + k],
                        routes.chosen[((position + t) * routes.layers + layer) * head->top + k]);
        for (int32_t list = 0; list < head->list_count; list++) {
            /* Layer 2 is the first whose router scores: 1 ahead it is guessed at layer 1. */
            int32_t distance = head->lists[list].distance;
            for (int32_t layer = 0; layer < step->layers; layer++) {
                const struct predictor_candidate *guesses =
                    step->guesses +
                    (layer * head->list_count + list) * step->tokens * head->guesses;
                bool there = layer + distance >= 2 && layer + distance < step->layers;
                assert_int_equal(guesses[0].expert >= 0, there);
                if (!there || head->lists[list].variant != PREDICTOR_SHARED || distance != 1)
                    continue;
                for (int32_t k = 0; k < head->top; k++) {
                    int32_t expert = step->chosen[(layer + 1) * step->tokens * head->top + k];
                    chosen++;
                    for (int32_t g = 0; g < head->top; g++)
                        found += guesses[g].expert == expert;
                }
            }
        }
        position += step->tokens;
    }
    assert_int_equal(position, TOKENS);
    /* By chance a quarter of the choices would be among the best four of sixteen. */
    if (found * 2 < chosen) fail_msg("%d of %d guessed", found, chosen);
    trace_reader_close(reader);
    free_routes(&routes);
    free(path);
}

static void a_failed_pass_leaves_no_step_behind(void **state)
{
    const struct fixture *f = *state;
    struct sl_engine_options options = engine_test_options(f->model, 2u << 20);
    char *path = test_path(f->directory, "failed.trace");
    struct sl_error error;
    struct trace_reader *reader;
    const struct trace_step *step;
    sl_engine *engine = engine_test_open(&options, NULL);
    sl_session *session = engine_test_session(engine);
    int32_t bad = VOCAB;
    assert_int_equal(sl_trace_start(engine, path, false, &error), SL_OK);
    assert_int_equal(sl_session_append(session, f->ids, 1, NULL, &error), SL_OK);
    assert_int_equal(sl_session_append(session, &bad, 1, NULL, &error), SL_ERR_ARGUMENT);
    assert_int_equal(sl_session_append(session, f->ids + 1, 1, NULL, &error), SL_OK);
    sl_session_destroy(session);
    sl_engine_close(engine); /* ends the recording */
    assert_int_equal(trace_reader_open(path, &reader, &error), SL_OK);
    for (int32_t i = 0; i < 2; i++) {
        assert_int_equal(trace_reader_next(reader, &step, &error), SL_OK);
        assert_non_null(step);
        assert_int_equal(step->position, i);
    }
    assert_int_equal(trace_reader_next(reader, &step, &error), SL_OK);
    assert_null(step);
    trace_reader_close(reader);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_do_not_depend_on_reading_ahead_or_recording),
        cmocka_unit_test(the_table_finds_all_and_reads_nothing_else),
        cmocka_unit_test(expecting_what_does_not_come_only_costs_time),
        cmocka_unit_test(a_trace_holds_tokens_choices_and_guesses_worth_having),
        cmocka_unit_test(a_failed_pass_leaves_no_step_behind),
    };
    return cmocka_run_group_tests(tests, make_fixture, remove_fixture);
}
