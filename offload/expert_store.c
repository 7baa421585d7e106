/* The expert store: lookup, pins, eviction and the order of reads; see the header. The slots are in
 * slot_pool, their order of eviction in residency, the reads themselves in expert_fetch. */
#include "offload/expert_store.h"

#include "offload/expert_fetch.h"
#include "offload/expert_plan.h"
#include "offload/residency.h"
#include "offload/slot_pool.h"

/* What the store knows of a slot beyond the pool. */
struct store_slot {
    enum sl_status status; /* of a failed read, until its last waiter is gone */
    bool queued;           /* READING, but the read has not started */
    int32_t queue_next, queue_prev;
};

struct expert_store {
    struct expert_store_options options;
    int32_t expert_count; /* layers * experts */
    int32_t *slot_of;     /* [expert_count], -1: neither resident nor on its way */
    struct slot_pool pool;
    struct residency residency;
    struct store_slot *slots; /* [pool.count] */
    struct expert_fetcher *fetcher;
    int32_t queue_first, queue_last; /* demanded slots whose read waits for its turn, or -1 */
    int32_t hints[EXPERT_PREFETCH_QUEUE_MAX]; /* a ring of experts */
    int32_t hint_first, hint_count;
    int64_t token_clock;
    uint64_t hits, misses, evictions, stall_ns, ram_bytes;
    char memory_text[64];
};

static uint64_t now_ns(const struct expert_store *store)
{
    return clock_now_ns(&store->options.clock);
}

static int32_t index_of(const struct expert_store *store, struct expert_ref ref)
{
    const struct expert_source *source = store->options.source;
    SL_ASSERT(ref.layer >= 0 && ref.layer < source->layers);
    SL_ASSERT(ref.expert >= 0 && ref.expert < source->experts);
    return ref.layer * source->experts + ref.expert;
}

/* ---- creation ---- */

/* Slots that the budget holds beside staging; SL_ERR_NO_MEMORY when they are too few. */
static enum sl_status count_slots(const struct expert_store_options *options, int32_t *slots,
                                  uint64_t *staging_bytes, struct sl_error *error)
{
    const struct expert_source *source = options->source;
    int32_t expert_count = source->layers * source->experts, slots_min;
    *staging_bytes = expert_fetcher_staging_bytes(source, options->depth);
    uint64_t left = options->ram_bytes > *staging_bytes ? options->ram_bytes - *staging_bytes : 0;
    uint64_t fit = left / source->slot_bytes;
    slots_min = max_i32(options->slots_min, 1);
    if (fit < (uint64_t)slots_min)
        return sl_error_set(
            error, SL_ERR_NO_MEMORY, 0,
            "a budget of %llu bytes for experts holds %llu of %zu bytes beside %llu bytes for "
            "reading; at least %d are needed: allow %llu bytes or more",
            (unsigned long long)options->ram_bytes, (unsigned long long)fit, source->slot_bytes,
            (unsigned long long)*staging_bytes, (int)slots_min,
            (unsigned long long)(*staging_bytes + (uint64_t)slots_min * source->slot_bytes));
    *slots = fit < (uint64_t)expert_count ? (int32_t)fit : expert_count;
    return SL_OK;
}

static enum sl_status make_tables(struct expert_store *store, struct sl_error *error)
{
    store->slot_of = malloc((size_t)store->expert_count * sizeof *store->slot_of);
    store->slots = calloc((size_t)store->pool.count, sizeof *store->slots);
    if (!store->slot_of || !store->slots)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory to keep track of %d experts",
                            (int)store->expert_count);
    for (int32_t i = 0; i < store->expert_count; i++)
        store->slot_of[i] = -1;
    return residency_init(&store->residency, store->pool.count, error);
}

