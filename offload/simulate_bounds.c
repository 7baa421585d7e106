/* What no schedule of the lanes could beat, to set a simulated run beside; see simulate.h. */
#include "offload/simulate.h"

#include <math.h>

double simulate_hit_rate(const struct simulate_result *result)
{
    return result->accesses ? (double)result->device_hits / (double)result->accesses : 0;
}

double simulate_bound(const struct simulate_options *options, double hits, double host_misses,
                      double disk_misses)
{
    const struct rate *lanes = options->profile.lanes;
    double bytes = (double)options->profile.expert_bytes;
    bool up = lanes[RATES_UP].bytes_per_second > 0 && options->device_slots > 0;
    bool cpu = lanes[RATES_CPU].bytes_per_second > 0;
    double lane = up && cpu ? lanes[RATES_UP].shared_bytes_per_second +
                                  lanes[RATES_CPU].shared_bytes_per_second
                  : up ? lanes[RATES_UP].bytes_per_second
                       : lanes[RATES_CPU].bytes_per_second;
    double longest = host_misses > 0 ? host_misses * bytes / lane : 0;
    if (hits > 0) longest = fmax(longest, hits * bytes / lanes[RATES_DEVICE].bytes_per_second);
    if (disk_misses > 0)
        longest = fmax(longest, disk_misses * bytes / lanes[RATES_DISK].bytes_per_second);
    return 1 / (options->dense_ns * 1e-9 + longest);
}

double simulate_layer_least_ns(const struct simulate_options *options, int32_t hits,
                               int32_t host_misses, int32_t disk_misses)
{
    const struct rate *lanes = options->profile.lanes;
    double bytes_ns = (double)options->profile.expert_bytes * 1e9; /* over bytes/s: ns */
    const struct rate *up = &lanes[RATES_UP], *cpu = &lanes[RATES_CPU];
    double least = INFINITY;
    for (int32_t k = 0; k <= host_misses; k++) { /* over the link; the others on the CPU */
        bool both = k > 0 && k < host_misses;
        double link_rate = both ? up->shared_bytes_per_second : up->bytes_per_second;
        double cpu_rate = both ? cpu->shared_bytes_per_second : cpu->bytes_per_second;
        if (k > 0 && (link_rate <= 0 || options->device_slots == 0)) continue;
        if (k < host_misses && cpu_rate <= 0) continue;
        double link_ns = k > 0 ? k * bytes_ns / link_rate : 0;
        double cpu_ns = k < host_misses ? (host_misses - k) * bytes_ns / cpu_rate : 0;
        least = fmin(least, fmax(link_ns, cpu_ns));
    }
    if (hits > 0) least = fmax(least, hits * bytes_ns / lanes[RATES_DEVICE].bytes_per_second);
    if (disk_misses > 0)
        least = fmax(least, disk_misses * bytes_ns / lanes[RATES_DISK].bytes_per_second);
    return least;
}
