/* The expert store's door: acquire, wait, release; see the header. What happens behind it is told
 * in expert_store_state.h. */
#include "offload/expert_store_state.h"

#include <math.h>
#include <stdarg.h>

void store_notice(struct expert_store *store, const char *format, ...)
{
    va_list arguments;
    int32_t idx = 0;
    while (idx < store->notice_count && store->notice_formats[idx] != format)
        idx++;
    if (idx == EXPERT_NOTICES_MAX) return;
    if (idx == store->notice_count) store->notice_count++;
    store->notice_formats[idx] = format;
    va_start(arguments, format);
    vsnprintf(store->notices[idx], sizeof store->notices[idx], format, arguments);
    va_end(arguments);
}

/* ---- turns ---- */

/* Waits for the next read or copy to come to its end. One kind alone can be waited for; both are
 * looked at in turn. */
static void wait_for_any(struct expert_store *store)
{
    struct device *device = store->options.device;
    int32_t reads = expert_fetcher_active(store->fetcher), copies = moves_in_flight(store);
    store->waiting = true;
    if (reads > 0 && copies == 0) {
        reads_settle(store, true);
    } else if (copies > 0) {
        device->ops->wait(device, reads > 0 ? STORE_LOOK_NS : store->patience_ns / 4);
        moves_turn(store, false);
    }
    store->waiting = false;
}

/* Takes in what has arrived, after waiting for something when `wait`, and starts what that makes
 * room for. */
static void turn(struct expert_store *store, bool wait, bool unasked)
{
    reads_start(store, unasked);
    int32_t ended = moves_turn(store, unasked) + reads_settle(store, false);
    if (wait && ended == 0) wait_for_any(store);
    choose_watch(store);
    reads_start(store, unasked);
}

void expert_store_poll(struct expert_store *store)
{
    turn(store, false, true);
}

/* ---- views ---- */

/* A view whose copy has failed or hangs goes on from the RAM the copy reads from. */
static void redirect(struct expert_store *store, struct expert_view *view)
{
    int32_t host_slot = store->device_slots[view->slot].source;
    SL_ASSERT(host_slot >= 0 && store->host.pool.slots[host_slot].state == SLOT_READY);
    SL_ASSERT(store->host.pool.slots[host_slot].owner == store_expert_idx(store, view->ref));
    slots_pin_host(store, host_slot);
    slots_unpin_device(store, view->slot);
    view->tier = EXPERT_TIER_HOST;
    view->lane = EXPERT_LANE_CPU;
    view->slot = host_slot;
    store->stats.redirects++;
}

/* From the host slot, now filled, to the device slot that is filled from it. */
static void follow_up(struct expert_store *store, struct expert_view *view)
{
    int32_t expert_idx = store_expert_idx(store, view->ref);
    int32_t slot = store_has_device(store) ? store->device.slot_of[expert_idx] : -1;
    if (slot < 0) {
        view->lane = EXPERT_LANE_CPU;
        return;
    }
    slots_pin_device(store, slot);
    slots_unpin_host(store, view->slot);
    view->tier = EXPERT_TIER_DEVICE;
    view->slot = slot;
}

static void ready(struct expert_store *store, struct expert_view *view, bool at_once)
{
    const struct store_tier *tier =
        view->tier == EXPERT_TIER_DEVICE ? &store->device : &store->host;
    view->state = EXPERT_VIEW_READY;
    view->data = slot_pool_memory(&tier->pool, view->slot);
    /* Never 0 for one that was waited for, however short. */
    view->ready_ns = at_once ? 0 : store_now_ns(store) - view->acquired_ns + 1;
}

static void fail(struct expert_store *store, struct expert_view *view)
{
    view->state = EXPERT_VIEW_FAILED;
    view->status = store->host_slots[view->slot].status;
    SL_ASSERT(view->status != SL_OK);
    slots_unpin_host(store, view->slot);
    view->slot = -1;
}

/* Brings one PENDING view up to date; `at_once` while it is being acquired. */
static void update_view(struct expert_store *store, struct expert_view *view, bool at_once)
{
    if (view->tier == EXPERT_TIER_HOST) {
        const struct slot *slot = &store->host.pool.slots[view->slot];
        SL_ASSERT(slot->owner == store_expert_idx(store, view->ref) && slot->pins > 0);
        if (slot->state == SLOT_EMPTY) fail(store, view);
        if (slot->state != SLOT_READY) return;
        if (view->lane == EXPERT_LANE_DEVICE) follow_up(store, view);
    }
    if (view->tier == EXPERT_TIER_DEVICE) {
        const struct slot *slot = &store->device.pool.slots[view->slot];
        bool stuck = store->transfer.lanes[DEVICE_UP].state == TRANSFER_STUCK;
        SL_ASSERT(slot->owner == store_expert_idx(store, view->ref) && slot->pins > 0);
        if (slot->state == SLOT_EMPTY || (slot->state == SLOT_READING && stuck))
            redirect(store, view);
        else if (slot->state != SLOT_READY)
            return;
    }
    ready(store, view, at_once);
}

