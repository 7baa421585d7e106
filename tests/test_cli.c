/* labels: unit */
/* The program from outside: the one named by SLUICE_PROGRAM is run and its exit code and output are
 * looked at. */
#include "tests/support.h"
#include "tests/support_program.h"

#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TOKENIZER "tests/golden/tokenizer/tokenizer.json"

/* Temporary files of the whole program, and one random checkpoint. */
struct fixture {
    char *directory, *model;
};

/* Runs the program with these arguments and `input` on standard input. */
#define RUN(fixture, input, ...)                                                                   \
    program_run("SLUICE_PROGRAM", (fixture)->directory, input, strlen(input),                      \
                (const char *const[]){__VA_ARGS__, NULL})

/* The call fails with this exit code, prints nothing and says `message` on stderr. */
static void check_failure(struct program_outcome outcome, int exit_code, const char *message)
{
    program_check_exit(&outcome, exit_code);
    assert_string_equal(outcome.out, "");
    if (strncmp(outcome.err, "sluice: ", 8) != 0 || !strstr(outcome.err, message))
        fail_msg("expected \"sluice: ... %s ...\", found \"%s\"", message, outcome.err);
    program_outcome_deinit(&outcome);
}

/* The call succeeds and prints exactly `expected`. */
static void check_output(struct program_outcome outcome, const char *expected, size_t bytes)
{
    program_check_exit(&outcome, 0);
    assert_int_equal(outcome.out_bytes, bytes);
    assert_memory_equal(outcome.out, expected, bytes);
    program_outcome_deinit(&outcome);
}

/* Text of a random model may hold any character, zero too. */
static json_t *parse_json(const char *text, size_t bytes)
{
    json_error_t error;
    json_t *value = json_loadb(text, bytes, JSON_ALLOW_NUL, &error);
    if (!value) fail_msg("%s in \"%s\"", error.text, text);
    return value;
}

static json_t *load_json(const char *path)
{
    size_t bytes = 0;
    char *text = test_read_file(path, &bytes);
    json_t *value = parse_json(text, bytes);
    free(text);
    return value;
}

/* ---- arguments ---------------------------------------------------------------------------- */

static void wrong_arguments_end_with_2_and_a_hint(void **state)
{
    const struct fixture *f = *state;
    check_failure(RUN(f, "", "rum"), 2, "there is no command \"rum\", expected run, chat");
    check_failure(RUN(f, "", "run"), 2, "run: option -m DIR is missing");
    check_failure(RUN(f, "", "run", "-m", "d", "--ram", "lots"), 2,
                  "option --ram: expected a size such as 512M or 8G, found \"lots\"");
    check_failure(RUN(f, "", "run", "-m", "d", "--io", "tape"), 2,
                  "option --io: expected auto, io_uring or pread, found \"tape\"");
    check_failure(RUN(f, "", "run", "-m", "d", "-p", "x", "-f", "y"), 2, "found more");
    check_failure(RUN(f, "", "run", "-m", "d", "-p", "x", "--raw", "--think", "max"), 2,
                  "--think needs the chat prompt");
    check_failure(RUN(f, "", "run", "-m", "d", "--nope"), 2,
                  "unknown option --nope\nTry 'sluice run --help'.");
    check_failure(RUN(f, "", "verify"), 2, "give the packed FILE or -m DIR");
    check_failure(RUN(f, "", "synth", "--preset", "huge", "-o", "d"), 2,
                  "option --preset: expected tiny, small or flash, found \"huge\"");
    check_failure(RUN(f, "", "debug", "rum"), 2, "expected tokens, text, render");
    check_failure(RUN(f, "", "debug", "tokens"), 2, "give either -m DIR or --tokenizer FILE");
    check_failure(RUN(f, "", "debug", "logits", "-m", "d", "--ids", "1"), 2, "-o FILE is missing");
    check_failure(RUN(f, "", "debug", "logits", "-m", "d", "-o", "x"), 2, "--ids or --ids-file");
}

