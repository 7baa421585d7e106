/* Large page-aligned memory taken from the system once and given back at the end. */
#ifndef SLUICE_OFFLOAD_ARENA_H
#define SLUICE_OFFLOAD_ARENA_H

#include "kernels/base.h"

/* Largest piece handed to the kernel as one registered buffer. */
#define ARENA_REGION_BYTES_MAX (1ull << 30)

/* `bytes` (> 0) of zeroed memory on a page boundary, huge pages asked for; NULL when there is none.
 * The caller unmaps it with the same size. */
uint8_t *arena_map(size_t bytes);
void arena_unmap(uint8_t *memory, size_t bytes); /* NULL is fine */

#endif
