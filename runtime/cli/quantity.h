/* Byte counts, durations and clock readings as people read them. */
#ifndef SLUICE_CLI_QUANTITY_H
#define SLUICE_CLI_QUANTITY_H

#include <stdint.h>
#include <time.h>

/* Enough for any text written below. */
#define QUANTITY_TEXT_MAX 32

struct quantity_text {
    char text[QUANTITY_TEXT_MAX];
};

/* "512 B", "1.5 GiB". */
struct quantity_text quantity_bytes(uint64_t bytes);
/* "1.5 GB/s", decimal as disks are sold; "-" for no time at all. */
struct quantity_text quantity_rate(uint64_t bytes, uint64_t elapsed_ns);
/* "7 ms", "12.3 s", "4:05", "2:00:07". */
struct quantity_text quantity_duration(uint64_t elapsed_ns);

/* Things per second; 0 for no time at all. */
static inline double quantity_per_second(uint64_t count, uint64_t elapsed_ns)
{
    return elapsed_ns ? (double)count * 1e9 / (double)elapsed_ns : 0;
}

/* Monotonic clock. */
static inline uint64_t quantity_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

#endif