static void every_command_explains_itself(void **state)
{
    const struct fixture *f = *state;
    static const char *const names[] = {"run",   "chat", "inspect",  "pack", "verify",
                                        "synth", "plan", "simulate", "debug"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct program_outcome direct = RUN(f, "", names[i], "--help");
        struct program_outcome asked = RUN(f, "", "help", names[i]);
        program_check_exit(&direct, 0);
        program_check_exit(&asked, 0);
        assert_non_null(strstr(direct.out, "usage: sluice "));
        assert_non_null(strstr(direct.out, names[i]));
        assert_string_equal(direct.out, asked.out);
        program_outcome_deinit(&direct);
        program_outcome_deinit(&asked);
    }
    struct program_outcome version = RUN(f, "", "--version");
    program_check_exit(&version, 0);
    assert_int_equal(strncmp(version.out, "sluice ", 7), 0);
    program_outcome_deinit(&version);
}

static void a_bad_model_directory_ends_with_1_and_its_name(void **state)
{
    const struct fixture *f = *state;
    check_failure(RUN(f, "", "run", "-m", "/nowhere/at/all", "-p", "x"), 1, "/nowhere/at/all");
    check_failure(RUN(f, "", "chat", "-m", f->directory), 1, f->directory);
    check_failure(RUN(f, "", "inspect", "-m", f->directory), 1, f->directory);
    check_failure(RUN(f, "", "pack", "-m", f->directory), 1, f->directory);
    check_failure(RUN(f, "", "verify", "/nowhere/file"), 1, "/nowhere/file");
    check_failure(RUN(f, "", "debug", "tokens", "-m", f->directory), 1, f->directory);
}

/* ---- tokens and prompts ------------------------------------------------------------------- */

static char *join_ids(json_t *ids, const char *separator)
{
    char *text = strdup("");
    size_t i;
    json_t *id;
    json_array_foreach(ids, i, id)
    {
        char *longer = NULL;
        if (asprintf(&longer, "%s%s%lld", text, i ? separator : "", json_integer_value(id)) < 0)
            fail_msg("out of memory");
        free(text);
        text = longer;
    }
    return text;
}

static void golden_texts_become_their_tokens(void **state)
{
    const struct fixture *f = *state;
    json_t *vectors = load_json("tests/golden/tokenizer/vectors.json");
    json_t *cases = json_object_get(vectors, "encode");
    assert_true(json_array_size(cases) > 0);
    size_t i;
    json_t *entry;
    json_array_foreach(cases, i, entry)
    {
        json_t *text = json_object_get(entry, "text");
        char *joined = join_ids(json_object_get(entry, "ids"), ", ");
        char *expected = NULL;
        if (asprintf(&expected, "[%s]\n", joined) < 0) fail_msg("out of memory");
        const char *const words[] = {"debug", "tokens", "--tokenizer", TOKENIZER, NULL};
        check_output(program_run("SLUICE_PROGRAM", f->directory, json_string_value(text),
                                 json_string_length(text), words),
                     expected, strlen(expected));
        free(joined);
        free(expected);
    }
    json_decref(vectors);
}

static void golden_tokens_become_their_bytes(void **state)
{
    const struct fixture *f = *state;
    json_t *vectors = load_json("tests/golden/tokenizer/vectors.json");
    json_t *cases = json_object_get(vectors, "decode");
    assert_true(json_array_size(cases) > 0);
    size_t i;
    json_t *entry;
    json_array_foreach(cases, i, entry)
    {
        const char *hex = json_string_value(json_object_get(entry, "bytes_hex"));
        size_t bytes = strlen(hex) / 2;
        char *expected = calloc(bytes + 1, 1);
        for (size_t b = 0; b < bytes; b++) {
            unsigned value = 0;
            assert_int_equal(sscanf(hex + 2 * b, "%2x", &value), 1);
            expected[b] = (char)value;
        }
        char *ids = join_ids(json_object_get(entry, "ids"), ",");
        check_output(RUN(f, "", "debug", "text", "--tokenizer", TOKENIZER, "--ids", ids), expected,
                     bytes);
        free(ids);
        free(expected);
    }
    json_decref(vectors);
}

