/* Where time comes from: the system's steady clock, or a test's own. */
#ifndef SLUICE_OFFLOAD_CLOCK_H
#define SLUICE_OFFLOAD_CLOCK_H

#include "kernels/base.h"

#include <time.h>

struct clock {
    uint64_t (*now_ns)(void *context); /* never goes back; NULL: the system's steady clock */
    void *context;                     /* borrowed */
};

static inline uint64_t clock_now_ns(const struct clock *source)
{
    struct timespec now;
    if (source->now_ns) return source->now_ns(source->context);
    SL_ASSERT(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

#endif
