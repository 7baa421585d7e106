/* The offload engine's decisions on synthetic routing: hit rates of the policies, dispatch against
 * fixed choices, tokens/s of one H100 by the host's RAM, and what deciding costs on this machine.
 * All but `cost` and `speed` are simulated: they depend on the seed, not on the machine. */
#include "bench/bench.h"
#include "offload/simulate.h"
#include "offload/synthetic_trace.h"

#include <math.h>
#include <string.h>

#define LAYERS       43
#define EXPERTS      256
#define TOP          6
#define HASH_LAYERS  3
#define EXPERT_BYTES 13369344 /* 12.75 MiB */
#define H100_SLOTS   5140     /* in 64 GiB */
#define DENSE_NS     4.3e6    /* offload facts 4.1 */
#define DEVICE_RATE  2e12     /* the same: hit bytes at 2 TB/s */

static const char *const presets[] = {"base", "stress"};

static bool next_token(void *context, int32_t *token_id, uint16_t *chosen)
{
    synthetic_trace_next(context, token_id, chosen);
    return true;
}

static struct synthetic_options trace_options(const char *preset, int32_t hash_layers,
                                              uint64_t seed)
{
    struct synthetic_options options = {
        .layers = LAYERS, .experts = EXPERTS, .top = TOP, .hash_layers = hash_layers, .seed = seed};
    bool known = synthetic_preset(preset, &options);
    SL_ASSERT(known);
    return options;
}

static bool simulate(const char *preset, const struct simulate_options *options,
                     struct simulate_result *result)
{
    struct sl_error error = {0};
    struct synthetic_options shape = trace_options(preset, options->hash_layers, options->seed);
    struct synthetic_trace *trace = NULL;
    bool ok = synthetic_trace_create(&shape, &trace, &error) == SL_OK &&
              simulate_run(options, next_token, trace, result, &error) == SL_OK;
    synthetic_trace_destroy(trace);
    if (!ok) fprintf(stderr, "sluice-bench: %s\n", error.message);
    return ok;
}

static struct simulate_options simulate_options(const struct bench_options *options)
{
    return (struct simulate_options){.layers = LAYERS,
                                     .experts = EXPERTS,
                                     .top = TOP,
                                     .hash_layers = HASH_LAYERS,
                                     .dense_ns = DENSE_NS,
                                     .warm_tokens = options->tokens / 2,
                                     .tokens = options->tokens,
                                     .seed = options->seed};
}

static void print_value(const struct bench_options *options, const char *bench, const char *name,
                        const char *unit, double value, double ceiling)
{
    const struct bench_line line = {.bench = bench,
                                    .name = name,
                                    .unit = unit,
                                    .samples = &value,
                                    .count = 1,
                                    .ceiling = ceiling,
                                    .ratio = ceiling > 0 ? value / ceiling : 0};
    bench_print(options, &line);
}

/* ---- residency: hit rates by slots per layer ---- */

int bench_residency(const struct bench_options *options)
{
    static const int32_t slots[] = {16, 26, 44, 90, 120, 154};
    static const enum residency_policy policies[] = {RESIDENCY_CLAIRVOYANT, RESIDENCY_BLEND,
                                                     RESIDENCY_LRU, RESIDENCY_LFU, RESIDENCY_LRU};
    for (size_t p = 0; p < SL_COUNT_OF(presets); p++)
        for (size_t s = 0; s < SL_COUNT_OF(slots); s++) {
            double bound = 0;
            for (size_t k = 0; k < SL_COUNT_OF(policies); k++) {
                struct simulate_options wanted = simulate_options(options);
                struct simulate_result result;
                char name[64];
                wanted.policy = policies[k];
                wanted.by_layer = true;
                wanted.in_turn = k == SL_COUNT_OF(policies) - 1; /* as facts 3.4 counts */
                wanted.hash_layers = 0; /* score-routed layers only, as there */
                wanted.device_slots = slots[s] * LAYERS;
                if (!simulate(presets[p], &wanted, &result)) return 1;
                snprintf(name, sizeof name, "%s-%d-%s%s", presets[p], (int)slots[s],
                         residency_policy_name(policies[k]), wanted.in_turn ? "-in-turn" : "");
                double rate = simulate_hit_rate(&result);
                print_value(options, "residency", name, "hits", rate, bound);
                if (k == 0) bound = rate;
            }
        }
    return 0;
}

