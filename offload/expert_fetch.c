/* Reads of whole experts over a door to the disk; see the header. */
#include "offload/expert_fetch_state.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <xxhash.h>

/* ---- starting ---- */

bool expert_fetcher_takes_more(const struct expert_fetcher *fetcher)
{
    return fetcher->free && fetcher->reads_pending + fetcher->reads_max <= fetcher->io_depth;
}

bool expert_fetcher_has_room(const struct expert_fetcher *fetcher, int32_t expert_idx)
{
    struct expert_plan plan;
    if (!fetcher->free) return false;
    expert_plan_make(fetcher->source, expert_idx, fetcher->straight, &plan);
    int32_t disk = fetcher->disk_of[plan.extents[0].file];
    if (fetcher->disk_active[disk] == fetcher->disk_depth) return false;
    return fetcher->reads_pending + plan.extent_count <= fetcher->io_depth;
}

static uint8_t *fetch_target(const struct expert_fetcher *fetcher, const struct expert_fetch *fetch)
{
    if (fetcher->straight)
        return fetcher->slots + (size_t)fetch->slot * fetcher->source->slot_bytes;
    return fetcher->staging + (size_t)(fetch - fetcher->fetches) * fetcher->staging_bytes;
}

static void push_read(struct expert_fetcher *fetcher, struct io_read *read)
{
    SL_ASSERT(fetcher->batch_count < fetcher->io_depth);
    fetcher->batch[fetcher->batch_count++] = read;
}

static void push_finished(struct expert_fetcher *fetcher, struct expert_fetch *fetch)
{
    SL_ASSERT(fetch->active && fetch->reads_pending == 0);
    fetch->next = fetcher->finished;
    fetcher->finished = fetch;
}

/* Keeps the first failure of a fetch, at the file and offset of `read`, as a sentence for the user.
 */
static void SL_PRINTF(5, 6)
    fail_fetch(struct expert_fetcher *fetcher, struct expert_fetch *fetch, enum sl_status status,
               const struct io_read *read, const char *format, ...)
{
    const struct expert_source *source = fetcher->source;
    char reason[512];
    va_list arguments;
    SL_ASSERT(status != SL_OK);
    SL_ASSERT(read->file >= 0 && read->file < source->file_count);
    if (fetch->status != SL_OK) return;
    fetch->status = status;
    fetcher->failures++;
    va_start(arguments, format);
    vsnprintf(reason, sizeof reason, format, arguments);
    va_end(arguments);
    snprintf(fetcher->last_failure, sizeof fetcher->last_failure,
             "layer %d expert %d: %.400s at byte %llu: %s",
             (int)(fetch->expert_idx / source->experts), (int)(fetch->expert_idx % source->experts),
             source->files[read->file].path, (unsigned long long)read->offset_bytes, reason);
}

void expert_fetcher_start(struct expert_fetcher *fetcher, int32_t expert_idx, int32_t slot)
{
    struct expert_fetch *fetch = fetcher->free;
    SL_ASSERT(fetch && !fetch->active);
    SL_ASSERT(slot >= 0 && slot < fetcher->slot_count);
    fetcher->free = fetch->next;
    fetcher->active++;
    *fetch = (struct expert_fetch){.expert_idx = expert_idx, .slot = slot, .active = true};
    expert_plan_make(fetcher->source, expert_idx, fetcher->straight, &fetch->plan);
    /* An expert spread over disks is counted where its first part lies. */
    fetch->disk = fetcher->disk_of[fetch->plan.extents[0].file];
    fetcher->disk_active[fetch->disk]++;
    uint8_t *target = fetch_target(fetcher, fetch);
    int32_t item = fetcher->straight ? slot : (int32_t)(fetch - fetcher->fetches);
    for (int32_t i = 0; i < fetch->plan.extent_count; i++) {
        const struct expert_extent *extent = &fetch->plan.extents[i];
        fetch->reads[i] = (struct io_read){
            .offset_bytes = extent->offset_bytes,
            .bytes = extent->bytes,
            .buffer = target + extent->target_offset_bytes,
            .file = extent->file,
            .region = item / fetcher->items_per_region,
            .owner = fetch,
        };
    }
    if (fetcher->broken) {
        fail_fetch(fetcher, fetch, SL_ERR_IO, &fetch->reads[0],
                   "the disk reader has failed before; start again");
        push_finished(fetcher, fetch);
        return;
    }
    for (int32_t i = 0; i < fetch->plan.extent_count; i++)
        push_read(fetcher, &fetch->reads[i]);
    fetch->reads_pending = fetch->plan.extent_count;
    fetcher->reads_pending += fetch->plan.extent_count;
}

static void end_read(struct expert_fetcher *fetcher, struct expert_fetch *fetch)
{
    SL_ASSERT(fetch->reads_pending > 0 && fetcher->reads_pending > 0);
    fetcher->reads_pending--;
    if (--fetch->reads_pending == 0) push_finished(fetcher, fetch);
}

