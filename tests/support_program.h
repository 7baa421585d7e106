/* Running a built program in a child and looking at what it leaves: exit code, output, errors. */
#ifndef SLUICE_TESTS_SUPPORT_PROGRAM_H
#define SLUICE_TESTS_SUPPORT_PROGRAM_H

#include <stddef.h>

#define PROGRAM_WORDS_MAX 39

/* What a run left behind; program_outcome_deinit frees it. */
struct program_outcome {
    int exit_code;
    char *out, *err; /* with a zero after the last byte */
    size_t out_bytes;
};

/* Runs the program that the environment variable `variable` names with these arguments, which end
 * with NULL, and `input` on standard input; its streams are files in `directory`. Fails the test
 * when the program cannot be run or is killed. */
struct program_outcome program_run(const char *variable, const char *directory, const char *input,
                                   size_t bytes, const char *const *words);
void program_outcome_deinit(struct program_outcome *outcome);

/* Fails the test, showing what the program said, unless it ended with this code. */
void program_check_exit(const struct program_outcome *outcome, int expected);

/* Writes a random checkpoint with `sluice synth --preset tiny --seed 1` as `directory`/model and
 * returns its path, the caller's to free. */
char *program_make_model(const char *directory);

#endif
