/* Host slots to device slots and back: copies, demotions, promotions, and lanes that fail or hang;
 * see expert_store_state.h. */
#include "offload/expert_store_state.h"

#include <math.h>

/* A promotion must gain this much over the expert it displaces, or the link would be busy swapping
 * equals. */
#define PROMOTION_GAIN 1.25f
/* Host slots looked at in one idle turn, for something that deserves a device slot. */
#define PROMOTION_LOOKS 32

static struct transfer_lane *lane_of(struct expert_store *store, enum device_lane lane)
{
    return &store->transfer.lanes[lane];
}

int32_t moves_in_flight(const struct expert_store *store)
{
    if (!store_has_device(store)) return 0;
    return store->transfer.lanes[DEVICE_UP].count + store->transfer.lanes[DEVICE_DOWN].count;
}

/* Makes a host slot known to the device before its first copy, and after its first filling; or
 * remembers that this is still to be done. */
static void pin_memory(struct expert_store *store, int32_t host_slot)
{
    struct device *device = store->options.device;
    struct host_slot *entry = &store->host_slots[host_slot];
    struct sl_error error;
    if (entry->pinned || store->pin_refused) return;
    enum sl_status status =
        device->ops->host_pin(device, slot_pool_memory(&store->host.pool, host_slot),
                              store->host.pool.slot_bytes, &error);
    if (status == SL_ERR_BUSY) {
        store->unpinned_count += !entry->unpinned;
        entry->unpinned = true;
        return;
    }
    store->unpinned_count -= entry->unpinned;
    entry->unpinned = false;
    entry->pinned = status == SL_OK;
    if (entry->pinned) return;
    store->pin_refused = true;
    store_notice(store, "RAM that could not be pinned is copied more slowly: %s", error.message);
}

void expert_store_pin(struct expert_store *store)
{
    for (int32_t i = 0; store->unpinned_count > 0 && !store->pin_refused; i++) {
        SL_ASSERT(i < store->host.pool.count);
        if (store->host_slots[i].unpinned) pin_memory(store, i);
    }
}

/* ---- up ---- */

bool moves_up(struct expert_store *store, int32_t expert_idx, enum transfer_cause cause,
              float limit)
{
    int32_t host_slot = store->host.slot_of[expert_idx];
    if (!store_has_device(store) || store->device.slot_of[expert_idx] >= 0) return false;
    SL_ASSERT(host_slot >= 0 && store->host.pool.slots[host_slot].state == SLOT_READY);
    if (!transfer_has_room(&store->transfer, DEVICE_UP)) return false;
    /* An abandoned copy still reads this slot, and a slot is held once only. */
    if (store->host_slots[host_slot].held) return false;
    slots_hold_host(store, host_slot); /* first, or making room might drop it */
    int32_t slot = slots_take_device(store, expert_idx, limit, cause);
    if (slot < 0) {
        slots_unhold_host(store, host_slot);
        return false;
    }
    struct transfer_copy what = {
        .expert_idx = expert_idx, .host_slot = host_slot, .device_slot = slot, .cause = cause};
    pin_memory(store, host_slot);
    store->device_slots[slot].source = host_slot;
    if (transfer_start(&store->transfer, DEVICE_UP, slot_pool_memory(&store->device.pool, slot),
                       slot_pool_memory(&store->host.pool, host_slot),
                       store->device_slots[slot].fence, &what)) {
        choose_started(store, &store->copy_bursts[DEVICE_UP], lane_of(store, DEVICE_UP)->count);
        return true;
    }
    store->device_slots[slot].source = -1;
    store->device.slot_of[expert_idx] = -1;
    slot_pool_put(&store->device.pool, slot);
    stream_leave(store, slot);
    slots_unhold_host(store, host_slot);
    return false;
}

