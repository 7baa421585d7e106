/* labels: golden */
/* The demo model: the runtime's logits against those of the program it was trained with, and what
 * it answers. Prints the figures it found beside their limits. */
#include "runtime/sl.h"
#include "tests/support.h"
#include "tests/support_golden.h"
#include "tests/support_program.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODEL         "demo/model"
#define GOLDEN        "tests/golden/demo"
#define WORDS         "demo/score/trained.jsonl" /* the first: its question and the answer */
#define REQUESTS      "demo/score/tools.jsonl"   /* with tools that it may call */
#define TRACE         "demo/questions.trace"
#define SEQUENCES_MAX 8

#define END_OF_SENTENCE                                                                            \
    "<\xef\xbd\x9c"                                                                                \
    "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"

/* All experts take 13 MB. */
#define RAM_ALL     "16M"
#define RAM_QUARTER "3300K"
#define RAM_EIGHTH  "1700K"

/* ---- logits ------------------------------------------------------------------------------- */

struct comparison {
    double worst, kl_sum;
    size_t rows, clear, clear_equal; /* clear: the golden row's best leads by 1 or more */
};

/* log of the sum of exp(x). */
static double log_sum(const float *x, int64_t count)
{
    double largest = (double)x[golden_argmax(x, count)], sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += exp((double)x[i] - largest);
    return largest + log(sum);
}

static void compare_row(struct comparison *total, const float *expected, const float *actual,
                        int64_t vocab)
{
    double p_sum = log_sum(expected, vocab), q_sum = log_sum(actual, vocab);
    for (int64_t i = 0; i < vocab; i++) {
        double log_p = (double)expected[i] - p_sum, log_q = (double)actual[i] - q_sum;
        total->kl_sum += exp(log_p) * (log_p - log_q);
        total->worst = fmax(total->worst, fabs((double)expected[i] - (double)actual[i]));
    }
    total->rows++;
    if (golden_lead(expected, vocab) < 1) return;
    total->clear++;
    total->clear_equal += golden_argmax(expected, vocab) == golden_argmax(actual, vocab);
}

static void compare_tensor(struct comparison *total, const char *sequence, const char *variant,
                           const char *name, const char *rows_name, const float *ours)
{
    struct golden_tensor logits, rows;
    assert_true(golden_read(GOLDEN, sequence, variant, name, &logits));
    assert_true(golden_read(GOLDEN, sequence, variant, rows_name, &rows));
    assert_int_equal(rows.rows, logits.rows);
    for (int64_t i = 0; i < logits.rows; i++)
        compare_row(total, logits.data + i * logits.width,
                    ours + (int64_t)rows.data[i] * logits.width, logits.width);
    free(logits.data);
    free(rows.data);
}

static struct comparison compare(enum sl_numerics numerics, const char *variant)
{
    struct sl_engine_options options = sl_engine_options_default();
    struct golden_sequence sequences[SEQUENCES_MAX];
    struct comparison total = {0};
    struct sl_error error;
    sl_engine *engine;
    sl_session *session;
    options.model_dir = MODEL;
    options.experts_file = "";
    options.numerics = numerics;
    options.with_mtp = true;
    options.threads = 2;
    options.context_tokens = 1024;
    options.ram_bytes = 16u << 20;
    if (sl_engine_open(&options, &engine, &error) != SL_OK) fail_msg("%s", error.message);
    size_t vocab = (size_t)sl_engine_info(engine).vocab;
    assert_int_equal(sl_session_create(engine, &session, &error), SL_OK);
    int32_t count = golden_sequences(GOLDEN, sequences, SEQUENCES_MAX);
    assert_true(count >= 4);
    for (int32_t s = 0; s < count; s++) {
        size_t tokens = (size_t)sequences[s].count;
        float *logits = calloc(2 * tokens * vocab, sizeof *logits), *mtp = logits + tokens * vocab;
        assert_non_null(logits);
        if (sl_session_append_mtp(session, sequences[s].ids, tokens, logits, mtp, &error) != SL_OK)
            fail_msg("%s", error.message);
        compare_tensor(&total, sequences[s].name, variant, "logits_prefill", "rows", logits);
        compare_tensor(&total, sequences[s].name, variant, "logits_mtp", "rows_mtp", mtp);
        sl_session_reset(session);
        free(logits);
        free(sequences[s].ids);
    }
    sl_session_destroy(session);
    sl_engine_close(engine);
    printf("%s: largest difference %.2e, mean KL %.2e, top-1 equal where clear %zu of %zu, %zu "
           "rows\n",
           variant, total.worst, total.kl_sum / (double)total.rows, total.clear_equal, total.clear,
           total.rows);
    assert_true(total.clear > total.rows / 4);
    return total;
}

static void f32_numerics_give_the_trainers_logits(void **state)
{
    (void)state;
    struct comparison found = compare(SL_NUMERICS_F32, "f32");
    assert_true(found.worst <= 1e-3);
    assert_int_equal(found.clear_equal, found.clear);
}

/* Every quantiser amplifies rounding noise, so this is a matter of statistics; the limits are those
 * of the random test checkpoints (tests/golden/model/README.md). */
static void exact_numerics_agree_with_the_trainer(void **state)
{
    (void)state;
    struct comparison found = compare(SL_NUMERICS_EXACT, "exact");
    assert_true(found.kl_sum / (double)found.rows <= 0.04);
    assert_true((double)found.clear_equal >= 0.97 * (double)found.clear);
}

/* ---- answers ------------------------------------------------------------------------------ */

