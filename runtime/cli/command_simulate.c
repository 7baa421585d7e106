/* `sluice simulate`: a routing trace through the offload engine's decisions. */
#include "runtime/cli/command.h"
#include "runtime/cli/machine_args.h"

#include <stdlib.h>
#include <string.h>

struct simulate_args {
    const char *trace;
    int32_t preset, policy, layers, experts, top, hash_layers;
    uint64_t expert_bytes, warm, tokens, seed;
    double dense_ms, recall[2], precision[2];
    bool json, inclusive, no_prefetch;
};

#define FIELD(name) .offset = offsetof(struct simulate_args, name)

static const char *const preset_names[] = {"base", "long-topics", "stress", NULL};
static const char *const policy_names[] = {"blend", "lru", "lfu", "static", "clairvoyant", NULL};

static const struct option_spec simulate_specs[] = {
    {"trace", 0, OPTION_TEXT, false, FIELD(trace), .value = "FILE",
     .help = "a recorded trace instead of synthetic routing"},
    {"preset", 0, OPTION_CHOICE, false, FIELD(preset), .choices = preset_names, .value = "NAME",
     .help = "synthetic routing: base, long-topics or stress (base)"},
    {"policy", 0, OPTION_CHOICE, false, FIELD(policy), .choices = policy_names, .value = "NAME",
     .help = "who gives way: blend, lru, lfu, static or clairvoyant (blend)"},
    {"layers", 0, OPTION_INT, false, FIELD(layers), 1, 1024, .value = "N", .help = "layers (43)"},
    {"width", 0, OPTION_INT, false, FIELD(experts), 2, 4096, .value = "N",
     .help = "experts of a layer (256)"},
    {"top", 0, OPTION_INT, false, FIELD(top), 1, 64, .value = "N",
     .help = "experts chosen for a token (6)"},
    {"hash-layers", 0, OPTION_INT, false, FIELD(hash_layers), 0, 1024, .value = "N",
     .help = "layers that choose by token id (3)"},
    {"expert-bytes", 0, OPTION_SIZE, false, FIELD(expert_bytes), .value = "SIZE",
     .help = "of one expert (12.75 MiB)"},
    {"dense-ms", 0, OPTION_NUMBER, false, FIELD(dense_ms), 0, 10000, .value = "X",
     .help = "a token's time outside its experts (4.3)"},
    {"recall", 0, OPTION_NUMBER, false, FIELD(recall[0]), 0, 1, .value = "X",
     .help = "misses that a router one layer early finds (0.46)"},
    {"precision", 0, OPTION_NUMBER, false, FIELD(precision[0]), 0.01, 1, .value = "X",
     .help = "of its guesses (0.71)"},
    {"recall-2", 0, OPTION_NUMBER, false, FIELD(recall[1]), 0, 1, .value = "X",
     .help = "the same of a router two layers early (0.36)"},
    {"precision-2", 0, OPTION_NUMBER, false, FIELD(precision[1]), 0.01, 1, .value = "X",
     .help = "of its guesses (0.58)"},
    {"no-prefetch", 0, OPTION_FLAG, false, FIELD(no_prefetch), .help = "fetch only on demand"},
    {"inclusive", 0, OPTION_FLAG, false, FIELD(inclusive),
     .help = "what the GPU holds stays in RAM as well"},
    {"warm", 0, OPTION_U64, false, FIELD(warm), .value = "N",
     .help = "tokens before counting begins (2000)"},
    {"tokens", 'n', OPTION_U64, false, FIELD(tokens), .value = "N", .help = "tokens (4000)"},
    {"seed", 0, OPTION_U64, false, FIELD(seed), .value = "N", .help = "of the routing (1)"},
    {"json", 0, OPTION_FLAG, false, FIELD(json), .help = "the report as JSON"},
    {0},
};

static struct simulate_args default_args(const struct sl_simulation *from)
{
    return (struct simulate_args){.layers = from->layers,
                                  .experts = from->experts,
                                  .top = from->top,
                                  .hash_layers = from->hash_layers,
                                  .expert_bytes = from->expert_bytes,
                                  .warm = from->warm_tokens,
                                  .tokens = from->tokens,
                                  .seed = from->seed,
                                  .dense_ms = from->dense_seconds * 1e3,
                                  .recall = {from->recall[0], from->recall[1]},
                                  .precision = {from->precision[0], from->precision[1]}};
}

static void apply(const struct simulate_args *args, struct sl_simulation *out)
{
    out->trace = args->trace;
    out->preset = preset_names[args->preset];
    out->policy = policy_names[args->policy];
    out->layers = args->layers;
    out->experts = args->experts;
    out->top = args->top;
    out->hash_layers = args->hash_layers;
    out->expert_bytes = args->expert_bytes;
    out->dense_seconds = args->dense_ms / 1e3;
    for (int32_t i = 0; i < 2; i++) {
        out->recall[i] = args->no_prefetch ? 0 : args->recall[i];
        out->precision[i] = args->precision[i];
    }
    out->hash_exact = !args->no_prefetch;
    out->inclusive = args->inclusive;
    out->warm_tokens = args->warm;
    out->tokens = args->tokens;
    out->seed = args->seed;
}

int command_simulate(int argc, char **argv)
{
    struct sl_simulation simulation = sl_simulation_default();
    struct simulate_args args = default_args(&simulation);
    struct machine_args machine = {.gpu_bytes = simulation.machine.gpu_bytes,
                                   .ram_bytes = simulation.machine.ram_bytes};
    const struct option_set sets[] = {{simulate_specs, &args}, {machine_args_specs, &machine}, {0}};
    const struct options_command command = {
        .name = "simulate",
        .usage = "[--trace FILE | --preset NAME] [options]",
        .summary = "Plays recorded or synthetic routing through residency, prefetch and dispatch\n"
                   "under a virtual clock. --gpu and --ram are the room for experts alone.",
        .set = sets,
    };
    int exit_code = COMMAND_OK;
    if (!command_parse(&command, argc, argv, &exit_code)) return exit_code;
    struct sl_error error = {0};
    apply(&args, &simulation);
    simulation.machine.gpu_bytes = machine.gpu_bytes;
    simulation.machine.ram_bytes = machine.ram_bytes;
    if (machine_args_rates(&machine, &simulation.machine, &error) != SL_OK)
        return command_usage("simulate", error.message);
    char *report = NULL;
    if (sl_simulate(&simulation, args.json, &report, &error) != SL_OK) return command_fail(&error);
    fputs(report, stdout);
    if (args.json) putchar('\n');
    free(report);
    return command_flush(COMMAND_OK);
}
