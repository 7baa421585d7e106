/* `sluice pack` and `sluice verify`: packed files of experts, written and checked. */
#include "runtime/cli/command.h"

#include <stdlib.h>

struct pack_options {
    const char *model, *output;
    bool quiet;
};

#define FIELD(name) .offset = offsetof(struct pack_options, name)

static const struct option_spec pack_specs[] = {
    {"model", 'm', OPTION_TEXT, true, FIELD(model), .value = "DIR",
     .help = "directory of the checkpoint"},
    {"output", 'o', OPTION_TEXT, false, FIELD(output), .value = "FILE",
     .help = "where to write; FILE,FILE: in parts, one a disk (DIR/experts.sluice)"},
    {"quiet", 0, OPTION_FLAG, false, FIELD(quiet), .help = "no progress on the terminal"},
    {0},
};

static enum sl_status pack_model(const void *context, sl_progress_fn progress,
                                 void *progress_context, struct sl_error *error)
{
    const struct pack_options *options = context;
    return sl_pack(options->model, options->output, progress, progress_context, error);
}

int command_pack(int argc, char **argv)
{
    struct pack_options options = {0};
    const struct option_set sets[] = {{pack_specs, &options}, {0}};
    const struct options_command command = {
        .name = "pack",
        .usage = "-m DIR [-o FILE[,FILE...]]",
        .summary = "Writes the experts of a checkpoint as one file that is faster to read, or in\n"
                   "equal parts, so that several disks work together. A run that was cut off\n"
                   "goes on where it stopped.",
        .set = sets,
    };
    int exit_code = COMMAND_OK;
    if (!command_parse(&command, argc, argv, &exit_code)) return exit_code;
    return command_work(pack_model, &options, options.quiet);
}

struct verify_options {
    const char *file, *model;
    bool quiet;
};

#undef FIELD
#define FIELD(name) .offset = offsetof(struct verify_options, name)

static const struct option_spec verify_specs[] = {
    {"model", 'm', OPTION_TEXT, false, FIELD(model), .value = "DIR",
     .help = "checkpoint that the file must come from"},
    {"quiet", 0, OPTION_FLAG, false, FIELD(quiet), .help = "no progress on the terminal"},
    {0},
};

static enum sl_status verify_file(const void *context, sl_progress_fn progress,
                                  void *progress_context, struct sl_error *error)
{
    const struct verify_options *options = context;
    char *path = NULL;
    if (!options->file && asprintf(&path, "%s/experts.sluice", options->model) < 0)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for a file name");
    enum sl_status status =
        sl_verify(path ? path : options->file, options->model, progress, progress_context, error);
    free(path);
    return status;
}

int command_verify(int argc, char **argv)
{
    struct verify_options options = {0};
    const struct option_set sets[] = {{verify_specs, &options}, {0}};
    const struct options_command command = {
        .name = "verify",
        .usage = "FILE[,FILE...] [-m DIR] | -m DIR",
        .summary = "Reads a packed file, one part, or all parts or copies, and compares every\n"
                   "checksum, and the origin with DIR. Without FILE, DIR/experts.sluice is meant.",
        .set = sets,
        .operand = &options.file,
    };
    int exit_code = COMMAND_OK;
    if (!command_parse(&command, argc, argv, &exit_code)) return exit_code;
    if (!options.file && !options.model)
        return command_usage(command.name, "give the packed FILE or -m DIR");
    return command_work(verify_file, &options, options.quiet);
}
