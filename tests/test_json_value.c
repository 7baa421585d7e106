/* labels: unit */
/* JSON as Python reads and writes it: numbers, strings, repeated keys, limits and faults. */
#include "kernels/base.h"
#include "runtime/json_value.h"
#include "tests/support.h"

#include <locale.h>
#include <string.h>

/* What Python 3.11 gives for json.dumps(json.loads(text)). */
static const struct {
    const char *text, *written;
} NUMBERS[] = {
    {"0", "0"},
    {"-0", "0"},
    {"-0.0", "-0.0"},
    {"0.0", "0.0"},
    {"1", "1"},
    {"-7", "-7"},
    {"12345678901234567890123456789012345678901234567890",
     "12345678901234567890123456789012345678901234567890"},
    {"1.0", "1.0"},
    {"1e5", "100000.0"},
    {"1E5", "100000.0"},
    {"1e+5", "100000.0"},
    {"1e-6", "1e-06"},
    {"1e-5", "1e-05"},
    {"0.0001", "0.0001"},
    {"0.00001", "1e-05"},
    {"1e15", "1000000000000000.0"},
    {"1e16", "1e+16"},
    {"1e17", "1e+17"},
    {"123456789012345678.0", "1.2345678901234568e+17"},
    {"9007199254740993.0", "9007199254740992.0"},
    {"1e22", "1e+22"},
    {"1e23", "1e+23"},
    {"1.5e300", "1.5e+300"},
    {"1e308", "1e+308"},
    {"1.7976931348623157e308", "1.7976931348623157e+308"},
    {"1.7976931348623159e308", "Infinity"},
    {"1e309", "Infinity"},
    {"-1e400", "-Infinity"},
    {"1e-400", "0.0"},
    {"-1e-400", "-0.0"},
    {"5e-324", "5e-324"},
    {"2.5e-324", "5e-324"},
    {"2.4e-324", "0.0"},
    {"2.2250738585072014e-308", "2.2250738585072014e-308"},
    {"2.225073858507201e-308", "2.225073858507201e-308"},
    {"0.1", "0.1"},
    {"0.2", "0.2"},
    {"0.30000000000000004", "0.30000000000000004"},
    {"100.0", "100.0"},
    {"100000000000000000000.0", "1e+20"},
    {"9999999999999998.0", "9999999999999998.0"},
    {"999999999999999.9", "999999999999999.9"},
    {"99999999999999999.0", "1e+17"},
    {"0.1e1", "1.0"},
    {"1e0", "1.0"},
    {"1.10", "1.1"},
    {"5.684341886080801486968994140625e-14", "5.684341886080802e-14"},
    {"3.1415926535897932384626433832795", "3.141592653589793"},
    {"-2.5E-07", "-2.5e-07"},
    {"4.35", "4.35"},
    {"0.000123", "0.000123"},
    {"123e-2", "1.23"},
    {"1e999999999999999999999", "Infinity"},
    {"0e999", "0.0"},
    {"1.0e-00005", "1e-05"},
    {"NaN", "NaN"},
    {"Infinity", "Infinity"},
    {"-Infinity", "-Infinity"},
    {"179769313486231580793728971405303415079934132710037826936173778980444968292764750946649017977"
     "587207096330286416692887910946555547851940402630657488671505820681908902000708383676273854845"
     "817711531764475730270069855571366959622842914819860834936475292719074168444365510704342711559"
     "699508093042880.0",
     "1.7976931348623157e+293"},
    {"8.673617379884035e-19", "8.673617379884035e-19"},
    {"2.7755575615628914e-17", "2.7755575615628914e-17"},
    {"8.881784197001252e-16", "8.881784197001252e-16"},
    {"2.842170943040401e-14", "2.842170943040401e-14"},
    {"9.094947017729282e-13", "9.094947017729282e-13"},
    {"2.9103830456733704e-11", "2.9103830456733704e-11"},
    {"9.313225746154785e-10", "9.313225746154785e-10"},
    {"2.9802322387695312e-08", "2.9802322387695312e-08"},
    {"9.5367431640625e-07", "9.5367431640625e-07"},
    {"3.0517578125e-05", "3.0517578125e-05"},
    {"0.0009765625", "0.0009765625"},
    {"0.03125", "0.03125"},
    {"1.0", "1.0"},
    {"32.0", "32.0"},
    {"1024.0", "1024.0"},
    {"32768.0", "32768.0"},
    {"1048576.0", "1048576.0"},
    {"33554432.0", "33554432.0"},
    {"1073741824.0", "1073741824.0"},
    {"34359738368.0", "34359738368.0"},
    {"1099511627776.0", "1099511627776.0"},
    {"35184372088832.0", "35184372088832.0"},
    {"1125899906842624.0", "1125899906842624.0"},
    {"3.602879701896397e+16", "3.602879701896397e+16"},
    {"1.152921504606847e+18", "1.152921504606847e+18"},
    {"-1.98903266136661898326e+244", "-1.989032661366619e+244"},
    {"7.76111763228504102054e+178", "7.761117632285041e+178"},
    {"3.98049835869758699680e-249", "3.980498358697587e-249"},
    {"-1.54328354173405574052e+88", "-1.5432835417340557e+88"},
    {"1.36475845187575688783e-192", "1.3647584518757569e-192"},
    {"-1.37011356178730875548e-206", "-1.3701135617873088e-206"},
    {"-1.71605376304662069027e+197", "-1.7160537630466207e+197"},
    {"6.29467524119538607727e-44", "6.294675241195386e-44"},
    {"1.06134472121422537889e-202", "1.0613447212142254e-202"},
    {"4.70832516038754621468e+207", "4.708325160387546e+207"},
    {"6.38701615851356317016e-12", "6.387016158513563e-12"},
    {"-9.97313037856873313932e-246", "-9.973130378568733e-246"},
    {"8.77975322568027122613e-236", "8.779753225680271e-236"},
    {"-5.79550324849899318332e-228", "-5.795503248498993e-228"},
    {"-5.98818015938601108091e+243", "-5.988180159386011e+243"},
    {"-1.30605238852779589775e-147", "-1.306052388527796e-147"},
    {"-2.43611769948484094102e-206", "-2.436117699484841e-206"},
    {"2.23338699915017406502e-232", "2.233386999150174e-232"},
    {"-3.51527970626666987789e-203", "-3.51527970626667e-203"},
    {"1.59873818410328834496e-247", "1.5987381841032883e-247"},
    {"4.66786331818120955344e-36", "4.6678633181812096e-36"},
    {"-8.44187279210545559403e-239", "-8.441872792105456e-239"},
    {"1.90156574007966223509e-144", "1.9015657400796622e-144"},
    {"7.37043770070668400959e+208", "7.370437700706684e+208"},
    {"-1.71639967252727765815e-258", "-1.7163996725272777e-258"},
    {"-3.23671908321199869662e-221", "-3.2367190832119987e-221"},
    {"-2.28183346347126250483e-234", "-2.2818334634712625e-234"},
    {"-3.05363839263093631777e-84", "-3.0536383926309363e-84"},
    {"1.34495518946277772223e-181", "1.3449551894627777e-181"},
    {"-7.31749597606260565531e-221", "-7.317495976062606e-221"},
    {"5.24982230881430364086e-77", "5.249822308814304e-77"},
    {"1.54507541429843958651e-188", "1.5450754142984396e-188"},
    {"-3.95362569822479193372e-47", "-3.953625698224792e-47"},
    {"-2.72491267476497990488e-229", "-2.72491267476498e-229"},
    {"-6.50514186154877230764e-162", "-6.505141861548772e-162"},
    {"1.44148483955599406991e+304", "1.441484839555994e+304"},
    {"-1.45836792627585476351e-269", "-1.4583679262758548e-269"},
    {"-7.93941666880772076507e+33", "-7.939416668807721e+33"},
    {"1.42551839896996120647e+266", "1.4255183989699612e+266"},
    {"-1.52531570123240294415e+214", "-1.525315701232403e+214"},
    {"4.9406564584124654417656879e-324", "5e-324"},
    {"2.2250738585072013830902327e-308", "2.2250738585072014e-308"},
    {"3.0549363634996046820519794e-151", "3.054936363499605e-151"},
    {"7.8886090522101180541172857e-31", "7.888609052210118e-31"},
    {"5.6843418860808014869689941e-14", "5.684341886080802e-14"},
    {"7.8125000000000000000000000e-03", "0.0078125"},
    {"1.2379400392853802748991242e+27", "1.2379400392853803e+27"},
    {"3.2733906078961418700131897e+150", "3.273390607896142e+150"},
    {"1.0715086071862673209484250e+301", "1.0715086071862673e+301"},
    {"8.9884656743115795386465260e+307", "8.98846567431158e+307"},
};

