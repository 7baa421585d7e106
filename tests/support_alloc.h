/* The allocator of our own objects under a test's control: it counts, and fails when told to.
 *
 * Only programs named *_alloc have it: they are linked with --wrap (tests/CMakeLists.txt), which
 * sends malloc, calloc, realloc, aligned_alloc, posix_memalign, strdup, mmap and free of all our
 * objects here; libraries keep the real ones. The counters are atomic, since readers and workers
 * allocate too; setting and comparing them is the test thread's. */
#ifndef SLUICE_TESTS_SUPPORT_ALLOC_H
#define SLUICE_TESTS_SUPPORT_ALLOC_H

#include <stdint.h>

#define ALLOC_NONE (-1)

/* Counts anew from zero and fails the allocation with this index, or none of them. */
void alloc_watch(int64_t failing);

/* Allocations tried since then, the failed one among them. */
int64_t alloc_seen(void);
/* Blocks given back since then. */
int64_t alloc_freed(void);
/* Blocks taken less those given back since then; what mmap returns is not counted. */
int64_t alloc_held(void);

#endif
