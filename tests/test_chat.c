/* labels: golden */
/* Prompts and completions against the published encoder's, and what it must refuse. */
#include "kernels/base.h"
#include "runtime/chat_strings.h"
#include "runtime/sl.h"
#include "tests/support.h"

#include <dirent.h>
#include <jansson.h>
#include <string.h>

#define GOLDEN "tests/golden/chat"

typedef enum sl_status (*chat_fn)(const char *, size_t, char **, size_t *, struct sl_error *);

/* ---- the published cases ------------------------------------------------------------------ */

static json_t *load_case(const char *name)
{
    char *path = test_path(GOLDEN, name);
    json_error_t error;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (!root) fail_msg("%s: %s", path, error.text);
    free(path);
    return root;
}

/* jansson would spell some numbers otherwise, so the input is cut from the file as it stands. */
static char *input_text(const char *name)
{
    char *path = test_path(GOLDEN, name);
    char *text = test_read_file(path, NULL);
    char *start = strstr(text, "\"input\": "), *end = strstr(text, ",\n \"expected\": ");
    if (!start || !end || end < start) fail_msg("%s: no input", path);
    start += strlen("\"input\": ");
    *end = 0;
    char *input = strdup(start);
    free(text);
    free(path);
    return input;
}

static void check_case(const char *name)
{
    json_t *root = load_case(name);
    json_t *expected = json_object_get(root, "expected");
    bool renders = strcmp(json_string_value(json_object_get(root, "kind")), "encode") == 0;
    json_t *wanted = json_object_get(expected, renders ? "prompt" : "message");
    chat_fn function = renders ? sl_chat_render : sl_chat_parse;
    char *input = input_text(name), *output = NULL;
    size_t bytes = 0;
    struct sl_error error = {0};
    enum sl_status status = function(input, strlen(input), &output, &bytes, &error);
    if (!wanted) {
        assert_true(json_is_true(json_object_get(expected, "error")));
        if (status == SL_OK) fail_msg("%s: accepted", name);
        assert_true(error.message[0] != 0);
        assert_null(output);
    } else {
        if (status != SL_OK) fail_msg("%s: %s", name, error.message);
        assert_int_equal(strlen(output), bytes);
    }
    if (wanted && renders && strcmp(output, json_string_value(wanted)) != 0)
        fail_msg("%s:\n%s\nexpected\n%s", name, output, json_string_value(wanted));
    if (wanted && !renders) {
        json_t *message = json_loadb(output, bytes, JSON_REJECT_DUPLICATES, NULL);
        if (!message || !json_equal(message, wanted)) fail_msg("%s:\n%s", name, output);
        json_decref(message);
    }
    free(output);
    free(input);
    json_decref(root);
}

static void check_cases(const char *prefix, int expected_count)
{
    DIR *directory = opendir(GOLDEN);
    int count = 0;
    assert_non_null(directory);
    for (const struct dirent *entry; (entry = readdir(directory));) {
        if (strncmp(entry->d_name, prefix, strlen(prefix)) != 0) continue;
        check_case(entry->d_name);
        count++;
    }
    closedir(directory);
    assert_int_equal(count, expected_count);
}

static void every_golden_prompt_is_rendered_byte_for_byte(void **state)
{
    (void)state;
    check_cases("encode-", 61);
}

static void every_golden_completion_is_parsed_or_refused(void **state)
{
    (void)state;
    check_cases("parse-", 25);
}

static const char *listed(json_t *strings, const char *key, const char *inner)
{
    json_t *value = json_object_get(strings, key);
    if (inner) value = json_object_get(value, inner);
    const char *text = json_string_value(value);
    if (!text) fail_msg("no %s %s in the list", key, inner ? inner : "");
    return text;
}

