/* Time to the first token of the full model on an H100, predicted: prompts of several lengths, with
 * none, about half and all of the experts on the device, from RAM and from disk, beside what no
 * schedule could beat at the same rates; and when it pays to bring layers ahead of
 * their routers. */
#include "bench/bench.h"
#include "bench/prefill_pass.h"

#include <math.h>
#include <string.h>

#define ALL          (PREFILL_LAYERS * PREFILL_EXPERTS)
#define HALF         5140 /* 64 GiB: 47 % */
#define STREAM_SLOTS (2 * PREFILL_EXPERTS)
#define CHUNK        8192
#define LINK         52e9
#define LINK_SLOW    26e9
#define DISK         7e9

static void print_value(const struct bench_options *options, const char *name, const char *what,
                        const char *unit, double value, double ceiling)
{
    char text[96];
    if (value <= 0) return; /* shares of nothing are left out */
    snprintf(text, sizeof text, "%s%s", name, what);
    const struct bench_line line = {.bench = "prefill-stream",
                                    .name = text,
                                    .unit = unit,
                                    .samples = &value,
                                    .count = 1,
                                    .ceiling = ceiling,
                                    .ratio = ceiling > 0 ? ceiling / value : 0};
    bench_print(options, &line);
}

static bool run(const struct prefill_options *wanted, struct prefill_result *result)
{
    struct sl_error error = {0};
    if (prefill_pass_run(wanted, result, &error) == SL_OK) return true;
    fprintf(stderr, "sluice-bench: %s\n", error.message);
    return false;
}

/* Prompts by length, share on the device and where the rest comes from. */
static bool run_table(const struct bench_options *options)
{
    static const int32_t prompts[] = {128, 1024, 4096, 16384, 65536};
    static const struct {
        const char *name;
        int32_t slots, chunk;
        double link, disk;
    } places[] = {{"0-ram", 0, CHUNK, LINK, 0},
                  {"47-ram", HALF, CHUNK, LINK, 0},
                  {"100", ALL, CHUNK, LINK, 0},
                  {"47-ram-chunk-16384", HALF, 2 * CHUNK, LINK, 0},
                  {"47-ram-pcie4", HALF, CHUNK, LINK_SLOW, 0},
                  {"0-disk", 0, CHUNK, LINK, DISK},
                  {"47-disk", HALF, CHUNK, LINK, DISK}};
    for (size_t p = 0; p < SL_COUNT_OF(places); p++)
        for (size_t i = 0; i < SL_COUNT_OF(prompts); i++) {
            struct prefill_options wanted = {.link = places[p].link,
                                             .disk = places[p].disk,
                                             .device_slots = places[p].slots,
                                             .stream_slots =
                                                 places[p].slots == ALL ? 0 : STREAM_SLOTS,
                                             .chunk_tokens = places[p].chunk,
                                             .prompt_tokens = prompts[i],
                                             .seed = options->seed};
            struct prefill_result result;
            char name[64];
            if (prompts[i] > options->tokens * 16) continue; /* a short run, by --tokens */
            if (!run(&wanted, &result)) return false;
            snprintf(name, sizeof name, "%s-prompt-%d", places[p].name, (int)prompts[i]);
            print_value(options, name, "", "s", result.seconds, result.floor_seconds);
            print_value(options, name, "-link", "busy", result.link_share, 0);
            print_value(options, name, "-gpu", "busy", result.gpu_share, 0);
            print_value(options, name, "-ahead", "layers", result.ahead_share, 0);
        }
    return true;
}

/* Where the program goes over from asking to bringing ahead, and what each would have cost. */
static bool run_threshold(const struct bench_options *options)
{
    static const int32_t prompts[] = {32, 64, 128, 256, 512, 1024, 2048};
    static const char *const modes[] = {"auto", "chosen", "ahead"};
    for (size_t i = 0; i < SL_COUNT_OF(prompts); i++) {
        double seconds[3] = {0}, ahead = 0;
        if (prompts[i] > options->tokens * 16) continue;
        for (int mode = PREFILL_AUTO; mode <= PREFILL_AHEAD; mode++) {
            struct prefill_options wanted = {.link = LINK,
                                             .device_slots = HALF,
                                             .stream_slots = STREAM_SLOTS,
                                             .chunk_tokens = CHUNK,
                                             .prompt_tokens = prompts[i],
                                             .mode = (enum prefill_mode)mode,
                                             .seed = options->seed};
            struct prefill_result result;
            if (!run(&wanted, &result)) return false;
            seconds[mode] = result.seconds;
            if (mode == PREFILL_AUTO) ahead = result.ahead_share;
        }
        for (int mode = PREFILL_AUTO; mode <= PREFILL_AHEAD; mode++) {
            char name[64];
            snprintf(name, sizeof name, "threshold-%d-%s", (int)prompts[i], modes[mode]);
            print_value(options, name, "", "s", seconds[mode], fmin(seconds[1], seconds[2]));
            if (mode == PREFILL_AUTO) print_value(options, name, "-ahead", "layers", ahead, 0);
        }
    }
    return true;
}

int bench_prefill_stream(const struct bench_options *options)
{
    return run_table(options) && run_threshold(options) ? 0 : 1;
}