static void arrive_up(struct expert_store *store, const struct transfer_copy *copy)
{
    struct slot_pool *pool = &store->device.pool;
    struct device_slot *entry = &store->device_slots[copy->device_slot];
    if (copy->abandoned) {
        store->abandoned_count--;
        entry->abandoned = false;
        slot_pool_put(pool, copy->device_slot);
        stream_leave(store, copy->device_slot);
        return;
    }
    SL_ASSERT(store->device.slot_of[copy->expert_idx] == copy->device_slot);
    slot_pool_advance(pool, copy->device_slot, SLOT_STAGED);
    slot_pool_advance(pool, copy->device_slot, SLOT_READY);
    entry->source = -1;
    slots_refresh_device(store, copy->device_slot);
    slots_unhold_host(store, copy->host_slot);
    if (copy->cause == TRANSFER_PROMOTION) store->stats.promotions++;
    if (copy->cause == TRANSFER_GUESS)
        choose_guess_done(store, PREFETCH_UP, copy->expert_idx, true);
    if (copy->cause == TRANSFER_STREAM) store->stats.streamed++;
    bool awaited = entry->streamed && store->stream.wanted[copy->expert_idx];
    if (entry->staged && !awaited && pool->slots[copy->device_slot].pins == 0)
        slots_drop_device(store, copy->device_slot);
}

static void fail_up(struct expert_store *store, const struct transfer_copy *copy)
{
    struct slot_pool *pool = &store->device.pool;
    struct device_slot *entry = &store->device_slots[copy->device_slot];
    bool waited_for = pool->slots[copy->device_slot].pins > 0;
    slot_pool_fail(pool, copy->device_slot);
    if (copy->abandoned) {
        store->abandoned_count--;
        entry->abandoned = false;
        stream_leave(store, copy->device_slot);
        return;
    }
    if (copy->cause == TRANSFER_GUESS)
        choose_guess_done(store, PREFETCH_UP, copy->expert_idx, false);
    store->device.slot_of[copy->expert_idx] = -1;
    if (waited_for) return; /* the source is kept until the last waiter has gone over to it */
    entry->source = -1;
    stream_leave(store, copy->device_slot);
    slots_unhold_host(store, copy->host_slot);
}

bool moves_abandon_one(struct expert_store *store)
{
    struct transfer_lane *lane = lane_of(store, DEVICE_UP);
    if (!store_has_device(store) || lane->state != TRANSFER_STUCK) return false;
    for (int32_t i = 0; i < lane->count; i++) {
        struct transfer_copy *copy = &lane->copies[(lane->first + i) % DEVICE_COPIES_MAX];
        if (copy->abandoned || store->device.pool.slots[copy->device_slot].pins > 0) continue;
        copy->abandoned = true;
        if (copy->cause == TRANSFER_GUESS)
            choose_guess_done(store, PREFETCH_UP, copy->expert_idx, false);
        store->abandoned_count++;
        store->device.slot_of[copy->expert_idx] = -1;
        store->device_slots[copy->device_slot].source = -1;
        store->device_slots[copy->device_slot].abandoned = true;
        slots_unhold_host(store, copy->host_slot);
        return true;
    }
    return false;
}

/* ---- down ---- */

static bool start_down(struct expert_store *store, int32_t device_slot, int32_t expert_idx)
{
    struct host_slot *entry;
    float value = residency_value(&store->device.residency, expert_idx);
    if (store->leaving_count >= store->down_max || store->abandoned_count > 0 ||
        !transfer_has_room(&store->transfer, DEVICE_DOWN))
        return false;
    int32_t host_slot = slots_take_host(store, expert_idx, value);
    if (host_slot < 0) return false;
    entry = &store->host_slots[host_slot];
    entry->by_copy = true;
    entry->staged = false; /* no prefill's: it was resident */
    struct transfer_copy what = {.expert_idx = expert_idx,
                                 .host_slot = host_slot,
                                 .device_slot = device_slot,
                                 .cause = TRANSFER_DEMOTION};
    if (transfer_start(&store->transfer, DEVICE_DOWN,
                       slot_pool_memory(&store->host.pool, host_slot),
                       slot_pool_memory(&store->device.pool, device_slot),
                       store->device_slots[device_slot].fence, &what)) {
        store->device_slots[device_slot].leaving = true;
        store->leaving_count++;
        choose_started(store, &store->copy_bursts[DEVICE_DOWN], lane_of(store, DEVICE_DOWN)->count);
        slots_refresh_device(store, device_slot);
        return true;
    }
    store->host.slot_of[expert_idx] = -1;
    slot_pool_put(&store->host.pool, host_slot);
    return false;
}

