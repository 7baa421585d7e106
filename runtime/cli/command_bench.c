/* `sluice bench host`: what this machine can do with experts, kept for later runs. */
#include "runtime/cli/command.h"
#include "runtime/cli/engine_args.h"

#include <stdlib.h>
#include <string.h>

struct bench_options {
    const char *model, *experts, *file, *profile, *isa;
    double seconds;
    int32_t threads, io, device;
    uint64_t sim_device_bytes, sim_link;
    bool json, buffered_io;
};

#define FIELD(name) .offset = offsetof(struct bench_options, name)

static const struct option_spec bench_specs[] = {
    {"model", 'm', OPTION_TEXT, false, FIELD(model), .value = "DIR",
     .help = "measure with this checkpoint's experts and their files"},
    {"experts", 0, OPTION_TEXT, false, FIELD(experts), .value = "FILE",
     .help = "packed; FILE,FILE: parts or copies; or \"unpacked\" (DIR/experts.sluice)"},
    {"file", 'f', OPTION_TEXT, false, FIELD(file), .value = "FILE",
     .help = "measure the disk with this file"},
    {"io", 0, OPTION_CHOICE, false, FIELD(io), .choices = engine_args_io_names, .value = "WAY",
     .help = "how experts are read: auto, io_uring or pread (auto)"},
    {"buffered-io", 0, OPTION_FLAG, false, FIELD(buffered_io),
     .help = "read through the page cache, not around it"},
    {"device", 0, OPTION_CHOICE, false, FIELD(device), .choices = engine_args_device_names,
     .value = "KIND",
     .help = "whose link: gpu, cpu for none, or auto, a GPU if one is found (auto)"},
    {"sim-device", 0, OPTION_SIZE, false, FIELD(sim_device_bytes), .value = "SIZE",
     .help = "instead: a simulated device with that much memory (none)"},
    {"sim-link", 0, OPTION_SIZE, false, FIELD(sim_link), .value = "SIZE",
     .help = "bytes per second of its link, each way (25G)"},
    {"seconds", 0, OPTION_NUMBER, false, FIELD(seconds), 0.01, 60, .value = "S",
     .help = "of each of about twenty measurements, or forty with a device (0.5)"},
    {"threads", 0, OPTION_INT, false, FIELD(threads), 1, 1024, .value = "N",
     .help = "threads that compute (one per physical core)"},
    {"cpu-isa", 0, OPTION_TEXT, false, FIELD(isa), .value = "NAME",
     .help = "instruction set: portable, avx2, avx512 or amx (the best)"},
    {"profile", 'o', OPTION_TEXT, false, FIELD(profile), .value = "FILE",
     .help = "keep the figures here; \"-\": nowhere (~/.cache/sluice/machine)"},
    {"json", 0, OPTION_FLAG, false, FIELD(json), .help = "the figures as JSON"},
    {0},
};

static int bench_host(int argc, char **argv)
{
    struct bench_options options = {0};
    const struct option_set sets[] = {{bench_specs, &options}, {0}};
    const struct options_command command = {
        .name = "bench host",
        .usage = "[-m DIR] [options]",
        .summary = "Measures memory, experts on the CPU, reads of the disk and copies to a device\n"
                   "and back at the size of an expert, alone and together, and keeps the figures\n"
                   "as this machine's profile.",
        .set = sets,
    };
    int exit_code = COMMAND_OK;
    if (!command_parse(&command, argc, argv, &exit_code)) return exit_code;
    struct sl_host_options wanted = {.model_dir = options.model,
                                     .file = options.file,
                                     .profile = options.profile,
                                     .seconds = options.seconds,
                                     .threads = options.threads,
                                     .cpu_isa = options.isa,
                                     .experts_file = options.experts,
                                     .io = (enum sl_io)options.io,
                                     .device = engine_args_device(options.device),
                                     .sim_device_bytes = options.sim_device_bytes,
                                     .sim_link_bytes_per_second = options.sim_link,
                                     .buffered_io = options.buffered_io};
    if (options.experts && strcmp(options.experts, "unpacked") == 0) wanted.experts_file = "";
    if (options.profile && strcmp(options.profile, "-") == 0) wanted.profile = "";
    struct sl_error error = {0};
    char *report = NULL;
    if (sl_bench_host(&wanted, options.json, &report, &error) != SL_OK) return command_fail(&error);
    fputs(report, stdout);
    size_t bytes = strlen(report);
    if (bytes && report[bytes - 1] != '\n') putchar('\n');
    free(report);
    return command_flush(COMMAND_OK);
}

int command_bench(int argc, char **argv)
{
    static const char help[] =
        "usage: sluice bench WHAT [options]\n\n"
        "  host      this machine: memory, experts on the CPU, disk and GPU\n\n"
        "'sluice bench WHAT --help' explains one.\n";
    if (argc == 0) {
        fputs(help, stderr);
        return COMMAND_USAGE;
    }
    if (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0) {
        fputs(help, stdout);
        return command_flush(COMMAND_OK);
    }
    if (strcmp(argv[0], "host") == 0) return bench_host(argc - 1, argv + 1);
    char message[120];
    snprintf(message, sizeof message, "expected host, found \"%.60s\"", argv[0]);
    return command_usage("bench", message);
}
