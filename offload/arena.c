/* Large page-aligned memory from the system; see the header. */
#include "offload/arena.h"

#include <sys/mman.h>

uint8_t *arena_map(size_t bytes)
{
    SL_ASSERT(bytes > 0);
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return NULL;
    /* Only a wish: without huge pages everything works, a little slower. */
    (void)madvise(memory, bytes, MADV_HUGEPAGE);
    return memory;
}

void arena_unmap(uint8_t *memory, size_t bytes)
{
    if (memory) SL_ASSERT(munmap(memory, bytes) == 0);
}
