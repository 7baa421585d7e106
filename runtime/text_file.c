/* Reading of small files; see the header. */
#include "runtime/text_file.h"
#include "offload/file_range.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum sl_status text_file_open(const char *path, int *fd, uint64_t *bytes, struct sl_error *error)
{
    struct stat status;
    SL_ASSERT(path && fd && bytes);
    /* Without O_NONBLOCK the open of a named pipe would wait for a writer. */
    int opened = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (opened < 0)
        return sl_error_set(error, SL_ERR_IO, errno, "cannot open %s: %s", path, strerror(errno));
    if (fstat(opened, &status) != 0) {
        int saved = errno;
        close(opened);
        return sl_error_set(error, SL_ERR_IO, saved, "cannot examine %s: %s", path,
                            strerror(saved));
    }
    if (!S_ISREG(status.st_mode)) {
        close(opened);
        return sl_error_set(error, SL_ERR_FORMAT, 0, "%s: expected a regular file, found %s", path,
                            S_ISDIR(status.st_mode) ? "a directory" : "something else");
    }
    *fd = opened;
    *bytes = (uint64_t)status.st_size;
    return SL_OK;
}

enum sl_status text_file_read_at(int fd, const char *path, uint64_t offset_bytes, void *out,
                                 size_t bytes, struct sl_error *error)
{
    SL_ASSERT(fd >= 0 && (out || bytes == 0));
    int failure = file_range_read(fd, out, bytes, offset_bytes);
    if (failure == 0) return SL_OK;
    if (failure == -ENODATA)
        return sl_error_set(error, SL_ERR_IO, 0,
                            "%s ended while %zu bytes at %llu were read: it was cut meanwhile",
                            path, bytes, (unsigned long long)offset_bytes);
    return sl_error_set(error, SL_ERR_IO, -failure, "cannot read %s: %s", path, strerror(-failure));
}

enum sl_status text_file_read(const char *path, size_t bytes_max, char **text, size_t *bytes,
                              struct sl_error *error)
{
    int fd = -1;
    uint64_t size = 0;
    SL_ASSERT(text && bytes);
    SL_TRY(text_file_open(path, &fd, &size, error));
    if (size > bytes_max) {
        close(fd);
        return sl_error_set(error, SL_ERR_FORMAT, 0,
                            "%s: expected at most %zu bytes, found %llu: this is not such a file",
                            path, bytes_max, (unsigned long long)size);
    }
    char *data = malloc((size_t)size + 1);
    if (!data) {
        close(fd);
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for the %llu bytes of %s",
                            (unsigned long long)size, path);
    }
    enum sl_status status = text_file_read_at(fd, path, 0, data, (size_t)size, error);
    close(fd);
    if (status != SL_OK) {
        free(data);
        return status;
    }
    data[size] = 0;
    *text = data;
    *bytes = (size_t)size;
    return SL_OK;
}
