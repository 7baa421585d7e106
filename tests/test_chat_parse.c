/* labels: unit */
/* Completions at the edges of the rules, and sizes at which anything quadratic would show. */
#include "kernels/base.h"
#include "runtime/chat_strings.h"
#include "runtime/sl.h"
#include "tests/support.h"

#include <jansson.h>
#include <string.h>

#define PARAM(key, flag, value)                                                                    \
    CHAT_PARAM_TAG                                                                                 \
    " " CHAT_NAME key CHAT_PARAM_AFTER_KEY flag CHAT_PARAM_AFTER_FLAG value CHAT_PARAM_END_TAG ">"

/* ---- parsing ------------------------------------------------------------------------------ */

/* Runs parse on a completion; the message as JSON text, or NULL. */
static char *parse_text(const char *text, size_t text_bytes, const char *mode)
{
    json_t *input = json_object();
    json_object_set_new(input, "text", json_stringn(text, text_bytes));
    json_object_set_new(input, "thinking_mode", json_string(mode));
    char *input_json = json_dumps(input, 0), *message = NULL;
    size_t bytes;
    assert_non_null(input_json);
    if (sl_chat_parse(input_json, strlen(input_json), &message, &bytes, NULL) != SL_OK)
        assert_null(message);
    free(input_json);
    json_decref(input);
    return message;
}

#define BLOCK(calls) CHAT_CALLS_TAG CHAT_TAG_END calls CHAT_CALLS_END_TAG
#define INVOKE(rest) CHAT_CALL_TAG rest CHAT_CALL_END_TAG CHAT_TAG_END

static void completions_near_the_rules_edges(void **state)
{
    (void)state;
    static const struct {
        const char *mode, *text, *message; /* NULL: refused */
    } cases[] = {
        {"chat", CHAT_EOS,
         "{\"role\": \"assistant\", \"content\": \"\", \"reasoning_content\": \"\", "
         "\"tool_calls\": []}"},
        {"chat", "a" BLOCK(""),
         "{\"role\": \"assistant\", \"content\": \"a\", \"reasoning_content\": \"\", "
         "\"tool_calls\": []}"},
        {"chat", "\n" BLOCK(INVOKE("\t\n name=\"a\"b\">\n")) CHAT_EOS,
         "{\"role\": \"assistant\", \"content\": \"\\n\", \"reasoning_content\": \"\", "
         "\"tool_calls\": "
         "[{\"type\": \"function\", \"function\": {\"name\": \"a\\\"b\", \"arguments\": "
         "\"{}\"}}]}"},
        {"chat", BLOCK(INVOKE(" name=\"f\">\n" PARAM("k\" string=\"x", "false", "</") "\n")),
         "{\"role\": \"assistant\", \"content\": \"\", \"reasoning_content\": \"\", "
         "\"tool_calls\": "
         "[{\"type\": \"function\", \"function\": {\"name\": \"f\", \"arguments\": "
         "\"{\\\"k\\\\\\\" string=\\\\\\\"x\\\": </}\"}}]}"},
        {"chat", "", NULL},
        {"thinking", CHAT_THINK_END, NULL},
        {"thinking", "a" CHAT_EOS CHAT_THINK_END "b" CHAT_EOS, NULL},
        {"thinking", "a" CHAT_THINK_END "b" CHAT_THINK_END CHAT_EOS, NULL},
        {"chat", "a" CHAT_DSML CHAT_EOS, NULL},
        {"chat", CHAT_EOS CHAT_EOS, NULL},
        {"chat", "a" CHAT_CALLS_TAG, NULL},
        {"chat", "a" CHAT_CALLS_TAG ">", NULL},
        {"chat", CHAT_CALLS_TAG ">\n\n" CHAT_CALLS_END_TAG, NULL},
        {"chat", BLOCK(INVOKE(" name=\"f\">\n\n\n")), NULL},
        {"chat", BLOCK(INVOKE(" name=\"f\">")), NULL},
        {"chat", BLOCK(INVOKE(" name=\"\n")), NULL},
        {"chat", BLOCK(INVOKE(" name=\">\n")), NULL},
        {"chat", BLOCK(CHAT_CALL_TAG " name=\"f\">\n" CHAT_CALL_END_TAG), NULL},
        {"chat", BLOCK(INVOKE(" name=\"f\">\n" PARAM("a", "true", "x"))), NULL},
        {"chat", BLOCK(INVOKE(" name=\"f\">\n" PARAM("a", "true", "x") "\n\n")), NULL},
    };
    for (size_t i = 0; i < SL_COUNT_OF(cases); i++) {
        char *message = parse_text(cases[i].text, strlen(cases[i].text), cases[i].mode);
        if (cases[i].message) {
            if (!message) fail_msg("refused: %s", cases[i].text);
            assert_string_equal(message, cases[i].message);
        } else if (message) {
            fail_msg("accepted: %s", cases[i].text);
        }
        free(message);
    }
}

static void a_zero_byte_is_no_white_space(void **state)
{
    (void)state;
    static const char text[] = BLOCK(INVOKE("\0 name=\"f\">\n")) CHAT_EOS;
    assert_null(parse_text(text, sizeof text - 1, "chat"));
}

