/* Which kernels and threads compute, which door reads, and which device is simulated: for an
 * engine, and for who measures in its place and so must have the same. */
#ifndef SLUICE_RUNTIME_COMPUTE_H
#define SLUICE_RUNTIME_COMPUTE_H

#include "kernels/cpu_isa.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "offload/io.h"
#include "offload/topology.h"
#include "runtime/sl.h"

#define COMPUTE_THREADS_MAX 1024

struct compute {
    enum cpu_isa isa;
    int32_t threads;
    struct topology topology;
};

/* `isa` by name, NULL: the best there is; `threads` 0: as many as fit. SL_ERR_ARGUMENT for a name
 * or a number that cannot be, SL_ERR_UNSUPPORTED for what this processor lacks. */
SL_MUST_USE enum sl_status compute_choose(const char *isa, int32_t threads, struct compute *out,
                                          struct sl_error *error);

/* A stream of these threads for `ops`, the caller's to destroy with them. The caller's thread is
 * left where the system puts it. SL_ERR_UNSUPPORTED where the ops need OpenBLAS and there is none,
 * SL_ERR_NO_MEMORY. */
SL_MUST_USE enum sl_status compute_open_stream(const struct compute *compute, const struct ops *ops,
                                               struct stream **out, struct sl_error *error);

/* The door that reads, for what the user chose. */
enum io_kind compute_io(enum sl_io choice);

#define COMPUTE_DEVICE_NAME_BYTES 64

/* The rate of a simulated device's link, bytes/s, for one that was asked for (0: the usual), and
 * the device's name in profiles. */
uint64_t compute_simulated_link(uint64_t asked, char name[COMPUTE_DEVICE_NAME_BYTES]);

/* Such a device with that much memory, behind a link of that rate (0: the usual) each way. */
SL_MUST_USE enum sl_status compute_simulate_device(uint64_t memory_bytes, uint64_t link,
                                                   struct device **out, struct sl_error *error);

#endif
