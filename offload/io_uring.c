/* The door to the disk over io_uring: one ring, with files and memory registered where the system
 * allows it (memory piece by piece, as reads first land there), so that a read costs neither a file
 * lookup nor the pinning of its pages.
 *
 * The door owns the ring; the caller owns reads and memory. One thread uses a door at a time. The
 * kernel may take part of a batch: what it left stays in the ring, in order, and is offered again
 * by the next submit or reap. Should the ring itself fail, the reads not taken come back with that
 * error and later submits are refused. */
#include "offload/io.h"

#include <errno.h>
#include <liburing.h>
#include <string.h>
#include <time.h>

#define DESCRIPTION_BYTES_MAX 256
#define REGION_BYTES_MAX      (1ull << 30) /* of one registered buffer, a limit of the kernel */
#define READ_BYTES_MAX        (1u << 30)   /* of one request; a longer read comes back short */
#define SUBMIT_TRIES_MAX      1000         /* a millisecond apart, with nothing else in flight */

enum region_state { REGION_NEW, REGION_REGISTERED, REGION_PLAIN };

struct uring_door {
    struct io base;
    struct io_uring ring;
    const struct io_file *files;
    const struct iovec *regions;
    int32_t file_count, region_count, depth;
    int32_t in_flight;            /* submitted by the caller and not yet reaped */
    int32_t waiting;              /* of these, in the ring and not yet taken by the kernel */
    struct io_read *first, *last; /* the waiting ones, in ring order */
    struct io_read *refused;      /* never taken: the ring failed */
    int32_t refused_count;
    int broken_errno; /* of the failed ring, or 0 */
    bool fixed_files;
    int files_errno;   /* why files are not registered, or 0 */
    int buffers_errno; /* why regions are no longer registered, or 0 */
    uint64_t registered_bytes;
    enum region_state *states; /* [region_count] */
    char description[DESCRIPTION_BYTES_MAX];
};

static int register_files(struct uring_door *door)
{
    int fds[IO_FILES_MAX];
    if (door->file_count == 0) return 0;
    for (int32_t i = 0; i < door->file_count; i++)
        fds[i] = door->files[i].fd;
    return -io_uring_register_files(&door->ring, fds, (unsigned)door->file_count);
}

/* Says what was negotiated, anew when a region is refused. */
static void describe_registration(struct uring_door *door)
{
    bool files = !door->files_errno;
    bool buffers = door->region_count > 0 && !door->buffers_errno;
    int length = snprintf(door->description, sizeof door->description, "io_uring%s%s%s%s",
                          buffers || files ? ", registered" : "", buffers ? " buffers" : "",
                          buffers && files ? " and" : "", files ? " files" : "");
    if (door->buffers_errno)
        length +=
            snprintf(door->description + length, sizeof door->description - (size_t)length,
                     ", buffers not registered beyond %.1f MiB (%s%s)",
                     (double)door->registered_bytes / 1048576.0, strerror(door->buffers_errno),
                     door->buffers_errno == ENOMEM ? ": raise ulimit -l" : "");
    if (!files)
        snprintf(door->description + length, sizeof door->description - (size_t)length,
                 ", files not registered (%s)", strerror(door->files_errno));
}

/* Registers the region when a read first lands in it. Registering makes the kernel provide and pin
 * all of its pages; done for all of a large arena at once that would take minutes in which the user
 * sees nothing. A refusal only costs speed, and is not asked for again. */
static bool use_region(struct uring_door *door, int32_t region)
{
    if (door->states[region] != REGION_NEW) return door->states[region] == REGION_REGISTERED;
    if (!door->buffers_errno) {
        SL_ASSERT(door->regions[region].iov_len <= REGION_BYTES_MAX);
        int done = io_uring_register_buffers_update_tag(&door->ring, (unsigned)region,
                                                        &door->regions[region], NULL, 1);
        if (done == 1) {
            door->states[region] = REGION_REGISTERED;
            door->registered_bytes += door->regions[region].iov_len;
            return true;
        }
        door->buffers_errno = done < 0 ? -done : EINVAL;
        describe_registration(door);
    }
    door->states[region] = REGION_PLAIN;
    return false;
}

/* Registers files, and the first region to learn whether buffers can be. */
static void negotiate(struct uring_door *door)
{
    door->files_errno = register_files(door);
    door->fixed_files = !door->files_errno && door->file_count > 0;
    if (door->region_count > 0) {
        door->buffers_errno =
            -io_uring_register_buffers_sparse(&door->ring, (unsigned)door->region_count);
        use_region(door, 0);
    }
    describe_registration(door);
}

static enum sl_status uring_open(const struct io_options *options, struct io **out,
                                 struct sl_error *error)
{
    SL_ASSERT(options->depth >= 1 && options->depth <= IO_DEPTH_MAX);
    SL_ASSERT(options->file_count >= 0 && options->file_count <= IO_FILES_MAX);
    struct uring_door *door = calloc(1, sizeof *door);
    if (!door)
        return sl_error_set(error, SL_ERR_NO_MEMORY, ENOMEM, "no memory for the disk reader");
    int refused = -io_uring_queue_init((unsigned)options->depth, &door->ring, 0);
    if (refused) {
        free(door);
        return sl_error_set(error, refused == ENOMEM ? SL_ERR_NO_MEMORY : SL_ERR_UNSUPPORTED,
                            refused, "io_uring is not available: %s", strerror(refused));
    }
    door->base.ops = &io_uring_ops;
    door->files = options->files;
    door->file_count = options->file_count;
    door->regions = options->regions;
    door->region_count = options->region_count;
    door->depth = options->depth;
    door->states = calloc((size_t)options->region_count + 1, sizeof *door->states);
    if (!door->states) {
        io_uring_queue_exit(&door->ring);
        free(door);
        return sl_error_set(error, SL_ERR_NO_MEMORY, ENOMEM, "no memory for the disk reader");
    }
    negotiate(door);
    *out = &door->base;
    return SL_OK;
}