/* Brings PENDING views up to date. Returns how many are PENDING no longer. */
static int32_t update_views(struct expert_store *store, struct expert_view *views, int32_t count,
                            int32_t *pending)
{
    int32_t changed = 0;
    *pending = 0;
    for (int32_t i = 0; i < count; i++) {
        if (views[i].state != EXPERT_VIEW_PENDING) continue;
        update_view(store, &views[i], false);
        changed += views[i].state != EXPERT_VIEW_PENDING;
        *pending += views[i].state == EXPERT_VIEW_PENDING;
    }
    return changed;
}

/* ---- acquire ---- */

/* Whether somebody's view keeps this host slot: directly, or by waiting for a copy from it. */
static bool is_committed(const struct expert_store *store, int32_t host_slot)
{
    const struct host_slot *entry = &store->host_slots[host_slot];
    int32_t pins = store->host.pool.slots[host_slot].pins, slot = -1;
    if (pins > entry->held) return true;
    if (!entry->held) return false;
    for (int32_t i = 0; i < store->device.pool.count && slot < 0; i++)
        if (store->device_slots[i].source == host_slot) slot = i;
    return slot >= 0 && store->device.pool.slots[slot].pins > 0;
}

/* Whether there is a read or copy that will come to its end, as far as anyone knows. */
static bool anything_moves(const struct expert_store *store)
{
    if (expert_fetcher_active(store->fetcher) > 0) return true;
    for (int which = 0; which < DEVICE_LANES && store_has_device(store); which++) {
        const struct transfer_lane *lane = &store->transfer.lanes[which];
        if (lane->count > 0 && lane->state == TRANSFER_LIVE) return true;
    }
    return false;
}

bool expert_store_step(struct expert_store *store)
{
    turn(store, false, true);
    if (!anything_moves(store)) return false;
    uint64_t start_ns = store_now_ns(store);
    turn(store, true, true);
    store->stats.stall_ns += store_now_ns(store) - start_ns;
    return true;
}

/* Makes room for `missing` more experts. Reads and copies that nobody waits for hold slots; rather
 * than refuse the caller for their sake, waits for them. */
static bool make_room(struct expert_store *store, int32_t missing)
{
    const struct slot_pool *pool = &store->host.pool;
    uint64_t start_ns = 0;
    while (missing > pool->free_count) {
        int32_t there = pool->free_count, committed = 0;
        for (int32_t i = 0; i < pool->count; i++) {
            there += pool->slots[i].state == SLOT_READY && pool->slots[i].pins == 0;
            committed += pool->pinned_count > 0 && is_committed(store, i);
        }
        if (missing <= there) break;
        if (missing > pool->count - committed) return false;
        if (!start_ns) start_ns = store_now_ns(store);
        if (moves_abandon_one(store)) continue;
        if (!anything_moves(store)) return false;
        turn(store, true, false);
    }
    if (start_ns) store->stats.stall_ns += store_now_ns(store) - start_ns;
    return true;
}

/* What prefill brought and decode uses stays, where there is room for what stays. */
static void keep_on_device(struct expert_store *store, int32_t slot)
{
    struct device_slot *entry = &store->device_slots[slot];
    if (store_is_prefill(store) || (entry->streamed && store_device_free(store) == 0)) return;
    entry->staged = false;
    stream_leave(store, slot);
}

/* Pins the expert where it is or will soon be; false when it must be read first. */
static bool pin_where_it_is(struct expert_store *store, struct expert_view *view)
{
    int32_t expert_idx = store_expert_idx(store, view->ref);
    int32_t device_slot = store_has_device(store) ? store->device.slot_of[expert_idx] : -1;
    int32_t host_slot = store->host.slot_of[expert_idx];
    bool stuck = device_slot >= 0 && store->transfer.lanes[DEVICE_UP].state == TRANSFER_STUCK &&
                 store->device.pool.slots[device_slot].state == SLOT_READING;
    if (device_slot >= 0 && !stuck) {
        keep_on_device(store, device_slot);
        slots_pin_device(store, device_slot);
        view->tier = EXPERT_TIER_DEVICE;
        view->lane = EXPERT_LANE_DEVICE;
        view->slot = device_slot;
        return true;
    }
    view->tier = EXPERT_TIER_HOST;
    view->lane = EXPERT_LANE_CPU;
    view->slot = host_slot;
    if (host_slot < 0) return false;
    if (!store_is_prefill(store)) store->host_slots[host_slot].staged = false;
    slots_pin_host(store, host_slot);
    return true;
}

static void unpin_view(struct expert_store *store, const struct expert_view *view)
{
    if (view->slot < 0) return;
    if (view->tier == EXPERT_TIER_DEVICE)
        slots_unpin_device(store, view->slot);
    else
        slots_unpin_host(store, view->slot);
}

