/* A file mapped for reading, whose truncation by somebody else does not kill the process.
 *
 * Touching a page that the file no longer has raises SIGBUS. A handler, in place from the first
 * mapping on, puts zero pages where something was lost and marks the mapping; faults elsewhere go
 * to the handler that was there before. The table of mappings that the handler reads is this
 * program's one mutable global, with a lock: a signal carries no context of ours.
 *
 * Open and close from any thread; reading from any thread while open. */
#ifndef SLUICE_RUNTIME_DENSE_MAP_H
#define SLUICE_RUNTIME_DENSE_MAP_H

#include "kernels/base.h"

#include <stdatomic.h>

#define DENSE_MAPS_MAX 4096 /* open at once in a process */

/* Must not move while open: the handler knows its address. */
struct dense_map {
    char *path;
    int fd;
    const uint8_t *base; /* [bytes] */
    uint64_t bytes;      /* size when opened */
    int64_t mtime_ns;    /* time of change when opened */
    atomic_bool lost;    /* pages were lost: what is read there is zeros */
};

SL_MUST_USE enum sl_status dense_map_open(const char *path, struct dense_map *out,
                                          struct sl_error *error);
void dense_map_close(struct dense_map *map); /* zeroed memory is fine */

/* Brings a range into memory by touching every page of it. */
SL_MUST_USE enum sl_status dense_map_touch(const struct dense_map *map, uint64_t offset_bytes,
                                           uint64_t bytes, struct sl_error *error);

/* SL_OK while nothing was lost and the file has the size and time of change it was opened with;
 * else SL_ERR_IO naming it. */
SL_MUST_USE enum sl_status dense_map_check(const struct dense_map *map, struct sl_error *error);

#endif