/* Fails the test unless `text` is read and written back as `expected`. */
static void check_written(const char *text, size_t bytes, const char *expected)
{
    struct json_document document;
    struct sl_error error = {0};
    struct text_buffer out = {0};
    if (json_value_parse(text, bytes, &document, &error) != SL_OK)
        fail_msg("%.200s: %s", text, error.message);
    json_value_write(document.root, &out);
    char *written;
    size_t written_bytes;
    assert_int_equal(text_buffer_take(&out, &written, &written_bytes, &error), SL_OK);
    assert_string_equal(written, expected);
    assert_int_equal(written_bytes, strlen(expected));
    free(written);
    json_value_release(&document);
}

static enum sl_status parse_status(const char *text, size_t bytes, struct sl_error *error)
{
    struct json_document document;
    enum sl_status status = json_value_parse(text, bytes, &document, error);
    json_value_release(&document);
    return status;
}

static void numbers_are_spelled_as_python_spells_them(void **state)
{
    (void)state;
    for (size_t i = 0; i < SL_COUNT_OF(NUMBERS); i++)
        check_written(NUMBERS[i].text, strlen(NUMBERS[i].text), NUMBERS[i].written);
}

static void numbers_do_not_follow_the_locale(void **state)
{
    (void)state;
    static const char *const with_comma[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "de_DE", "fr_FR"};
    for (size_t i = 0; i < SL_COUNT_OF(with_comma); i++)
        if (setlocale(LC_NUMERIC, with_comma[i])) break;
    check_written("[1.5, 2.25e30]", 14, "[1.5, 2.25e+30]");
    setlocale(LC_NUMERIC, "C");
}

