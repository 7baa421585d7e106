/* labels: unit */
/* The option parser as a unit. Its source is included rather than linked: the commands belong to
 * the program alone and are in no library. */
#include "runtime/cli/options.c"

#include "tests/support.h"

struct record {
    const char *model, *text;
    int32_t number, choice;
    double real;
    uint64_t seed, ram;
    bool flag;
};

#define RECORD(name) .offset = offsetof(struct record, name)

static const char *const colours[] = {"red", "green", "blue", NULL};

static const struct option_spec record_specs[] = {
    {"model", 'm', OPTION_TEXT, true, RECORD(model), .value = "DIR", .help = "a directory"},
    {"text", 'p', OPTION_TEXT, false, RECORD(text), .value = "TEXT", .help = "some text"},
    {"number", 'n', OPTION_INT, false, RECORD(number), 0, 100, .value = "N", .help = "a number"},
    {"real", 0, OPTION_NUMBER, false, RECORD(real), 0, 2.5, .value = "X", .help = "a fraction"},
    {"seed", 0, OPTION_U64, false, RECORD(seed), .value = "N", .help = "a seed"},
    {"ram", 0, OPTION_SIZE, false, RECORD(ram), .value = "SIZE", .help = "a size"},
    {"colour", 0, OPTION_CHOICE, false, RECORD(choice), .choices = colours, .value = "NAME",
     .help = "a colour"},
    {"flag", 0, OPTION_FLAG, false, RECORD(flag), .help = "a flag"},
    {0},
};

/* What one command line led to. */
struct outcome {
    struct record record;
    const char *operand;
    enum sl_status status;
    bool help;
    struct sl_error error;
};

/* Parses the words, which end with NULL. */
static struct outcome parse_words(bool with_operand, const char *const *words)
{
    struct outcome outcome = {.record = {.number = 7}};
    char *argv[16];
    int argc = 0;
    for (; words[argc]; argc++) {
        assert_true(argc < 16);
        argv[argc] = strdup(words[argc]);
    }
    const struct option_set sets[] = {{record_specs, &outcome.record}, {0}};
    const struct options_command command = {
        .name = "try",
        .usage = "",
        .summary = "",
        .set = sets,
        .operand = with_operand ? &outcome.operand : NULL,
    };
    outcome.status = options_parse(&command, argc, argv, &outcome.help, &outcome.error);
    /* Text values are borrowed from argv: point them at the words that outlive it. */
    for (int i = 0; i < argc; i++) {
        const char **fields[] = {&outcome.record.model, &outcome.record.text, &outcome.operand};
        for (size_t f = 0; f < sizeof fields / sizeof fields[0]; f++) {
            const char *value = *fields[f];
            if (value && value >= argv[i] && value <= argv[i] + strlen(argv[i]))
                *fields[f] = words[i] + (value - argv[i]);
        }
    }
    for (int i = 0; i < argc; i++)
        free(argv[i]);
    return outcome;
}

#define PARSE(...)      parse_words(false, (const char *const[]){__VA_ARGS__, NULL})
#define PARSE_FILE(...) parse_words(true, (const char *const[]){__VA_ARGS__, NULL})

static void check_refused(struct outcome outcome, const char *message)
{
    assert_int_equal(outcome.status, SL_ERR_ARGUMENT);
    assert_string_equal(outcome.error.message, message);
}

static void every_form_of_a_value_is_read(void **state)
{
    (void)state;
    struct outcome o = PARSE("-m", "dir", "--text=a=b", "-n42", "--real", "0.25", "--flag");
    assert_int_equal(o.status, SL_OK);
    assert_string_equal(o.record.model, "dir");
    assert_string_equal(o.record.text, "a=b");
    assert_int_equal(o.record.number, 42);
    assert_true(o.record.real == 0.25);
    assert_true(o.record.flag);

    o = PARSE("--model", "-", "-p", "-n", "--text=");
    assert_int_equal(o.status, SL_OK);
    assert_string_equal(o.record.model, "-");
    assert_string_equal(o.record.text, "");
    assert_int_equal(o.record.number, 7);
}

static void the_last_of_a_repeated_option_counts(void **state)
{
    (void)state;
    struct outcome o = PARSE("-m", "a", "-n", "1", "--number=2", "-m", "b");
    assert_int_equal(o.status, SL_OK);
    assert_int_equal(o.record.number, 2);
    assert_string_equal(o.record.model, "b");
}

static void sizes_have_binary_units(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
    } sizes[] = {
        {"0", 0},
        {"4096", 4096},
        {"12B", 12},
        {"3k", 3072},
        {"3K", 3072},
        {"512M", (uint64_t)512 << 20},
        {"8G", (uint64_t)8 << 30},
        {"8GB", (uint64_t)8 << 30},
        {"8GiB", (uint64_t)8 << 30},
        {"2t", (uint64_t)2 << 40},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct outcome o = PARSE("-m", "d", "--ram", sizes[i].text);
        assert_int_equal(o.status, SL_OK);
        assert_true(o.record.ram == sizes[i].bytes);
    }
}