static void an_id_outside_the_tokenizer_is_an_error(void **state)
{
    const struct fixture *f = *state;
    check_failure(RUN(f, "", "debug", "text", "--tokenizer", TOKENIZER, "--ids", "67,999999"), 1,
                  "found 999999 at place 1");
    check_failure(RUN(f, "", "debug", "text", "--tokenizer", TOKENIZER, "--ids", "1,,2"), 1,
                  "token ids: expected a number at byte 2, found \",2\"");
    check_failure(RUN(f, "[1, 2", "debug", "text", "--tokenizer", TOKENIZER, "--ids-file", "-"), 1,
                  "token ids: expected \"]\", found the end");
}

static void check_parsed(const struct program_outcome *outcome, json_t *expected)
{
    json_t *message = parse_json(outcome->out, outcome->out_bytes);
    static const char *const names[] = {"content", "reasoning_content", "tool_calls"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        json_t *found = json_object_get(message, names[i]);
        assert_non_null(found);
        assert_true(json_equal(found, json_object_get(expected, names[i])));
    }
    json_decref(message);
}

/* One golden file, through `debug render` or `debug parse`. */
static void check_chat_case(const struct fixture *f, const char *path)
{
    json_t *vector = load_json(path);
    json_t *expected = json_object_get(vector, "expected");
    json_t *prompt = json_object_get(expected, "prompt");
    char *input = json_dumps(json_object_get(vector, "input"), 0);
    bool encode = strcmp(json_string_value(json_object_get(vector, "kind")), "encode") == 0;
    struct program_outcome outcome = RUN(f, input, "debug", encode ? "render" : "parse");
    if (json_object_get(expected, "error")) {
        check_failure(outcome, 1, "");
    } else if (encode) {
        check_output(outcome, json_string_value(prompt), json_string_length(prompt));
    } else {
        program_check_exit(&outcome, 0);
        check_parsed(&outcome, json_object_get(expected, "message"));
        program_outcome_deinit(&outcome);
    }
    free(input);
    json_decref(vector);
}

static void golden_conversations_are_rendered_and_parsed(void **state)
{
    const struct fixture *f = *state;
    DIR *directory = opendir("tests/golden/chat");
    assert_non_null(directory);
    int cases = 0;
    for (struct dirent *entry; (entry = readdir(directory));) {
        if (!strstr(entry->d_name, ".json")) continue;
        char *path = test_path("tests/golden/chat", entry->d_name);
        if (strncmp(entry->d_name, "encode-", 7) == 0 || strncmp(entry->d_name, "parse-", 6) == 0) {
            check_chat_case(f, path);
            cases++;
        }
        free(path);
    }
    closedir(directory);
    assert_true(cases > 0);
}

/* ---- a random model ----------------------------------------------------------------------- */

static void the_same_seed_gives_the_same_answer(void **state)
{
    const struct fixture *f = *state;
    struct program_outcome first = RUN(f, "", "run", "-m", f->model, "--ids", "5,6,7", "-n", "12",
                                       "--seed", "3", "--json", "--threads", "2");
    struct program_outcome second = RUN(f, "5 6 7\n", "run", "-m", f->model, "--ids-file", "-",
                                        "-n", "12", "--seed=3", "--json", "--threads=1");
    struct program_outcome other =
        RUN(f, "", "run", "-m", f->model, "--ids", "5,6,7", "-n", "12", "--seed", "4", "--json");
    program_check_exit(&first, 0);
    program_check_exit(&second, 0);
    program_check_exit(&other, 0);
    json_t *a = parse_json(first.out, first.out_bytes);
    json_t *b = parse_json(second.out, second.out_bytes);
    json_t *c = parse_json(other.out, other.out_bytes);
    assert_true(json_equal(json_object_get(a, "ids"), json_object_get(b, "ids")));
    assert_true(json_equal(json_object_get(a, "text"), json_object_get(b, "text")));
    assert_false(json_equal(json_object_get(a, "ids"), json_object_get(c, "ids")));
    /* A random model may end its turn at any token. */
    size_t count = json_array_size(json_object_get(a, "ids"));
    assert_string_equal(json_string_value(json_object_get(a, "finish_reason")),
                        count == 12 ? "length" : "stop");
    json_decref(a), json_decref(b), json_decref(c);
    program_outcome_deinit(&first), program_outcome_deinit(&second), program_outcome_deinit(&other);
}