static void the_strings_are_the_published_ones(void **state)
{
    (void)state;
    json_t *strings = load_case("chat_strings.json");
    static const struct {
        const char *key, *inner, *text;
    } rows[] = {
        {"bos", NULL, CHAT_BOS},
        {"eos", NULL, CHAT_EOS},
        {"user", NULL, CHAT_USER},
        {"assistant", NULL, CHAT_ASSISTANT},
        {"latest_reminder", NULL, CHAT_LATEST_REMINDER},
        {"think_start", NULL, CHAT_THINK_START},
        {"think_end", NULL, CHAT_THINK_END},
        {"dsml", NULL, CHAT_DSML},
        {"block_separator", NULL, CHAT_BLOCK_SEPARATOR},
        {"effort_prefix_preview", "high", ""},
        {"effort_prefix_preview", "max", CHAT_EFFORT_THOROUGH},
        {"effort_prefix_0731", "low", ""},
        {"effort_prefix_0731", "high", CHAT_EFFORT_THOROUGH},
        {"effort_prefix_0731", "max", CHAT_EFFORT_BEYOND},
        {"tools_section", NULL, CHAT_TOOLS_BEFORE_SCHEMAS "{schemas}" CHAT_TOOLS_AFTER_SCHEMAS},
        {"response_format_section", NULL, CHAT_FORMAT_BEFORE_SCHEMA "{schema}"},
        {"tool_calls_block", NULL, CHAT_CALLS_TAG CHAT_TAG_END "{calls}\n" CHAT_CALLS_END_TAG},
        {"tool_call", NULL,
         CHAT_CALL_TAG " " CHAT_NAME "{name}" CHAT_CALL_AFTER_NAME "{params}\n" CHAT_CALL_END_TAG
                       ">"},
        {"tool_param", NULL,
         CHAT_PARAM_TAG " " CHAT_NAME "{key}" CHAT_PARAM_AFTER_KEY "{flag}" CHAT_PARAM_AFTER_FLAG
                        "{value}" CHAT_PARAM_END_TAG ">"},
        {"tool_result", NULL, CHAT_RESULT_BEFORE "{content}" CHAT_RESULT_AFTER},
#define TASK_ROW(name, token) {"task_tokens", #name, token},
        CHAT_TASKS(TASK_ROW)
#undef TASK_ROW
    };
    for (size_t i = 0; i < SL_COUNT_OF(rows); i++)
        assert_string_equal(rows[i].text, listed(strings, rows[i].key, rows[i].inner));
    json_decref(strings);
}

/* ---- rendering ---------------------------------------------------------------------------- */

#define ANSWER CHAT_ASSISTANT CHAT_THINK_END
#define THINK  CHAT_ASSISTANT CHAT_THINK_START

/* Messages in a mode: the input of render. */
#define CHAT(messages)     "{\"thinking_mode\":\"chat\",\"messages\":[" messages "]}"
#define THINKING(messages) "{\"thinking_mode\":\"thinking\",\"messages\":[" messages "]}"

static void check_prompt(const char *input, const char *expected)
{
    char *prompt;
    size_t bytes;
    struct sl_error error = {0};
    if (sl_chat_render(input, strlen(input), &prompt, &bytes, &error) != SL_OK)
        fail_msg("%s: %s", input, error.message);
    assert_string_equal(prompt, expected);
    assert_int_equal(bytes, strlen(prompt));
    free(prompt);
}

