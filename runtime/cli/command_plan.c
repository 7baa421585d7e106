/* `sluice plan`: would it fit, where would it live, how fast would it be. */
#include "runtime/cli/command.h"
#include "runtime/cli/machine_args.h"

#include <stdlib.h>
#include <string.h>

struct plan_options {
    const char *model, *shape, *profile;
    uint64_t dense_bytes;
    bool json, this_machine;
};

#define FIELD(name) .offset = offsetof(struct plan_options, name)

static const struct option_spec plan_specs[] = {
    {"model", 'm', OPTION_TEXT, false, FIELD(model), .value = "DIR",
     .help = "directory with the model's config.json; weights are not needed"},
    {"shape", 0, OPTION_TEXT, false, FIELD(shape), .value = "NAME",
     .help = "instead: a published shape, flash or pro (flash)"},
    {"dense", 0, OPTION_SIZE, false, FIELD(dense_bytes), .value = "SIZE",
     .help = "weights that every token reads (V4-Flash: 7.8 GB)"},
    {"this-machine", 0, OPTION_FLAG, false, FIELD(this_machine),
     .help = "with this machine's RAM and measured rates, and no GPU unless --gpu is given"},
    {"machine", 0, OPTION_TEXT, false, FIELD(profile), .value = "FILE",
     .help = "its figures of 'sluice bench host', or \"none\" (~/.cache/sluice/machine)"},
    {"json", 0, OPTION_FLAG, false, FIELD(json), .help = "the plan as JSON"},
    {0},
};

int command_plan(int argc, char **argv)
{
    struct sl_plan_options wanted = sl_plan_options_default();
    struct plan_options options = {0};
    struct machine_args machine = {.gpu_bytes = UINT64_MAX, .ram_bytes = UINT64_MAX};
    const struct option_set sets[] = {{plan_specs, &options}, {machine_args_specs, &machine}, {0}};
    const struct options_command command = {
        .name = "plan",
        .usage = "[-m DIR | --shape flash|pro] [options]",
        .summary = "Says whether a model fits on a machine, where its bytes would live, how fast\n"
                   "it would run and what would help. Nothing is downloaded or loaded. Without\n"
                   "options: V4-Flash on an H100 of 80 GiB in a host of 128 GiB.",
        .set = sets,
    };
    int exit_code = COMMAND_OK;
    if (!command_parse(&command, argc, argv, &exit_code)) return exit_code;
    if (options.model && options.shape) return command_usage("plan", "give -m or --shape");
    struct sl_error error = {0};
    if (options.profile && !options.this_machine)
        return command_usage("plan", "--machine goes with --this-machine");
    if (options.this_machine) sl_machine_this(&wanted.machine);
    if (machine.gpu_bytes != UINT64_MAX) wanted.machine.gpu_bytes = machine.gpu_bytes;
    if (machine.ram_bytes != UINT64_MAX) wanted.machine.ram_bytes = machine.ram_bytes;
    if (machine_args_rates(&machine, &wanted.machine, &error) != SL_OK)
        return command_usage("plan", error.message);
    wanted.model_dir = options.model;
    wanted.this_machine = options.this_machine;
    wanted.machine_profile = options.profile;
    if (options.profile && strcmp(options.profile, "none") == 0) wanted.machine_profile = "";
    wanted.dense_bytes = options.dense_bytes;
    if (options.shape) wanted.shape = options.shape;
    char *report = NULL;
    if (sl_plan(&wanted, options.json, &report, &error) != SL_OK) return command_fail(&error);
    fputs(report, stdout);
    if (options.json) putchar('\n');
    free(report);
    return command_flush(COMMAND_OK);
}
