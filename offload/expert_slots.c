/* Which expert is in which slot of which tier: pins, holds, victims and shadows; see
 * expert_store_state.h. */
#include "offload/expert_store_state.h"

#include <math.h>

static struct slot *host_pooled(const struct expert_store *store, int32_t slot)
{
    SL_ASSERT(slot >= 0 && slot < store->host.pool.count);
    return &store->host.pool.slots[slot];
}

static struct slot *device_pooled(const struct expert_store *store, int32_t slot)
{
    SL_ASSERT(slot >= 0 && slot < store->device.pool.count);
    return &store->device.pool.slots[slot];
}

/* ---- who may give way ---- */

static void shadow_push(struct expert_store *store, int32_t slot)
{
    struct host_slot *entry = &store->host_slots[slot];
    entry->shadow_next = -1;
    entry->shadow_prev = store->shadow_last;
    if (store->shadow_last >= 0)
        store->host_slots[store->shadow_last].shadow_next = slot;
    else
        store->shadow_first = slot;
    store->shadow_last = slot;
}

static void shadow_remove(struct expert_store *store, int32_t slot)
{
    struct host_slot *entry = &store->host_slots[slot];
    if (entry->shadow_prev >= 0)
        store->host_slots[entry->shadow_prev].shadow_next = entry->shadow_next;
    else
        store->shadow_first = entry->shadow_next;
    if (entry->shadow_next >= 0)
        store->host_slots[entry->shadow_next].shadow_prev = entry->shadow_prev;
    else
        store->shadow_last = entry->shadow_prev;
}

/* An expert on the device: its host slot is free for the taking when tiers are exclusive, and kept
 * when they are not. What prefill passes through the device will soon have only this one. */
static enum host_class class_of(const struct expert_store *store, int32_t slot)
{
    const struct slot *pooled = host_pooled(store, slot);
    if (pooled->state != SLOT_READY || pooled->pins > 0) return HOST_NONE;
    if (!store_has_device(store)) return HOST_CANDIDATE;
    int32_t device_slot = store->device.slot_of[pooled->owner];
    if (device_slot < 0 || device_pooled(store, device_slot)->state != SLOT_READY)
        return HOST_CANDIDATE;
    if (!store->exclusive) return HOST_NONE;
    return store->device_slots[device_slot].staged ? HOST_CANDIDATE : HOST_SHADOW;
}

static void set_class(struct expert_store *store, int32_t slot, enum host_class class)
{
    struct host_slot *entry = &store->host_slots[slot];
    int32_t owner = host_pooled(store, slot)->owner;
    if (entry->class == class) return;
    if (entry->class == HOST_CANDIDATE) residency_remove(&store->host.residency, owner);
    if (entry->class == HOST_SHADOW) shadow_remove(store, slot);
    entry->class = class;
    if (class == HOST_CANDIDATE) residency_insert(&store->host.residency, owner);
    if (class == HOST_SHADOW) shadow_push(store, slot);
}

void slots_refresh_host(struct expert_store *store, int32_t slot)
{
    set_class(store, slot, class_of(store, slot));
}

void slots_refresh_device(struct expert_store *store, int32_t slot)
{
    const struct slot *pooled = device_pooled(store, slot);
    struct device_slot *entry = &store->device_slots[slot];
    bool candidate =
        pooled->state == SLOT_READY && pooled->pins == 0 && !entry->leaving && !entry->streamed;
    if (candidate == entry->candidate) return;
    entry->candidate = candidate;
    if (candidate)
        residency_insert(&store->device.residency, pooled->owner);
    else
        residency_remove(&store->device.residency, pooled->owner);
}

/* ---- pins ---- */

void slots_pin_host(struct expert_store *store, int32_t slot)
{
    slot_pool_pin(&store->host.pool, slot);
    slots_refresh_host(store, slot);
}

void slots_unpin_host(struct expert_store *store, int32_t slot)
{
    const struct slot *pooled = host_pooled(store, slot);
    struct host_slot *entry = &store->host_slots[slot];
    if (slot_pool_unpin(&store->host.pool, slot) > 0) return;
    entry->wants_up = false;
    if (pooled->state == SLOT_READY) {
        slots_refresh_host(store, slot);
        if (entry->staged) slots_drop_host(store, slot);
    } else if (entry->queued) {
        reads_forget(store, slot);
    }
}

void slots_hold_host(struct expert_store *store, int32_t slot)
{
    struct host_slot *entry = &store->host_slots[slot];
    SL_ASSERT(!entry->held && host_pooled(store, slot)->state == SLOT_READY);
    entry->held = true;
    slots_pin_host(store, slot);
}

void slots_unhold_host(struct expert_store *store, int32_t slot)
{
    SL_ASSERT(store->host_slots[slot].held);
    store->host_slots[slot].held = false;
    slots_unpin_host(store, slot);
}

void slots_pin_device(struct expert_store *store, int32_t slot)
{
    slot_pool_pin(&store->device.pool, slot);
    slots_refresh_device(store, slot);
}

void slots_unpin_device(struct expert_store *store, int32_t slot)
{
    const struct slot *pooled = device_pooled(store, slot);
    struct device_slot *entry = &store->device_slots[slot];
    bool failed = pooled->state == SLOT_EMPTY;
    if (slot_pool_unpin(&store->device.pool, slot) > 0) return;
    if (failed) { /* the last waiter has learnt of it, and gone on from RAM */
        slots_unhold_host(store, entry->source);
        entry->source = -1;
        stream_leave(store, slot);
        return;
    }
    slots_refresh_device(store, slot);
    if (pooled->state == SLOT_READY && entry->staged && !entry->leaving)
        slots_drop_device(store, slot);
}