static void turns_and_odd_fields_render_as_described(void **state)
{
    (void)state;
    static const struct {
        const char *input, *prompt;
    } cases[] = {
        {CHAT(""), CHAT_BOS},
        {CHAT("{\"role\":\"user\",\"content\":null}"), CHAT_BOS CHAT_USER ANSWER},
        {CHAT("{\"role\":\"user\"}"), CHAT_BOS CHAT_USER ANSWER},
        {CHAT("{\"role\":\"tool\"}"), CHAT_BOS CHAT_USER "<tool_result></tool_result>" ANSWER},
        {CHAT("{\"role\":\"tool\",\"content\":[]}"),
         CHAT_BOS CHAT_USER "<tool_result></tool_result>" ANSWER},
        /* Duplicate keys: the last value counts. */
        {CHAT("{\"role\":\"critic\",\"content\":\"a\",\"role\":\"user\"}"),
         CHAT_BOS CHAT_USER "a" ANSWER},
        /* A task closes the turn to text but not to results; text's own task begins a turn. */
        {CHAT("{\"role\":\"user\",\"content\":\"a\",\"task\":\"query\"},"
              "{\"role\":\"tool\",\"content\":\"r\"},{\"role\":\"user\",\"content\":\"b\"}"),
         CHAT_BOS CHAT_USER "a\n\n<tool_result>r</tool_result>" CHAT_USER "b" ANSWER},
        /* No reasoning after a task. */
        {THINKING("{\"role\":\"user\",\"content\":\"a\",\"task\":\"action\"},"
                  "{\"role\":\"assistant\",\"content\":\"b\",\"reasoning_content\":\"r\"}"),
         CHAT_BOS CHAT_USER "a" THINK "<｜action｜>b" CHAT_EOS},
        /* The reminder comes after the transition. */
        {CHAT("{\"role\":\"user\",\"content\":\"a\"},"
              "{\"role\":\"latest_reminder\",\"content\":\"r\"}"),
         CHAT_BOS CHAT_USER "a" ANSWER CHAT_LATEST_REMINDER "r"},
        /* An assistant message alone thinks, since no turn lies after it. */
        {THINKING("{\"role\":\"assistant\",\"content\":\"b\",\"reasoning_content\":\"r\"}"),
         CHAT_BOS "r" CHAT_THINK_END "b" CHAT_EOS},
        /* Empty tools are none: reasoning is dropped all the same. */
        {THINKING("{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"tools\":[],"
                  "\"content\":\"b\",\"reasoning_content\":\"r\",\"tool_calls\":[]},"
                  "{\"role\":\"user\",\"content\":\"c\"}"),
         CHAT_BOS CHAT_USER "a" ANSWER "b" CHAT_EOS CHAT_USER "c" THINK},
        /* A reply's format that is false in Python is none. */
        {CHAT("{\"role\":\"system\",\"content\":\"s\",\"response_format\":{}}"), CHAT_BOS "s"},
        {CHAT("{\"role\":\"system\",\"response_format\":{\"a\":1e5}}"),
         CHAT_BOS "\n\n" CHAT_FORMAT_BEFORE_SCHEMA "{\"a\": 100000.0}"},
        {CHAT("{\"role\":\"assistant\",\"content\":\"b\",\"wo_eos\":true}"), CHAT_BOS "b"},
        {"{\"thinking_mode\":\"chat\",\"add_bos\":false,\"messages\":[]}", ""},
        {"{\"thinking_mode\":\"thinking\",\"reasoning_effort\":\"max\",\"messages\":[]}", CHAT_BOS},
    };
    for (size_t i = 0; i < SL_COUNT_OF(cases); i++)
        check_prompt(cases[i].input, cases[i].prompt);
}

/* One assistant message with one call of f; `arguments` is the JSON of that field. */
#define CALL(arguments)                                                                            \
    CHAT("{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\","                  \
         "\"arguments\":" arguments "}}]}")
#define CALLED(params)                                                                             \
    CHAT_BOS CHAT_CALLS_TAG CHAT_TAG_END CHAT_CALL_TAG                                             \
        " " CHAT_NAME "f" CHAT_CALL_AFTER_NAME params                                              \
        "\n" CHAT_CALL_END_TAG CHAT_TAG_END CHAT_CALLS_END_TAG CHAT_EOS
#define PARAM(key, flag, value)                                                                    \
    CHAT_PARAM_TAG                                                                                 \
    " " CHAT_NAME key CHAT_PARAM_AFTER_KEY flag CHAT_PARAM_AFTER_FLAG value CHAT_PARAM_END_TAG ">"

static void arguments_render_by_their_type(void **state)
{
    (void)state;
    static const struct {
        const char *input, *prompt;
    } cases[] = {
        {CALL("\"{}\""), CALLED("")},
        {CALL("\" {\\\"a\\\":1,\\\"b\\\":\\\"x\\\",\\\"a\\\":[2]} \""),
         CALLED(PARAM("a", "false", "[2]") "\n" PARAM("b", "true", "x"))},
        {CALL("\"{\\\"a\\\":\""), CALLED(PARAM("arguments", "true", "{\"a\":"))},
        {CALL("{\"a\":1}"), CALLED(PARAM("arguments", "false", "{\"a\": 1}"))},
        {CALL("\"{\\\"a\\\":NaN}\""), CALLED(PARAM("a", "false", "NaN"))},
    };
    for (size_t i = 0; i < SL_COUNT_OF(cases); i++)
        check_prompt(cases[i].input, cases[i].prompt);
}

