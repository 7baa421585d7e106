/* Mapped files and the SIGBUS handler; see the header. */
#include "runtime/dense_map.h"
#include "runtime/text_file.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Written under the lock, read by the handler at any moment. */
static _Atomic(struct dense_map *) registered[DENSE_MAPS_MAX];
static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction previous_action; /* written before the handler is installed */
/* Set while a fault is passed on: a handler that was put above ours and passes on to us must not
 * get the same fault again. */
static _Thread_local volatile sig_atomic_t passing_on;

/* ---- the handler -------------------------------------------------------------------------- */

/* Replaces everything from the page of `address` to the end of the mapping. After a truncation all
 * of that is gone; after a read error some of it may be good, but the mapping is of no use anyway,
 * and one replacement keeps the number of kernel mappings small. */
static bool replace_lost_pages(struct dense_map *map, uintptr_t address)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t from = address & ~(page - 1);
    uintptr_t end = ((uintptr_t)map->base + map->bytes + page - 1) & ~(page - 1);
    atomic_store(&map->lost, true);
    /* The bare system call: wrappers around mmap need not be safe in a handler. */
    long result = syscall(SYS_mmap, from, end - from, PROT_READ,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    return result == (long)from;
}

static void pass_on(int signal_number, siginfo_t *info, void *context)
{
    bool is_nested = passing_on;
    passing_on = 1;
    if (is_nested) {
        signal(SIGBUS, SIG_DFL);
    } else if (previous_action.sa_flags & SA_SIGINFO) {
        previous_action.sa_sigaction(signal_number, info, context);
    } else if (previous_action.sa_handler != SIG_DFL && previous_action.sa_handler != SIG_IGN) {
        previous_action.sa_handler(signal_number);
    } else {
        /* The default action follows when the faulting instruction runs again, or now for a signal
         * that somebody sent. */
        sigaction(SIGBUS, &previous_action, NULL);
        if (info->si_code <= 0) raise(SIGBUS);
    }
}

static void on_sigbus(int signal_number, siginfo_t *info, void *context)
{
    int saved_errno = errno;
    uintptr_t address = (uintptr_t)info->si_addr;
    for (size_t i = 0; info->si_code > 0 && i < DENSE_MAPS_MAX; i++) {
        struct dense_map *map = atomic_load(&registered[i]);
        if (!map || address < (uintptr_t)map->base || address - (uintptr_t)map->base >= map->bytes)
            continue;
        if (!replace_lost_pages(map, address)) break;
        errno = saved_errno;
        return;
    }
    pass_on(signal_number, info, context);
    passing_on = 0;
    errno = saved_errno;
}

/* Puts our handler in front of whatever is there, unless it is ours already: somebody may have
 * replaced it since the last mapping was opened. */
static bool install_handler(void)
{
    struct sigaction action = {0}, current;
    if (sigaction(SIGBUS, NULL, &current) != 0) return false;
    if ((current.sa_flags & SA_SIGINFO) && current.sa_sigaction == on_sigbus) return true;
    previous_action = current;
    action.sa_sigaction = on_sigbus;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    return sigaction(SIGBUS, &action, NULL) == 0;
}

static enum sl_status enter_registry(struct dense_map *map, struct sl_error *error)
{
    enum sl_status status = SL_ERR_LIMIT;
    pthread_mutex_lock(&registry_lock);
    bool installed = install_handler();
    for (size_t i = 0; installed && i < DENSE_MAPS_MAX; i++) {
        if (atomic_load(&registered[i])) continue;
        atomic_store(&registered[i], map);
        status = SL_OK;
        break;
    }
    pthread_mutex_unlock(&registry_lock);
    if (!installed)
        return sl_error_set(error, SL_ERR_IO, errno, "cannot handle SIGBUS: %s", strerror(errno));
    if (status == SL_ERR_LIMIT)
        return sl_error_set(error, status, 0, "cannot map %s: %d files are mapped already",
                            map->path, DENSE_MAPS_MAX);
    return status;
}