void moves_evict(struct expert_store *store, int32_t device_slot)
{
    int32_t expert_idx = store->device.pool.slots[device_slot].owner;
    SL_ASSERT(store->device_slots[device_slot].candidate);
    bool alone = store->host.slot_of[expert_idx] < 0;
    if (alone && store->exclusive && start_down(store, device_slot, expert_idx)) return;
    slots_drop_device(store, device_slot);
}

static void end_down(struct expert_store *store, const struct transfer_copy *copy, bool arrived)
{
    struct slot_pool *host = &store->host.pool;
    struct device_slot *entry = &store->device_slots[copy->device_slot];
    SL_ASSERT(store->host.slot_of[copy->expert_idx] == copy->host_slot && entry->leaving);
    SL_ASSERT(store->device.pool.slots[copy->device_slot].owner == copy->expert_idx);
    entry->leaving = false;
    store->leaving_count--;
    store->host_slots[copy->host_slot].by_copy = false;
    if (arrived) {
        slot_pool_advance(host, copy->host_slot, SLOT_STAGED);
        slot_pool_advance(host, copy->host_slot, SLOT_READY);
    } else {
        slot_pool_fail(host, copy->host_slot);
        store->host.slot_of[copy->expert_idx] = -1;
    }
    slots_refresh_device(store, copy->device_slot);
    /* Somebody took it up again in the meantime: then it stays, and its way was for nothing. */
    if (arrived && store->device.pool.slots[copy->device_slot].pins == 0) {
        slots_drop_device(store, copy->device_slot);
        store->stats.demotions++;
    }
    if (arrived) slots_refresh_host(store, copy->host_slot);
}

/* ---- lanes that fail or hang ---- */

/* Each sentence is of its own kind, so that the lanes do not speak over each other. */
static const struct lane_text {
    enum rates_lane rated;
    const char *dead, *stuck, *again;
} lane_texts[DEVICE_LANES] = {
    [DEVICE_UP] = {RATES_UP,
                   "copies to the device have ended: %s; what it does not hold is computed on the "
                   "CPU",
                   "no copy to the device has ended for %.1f s: until one does, what it does not "
                   "hold is computed on the CPU",
                   "copies to the device go on again"},
    [DEVICE_DOWN] = {RATES_DOWN,
                     "copies from the device have ended: %s; what leaves it is read from disk when "
                     "needed again",
                     "no copy from the device has ended for %.1f s: until one does, what leaves it "
                     "is read from disk when needed again",
                     "copies from the device go on again"},
};

static void tell_of_lane(struct expert_store *store, enum device_lane which)
{
    const struct lane_text *text = &lane_texts[which];
    const char *fault = store->options.device->ops->lane_fault(store->options.device, which);
    switch (lane_of(store, which)->state) {
    case TRANSFER_DEAD:
        store_notice(store, text->dead, fault);
        rates_set_down(&store->rates, text->rated, fault);
        break;
    case TRANSFER_STUCK:
        store_notice(store, text->stuck, (double)store->patience_ns / 1e9);
        rates_set_down(&store->rates, text->rated, "no copy ends");
        break;
    case TRANSFER_LIVE:
        store_notice(store, text->again, "");
        rates_set_down(&store->rates, text->rated, NULL);
        break;
    }
}

/* ---- idle time ---- */

