/* labels: unit
 * utf8 and sl_text_stream_push: whole characters only, and U+FFFD for what is invalid. */
#include "tests/support.h"

#include "runtime/sl.h"
#include "runtime/utf8.h"

#include <string.h>

#define R UTF8_REPLACEMENT

static const struct {
    const char *bytes, *clean;
} repairs[] = {
    {"", ""},
    {"plain \xc3\xa9 \xe4\xb8\xad \xf0\x9f\x98\x80",
     "plain \xc3\xa9 \xe4\xb8\xad \xf0\x9f\x98\x80"},
    {"\xff", R},
    {"a\x80"
     "b",
     "a" R "b"},
    {"\xc3", R},
    {"\xc3(", R "("},
    {"\xc0\x80", R R},       /* overlong */
    {"\xe0\x80\x80", R R R}, /* overlong */
    {"\xed\xa0\x80", R R R}, /* surrogate */
    {"\xe2\x82", R},         /* cut: one for the part that was right */
    {"\xe2\x82X", R "X"},
    {"\xf0\x9f\x98", R},
    {"\xf0\x9f\x98\xf0\x9f\x98\x80", R "\xf0\x9f\x98\x80"},
    {"\xf0\x9f\xe4\xb8\xad", R "\xe4\xb8\xad"},
    {"\xf4\x90\x80\x80", R R R R}, /* above U+10FFFF */
    {"\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf"},
    {"\xf8\x88\x80\x80\x80", R R R R R},
    {"\xf0\xf0\xf0", R R R},
};

static void invalid_parts_are_replaced_as_the_standard_recommends(void **state)
{
    (void)state;
    for (size_t i = 0; i < SL_COUNT_OF(repairs); i++) {
        const char *text = repairs[i].bytes;
        bool valid;
        size_t bytes = utf8_clean_bytes(text, strlen(text), &valid);
        assert_int_equal(bytes, strlen(repairs[i].clean));
        assert_int_equal(valid, strcmp(text, repairs[i].clean) == 0);
        char out[64];
        utf8_clean(text, strlen(text), out);
        assert_memory_equal(out, repairs[i].clean, bytes);
    }
}

static void every_code_point_survives_writing_and_reading(void **state)
{
    (void)state;
    for (uint32_t code_point = 0; code_point <= 0x10ffff; code_point++) {
        if (code_point >= 0xd800 && code_point <= 0xdfff) continue;
        char text[UTF8_CHARACTER_BYTES_MAX];
        uint32_t bytes = utf8_put(code_point, text);
        struct utf8_step step = utf8_step(text, bytes);
        if (step.kind != UTF8_WHOLE || step.bytes != bytes || step.code_point != code_point)
            fail_msg("U+%04X is read back wrongly", code_point);
        if (bytes > 1) assert_int_equal(utf8_step(text, bytes - 1).kind, UTF8_CUT);
    }
}

static void assert_whole_characters(const char *text, size_t bytes)
{
    bool valid;
    utf8_clean_bytes(text, bytes, &valid);
    assert_true(valid);
}

/* Pushes text in two parts, cut at `cut`, and flushes; compares with the repaired whole. */
static void check_cut(const char *text, size_t bytes, size_t cut)
{
    bool valid;
    size_t clean_bytes = utf8_clean_bytes(text, bytes, &valid);
    char *clean = malloc(clean_bytes + 1), *out = malloc(3 * (bytes + 8) * 3);
    assert_true(clean && out);
    utf8_clean(text, bytes, clean);

    struct sl_text_stream stream = {0};
    const size_t parts[] = {cut, bytes - cut};
    size_t at = 0, written = 0;
    for (int32_t i = 0; i < 2; i++) {
        if (parts[i] == 0) continue;
        size_t more = sl_text_stream_push(&stream, text + at, parts[i], out + written);
        assert_in_range(more, 0, 3 * (parts[i] + 8));
        assert_whole_characters(out + written, more);
        at += parts[i];
        written += more;
    }
    written += sl_text_stream_push(&stream, NULL, 0, out + written);
    assert_int_equal(stream.held_bytes, 0);
    assert_int_equal(written, clean_bytes);
    assert_memory_equal(out, clean, clean_bytes);
    free(clean);
    free(out);
}

static void text_cut_anywhere_streams_to_the_same_text(void **state)
{
    (void)state;
    for (size_t i = 0; i < SL_COUNT_OF(repairs); i++)
        for (size_t cut = 0; cut <= strlen(repairs[i].bytes); cut++)
            check_cut(repairs[i].bytes, strlen(repairs[i].bytes), cut);
}

static void random_bytes_pushed_in_random_parts_stream_to_the_same_text(void **state)
{
    (void)state;
    static const unsigned char likely[] = {0x80, 0xa0, 0x9f, 0xbf, 0xc3, 0xe0, 0xed,
                                           0xe2, 0xf0, 0xf4, 0x8f, 'a',  0xff, 0xc0};
    for (uint64_t seed = 1; seed <= 3000; seed++) {
        uint64_t random = seed;
        char text[24], whole[3 * sizeof text], parts[3 * sizeof text + 3];
        size_t bytes = 1 + test_random_below(&random, sizeof text);
        for (size_t i = 0; i < bytes; i++)
            text[i] = (char)likely[test_random_below(&random, sizeof likely)];
        check_cut(text, bytes, test_random_below(&random, (uint32_t)bytes + 1));

        bool valid;
        size_t whole_bytes = utf8_clean_bytes(text, bytes, &valid), written = 0;
        utf8_clean(text, bytes, whole);
        struct sl_text_stream stream = {0};
        char out[3 * 9];
        for (size_t i = 0; i < bytes; i++) {
            size_t more = sl_text_stream_push(&stream, text + i, 1, out);
            memcpy(parts + written, out, more);
            written += more;
        }
        written += sl_text_stream_push(&stream, NULL, 0, parts + written);
        assert_int_equal(written, whole_bytes);
        assert_memory_equal(parts, whole, whole_bytes);
    }
}

static void an_incomplete_character_waits_for_its_end(void **state)
{
    (void)state;
    struct sl_text_stream stream = {0};
    char out[3 * (3 + 8)];
    assert_int_equal(sl_text_stream_push(&stream, "a\xf0\x9f", 3, out), 1);
    assert_int_equal(sl_text_stream_push(&stream, "\x98", 1, out), 0);
    assert_int_equal(sl_text_stream_push(&stream, "\x80", 1, out), 4);
    assert_memory_equal(out, "\xf0\x9f\x98\x80", 4);
    assert_int_equal(sl_text_stream_push(&stream, NULL, 0, out), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(invalid_parts_are_replaced_as_the_standard_recommends),
        cmocka_unit_test(every_code_point_survives_writing_and_reading),
        cmocka_unit_test(text_cut_anywhere_streams_to_the_same_text),
        cmocka_unit_test(random_bytes_pushed_in_random_parts_stream_to_the_same_text),
        cmocka_unit_test(an_incomplete_character_waits_for_its_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
