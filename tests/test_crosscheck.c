/* labels: golden
 *
 * Logits of a second implementation, written separately from the published program, on a random
 * model of other shapes (tests/golden/crosscheck/README.md, which states the limit).
 * SLUICE_CROSSCHECK names another folder made the same way. Prints the figure it found beside the
 * limit. */
#include "runtime/sl.h"
#include "tests/support.h"
#include "tests/support_golden.h"

#include <math.h>
#include <stdlib.h>

#define RELATIVE_MAX 1e-4 /* largest difference over largest logit */

static const char *folder(void)
{
    const char *chosen = getenv("SLUICE_CROSSCHECK");
    return chosen && *chosen ? chosen : "tests/golden/crosscheck/small";
}

static sl_engine *open_engine(int32_t tokens)
{
    struct sl_engine_options options = sl_engine_options_default();
    struct sl_error error;
    sl_engine *engine;
    options.model_dir = folder();
    options.numerics = SL_NUMERICS_F32;
    options.threads = 2;
    options.context_tokens = tokens;
    options.ram_bytes = 64u << 20;
    if (sl_engine_open(&options, &engine, &error) != SL_OK) fail_msg("%s", error.message);
    return engine;
}

/* Logits [count, vocab] of the whole sequence, appended `step` tokens at a time. */
static float *compute_logits(sl_engine *engine, const struct golden_sequence *sequence, size_t step)
{
    size_t vocab = (size_t)sl_engine_info(engine).vocab, count = (size_t)sequence->count;
    float *logits = calloc(count * vocab, sizeof(float));
    struct sl_error error;
    sl_session *session;
    assert_non_null(logits);
    if (sl_session_create(engine, &session, &error) != SL_OK) fail_msg("%s", error.message);
    for (size_t done = 0; done < count; done += step) {
        size_t now = count - done < step ? count - done : step;
        if (sl_session_append(session, sequence->ids + done, now, logits + done * vocab, &error) !=
            SL_OK)
            fail_msg("%s", error.message);
    }
    sl_session_destroy(session);
    return logits;
}

/* Largest difference over the largest expected logit, on the rows that the folder keeps. */
static double relative_difference(const struct golden_sequence *sequence, const float *logits)
{
    struct golden_tensor expected, rows;
    double worst = 0, largest = 0;
    assert_true(golden_read(folder(), sequence->name, "f32", "logits_prefill", &expected));
    assert_true(golden_read(folder(), sequence->name, "f32", "rows", &rows));
    assert_true(rows.rows > 0 && rows.rows == expected.rows);
    for (int64_t row = 0; row < rows.rows; row++) {
        int64_t position = (int64_t)rows.data[row];
        assert_true(position >= 0 && position < sequence->count);
        for (int64_t i = 0; i < expected.width; i++) {
            double ours = (double)logits[position * expected.width + i];
            double theirs = (double)expected.data[row * expected.width + i];
            assert_true(isfinite(ours)); /* fmax would drop a NaN */
            worst = fmax(worst, fabs(ours - theirs));
            largest = fmax(largest, fabs(theirs));
        }
    }
    free(expected.data);
    free(rows.data);
    assert_true(largest > 0);
    return worst / largest;
}

static void check_steps(size_t step, const char *what)
{
    struct golden_sequence sequence;
    assert_int_equal(golden_sequences(folder(), &sequence, 1), 1);
    sl_engine *engine = open_engine(sequence.count);
    float *logits = compute_logits(engine, &sequence, step ? step : (size_t)sequence.count);
    double relative = relative_difference(&sequence, logits);
    printf("%s, %s: relative difference %.2e (limit %g)\n", sequence.name, what, relative,
           RELATIVE_MAX);
    assert_true(relative <= RELATIVE_MAX);
    free(logits);
    free(sequence.ids);
    sl_engine_close(engine);
}

static void prefill_gives_the_logits_of_a_second_implementation(void **state)
{
    (void)state;
    check_steps(0, "prefill");
}

static void decoding_gives_the_logits_of_a_second_implementation(void **state)
{
    (void)state;
    check_steps(1, "decode");
}

static void uneven_chunks_give_the_logits_of_a_second_implementation(void **state)
{
    (void)state;
    check_steps(37, "chunks of 37");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prefill_gives_the_logits_of_a_second_implementation),
        cmocka_unit_test(decoding_gives_the_logits_of_a_second_implementation),
        cmocka_unit_test(uneven_chunks_give_the_logits_of_a_second_implementation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
