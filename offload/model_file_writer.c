/* Writes a packed experts file; see the header for how it survives being killed. */
#include "offload/model_file_writer.h"
#include "offload/file_range.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* A partial file may be renamed by its writer between our open and our lock; then we look again. */
#define LOCK_TRIES_MAX 8

enum slot_state {
    SLOT_ABSENT,
    SLOT_CLAIMED, /* an earlier run recorded it; not read back yet */
    SLOT_PUT,     /* written, perhaps not on disk */
    SLOT_DONE,    /* on disk and in the index */
};

struct model_file_writer {
    char *path, *partial;
    int fd;
    bool finished;
    struct model_file_head head;
    uint64_t *index; /* as in the file, padding included: index_bytes */
    size_t index_bytes;
    uint8_t *states; /* enum slot_state [count] */
    size_t count, done_count, claimed_count;
    bool dirty; /* index or slots changed since the last flush */
};

/* The slot of an expert that this file is to hold. */
static size_t slot_idx(const struct model_file_writer *writer, struct expert_ref ref)
{
    const struct model_file_spec *spec = &writer->head.spec;
    SL_ASSERT(ref.layer >= 0 && ref.layer < spec->layers);
    SL_ASSERT(ref.expert >= 0 && ref.expert < spec->experts);
    uint64_t expert_idx = (uint64_t)ref.layer * (uint64_t)spec->experts + (uint64_t)ref.expert;
    return (size_t)model_file_slot_idx(spec, expert_idx);
}

const char *model_file_writer_partial(const struct model_file_writer *writer)
{
    return writer->partial;
}

/* Bytes that users may still take on the file system of the partial file. */
static uint64_t free_bytes(const struct model_file_writer *writer)
{
    struct statvfs space;
    if (fstatvfs(writer->fd, &space) != 0) return 0;
    return (uint64_t)space.f_bavail * space.f_frsize;
}

/* Bytes that the partial file occupies. */
static uint64_t taken_bytes(const struct model_file_writer *writer)
{
    struct stat state;
    return fstat(writer->fd, &state) == 0 ? (uint64_t)state.st_blocks * 512 : 0;
}

/* A failed write: `os_errno` decides what the user can do about it. */
static enum sl_status write_error(const struct model_file_writer *writer, int os_errno,
                                  struct sl_error *error)
{
    if (os_errno == ENOSPC || os_errno == EDQUOT)
        return sl_error_set(error, SL_ERR_IO, os_errno,
                            "no room for %s: it needs %" PRIu64 " bytes and has taken %" PRIu64
                            " of them, %" PRIu64 " are free; make room or choose another place",
                            writer->partial, writer->head.file_bytes, taken_bytes(writer),
                            free_bytes(writer));
    if (os_errno == EFBIG)
        return sl_error_set(error, SL_ERR_IO, os_errno,
                            "%s may not grow to %" PRIu64
                            " bytes: the file system or a limit (ulimit -f) forbids it",
                            writer->partial, writer->head.file_bytes);
    return sl_error_set(error, SL_ERR_IO, os_errno, "cannot write %s: %s", writer->partial,
                        strerror(os_errno));
}

/* ---- starting and resuming ---------------------------------------------------------------- */

/* SL_OK when nothing stands under `path`, or a packed file does, finished or not. A partial file
 * may also be empty or zero at its start: its writer was killed before the head was written. */
static enum sl_status check_ours(const char *path, bool zeros_allowed, struct sl_error *error)
{
    static const uint8_t zeros[8];
    uint8_t start[sizeof zeros] = {0};
    struct stat state;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT) return SL_OK;
    if (fd < 0)
        return sl_error_set(error, SL_ERR_IO, errno, "cannot open %s: %s", path, strerror(errno));
    bool ours =
        fstat(fd, &state) == 0 && S_ISREG(state.st_mode) && pread(fd, start, sizeof start, 0) >= 0;
    close(fd);
    if (ours && model_file_has_magic(start, sizeof start)) return SL_OK;
    if (ours && zeros_allowed && memcmp(start, zeros, sizeof start) == 0) return SL_OK;
    return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                        "%s is there already and is no packed experts file; choose another name",
                        path);
}

