/* The options of simulate and plan that describe a machine. */
#ifndef SLUICE_CLI_MACHINE_ARGS_H
#define SLUICE_CLI_MACHINE_ARGS_H

#include "runtime/cli/options.h"

struct machine_args {
    uint64_t gpu_bytes, ram_bytes;
    const char *link, *cpu, *disk, *memory; /* rates as given, or NULL */
};

/* Over struct machine_args. */
extern const struct option_spec machine_args_specs[];

/* Puts the rates given into the machine; SL_ERR_ARGUMENT for what is no rate such as 7, 7G or
 * 7GB/s. */
SL_MUST_USE enum sl_status machine_args_rates(const struct machine_args *args,
                                              struct sl_machine *machine, struct sl_error *error);

#endif
