/* Large page-aligned memory from the system; see the header. */
#include "offload/arena.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define ARENA_SHRINK_PARTS 16 /* a refused arena is asked for again, smaller by one part in 16 */

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

/* Whether the system hands huge pages to those who ask with madvise. */
static bool huge_pages_granted(void)
{
    char line[128] = "";
    FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
    if (!file) return false;
    bool granted = fgets(line, sizeof line, file) && !strstr(line, "[never]");
    fclose(file);
    return granted;
}

/* Locks every page as it is filled. The soft limit is the user's own to raise up to the hard one.
 */
static bool lock_on_fault(const struct arena *arena, char *why, size_t why_bytes)
{
    struct rlimit limit;
    if (mlock2(arena->memory, arena->bytes, MLOCK_ONFAULT) == 0) return true;
    int refused = errno;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0) limit.rlim_max = limit.rlim_cur = 0;
    if (limit.rlim_max != limit.rlim_cur) {
        struct rlimit raised = {limit.rlim_max, limit.rlim_max};
        if (setrlimit(RLIMIT_MEMLOCK, &raised) == 0 &&
            mlock2(arena->memory, arena->bytes, MLOCK_ONFAULT) == 0)
            return true;
    }
    if (refused == ENOMEM || refused == EPERM || refused == EAGAIN)
        snprintf(why, why_bytes, "not locked: the limit is %llu KiB (ulimit -l)",
                 (unsigned long long)limit.rlim_max / 1024);
    else
        snprintf(why, why_bytes, "not locked: %s", strerror(refused));
    return false;
}

/* Which limit keeps the arena small, in words. */
static void name_limit(struct arena *arena, size_t asked, int refused)
{
    struct rlimit limit;
    const char *what = strerror(refused);
    if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        what = "the limit on address space (ulimit -v)";
    else if (getrlimit(RLIMIT_DATA, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        what = "the limit on data (ulimit -d)";
    snprintf(arena->reason, sizeof arena->reason,
             "RAM for experts is %.1f MiB instead of %.1f MiB: %.80s",
             (double)arena->bytes / 1048576.0, (double)asked / 1048576.0, what);
}

enum sl_status arena_open(size_t bytes, size_t bytes_min, size_t unit,
                          const struct topology_placement *placement, struct arena *out,
                          struct sl_error *error)
{
    char lock_text[96] = "locked", place_text[128];
    size_t part = (bytes / unit + ARENA_SHRINK_PARTS - 1) / ARENA_SHRINK_PARTS * unit;
    int refused = 0;
    SL_ASSERT(unit > 0 && bytes_min > 0 && bytes_min <= bytes && bytes % unit == 0);
    *out = (struct arena){.bytes = bytes};
    while (!(out->memory = arena_map(out->bytes))) {
        refused = errno;
        if (out->bytes == bytes_min) {
            *out = (struct arena){0};
            return sl_error_set(error, SL_ERR_NO_MEMORY, refused,
                                "no memory for experts: the system refuses %zu bytes (%s); lower "
                                "the memory budget",
                                bytes_min, strerror(refused));
        }
        out->bytes = out->bytes - bytes_min > part ? out->bytes - part : bytes_min;
    }
    if (out->bytes < bytes) name_limit(out, bytes, refused);
    topology_place_memory(out->memory, out->bytes, placement, place_text, sizeof place_text);
    out->huge_pages = huge_pages_granted();
    out->locked = lock_on_fault(out, lock_text, sizeof lock_text);
    snprintf(out->text, sizeof out->text, "%s, %s%s%s",
             out->huge_pages ? "huge pages" : "small pages", lock_text, place_text[0] ? ", " : "",
             place_text);
    return SL_OK;
}

void arena_close(struct arena *arena)
{
    arena_unmap(arena->memory, arena->bytes);
    *arena = (struct arena){0};
}
