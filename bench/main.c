/* sluice-bench: measures one thing by name; every result is a line of JSON on stdout. */
#include "bench/bench.h"

#include <errno.h>
#include <getopt.h>
#include <string.h>
#include <unistd.h>

static const struct {
    const char *name, *help;
    int (*run)(const struct bench_options *options);
} benches[] = {
    {"ceilings", "memory bandwidth, and the disk of --file", bench_ceilings},
    {"generate", "prompt and decode speed of --model, experts in RAM", bench_generate},
    {"linear", "matrix products of the CPU, beside memory and multiply-adds", bench_linear},
    {"ops", "routed experts on the CPU, beside memory and arithmetic at their best", bench_ops},
    {"pool", "the worker pool by itself: empty loops and jobs", bench_pool},
    {"prefill-stream", "simulated: time to first token of the full model on an H100",
     bench_prefill_stream},
    {"prefill", "wide products by the exact kernels and through OpenBLAS", bench_prefill},
    {"residency", "simulated: hit rates of the policies by slots per layer", bench_residency},
    {"dispatch", "simulated: stream or compute, beside always the one or the other",
     bench_dispatch},
    {"hosts", "simulated: tokens/s of one H100 by the host's RAM", bench_hosts},
    {"decode-speed", "predicted: decode of the full model on an H100, beside the facts' bound",
     bench_decode_speed},
    {"cost", "what the offload engine's decisions take on this CPU", bench_cost},
    {"prediction", "misses of --model that were guessed ahead, by every way of guessing",
     bench_prediction},
    {"prefetch", "decoding with --model: nothing, the table, routers ahead; with a trace",
     bench_prefetch},
    {"disk", "experts of --bytes read at random: --file beside fio, or --parts beside --file",
     bench_disk},
};

static const struct option long_options[] = {
    {"model", required_argument, NULL, 'm'},   {"file", required_argument, NULL, 'f'},
    {"bytes", required_argument, NULL, 'b'},   {"depth", required_argument, NULL, 'd'},
    {"packed", no_argument, NULL, 'p'},        {"unpacked", no_argument, NULL, 'u'},
    {"share", required_argument, NULL, 'x'},   {"rounds", required_argument, NULL, 'r'},
    {"seconds", required_argument, NULL, 's'}, {"threads", required_argument, NULL, 't'},
    {"seed", required_argument, NULL, 'S'},    {"cpu-isa", required_argument, NULL, 'i'},
    {"commit", required_argument, NULL, 'c'},  {"tokens", required_argument, NULL, 'n'},
    {"parts", required_argument, NULL, 'P'},   {"trace", required_argument, NULL, 'T'},
    {"help", no_argument, NULL, 'h'},          {0},
};

static int usage(FILE *out)
{
    fprintf(out,
            "usage: sluice-bench BENCH [--model DIR] [--file FILE] [--parts FILE,FILE]\n"
            "                    [--bytes SIZE] [--depth N] [--packed|--unpacked] [--rounds N]\n"
            "                    [--seconds S] [--threads N] [--share X] [--cpu-isa NAME]\n"
            "                    [--tokens N] [--seed N] [--commit TEXT] [--trace FILE]\n");
    for (size_t i = 0; i < SL_COUNT_OF(benches); i++)
        fprintf(out, "  %-14s %s\n", benches[i].name, benches[i].help);
    return out == stdout ? 0 : 2;
}

/* A number within bounds, with K, M or G for powers of 1024. */
static bool parse_number(const char *text, double low, double high, double *out)
{
    static const char suffixes[] = "KMG";
    char *end;
    errno = 0;
    *out = strtod(text, &end);
    if (errno || end == text) return false;
    const char *suffix = *end ? strchr(suffixes, *end) : NULL;
    if (suffix) {
        *out *= (double)(1ull << (10 * (suffix - suffixes + 1)));
        end++;
    }
    return *end == 0 && *out >= low && *out <= high; /* NaN fails both */
}

static bool parse_int(const char *text, double low, double high, int32_t *out)
{
    double number;
    if (!parse_number(text, low, high, &number)) return false;
    *out = (int32_t)number;
    return true;
}

static bool parse_count(const char *text, double low, double high, uint64_t *out)
{
    double number;
    if (!parse_number(text, low, high, &number)) return false;
    *out = (uint64_t)number;
    return true;
}

static bool parse_option(int option, const char *text, struct bench_options *options)
{
    bool good = true;
    switch (option) {
    case 'f': options->file = text; break;
    case 'P': options->parts = text; break;
    case 'T': options->trace = text; break;
    case 'm': options->model = text; break;
    case 'c': options->commit = text; break;
    case 'i': options->isa = text; break;
    case 'p': options->unpacked = false; break;
    case 'u': options->unpacked = true; break;
    case 'b': good = parse_count(text, 4096, 512 << 20, &options->bytes); break;
    case 'd': good = parse_int(text, 1, 64, &options->depth); break;
    case 'r': good = parse_int(text, 1, BENCH_SAMPLES_MAX, &options->rounds); break;
    case 't': good = parse_int(text, 1, 1024, &options->threads); break;
    case 'n': good = parse_int(text, 16, 10000000, &options->tokens); break;
    case 'x': good = parse_number(text, 0.001, 1, &options->share); break;
    case 'S': good = parse_count(text, 0, 1e15, &options->seed); break;
    case 's': good = parse_number(text, 0.01, 600, &options->seconds); break;
    default: return false; /* getopt has said why */
    }
    if (!good) fprintf(stderr, "sluice-bench: %s: not a number that fits this option\n", text);
    return good;
}

int main(int argc, char **argv)
{
    const char *commit = getenv("SLUICE_COMMIT");
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    struct bench_options options = {
        .bytes = 13369344, /* one expert of DeepSeek-V4-Flash */
        .depth = 4,
        .rounds = 5,
        .share = 0.25,
        .seconds = 1,
        .threads = processors > 0 && processors <= 1024 ? (int32_t)processors : 1,
        .tokens = 8000,
        .seed = 1,
        .commit = commit ? commit : "",
    };
    for (int option; (option = getopt_long(argc, argv, "h", long_options, NULL)) != -1;) {
        if (option == 'h') return usage(stdout);
        if (!parse_option(option, optarg, &options)) return usage(stderr);
    }
    if (optind != argc - 1) return usage(stderr);
    for (size_t i = 0; i < SL_COUNT_OF(benches); i++)
        if (strcmp(argv[optind], benches[i].name) == 0) return benches[i].run(&options);
    fprintf(stderr, "sluice-bench: no benchmark \"%s\"\n", argv[optind]);
    return usage(stderr);
}
