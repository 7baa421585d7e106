/* The door to the disk: a few operations behind which sits io_uring, a pool of threads that call
 * pread, or a simulated disk in tests.
 *
 * A door is owned by one thread. Reads complete in any order; a completion may be short or carry a
 * transient error (-EINTR, -EAGAIN): the caller decides whether to submit the rest again. */
#ifndef SLUICE_OFFLOAD_IO_H
#define SLUICE_OFFLOAD_IO_H

#include "kernels/base.h"

#include <sys/types.h>
#include <sys/uio.h>

#define IO_DEPTH_MAX   256  /* reads in flight in one door */
#define IO_REGIONS_MAX 8192 /* pieces of memory of one door; the kernel registers 16384 */
#define IO_FILES_MAX   1024 /* files of one door */

/* An open file for reading experts from. Opened by io_file_open, closed by io_file_close. */
struct io_file {
    char *path;
    int fd;                   /* O_DIRECT when `direct` */
    bool direct;              /* reads must be aligned to `alignment_bytes`, memory too */
    uint32_t alignment_bytes; /* 1 when not direct */
    uint64_t bytes;           /* size when opened */
    uint64_t device, inode;   /* identity when opened */
    int64_t mtime_ns;
};

/* Opens `path` for reading, with O_DIRECT where the file system allows it and `want_direct`. */
SL_MUST_USE enum sl_status io_file_open(const char *path, bool want_direct, struct io_file *out,
                                        struct sl_error *error);
void io_file_close(struct io_file *file);

/* SL_OK if the open file still has the size and time of change it was opened with; else SL_ERR_IO
 * with a sentence naming the file. */
SL_MUST_USE enum sl_status io_file_check_unchanged(const struct io_file *file,
                                                   struct sl_error *error);

/* One read; the caller's from submit to reap. */
struct io_read {
    uint64_t offset_bytes; /* in the file */
    size_t bytes;
    void *buffer;
    int32_t file;   /* index into io_options.files */
    int32_t region; /* index into io_options.regions that holds the buffer, or -1 */
    ssize_t
        result;  /* bytes read, 0 at the end of the file, or -errno; set before reap returns it */
    void *owner; /* the caller's */
    struct io_read *next; /* the door's, while it is in flight */
};

struct io_options {
    const struct io_file *files; /* outlive the door */
    int32_t file_count;
    const struct iovec *regions; /* memory that reads land in, to be registered; may be 0 */
    int32_t region_count;
    int32_t depth; /* most reads in flight, 1 .. IO_DEPTH_MAX */
};

struct io; /* a door; every implementation starts with `const struct io_ops *ops` */

struct io_ops {
    const char *name; /* "io_uring", "pread" */
    enum sl_status (*open)(const struct io_options *options, struct io **out,
                           struct sl_error *error);
    /* Starts `count` reads; never more than depth in flight in all (assert). Errors of single reads
     * come through reap; a returned error means that none was started. */
    enum sl_status (*submit)(struct io *io, struct io_read *const *reads, int32_t count);
    /* Up to `max` finished reads into `out`; waits until at least `wait_for` (<= in flight) are
     * there. Returns how many, or -errno. */
    int32_t (*reap)(struct io *io, struct io_read **out, int32_t max, int32_t wait_for);
    /* What was negotiated: registered buffers, files; static or door-owned text for the user. */
    const char *(*describe)(const struct io *io);
    /* Waits for what is in flight, then frees. */
    void (*close)(struct io *io);
};

struct io {
    const struct io_ops *ops;
};

enum io_kind { IO_AUTO, IO_URING, IO_PREAD };

extern const struct io_ops io_uring_ops;
extern const struct io_ops io_pread_ops;

/* Opens a door of the given kind; IO_AUTO tries io_uring and falls back to pread where the system
 * forbids it, which describe() then says. */
SL_MUST_USE enum sl_status io_open(enum io_kind kind, const struct io_options *options,
                                   struct io **out, struct sl_error *error);

#endif
