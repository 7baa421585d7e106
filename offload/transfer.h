/* Copies of whole experts between host slots and device slots: what is in flight on the device's
 * two lanes, in order, and how the lanes do.
 *
 * A lane is LIVE, STUCK when nothing on it has moved for the time one is patient with it, or DEAD
 * after a fault. A stuck lane takes no more copies until it moves again; a dead one never does.
 * One thread, the store's; no memory beyond the struct. */
#ifndef SLUICE_OFFLOAD_TRANSFER_H
#define SLUICE_OFFLOAD_TRANSFER_H

#include "kernels/device.h"
#include "offload/clock.h"

/* Unless the options say otherwise. */
#define TRANSFER_PATIENCE_NS 2000000000u

/* Why an expert travels. */
enum transfer_cause {
    TRANSFER_DEMAND,
    TRANSFER_GUESS,
    TRANSFER_PROMOTION,
    TRANSFER_DEMOTION,
    TRANSFER_STREAM, /* ahead of a prefill's layer, through slots set aside */
};

struct transfer_copy {
    uint64_t ticket;
    int32_t expert_idx, host_slot, device_slot;
    enum transfer_cause cause;
    bool abandoned; /* the owner no longer wants what arrives */
    uint64_t submit_ns;
    uint64_t done_ns; /* when reap saw it done */
    uint64_t busy_ns; /* what it took of the lane: from the one before, or its own start, to done */
};

enum transfer_state { TRANSFER_LIVE, TRANSFER_STUCK, TRANSFER_DEAD };

struct transfer_lane {
    struct transfer_copy copies[DEVICE_COPIES_MAX]; /* a ring, oldest first */
    int32_t first, count;
    enum transfer_state state;
    uint64_t moved_ns; /* when the lane last made progress, or its oldest copy was submitted */
    uint64_t copies_done, bytes_done;
};

struct transfer {
    struct device *device; /* borrowed */
    struct clock clock;
    uint64_t patience_ns;
    size_t slot_bytes;
    struct transfer_lane lanes[DEVICE_LANES];
};

void transfer_init(struct transfer *transfer, struct device *device, const struct clock *clock,
                   uint64_t patience_ns, size_t slot_bytes);

/* Whether the lane takes another copy now. */
bool transfer_has_room(const struct transfer *transfer, enum device_lane lane);
/* Starts a copy; there must be room. `what` needs neither ticket nor times. False when the lane
 * turned out to be dead: nothing was started. */
bool transfer_start(struct transfer *transfer, enum device_lane lane, void *target,
                    const void *source, uint64_t after_fence, const struct transfer_copy *what);

/* Brings the lane's state up to date; true when it changed. */
bool transfer_look(struct transfer *transfer, enum device_lane lane);
/* The oldest copy that is done, or, on a dead lane, that never will be (`*arrived` is false);
 * false when there is none. */
bool transfer_reap(struct transfer *transfer, enum device_lane lane, struct transfer_copy *out,
                   bool *arrived);

/* The copy in flight that fills or empties this device slot, or NULL. */
const struct transfer_copy *transfer_find(const struct transfer *transfer, enum device_lane lane,
                                          int32_t device_slot);

/* Asserts that the rings are whole and tickets ascend. */
void transfer_check(const struct transfer *transfer);

#endif