void expert_fetcher_submit(struct expert_fetcher *fetcher)
{
    int32_t count = fetcher->batch_count;
    if (count == 0) return;
    SL_ASSERT(count <= fetcher->reads_pending);
    fetcher->batch_count = 0;
    if (fetcher->io->ops->submit(fetcher->io, fetcher->batch, count) == SL_OK) {
        fetcher->reads += (uint64_t)count;
        return;
    }
    for (int32_t i = 0; i < count; i++) {
        struct io_read *read = fetcher->batch[i];
        fail_fetch(fetcher, read->owner, SL_ERR_IO, read, "the system did not accept the read");
        end_read(fetcher, read->owner);
    }
}

/* ---- completions ---- */

static const char *reason_of(int os_errno, char *buffer, size_t bytes)
{
    return strerror_r(os_errno, buffer, bytes);
}

/* A read that made no headway for now: again, or given up after too many times in a row. */
static bool may_retry(struct expert_fetcher *fetcher, struct expert_fetch *fetch, int32_t extent)
{
    if (fetch->retries[extent] == EXPERT_READ_RETRIES_MAX) return false;
    fetch->retries[extent]++;
    fetcher->retries++;
    return true;
}

/* Why bytes are missing: the file was cut while open, or the read stopped for no visible reason. */
static void fail_short(struct expert_fetcher *fetcher, struct expert_fetch *fetch,
                       const struct io_read *read)
{
    struct sl_error changed;
    const struct io_file *file = &fetcher->source->files[read->file];
    if (io_file_check_unchanged(file, &changed) != SL_OK)
        fail_fetch(fetcher, fetch, SL_ERR_IO, read, "%s", changed.message);
    else
        fail_fetch(fetcher, fetch, SL_ERR_IO, read, "the read ends here, before the expert does");
}

/* Takes a result in. Returns true when the same read, moved past what has arrived, must go out
 * again. */
static bool take_result(struct expert_fetcher *fetcher, struct expert_fetch *fetch,
                        struct io_read *read)
{
    int32_t index = (int32_t)(read - fetch->reads);
    const struct expert_extent *extent = &fetch->plan.extents[index];
    size_t done = (size_t)(read->offset_bytes - extent->offset_bytes);
    char text[128];
    if (fetch->status != SL_OK) return false; /* another read of this expert failed */
    if (read->result < 0) {
        int os_errno = (int)-read->result;
        bool transient = os_errno == EINTR || os_errno == EAGAIN;
        if (transient && may_retry(fetcher, fetch, index)) return true;
        fail_fetch(fetcher, fetch, SL_ERR_IO, read, "%s%s", reason_of(os_errno, text, sizeof text),
                   transient ? ", again and again" : "");
        return false;
    }
    SL_ASSERT((size_t)read->result <= read->bytes);
    fetcher->bytes_read += (uint64_t)read->result;
    done += (size_t)read->result;
    if (done >= extent->needed_bytes) return false;
    if (read->result == 0) {
        fail_short(fetcher, fetch, read);
        return false;
    }
    /* The rest must start aligned again, so a ragged end is read twice; one that never gets past
     * the first block is the end of a file that was cut. */
    size_t moved = (size_t)align_down(read->offset_bytes + (uint64_t)read->result,
                                      fetcher->source->files[read->file].alignment_bytes) -
                   read->offset_bytes;
    if (moved == 0 && !may_retry(fetcher, fetch, index)) {
        fail_short(fetcher, fetch, read);
        return false;
    }
    if (moved > 0) fetch->retries[index] = 0;
    read->offset_bytes += moved;
    read->buffer = (uint8_t *)read->buffer + moved;
    read->bytes -= moved;
    return true;
}

/* The door gives nothing back any more: everything under way has failed. Its reads may still write
 * into their slots, which is harmless because no fetch will ever fill a slot again. */
static void break_door(struct expert_fetcher *fetcher, int os_errno)
{
    char text[128];
    fetcher->broken = true;
    fetcher->batch_count = 0;
    for (int32_t i = 0; i < fetcher->depth; i++) {
        struct expert_fetch *fetch = &fetcher->fetches[i];
        if (!fetch->active || fetch->reads_pending == 0) continue;
        fail_fetch(fetcher, fetch, SL_ERR_IO, &fetch->reads[0], "the disk reader failed: %s",
                   reason_of(os_errno, text, sizeof text));
        fetcher->reads_pending -= fetch->reads_pending;
        fetch->reads_pending = 0;
        push_finished(fetcher, fetch);
    }
    SL_ASSERT(fetcher->reads_pending == 0);
}

struct expert_fetch *expert_fetcher_reap(struct expert_fetcher *fetcher, bool wait)
{
    struct io_read *reads[IO_DEPTH_MAX];
    SL_ASSERT(!wait || fetcher->active > 0);
    expert_fetcher_submit(fetcher);
    while (!fetcher->finished && fetcher->reads_pending > 0) {
        int32_t count = fetcher->io->ops->reap(fetcher->io, reads, IO_DEPTH_MAX, wait ? 1 : 0);
        if (count < 0) break_door(fetcher, -count);
        for (int32_t i = 0; i < count; i++) {
            struct expert_fetch *fetch = reads[i]->owner;
            if (take_result(fetcher, fetch, reads[i]))
                push_read(fetcher, reads[i]);
            else
                end_read(fetcher, fetch);
        }
        expert_fetcher_submit(fetcher);
        if (!wait) break;
    }
    struct expert_fetch *fetch = fetcher->finished;
    SL_ASSERT(fetch || !wait);
    if (fetch) fetcher->finished = fetch->next;
    return fetch;
}

