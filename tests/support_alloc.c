/* The allocator under a test's control; see the header. */
#include "tests/support_alloc.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/types.h>

static _Atomic int64_t seen, freed, taken, to_fail = ALLOC_NONE;

void alloc_watch(int64_t failing)
{
    to_fail = failing;
    seen = freed = taken = 0;
}

int64_t alloc_seen(void)
{
    return seen;
}

int64_t alloc_freed(void)
{
    return freed;
}

int64_t alloc_held(void)
{
    return taken - freed;
}

static bool fails_now(void)
{
    return atomic_fetch_add(&seen, 1) == to_fail;
}

static void *counted(void *memory)
{
    taken += memory != NULL;
    return memory;
}

void *__real_malloc(size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_malloc(size_t bytes)
{
    return fails_now() ? NULL : counted(__real_malloc(bytes));
}

void *__real_calloc(size_t count, size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes)
{
    return fails_now() ? NULL : counted(__real_calloc(count, bytes));
}

/* A block that moves or grows stays one block. */
void *__real_realloc(void *memory, size_t bytes);
void *__wrap_realloc(void *memory, size_t bytes);
void *__wrap_realloc(void *memory, size_t bytes)
{
    bool is_new = memory == NULL;
    if (fails_now()) return NULL;
    void *result = __real_realloc(memory, bytes);
    return is_new ? counted(result) : result;
}

void *__real_aligned_alloc(size_t alignment, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes)
{
    return fails_now() ? NULL : counted(__real_aligned_alloc(alignment, bytes));
}

int __real_posix_memalign(void **out, size_t alignment, size_t bytes);
int __wrap_posix_memalign(void **out, size_t alignment, size_t bytes);
int __wrap_posix_memalign(void **out, size_t alignment, size_t bytes)
{
    int code = fails_now() ? ENOMEM : __real_posix_memalign(out, alignment, bytes);
    taken += code == 0;
    return code;
}

char *__real_strdup(const char *text);
char *__wrap_strdup(const char *text);
char *__wrap_strdup(const char *text)
{
    return fails_now() ? NULL : counted(__real_strdup(text));
}

void *__real_mmap(void *address, size_t bytes, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap(void *address, size_t bytes, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap(void *address, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    if (!fails_now()) return __real_mmap(address, bytes, protection, flags, fd, offset);
    errno = ENOMEM;
    return MAP_FAILED;
}

void __real_free(void *memory);
void __wrap_free(void *memory);
void __wrap_free(void *memory)
{
    freed += memory != NULL;
    __real_free(memory);
}
