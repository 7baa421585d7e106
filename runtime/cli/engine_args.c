/* The shared model options; see the header. */
#include "runtime/cli/engine_args.h"

#include <string.h>

#define THREADS_MAX 4096
#define TOKENS_MAX  (1 << 24)

/* In the order of enum sl_io and enum sl_numerics. */
const char *const engine_args_io_names[] = {"auto", "io_uring", "pread", NULL};
static const char *const isa_names[] = {"auto", "portable", "avx2", "avx512", "amx", NULL};
const char *const engine_args_device_names[] = {"auto", "cpu", "gpu", NULL};
static const char *const tiers_names[] = {"auto", "exclusive", "inclusive", NULL};
static const char *const prefill_names[] = {"exact", "fast", NULL};
static const char *const numerics_names[] = {"exact", "f32", NULL};
static const char *const prefetch_names[] = {"auto", "off", "hash", NULL};
static const char *const policy_names[] = {"blend", "lru", "lfu", "static", NULL};
_Static_assert(SL_PREFETCH_AUTO == 0 && SL_PREFETCH_OFF == 1 && SL_PREFETCH_HASH == 2,
               "prefetch_names");
_Static_assert(SL_IO_AUTO == 0 && SL_IO_URING == 1 && SL_IO_PREAD == 2, "io_names");
_Static_assert(SL_TIERS_AUTO == 0 && SL_TIERS_EXCLUSIVE == 1 && SL_TIERS_INCLUSIVE == 2,
               "tiers_names");
_Static_assert(SL_NUMERICS_EXACT == 0 && SL_NUMERICS_F32 == 1, "numerics_names");

#define FIELD(name) .offset = offsetof(struct engine_args, name)

const struct option_spec engine_args_specs[] = {
    {"model", 'm', OPTION_TEXT, true, FIELD(model), .value = "DIR",
     .help = "directory of the checkpoint"},
    {"ram", 0, OPTION_SIZE, false, FIELD(ram_bytes), .value = "SIZE",
     .help = "memory for experts, such as 512M or 8G (what can be spared)"},
    {"device", 0, OPTION_CHOICE, false, FIELD(device), .choices = engine_args_device_names,
     .value = "KIND", .help = "who computes: cpu, gpu, or auto, a GPU if one is found (auto)"},
    {"gpu", 0, OPTION_SIZE, false, FIELD(gpu_bytes), .value = "SIZE",
     .help = "most of the GPU's memory that is taken (what is free)"},
    {"sim-device", 0, OPTION_SIZE, false, FIELD(sim_device_bytes), .value = "SIZE",
     .help = "a simulated device with that much memory for experts (none)"},
    {"sim-link", 0, OPTION_SIZE, false, FIELD(sim_link), .value = "SIZE",
     .help = "bytes per second of its link, each way (25G)"},
    {"tiers", 0, OPTION_CHOICE, false, FIELD(tiers), .choices = tiers_names, .value = "KIND",
     .help = "experts on the device and in RAM: exclusive, inclusive or auto (auto)"},
    {"experts", 0, OPTION_TEXT, false, FIELD(experts), .value = "FILE",
     .help = "packed; FILE,FILE: parts or copies; or \"unpacked\" (DIR/experts.sluice)"},
    {"ctx", 0, OPTION_INT, false, FIELD(context), 1, TOKENS_MAX, .value = "N",
     .help = "most tokens of prompt and answer together (4096)"},
    {"chunk", 0, OPTION_INT, false, FIELD(chunk), 1, TOKENS_MAX, .value = "N",
     .help = "prompt tokens computed at once (256)"},
    {"threads", 0, OPTION_INT, false, FIELD(threads), 1, THREADS_MAX, .value = "N",
     .help = "threads that compute (one per physical core)"},
    {"cpu-isa", 0, OPTION_CHOICE, false, FIELD(cpu_isa), .choices = isa_names, .value = "NAME",
     .help = "instruction set of the kernels: auto, portable, avx2, avx512 or amx (auto)"},
    {"prefill", 0, OPTION_CHOICE, false, FIELD(prefill), .choices = prefill_names, .value = "KIND",
     .help = "exact, or fast: long prompts through OpenBLAS where that is faster (exact)"},
    {"io", 0, OPTION_CHOICE, false, FIELD(io), .choices = engine_args_io_names, .value = "WAY",
     .help = "how experts are read: auto, io_uring or pread (auto)"},
    {"prefetch", 0, OPTION_CHOICE, false, FIELD(prefetch), .choices = prefetch_names,
     .value = "KIND",
     .help = "experts read ahead: auto, off, or hash, only what token ids tell (auto)"},
    {"prefetch-depth", 0, OPTION_INT, false, FIELD(prefetch_depth), 1, 2, .value = "N",
     .help = "layers that routers look ahead, 1 or 2 (1; with a GPU 2)"},
    {"policy", 0, OPTION_CHOICE, false, FIELD(policy), .choices = policy_names, .value = "NAME",
     .help = "which experts stay: blend, lru, lfu, or static as --profile says (blend)"},
    {"pin-layers", 0, OPTION_TEXT, false, FIELD(pinned), .value = "LIST",
     .help = "layers whose experts give way last, such as 0-2,42 (none)"},
    {"profile", 0, OPTION_TEXT, false, FIELD(profile), .value = "FILE",
     .help = "start warm from how experts were used before, and keep it for the next run"},
    {"machine", 0, OPTION_TEXT, false, FIELD(machine), .value = "FILE",
     .help = "figures of 'sluice bench host', or \"none\" (~/.cache/sluice/machine)"},
    {"buffered-io", 0, OPTION_FLAG, false, FIELD(buffered_io),
     .help = "read through the page cache, not around it"},
    {"numerics", 0, OPTION_CHOICE, false, FIELD(numerics), .choices = numerics_names,
     .value = "KIND", .help = "exact (as published) or f32 (for debugging) (exact)"},
    {0},
};

