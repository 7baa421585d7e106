/* A fetcher's creation; see expert_fetch_state.h. */
#include "offload/arena.h"
#include "offload/expert_fetch_state.h"

#include <errno.h>

/* Largest staging and most reads any expert of the source needs. */
static void measure(const struct expert_source *source, size_t *staging_bytes, int32_t *reads)
{
    bool straight = expert_plan_is_straight(source);
    *staging_bytes = 0;
    *reads = 1;
    for (int32_t i = 0; i < source->layers * source->experts; i++) {
        struct expert_plan plan;
        expert_plan_make(source, i, straight, &plan);
        if (plan.staging_bytes > *staging_bytes) *staging_bytes = plan.staging_bytes;
        *reads = max_i32(*reads, plan.extent_count);
    }
    SL_ASSERT(*staging_bytes <= ARENA_REGION_BYTES_MAX);
}

/* The first file on the same file system. */
static int32_t disk_of(const struct expert_source *source, int32_t file)
{
    int32_t first = 0;
    while (source->files[first].device != source->files[file].device)
        first++;
    return first;
}

int32_t expert_fetcher_disks(const struct expert_source *source)
{
    int32_t disks = 0;
    for (int32_t file = 0; file < source->file_count; file++)
        disks += disk_of(source, file) == file;
    return max_i32(disks, 1);
}

/* Fetches at once in all. */
static int32_t depth_of(const struct expert_source *source, int32_t disk_depth)
{
    return min_i32(disk_depth * expert_fetcher_disks(source), EXPERT_DEPTH_MAX);
}

uint64_t expert_fetcher_staging_bytes(const struct expert_source *source, int32_t depth)
{
    size_t staging_bytes;
    int32_t reads;
    SL_ASSERT(depth > 0);
    measure(source, &staging_bytes, &reads);
    return (uint64_t)depth_of(source, depth) * staging_bytes;
}

/* Cuts the memory that reads land in into regions of whole items: one each, so that a region is
 * registered when its item is first used, or as many as the kernel's count of regions asks for. */
static enum sl_status make_regions(struct expert_fetcher *fetcher, int32_t *region_count,
                                   struct sl_error *error)
{
    uint8_t *memory = fetcher->straight ? fetcher->slots : fetcher->staging;
    size_t bytes = fetcher->straight ? fetcher->source->slot_bytes : fetcher->staging_bytes;
    int32_t count = fetcher->straight ? fetcher->slot_count : fetcher->depth, cut = 0;
    SL_ASSERT(bytes > 0 && bytes <= ARENA_REGION_BYTES_MAX);
    fetcher->items_per_region = ceil_div_i32(count, IO_REGIONS_MAX);
    SL_ASSERT((size_t)fetcher->items_per_region * bytes <= ARENA_REGION_BYTES_MAX);
    *region_count = ceil_div_i32(count, fetcher->items_per_region);
    fetcher->regions = calloc((size_t)*region_count, sizeof *fetcher->regions);
    if (!fetcher->regions)
        return sl_error_set(error, SL_ERR_NO_MEMORY, ENOMEM, "no memory for the expert reader");
    for (int32_t first = 0; first < count; first += fetcher->items_per_region)
        fetcher->regions[cut++] = (struct iovec){
            .iov_base = memory + (size_t)first * bytes,
            .iov_len = (size_t)min_i32(fetcher->items_per_region, count - first) * bytes,
        };
    SL_ASSERT(cut == *region_count);
    return SL_OK;
}

static enum sl_status open_door(struct expert_fetcher *fetcher,
                                const struct expert_fetcher_options *options,
                                struct sl_error *error)
{
    const struct expert_source *source = fetcher->source;
    struct io_options door = {
        .files = source->files,
        .file_count = source->file_count,
        .depth = fetcher->io_depth,
    };
    SL_TRY(make_regions(fetcher, &door.region_count, error));
    door.regions = fetcher->regions;
    if (options->io_override) return options->io_override->open(&door, &fetcher->io, error);
    return io_open(options->io, &door, &fetcher->io, error);
}

static void describe(struct expert_fetcher *fetcher)
{
    const struct expert_source *source = fetcher->source;
    const char *door = fetcher->io->ops->describe(fetcher->io);
    char how[64];
    int direct = 0;
    for (int32_t i = 0; i < source->file_count; i++)
        direct += source->files[i].direct;
    if (direct == source->file_count)
        snprintf(how, sizeof how, "O_DIRECT");
    else if (direct == 0)
        snprintf(how, sizeof how, "through the page cache");
    else
        snprintf(how, sizeof how, "O_DIRECT for %d of %d files", direct, (int)source->file_count);
    snprintf(fetcher->description, sizeof fetcher->description, "%s, %s%s", door, how,
             fetcher->straight ? "" : ", staged");
}

static bool make_disks(struct expert_fetcher *fetcher)
{
    size_t files = (size_t)max_i32(fetcher->source->file_count, 1);
    fetcher->disk_of = calloc(files, sizeof *fetcher->disk_of);
    fetcher->disk_active = calloc(files, sizeof *fetcher->disk_active);
    if (!fetcher->disk_of || !fetcher->disk_active) return false;
    for (int32_t file = 0; file < fetcher->source->file_count; file++)
        fetcher->disk_of[file] = disk_of(fetcher->source, file);
    return true;
}

enum sl_status expert_fetcher_create(const struct expert_fetcher_options *options,
                                     struct expert_fetcher **out, struct sl_error *error)
{
    enum sl_status status;
    int32_t reads;
    SL_ASSERT(options->slots && options->slot_count > 0);
    SL_ASSERT(options->depth >= 1 && options->depth <= EXPERT_DEPTH_MAX);
    struct expert_fetcher *fetcher = calloc(1, sizeof *fetcher);
    if (!fetcher) goto no_memory;
    fetcher->source = options->source;
    fetcher->slots = options->slots;
    fetcher->slot_count = options->slot_count;
    fetcher->disk_depth = options->depth;
    fetcher->depth = depth_of(fetcher->source, options->depth);
    measure(fetcher->source, &fetcher->staging_bytes, &reads);
    fetcher->straight = fetcher->staging_bytes == 0;
    fetcher->reads_max = reads;
    fetcher->io_depth = min_i32(fetcher->depth * reads, IO_DEPTH_MAX);
    fetcher->fetches = calloc((size_t)fetcher->depth, sizeof *fetcher->fetches);
    if (!fetcher->fetches || !make_disks(fetcher)) goto no_memory;
    for (int32_t i = 0; i < fetcher->depth; i++) {
        fetcher->fetches[i].next = fetcher->free;
        fetcher->free = &fetcher->fetches[i];
    }
    if (!fetcher->straight) {
        fetcher->staging = arena_map((size_t)fetcher->depth * fetcher->staging_bytes);
        if (!fetcher->staging) goto no_memory;
    }
    status = open_door(fetcher, options, error);
    if (status != SL_OK) goto fail;
    describe(fetcher);
    *out = fetcher;
    return SL_OK;
no_memory:
    status = sl_error_set(error, SL_ERR_NO_MEMORY, ENOMEM, "no memory for the expert reader");
fail:
    expert_fetcher_destroy(fetcher);
    return status;
}

void expert_fetcher_destroy(struct expert_fetcher *fetcher)
{
    if (!fetcher) return;
    if (fetcher->io) fetcher->io->ops->close(fetcher->io);
    arena_unmap(fetcher->staging, (size_t)fetcher->depth * fetcher->staging_bytes);
    free(fetcher->regions);
    free(fetcher->disk_of);
    free(fetcher->disk_active);
    free(fetcher->fetches);
    free(fetcher);
}