enum sl_status expert_store_create(const struct expert_store_options *options,
                                   struct expert_store **out, struct sl_error *error)
{
    const struct expert_source *source = options->source;
    uint64_t staging_bytes;
    int32_t slots = 0;
    SL_ASSERT(source && out);
    if (options->depth < 1 || options->depth > EXPERT_DEPTH_MAX)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "read depth %d: choose 1 to %d",
                            (int)options->depth, EXPERT_DEPTH_MAX);
    if (options->device)
        return sl_error_set(error, SL_ERR_UNSUPPORTED, 0, "a device tier is not built yet");
    SL_TRY(expert_plan_check_source(source, error));
    SL_TRY(count_slots(options, &slots, &staging_bytes, error));
    struct expert_store *store = calloc(1, sizeof *store);
    if (!store) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for the expert store");
    store->options = *options;
    store->expert_count = source->layers * source->experts;
    store->queue_first = store->queue_last = -1;
    store->ram_bytes = (uint64_t)slots * source->slot_bytes + staging_bytes;
    SL_ASSERT(store->ram_bytes <= options->ram_bytes);
    snprintf(store->memory_text, sizeof store->memory_text, "%d slots in RAM", (int)slots);
    enum sl_status status = slot_pool_init(&store->pool, slots, source->slot_bytes, error);
    if (status == SL_OK) status = make_tables(store, error);
    if (status != SL_OK) goto fail;
    struct expert_fetcher_options fetcher = {
        .source = source,
        .slots = slot_pool_memory(&store->pool, 0),
        .slot_count = slots,
        .depth = options->depth,
        .io = options->io,
        .io_override = options->io_override,
    };
    status = expert_fetcher_create(&fetcher, &store->fetcher, error);
    if (status != SL_OK) goto fail;
    *out = store;
    return SL_OK;
fail:
    expert_store_destroy(store);
    return status;
}

void expert_store_destroy(struct expert_store *store)
{
    if (!store) return;
    SL_ASSERT(store->pool.pinned_count == 0);
    expert_fetcher_destroy(store->fetcher); /* first: reads in flight write into slots */
    residency_deinit(&store->residency);
    slot_pool_deinit(&store->pool);
    free(store->slots);
    free(store->slot_of);
    free(store);
}

/* ---- the queue of demanded reads ---- */

static void queue_push(struct expert_store *store, int32_t slot)
{
    struct store_slot *entry = &store->slots[slot];
    SL_ASSERT(!entry->queued);
    *entry = (struct store_slot){.queued = true, .queue_next = -1, .queue_prev = store->queue_last};
    if (store->queue_last >= 0)
        store->slots[store->queue_last].queue_next = slot;
    else
        store->queue_first = slot;
    store->queue_last = slot;
}

static void queue_remove(struct expert_store *store, int32_t slot)
{
    struct store_slot *entry = &store->slots[slot];
    SL_ASSERT(entry->queued);
    if (entry->queue_prev >= 0)
        store->slots[entry->queue_prev].queue_next = entry->queue_next;
    else
        store->queue_first = entry->queue_next;
    if (entry->queue_next >= 0)
        store->slots[entry->queue_next].queue_prev = entry->queue_prev;
    else
        store->queue_last = entry->queue_prev;
    entry->queued = false;
}

/* ---- slots ---- */

static void pin(struct expert_store *store, int32_t slot)
{
    slot_pool_pin(&store->pool, slot);
    residency_forget(&store->residency, slot);
}

/* The last pin gone, a READY slot may be evicted, and a read that has not started is not wanted any
 * more; one under way goes on. */
static void unpin(struct expert_store *store, int32_t slot)
{
    const struct slot *pooled = &store->pool.slots[slot];
    if (slot_pool_unpin(&store->pool, slot) > 0) return;
    if (pooled->state == SLOT_READY) residency_touch(&store->residency, slot);
    if (store->slots[slot].queued) {
        SL_ASSERT(pooled->state == SLOT_READING);
        queue_remove(store, slot);
        store->slot_of[pooled->owner] = -1;
        slot_pool_put(&store->pool, slot);
    }
}

/* A slot for an expert that has none, evicting if need be; -1 when all are pinned or being read. */
static int32_t take_slot(struct expert_store *store, int32_t expert_idx)
{
    SL_ASSERT(store->slot_of[expert_idx] < 0);
    if (store->pool.free_count == 0) {
        int32_t victim = residency_victim(&store->residency);
        if (victim < 0) return -1;
        int32_t owner = store->pool.slots[victim].owner;
        SL_ASSERT(store->slot_of[owner] == victim);
        store->slot_of[owner] = -1;
        residency_forget(&store->residency, victim);
        slot_pool_put(&store->pool, victim);
        store->evictions++;
    }
    int32_t slot = slot_pool_take(&store->pool, expert_idx);
    SL_ASSERT(slot >= 0);
    store->slot_of[expert_idx] = slot;
    store->slots[slot].status = SL_OK;
    return slot;
}

