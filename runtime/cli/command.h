/* What the commands have in common: their entry points, exit codes and how they report failures.
 *
 * A command gets the arguments after its name and returns the program's exit code. */
#ifndef SLUICE_CLI_COMMAND_H
#define SLUICE_CLI_COMMAND_H

#include "runtime/cli/options.h"

enum command_exit {
    COMMAND_OK = 0,
    COMMAND_FAILED = 1,        /* with a message on stderr */
    COMMAND_USAGE = 2,         /* the arguments make no sense; a hint on stderr */
    COMMAND_INTERRUPTED = 130, /* stopped by Ctrl-C, in order */
};

/* Parses the options. False when there is nothing left to do: help was printed or the arguments
 * were refused, and `*exit_code` is set. */
bool command_parse(const struct options_command *command, int argc, char **argv, int *exit_code);

/* Says what is wrong with the arguments of `command` and how to get help; returns COMMAND_USAGE. */
int command_usage(const char *command, const char *message);

/* Prints "sluice: message" and returns the exit code that goes with the status. */
int command_fail(const struct sl_error *error);

/* A piece of work on bytes that may take minutes: `options` are those of the command, and
 * `progress` is to be called with `context` as sl.h says. */
typedef enum sl_status (*command_work_fn)(const void *options, sl_progress_fn progress,
                                          void *context, struct sl_error *error);

/* Does it with a progress line, unless `quiet`, and stops it at Ctrl-C; a failure is reported.
 * Returns the exit code. */
int command_work(command_work_fn work, const void *options, bool quiet);

/* Ends what an engine was opened for: tells on stderr what went on in a degraded way, keeps how
 * experts were used where --profile asked for it, and closes it. Returns `exit_code`, or
 * COMMAND_FAILED with a message where the profile could not be written. */
int command_close_engine(sl_engine *engine, int exit_code);

/* Pushes what was printed to its destination: a full disk is an error, not silence. Returns
 * `exit_code`, or COMMAND_FAILED with a message. */
int command_flush(int exit_code);

int command_run(int argc, char **argv);
int command_chat(int argc, char **argv);
int command_inspect(int argc, char **argv);
int command_pack(int argc, char **argv);
int command_verify(int argc, char **argv);
int command_synth(int argc, char **argv);
int command_plan(int argc, char **argv);
int command_simulate(int argc, char **argv);
int command_bench(int argc, char **argv);
int command_trace(int argc, char **argv);
int command_debug(int argc, char **argv);

#endif
