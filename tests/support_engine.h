/* Engines for tests, with few expert slots. */
#ifndef SLUICE_TESTS_SUPPORT_ENGINE_H
#define SLUICE_TESTS_SUPPORT_ENGINE_H

#include "runtime/engine.h"

/* Options on `directory` with RAM for `ram_bytes` of experts, two threads, small chunks. */
struct sl_engine_options engine_test_options(const char *directory, uint64_t ram_bytes);

/* An engine, or a failed test; `io` may be NULL. */
sl_engine *engine_test_open(const struct sl_engine_options *options, const struct io_ops *io);

/* A session, or a failed test. */
sl_session *engine_test_session(sl_engine *engine);

/* Logits [count, vocab] of the tokens in a fresh session of a fresh engine, all experts in RAM; the
 * caller frees them. */
float *engine_test_reference(const char *directory, const int32_t *ids, size_t count);

#endif
