/* Copies of whole experts to a device and back, for the measurements of host_bench.h, through the
 * same lanes as the engine's and with memory pinned like its slots. One thread, the device's
 * owner. */
#ifndef SLUICE_RUNTIME_HOST_LINK_H
#define SLUICE_RUNTIME_HOST_LINK_H

#include "runtime/host_experts.h"

#define HOST_LINK_DEPTH_MAX (1 << (CALIBRATION_LINK_DEPTHS - 1))

struct host_link {
    const struct host_bench *bench;     /* borrowed */
    const struct host_experts *experts; /* borrowed: what goes up */
    uint8_t *memory;                    /* the device's [2 * DEPTH_MAX, slot_bytes] */
    uint8_t *landing;                   /* RAM [DEPTH_MAX, slot_bytes]: what came down */
    int32_t sources, next;              /* slots of the experts that are sent in turn */
    size_t pinned_bytes;                /* of the experts; 0: not pinned */
    bool landing_pinned;
    char unpinned[HOST_BENCH_TEXT_BYTES]; /* why some of it is not; or "" */
};

/* SL_ERR_NO_MEMORY leaves nothing behind. */
SL_MUST_USE enum sl_status host_link_init(const struct host_experts *experts, struct host_link *out,
                                          struct sl_error *error);
void host_link_deinit(struct host_link *link); /* all zero is fine */

/* Keeps `depth` copies in flight on each of the lanes for the bench's seconds, and until each has
 * done as many twice; then waits for them. Bytes a second of each lane in `rates`, 0 where it did
 * not run. SL_ERR_IO: a lane failed, or stands still. */
SL_MUST_USE enum sl_status host_link_run(struct host_link *link, const bool lanes[DEVICE_LANES],
                                         int32_t depth, double rates[DEVICE_LANES],
                                         struct sl_error *error);

#endif
