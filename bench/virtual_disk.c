/* The virtual disk; see the header. */
#include "bench/virtual_disk.h"

#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static struct {
    struct io base;
    uint64_t *now_ns;
    double read_ns, free_ns; /* of one read; when the disk is through with what it has */
    struct io_read *reads[IO_DEPTH_MAX];
    double ends_ns[IO_DEPTH_MAX];
    int32_t count;
} disk;

static enum sl_status door_open(const struct io_options *options, struct io **out,
                                struct sl_error *error)
{
    (void)options;
    (void)error;
    disk.base.ops = &virtual_disk_ops;
    disk.count = 0;
    *out = &disk.base;
    return SL_OK;
}

static enum sl_status door_submit(struct io *io, struct io_read *const *reads, int32_t count)
{
    (void)io;
    for (int32_t i = 0; i < count; i++) {
        SL_ASSERT(disk.count < IO_DEPTH_MAX);
        disk.free_ns = fmax(disk.free_ns, (double)*disk.now_ns) + disk.read_ns;
        disk.reads[disk.count] = reads[i];
        disk.ends_ns[disk.count++] = disk.free_ns;
    }
    return SL_OK;
}

static int32_t door_reap(struct io *io, struct io_read **out, int32_t max, int32_t wait_for)
{
    int32_t done = 0;
    (void)io;
    for (; done < disk.count && done < max; done++) {
        if (disk.ends_ns[done] > (double)*disk.now_ns) {
            if (done >= wait_for) break;
            *disk.now_ns = (uint64_t)ceil(disk.ends_ns[done]);
        }
        memset(disk.reads[done]->buffer, 0, disk.reads[done]->bytes);
        disk.reads[done]->result = (ssize_t)disk.reads[done]->bytes;
        out[done] = disk.reads[done];
    }
    disk.count -= done;
    memmove(disk.reads, disk.reads + done, sizeof *disk.reads * (size_t)disk.count);
    memmove(disk.ends_ns, disk.ends_ns + done, sizeof *disk.ends_ns * (size_t)disk.count);
    return done;
}

static const char *door_describe(const struct io *io)
{
    (void)io;
    return "a virtual disk";
}

static void door_close(struct io *io)
{
    (void)io;
    disk.count = 0;
}

const struct io_ops virtual_disk_ops = {.name = "virtual",
                                        .open = door_open,
                                        .submit = door_submit,
                                        .reap = door_reap,
                                        .describe = door_describe,
                                        .close = door_close};

enum sl_status virtual_disk_open(uint64_t *now_ns, int32_t count, int32_t experts_per_layer,
                                 size_t slot_bytes, struct virtual_disk_model *out,
                                 struct sl_error *error)
{
    char path[64];
    *out = (struct virtual_disk_model){.memory = memfd_create("experts", MFD_CLOEXEC)};
    if (out->memory < 0 || ftruncate(out->memory, (off_t)count * (off_t)slot_bytes) != 0)
        return sl_error_set(error, SL_ERR_IO, 0, "no file in memory for the simulated experts");
    snprintf(path, sizeof path, "/proc/self/fd/%d", out->memory);
    SL_TRY(io_file_open(path, false, &out->file, error));
    out->segments = calloc((size_t)count, sizeof *out->segments);
    if (!out->segments) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "out of memory");
    for (int32_t i = 0; i < count; i++)
        out->segments[i] =
            (struct expert_segment){.offset_bytes = (uint64_t)i * slot_bytes, .bytes = slot_bytes};
    out->source = (struct expert_source){.layers = count / experts_per_layer,
                                         .experts = experts_per_layer,
                                         .slot_bytes = slot_bytes,
                                         .files = &out->file,
                                         .file_count = 1,
                                         .segments = out->segments,
                                         .segments_per_expert = 1};
    disk.now_ns = now_ns;
    disk.read_ns = disk.free_ns = 0;
    return SL_OK;
}

void virtual_disk_set_read_ns(double ns)
{
    disk.read_ns = ns;
}

void virtual_disk_close(struct virtual_disk_model *model)
{
    if (model->file.path) io_file_close(&model->file);
    if (model->memory > 0) close(model->memory);
    free(model->segments);
    *model = (struct virtual_disk_model){0};
}