/* ---- taking and giving back ---- */

void slots_drop_host(struct expert_store *store, int32_t slot)
{
    int32_t owner = host_pooled(store, slot)->owner;
    SL_ASSERT(host_pooled(store, slot)->state == SLOT_READY && store->host.slot_of[owner] == slot);
    set_class(store, slot, HOST_NONE);
    store->host.slot_of[owner] = -1;
    slot_pool_put(&store->host.pool, slot);
}

void slots_drop_device(struct expert_store *store, int32_t slot)
{
    int32_t owner = device_pooled(store, slot)->owner;
    struct device_slot *entry = &store->device_slots[slot];
    SL_ASSERT(store->device.slot_of[owner] == slot && !entry->leaving);
    if (entry->candidate) residency_remove(&store->device.residency, owner);
    entry->candidate = entry->staged = false;
    store->device.slot_of[owner] = -1;
    slot_pool_put(&store->device.pool, slot);
    store->stats.device_evictions += !entry->streamed;
    stream_leave(store, slot);
    int32_t host_slot = store->host.slot_of[owner];
    if (host_slot >= 0) slots_refresh_host(store, host_slot);
}

/* The last resort of inclusive tiers: an expert of the device loses its place in RAM. */
static bool drop_kept(struct expert_store *store)
{
    for (int32_t i = 0; i < store->host.pool.count; i++) {
        const struct slot *pooled = host_pooled(store, i);
        if (pooled->state != SLOT_READY || pooled->pins > 0) continue;
        slots_drop_host(store, i);
        store->stats.evictions++;
        return true;
    }
    return false;
}

static bool free_a_host_slot(struct expert_store *store, float limit)
{
    if (store->shadow_first >= 0) {
        slots_drop_host(store, store->shadow_first);
        return true;
    }
    int32_t victim = residency_victim(&store->host.residency, store->layer);
    if (victim < 0) return limit == INFINITY && drop_kept(store);
    if (limit < INFINITY && residency_value(&store->host.residency, victim) >= limit) return false;
    slots_drop_host(store, store->host.slot_of[victim]);
    store->stats.evictions++;
    return true;
}

int32_t slots_take_host(struct expert_store *store, int32_t expert_idx, float limit)
{
    struct slot_pool *pool = &store->host.pool;
    SL_ASSERT(store->host.slot_of[expert_idx] < 0);
    /* Once RAM is full, prefill has a few slots to pass its experts through. */
    bool staged = store_is_prefill(store) && store->staging_slots > 0 &&
                  pool->free_count <= store->staging_slots;
    if (pool->free_count == 0 && !free_a_host_slot(store, limit)) return -1;
    int32_t slot = slot_pool_take(pool, expert_idx);
    struct host_slot *entry = &store->host_slots[slot];
    SL_ASSERT(slot >= 0 && entry->class == HOST_NONE && !entry->held && !entry->queued);
    bool pinned = entry->pinned, unpinned = entry->unpinned; /* of the memory, whoever is in it */
    *entry = (struct host_slot){.staged = staged,
                                .pinned = pinned,
                                .unpinned = unpinned,
                                .queue_next = -1,
                                .queue_prev = -1,
                                .shadow_next = -1,
                                .shadow_prev = -1};
    store->host.slot_of[expert_idx] = slot;
    return slot;
}

int32_t slots_take_device(struct expert_store *store, int32_t expert_idx, float limit,
                          enum transfer_cause cause)
{
    struct slot_pool *pool = &store->device.pool;
    bool staged = cause == TRANSFER_STREAM || (store_is_prefill(store) && cause == TRANSFER_DEMAND);
    SL_ASSERT(store->device.slot_of[expert_idx] < 0);
    /* What is in no hurry leaves the reserve alone, and prefill takes nobody's place. */
    int32_t kept = cause == TRANSFER_PROMOTION ? store->device_reserve : 0;
    bool full = store_device_free(store) <= max_i32(store->device_reserve, 1);
    bool streamed = staged && store->stream.slots > 0 && full;
    if (streamed && store_stream_free(store) <= 0) return -1;
    if (!streamed && store_device_free(store) <= kept) {
        int32_t victim = staged ? -1 : residency_victim(&store->device.residency, store->layer);
        if (victim < 0) return -1;
        if (limit < INFINITY && residency_value(&store->device.residency, victim) >= limit)
            return -1;
        moves_evict(store, store->device.slot_of[victim]);
        if (store_device_free(store) <= kept) return -1; /* it is on its way down */
    }
    int32_t slot = slot_pool_take(pool, expert_idx);
    SL_ASSERT(slot >= 0);
    struct device_slot *entry = &store->device_slots[slot];
    SL_ASSERT(!entry->candidate && !entry->leaving);
    uint64_t fence = entry->fence;
    /* The first prompt finds an empty device, and what it brings may stay. */
    staged = streamed || (staged && store_device_free(store) < max_i32(store->device_reserve, 1));
    *entry =
        (struct device_slot){.source = -1, .fence = fence, .staged = staged, .streamed = streamed};
    store->stream.used += streamed;
    store->device.slot_of[expert_idx] = slot;
    return slot;
}