void moves_note_use(struct expert_store *store, int32_t expert_idx)
{
    if (!store_has_device(store) || store_is_prefill(store)) return;
    if (store->recent_count == STORE_RECENT_MAX) {
        store->recent_first = (store->recent_first + 1) % STORE_RECENT_MAX;
        store->recent_count--;
    }
    store->recent[(store->recent_first + store->recent_count++) % STORE_RECENT_MAX] = expert_idx;
}

static bool may_promote(const struct expert_store *store, int32_t expert_idx)
{
    int32_t slot = store->host.slot_of[expert_idx];
    return slot >= 0 && store->host.pool.slots[slot].state == SLOT_READY &&
           !store->host_slots[slot].held && !store->host_slots[slot].staged &&
           store->device.slot_of[expert_idx] < 0;
}

/* The most valuable of what was used from RAM of late and of a few slots more; -1: nothing. */
static int32_t find_promotion(struct expert_store *store, float *value)
{
    int32_t best = -1;
    *value = -1;
    for (int32_t look = 0; look < PROMOTION_LOOKS; look++) {
        int32_t expert_idx;
        if (store->recent_count > 0) {
            expert_idx = store->recent[store->recent_first];
            store->recent_first = (store->recent_first + 1) % STORE_RECENT_MAX;
            store->recent_count--;
        } else {
            store->hand = (store->hand + 1) % store->host.pool.count;
            expert_idx = store->host.pool.slots[store->hand].owner;
        }
        if (expert_idx < 0 || !may_promote(store, expert_idx)) continue;
        float found = residency_value(&store->device.residency, expert_idx);
        if (found <= *value) continue;
        *value = found;
        best = expert_idx;
    }
    return best;
}

/* Brings up what the layer to come may want, or else what deserves a place for good; and keeps the
 * reserve for what passes through. */
static void use_idle_time(struct expert_store *store)
{
    while (store_device_free(store) + store->leaving_count < store->device_reserve &&
           transfer_has_room(&store->transfer, DEVICE_DOWN)) {
        int32_t victim = residency_victim(&store->device.residency, store->layer);
        if (victim < 0) break;
        moves_evict(store, store->device.slot_of[victim]);
    }
    while (lane_of(store, DEVICE_UP)->count < STORE_UNASKED_COPIES_MAX) {
        int32_t expert_idx = choose_next_copy(store);
        if (expert_idx < 0) break;
        if (!may_promote(store, expert_idx) ||
            !moves_up(store, expert_idx, TRANSFER_GUESS, INFINITY))
            choose_guess_done(store, PREFETCH_UP, expert_idx, false);
    }
    if (lane_of(store, DEVICE_UP)->count > 0 || store->leaving_count > 0) return;
    float value;
    int32_t expert_idx = find_promotion(store, &value);
    if (expert_idx >= 0 && value > 0)
        (void)moves_up(store, expert_idx, TRANSFER_PROMOTION, value / PROMOTION_GAIN);
}

int32_t moves_turn(struct expert_store *store, bool with_promotions)
{
    struct transfer_copy copy;
    bool arrived;
    int32_t ended = 0;
    if (!store_has_device(store)) return 0;
    for (int which = 0; which < DEVICE_LANES; which++) {
        if (transfer_look(&store->transfer, (enum device_lane)which))
            tell_of_lane(store, (enum device_lane)which);
        while (transfer_reap(&store->transfer, (enum device_lane)which, &copy, &arrived)) {
            ended++;
            choose_ended(store, which == DEVICE_UP ? RATES_UP : RATES_DOWN,
                         &store->copy_bursts[which], arrived,
                         lane_of(store, (enum device_lane)which)->count);
            if (which == DEVICE_DOWN)
                end_down(store, &copy, arrived);
            else if (arrived)
                arrive_up(store, &copy);
            else
                fail_up(store, &copy);
        }
    }
    stream_turn(store);
    if (with_promotions && !store_is_streaming(store) &&
        transfer_has_room(&store->transfer, DEVICE_UP))
        use_idle_time(store);
    return ended;
}
