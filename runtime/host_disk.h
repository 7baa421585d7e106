/* Reads of whole experts from the disk for the measurements of host_bench.h. One thread at a time.
 */
#ifndef SLUICE_RUNTIME_HOST_DISK_H
#define SLUICE_RUNTIME_HOST_DISK_H

#include "runtime/host_bench.h"

#include <stdatomic.h>
#include <sys/uio.h>

#define HOST_DISK_DEPTH_MAX (1 << (RATES_DISK_DEPTHS - 1))

struct host_disk {
    const struct host_bench *bench;
    struct io *door;
    uint8_t *memory; /* [HOST_DISK_DEPTH_MAX, bytes] */
    size_t bytes;    /* of one read: an expert, whole pages */
    uint64_t random;
    struct io_read reads[HOST_DISK_DEPTH_MAX];
    struct iovec regions[HOST_DISK_DEPTH_MAX]; /* one a read: one for all could not be registered */
    int failure;                               /* errno */
};

/* SL_ERR_ARGUMENT where no file is large enough for an expert, SL_ERR_NO_MEMORY. To be closed also
 * when it fails. */
SL_MUST_USE enum sl_status host_disk_init(const struct host_bench *bench, struct host_disk *out,
                                          struct sl_error *error);
void host_disk_deinit(struct host_disk *disk); /* all zero is fine */

/* Keeps `depth` reads in flight until the time is over and each has come twice (but for no more
 * than HOST_BENCH_SLOW_FACTOR times as long), or `stop` is set; then takes in what is in flight.
 * Bytes a second over all of it, or -1 with disk->failure set. */
double host_disk_rate(struct host_disk *disk, int32_t depth, const atomic_bool *stop);
/* The failure as an error. */
enum sl_status host_disk_failed(const struct host_disk *disk, struct sl_error *error);

#endif