enum sl_device engine_args_device(int32_t choice)
{
    return choice == 1 ? SL_DEVICE_CPU : choice == 2 ? SL_DEVICE_GPU : SL_DEVICE_AUTO;
}

struct sl_engine_options engine_args_options(const struct engine_args *args,
                                             struct progress *progress)
{
    struct sl_engine_options options = sl_engine_options_default();
    options.model_dir = args->model;
    options.experts_file = args->experts;
    if (args->experts && strcmp(args->experts, "unpacked") == 0) options.experts_file = "";
    options.ram_bytes = args->ram_bytes;
    options.device = engine_args_device(args->device);
    options.gpu_bytes = args->gpu_bytes;
    options.sim_device_bytes = args->sim_device_bytes;
    options.sim_link_bytes_per_second = args->sim_link;
    options.tiers = (enum sl_tiers)args->tiers;
    options.threads = args->threads;
    if (args->cpu_isa > 0) options.cpu_isa = isa_names[args->cpu_isa];
    options.context_tokens = args->context;
    options.chunk_tokens = args->chunk;
    options.io = (enum sl_io)args->io;
    options.prefetch = (enum sl_prefetch)args->prefetch;
    options.prefetch_depth = args->prefetch_depth;
    options.policy = policy_names[args->policy];
    options.pinned_layers = args->pinned;
    options.heat_profile = args->profile;
    options.machine_profile = args->machine;
    if (args->machine && strcmp(args->machine, "none") == 0) options.machine_profile = "";
    options.numerics = (enum sl_numerics)args->numerics;
    options.fast_prefill = args->prefill == 1;
    options.buffered_io = args->buffered_io;
    if (progress) {
        options.progress = progress_step;
        options.progress_context = progress;
        options.say = progress_say;
        options.say_context = progress;
    }
    return options;
}

void engine_args_tell_gpu(const sl_engine *engine, struct progress *progress)
{
    struct sl_stats stats;
    sl_engine_stats(engine, &stats);
    if (stats.on_gpu || !stats.gpu[0] || !progress->shown) return;
    fprintf(stderr, "no GPU in use, the CPU computes: %s\n", stats.gpu);
}
