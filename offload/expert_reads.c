/* Disk to host slots: the queue of demanded reads, and arrivals; see expert_store_state.h. */
#include "offload/expert_store_state.h"

#include <math.h>

/* ---- the queue of demanded reads ---- */

void reads_demand(struct expert_store *store, int32_t slot)
{
    struct host_slot *entry = &store->host_slots[slot];
    SL_ASSERT(!entry->queued && store->host.pool.slots[slot].state == SLOT_READING);
    entry->queued = true;
    entry->queue_next = -1;
    entry->queue_prev = store->queue_last;
    if (store->queue_last >= 0)
        store->host_slots[store->queue_last].queue_next = slot;
    else
        store->queue_first = slot;
    store->queue_last = slot;
}

static void queue_remove(struct expert_store *store, int32_t slot)
{
    struct host_slot *entry = &store->host_slots[slot];
    SL_ASSERT(entry->queued);
    if (entry->queue_prev >= 0)
        store->host_slots[entry->queue_prev].queue_next = entry->queue_next;
    else
        store->queue_first = entry->queue_next;
    if (entry->queue_next >= 0)
        store->host_slots[entry->queue_next].queue_prev = entry->queue_prev;
    else
        store->queue_last = entry->queue_prev;
    entry->queued = false;
}

void reads_forget(struct expert_store *store, int32_t slot)
{
    int32_t owner = store->host.pool.slots[slot].owner;
    SL_ASSERT(store->host.slot_of[owner] == slot);
    queue_remove(store, slot);
    store->host.slot_of[owner] = -1;
    slot_pool_put(&store->host.pool, slot);
}

/* ---- starting ---- */

void reads_begin(struct expert_store *store, int32_t expert_idx, int32_t slot)
{
    if (expert_fetcher_active(store->fetcher) == 0) store->read_ns = store_now_ns(store);
    expert_fetcher_start(store->fetcher, expert_idx, slot);
    choose_started(store, &store->read_burst, expert_fetcher_active(store->fetcher));
}

/* Demands start in their order, but one whose disk is busy does not hold up those of another. */
static void start_demands(struct expert_store *store)
{
    int32_t slot = store->queue_first, next;
    for (; slot >= 0 && expert_fetcher_takes_more(store->fetcher); slot = next) {
        int32_t expert_idx = store->host.pool.slots[slot].owner;
        next = store->host_slots[slot].queue_next;
        if (!expert_fetcher_has_room(store->fetcher, expert_idx)) continue;
        queue_remove(store, slot);
        reads_begin(store, expert_idx, slot);
    }
}

static void start_guesses(struct expert_store *store)
{
    for (int32_t expert_idx; (expert_idx = choose_next_read(store)) >= 0;) {
        int32_t slot = slots_take_host(store, expert_idx, INFINITY);
        SL_ASSERT(slot >= 0); /* or it would not have been chosen */
        store->host_slots[slot].guessed = true;
        reads_begin(store, expert_idx, slot);
    }
}

void reads_start(struct expert_store *store, bool with_guesses)
{
    start_demands(store);
    if (store->queue_first < 0) stream_read(store);
    if (with_guesses && store->queue_first < 0 && !store_is_streaming(store)) start_guesses(store);
    expert_fetcher_submit(store->fetcher);
}

/* ---- arrivals ---- */

static void settle(struct expert_store *store, struct expert_fetch *fetch)
{
    int32_t slot = expert_fetch_slot(fetch), expert_idx = expert_fetch_expert_idx(fetch);
    struct host_slot *entry = &store->host_slots[slot];
    SL_ASSERT(store->host.slot_of[expert_idx] == slot);
    slot_pool_advance(&store->host.pool, slot, SLOT_STAGED);
    enum sl_status status = expert_fetcher_finish(store->fetcher, fetch);
    if (entry->guessed) choose_guess_done(store, PREFETCH_DISK, expert_idx, status == SL_OK);
    entry->guessed = false;
    bool streamed = entry->streamed;
    store->stream.reads -= streamed;
    entry->streamed = false;
    if (status != SL_OK) {
        entry->status = status;
        store->host.slot_of[expert_idx] = -1; /* the next acquire tries again */
        slot_pool_fail(&store->host.pool, slot);
        return;
    }
    slot_pool_advance(&store->host.pool, slot, SLOT_READY);
    slots_refresh_host(store, slot);
    if (entry->wants_up) /* where it is refused, the CPU takes the view from here */
        (void)moves_up(store, expert_idx, TRANSFER_DEMAND, INFINITY);
    else if (streamed)
        stream_arrived(store, expert_idx);
    /* A copy that could not be started has given the slot up by itself. */
    const struct slot *pooled = &store->host.pool.slots[slot];
    if (entry->staged && pooled->state == SLOT_READY && pooled->pins == 0)
        slots_drop_host(store, slot);
}

/* A disk that says nothing for long is told of, while it does and when it speaks again. */
static void watch_disk(struct expert_store *store, int32_t arrived)
{
    int32_t active = expert_fetcher_active(store->fetcher);
    uint64_t now = store_now_ns(store), silent_ns = now - store->read_ns;
    bool late = silent_ns > store->patience_ns;
    if (late && arrived > 0)
        store_notice(store, "the disk answered after a silence of %.1f s", (double)silent_ns / 1e9);
    else if (late && active > 0)
        store_notice(store, "the disk has been silent for %.1f s: waiting for %d experts",
                     (double)silent_ns / 1e9, (int)active);
    if (arrived > 0 || active == 0) store->read_ns = now;
}

int32_t reads_settle(struct expert_store *store, bool wait)
{
    int32_t arrived = 0;
    struct expert_fetch *fetch = expert_fetcher_reap(store->fetcher, wait);
    for (; fetch; fetch = expert_fetcher_reap(store->fetcher, false), arrived++)
        settle(store, fetch);
    choose_ended(store, RATES_DISK, &store->read_burst, arrived,
                 expert_fetcher_active(store->fetcher));
    watch_disk(store, arrived);
    return arrived;
}
