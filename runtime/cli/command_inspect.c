/* `sluice inspect`: what a checkpoint is, and where its bytes would live. */
#include "runtime/cli/command.h"
#include "runtime/cli/engine_args.h"

#include <stdlib.h>
#include <string.h>

struct inspect_options {
    bool json;
    struct engine_args engine;
};

static const struct option_spec inspect_specs[] = {
    {"json", 0, OPTION_FLAG, false, offsetof(struct inspect_options, json),
     .help = "the report as JSON"},
    {0},
};

int command_inspect(int argc, char **argv)
{
    struct inspect_options options = {0};
    const struct option_set sets[] = {
        {inspect_specs, &options}, {engine_args_specs, &options.engine}, {0}};
    const struct options_command command = {
        .name = "inspect",
        .usage = "-m DIR [options]",
        .summary = "Describes a checkpoint and the memory it would take with these options.\n"
                   "Nothing is loaded.",
        .set = sets,
    };
    int exit_code = COMMAND_OK;
    if (!command_parse(&command, argc, argv, &exit_code)) return exit_code;
    struct sl_error error = {0};
    struct sl_engine_options wanted = engine_args_options(&options.engine, NULL);
    char *report = NULL;
    if (sl_inspect(&wanted, options.json, &report, &error) != SL_OK) return command_fail(&error);
    fputs(report, stdout);
    size_t bytes = strlen(report);
    if (bytes && report[bytes - 1] != '\n') putchar('\n');
    free(report);
    return command_flush(COMMAND_OK);
}
