/* What the user and the tests want to know of the expert store; see expert_store.h. */
#include "offload/expert_store_state.h"

#include <string.h>

bool expert_store_is_resident(const struct expert_store *store, struct expert_ref ref)
{
    return expert_store_tier(store, ref) != EXPERT_TIER_DISK;
}

enum expert_tier expert_store_tier(const struct expert_store *store, struct expert_ref ref)
{
    int32_t expert_idx = store_expert_idx(store, ref);
    if (store_tier_holds(&store->device, expert_idx)) return EXPERT_TIER_DEVICE;
    return store_tier_holds(&store->host, expert_idx) ? EXPERT_TIER_HOST : EXPERT_TIER_DISK;
}

const char *expert_store_last_failure(const struct expert_store *store)
{
    return expert_fetcher_last_failure(store->fetcher);
}

const char *expert_store_notice(const struct expert_store *store, int32_t idx)
{
    SL_ASSERT(idx >= 0);
    return idx < store->notice_count ? store->notices[idx] : NULL;
}

const char *expert_store_describe_io(const struct expert_store *store)
{
    return expert_fetcher_describe(store->fetcher);
}

struct heat *expert_store_heat(struct expert_store *store)
{
    return &store->heat;
}

bool expert_store_is_warm(const struct expert_store *store)
{
    return store->warm;
}

struct rates *expert_store_rates(struct expert_store *store)
{
    return &store->rates;
}

void expert_store_guess_stats_get(const struct expert_store *store, int32_t layer,
                                  struct expert_guess_stats *out)
{
    SL_ASSERT(layer >= 0 && layer < store->options.source->layers);
    struct prefetch_counts counts = prefetch_counts_get(&store->prefetch, layer);
    *out = (struct expert_guess_stats){
        .useful = counts.useful,
        .late = counts.late,
        .wasted = counts.wasted,
        .dropped = counts.dropped,
    };
}

void report_describe_memory(struct expert_store *store)
{
    char device[96] = "";
    if (store_has_device(store))
        snprintf(device, sizeof device, "%d device slots, %s ", (int)store->device.pool.count,
                 store->exclusive ? "exclusive of" : "included in");
    snprintf(store->memory_text, sizeof store->memory_text, "%s%d slots in RAM: %.240s", device,
             (int)store->host.pool.count, store->arena.text);
}

const char *expert_store_describe_memory(const struct expert_store *store)
{
    return store->memory_text;
}

void expert_store_stats_get(const struct expert_store *store, struct expert_store_stats *out)
{
    const struct slot_pool *host = &store->host.pool, *device = &store->device.pool;
    *out = store->stats;
    out->slots = host->count;
    out->slots_ready = host->ready_count;
    out->slots_pinned = host->pinned_count;
    out->slot_bytes = host->slot_bytes;
    out->ram_bytes = store->ram_bytes;
    out->device_slots = device->count;
    out->device_ready = device->ready_count;
    out->device_pinned = device->pinned_count;
    out->stream_slots = store->stream.slots;
    out->stream_used = store->stream.used;
    out->device_bytes = store->device_bytes;
    out->sharing = !store_has_device(store) ? EXPERT_SHARING_AUTO
                   : store->exclusive       ? EXPERT_EXCLUSIVE
                                            : EXPERT_INCLUSIVE;
    out->copies_up = store->transfer.lanes[DEVICE_UP].copies_done;
    out->copies_down = store->transfer.lanes[DEVICE_DOWN].copies_done;
    out->bytes_up = store->transfer.lanes[DEVICE_UP].bytes_done;
    out->bytes_down = store->transfer.lanes[DEVICE_DOWN].bytes_done;
    expert_fetcher_stats_get(store->fetcher, out);
}

/* ---- invariants ---- */

/* What one host slot must be; adds to what must hold in sum. */
static void check_host_slot(const struct expert_store *store, int32_t idx, int32_t *owned,
                            int32_t *reading)
{
    const struct slot *slot = &store->host.pool.slots[idx];
    const struct host_slot *entry = &store->host_slots[idx];
    SL_ASSERT(slot->state != SLOT_STAGED); /* only within a turn */
    SL_ASSERT(!entry->queued || (slot->state == SLOT_READING && slot->pins > 0));
    SL_ASSERT(!entry->held || (slot->state == SLOT_READY && slot->pins > 0));
    SL_ASSERT(!entry->by_copy || (slot->state == SLOT_READING && slot->pins == 0));
    SL_ASSERT(entry->class == HOST_NONE || (slot->state == SLOT_READY && slot->pins == 0));
    SL_ASSERT((entry->class == HOST_CANDIDATE) ==
              (slot->owner >= 0 && slot->state == SLOT_READY &&
               residency_contains(&store->host.residency, slot->owner)));
    *reading += slot->state == SLOT_READING && !entry->queued && !entry->by_copy;
    if (slot->state == SLOT_EMPTY) {
        SL_ASSERT(slot->owner < 0 || entry->status != SL_OK);
        return;
    }
    SL_ASSERT(slot->owner < store->expert_count && store->host.slot_of[slot->owner] == idx);
    bool on_device = store_tier_holds(&store->device, slot->owner);
    if (slot->state == SLOT_READY && slot->pins == 0) {
        /* Never forgotten: what is whole and unpinned may give way, unless tiers are inclusive. */
        SL_ASSERT(entry->class != HOST_NONE || (on_device && !store->exclusive));
        SL_ASSERT(entry->class != HOST_SHADOW || (on_device && store->exclusive));
        SL_ASSERT(!entry->staged);
    }
    (*owned)++;
}

