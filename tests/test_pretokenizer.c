/* labels: unit
 * pretokenizer and split_pattern: the published split rules, and patterns that are refused. */
#include "tests/support.h"

#include "runtime/pretokenizer.h"
#include "runtime/split_pattern.h"

#include <string.h>

static const char *const published_rules[] = {
    "\\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./"
    ":;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
};

static struct pretokenizer *make_pretokenizer(const char *const *rules, size_t count)
{
    struct pretokenizer *pretokenizer = NULL;
    assert_int_equal(pretokenizer_create(&pretokenizer), SL_OK);
    for (size_t i = 0; i < count; i++) {
        struct sl_error error;
        if (pretokenizer_add(pretokenizer, rules[i], strlen(rules[i]), "t.json", &error) != SL_OK)
            fail_msg("%s", error.message);
    }
    return pretokenizer;
}

/* Pieces joined by '|'. */
struct joined {
    char text[256];
    size_t bytes;
};

static enum sl_status join_piece(void *context, const char *piece, size_t bytes)
{
    struct joined *joined = context;
    assert_true(bytes > 0 && joined->bytes + bytes + 2 < sizeof joined->text);
    if (joined->bytes > 0) joined->text[joined->bytes++] = '|';
    memcpy(joined->text + joined->bytes, piece, bytes);
    joined->bytes += bytes;
    joined->text[joined->bytes] = 0;
    return SL_OK;
}

static void published_rules_cut_as_documented(void **state)
{
    (void)state;
    static const struct {
        const char *text, *pieces;
    } cases[] = {
        {"", ""},
        {"Hello world", "Hello| world"},
        {"1234567", "123|456|7"},
        {"a1b22", "a|1|b|22"},
        {"½²Ⅻ１", "½²Ⅻ|１"},
        {"a  1", "a|  |1"},
        {"a  b", "a| | b"},
        {"a 1", "a| |1"},
        {"a 中b", "a| |中|b"},
        {"日本のテスト.", "日本のテスト|."},
        {"example.com a_name _b", "example|.com| a|_name| _|b"},
        {"foo() -> !!\n\n x", "foo|()| ->| !!\n\n| x"},
        {"x   \n\n  y", "x|   \n\n| | y"},
        {"x \r\n\r\n", "x| \r\n\r\n"},
        {"\x01\x02word\x03", "\x01|\x02word|\x03"},
        {"e\xcc\x81 \xcc\x81", "e\xcc\x81| \xcc\x81"},
        /* U+180E is no white space. */
        {" \xe1\xa0\x8e ", " |\xe1\xa0\x8e| "},
        /* A letter, a mark and a symbol of Unicode 15 and 16, beside what nobody has assigned. */
        {"a\xf0\xb1\x8d\x90 b", "a\xf0\xb1\x8d\x90| b"},
        {"a\xe0\xa2\x97.", "a\xe0\xa2\x97|."},
        {"a\xe2\x90\xa7.", "a|\xe2\x90\xa7."},
        {"a\xcd\xb8.", "a|\xcd\xb8|."},
    };
    struct pretokenizer *pretokenizer =
        make_pretokenizer(published_rules, SL_COUNT_OF(published_rules));
    for (size_t i = 0; i < SL_COUNT_OF(cases); i++) {
        struct joined joined = {.bytes = 0};
        assert_int_equal(pretokenizer_split(pretokenizer, cases[i].text, strlen(cases[i].text),
                                            join_piece, &joined, NULL),
                         SL_OK);
        assert_string_equal(joined.text, cases[i].pieces);
    }
    pretokenizer_destroy(pretokenizer);
}

static void no_rules_leave_one_piece(void **state)
{
    (void)state;
    struct pretokenizer *pretokenizer = make_pretokenizer(NULL, 0);
    struct joined joined = {.bytes = 0};
    assert_int_equal(pretokenizer_split(pretokenizer, "a 1", 3, join_piece, &joined, NULL), SL_OK);
    assert_string_equal(joined.text, "a 1");
    pretokenizer_destroy(pretokenizer);
}

static enum sl_status stop(void *context, const char *piece, size_t bytes)
{
    (void)piece, (void)bytes;
    ++*(int32_t *)context;
    return SL_ERR_CANCELLED;
}

