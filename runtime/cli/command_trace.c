/* `sluice trace`: what a recorded trace says about routing, reuse and guesses. */
#include "runtime/cli/command.h"

#include <stdlib.h>
#include <string.h>

struct trace_options {
    bool json;
};

static const struct option_spec trace_specs[] = {
    {"json", 0, OPTION_FLAG, false, offsetof(struct trace_options, json),
     .help = "the statistics as JSON"},
    {0},
};

int command_trace(int argc, char **argv)
{
    struct trace_options options = {0};
    const char *path = NULL;
    const struct option_set sets[] = {{trace_specs, &options}, {0}};
    const struct options_command command = {
        .name = "trace",
        .usage = "FILE [options]",
        .summary =
            "Counts a trace that run --trace has recorded: popularity and reuse of experts,\n"
            "what a cache would find, how much of the rest was guessed, beside figures\n"
            "published for the model.",
        .set = sets,
        .operand = &path,
    };
    int exit_code = COMMAND_OK;
    if (!command_parse(&command, argc, argv, &exit_code)) return exit_code;
    if (!path) return command_usage(command.name, "give the FILE that run --trace has written");
    struct sl_error error = {0};
    char *report = NULL;
    if (sl_trace_report(path, options.json, &report, &error) != SL_OK) return command_fail(&error);
    fputs(report, stdout);
    size_t bytes = strlen(report);
    if (bytes && report[bytes - 1] != '\n') putchar('\n');
    free(report);
    return command_flush(COMMAND_OK);
}