static void an_integer_of_a_million_digits_stays_as_written(void **state)
{
    (void)state;
    size_t digits = 1000000;
    char *text = malloc(digits + 1);
    assert_non_null(text);
    for (size_t i = 0; i < digits; i++)
        text[i] = (char)('1' + i % 9);
    text[digits] = 0;
    check_written(text, digits, text);
    text[digits / 2] = '.';
    assert_int_equal(parse_status(text, digits, NULL), SL_OK);
    free(text);
}

static void text_is_normalised_as_python_does(void **state)
{
    (void)state;
    static const struct {
        const char *text, *written;
    } cases[] = {
        {" { \"b\" : 1 ,\n\t\"a\":[ ] , \"c\":{}}\r\n", "{\"b\": 1, \"a\": [], \"c\": {}}"},
        {"[true,false,null]", "[true, false, null]"},
        {"\"\\u00e9\\/\\u4f60\"", "\"é/你\""},
        {"\"\\ud83d\\udc4b\"", "\"👋\""},
        {"\"\\\"\\\\\\b\\f\\n\\r\\t\\u0000\\u001F\\u007f\"",
         "\"\\\"\\\\\\b\\f\\n\\r\\t\\u0000\\u001f\x7f\""},
        {"\"\\ud83d\"", "\"\xef\xbf\xbd\""},
        {"\"\\udc4b\"", "\"\xef\xbf\xbd\""},
        {"\"\\ud83d\\ud83d\\udc4b\"", "\"\xef\xbf\xbd👋\""},
        {"\"\\ud83dx\\n\"", "\"\xef\xbf\xbdx\\n\""},
        {"{\"a\":1,\"b\":2,\"a\":3}", "{\"a\": 3, \"b\": 2}"},
        {"{\"\":1,\"\":2,\"\\u0061\":3,\"a\":4,\"aa\":5}", "{\"\": 2, \"a\": 4, \"aa\": 5}"},
        {"{\"x\":1,\"a\":2,\"a\":{\"a\":3,\"a\":4},\"a\":5,\"y\":6}",
         "{\"x\": 1, \"a\": 5, \"y\": 6}"},
        {"\"\"", "\"\""},
    };
    for (size_t i = 0; i < SL_COUNT_OF(cases); i++)
        check_written(cases[i].text, strlen(cases[i].text), cases[i].written);
}