/* ---- turns ---- */

static void start_hints(struct expert_store *store)
{
    while (store->hint_count > 0) {
        int32_t expert_idx = store->hints[store->hint_first];
        if (store->slot_of[expert_idx] < 0) {
            if (!expert_fetcher_has_room(store->fetcher, expert_idx)) return;
            int32_t slot = take_slot(store, expert_idx);
            if (slot < 0) return;
            expert_fetcher_start(store->fetcher, expert_idx, slot);
        }
        store->hint_first = (store->hint_first + 1) % EXPERT_PREFETCH_QUEUE_MAX;
        store->hint_count--;
    }
}

/* Starts what may start, demand first. */
static void start_reads(struct expert_store *store, bool with_hints)
{
    while (store->queue_first >= 0) {
        int32_t slot = store->queue_first, expert_idx = store->pool.slots[slot].owner;
        if (!expert_fetcher_has_room(store->fetcher, expert_idx)) break;
        queue_remove(store, slot);
        expert_fetcher_start(store->fetcher, expert_idx, slot);
    }
    if (with_hints && store->queue_first < 0) start_hints(store);
    expert_fetcher_submit(store->fetcher);
}

static void settle(struct expert_store *store, struct expert_fetch *fetch)
{
    int32_t slot = expert_fetch_slot(fetch), expert_idx = expert_fetch_expert_idx(fetch);
    SL_ASSERT(store->slot_of[expert_idx] == slot);
    slot_pool_advance(&store->pool, slot, SLOT_STAGED);
    enum sl_status status = expert_fetcher_finish(store->fetcher, fetch);
    if (status == SL_OK) {
        slot_pool_advance(&store->pool, slot, SLOT_READY);
        if (store->pool.slots[slot].pins == 0) residency_touch(&store->residency, slot);
    } else {
        store->slots[slot].status = status;
        store->slot_of[expert_idx] = -1; /* the next acquire tries again */
        slot_pool_fail(&store->pool, slot);
    }
}

/* Takes in what has arrived, after waiting for the first when `wait`, and starts what that makes
 * room for. */
static void turn(struct expert_store *store, bool wait, bool with_hints)
{
    start_reads(store, with_hints);
    struct expert_fetch *fetch = expert_fetcher_reap(store->fetcher, wait);
    for (; fetch; fetch = expert_fetcher_reap(store->fetcher, false))
        settle(store, fetch);
    start_reads(store, with_hints);
}

void expert_store_poll(struct expert_store *store)
{
    turn(store, false, true);
}

/* Brings PENDING views up to date. Returns how many are PENDING no longer. */
static int32_t update_views(struct expert_store *store, struct expert_view *views, int32_t count,
                            int32_t *pending)
{
    int32_t changed = 0;
    *pending = 0;
    for (int32_t i = 0; i < count; i++) {
        struct expert_view *view = &views[i];
        if (view->state != EXPERT_VIEW_PENDING) continue;
        SL_ASSERT(view->slot >= 0 && view->slot < store->pool.count);
        const struct slot *slot = &store->pool.slots[view->slot];
        SL_ASSERT(slot->owner == index_of(store, view->ref) && slot->pins > 0);
        if (slot->state == SLOT_READY) {
            view->state = EXPERT_VIEW_READY;
            view->data = slot_pool_memory(&store->pool, view->slot);
        } else if (slot->state == SLOT_EMPTY) {
            view->state = EXPERT_VIEW_FAILED;
            view->status = store->slots[view->slot].status;
            SL_ASSERT(view->status != SL_OK);
            unpin(store, view->slot);
            view->slot = -1;
        } else {
            (*pending)++;
            continue;
        }
        changed++;
    }
    return changed;
}

/* ---- acquire, wait, release, prefetch ---- */

