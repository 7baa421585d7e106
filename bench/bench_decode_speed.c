/* Predicted decode speed of the full model on an H100, by the share of experts that lie in device
 * slots, beside the bound of offload facts 4.1. Bytes are counted from the published shapes, a
 * layer's experts are given to the lanes by the program's own dispatch, misses of a layer are
 * binomial. Everything else is an assumption, named below, until a GPU has measured it. */
#include "bench/bench.h"
#include "offload/dispatch.h"

#include <math.h>
#include <string.h>

/* Published shapes. */
#define LAYERS       43
#define LAYERS_CSA   21 /* ratio 4 */
#define LAYERS_HCA   20 /* ratio 128 */
#define TOP          6
#define EXPERT_BYTES 13369344.0
#define ROW_BYTES    584.0
#define KEY_BYTES    68.0
#define WINDOW       128.0
#define SELECTED     512.0

/* Assumed: an H100's memory as copies see it (facts 4), the ratios to it that the kernels are to
 * reach, the ratio of the link's best, and the share of a resident step that launches and meetings
 * of host and device may take. */
#define COPY_RATE       2.8e12
#define LINEAR_RATIO    0.80
#define EXPERT_RATIO    0.80
#define ATTENTION_RATIO 0.60
#define LAUNCH_SHARE    0.10
/* Or, instead of that share, what a pass is recorded as today: launches in a layer, more of them
 * with an indexer, before and after the layers, and the gap before each on an H100. */
#define LAUNCHES_LAYER 18
#define LAUNCHES_CSA   4
#define LAUNCHES_HEAD  9
#define LAUNCH_NS      1500.0
/* What facts 4.1 assumes. */
#define FACTS_DENSE_NS 4.3e6
#define FACTS_HIT_RATE 2e12

static const double hit_rates[] = {0.45, 0.60, 0.75, 0.90, 1.0};

struct host {
    const char *name;
    double link, cpu, memory; /* bytes/s; cpu 0: none; both together */
    double expert_ratio;
    double context;   /* tokens */
    bool as_recorded; /* every launch counts, not the share that is aimed at */
};

static const struct host hosts[] = {
    {"link 52", 52e9, 0, 0, EXPERT_RATIO, 4096, false},
    {"link 26", 26e9, 0, 0, EXPERT_RATIO, 4096, false},
    {"link 52, CPU 100", 52e9, 100e9, 140e9, EXPERT_RATIO, 4096, false},
    {"link 52, CPU 200", 52e9, 200e9, 215e9, EXPERT_RATIO, 4096, false},
    {"link 52, experts at a third", 52e9, 0, 0, 0.34, 4096, false},
    {"link 52, context 256k", 52e9, 0, 0, EXPERT_RATIO, 262144, false},
    {"link 52, every launch 1.5 us", 52e9, 0, 0, EXPERT_RATIO, 4096, true},
};

/* Bytes of weights outside routed experts that a token reads. */
static double dense_bytes(void)
{
    double fp8 = 1.0 + 1.0 / 16384, d = 4096;
    double layer = fp8 * (1024 * d + 32768.0 * 1024 + 512 * d + 8192 * d + d * 8192 + 3 * 2048 * d);
    layer += 2 * 256 * d + 2 * 4 * 24 * 4 * d; /* router; hyper-connections, two sites */
    double csa = 2 * 2 * 1024 * d + fp8 * 8192 * 1024 + 2 * 64 * d + 2 * 2 * 256 * d;
    double hca = 2 * 2 * 512 * d;
    return LAYERS * layer + LAYERS_CSA * csa + LAYERS_HCA * hca + 2 * 129280 * d;
}

/* Bytes of cached rows and keys that a token reads at a context. */
static double cache_bytes(double context)
{
    double csa = context / 4 * KEY_BYTES + fmin(SELECTED, context / 4) * ROW_BYTES;
    double hca = context / 128 * ROW_BYTES;
    return LAYERS * WINDOW * ROW_BYTES + LAYERS_CSA * csa + LAYERS_HCA * hca;
}