static void a_bad_size_is_named_with_what_was_expected(void **state)
{
    (void)state;
    check_refused(PARSE("-m", "d", "--ram", "lots"),
                  "option --ram: expected a size such as 512M or 8G, found \"lots\"");
    static const char *const bad[] = {
        "", "-1", "+1", " 1", "1.5G", "1X", "1GG", "8Gi", "G", "99999999999999999999", "99999999T"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(PARSE("-m", "d", "--ram", bad[i]).status, SL_ERR_ARGUMENT);
}

static void numbers_outside_their_range_are_refused(void **state)
{
    (void)state;
    check_refused(PARSE("-m", "d", "-n", "101"),
                  "option -n: expected a whole number from 0 to 100, found \"101\"");
    check_refused(PARSE("-m", "d", "--real", "2.6"),
                  "option --real: expected a number from 0 to 2.5, found \"2.6\"");
    check_refused(PARSE("-m", "d", "--seed", "-1"),
                  "option --seed: expected a whole number from 0 to 9223372036854775807, "
                  "found \"-1\"");
    static const char *const bad[] = {"", "-1", "1.5", "0x10", "1e1", "nan", "seven", "7 "};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(PARSE("-m", "d", "-n", bad[i]).status, SL_ERR_ARGUMENT);
    static const char *const bad_reals[] = {"", "nan", "inf", "-0.1", "0x1p0", ".", "1,5"};
    for (size_t i = 0; i < sizeof bad_reals / sizeof bad_reals[0]; i++)
        assert_int_equal(PARSE("-m", "d", "--real", bad_reals[i]).status, SL_ERR_ARGUMENT);
}

static void seeds_reach_to_the_largest_signed_number(void **state)
{
    (void)state;
    struct outcome o = PARSE("-m", "d", "--seed", "9223372036854775807");
    assert_int_equal(o.status, SL_OK);
    assert_true(o.record.seed == INT64_MAX);
    assert_int_equal(PARSE("-m", "d", "--seed", "9223372036854775808").status, SL_ERR_ARGUMENT);
    assert_int_equal(PARSE("-m", "d", "--seed", "5K").status, SL_ERR_ARGUMENT);
}

static void a_choice_becomes_its_place(void **state)
{
    (void)state;
    struct outcome o = PARSE("-m", "d", "--colour", "blue");
    assert_int_equal(o.status, SL_OK);
    assert_int_equal(o.record.choice, 2);
    check_refused(PARSE("-m", "d", "--colour=pink"),
                  "option --colour: expected red, green or blue, found \"pink\"");
}

static void what_is_unknown_or_incomplete_is_named(void **state)
{
    (void)state;
    check_refused(PARSE("-m", "d", "--nope"), "unknown option --nope");
    check_refused(PARSE("-m", "d", "--numb", "1"), "unknown option --numb");
    check_refused(PARSE("-m", "d", "-x"), "unknown option -x");
    check_refused(PARSE("-m"), "option -m needs a value: DIR");
    check_refused(PARSE("-m", "d", "--ram"), "option --ram needs a value: SIZE");
    check_refused(PARSE("-m", "d", "--flag=yes"), "option --flag takes no value, found \"yes\"");
    check_refused(PARSE("--flag"), "option -m DIR is missing (or --model)");
    check_refused(PARSE("-m", "d", "file"), "unexpected argument \"file\"");
}

static void one_operand_is_taken_where_there_is_one(void **state)
{
    (void)state;
    struct outcome o = PARSE_FILE("file", "-m", "d");
    assert_int_equal(o.status, SL_OK);
    assert_string_equal(o.operand, "file");
    o = PARSE_FILE("-m", "d", "--", "--flag");
    assert_int_equal(o.status, SL_OK);
    assert_string_equal(o.operand, "--flag");
    assert_false(o.record.flag);
    check_refused(PARSE_FILE("-m", "d", "one", "two"), "unexpected argument \"two\"");
}

static void help_needs_nothing_else(void **state)
{
    (void)state;
    assert_true(PARSE("--help").help);
    assert_true(PARSE("-n", "1", "-h", "--nope").help);
    assert_int_equal(PARSE("--help").status, SL_OK);
    assert_false(PARSE("-m", "d", "--", "--help").help);
}

static void help_shows_every_option(void **state)
{
    (void)state;
    struct record record = {0};
    const struct option_set sets[] = {{record_specs, &record}, {0}};
    const struct options_command command = {
        .name = "try", .usage = "-m DIR", .summary = "Tries.", .set = sets};
    char *text = NULL;
    size_t bytes = 0;
    FILE *file = open_memstream(&text, &bytes);
    options_print_help(&command, file);
    fclose(file);
    assert_non_null(strstr(text, "usage: sluice try -m DIR\n\nTries.\n"));
    for (const struct option_spec *spec = record_specs; spec->name; spec++) {
        assert_non_null(strstr(text, spec->name));
        assert_non_null(strstr(text, spec->help));
    }
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form_of_a_value_is_read),
        cmocka_unit_test(the_last_of_a_repeated_option_counts),
        cmocka_unit_test(sizes_have_binary_units),
        cmocka_unit_test(a_bad_size_is_named_with_what_was_expected),
        cmocka_unit_test(numbers_outside_their_range_are_refused),
        cmocka_unit_test(seeds_reach_to_the_largest_signed_number),
        cmocka_unit_test(a_choice_becomes_its_place),
        cmocka_unit_test(what_is_unknown_or_incomplete_is_named),
        cmocka_unit_test(one_operand_is_taken_where_there_is_one),
        cmocka_unit_test(help_needs_nothing_else),
        cmocka_unit_test(help_shows_every_option),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