/* Makes room for `missing` more experts. Prefetched reads under way hold slots that nobody has
 * pinned; rather than refuse the caller for their sake, waits for them. */
static bool make_room(struct expert_store *store, int32_t missing)
{
    const struct slot_pool *pool = &store->pool;
    uint64_t start_ns = 0;
    if (missing > pool->count - pool->pinned_count) return false;
    while (missing > pool->free_count + store->residency.candidate_count) {
        if (!start_ns) start_ns = now_ns(store);
        turn(store, true, false);
    }
    if (start_ns) store->stall_ns += now_ns(store) - start_ns;
    return true;
}

enum sl_status expert_store_acquire(struct expert_store *store, const struct expert_ref *refs,
                                    const int32_t *tokens, int32_t count, struct expert_view *views)
{
    int32_t missing = 0, pending;
    SL_ASSERT(count >= 0);
    /* What is here is pinned first, lest it be evicted for what is not. */
    for (int32_t i = 0; i < count; i++) {
        int32_t slot = store->slot_of[index_of(store, refs[i])];
        views[i] = (struct expert_view){
            .ref = refs[i],
            .slot = slot,
            .tier = EXPERT_TIER_HOST,
            .lane = EXPERT_LANE_CPU,
            .tokens = tokens ? tokens[i] : 1,
            .from = expert_store_tier(store, refs[i]),
        };
        if (slot >= 0)
            pin(store, slot);
        else
            missing++;
    }
    if (!make_room(store, missing)) {
        for (int32_t i = 0; i < count; i++)
            if (views[i].slot >= 0) unpin(store, views[i].slot);
        return SL_ERR_BUSY;
    }
    for (int32_t i = 0; i < count; i++) {
        int32_t expert_idx = index_of(store, refs[i]);
        if (views[i].slot < 0) {
            /* The same expert twice in one call finds the slot of the first. */
            int32_t slot = store->slot_of[expert_idx];
            if (slot < 0) {
                slot = take_slot(store, expert_idx);
                SL_ASSERT(slot >= 0);
                queue_push(store, slot);
            }
            views[i].slot = slot;
            pin(store, slot);
        }
        if (store->pool.slots[views[i].slot].state == SLOT_READY)
            store->hits++;
        else
            store->misses++;
    }
    turn(store, false, true);
    update_views(store, views, count, &pending);
    return SL_OK;
}

void expert_store_wait(struct expert_store *store, struct expert_view *views, int32_t count)
{
    int32_t pending;
    SL_ASSERT(count >= 0);
    if (update_views(store, views, count, &pending) > 0 || pending == 0) return;
    uint64_t start_ns = now_ns(store);
    do {
        turn(store, true, true);
    } while (update_views(store, views, count, &pending) == 0);
    store->stall_ns += now_ns(store) - start_ns;
}

void expert_store_release(struct expert_store *store, struct expert_view *views, int32_t count)
{
    SL_ASSERT(count >= 0);
    for (int32_t i = 0; i < count; i++) {
        struct expert_view *view = &views[i];
        SL_ASSERT((view->slot < 0) == (view->state == EXPERT_VIEW_FAILED));
        if (view->slot >= 0) unpin(store, view->slot);
        *view = (struct expert_view){.ref = view->ref, .slot = -1, .state = EXPERT_VIEW_FAILED};
    }
}

void expert_store_layer(struct expert_store *store, int64_t token_clock, int32_t layer,
                        int32_t tokens)
{
    SL_ASSERT(layer >= 0 && layer < store->options.source->layers);
    SL_ASSERT(token_clock >= store->token_clock && tokens >= 1);
    store->token_clock = token_clock;
}

int32_t expert_store_views_max(const struct expert_store *store)
{
    return store->pool.count;
}

void expert_store_guess(struct expert_store *store, const struct expert_guess *guesses,
                        int32_t count)
{
    SL_ASSERT(count >= 0);
    for (int32_t i = 0; i < count; i++) {
        int32_t expert_idx = index_of(store, guesses[i].ref);
        if (store->slot_of[expert_idx] >= 0) continue;
        if (store->hint_count == EXPERT_PREFETCH_QUEUE_MAX) {
            store->hint_first = (store->hint_first + 1) % EXPERT_PREFETCH_QUEUE_MAX;
            store->hint_count--;
        }
        int32_t last = (store->hint_first + store->hint_count++) % EXPERT_PREFETCH_QUEUE_MAX;
        store->hints[last] = expert_idx;
    }
    start_reads(store, true);
}

