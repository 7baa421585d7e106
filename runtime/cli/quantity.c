/* Quantities as text; see the header. */
#include "runtime/cli/quantity.h"

#include <inttypes.h>
#include <stdio.h>

struct quantity_text quantity_bytes(uint64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    struct quantity_text out;
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 1024 && unit + 1 < sizeof units / sizeof units[0]) {
        value /= 1024;
        unit++;
    }
    snprintf(out.text, sizeof out.text, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return out;
}

struct quantity_text quantity_rate(uint64_t bytes, uint64_t elapsed_ns)
{
    struct quantity_text out = {"-"};
    double rate = quantity_per_second(bytes, elapsed_ns);
    if (rate >= 1e9)
        snprintf(out.text, sizeof out.text, "%.2f GB/s", rate / 1e9);
    else if (elapsed_ns)
        snprintf(out.text, sizeof out.text, "%.1f MB/s", rate / 1e6);
    return out;
}

struct quantity_text quantity_duration(uint64_t elapsed_ns)
{
    struct quantity_text out;
    uint64_t seconds = elapsed_ns / 1000000000u;
    if (seconds >= 3600)
        snprintf(out.text, sizeof out.text, "%" PRIu64 ":%02u:%02u", seconds / 3600,
                 (unsigned)(seconds / 60 % 60), (unsigned)(seconds % 60));
    else if (seconds >= 60)
        snprintf(out.text, sizeof out.text, "%u:%02u", (unsigned)(seconds / 60),
                 (unsigned)(seconds % 60));
    else if (seconds >= 1)
        snprintf(out.text, sizeof out.text, "%.1f s", (double)elapsed_ns / 1e9);
    else
        snprintf(out.text, sizeof out.text, "%.*f ms", elapsed_ns < 10000000 ? 2 : 0,
                 (double)elapsed_ns / 1e6);
    return out;
}
