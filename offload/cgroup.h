/* What the control groups this process is in leave it: memory, and processor time.
 *
 * Cold path, any thread, nothing kept. Both versions of the kernel's interface, every group from
 * the process's own up to the mount's root; what cannot be read limits nothing. */
#ifndef SLUICE_OFFLOAD_CGROUP_H
#define SLUICE_OFFLOAD_CGROUP_H

#include "kernels/base.h"

#define CGROUP_MOUNT "/sys/fs/cgroup"
#define CGROUP_SELF  "/proc/self/cgroup"

struct cgroup_limits {
    uint64_t memory_room_bytes; /* until some group is full, cached files that could be dropped not
                                   counted; UINT64_MAX: no limit */
    double processors;          /* time of so many at once; 0: no quota */
};

/* `mount` and `self` are the two paths above, or a test's. */
void cgroup_limits_read(const char *mount, const char *self, struct cgroup_limits *out);

#endif