/* ---- for the user and for tests ---- */

bool expert_store_is_resident(const struct expert_store *store, struct expert_ref ref)
{
    int32_t slot = store->slot_of[index_of(store, ref)];
    return slot >= 0 && store->pool.slots[slot].state == SLOT_READY;
}

enum expert_tier expert_store_tier(const struct expert_store *store, struct expert_ref ref)
{
    return expert_store_is_resident(store, ref) ? EXPERT_TIER_HOST : EXPERT_TIER_DISK;
}

const char *expert_store_notice(const struct expert_store *store, int32_t index)
{
    SL_ASSERT(store && index >= 0);
    return NULL;
}

const char *expert_store_last_failure(const struct expert_store *store)
{
    return expert_fetcher_last_failure(store->fetcher);
}

const char *expert_store_describe_io(const struct expert_store *store)
{
    return expert_fetcher_describe(store->fetcher);
}

const char *expert_store_describe_memory(const struct expert_store *store)
{
    return store->memory_text;
}

void expert_store_guess_stats_get(const struct expert_store *store, int32_t layer,
                                  struct expert_guess_stats *out)
{
    SL_ASSERT(layer >= 0 && layer < store->options.source->layers);
    *out = (struct expert_guess_stats){0};
}

void expert_store_stats_get(const struct expert_store *store, struct expert_store_stats *out)
{
    *out = (struct expert_store_stats){
        .hits = store->hits,
        .misses = store->misses,
        .evictions = store->evictions,
        .stall_ns = store->stall_ns,
        .slots = store->pool.count,
        .slots_ready = store->pool.ready_count,
        .slots_pinned = store->pool.pinned_count,
        .slot_bytes = store->pool.slot_bytes,
        .ram_bytes = store->ram_bytes,
    };
    expert_fetcher_stats_get(store->fetcher, out);
}

void expert_store_check(const struct expert_store *store)
{
    int32_t owned = 0, found = 0, queued = 0, listed = 0, reading = 0, prev = -1;
    slot_pool_check(&store->pool);
    residency_check(&store->residency);
    expert_fetcher_check(store->fetcher);
    for (int32_t i = 0; i < store->pool.count; i++) {
        const struct slot *slot = &store->pool.slots[i];
        bool evictable = slot->state == SLOT_READY && slot->pins == 0;
        SL_ASSERT(slot->state != SLOT_STAGED); /* only within a turn */
        SL_ASSERT(residency_is_candidate(&store->residency, i) == evictable);
        SL_ASSERT(!store->slots[i].queued || (slot->state == SLOT_READING && slot->pins > 0));
        queued += store->slots[i].queued;
        reading += slot->state == SLOT_READING;
        if (slot->state == SLOT_EMPTY) {
            SL_ASSERT(slot->owner < 0 || store->slots[i].status != SL_OK);
            continue;
        }
        SL_ASSERT(slot->owner < store->expert_count && store->slot_of[slot->owner] == i);
        owned++;
    }
    for (int32_t i = 0; i < store->expert_count; i++)
        found += store->slot_of[i] >= 0; /* each slot names its owner, so none is found twice */
    for (int32_t i = store->queue_first; i >= 0; i = store->slots[i].queue_next) {
        SL_ASSERT(store->slots[i].queued && store->slots[i].queue_prev == prev);
        SL_ASSERT(++listed <= store->pool.count); /* no cycle */
        prev = i;
    }
    SL_ASSERT(prev == store->queue_last && listed == queued);
    SL_ASSERT(found == owned);
    SL_ASSERT(reading - queued == expert_fetcher_active(store->fetcher));
    SL_ASSERT(store->hint_count >= 0 && store->hint_count <= EXPERT_PREFETCH_QUEUE_MAX);
    SL_ASSERT(store->ram_bytes <= store->options.ram_bytes);
}
