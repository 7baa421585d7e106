/* Reads of experts to measure the disk; see the header. */
#include "runtime/host_disk.h"

#include "offload/arena.h"
#include "offload/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

static const struct clock steady = {0};

/* Any place of any file that an expert fits in. */
static void aim(struct host_disk *disk, struct io_read *read)
{
    const struct host_bench *bench = disk->bench;
    int32_t file;
    do {
        file = (int32_t)(host_random(&disk->random) % (uint64_t)bench->file_count);
    } while (bench->files[file].bytes < disk->bytes);
    uint64_t places = (bench->files[file].bytes - disk->bytes) / SL_PAGE_BYTES + 1;
    read->file = file;
    read->offset_bytes = host_random(&disk->random) % places * SL_PAGE_BYTES;
    read->bytes = disk->bytes;
}

enum sl_status host_disk_init(const struct host_bench *bench, struct host_disk *disk,
                              struct sl_error *error)
{
    bool fits = false;
    memset(disk, 0, sizeof *disk);
    disk->bench = bench;
    disk->random = bench->seed;
    disk->bytes = bench->layout.slot_bytes;
    for (int32_t i = 0; i < bench->file_count; i++)
        fits |= bench->files[i].bytes >= disk->bytes;
    if (!fits)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "%s is smaller than one expert (%zu bytes): name a larger file",
                            bench->files[0].path, disk->bytes);
    disk->memory = arena_map(HOST_DISK_DEPTH_MAX * disk->bytes);
    if (!disk->memory)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for %d reads at once",
                            HOST_DISK_DEPTH_MAX);
    for (int32_t i = 0; i < HOST_DISK_DEPTH_MAX; i++)
        disk->regions[i] = (struct iovec){.iov_base = disk->memory + (size_t)i * disk->bytes,
                                          .iov_len = disk->bytes};
    struct io_options options = {.files = bench->files,
                                 .file_count = bench->file_count,
                                 .regions = disk->regions,
                                 .region_count = HOST_DISK_DEPTH_MAX,
                                 .depth = HOST_DISK_DEPTH_MAX};
    return io_open(bench->io, &options, &disk->door, error);
}

void host_disk_deinit(struct host_disk *disk)
{
    if (disk->door) disk->door->ops->close(disk->door);
    if (disk->memory) arena_unmap(disk->memory, HOST_DISK_DEPTH_MAX * disk->bytes);
}

/* Starts one read in the buffer of `read`; false when the door fails. */
static bool start_read(struct host_disk *disk, struct io_read *read)
{
    aim(disk, read);
    return disk->door->ops->submit(disk->door, &read, 1) == SL_OK;
}

double host_disk_rate(struct host_disk *disk, int32_t depth, const atomic_bool *stop)
{
    const struct host_bench *bench = disk->bench;
    struct io_read *done[HOST_DISK_DEPTH_MAX];
    int32_t flying = 0;
    int64_t count_done = 0;
    uint64_t bytes = 0, now_ns;
    bool over = false;
    disk->failure = 0;
    for (int32_t i = 0; i < bench->file_count; i++)
        if (!bench->files[i].direct) posix_fadvise(bench->files[i].fd, 0, 0, POSIX_FADV_DONTNEED);
    uint64_t start_ns = clock_now_ns(&steady), end_ns = start_ns;
    for (int32_t i = 0; i < depth; i++) {
        disk->reads[i] =
            (struct io_read){.buffer = disk->memory + (size_t)i * disk->bytes, .region = i};
        if (start_read(disk, &disk->reads[i])) flying++;
    }
    if (flying == 0) disk->failure = EIO;
    while (flying > 0) {
        int32_t count = disk->door->ops->reap(disk->door, done, HOST_DISK_DEPTH_MAX, 1);
        if (count < 0) {
            disk->failure = -count;
            break;
        }
        now_ns = clock_now_ns(&steady);
        for (int32_t i = 0; i < count; i++) {
            flying--;
            if (done[i]->result < 0 && done[i]->result != -EINTR && done[i]->result != -EAGAIN)
                disk->failure = (int)-done[i]->result;
            if (done[i]->result > 0) bytes += (uint64_t)done[i]->result;
            end_ns = now_ns;
            count_done++;
            double elapsed = (double)(now_ns - start_ns) / (bench->seconds * 1e9);
            over |= stop ? atomic_load(stop)
                         : elapsed >= HOST_BENCH_SLOW_FACTOR ||
                               (elapsed >= 1 && count_done >= 2 * depth);
            if (!over && !disk->failure && start_read(disk, done[i])) flying++;
        }
    }
    if (disk->failure) return -1;
    return (double)bytes * 1e9 / (double)(end_ns - start_ns);
}

enum sl_status host_disk_failed(const struct host_disk *disk, struct sl_error *error)
{
    return sl_error_set(error, SL_ERR_IO, disk->failure, "cannot read %s: %s",
                        disk->bench->files[0].path, strerror(disk->failure));
}
