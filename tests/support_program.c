/* Running a built program; see the header. */
#include "tests/support_program.h"

#include "tests/support.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void redirect(const char *path, int flags, int target)
{
    int fd = open(path, flags, 0600);
    if (fd < 0 || dup2(fd, target) < 0) _exit(126);
    close(fd);
}

struct program_outcome program_run(const char *variable, const char *directory, const char *input,
                                   size_t bytes, const char *const *words)
{
    const char *program = getenv(variable);
    assert_non_null(program);
    char *argv[PROGRAM_WORDS_MAX + 1] = {strdup(program)};
    int argc = 1;
    for (; words[argc - 1]; argc++) {
        assert_true(argc < PROGRAM_WORDS_MAX);
        argv[argc] = strdup(words[argc - 1]);
    }
    char *in = test_path(directory, "stdin");
    char *out = test_path(directory, "stdout");
    char *err = test_path(directory, "stderr");
    test_write_file(in, input, bytes);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        redirect(in, O_RDONLY, STDIN_FILENO);
        redirect(out, O_WRONLY | O_CREAT | O_TRUNC, STDOUT_FILENO);
        redirect(err, O_WRONLY | O_CREAT | O_TRUNC, STDERR_FILENO);
        execv(program, argv);
        _exit(127);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    struct program_outcome outcome = {.exit_code = WEXITSTATUS(status)};
    size_t err_bytes = 0;
    outcome.out = test_read_file(out, &outcome.out_bytes);
    outcome.err = test_read_file(err, &err_bytes);
    free(in), free(out), free(err);
    for (int i = 0; i < argc; i++)
        free(argv[i]);
    return outcome;
}

void program_outcome_deinit(struct program_outcome *outcome)
{
    free(outcome->out);
    free(outcome->err);
}

void program_check_exit(const struct program_outcome *outcome, int expected)
{
    if (outcome->exit_code == expected) return;
    fail_msg("exit code %d instead of %d: %s", outcome->exit_code, expected, outcome->err);
}

char *program_make_model(const char *directory)
{
    char *model = test_path(directory, "model");
    struct program_outcome made = program_run(
        "SLUICE_PROGRAM", directory, "", 0,
        (const char *const[]){"synth", "--preset", "tiny", "--seed", "1", "-o", model, NULL});
    program_check_exit(&made, 0);
    program_outcome_deinit(&made);
    return model;
}
