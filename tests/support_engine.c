/* Engines for tests; see the header. */
#include "tests/support_engine.h"

#include "tests/support.h"

struct sl_engine_options engine_test_options(const char *directory, uint64_t ram_bytes)
{
    struct sl_engine_options options = sl_engine_options_default();
    options.model_dir = directory;
    options.ram_bytes = ram_bytes;
    options.threads = 2;
    options.context_tokens = 320;
    options.chunk_tokens = 16;
    return options;
}

sl_engine *engine_test_open(const struct sl_engine_options *options, const struct io_ops *io)
{
    struct sl_error error;
    sl_engine *engine;
    if (engine_open_with_io(options, io, &engine, &error) != SL_OK) fail_msg("%s", error.message);
    return engine;
}

sl_session *engine_test_session(sl_engine *engine)
{
    struct sl_error error;
    sl_session *session;
    if (sl_session_create(engine, &session, &error) != SL_OK) fail_msg("%s", error.message);
    return session;
}

float *engine_test_reference(const char *directory, const int32_t *ids, size_t count)
{
    struct sl_engine_options options = engine_test_options(directory, 64u << 20);
    struct sl_error error;
    sl_engine *engine = engine_test_open(&options, NULL);
    sl_session *session = engine_test_session(engine);
    float *logits = calloc(count * (size_t)sl_engine_info(engine).vocab, sizeof *logits);
    assert_non_null(logits);
    if (sl_session_append(session, ids, count, logits, &error) != SL_OK)
        fail_msg("%s", error.message);
    sl_session_destroy(session);
    sl_engine_close(engine);
    return logits;
}