/* Opens the partial file and locks it; it must still bear its name once locked. */
static enum sl_status lock_partial(struct model_file_writer *writer, struct sl_error *error)
{
    for (int tries = 0; tries < LOCK_TRIES_MAX; tries++) {
        struct stat locked, named;
        int fd = open(writer->partial, O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666);
        if (fd < 0)
            return sl_error_set(error, SL_ERR_IO, errno, "cannot create %s: %s", writer->partial,
                                strerror(errno));
        if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
            int os_errno = errno;
            close(fd);
            if (os_errno == EWOULDBLOCK)
                return sl_error_set(error, SL_ERR_BUSY, os_errno,
                                    "another process is packing into %s; wait for it or stop it",
                                    writer->partial);
            return sl_error_set(error, SL_ERR_IO, os_errno, "cannot lock %s: %s", writer->partial,
                                strerror(os_errno));
        }
        if (fstat(fd, &locked) == 0 && stat(writer->partial, &named) == 0 &&
            locked.st_ino == named.st_ino && locked.st_dev == named.st_dev) {
            writer->fd = fd;
            return SL_OK;
        }
        close(fd);
    }
    return sl_error_set(error, SL_ERR_BUSY, 0, "another process keeps replacing %s",
                        writer->partial);
}

/* Takes over the index of an earlier run, if it wrote the same experts; else leaves all absent. */
static void claim_earlier(struct model_file_writer *writer, uint64_t file_bytes)
{
    uint8_t data[MODEL_FILE_HEAD_BYTES];
    struct model_file_head head;
    const struct model_file_spec *spec = &writer->head.spec;
    if (file_bytes != writer->head.file_bytes ||
        file_range_read(writer->fd, data, sizeof data, 0) != 0 ||
        model_file_parse_head(data, sizeof data, file_bytes, writer->partial, &head, NULL) !=
            SL_OK ||
        head.spec.fingerprint != spec->fingerprint || head.spec.layers != spec->layers ||
        head.spec.experts != spec->experts || head.spec.slot_bytes != spec->slot_bytes ||
        head.spec.part != spec->part || head.spec.parts != spec->parts)
        return;
    if (file_range_read(writer->fd, writer->index, writer->index_bytes, head.index_start_bytes) !=
        0) {
        memset(writer->index, 0, writer->index_bytes);
        return;
    }
    memset(writer->index + writer->count, 0,
           writer->index_bytes - writer->count * sizeof *writer->index);
    for (size_t i = 0; i < writer->count; i++) {
        /* A checksum that happens to be 0 reads as absent and is written again. */
        if (writer->index[i] == 0) continue;
        writer->states[i] = SLOT_CLAIMED;
        writer->claimed_count++;
    }
}

/* Takes the disk space of the whole file, so that it cannot run out half way. */
static enum sl_status reserve_space(struct model_file_writer *writer, struct sl_error *error)
{
    uint64_t taken = taken_bytes(writer);
    uint64_t total = writer->head.file_bytes;
    int failed;
    if (total > taken && total - taken > free_bytes(writer))
        return write_error(writer, ENOSPC, error);
    do {
        failed = fallocate(writer->fd, 0, 0, (off_t)total) ? errno : 0;
    } while (failed == EINTR);
    /* Without support the file only gets its length; running out of space then shows on the way. */
    if (failed == EOPNOTSUPP || failed == ENOSYS)
        failed = ftruncate(writer->fd, (off_t)total) ? errno : 0;
    return failed ? write_error(writer, failed, error) : SL_OK;
}

