/* Rates and sizes of a machine from the command line. */
#include "runtime/cli/machine_args.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FIELD(name) .offset = offsetof(struct machine_args, name)

const struct option_spec machine_args_specs[] = {
    {"gpu", 0, OPTION_SIZE, false, FIELD(gpu_bytes), .value = "SIZE",
     .help = "memory of the GPU, such as 80G; 0 for none"},
    {"ram", 0, OPTION_SIZE, false, FIELD(ram_bytes), .value = "SIZE", .help = "memory of the host"},
    {"pcie", 0, OPTION_TEXT, false, FIELD(link), .value = "RATE",
     .help = "host memory to GPU, such as 52GB/s (52)"},
    {"cpu", 0, OPTION_TEXT, false, FIELD(cpu), .value = "RATE",
     .help = "experts computed by the CPU, 0 for not at all (150)"},
    {"memory", 0, OPTION_TEXT, false, FIELD(memory), .value = "RATE",
     .help = "link and CPU together (178)"},
    {"nvme", 0, OPTION_TEXT, false, FIELD(disk), .value = "RATE",
     .help = "experts read from disk (7)"},
    {0},
};

static enum sl_status read_rate(const char *option, const char *text, double *rate,
                                struct sl_error *error)
{
    if (!text) return SL_OK;
    char *end;
    double value = strtod(text, &end);
    bool unit = strcmp(end, "") == 0 || strcmp(end, "G") == 0 || strcmp(end, "GB/s") == 0;
    if (end == text || !unit || !isfinite(value) || value < 0 || value > 1e5)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "option --%s: expected a rate such as 7GB/s, found \"%.80s\"", option,
                            text);
    *rate = value * 1e9;
    return SL_OK;
}

enum sl_status machine_args_rates(const struct machine_args *args, struct sl_machine *machine,
                                  struct sl_error *error)
{
    if (args->cpu && !args->memory) machine->memory_rate = 0; /* it belonged to the default */
    enum sl_status status = read_rate("pcie", args->link, &machine->link_rate, error);
    if (status == SL_OK) status = read_rate("cpu", args->cpu, &machine->cpu_rate, error);
    if (status == SL_OK) status = read_rate("nvme", args->disk, &machine->disk_rate, error);
    if (status == SL_OK) status = read_rate("memory", args->memory, &machine->memory_rate, error);
    return status;
}