static void zeros_in_strings_and_keys_are_kept(void **state)
{
    (void)state;
    static const char text[] = "{\"a\\u0000b\": \"\\u0000\", \"a\": 1}";
    struct json_document document;
    assert_int_equal(json_value_parse(text, sizeof text - 1, &document, NULL), SL_OK);
    const struct json_value *first = document.root->first;
    assert_int_equal(first->key_bytes, 3);
    assert_memory_equal(first->key, "a\0b", 3);
    assert_int_equal(first->bytes, 1);
    assert_ptr_equal(json_value_find(document.root, "a"), first->next);
    json_value_release(&document);
}

static void what_python_refuses_is_an_error_with_its_place(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        " ",
        "01",
        "-",
        "+1",
        "1.",
        ".5",
        "1e",
        "1e+",
        "-01",
        "0x10",
        "1 2",
        "nul",
        "True",
        "-NaN",
        "infinity",
        "[1,]",
        "[,]",
        "[1",
        "[",
        "{",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":1",
        "{\"a\":1,}",
        "{a:1}",
        "{1:1}",
        "{\"a\" 1}",
        "\"",
        "\"\\",
        "\"\\\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"a\nb\"",
        "\"\x01\"",
        "'a'",
        "\"\\ud83d\\u12\"",
        "]",
        "}",
        "\xef\xbb\xbf 1",
        "\"\xff\"",
        "\"\xc0\x80\"",
        "\"\xed\xa0\x80\"",
        "\"\xf4\x90\x80\x80\"",
        "\"\xe4\xbd\"",
        "1\xa0",
        "/* */ 1",
        "[1] x",
    };
    for (size_t i = 0; i < SL_COUNT_OF(bad); i++) {
        struct sl_error error = {0};
        if (parse_status(bad[i], strlen(bad[i]), &error) != SL_ERR_FORMAT)
            fail_msg("accepted: %s", bad[i]);
        assert_non_null(strstr(error.message, "byte"));
    }
    assert_int_equal(parse_status("\0", 1, NULL), SL_ERR_FORMAT);
    assert_int_equal(parse_status("1\0", 2, NULL), SL_ERR_FORMAT);
}

static void every_beginning_of_a_text_is_refused_in_bounds(void **state)
{
    (void)state;
    static const char text[] =
        "{\"k\\u00e9\": [1.5e3, -2, \"\\ud83d\\udc4b é\", {\"a\": null}, true]}";
    for (size_t bytes = 0; bytes + 1 < sizeof text; bytes++) {
        char *copy = malloc(bytes + 1); /* exactly as long, for the sanitizer */
        assert_non_null(copy);
        memcpy(copy, text, bytes);
        char *exact = realloc(copy, bytes ? bytes : 1);
        assert_non_null(exact);
        assert_int_equal(parse_status(exact, bytes, NULL), SL_ERR_FORMAT);
        free(exact);
    }
}