static void a_failing_receiver_ends_the_split(void **state)
{
    (void)state;
    struct pretokenizer *pretokenizer =
        make_pretokenizer(published_rules, SL_COUNT_OF(published_rules));
    int32_t calls = 0;
    assert_int_equal(pretokenizer_split(pretokenizer, "a b c", 5, stop, &calls, NULL),
                     SL_ERR_CANCELLED);
    assert_int_equal(calls, 1);
    pretokenizer_destroy(pretokenizer);
}

static void a_pattern_that_explodes_is_an_error(void **state)
{
    (void)state;
    static const char *const rules[] = {"(?:a+)+b"};
    /* The b at the end keeps PCRE2 from seeing at once that nothing matches. */
    char text[200];
    memset(text, 'a', sizeof text);
    memcpy(text + sizeof text - 2, "cb", 2);
    struct pretokenizer *pretokenizer = make_pretokenizer(rules, 1);
    struct joined joined = {.bytes = 0};
    struct sl_error error;
    assert_int_equal(
        pretokenizer_split(pretokenizer, text, sizeof text, join_piece, &joined, &error),
        SL_ERR_LIMIT);
    assert_non_null(strstr(error.message, "limit"));
    pretokenizer_destroy(pretokenizer);
}

static void constructs_that_two_libraries_read_differently_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *says;
    } cases[] = {
        {"", "0 bytes"},
        {"^a", "anchor"},
        {"a$", "anchor"},
        {"\\h", "escape"},
        {"\\d", "escape"},
        {"\\", "escape"},
        {"(a)\\1", "escape"},
        {"[\\w]", "escape"},
        {"\\p{Lu}", "property"},
        {"\\p{^L}", "property"},
        {"\\pL", "property"},
        {"\\p", "property"},
        {"\\P{L}", "escape"},
        {"[a[b]]", "set operation"},
        {"[[:alpha:]]", "set operation"},
        {"[a-z&&b]", "set operation"},
        {"[]a]", "begins with ]"},
        {"[^]a]", "begins with ]"},
        {"(?i)a", "group"},
        {"(?<n>a)", "group"},
        {"(?R)", "group"},
        {"(*UTF)a", "group"},
        {"a{,3}", "repetition"},
        {"a{", "repetition"},
        {"a{2}+", "repetition"},
        {"a*", "match nothing"},
        {"a|", "match nothing"},
        {"(?=a)", "match nothing"},
        {"(a", "compiled"},
        {"[a", "compiled"},
        {"a{2,1}", "compiled"},
        {"*a", "compiled"},
    };
    for (size_t i = 0; i < SL_COUNT_OF(cases); i++) {
        struct pretokenizer *pretokenizer = make_pretokenizer(NULL, 0);
        struct sl_error error = {0};
        enum sl_status status = pretokenizer_add(pretokenizer, cases[i].pattern,
                                                 strlen(cases[i].pattern), "t.json", &error);
        if (status != SL_ERR_UNSUPPORTED || !strstr(error.message, cases[i].says))
            fail_msg("%s: %s: %s", cases[i].pattern, sl_status_name(status), error.message);
        pretokenizer_destroy(pretokenizer);
    }
}

static void white_space_and_properties_are_translated(void **state)
{
    (void)state;
    char *translated = NULL;
    const char *pattern = "a\\\\s[\\s\\]]\\S{2,}";
    assert_int_equal(split_pattern_translate(pattern, strlen(pattern), "t.json", &translated, NULL),
                     SL_OK);
    assert_string_equal(translated, "a\\\\s[\\p{White_Space}\\]]\\P{White_Space}{2,}");
    free(translated);

    assert_int_equal(split_pattern_translate("\\p{Z}", 5, "t.json", &translated, NULL), SL_OK);
    assert_string_equal(translated, "[\\p{Z}]");
    free(translated);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_rules_cut_as_documented),
        cmocka_unit_test(no_rules_leave_one_piece),
        cmocka_unit_test(a_failing_receiver_ends_the_split),
        cmocka_unit_test(a_pattern_that_explodes_is_an_error),
        cmocka_unit_test(constructs_that_two_libraries_read_differently_are_refused),
        cmocka_unit_test(white_space_and_properties_are_translated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
