/* `sluice synth`: a random checkpoint to try things on. */
#include "runtime/cli/command.h"

#define LAYERS_MAX 255

struct synth_options {
    const char *directory;
    int32_t preset, layers;
    uint64_t seed;
    bool quiet;
};

#define FIELD(name) .offset = offsetof(struct synth_options, name)

static const char *const preset_names[] = {"tiny", "small", "flash", NULL};

static const struct option_spec synth_specs[] = {
    {"preset", 0, OPTION_CHOICE, false, FIELD(preset), .choices = preset_names, .value = "NAME",
     .help = "tiny, small or flash, the model's real shape (tiny)"},
    {"output", 'o', OPTION_TEXT, true, FIELD(directory), .value = "DIR",
     .help = "directory to write"},
    {"layers", 0, OPTION_INT, false, FIELD(layers), 1, LAYERS_MAX, .value = "N",
     .help = "layers instead of the preset's"},
    {"seed", 0, OPTION_U64, false, FIELD(seed), .value = "N",
     .help = "the same seed writes the same bytes (0)"},
    {"quiet", 0, OPTION_FLAG, false, FIELD(quiet), .help = "no progress on the terminal"},
    {0},
};

static enum sl_status write_model(const void *context, sl_progress_fn progress,
                                  void *progress_context, struct sl_error *error)
{
    const struct synth_options *options = context;
    return sl_synth(preset_names[options->preset], options->directory, options->layers,
                    options->seed, progress, progress_context, error);
}

int command_synth(int argc, char **argv)
{
    struct synth_options options = {0};
    const struct option_set sets[] = {{synth_specs, &options}, {0}};
    const struct options_command command = {
        .name = "synth",
        .usage = "--preset NAME -o DIR [options]",
        .summary = "Writes a checkpoint of random weights in the published format. Its answers\n"
                   "mean nothing; its sizes and reads are those of a real one.",
        .set = sets,
    };
    int exit_code = COMMAND_OK;
    if (!command_parse(&command, argc, argv, &exit_code)) return exit_code;
    return command_work(write_model, &options, options.quiet);
}
