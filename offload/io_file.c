/* Files that experts are read from: opening with or without O_DIRECT, and noticing that one was
 * changed behind our back.
 *
 * A struct io_file is the caller's memory and owns its path and descriptor. Any thread may call
 * these. A refused open comes back with a sentence that names the file and what to do. */
#include "offload/io.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What the user can do about a failed open; "" when the reason speaks for itself. */
static const char *open_advice(int os_errno)
{
    switch (os_errno) {
    case ENOENT: return "; check the path";
    case EACCES: return "; make it readable for this user";
    case EMFILE:
    case ENFILE: return "; raise the limit on open files (ulimit -n)";
    case ENOMEM: return "; free some memory";
    default: return "";
    }
}

static enum sl_status open_failed(const char *path, int os_errno, struct sl_error *error)
{
    enum sl_status status = SL_ERR_IO;
    if (os_errno == ENOMEM) status = SL_ERR_NO_MEMORY;
    if (os_errno == EMFILE || os_errno == ENFILE) status = SL_ERR_LIMIT;
    return sl_error_set(error, status, os_errno, "cannot open %s: %s%s", path, strerror(os_errno),
                        open_advice(os_errno));
}

/* What the file system says direct reads must be aligned to; a page where it does not say. */
static uint32_t direct_alignment_bytes(int fd)
{
#ifdef STATX_DIOALIGN
    struct statx status;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) == 0 &&
        status.stx_mask & STATX_DIOALIGN) {
        uint32_t memory = status.stx_dio_mem_align, offset = status.stx_dio_offset_align;
        return memory > offset ? memory : offset; /* 0: this file cannot be read directly */
    }
#else
    (void)fd;
#endif
    return SL_PAGE_BYTES;
}

/* Turns O_DIRECT on and reads once, since some file systems accept the flag and refuse the read.
 * Returns the alignment, or 0 with the descriptor back in buffered mode. */
static uint32_t try_direct(int fd)
{
    _Alignas(SL_PAGE_BYTES) uint8_t probe[SL_PAGE_BYTES];
    uint32_t alignment_bytes = direct_alignment_bytes(fd);
    bool usable = alignment_bytes > 0 && alignment_bytes <= SL_PAGE_BYTES &&
                  (alignment_bytes & (alignment_bytes - 1)) == 0;
    if (!usable || fcntl(fd, F_SETFL, O_DIRECT) != 0) return 0;
    if (pread(fd, probe, sizeof probe, 0) >= 0) return alignment_bytes;
    /* EINVAL is the usual refusal; a real fault of the disk will show itself when buffered too. */
    SL_ASSERT(fcntl(fd, F_SETFL, 0) == 0);
    return 0;
}

static int64_t mtime_ns(const struct stat *status)
{
    return (int64_t)status->st_mtim.tv_sec * 1000000000 + status->st_mtim.tv_nsec;
}

enum sl_status io_file_open(const char *path, bool want_direct, struct io_file *out,
                            struct sl_error *error)
{
    struct stat status;
    SL_ASSERT(path && out);
    *out = (struct io_file){.fd = -1, .alignment_bytes = 1};
    /* O_NONBLOCK keeps a named pipe from blocking us; it must go again below, because io_uring
     * would take it as a wish never to wait. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0) return open_failed(path, errno, error);
    enum sl_status result;
    if (fstat(fd, &status) != 0) {
        result = open_failed(path, errno, error);
        goto fail;
    }
    if (!S_ISREG(status.st_mode)) {
        result = sl_error_set(error, SL_ERR_IO, S_ISDIR(status.st_mode) ? EISDIR : EINVAL,
                              "cannot read %s: it is %s, not a regular file", path,
                              S_ISDIR(status.st_mode) ? "a directory" : "a device or pipe");
        goto fail;
    }
    if (fcntl(fd, F_SETFL, 0) != 0) {
        result = open_failed(path, errno, error);
        goto fail;
    }
    out->path = strdup(path);
    if (!out->path) {
        result = open_failed(path, ENOMEM, error);
        goto fail;
    }
    uint32_t alignment_bytes = want_direct ? try_direct(fd) : 0;
    out->fd = fd;
    out->direct = alignment_bytes > 0;
    out->alignment_bytes = out->direct ? alignment_bytes : 1;
    out->bytes = (uint64_t)status.st_size;
    out->device = (uint64_t)status.st_dev;
    out->inode = (uint64_t)status.st_ino;
    out->mtime_ns = mtime_ns(&status);
    return SL_OK;
fail:
    close(fd);
    return result;
}

void io_file_close(struct io_file *file)
{
    SL_ASSERT(file);
    if (file->fd >= 0) close(file->fd);
    free(file->path);
    *file = (struct io_file){.fd = -1, .alignment_bytes = 1};
}

enum sl_status io_file_check_unchanged(const struct io_file *file, struct sl_error *error)
{
    struct stat status;
    SL_ASSERT(file && file->fd >= 0);
    if (fstat(file->fd, &status) != 0)
        return sl_error_set(error, SL_ERR_IO, errno, "cannot examine %s: %s", file->path,
                            strerror(errno));
    if ((uint64_t)status.st_dev != file->device || (uint64_t)status.st_ino != file->inode)
        return sl_error_set(error, SL_ERR_IO, 0, "the descriptor of %s now belongs to another file",
                            file->path);
    if ((uint64_t)status.st_size != file->bytes)
        return sl_error_set(error, SL_ERR_IO, 0,
                            "%s changed while in use: it had %llu bytes, now it has %llu; restore "
                            "it and start again",
                            file->path, (unsigned long long)file->bytes,
                            (unsigned long long)status.st_size);
    if (mtime_ns(&status) != file->mtime_ns)
        return sl_error_set(error, SL_ERR_IO, 0,
                            "%s was written to while in use; start again with a file at rest",
                            file->path);
    return SL_OK;
}
