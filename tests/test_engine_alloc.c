/* labels: fault
 *
 * Every allocation that opening an engine and a session makes is failed in turn: each time a clear
 * error comes back and nothing leaks. And once a session is there, the token path allocates
 * nothing. */
#include "runtime/sl.h"
#include "tests/support.h"
#include "tests/support_alloc.h"
#include "tests/support_golden.h"

#include <stdlib.h>
#include <string.h>

static struct sl_engine_options test_options(const char *directory)
{
    struct sl_engine_options options = sl_engine_options_default();
    options.model_dir = directory;
    options.threads = 2;
    options.context_tokens = 64;
    options.chunk_tokens = 16;
    options.ram_bytes = 2u << 20;
    return options;
}

static void every_failed_allocation_of_opening_is_an_error(void **state)
{
    char *directory = golden_directory("tiny-b");
    struct sl_engine_options options = test_options(directory);
    enum sl_status status = SL_ERR_NO_MEMORY;
    long site;
    (void)state;
    for (site = 0; status != SL_OK; site++) {
        struct sl_error error = {0};
        sl_engine *engine = NULL;
        sl_session *session = NULL;
        alloc_watch(site);
        status = sl_engine_open(&options, &engine, &error);
        if (status == SL_OK) status = sl_session_create(engine, &session, &error);
        bool reached = alloc_seen() > site;
        alloc_watch(ALLOC_NONE);
        if (status != SL_OK) {
            assert_string_not_equal(error.message, "");
            assert_null(session);
        } else if (reached) {
            /* Something optional was given up: it must still work without. */
            static const int32_t ids[] = {1, 2, 3};
            assert_int_equal(sl_session_append(session, ids, 3, NULL, &error), SL_OK);
            status = SL_ERR_NO_MEMORY;
        }
        sl_session_destroy(session);
        sl_engine_close(engine);
        assert_true(site < 200000);
    }
    printf("%ld allocations failed in turn\n", site - 1);
    assert_true(site > 20);
    free(directory);
}

static void the_token_path_allocates_nothing(void **state)
{
    char *directory = golden_directory("tiny-b");
    struct sl_engine_options options = test_options(directory);
    struct sl_error error;
    sl_engine *engine;
    sl_session *session;
    int32_t ids[48];
    (void)state;
    for (int32_t i = 0; i < 48; i++)
        ids[i] = i * 7 % 512;
    assert_int_equal(sl_engine_open(&options, &engine, &error), SL_OK);
    assert_int_equal(sl_session_create(engine, &session, &error), SL_OK);
    /* Guessing and recording included. */
    assert_int_equal(sl_trace_start(engine, "/dev/null", true, &error), SL_OK);
    alloc_watch(ALLOC_NONE);
    assert_int_equal(sl_session_append(session, ids, 40, NULL, &error), SL_OK);
    for (int32_t i = 40; i < 48; i++) {
        sl_session_expect(session, ids + i, 1, 1);
        assert_int_equal(sl_session_append(session, ids + i, 1, NULL, &error), SL_OK);
    }
    assert_int_equal(alloc_seen(), 0);
    sl_session_destroy(session);
    sl_engine_close(engine);
    free(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_failed_allocation_of_opening_is_an_error),
        cmocka_unit_test(the_token_path_allocates_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
