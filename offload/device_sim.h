/* A simulated device: an arena that stands for its memory, and a modelled link.
 *
 * Bytes are really copied, but no faster than the link would: a copy starts when the one before it
 * on its lane is done and takes `latency_ns` plus its bytes at the lane's rate. Its memory is the
 * host's, so the CPU can compute what lies in it; for demonstrations without a GPU, and for tests.
 *
 * With `threads` each lane has a thread that copies in real time. Without, copies are carried out
 * by copy_progress and wait when their time has come, and `advance` may make time virtual. Jitter,
 * stalls and faults are drawn from the seed. Misuse of the door (copies over one another, memory
 * that is not the device's) is asserted. */
#ifndef SLUICE_OFFLOAD_DEVICE_SIM_H
#define SLUICE_OFFLOAD_DEVICE_SIM_H

#include "kernels/device.h"
#include "offload/clock.h"

/* Of the rate, for copies of host memory that is not pinned, unless the options say otherwise. */
#define DEVICE_SIM_UNPINNED_PERCENT 40

/* What goes wrong; may be changed while the device is in use. */
struct device_sim_plan {
    uint32_t jitter_percent; /* copies take up to that much longer */
    uint32_t stall_permille; /* of copies take stall_ns longer */
    uint64_t stall_ns;
    uint64_t dies_after[DEVICE_LANES]; /* copies done when the lane fails; 0: never */
    bool hangs[DEVICE_LANES];          /* no copy ends while this is set */
    uint32_t slower_times;             /* every copy takes that many times its time; 0: once */
    bool poison; /* targets are overwritten when a copy is submitted, as if half done */
};

struct device_sim_options {
    uint64_t memory_bytes;
    uint64_t bytes_per_second[DEVICE_LANES]; /* 0: as fast as memory */
    uint64_t latency_ns;                     /* of each copy, beside its bytes */
    uint32_t unpinned_percent;               /* 0: DEVICE_SIM_UNPINNED_PERCENT */
    uint64_t pin_bytes_max;                  /* host_pin refuses more; 0: no limit */
    bool threads;
    struct clock clock; /* the system's when `threads` */
    /* Moves a virtual clock on, called by wait; NULL: wait sleeps. `context` is the clock's. */
    void (*advance)(void *context, uint64_t ns);
    uint64_t seed;
    struct device_sim_plan plan;
};

/* SL_ERR_NO_MEMORY when memory or a thread is refused. The arena itself is taken in
 * memory_alloc. */
SL_MUST_USE enum sl_status device_sim_create(const struct device_sim_options *options,
                                             struct device **out, struct sl_error *error);
void device_sim_set_plan(struct device *device, const struct device_sim_plan *plan);

/* Host bytes pinned now, and copies submitted on a lane and not done. */
uint64_t device_sim_pinned_bytes(const struct device *device);
int32_t device_sim_in_flight(struct device *device, enum device_lane lane);

#endif
