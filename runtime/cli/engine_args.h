/* The options that every command which opens a model shares. */
#ifndef SLUICE_CLI_ENGINE_ARGS_H
#define SLUICE_CLI_ENGINE_ARGS_H

#include "runtime/cli/options.h"
#include "runtime/cli/progress.h"

struct engine_args {
    const char *model;                   /* directory */
    const char *experts;                 /* file, "unpacked", or NULL: look in the directory */
    uint64_t ram_bytes;                  /* 0: what the machine can spare */
    uint64_t sim_device_bytes, sim_link; /* of a simulated device, and bytes/s; 0: none, usual */
    int32_t device;                      /* 0: auto, 1: cpu, 2: gpu */
    uint64_t gpu_bytes;                  /* 0: what is free */
    int32_t tiers;                       /* enum sl_tiers */
    int32_t threads;                     /* 0: one per core */
    int32_t context;                     /* tokens; 0: the library's choice */
    int32_t chunk;                       /* tokens; 0: the library's choice */
    int32_t io, numerics;                /* enum sl_io, enum sl_numerics */
    int32_t cpu_isa;                     /* 0: the library's choice */
    int32_t prefill;                     /* 0: exact, 1: fast */
    int32_t prefetch;                    /* enum sl_prefetch */
    int32_t prefetch_depth;
    int32_t policy;      /* of policy_names */
    const char *pinned;  /* layers; NULL: none */
    const char *profile; /* file of how experts were used; NULL: none */
    const char *machine; /* file of `bench host`, "none", or NULL: the usual */
    bool buffered_io;
};

/* The words of --io and --device, NULL-terminated, and what the latter mean. */
extern const char *const engine_args_io_names[];
extern const char *const engine_args_device_names[];
enum sl_device engine_args_device(int32_t choice);

/* Over struct engine_args. */
extern const struct option_spec engine_args_specs[];

/* What the library wants to know; strings stay borrowed. `progress` may be NULL. */
struct sl_engine_options engine_args_options(const struct engine_args *args,
                                             struct progress *progress);

/* After opening, on a terminal: why the CPU computes although a GPU would have been taken. */
void engine_args_tell_gpu(const sl_engine *engine, struct progress *progress);

#endif