int32_t expert_fetch_slot(const struct expert_fetch *fetch)
{
    return fetch->slot;
}

int32_t expert_fetch_expert_idx(const struct expert_fetch *fetch)
{
    return fetch->expert_idx;
}

/* Whether the slot holds what was once written: by checksum, or, where there is none, by the files
 * not having been touched since they were opened. */
static void verify(struct expert_fetcher *fetcher, struct expert_fetch *fetch, const uint8_t *slot)
{
    const struct expert_source *source = fetcher->source;
    const struct expert_extent *extents = fetch->plan.extents;
    if (source->checksums) {
        struct io_read whole = {.file = extents[0].file, .offset_bytes = extents[0].offset_bytes};
        uint64_t expected = source->checksums[fetch->expert_idx];
        uint64_t found = XXH3_64bits(slot, source->slot_bytes);
        if (found != expected)
            fail_fetch(fetcher, fetch, SL_ERR_CHECKSUM, &whole,
                       "checksum %016llx, expected %016llx; the file is damaged",
                       (unsigned long long)found, (unsigned long long)expected);
        return;
    }
    for (int32_t i = 0; i < fetch->plan.extent_count; i++) {
        struct io_read part = {.file = extents[i].file, .offset_bytes = extents[i].offset_bytes};
        struct sl_error changed;
        if (i > 0 && part.file == extents[i - 1].file) continue;
        if (io_file_check_unchanged(&source->files[part.file], &changed) != SL_OK)
            fail_fetch(fetcher, fetch, SL_ERR_IO, &part, "%s", changed.message);
    }
}

enum sl_status expert_fetcher_finish(struct expert_fetcher *fetcher, struct expert_fetch *fetch)
{
    SL_ASSERT(fetch->active && fetch->reads_pending == 0);
    if (fetch->status == SL_OK) {
        uint8_t *slot = fetcher->slots + (size_t)fetch->slot * fetcher->source->slot_bytes;
        expert_plan_place(fetcher->source, fetch->expert_idx, &fetch->plan,
                          fetcher->straight ? NULL : fetch_target(fetcher, fetch), slot);
        verify(fetcher, fetch, slot);
    }
    fetch->active = false;
    fetcher->disk_active[fetch->disk]--;
    fetch->next = fetcher->free;
    fetcher->free = fetch;
    fetcher->active--;
    return fetch->status;
}

/* ---- for the user and for tests ---- */

int32_t expert_fetcher_active(const struct expert_fetcher *fetcher)
{
    return fetcher->active;
}

const char *expert_fetcher_last_failure(const struct expert_fetcher *fetcher)
{
    return fetcher->last_failure;
}

const char *expert_fetcher_describe(const struct expert_fetcher *fetcher)
{
    return fetcher->description;
}

void expert_fetcher_stats_get(const struct expert_fetcher *fetcher, struct expert_store_stats *out)
{
    out->bytes_read = fetcher->bytes_read;
    out->reads = fetcher->reads;
    out->retries = fetcher->retries;
    out->failures = fetcher->failures;
}

void expert_fetcher_check(const struct expert_fetcher *fetcher)
{
    int32_t active = 0, pending = 0, free_count = 0, finished = 0, at_rest = 0, counted = 0;
    for (int32_t disk = 0; disk < fetcher->source->file_count; disk++) {
        SL_ASSERT(fetcher->disk_active[disk] >= 0);
        SL_ASSERT(fetcher->disk_active[disk] <= fetcher->depth);
        counted += fetcher->disk_active[disk];
    }
    SL_ASSERT(counted == fetcher->active);
    for (int32_t i = 0; i < fetcher->depth; i++) {
        const struct expert_fetch *fetch = &fetcher->fetches[i];
        SL_ASSERT(fetch->reads_pending >= 0 && fetch->reads_pending <= EXPERT_SEGMENTS_MAX);
        SL_ASSERT(fetch->active || fetch->reads_pending == 0);
        active += fetch->active;
        pending += fetch->reads_pending;
        at_rest += fetch->active && fetch->reads_pending == 0;
    }
    for (const struct expert_fetch *fetch = fetcher->free; fetch; fetch = fetch->next)
        SL_ASSERT(!fetch->active && ++free_count <= fetcher->depth);
    for (const struct expert_fetch *fetch = fetcher->finished; fetch; fetch = fetch->next)
        SL_ASSERT(fetch->active && ++finished <= fetcher->depth);
    SL_ASSERT(active == fetcher->active && active + free_count == fetcher->depth);
    SL_ASSERT(finished == at_rest);
    SL_ASSERT(pending == fetcher->reads_pending && pending <= fetcher->io_depth);
    SL_ASSERT(fetcher->batch_count == 0);
}