/* ---- dispatch: against always-stream and always-CPU ---- */

int bench_dispatch(const struct bench_options *options)
{
    static const struct {
        double link, cpu, together;
    } lanes[] = {{52e9, 100e9, 140e9},   {52e9, 200e9, 215e9}, {52e9, 330e9, 350e9},
                 {26e9, 110e9, 119.5e9}, {52e9, 30e9, 75e9},   {26e9, 20e9, 42e9}};
    static const int32_t slots[] = {16, 26, 44, 90, 120};
    static const enum dispatch_rule rules[] = {DISPATCH_ALWAYS_STREAM, DISPATCH_ALWAYS_CPU,
                                               DISPATCH_BEST};
    double worst = INFINITY;
    for (size_t l = 0; l < SL_COUNT_OF(lanes); l++)
        for (size_t s = 0; s < SL_COUNT_OF(slots); s++) {
            double better = 0;
            for (size_t r = 0; r < SL_COUNT_OF(rules); r++) {
                struct simulate_options wanted = simulate_options(options);
                struct simulate_result result;
                const struct rates_machine machine = {DEVICE_RATE, lanes[l].link, lanes[l].cpu, 0,
                                                      lanes[l].together};
                char name[64];
                rates_profile_make(&wanted.profile, EXPERT_BYTES, &machine);
                wanted.timed = true;
                wanted.tokens = options->tokens / 4;
                wanted.warm_tokens = options->tokens / 4;
                wanted.rule = rules[r];
                wanted.device_slots = slots[s] * LAYERS;
                wanted.host_slots = LAYERS * EXPERTS;
                if (!simulate("base", &wanted, &result)) return 1;
                snprintf(name, sizeof name, "link%.0f-cpu%.0f-slots%d-%s", lanes[l].link / 1e9,
                         lanes[l].cpu / 1e9, (int)slots[s],
                         r == 0   ? "stream"
                         : r == 1 ? "cpu"
                                  : "best");
                double speed = result.tokens_per_second;
                print_value(options, "dispatch", name, "tokens/s", speed, r == 2 ? better : 0);
                if (r == 2) worst = fmin(worst, speed / better);
                better = fmax(better, speed);
            }
        }
    print_value(options, "dispatch", "worst-to-better-of-both", "ratio", worst, 0);
    return 0;
}

/* ---- hosts: one H100 by the host's RAM ---- */

static struct simulate_options host_options(const struct bench_options *options, int32_t ram_gib,
                                            bool cpu)
{
    struct simulate_options wanted = simulate_options(options);
    const struct rates_machine machine = {DEVICE_RATE, 52e9, cpu ? 150e9 : 0, 7e9, 178e9};
    rates_profile_make(&wanted.profile, EXPERT_BYTES, &machine);
    /* The operating system, dense weights read once, KV: 16 GiB are kept free. */
    double room = (ram_gib - 16) * 1073741824.0 / EXPERT_BYTES;
    wanted.timed = true;
    wanted.device_slots = H100_SLOTS;
    wanted.host_slots = min_i32((int32_t)room, LAYERS * EXPERTS);
    wanted.inclusive = wanted.host_slots == LAYERS * EXPERTS;
    return wanted;
}

/* Routers applied `depth` layers early, and the table of the hash layers. */
static void guess(struct simulate_options *wanted, int32_t depth)
{
    static const struct simulate_ahead ahead[SIMULATE_AHEAD_MAX] = {
        {SIMULATE_RECALL_1, SIMULATE_PRECISION_1}, {SIMULATE_RECALL_2, SIMULATE_PRECISION_2}};
    wanted->hash_exact = true;
    wanted->look_ns = SIMULATE_LOOK_NS;
    for (int32_t i = 0; i < depth; i++)
        wanted->ahead[i] = ahead[i];
}