/* The greedy answer to `question`, without the line's end; the caller frees it. */
static char *ask(const char *directory, const char *question, const char *think, const char *ram)
{
    struct program_outcome outcome =
        program_run("SLUICE_PROGRAM", directory, "", 0,
                    (const char *const[]){"run", "-m", MODEL, "--experts", "unpacked", "-p",
                                          question, "--temp", "0", "--think", think, "--ram", ram,
                                          "--threads", "2", "--quiet", NULL});
    program_check_exit(&outcome, 0);
    char *text = strndup(outcome.out, strcspn(outcome.out, "\n"));
    assert_non_null(text);
    program_outcome_deinit(&outcome);
    return text;
}

/* The first line of a list that is scored. */
static json_t *first_line(const char *path)
{
    FILE *file = fopen(path, "r");
    json_error_t error;
    assert_non_null(file);
    json_t *entry = json_loadf(file, JSON_DISABLE_EOF_CHECK, &error);
    fclose(file);
    if (!entry) fail_msg("%s", error.text);
    return entry;
}

static void answers_are_right_whatever_room_experts_have(void **state)
{
    static const char *const budgets[] = {RAM_ALL, RAM_QUARTER, RAM_EIGHTH};
    json_t *entry = first_line(WORDS);
    for (size_t i = 0; i < SL_COUNT_OF(budgets); i++) {
        char *answer =
            ask(*state, json_string_value(json_object_get(entry, "question")), "none", budgets[i]);
        assert_string_equal(answer, json_string_value(json_object_get(entry, "answer")));
        free(answer);
    }
    json_decref(entry);
}

static void it_thinks_before_the_same_answer(void **state)
{
    json_t *entry = first_line(WORDS);
    char *answer =
        ask(*state, json_string_value(json_object_get(entry, "question")), "high", RAM_ALL);
    const char *end = strstr(answer, "</think>");
    assert_non_null(end);
    assert_true(end > answer);
    assert_string_equal(end + strlen("</think>"),
                        json_string_value(json_object_get(entry, "answer")));
    free(answer);
    json_decref(entry);
}

/* The greedy completion of a conversation with tools, its end marker put back; the caller frees it.
 */
static char *complete(const char *directory, json_t *request)
{
    char *prompt, *text;
    size_t bytes;
    struct sl_error error;
    json_t *input =
        json_pack("{s:s, s:[{s:s, s:s, s:O}, {s:s, s:O}]}", "thinking_mode", "chat", "messages",
                  "role", "system", "content", "", "tools", json_object_get(request, "tools"),
                  "role", "user", "content", json_object_get(request, "question"));
    char *json = json_dumps(input, JSON_COMPACT);
    assert_non_null(json);
    if (sl_chat_render(json, strlen(json), &prompt, &bytes, &error) != SL_OK)
        fail_msg("%s", error.message);
    struct program_outcome outcome = program_run(
        "SLUICE_PROGRAM", directory, prompt, bytes,
        (const char *const[]){"run", "-m", MODEL, "--experts", "unpacked", "--raw", "-f", "-",
                              "--temp", "0", "--ram", RAM_ALL, "--threads", "2", "--quiet", NULL});
    program_check_exit(&outcome, 0);
    assert_true(outcome.out_bytes > 0);
    outcome.out[outcome.out_bytes - 1] = 0; /* the line's end, which is not the model's */
    assert_true(asprintf(&text, "%s%s", outcome.out, END_OF_SENTENCE) > 0);
    program_outcome_deinit(&outcome);
    free(prompt);
    free(json);
    json_decref(input);
    return text;
}

static void it_calls_the_tool_that_fits(void **state)
{
    char *message;
    size_t bytes;
    struct sl_error error;
    const char *name = NULL;
    json_t *request = first_line(REQUESTS);
    char *text = complete(*state, request);
    json_t *input = json_pack("{s:s, s:s}", "text", text, "thinking_mode", "chat");
    char *json = json_dumps(input, JSON_COMPACT);
    assert_non_null(json);
    if (sl_chat_parse(json, strlen(json), &message, &bytes, &error) != SL_OK)
        fail_msg("%s in \"%s\"", error.message, text);
    json_t *parsed = json_loadb(message, bytes, 0, NULL);
    assert_int_equal(
        json_unpack(parsed, "{s:[{s:{s:s}}]}", "tool_calls", "function", "name", &name), 0);
    assert_string_equal(name, json_string_value(json_object_get(request, "tool")));
    json_decref(parsed);
    json_decref(input);
    json_decref(request);
    free(message);
    free(json);
    free(text);
}

static void the_committed_trace_can_be_counted(void **state)
{
    struct program_outcome outcome = program_run(
        "SLUICE_PROGRAM", *state, "", 0, (const char *const[]){"trace", TRACE, "--json", NULL});
    program_check_exit(&outcome, 0);
    json_t *report = json_loadb(outcome.out, outcome.out_bytes, 0, NULL);
    assert_true(json_is_object(report));
    json_decref(report);
    program_outcome_deinit(&outcome);
}

static int make_directory(void **state)
{
    *state = test_make_directory("demo");
    return 0;
}

static int remove_directory(void **state)
{
    test_remove_tree(*state);
    free(*state);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f32_numerics_give_the_trainers_logits),
        cmocka_unit_test(exact_numerics_agree_with_the_trainer),
        cmocka_unit_test(answers_are_right_whatever_room_experts_have),
        cmocka_unit_test(it_thinks_before_the_same_answer),
        cmocka_unit_test(it_calls_the_tool_that_fits),
        cmocka_unit_test(the_committed_trace_can_be_counted),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
