/* Clock, percentiles and result lines of the benchmarks; see the header. */
#include "bench/bench.h"

#include <jansson.h>
#include <math.h>
#include <string.h>
#include <time.h>

uint64_t bench_now_ns(void)
{
    struct timespec now;
    SL_ASSERT(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_percentile(double *samples, int32_t count, double percent)
{
    SL_ASSERT(count > 0 && percent >= 0 && percent <= 100);
    qsort(samples, (size_t)count, sizeof *samples, compare_doubles);
    double at = percent / 100 * (count - 1);
    int32_t below = (int32_t)at, above = min_i32(below + 1, count - 1);
    return samples[below] + (samples[above] - samples[below]) * (at - below);
}

/* The processor's name as the system gives it. */
static void read_machine(char *name, size_t bytes)
{
    char line[256];
    FILE *file = fopen("/proc/cpuinfo", "r");
    snprintf(name, bytes, "unknown");
    while (file && fgets(line, sizeof line, file)) {
        char *value = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !value) continue;
        value[strcspn(value, "\n")] = 0;
        snprintf(name, bytes, "%s", value + 2);
        break;
    }
    if (file) fclose(file);
}

/* The median of paired ratios and its interval, from their order alone: how many of `count` draws
 * lie below the median is binomial, near enough to normal. */
static void add_ratios(json_t *object, double *ratios, int32_t count)
{
    double half = 0.98 * sqrt(count), middle = (count - 1) / 2.0;
    json_object_set_new(object, "ratio", json_real(bench_percentile(ratios, count, 50)));
    if (count < 6) return;
    int32_t low = max_i32(0, (int32_t)floor(middle - half));
    int32_t high = min_i32(count - 1, (int32_t)ceil(middle + half));
    json_object_set_new(object, "ratio_low", json_real(ratios[low]));
    json_object_set_new(object, "ratio_high", json_real(ratios[high]));
}

void bench_print(const struct bench_options *options, const struct bench_line *line)
{
    char machine[128];
    read_machine(machine, sizeof machine);
    double p50 = bench_percentile(line->samples, line->count, 50);
    json_t *object =
        json_pack("{s:s, s:s, s:f, s:s, s:i, s:f, s:f, s:f, s:I, s:s, s:s}", "bench", line->bench,
                  "case", line->name, "value", p50, "unit", line->unit, "n", (int)line->count,
                  "p10", bench_percentile(line->samples, line->count, 10), "p50", p50, "p90",
                  bench_percentile(line->samples, line->count, 90), "seed",
                  (json_int_t)options->seed, "machine", machine, "commit", options->commit);
    SL_ASSERT(object);
    if (line->ceiling > 0) {
        json_object_set_new(object, "ceiling", json_real(line->ceiling));
        if (line->ratios)
            add_ratios(object, line->ratios, line->count);
        else
            json_object_set_new(object, "ratio", json_real(line->ratio));
    }
    json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(4));
    putchar('\n');
    fflush(stdout);
    json_decref(object);
}