static void print_host(const struct bench_options *options, const char *stem,
                       const struct simulate_result *result)
{
    char name[96];
    double speed = result->tokens_per_second, tokens = (double)result->tokens;
    print_value(options, "hosts", stem, "tokens/s", speed, result->bound);
    snprintf(name, sizeof name, "%s-hits", stem);
    print_value(options, "hosts", name, "hits", simulate_hit_rate(result), 0);
    snprintf(name, sizeof name, "%s-hits-by-layer", stem);
    print_value(options, "hosts", name, "tokens/s", speed, result->bound_by_layer);
    for (int32_t i = 0; i < SIMULATE_LOST_COUNT; i++) {
        snprintf(name, sizeof name, "%s-lost-%s", stem, simulate_lost_name((enum simulate_lost)i));
        print_value(options, "hosts", name, "ms/token", result->lost_ns[i] / tokens / 1e6, 0);
    }
}

/* With prefetch: no router early, one layer, two; and under the plain name the best of these, as
 * the engine's lookahead finds it out in service. */
static bool bench_host(const struct bench_options *options, const char *preset, int32_t ram_gib,
                       bool cpu)
{
    char stem[64], name[80];
    struct simulate_options wanted = host_options(options, ram_gib, cpu);
    struct simulate_result result, best = {0};
    snprintf(stem, sizeof stem, "%s-%dGiB%s", preset, (int)ram_gib, cpu ? "-cpu" : "");
    if (!simulate(preset, &wanted, &result)) return false;
    print_host(options, stem, &result);
    for (int32_t depth = 0; depth <= SIMULATE_AHEAD_MAX; depth++) {
        guess(&wanted, depth);
        if (!simulate(preset, &wanted, &result)) return false;
        snprintf(name, sizeof name, "%s-ahead-%d", stem, (int)depth);
        print_value(options, "hosts", name, "tokens/s", result.tokens_per_second, result.bound);
        if (result.tokens_per_second > best.tokens_per_second) best = result;
    }
    snprintf(name, sizeof name, "%s-prefetch", stem);
    print_host(options, name, &best);
    return true;
}

int bench_hosts(const struct bench_options *options)
{
    static const int32_t ram_gib[] = {64, 96, 128, 192, 256};
    for (size_t p = 0; p < SL_COUNT_OF(presets); p++)
        for (size_t r = 0; r < SL_COUNT_OF(ram_gib); r++)
            for (int32_t cpu = 0; cpu < 2; cpu++)
                if (!bench_host(options, presets[p], ram_gib[r], cpu)) return 1;
    return 0;
}

/* ---- cost of deciding ---- */

int bench_cost(const struct bench_options *options)
{
    for (size_t p = 0; p < SL_COUNT_OF(presets); p++) {
        double samples[BENCH_SAMPLES_MAX];
        int32_t rounds = max_i32(1, min_i32(options->rounds, BENCH_SAMPLES_MAX));
        char name[64];
        for (int32_t round = 0; round < rounds; round++) {
            struct simulate_options wanted = simulate_options(options);
            struct simulate_result result;
            const struct rates_machine machine = {DEVICE_RATE, 52e9, 150e9, 7e9, 178e9};
            rates_profile_make(&wanted.profile, EXPERT_BYTES, &machine);
            wanted.timed = true;
            guess(&wanted, SIMULATE_AHEAD_MAX);
            wanted.device_slots = H100_SLOTS;
            wanted.host_slots = LAYERS * EXPERTS - H100_SLOTS;
            wanted.warm_tokens = 0;
            uint64_t began = bench_now_ns();
            if (!simulate(presets[p], &wanted, &result)) return 1;
            samples[round] =
                (double)(bench_now_ns() - began) / 1e3 / ((double)wanted.tokens * LAYERS);
        }
        /* The routing itself is made within this time as well. */
        snprintf(name, sizeof name, "%s-whole-layer", presets[p]);
        struct bench_line line = {
            .bench = "cost", .name = name, .unit = "us/layer", .samples = samples, .count = rounds};
        bench_print(options, &line);
        for (int32_t round = 0; round < rounds; round++)
            samples[round] *= LAYERS; /* us a token are s a million */
        snprintf(name, sizeof name, "%s-million-tokens", presets[p]);
        line.unit = "s";
        bench_print(options, &line);
    }
    return 0;
}
