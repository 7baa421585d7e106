/* The device as the offload layer sees it: memory for experts, host memory pinned for fast copies,
 * and two lanes that copy whole experts, one in each direction.
 *
 * A device is made by its implementation (device_sim_create; later the CUDA one), belongs to one
 * thread, the store's, and is destroyed after everything that borrows it. Implementations may have
 * threads of their own behind it. Nothing allocates after creation but memory_alloc and host_pin.
 *
 * Copies of a lane are done in the order of their submission and named by tickets 1, 2, 3, ...; the
 * two lanes know nothing of each other. A lane that fails has a fault, latched for good: no copy
 * later than its progress will ever arrive, and none of them touches memory any more. A lane that
 * only hangs shows no fault; how long to be patient is the caller's business. */
#ifndef SLUICE_KERNELS_DEVICE_H
#define SLUICE_KERNELS_DEVICE_H

#include "kernels/base.h"

#ifdef __cplusplus
extern "C" {
#endif

#define DEVICE_COPIES_MAX 64 /* in flight on one lane */

enum device_lane {
    DEVICE_UP,   /* host memory to device memory */
    DEVICE_DOWN, /* device memory to host memory */
    DEVICE_LANES,
};

/* One copy; all of it the caller's until its ticket is done or its lane has a fault. */
struct device_copy {
    void *target;       /* in device memory when DEVICE_UP, else in host memory */
    const void *source; /* the other way round */
    size_t bytes;       /* > 0; whole experts, never small pieces */
    /* The copy begins only when computation up to this fence has ended: the last reader of the
     * target, or the last writer of the source. 0: at once. */
    uint64_t after_fence;
};

struct device; /* every implementation starts with `const struct device_ops *ops` */

struct device_ops {
    const char *name; /* "cuda", "simulated" */

    /* `bytes` of device memory, aligned to SL_PAGE_BYTES or better. On an implementation whose
     * memory the host cannot read, `*out` is an address for kernels and copies only.
     * SL_ERR_NO_MEMORY says how much was left. */
    enum sl_status (*memory_alloc)(struct device *device, size_t bytes, void **out,
                                   struct sl_error *error);
    void (*memory_free)(struct device *device, void *memory); /* NULL is fine */

    /* Pins host memory that has been filled before (pinning first would clear it page by page), so
     * that copies run at the link's speed. SL_ERR_NO_MEMORY or SL_ERR_UNSUPPORTED with a sentence
     * that names the limit when the system refuses: copies from and to this memory still work, only
     * slower. SL_ERR_BUSY: not now, since pinning may wait for the device and the device may be
     * waiting for the host. `memory` and `bytes` are multiples of SL_PAGE_BYTES and were not pinned
     * before. */
    enum sl_status (*host_pin)(struct device *device, void *memory, size_t bytes,
                               struct sl_error *error);
    /* Exactly what one host_pin was given; no copy may touch it. */
    void (*host_unpin)(struct device *device, void *memory, size_t bytes);

    /* Queues a copy; never blocks. At most DEVICE_COPIES_MAX of a lane may be in flight (assert).
     * SL_ERR_IO on a lane with a fault: nothing was queued, no ticket spent. */
    enum sl_status (*copy_submit)(struct device *device, enum device_lane lane,
                                  const struct device_copy *copy, uint64_t *ticket);
    /* The last ticket that is done, and with it all before; 0 before the first. Never blocks. What
     * the copies wrote is visible to the caller from here on. */
    uint64_t (*copy_progress)(struct device *device, enum device_lane lane);
    /* Blocks until some lane has made progress beyond what copy_progress last returned, or has a
     * new fault, or `timeout_ns` has passed; at once when no copy is in flight. */
    void (*wait)(struct device *device, uint64_t timeout_ns);

    /* A point in the device's computation: everything launched so far. Fences grow; 0 when nothing
     * is or can be under way, as on a device whose operations block. */
    uint64_t (*fence)(struct device *device);
    /* What is launched from here on waits, on the device and in its own order, until the ticket is
     * done, so that the host need not. NULL where operations block. */
    void (*compute_await)(struct device *device, enum device_lane lane, uint64_t ticket);

    /* The lane's fault as a sentence for the user, or NULL while it works. Device-owned. */
    const char *(*lane_fault)(const struct device *device, enum device_lane lane);
    /* What was found and agreed on: name, memory, link, pinning; device-owned text. */
    const char *(*describe)(const struct device *device);
    /* Waits for copies in flight (on lanes without a fault), then frees. No memory may be pinned or
     * allocated any more. */
    void (*destroy)(struct device *device);
};

struct device {
    const struct device_ops *ops;
};

#ifdef __cplusplus
}
#endif
#endif