/* Brings the locked partial file into the state "unfinished, of this spec, of full length". */
static enum sl_status start_partial(struct model_file_writer *writer, struct sl_error *error)
{
    uint8_t head[MODEL_FILE_HEAD_BYTES];
    struct stat state;
    if (fstat(writer->fd, &state) != 0) return write_error(writer, errno, error);
    claim_earlier(writer, (uint64_t)state.st_size);
    /* Old index entries must not outlive the file they belong to. */
    if (writer->claimed_count == 0 && ftruncate(writer->fd, 0) != 0)
        return write_error(writer, errno, error);
    /* What an earlier run wrote may still be on its way to the disk. */
    writer->dirty = true;
    SL_TRY(reserve_space(writer, error));
    model_file_head_encode(&writer->head, head);
    int failure = file_range_write(writer->fd, head, sizeof head, 0);
    return failure ? write_error(writer, -failure, error) : SL_OK;
}

enum sl_status model_file_writer_open(const char *path, const struct model_file_spec *spec,
                                      struct model_file_writer **out, struct sl_error *error)
{
    enum sl_status status;
    struct model_file_head head;
    *out = NULL;
    if (!model_file_head_make(spec, &head))
        return sl_error_set(error, SL_ERR_UNSUPPORTED, 0,
                            "%" PRId32 " layers of %" PRId32 " experts of %" PRIu64
                            " bytes in %" PRId32 " files do not fit the format of packed files",
                            spec->layers, spec->experts, spec->slot_bytes, max_i32(spec->parts, 1));
    struct model_file_writer *writer = calloc(1, sizeof *writer);
    if (!writer) goto no_memory;
    writer->fd = -1;
    writer->head = head;
    writer->count = (size_t)head.slot_count;
    writer->index_bytes = (size_t)(head.data_start_bytes - head.index_start_bytes);
    SL_ASSERT(writer->index_bytes >= writer->count * sizeof *writer->index);
    writer->path = strdup(path);
    writer->index = calloc(1, writer->index_bytes);
    writer->states = calloc(writer->count, 1);
    if (asprintf(&writer->partial, "%s.partial", path) < 0) writer->partial = NULL;
    if (!writer->path || !writer->index || !writer->states || !writer->partial) goto no_memory;

    status = check_ours(path, false, error);
    if (status == SL_OK) status = check_ours(writer->partial, true, error);
    if (status == SL_OK) status = lock_partial(writer, error);
    if (status != SL_OK) goto fail;
    status = start_partial(writer, error);
    if (status != SL_OK) {
        /* What holds no expert is worth nothing to a later run. */
        if (model_file_writer_is_empty(writer)) unlink(writer->partial);
        goto fail;
    }
    *out = writer;
    return SL_OK;
no_memory:
    status = sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory to write %s", path);
fail:
    model_file_writer_close(writer);
    return status;
}

bool model_file_writer_is_empty(const struct model_file_writer *writer)
{
    return writer->done_count + writer->claimed_count == 0;
}

/* ---- slots -------------------------------------------------------------------------------- */

enum sl_status model_file_writer_recall(struct model_file_writer *writer, struct expert_ref ref,
                                        void *slot, bool *present, struct sl_error *error)
{
    size_t idx = slot_idx(writer, ref);
    size_t bytes = (size_t)writer->head.spec.slot_bytes;
    SL_ASSERT(writer->states[idx] == SLOT_ABSENT || writer->states[idx] == SLOT_CLAIMED);
    *present = false;
    if (writer->states[idx] == SLOT_ABSENT) return SL_OK;
    int failure =
        file_range_read(writer->fd, slot, bytes, model_file_slot_start(&writer->head, idx));
    if (failure && failure != -ENODATA && failure != -EIO)
        return sl_error_set(error, SL_ERR_IO, -failure, "cannot read %s: %s", writer->partial,
                            strerror(-failure));
    writer->claimed_count--;
    *present = !failure && htole64(model_file_checksum(slot, bytes)) == writer->index[idx];
    if (*present) {
        writer->states[idx] = SLOT_DONE;
        writer->done_count++;
    } else {
        writer->states[idx] = SLOT_ABSENT;
        writer->index[idx] = 0;
        writer->dirty = true;
    }
    return SL_OK;
}