static double launches_of_a_pass(void)
{
    return LAYERS * LAUNCHES_LAYER + LAYERS_CSA * LAUNCHES_CSA + LAUNCHES_HEAD;
}

/* A layer with so many misses, all of them in RAM, ns. */
static double layer_ns(const struct rates *rates, int32_t misses)
{
    struct dispatch_expert experts[TOP];
    struct dispatch_decision decisions[TOP];
    for (int32_t i = 0; i < TOP; i++)
        experts[i] =
            (struct dispatch_expert){.expert_idx = i,
                                     .tokens = 1,
                                     .place = i < misses ? DISPATCH_AT_HOST : DISPATCH_AT_DEVICE};
    struct dispatch_problem problem = {
        .rates = rates, .experts = experts, .count = TOP, .streams_max = TOP};
    return (double)dispatch_choose(&problem, decisions);
}

/* Mean over a binomial number of misses. */
static double experts_ns(const struct rates *rates, double hit_rate)
{
    double sum = 0, ways = 1;
    for (int32_t m = 0; m <= TOP; m++) {
        double share = ways * pow(1 - hit_rate, m) * pow(hit_rate, TOP - m);
        if (share > 0) sum += share * layer_ns(rates, m);
        ways = ways * (TOP - m) / (m + 1);
    }
    return LAYERS * sum;
}

static double facts_tokens_per_second(const struct host *host, double hit_rate)
{
    double bytes = LAYERS * TOP * EXPERT_BYTES;
    double lanes = host->cpu > 0 ? host->memory : host->link;
    double hits = hit_rate * bytes / FACTS_HIT_RATE, misses = (1 - hit_rate) * bytes / lanes;
    return 1 / (FACTS_DENSE_NS * 1e-9 + fmax(hits, misses));
}

static bool predict(const struct host *host, double hit_rate, double *tokens_per_second)
{
    struct rates_machine machine = {.device = COPY_RATE * host->expert_ratio,
                                    .link = host->link,
                                    .cpu = host->cpu,
                                    .memory = host->memory};
    struct rates_profile profile;
    struct rates rates;
    rates_profile_make(&profile, (uint64_t)EXPERT_BYTES, &machine);
    if (rates_init(&rates, &profile, NULL) != SL_OK) return false;
    double weights = dense_bytes() / (COPY_RATE * LINEAR_RATIO) * 1e9;
    double attention = cache_bytes(host->context) / (COPY_RATE * ATTENTION_RATIO) * 1e9;
    double resident = weights + attention + experts_ns(&rates, 1);
    double launches = resident * LAUNCH_SHARE / (1 - LAUNCH_SHARE);
    if (host->as_recorded) launches = LAUNCH_NS * launches_of_a_pass();
    double token_ns = weights + attention + launches + experts_ns(&rates, hit_rate);
    *tokens_per_second = 1e9 / token_ns;
    return true;
}

int bench_decode_speed(const struct bench_options *options)
{
    fprintf(
        stderr,
        "predicted, not measured: copies at %.1f TB/s; linears %.2f, experts %.2f, attention "
        "%.2f of that; launches %.0f%% of a resident step (as recorded: %.0f); %.2f GB of weights "
        "a token\n",
        COPY_RATE / 1e12, LINEAR_RATIO, EXPERT_RATIO, ATTENTION_RATIO, 100 * LAUNCH_SHARE,
        launches_of_a_pass(), dense_bytes() / 1e9);
    for (size_t h = 0; h < SL_COUNT_OF(hosts); h++)
        for (size_t i = 0; i < SL_COUNT_OF(hit_rates); i++) {
            char name[64];
            double value;
            if (!predict(&hosts[h], hit_rates[i], &value)) return 1;
            snprintf(name, sizeof name, "%s, hits %.2f", hosts[h].name, hit_rates[i]);
            double facts = facts_tokens_per_second(&hosts[h], hit_rates[i]);
            struct bench_line line = {.bench = "decode-speed",
                                      .name = name,
                                      .unit = "tokens/s",
                                      .samples = &value,
                                      .count = 1,
                                      .ceiling = facts,
                                      .ratio = value / facts};
            bench_print(options, &line);
        }
    return 0;
}
