/* Which kernels and which threads compute: for an engine, and for who measures in its place and so
 * must have the same. */
#ifndef SLUICE_RUNTIME_COMPUTE_H
#define SLUICE_RUNTIME_COMPUTE_H

#include "kernels/cpu_isa.h"
#include "kernels/ops.h"
#include "offload/topology.h"

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

#endif