static void statistics_come_after_the_answer(void **state)
{
    const struct fixture *f = *state;
    struct program_outcome o =
        RUN(f, "", "run", "-m", f->model, "--ids", "5,6", "-n", "4", "--stats");
    program_check_exit(&o, 0);
    assert_non_null(strstr(o.err, "prompt   2 tokens, 2 computed"));
    /* A random model may end its turn at any token. */
    int tokens = 0;
    const char *answer = strstr(o.err, "answer   ");
    assert_non_null(answer);
    assert_int_equal(sscanf(answer, "answer   %d token", &tokens), 1);
    assert_in_range(tokens, 1, 4);
    assert_null(strstr(o.err, "\033")); /* no bars where nobody watches */
    program_outcome_deinit(&o);
}

static void a_full_context_ends_the_answer_or_refuses_the_prompt(void **state)
{
    const struct fixture *f = *state;
    struct program_outcome o =
        RUN(f, "", "run", "-m", f->model, "--ids", "5,6,7", "--ctx", "5", "--temp", "0", "--json");
    program_check_exit(&o, 0);
    json_t *answer = parse_json(o.out, o.out_bytes);
    assert_string_equal(json_string_value(json_object_get(answer, "finish_reason")), "length");
    assert_in_range(json_array_size(json_object_get(answer, "ids")), 1, 3);
    json_decref(answer);
    program_outcome_deinit(&o);
    check_failure(RUN(f, "", "run", "-m", f->model, "--ids", "5,6,7", "--ctx", "2"), 1, "2");
}

static void logits_do_not_depend_on_how_tokens_are_fed(void **state)
{
    const struct fixture *f = *state;
    char *whole = test_path(f->directory, "whole");
    char *single = test_path(f->directory, "single");
    check_output(RUN(f, "", "debug", "logits", "-m", f->model, "--ids", "5,6,7,8", "-o", whole), "",
                 0);
    check_output(RUN(f, "[5, 6, 7, 8]", "debug", "logits", "-m", f->model, "--ids-file", "-",
                     "--decode", "-o", single),
                 "", 0);
    size_t whole_bytes = 0, single_bytes = 0;
    char *a = test_read_file(whole, &whole_bytes);
    char *b = test_read_file(single, &single_bytes);
    assert_true(whole_bytes > 0 && whole_bytes % (4 * sizeof(float)) == 0);
    assert_int_equal(whole_bytes, single_bytes);
    assert_memory_equal(a, b, whole_bytes);
    free(a), free(b), free(whole), free(single);
}

static void a_pipe_named_as_output_is_written_not_replaced(void **state)
{
    const struct fixture *f = *state;
    char *path = test_path(f->directory, "pipe");
    assert_int_equal(mkfifo(path, 0600), 0);
    int fd = open(path, O_RDWR | O_NONBLOCK);
    assert_true(fd >= 0);
    check_output(RUN(f, "", "debug", "route", "-m", f->model, "--ids", "5", "-o", path), "", 0);
    char line[64] = "";
    assert_true(read(fd, line, sizeof line - 1) > 0);
    const char *start = "{\"layer\":0,\"token\":0,\"experts\":[";
    assert_int_equal(strncmp(line, start, strlen(start)), 0);
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    assert_true(S_ISFIFO(status.st_mode));
    close(fd);
    free(path);
}

static void a_failed_run_leaves_no_output_file(void **state)
{
    const struct fixture *f = *state;
    char *path = test_path(f->directory, "never");
    check_failure(RUN(f, "", "debug", "logits", "-m", f->model, "--ids", "5,99999999", "-o", path),
                  1, "found 99999999 at place 1");
    char *temporary = test_path(f->directory, "never.tmp");
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_not_equal(access(temporary, F_OK), 0);
    free(path), free(temporary);
}