static void nesting_is_bounded(void **state)
{
    (void)state;
    for (size_t depth = JSON_DEPTH_MAX; depth <= 2000000; depth = depth * 2 + 1) {
        char *text = malloc(depth * 2);
        assert_non_null(text);
        memset(text, '[', depth);
        memset(text + depth, ']', depth);
        enum sl_status expected = depth <= JSON_DEPTH_MAX ? SL_OK : SL_ERR_LIMIT;
        assert_int_equal(parse_status(text, depth * 2, NULL), expected);
        free(text);
    }
}

static void many_equal_and_many_different_keys_merge(void **state)
{
    (void)state;
    struct text_buffer text = {0};
    text_buffer_append_byte(&text, '{');
    for (int i = 0; i < 200000; i++) {
        char member[48];
        snprintf(member, sizeof member, "%s\"same\": %d, \"k%d\": 0", i ? ", " : "", i, i / 2);
        text_buffer_append_text(&text, member);
    }
    text_buffer_append_byte(&text, '}');
    struct json_document document;
    assert_int_equal(json_value_parse(text.data, text.bytes, &document, NULL), SL_OK);
    assert_int_equal(document.root->count, 100001);
    assert_memory_equal(document.root->first->text, "199999", 6);
    json_value_release(&document);
    text_buffer_deinit(&text);
}

static void truth_is_pythons(void **state)
{
    (void)state;
    static const char *const falsy[] = {"null", "false", "0",    "-0", "0.0",
                                        "-0.0", "0e5",   "\"\"", "[]", "{}"};
    static const char *const truthy[] = {"true",      "1",     "0.5", "1e-9",     "NaN",
                                         "-Infinity", "\"0\"", "[0]", "{\"a\":0}"};
    struct json_document document;
    for (size_t i = 0; i < SL_COUNT_OF(falsy); i++) {
        assert_int_equal(json_value_parse(falsy[i], strlen(falsy[i]), &document, NULL), SL_OK);
        if (json_value_is_truthy(document.root)) fail_msg("%s", falsy[i]);
        json_value_release(&document);
    }
    for (size_t i = 0; i < SL_COUNT_OF(truthy); i++) {
        assert_int_equal(json_value_parse(truthy[i], strlen(truthy[i]), &document, NULL), SL_OK);
        if (!json_value_is_truthy(document.root)) fail_msg("%s", truthy[i]);
        json_value_release(&document);
    }
    assert_false(json_value_is_truthy(NULL));
}

static void an_absurd_append_fails_the_buffer_and_says_so(void **state)
{
    (void)state;
    struct text_buffer buffer = {0};
    struct sl_error error = {0};
    char *out = NULL;
    size_t bytes = 0;
    text_buffer_append_text(&buffer, "abc");
    text_buffer_append(&buffer, "x", SIZE_MAX - 1);
    assert_true(buffer.failed);
    text_buffer_append_text(&buffer, "more");
    assert_int_equal(text_buffer_take(&buffer, &out, &bytes, &error), SL_ERR_NO_MEMORY);
    assert_null(out);
    text_buffer_deinit(&buffer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_spelled_as_python_spells_them),
        cmocka_unit_test(numbers_do_not_follow_the_locale),
        cmocka_unit_test(an_integer_of_a_million_digits_stays_as_written),
        cmocka_unit_test(text_is_normalised_as_python_does),
        cmocka_unit_test(zeros_in_strings_and_keys_are_kept),
        cmocka_unit_test(what_python_refuses_is_an_error_with_its_place),
        cmocka_unit_test(every_beginning_of_a_text_is_refused_in_bounds),
        cmocka_unit_test(nesting_is_bounded),
        cmocka_unit_test(many_equal_and_many_different_keys_merge),
        cmocka_unit_test(truth_is_pythons),
        cmocka_unit_test(an_absurd_append_fails_the_buffer_and_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