static void every_cut_of_a_completion_is_an_error_or_a_message(void **state)
{
    (void)state;
    static const char text[] =
        "r" CHAT_THINK_END "c" BLOCK(INVOKE(" name=\"f\">\n" PARAM("a", "true", "x") "\n"))
            CHAT_EOS;
    size_t without_eos = sizeof text - 1 - strlen(CHAT_EOS);
    for (size_t bytes = 0; bytes < sizeof text; bytes++) {
        if (bytes > 0 && (text[bytes] & 0xc0) == 0x80) continue; /* inside a character */
        char *message = parse_text(text, bytes, "thinking");
        assert_true((message != NULL) == (bytes == without_eos || bytes == sizeof text - 1));
        free(message);
    }
}

/* ---- size --------------------------------------------------------------------------------- */

/* A JSON array of `count` copies of an item with its number in place of %d, between two texts. */
static char *repeat(const char *before, const char *item, int count, const char *after)
{
    size_t capacity = strlen(before) + strlen(after) + (size_t)count * (strlen(item) + 24) + 1;
    char *text = malloc(capacity);
    assert_non_null(text);
    size_t used = (size_t)snprintf(text, capacity, "%s", before);
    for (int i = 0; i < count; i++) {
        for (const char *c = item; *c; c++) {
            if (*c == '#') {
                used += (size_t)snprintf(text + used, capacity - used, "%d", i);
            } else {
                text[used++] = *c;
            }
        }
    }
    memcpy(text + used, after, strlen(after) + 1);
    return text;
}

/* Sizes at which anything quadratic would run into the test's time limit. */
static void large_conversations_take_linear_time(void **state)
{
    (void)state;
    enum { MANY = 100000 };
    static const char begin[] = "{\"thinking_mode\":\"chat\",\"messages\":[{\"role\":\"system\"}";
    static const struct {
        const char *before, *item, *after;
    } cases[] = {
        {begin, ",{\"role\":\"user\",\"content\":\"#\"},{\"role\":\"assistant\"}", "]}"},
        {begin, ",{\"role\":\"tool\",\"tool_call_id\":\"#\",\"content\":\"#\"}", "]}"},
        {"{\"thinking_mode\":\"chat\",\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{"
         "\"function\":{\"name\":\"f\",\"arguments\":\"\"}}",
         ",{\"id\":\"c#\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}",
         "]},{\"role\":\"tool\",\"tool_call_id\":\"c7\"},{\"role\":\"tool\"}]}"},
        {"{\"thinking_mode\":\"chat\",\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{"
         "\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":0",
         ",\\\"k#\\\":[\\\"k\\\"]", "}\"}}]}]}"},
        {"{\"thinking_mode\":\"chat\",\"messages\":[{\"role\":\"system\",\"tools\":[{\"function\":{"
         "}}",
         ",{\"function\":{\"name\":\"#\"}}", "]}]}"},
        {"{\"thinking_mode\":\"chat\",\"messages\":[{\"role\":\"user\",\"content\":\"", "\\u00e9#",
         "\"}]}"},
    };
    for (size_t i = 0; i < SL_COUNT_OF(cases); i++) {
        char *input = repeat(cases[i].before, cases[i].item, MANY, cases[i].after), *prompt;
        size_t bytes;
        struct sl_error error = {0};
        if (sl_chat_render(input, strlen(input), &prompt, &bytes, &error) != SL_OK)
            fail_msg("%zu: %s", i, error.message);
        assert_true(bytes > MANY);
        free(prompt);
        free(input);
    }
}

#define CALL_BEGIN CHAT_CALLS_TAG CHAT_TAG_END CHAT_CALL_TAG " name=\"f\">\n"

static void large_completions_take_linear_time(void **state)
{
    (void)state;
    enum { MANY = 100000 };
    static const struct {
        const char *before, *item, *after;
        bool is_message;
    } cases[] = {
        {CHAT_CALLS_TAG CHAT_TAG_END, INVOKE(" name=\"f#\">\n"), CHAT_CALLS_END_TAG, true},
        {CALL_BEGIN, PARAM("k#", "true", "#") "\n",
         CHAT_CALL_END_TAG CHAT_TAG_END CHAT_CALLS_END_TAG, true},
        {CALL_BEGIN, PARAM("k", "true", "#") "\n",
         CHAT_CALL_END_TAG CHAT_TAG_END CHAT_CALLS_END_TAG, false},
        {CHAT_CALLS_TAG CHAT_TAG_END, CHAT_CALL_TAG, "", false},
        {CALL_BEGIN, PARAM("k#", "true", "#") "\n", "", false},
        {CALL_BEGIN, CHAT_PARAM_TAG " name=\"", "", false},
        {CALL_BEGIN CHAT_PARAM_TAG " name=\"", "\" string=\"", CHAT_PARAM_END_TAG, false},
        {"", "\n\n<｜DSML｜tool_call#", CHAT_EOS, false},
    };
    for (size_t i = 0; i < SL_COUNT_OF(cases); i++) {
        char *text = repeat(cases[i].before, cases[i].item, MANY, cases[i].after);
        char *message = parse_text(text, strlen(text), "chat");
        if ((message != NULL) != cases[i].is_message) fail_msg("case %zu", i);
        free(message);
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(completions_near_the_rules_edges),
        cmocka_unit_test(a_zero_byte_is_no_white_space),
        cmocka_unit_test(every_cut_of_a_completion_is_an_error_or_a_message),
        cmocka_unit_test(large_conversations_take_linear_time),
        cmocka_unit_test(large_completions_take_linear_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