static void leave_registry(const struct dense_map *map)
{
    pthread_mutex_lock(&registry_lock);
    for (size_t i = 0; i < DENSE_MAPS_MAX; i++)
        if (atomic_load(&registered[i]) == map) atomic_store(&registered[i], NULL);
    pthread_mutex_unlock(&registry_lock);
}

/* ---- mappings ----------------------------------------------------------------------------- */

static int64_t change_ns(const struct stat *status)
{
    return (int64_t)status->st_mtim.tv_sec * 1000000000 + status->st_mtim.tv_nsec;
}

enum sl_status dense_map_open(const char *path, struct dense_map *out, struct sl_error *error)
{
    struct stat stat_now;
    enum sl_status status;
    SL_ASSERT(path && out);
    memset(out, 0, sizeof *out);
    out->fd = -1;
    SL_TRY(text_file_open(path, &out->fd, &out->bytes, error));
    out->path = strdup(path);
    if (!out->path) {
        status = sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory to map %s", path);
        goto fail;
    }
    if (out->bytes == 0) {
        status = sl_error_set(error, SL_ERR_FORMAT, 0, "%s is empty: fetch it again", path);
        goto fail;
    }
    if (fstat(out->fd, &stat_now) != 0) {
        status =
            sl_error_set(error, SL_ERR_IO, errno, "cannot examine %s: %s", path, strerror(errno));
        goto fail;
    }
    out->mtime_ns = change_ns(&stat_now);
    void *base = mmap(NULL, (size_t)out->bytes, PROT_READ, MAP_PRIVATE, out->fd, 0);
    if (base == MAP_FAILED) {
        status = sl_error_set(error, errno == ENOMEM ? SL_ERR_NO_MEMORY : SL_ERR_IO, errno,
                              "cannot map %s (%llu bytes): %s", path,
                              (unsigned long long)out->bytes, strerror(errno));
        goto fail;
    }
    out->base = base;
    status = enter_registry(out, error);
    if (status == SL_OK) return SL_OK;
fail:
    dense_map_close(out);
    return status;
}

void dense_map_close(struct dense_map *map)
{
    if (!map->path && !map->base && map->fd <= 0) return;
    leave_registry(map);
    if (map->base) munmap((void *)map->base, (size_t)map->bytes);
    if (map->fd >= 0) close(map->fd);
    free(map->path);
    memset(map, 0, sizeof *map);
}

enum sl_status dense_map_touch(const struct dense_map *map, uint64_t offset_bytes, uint64_t bytes,
                               struct sl_error *error)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t from = align_down(offset_bytes, page);
    SL_ASSERT(offset_bytes <= map->bytes && bytes <= map->bytes - offset_bytes);
    /* Advice only: where it is refused the touching below does the same, slower. */
    (void)madvise((void *)(map->base + from), (size_t)(offset_bytes + bytes - from), MADV_WILLNEED);
    for (uint64_t at = from; at < offset_bytes + bytes; at += page)
        (void)*(const volatile uint8_t *)(map->base + at);
    return dense_map_check(map, error);
}

enum sl_status dense_map_check(const struct dense_map *map, struct sl_error *error)
{
    struct stat now;
    SL_ASSERT(map->base);
    if (fstat(map->fd, &now) != 0)
        return sl_error_set(error, SL_ERR_IO, errno, "cannot examine %s: %s", map->path,
                            strerror(errno));
    if ((uint64_t)now.st_size != map->bytes)
        return sl_error_set(error, SL_ERR_IO, 0,
                            "%s changed while in use: expected %llu bytes, found %lld: open the "
                            "model again",
                            map->path, (unsigned long long)map->bytes, (long long)now.st_size);
    if (atomic_load(&map->lost))
        return sl_error_set(error, SL_ERR_IO, EIO,
                            "%s: a part of it could not be read: it was cut while in use, or the "
                            "disk fails; open the model again",
                            map->path);
    if (change_ns(&now) != map->mtime_ns)
        return sl_error_set(error, SL_ERR_IO, 0,
                            "%s was written to while in use: open the model again", map->path);
    return SL_OK;
}
