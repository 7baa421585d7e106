/* labels: golden */
/* A prompt tells how far it is, layer by layer, and can be stopped within one; what was done before
 * stays, and going on ends in the same logits. */
#include "tests/support.h"
#include "tests/support_engine.h"
#include "tests/support_golden.h"

#include <stdlib.h>
#include <string.h>

#define TOKENS 100
#define CHUNK  32
#define CHUNKS ((TOKENS + CHUNK - 1) / CHUNK)

struct watch {
    int32_t calls, cancel_at; /* the call that says no; -1: none */
    size_t last;
};

static bool look(void *context, size_t done, size_t total)
{
    struct watch *watch = context;
    assert_int_equal(total, TOKENS);
    assert_true(done >= watch->last && done <= total);
    watch->last = done;
    return watch->calls++ != watch->cancel_at;
}

static void the_count_grows_with_every_layer(sl_engine *engine, sl_session *session,
                                             const int32_t *ids)
{
    struct watch watch = {.cancel_at = -1};
    struct sl_error error;
    if (sl_session_sync(session, ids, TOKENS, look, &watch, &error) != SL_OK)
        fail_msg("%s", error.message);
    assert_int_equal(watch.last, TOKENS);
    assert_int_equal(watch.calls, CHUNKS * sl_engine_info(engine).layers + 1);
    /* All of it is there: nobody is asked again. */
    assert_int_equal(sl_session_sync(session, ids, TOKENS, look, &watch, &error), SL_OK);
    assert_int_equal(watch.calls, CHUNKS * sl_engine_info(engine).layers + 1);
}

/* Stops at call `cancel_at`, then goes on; the logits are `expected` [vocab]. */
static void stop_and_go_on(sl_engine *engine, const int32_t *ids, int32_t cancel_at,
                           const float *expected)
{
    sl_session *session = engine_test_session(engine);
    struct watch watch = {.cancel_at = cancel_at};
    struct sl_error error;
    size_t vocab = (size_t)sl_engine_info(engine).vocab;
    int32_t layers = sl_engine_info(engine).layers;
    assert_int_equal(sl_session_sync(session, ids, TOKENS, look, &watch, &error), SL_ERR_CANCELLED);
    assert_int_equal(watch.calls, cancel_at + 1);
    assert_int_equal(sl_session_length(session), cancel_at / layers * CHUNK);
    assert_null(strstr(error.message, "generation stopped"));
    if (sl_session_sync(session, ids, TOKENS, NULL, NULL, &error) != SL_OK)
        fail_msg("%s", error.message);
    assert_memory_equal(sl_session_logits(session), expected, sizeof(float) * vocab);
    sl_session_destroy(session);
}

static void a_prompt_is_watched_stopped_and_taken_up_again(void **state)
{
    (void)state;
    char *directory = golden_directory("tiny-a");
    struct sl_engine_options options = engine_test_options(directory, 2u << 20);
    int32_t ids[TOKENS];
    options.chunk_tokens = CHUNK;
    sl_engine *engine = engine_test_open(&options, NULL);
    sl_session *session = engine_test_session(engine);
    for (int32_t i = 0; i < TOKENS; i++)
        ids[i] = (i * 31 + 5) % 512;
    the_count_grows_with_every_layer(engine, session, ids);
    int32_t calls = CHUNKS * sl_engine_info(engine).layers;
    for (int32_t at = 0; at < calls; at += 3)
        stop_and_go_on(engine, ids, at, sl_session_logits(session));
    sl_session_destroy(session);
    sl_engine_close(engine);
    free(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_prompt_is_watched_stopped_and_taken_up_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