static void check_device_slot(const struct expert_store *store, int32_t idx, int32_t *owned,
                              int32_t *copying, int32_t *leaving)
{
    const struct slot *slot = &store->device.pool.slots[idx];
    const struct device_slot *entry = &store->device_slots[idx];
    bool candidate =
        slot->state == SLOT_READY && slot->pins == 0 && !entry->leaving && !entry->streamed;
    SL_ASSERT(!entry->streamed || (entry->staged && !entry->leaving));
    SL_ASSERT(!entry->streamed || slot->owner >= 0);
    SL_ASSERT(entry->candidate == candidate);
    SL_ASSERT(slot->owner < 0 || slot->state != SLOT_READY ||
              residency_contains(&store->device.residency, slot->owner) == candidate);
    SL_ASSERT(!entry->leaving || slot->state == SLOT_READY);
    SL_ASSERT(!entry->abandoned || (slot->state == SLOT_READING && slot->pins == 0));
    *leaving += entry->leaving;
    *copying += slot->state == SLOT_READING;
    SL_ASSERT((transfer_find(&store->transfer, DEVICE_UP, idx) != NULL) ==
              (slot->state == SLOT_READING));
    SL_ASSERT((transfer_find(&store->transfer, DEVICE_DOWN, idx) != NULL) == entry->leaving);
    if (entry->source >= 0) {
        const struct slot *source = &store->host.pool.slots[entry->source];
        SL_ASSERT(slot->owner >= 0 && source->owner == slot->owner);
        SL_ASSERT(source->state == SLOT_READY && store->host_slots[entry->source].held);
    }
    if (slot->state == SLOT_EMPTY) {
        SL_ASSERT((slot->owner >= 0) == (entry->source >= 0));
        return;
    }
    SL_ASSERT((entry->source >= 0) == (slot->state == SLOT_READING && !entry->abandoned));
    if (entry->abandoned) return;
    SL_ASSERT(store->device.slot_of[slot->owner] == idx);
    (*owned)++;
}

static void check_device_tier(const struct expert_store *store)
{
    int32_t owned = 0, found = 0, copying = 0, leaving = 0, held = 0, sources = 0, streamed = 0;
    slot_pool_check(&store->device.pool);
    residency_check(&store->device.residency);
    transfer_check(&store->transfer);
    for (int32_t i = 0; i < store->device.pool.count; i++) {
        check_device_slot(store, i, &owned, &copying, &leaving);
        sources += store->device_slots[i].source >= 0;
        streamed += store->device_slots[i].streamed;
    }
    for (int32_t i = 0; i < store->expert_count; i++)
        found += store->device.slot_of[i] >= 0;
    for (int32_t i = 0; i < store->host.pool.count; i++)
        held += store->host_slots[i].held;
    SL_ASSERT(found == owned && held == sources);
    /* What stays never takes the room of what passes through, nor the other way round. */
    SL_ASSERT(streamed == store->stream.used && streamed <= store->stream.slots);
    SL_ASSERT(store_device_free(store) >= 0);
    SL_ASSERT(copying == store->transfer.lanes[DEVICE_UP].count);
    SL_ASSERT(leaving == store->leaving_count);
    SL_ASSERT(leaving == store->transfer.lanes[DEVICE_DOWN].count && leaving <= store->down_max);
    SL_ASSERT(store->device_bytes <= store->options.device_bytes);
    SL_ASSERT(store->device_bytes ==
              (uint64_t)store->device.pool.count * store->device.pool.slot_bytes);
}

static void check_lists(const struct expert_store *store)
{
    int32_t queued = 0, listed = 0, shadows = 0, prev = -1;
    for (int32_t i = 0; i < store->host.pool.count; i++) {
        queued += store->host_slots[i].queued;
        shadows += store->host_slots[i].class == HOST_SHADOW;
    }
    for (int32_t i = store->queue_first; i >= 0; i = store->host_slots[i].queue_next) {
        SL_ASSERT(store->host_slots[i].queued && store->host_slots[i].queue_prev == prev);
        SL_ASSERT(++listed <= store->host.pool.count); /* no cycle */
        prev = i;
    }
    SL_ASSERT(prev == store->queue_last && listed == queued);
    listed = 0;
    prev = -1;
    for (int32_t i = store->shadow_first; i >= 0; i = store->host_slots[i].shadow_next) {
        SL_ASSERT(store->host_slots[i].class == HOST_SHADOW);
        SL_ASSERT(store->host_slots[i].shadow_prev == prev);
        SL_ASSERT(++listed <= store->host.pool.count);
        prev = i;
    }
    SL_ASSERT(prev == store->shadow_last && listed == shadows);
}

void expert_store_check(const struct expert_store *store)
{
    int32_t owned = 0, found = 0, reading = 0, streamed = 0;
    slot_pool_check(&store->host.pool);
    residency_check(&store->host.residency);
    expert_fetcher_check(store->fetcher);
    prefetch_check(&store->prefetch);
    check_lists(store);
    for (int32_t i = 0; i < store->host.pool.count; i++)
        check_host_slot(store, i, &owned, &reading), streamed += store->host_slots[i].streamed;
    for (int32_t i = 0; i < store->expert_count; i++)
        found += store->host.slot_of[i] >= 0; /* each slot names its owner: none is found twice */
    SL_ASSERT(found == owned);
    SL_ASSERT(reading == expert_fetcher_active(store->fetcher));
    SL_ASSERT(streamed == store->stream.reads);
    SL_ASSERT(store->ram_bytes <= store->options.ram_bytes);
    if (store_has_device(store)) check_device_tier(store);
}
