/* Reads and writes of whole ranges of a file; see the header. */
#include "offload/file_range.h"

#include <errno.h>
#include <unistd.h>

int file_range_read(int fd, void *buffer, size_t bytes, uint64_t offset_bytes)
{
    SL_ASSERT(fd >= 0);
    for (size_t done = 0; done < bytes;) {
        ssize_t got =
            pread(fd, (uint8_t *)buffer + done, bytes - done, (off_t)(offset_bytes + done));
        if (got == 0) return -ENODATA;
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return -errno;
        done += (size_t)got;
    }
    return 0;
}

int file_range_write(int fd, const void *buffer, size_t bytes, uint64_t offset_bytes)
{
    SL_ASSERT(fd >= 0);
    for (size_t done = 0; done < bytes;) {
        ssize_t put =
            pwrite(fd, (const uint8_t *)buffer + done, bytes - done, (off_t)(offset_bytes + done));
        if (put == 0) return -EIO;
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return -errno;
        done += (size_t)put;
    }
    return 0;
}
