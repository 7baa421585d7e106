/* A disk for simulations under a virtual clock: experts in a row, read one after the other at a
 * fixed time each; what is read is zeros. One at a time. */
#ifndef SLUICE_BENCH_VIRTUAL_DISK_H
#define SLUICE_BENCH_VIRTUAL_DISK_H

#include "offload/expert_store.h"
#include "offload/io.h"

struct virtual_disk_model {
    struct expert_source source; /* valid until virtual_disk_close */
    struct io_file file;
    struct expert_segment *segments;
    int memory; /* a file without bytes */
};

extern const struct io_ops virtual_disk_ops;

/* `now_ns` is the clock, which waiting moves on. Reads take no time at first. */
SL_MUST_USE enum sl_status virtual_disk_open(uint64_t *now_ns, int32_t count,
                                             int32_t experts_per_layer, size_t slot_bytes,
                                             struct virtual_disk_model *out,
                                             struct sl_error *error);
void virtual_disk_set_read_ns(double ns);
void virtual_disk_close(struct virtual_disk_model *model);

#endif