static void a_packed_model_answers_like_the_unpacked_one(void **state)
{
    const struct fixture *f = *state;
    char *packed = test_path(f->directory, "experts");
    struct program_outcome before = RUN(f, "", "run", "-m", f->model, "--ids", "9,8", "-n", "8",
                                        "--temp", "0", "--experts", "unpacked");
    check_output(RUN(f, "", "pack", "-m", f->model, "-o", packed), "", 0);
    check_output(RUN(f, "", "verify", packed, "-m", f->model), "", 0);
    struct program_outcome after = RUN(f, "", "run", "-m", f->model, "--ids", "9,8", "-n", "8",
                                       "--temp", "0", "--experts", packed);
    program_check_exit(&before, 0);
    program_check_exit(&after, 0);
    assert_string_equal(before.out, after.out);
    program_outcome_deinit(&after);
    /* In parts, which belong together in any order. */
    char *parts = NULL, *turned = NULL, *first = test_path(f->directory, "a");
    assert_true(asprintf(&parts, "%s,%s/b", first, f->directory) > 0);
    assert_true(asprintf(&turned, "%s/b,%s", f->directory, first) > 0);
    check_output(RUN(f, "", "pack", "-m", f->model, "-o", parts), "", 0);
    check_output(RUN(f, "", "verify", parts, "-m", f->model), "", 0);
    check_output(RUN(f, "", "verify", first), "", 0);
    after = RUN(f, "", "run", "-m", f->model, "--ids", "9,8", "-n", "8", "--temp", "0", "--experts",
                turned);
    program_check_exit(&after, 0);
    assert_string_equal(before.out, after.out);
    check_failure(RUN(f, "", "run", "-m", f->model, "--ids", "9", "--experts", first), 1,
                  "part 1 of 2 and part 2 is missing");
    struct program_outcome described = RUN(f, "", "inspect", "-m", f->model, "--experts", parts);
    program_check_exit(&described, 0);
    assert_non_null(strstr(described.out, parts));
    program_outcome_deinit(&before), program_outcome_deinit(&after);
    program_outcome_deinit(&described);
    free(packed), free(parts), free(turned), free(first);
}

static void inspect_reports_as_text_and_json(void **state)
{
    const struct fixture *f = *state;
    struct program_outcome text = RUN(f, "", "inspect", "-m", f->model);
    struct program_outcome json = RUN(f, "", "inspect", "-m", f->model, "--json");
    program_check_exit(&text, 0);
    program_check_exit(&json, 0);
    assert_true(text.out_bytes > 0);
    json_t *report = parse_json(json.out, json.out_bytes);
    assert_true(json_is_object(report));
    json_decref(report);
    program_outcome_deinit(&text), program_outcome_deinit(&json);
}

static int make_fixture(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    assert_non_null(fixture);
    *state = fixture; /* at once: it is taken down even if what follows fails */
    fixture->directory = test_make_directory("cli");
    fixture->model = program_make_model(fixture->directory);
    return 0;
}

static int remove_fixture(void **state)
{
    struct fixture *fixture = *state;
    test_remove_tree(fixture->directory);
    free(fixture->directory);
    free(fixture->model);
    free(fixture);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_arguments_end_with_2_and_a_hint),
        cmocka_unit_test(every_command_explains_itself),
        cmocka_unit_test(a_bad_model_directory_ends_with_1_and_its_name),
        cmocka_unit_test(golden_texts_become_their_tokens),
        cmocka_unit_test(golden_tokens_become_their_bytes),
        cmocka_unit_test(an_id_outside_the_tokenizer_is_an_error),
        cmocka_unit_test(golden_conversations_are_rendered_and_parsed),
        cmocka_unit_test(the_same_seed_gives_the_same_answer),
        cmocka_unit_test(statistics_come_after_the_answer),
        cmocka_unit_test(a_full_context_ends_the_answer_or_refuses_the_prompt),
        cmocka_unit_test(logits_do_not_depend_on_how_tokens_are_fed),
        cmocka_unit_test(a_pipe_named_as_output_is_written_not_replaced),
        cmocka_unit_test(a_failed_run_leaves_no_output_file),
        cmocka_unit_test(a_packed_model_answers_like_the_unpacked_one),
        cmocka_unit_test(inspect_reports_as_text_and_json),
    };
    return cmocka_run_group_tests(tests, make_fixture, remove_fixture);
}