static bool region_holds(const struct iovec *region, const struct io_read *read)
{
    const uint8_t *start = region->iov_base, *buffer = read->buffer;
    return buffer >= start && read->bytes <= region->iov_len &&
           (size_t)(buffer - start) <= region->iov_len - read->bytes;
}

static void prepare(struct uring_door *door, struct io_read *read)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&door->ring);
    unsigned bytes = read->bytes < READ_BYTES_MAX ? (unsigned)read->bytes : READ_BYTES_MAX;
    int fd = door->fixed_files ? read->file : door->files[read->file].fd;
    SL_ASSERT(sqe); /* the ring has room for `depth` */
    SL_ASSERT(read->region < door->region_count);
    if (read->region >= 0 && use_region(door, read->region)) {
        SL_ASSERT(region_holds(&door->regions[read->region], read));
        io_uring_prep_read_fixed(sqe, fd, read->buffer, bytes, read->offset_bytes, read->region);
    } else {
        io_uring_prep_read(sqe, fd, read->buffer, bytes, read->offset_bytes);
    }
    if (door->fixed_files) sqe->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data(sqe, read);
}

static struct io_read *pop_waiting(struct uring_door *door)
{
    struct io_read *read = door->first;
    SL_ASSERT(read && door->waiting > 0);
    door->first = read->next;
    if (!door->first) door->last = NULL;
    door->waiting--;
    read->next = NULL;
    return read;
}

static void refuse_waiting(struct uring_door *door, int os_errno)
{
    door->broken_errno = os_errno;
    while (door->waiting > 0) {
        struct io_read *read = pop_waiting(door);
        read->result = -os_errno;
        read->next = door->refused;
        door->refused = read;
        door->refused_count++;
    }
}

static bool is_transient(int os_errno)
{
    return os_errno == EINTR || os_errno == EAGAIN || os_errno == EBUSY;
}

/* Offers the waiting reads to the kernel. One refused for want of resources is offered again when
 * something else has finished, or, with nothing else in flight, after a pause. */
static void offer(struct uring_door *door)
{
    for (int tries = 0; door->waiting > 0;) {
        int taken = io_uring_submit(&door->ring);
        SL_ASSERT(taken <= door->waiting);
        for (int i = 0; i < taken; i++)
            pop_waiting(door);
        if (taken > 0) continue;
        bool transient = taken == 0 || is_transient(-taken);
        if (!transient || tries++ == SUBMIT_TRIES_MAX) {
            refuse_waiting(door, taken < 0 ? -taken : EAGAIN);
            return;
        }
        if (door->in_flight - door->refused_count > door->waiting) return;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

static enum sl_status uring_submit(struct io *io, struct io_read *const *reads, int32_t count)
{
    struct uring_door *door = (struct uring_door *)io;
    SL_ASSERT(count >= 0 && door->in_flight + count <= door->depth);
    if (door->broken_errno) return SL_ERR_IO;
    for (int32_t i = 0; i < count; i++) {
        struct io_read *read = reads[i];
        SL_ASSERT(read->file >= 0 && read->file < door->file_count);
        prepare(door, read);
        read->next = NULL;
        if (door->last)
            door->last->next = read;
        else
            door->first = read;
        door->last = read;
    }
    door->waiting += count;
    door->in_flight += count;
    offer(door);
    return SL_OK;
}

/* The next finished read, or NULL; waits for it when `wait`. */
static struct io_read *next_finished(struct uring_door *door, bool wait, int *os_errno)
{
    struct io_uring_cqe *cqe = NULL;
    int refused;
    *os_errno = 0;
    if (door->refused) {
        struct io_read *read = door->refused;
        door->refused = read->next;
        door->refused_count--;
        read->next = NULL;
        return read;
    }
    do {
        refused =
            wait ? io_uring_wait_cqe(&door->ring, &cqe) : io_uring_peek_cqe(&door->ring, &cqe);
    } while (refused == -EINTR); /* a signal; the reads go on */
    if (refused) {
        if (refused != -EAGAIN) *os_errno = -refused;
        return NULL;
    }
    struct io_read *read = io_uring_cqe_get_data(cqe);
    SL_ASSERT(read);
    read->result = cqe->res;
    io_uring_cqe_seen(&door->ring, cqe);
    return read;
}

static int32_t uring_reap(struct io *io, struct io_read **out, int32_t max, int32_t wait_for)
{
    struct uring_door *door = (struct uring_door *)io;
    int32_t count = 0;
    SL_ASSERT(wait_for <= max && wait_for <= door->in_flight);
    while (count < max && door->in_flight > 0) {
        int os_errno;
        if (!door->broken_errno) offer(door);
        struct io_read *read = next_finished(door, count < wait_for, &os_errno);
        if (os_errno) return count > 0 ? count : -os_errno;
        if (!read && count >= wait_for) break;
        if (!read) continue;
        out[count++] = read;
        door->in_flight--;
    }
    return count;
}

static const char *uring_describe(const struct io *io)
{
    return ((const struct uring_door *)io)->description;
}

static void uring_close(struct io *io)
{
    struct uring_door *door = (struct uring_door *)io;
    struct io_read *read;
    while (door->in_flight > 0 && uring_reap(io, &read, 1, 1) == 1) {
    }
    io_uring_queue_exit(&door->ring);
    free(door->states);
    free(door);
}

const struct io_ops io_uring_ops = {
    .name = "io_uring",
    .open = uring_open,
    .submit = uring_submit,
    .reap = uring_reap,
    .describe = uring_describe,
    .close = uring_close,
};