static void bad_input_is_refused_naming_message_and_field(void **state)
{
    (void)state;
    static const struct {
        const char *input, *named;
    } cases[] = {
        {"", "byte"},
        {"[]", "input of render"},
        {"{}", "thinking_mode"},
        {"{\"thinking_mode\":3,\"messages\":[]}", "thinking_mode"},
        {"{\"thinking_mode\":\"chat\"}", "messages"},
        {"{\"thinking_mode\":\"chat\",\"messages\":{}}", "messages"},
        {"{\"thinking_mode\":\"chat\",\"messages\":[],\"add_bos\":1}", "add_bos"},
        {"{\"thinking_mode\":\"chat\",\"messages\":[],\"drop_thinking\":\"\"}", "drop_thinking"},
        {"{\"thinking_mode\":\"chat\",\"messages\":[],\"reasoning_effort\":\"low\"}",
         "reasoning_effort"},
        {"{\"thinking_mode\":\"chat\",\"messages\":[],\"reasoning_effort\":2}", "reasoning_effort"},
        {"{\"thinking_mode\":\"chat\",\"messages\":[],\"effort_profile\":\"0801\"}",
         "effort_profile"},
        {CHAT("7"), "messages[0]"},
        {CHAT("{\"role\":\"user\"},{\"content\":\"x\"}"), "messages[1].role"},
        {CHAT("{\"role\":\"critic\"}"), "critic"},
        {CHAT("{\"role\":\"user\",\"content\":[]}"), "messages[0].content"},
        {CHAT("{\"role\":\"user\",\"task\":\"dance\"}"), "messages[0].task"},
        {CHAT("{\"role\":\"system\",\"tools\":{}}"), "messages[0].tools"},
        {CHAT("{\"role\":\"system\",\"tools\":[{}]}"), "messages[0].tools[0].function"},
        {CHAT("{\"role\":\"tool\",\"content\":5}"), "messages[0].content"},
        {CHAT("{\"role\":\"tool\",\"content\":[{\"text\":\"\"}]}"), "messages[0].content[0].type"},
        {CHAT("{\"role\":\"tool\",\"tool_call_id\":5}"), "messages[0].tool_call_id"},
        {CHAT("{\"role\":\"assistant\",\"reasoning_content\":5}"), "messages[0].reasoning_content"},
        {CHAT("{\"role\":\"assistant\",\"wo_eos\":\"no\"}"), "messages[0].wo_eos"},
        {CHAT("{\"role\":\"assistant\",\"tool_calls\":[{}]}"),
         "messages[0].tool_calls[0].function"},
        {CHAT("{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{}}]}"),
         "messages[0].tool_calls[0].function.name"},
        {CHAT("{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\"}}]}"),
         "messages[0].tool_calls[0].function.arguments"},
        {CHAT("{\"role\":\"assistant\",\"tool_calls\":[{\"id\":1,\"function\":{\"name\":\"f\","
              "\"arguments\":\"\"}}]}"),
         "messages[0].tool_calls[0].id"},
        {CALL("\"[1]\""), "messages[0].tool_calls[0].function.arguments"},
        {CHAT("{\"role\":\"user\"},{\"role\":\"tool\"},{\"role\":\"developer\"}"),
         "messages[2].content"},
    };
    for (size_t i = 0; i < SL_COUNT_OF(cases); i++) {
        char *prompt = NULL;
        size_t bytes;
        struct sl_error error = {0};
        const char *input = cases[i].input;
        if (sl_chat_render(input, strlen(input), &prompt, &bytes, &error) == SL_OK)
            fail_msg("accepted: %s", input);
        if (!strstr(error.message, cases[i].named)) fail_msg("%s: %s", input, error.message);
        assert_null(prompt);
    }
}

static void a_zero_byte_in_content_is_kept(void **state)
{
    (void)state;
    static const char input[] = CHAT("{\"role\":\"user\",\"content\":\"a\\u0000b\"}");
    static const char expected[] = CHAT_BOS CHAT_USER "a\0b" ANSWER;
    char *prompt;
    size_t bytes;
    assert_int_equal(sl_chat_render(input, sizeof input - 1, &prompt, &bytes, NULL), SL_OK);
    assert_int_equal(bytes, sizeof expected - 1);
    assert_memory_equal(prompt, expected, sizeof expected);
    free(prompt);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_golden_prompt_is_rendered_byte_for_byte),
        cmocka_unit_test(every_golden_completion_is_parsed_or_refused),
        cmocka_unit_test(the_strings_are_the_published_ones),
        cmocka_unit_test(turns_and_odd_fields_render_as_described),
        cmocka_unit_test(arguments_render_by_their_type),
        cmocka_unit_test(bad_input_is_refused_naming_message_and_field),
        cmocka_unit_test(a_zero_byte_in_content_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
