/* Large page-aligned memory taken from the system once and given back at the end.
 *
 * Cold path, any thread. An arena opened for experts is made of huge pages where the system grants
 * them, spread over NUMA nodes as topology.h decides, and locked against being swapped out page by
 * page as it is filled: locking before would clear it all at once. What the system refuses is noted
 * and done without. */
#ifndef SLUICE_OFFLOAD_ARENA_H
#define SLUICE_OFFLOAD_ARENA_H

#include "kernels/base.h"
#include "offload/topology.h"

/* Largest piece handed to the kernel as one registered buffer. */
#define ARENA_REGION_BYTES_MAX (1ull << 30)
#define ARENA_TEXT_BYTES_MAX   256

struct arena {
    uint8_t *memory; /* [bytes] */
    size_t bytes;
    bool huge_pages; /* asked for, and the system gives them to programs that ask */
    bool locked;
    char text[ARENA_TEXT_BYTES_MAX];   /* "huge pages, locked, on 2 nodes in turn" */
    char reason[ARENA_TEXT_BYTES_MAX]; /* why it is smaller than asked, naming the limit; or "" */
};

/* `bytes` of zeroed memory, or, where the system gives less, as much as it does in whole `unit`s,
 * `bytes_min` at least, on the nodes that `placement` says (NULL: in turn). SL_ERR_NO_MEMORY leaves
 * nothing behind. */
SL_MUST_USE enum sl_status arena_open(size_t bytes, size_t bytes_min, size_t unit,
                                      const struct topology_placement *placement, struct arena *out,
                                      struct sl_error *error);
void arena_close(struct arena *arena); /* all zero is fine */

/* `bytes` (> 0) of zeroed memory on a page boundary, huge pages asked for; NULL when there is none.
 * The caller unmaps it with the same size. */
uint8_t *arena_map(size_t bytes);
void arena_unmap(uint8_t *memory, size_t bytes); /* NULL is fine */

#endif