/* A slot and a place in the queue for an expert no tier has. */
static void demand(struct expert_store *store, struct expert_view *view)
{
    /* The same expert twice in one call finds the slot of the first. */
    if (pin_where_it_is(store, view)) return;
    int32_t slot = slots_take_host(store, store_expert_idx(store, view->ref), INFINITY);
    SL_ASSERT(slot >= 0);
    reads_demand(store, slot);
    slots_pin_host(store, slot);
    view->slot = slot;
}

enum sl_status expert_store_acquire(struct expert_store *store, const struct expert_ref *refs,
                                    const int32_t *tokens, int32_t count, struct expert_view *views)
{
    int32_t missing = 0, pending;
    uint64_t now = store_now_ns(store);
    SL_ASSERT(count >= 0);
    /* What is here is pinned first, lest it be evicted for what is not. */
    for (int32_t i = 0; i < count; i++) {
        views[i] = (struct expert_view){.ref = refs[i],
                                        .tokens = tokens ? tokens[i] : 1,
                                        .from = expert_store_tier(store, refs[i]),
                                        .acquired_ns = now};
        missing += !pin_where_it_is(store, &views[i]);
    }
    if (!make_room(store, missing)) {
        for (int32_t i = 0; i < count; i++)
            unpin_view(store, &views[i]);
        return SL_ERR_BUSY;
    }
    for (int32_t i = 0; i < count; i++) {
        if (views[i].slot < 0) demand(store, &views[i]);
        choose_used(store, &views[i]);
    }
    choose_lanes(store, views, count);
    for (int32_t i = 0; i < count; i++) {
        update_view(store, &views[i], true);
        store->stats.from[views[i].from]++;
        if (views[i].from != EXPERT_TIER_DISK)
            store->stats.hits++;
        else
            store->stats.misses++;
    }
    turn(store, false, true);
    update_views(store, views, count, &pending);
    return SL_OK;
}

/* ---- wait, release, hints ---- */

void expert_store_wait(struct expert_store *store, struct expert_view *views, int32_t count)
{
    int32_t pending;
    SL_ASSERT(count >= 0);
    if (update_views(store, views, count, &pending) > 0 || pending == 0) return;
    uint64_t start_ns = store_now_ns(store);
    store->wait_ns = start_ns;
    do {
        /* A view waits for a read or a copy, and those come to an end or fail. */
        SL_ASSERT(store->queue_first >= 0 ||
                  expert_fetcher_active(store->fetcher) + moves_in_flight(store) > 0);
        turn(store, true, true);
    } while (update_views(store, views, count, &pending) == 0);
    store->stats.stall_ns += store_now_ns(store) - start_ns;
}

void expert_store_release(struct expert_store *store, struct expert_view *views, int32_t count)
{
    struct device *device = store->options.device;
    uint64_t fence = device ? device->ops->fence(device) : 0;
    SL_ASSERT(count >= 0);
    for (int32_t i = 0; i < count; i++) {
        struct expert_view *view = &views[i];
        SL_ASSERT((view->slot < 0) == (view->state == EXPERT_VIEW_FAILED));
        if (view->state == EXPERT_VIEW_READY) {
            store->stats.lanes[view->lane]++;
            if (view->tier == EXPERT_TIER_DEVICE) store->device_slots[view->slot].fence = fence;
            if (view->tier == EXPERT_TIER_HOST)
                moves_note_use(store, store_expert_idx(store, view->ref));
        }
        unpin_view(store, view);
        *view = (struct expert_view){.ref = view->ref, .slot = -1, .state = EXPERT_VIEW_FAILED};
    }
}

void expert_store_pass(struct expert_store *store, int32_t tokens)
{
    SL_ASSERT(tokens >= 1);
    store->pass_tokens = tokens;
    if (!store_is_prefill(store)) expert_store_stream(store, NULL, 0);
}

void expert_store_layer(struct expert_store *store, int64_t token_clock, int32_t layer,
                        int32_t tokens)
{
    SL_ASSERT(layer >= 0 && layer < store->options.source->layers);
    SL_ASSERT(token_clock >= store->token_clock && tokens >= 1);
    store->token_clock = token_clock;
    store->layer = layer;
    expert_store_pass(store, tokens);
    choose_layer(store);
}

int32_t expert_store_views_max(const struct expert_store *store)
{
    if (store_is_prefill(store) && store->staging_slots > 0) return store->staging_slots;
    int32_t slots = store->host.pool.count - store->down_max;
    bool keeps = store_has_device(store) && !store->exclusive && slots < store->expert_count;
    return keeps ? slots - store->device.pool.count : slots;
}

void expert_store_guess(struct expert_store *store, const struct expert_guess *guesses,
                        int32_t count)
{
    SL_ASSERT(count >= 0);
    for (int32_t i = 0; i < count; i++)
        choose_guess(store, &guesses[i]);
    turn(store, false, true);
}
