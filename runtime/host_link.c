/* Copies of experts to measure a device's link; see the header. */
#include "runtime/host_link.h"

#include "offload/arena.h"
#include "offload/clock.h"

#include <string.h>

#define PATIENCE_NS 5000000000u /* with a lane that moves nothing */
#define WAIT_NS     10000000u

static const struct clock steady = {0};

/* ---- memory ------------------------------------------------------------------------------- */

/* Pins what the device copies from and to. Of the experts as many as the system allows, but enough
 * for the copies in flight; where even these are refused, copies go unpinned and that is said. */
static void pin(struct host_link *link)
{
    struct device *device = link->bench->device;
    size_t slot_bytes = link->bench->layout.slot_bytes;
    struct sl_error refusal;
    int32_t least = min_i32(HOST_LINK_DEPTH_MAX, link->experts->count);
    link->landing_pinned =
        device->ops->host_pin(device, link->landing, HOST_LINK_DEPTH_MAX * slot_bytes, &refusal) ==
        SL_OK;
    link->sources = link->experts->count;
    for (int32_t count = link->experts->count; count >= least; count /= 2) {
        if (device->ops->host_pin(device, link->experts->slots, (size_t)count * slot_bytes,
                                  &refusal) != SL_OK)
            continue;
        link->sources = count;
        link->pinned_bytes = (size_t)count * slot_bytes;
        break;
    }
    if (!link->pinned_bytes || !link->landing_pinned)
        snprintf(link->unpinned, sizeof link->unpinned,
                 "the link is slower than it could be: %.200s", refusal.message);
}

enum sl_status host_link_init(const struct host_experts *experts, struct host_link *out,
                              struct sl_error *error)
{
    const struct host_bench *bench = experts->bench;
    size_t bytes = HOST_LINK_DEPTH_MAX * bench->layout.slot_bytes;
    void *memory = NULL;
    SL_ASSERT(bench->device);
    *out = (struct host_link){.bench = bench, .experts = experts};
    SL_TRY(bench->device->ops->memory_alloc(bench->device, DEVICE_LANES * bytes, &memory, error));
    out->memory = memory;
    out->landing = arena_map(bytes);
    if (!out->landing) {
        host_link_deinit(out);
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for %d copies at once",
                            HOST_LINK_DEPTH_MAX);
    }
    memset(out->landing, 0, bytes); /* filled before it is pinned, as the engine's slots are */
    pin(out);
    return SL_OK;
}

void host_link_deinit(struct host_link *link)
{
    if (!link->bench) return;
    struct device *device = link->bench->device;
    size_t bytes = HOST_LINK_DEPTH_MAX * link->bench->layout.slot_bytes;
    if (link->pinned_bytes)
        device->ops->host_unpin(device, link->experts->slots, link->pinned_bytes);
    if (link->landing_pinned) device->ops->host_unpin(device, link->landing, bytes);
    device->ops->memory_free(device, link->memory);
    arena_unmap(link->landing, bytes);
    *link = (struct host_link){0};
}

/* ---- copies ------------------------------------------------------------------------------- */

/* One lane of a run. */
struct lane_run {
    bool on;
    uint64_t first, last; /* tickets: before the run, and the latest submitted */
    uint64_t done, end_ns;
};

static bool submit(struct host_link *link, enum device_lane lane, int32_t depth,
                   struct lane_run *run)
{
    struct device *device = link->bench->device;
    size_t bytes = link->bench->layout.slot_bytes;
    size_t at = (size_t)((run->last + 1) % (uint64_t)depth) * bytes;
    struct device_copy copy = {.bytes = bytes};
    if (lane == DEVICE_UP) {
        link->next = (link->next + 1) % link->sources;
        copy.target = link->memory + at;
        copy.source = link->experts->slots + (size_t)link->next * bytes;
    } else {
        copy.target = link->landing + at;
        copy.source = link->memory + HOST_LINK_DEPTH_MAX * bytes + at;
    }
    return device->ops->copy_submit(device, lane, &copy, &run->last) == SL_OK;
}

static enum sl_status lane_failed(const struct host_link *link, enum device_lane lane,
                                  struct sl_error *error)
{
    const struct device *device = link->bench->device;
    const char *fault = device->ops->lane_fault(device, lane);
    return sl_error_set(error, SL_ERR_IO, 0, "copies %s %s: %s", lane == DEVICE_UP ? "to" : "from",
                        device->ops->describe(device),
                        fault ? fault : "nothing moved for five seconds");
}

/* Takes in what a lane has done and keeps it busy while `more`; false when it failed. */
static bool turn(struct host_link *link, enum device_lane lane, int32_t depth, bool more,
                 struct lane_run *run)
{
    struct device *device = link->bench->device;
    uint64_t done = device->ops->copy_progress(device, lane);
    if (done > run->done) run->end_ns = clock_now_ns(&steady);
    run->done = done;
    while (more && run->last - run->done < (uint64_t)depth)
        if (!submit(link, lane, depth, run)) return false;
    return run->done == run->last || !device->ops->lane_fault(device, lane);
}

/* Whether the time is over, and every lane has done each copy in flight twice. */
static bool is_over(const struct host_link *link, const struct lane_run *runs, int32_t depth,
                    uint64_t elapsed_ns)
{
    double share = (double)elapsed_ns / (link->bench->seconds * 1e9);
    bool enough = true;
    for (int lane = 0; lane < DEVICE_LANES; lane++)
        enough =
            enough && (!runs[lane].on || runs[lane].done - runs[lane].first >= 2 * (uint64_t)depth);
    return share >= HOST_BENCH_SLOW_FACTOR || (share >= 1 && enough);
}

enum sl_status host_link_run(struct host_link *link, const bool lanes[DEVICE_LANES], int32_t depth,
                             double rates[DEVICE_LANES], struct sl_error *error)
{
    struct device *device = link->bench->device;
    struct lane_run runs[DEVICE_LANES] = {0};
    bool over = false, busy = true;
    SL_ASSERT(depth >= 1 && depth <= HOST_LINK_DEPTH_MAX);
    for (int lane = 0; lane < DEVICE_LANES; lane++) {
        uint64_t done = device->ops->copy_progress(device, (enum device_lane)lane);
        runs[lane] =
            (struct lane_run){.on = lanes[lane], .first = done, .last = done, .done = done};
    }
    uint64_t start_ns = clock_now_ns(&steady), moved_ns = start_ns;
    while (busy) {
        busy = false;
        for (int lane = 0; lane < DEVICE_LANES; lane++) {
            if (!runs[lane].on) continue;
            if (!turn(link, (enum device_lane)lane, depth, !over, &runs[lane]))
                return lane_failed(link, (enum device_lane)lane, error);
            if (runs[lane].end_ns > moved_ns) moved_ns = runs[lane].end_ns;
            busy = busy || runs[lane].done < runs[lane].last;
            if (clock_now_ns(&steady) - moved_ns > PATIENCE_NS && runs[lane].done < runs[lane].last)
                return lane_failed(link, (enum device_lane)lane, error);
        }
        if (busy) device->ops->wait(device, WAIT_NS);
        over = over || is_over(link, runs, depth, clock_now_ns(&steady) - start_ns);
    }
    for (int lane = 0; lane < DEVICE_LANES; lane++) {
        const struct lane_run *run = &runs[lane];
        double bytes = (double)(run->done - run->first) * (double)link->bench->layout.slot_bytes;
        rates[lane] = run->on ? bytes * 1e9 / (double)(run->end_ns - start_ns) : 0;
    }
    return SL_OK;
}