enum sl_status model_file_writer_put(struct model_file_writer *writer, struct expert_ref ref,
                                     const void *slot, struct sl_error *error)
{
    size_t idx = slot_idx(writer, ref);
    size_t bytes = (size_t)writer->head.spec.slot_bytes;
    SL_ASSERT(writer->states[idx] == SLOT_ABSENT);
    int failure =
        file_range_write(writer->fd, slot, bytes, model_file_slot_start(&writer->head, idx));
    if (failure) return write_error(writer, -failure, error);
    writer->index[idx] = htole64(model_file_checksum(slot, bytes));
    writer->states[idx] = SLOT_PUT;
    writer->dirty = true;
    return SL_OK;
}

enum sl_status model_file_writer_flush(struct model_file_writer *writer, struct sl_error *error)
{
    SL_ASSERT(!writer->finished);
    if (!writer->dirty) return SL_OK;
    if (fdatasync(writer->fd) != 0) return write_error(writer, errno, error);
    int failure = file_range_write(writer->fd, writer->index, writer->index_bytes,
                                   writer->head.index_start_bytes);
    if (failure) return write_error(writer, -failure, error);
    if (fdatasync(writer->fd) != 0) return write_error(writer, errno, error);
    for (size_t i = 0; i < writer->count; i++) {
        if (writer->states[i] != SLOT_PUT) continue;
        writer->states[i] = SLOT_DONE;
        writer->done_count++;
    }
    writer->dirty = false;
    SL_ASSERT(writer->done_count + writer->claimed_count <= writer->count);
    return SL_OK;
}

/* ---- finishing ---------------------------------------------------------------------------- */

/* Makes the new name durable. */
static enum sl_status sync_directory(const char *path, struct sl_error *error)
{
    const char *slash = strrchr(path, '/');
    char *directory = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    if (!directory) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory to write %s", path);
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int failed = fd < 0 || fsync(fd) != 0 ? errno : 0;
    if (fd >= 0) close(fd);
    free(directory);
    /* Some file systems have no fsync of directories, and a directory may be closed to reading. */
    if (failed == EINVAL || failed == EACCES) failed = 0;
    if (failed)
        return sl_error_set(error, SL_ERR_IO, failed, "cannot bring the name %s to disk: %s", path,
                            strerror(failed));
    return SL_OK;
}

enum sl_status model_file_writer_finish(struct model_file_writer *writer, struct sl_error *error)
{
    uint8_t head[MODEL_FILE_HEAD_BYTES];
    SL_TRY(model_file_writer_flush(writer, error));
    SL_ASSERT(writer->done_count == writer->count && writer->claimed_count == 0);
    writer->head.finished = true;
    writer->head.index_checksum = model_file_checksum(writer->index, writer->index_bytes);
    model_file_head_encode(&writer->head, head);
    /* The flush left slots and index on disk, so a head that gets there finds them. */
    int failure = file_range_write(writer->fd, head, sizeof head, 0);
    if (failure) return write_error(writer, -failure, error);
    if (fsync(writer->fd) != 0) return write_error(writer, errno, error);
    if (rename(writer->partial, writer->path) != 0)
        return sl_error_set(error, SL_ERR_IO, errno, "cannot rename %s to %s: %s", writer->partial,
                            writer->path, strerror(errno));
    writer->finished = true;
    return sync_directory(writer->path, error);
}

void model_file_writer_close(struct model_file_writer *writer)
{
    if (!writer) return;
    if (writer->fd >= 0) close(writer->fd);
    free(writer->path);
    free(writer->partial);
    free(writer->index);
    free(writer->states);
    free(writer);
}

void model_file_writer_discard(struct model_file_writer *writer)
{
    SL_ASSERT(writer && writer->fd >= 0);
    if (!writer->finished) unlink(writer->partial);
    model_file_writer_close(writer);
}
