/* The expert store's creation and end: budgets become slots, a device becomes a tier; see
 * expert_store_state.h. */
#include "offload/expert_store_state.h"

#include "offload/expert_plan.h"

#include <string.h>

/* How much longer than in service one is patient with the first copies. */
#define LINK_CHECK_PATIENCE 5u
/* Copies down at once: enough to keep the link busy. */
#define DOWN_MAX 4
/* Device slots kept free for experts that pass through, when victims take time to leave. */
#define DEVICE_RESERVE_MAX 8

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

static enum sl_status make_tier(struct store_tier *tier, uint8_t *memory, int32_t slots,
                                const struct expert_store *store, struct sl_error *error)
{
    SL_TRY(slot_pool_init(&tier->pool, memory, slots, store->options.source->slot_bytes, error));
    tier->slot_of = malloc((size_t)store->expert_count * sizeof *tier->slot_of);
    if (!tier->slot_of)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory to keep track of %d experts",
                            (int)store->expert_count);
    for (int32_t i = 0; i < store->expert_count; i++)
        tier->slot_of[i] = -1;
    return SL_OK;
}

static enum sl_status make_host_tier(struct expert_store *store, int32_t slots,
                                     struct sl_error *error)
{
    size_t slot_bytes = store->options.source->slot_bytes;
    int32_t slots_min = max_i32(store->options.slots_min, 1);
    SL_TRY(arena_open((size_t)slots * slot_bytes, (size_t)slots_min * slot_bytes, slot_bytes,
                      store->options.placement, &store->arena, error));
    if (store->arena.reason[0]) store_notice(store, "%s", store->arena.reason);
    slots = (int32_t)(store->arena.bytes / slot_bytes);
    SL_TRY(make_tier(&store->host, store->arena.memory, slots, store, error));
    store->host_slots = calloc((size_t)slots, sizeof *store->host_slots);
    if (!store->host_slots)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory to keep track of %d slots",
                            (int)slots);
    /* Prefill reads every expert once: where RAM does not hold them all, a few slots are enough for
     * that, and the others stay as decode left them. A tier too small has none to set aside. */
    if (slots < store->expert_count && slots >= 4 * slots_min)
        store->staging_slots = max_i32(slots_min, min_i32(2 * store->options.depth, slots / 8));
    return SL_OK;
}

/* Sends a slot's worth of bytes to the device and back. There are systems on which copies from
 * memory that was pinned and unpinned often do nothing, and say nothing. */
static enum sl_status check_link(struct expert_store *store, struct sl_error *error)
{
    struct device *device = store->options.device;
    uint8_t *host = slot_pool_memory(&store->host.pool, 0);
    struct device_copy up = {slot_pool_memory(&store->device.pool, 0), host,
                             store->host.pool.slot_bytes, 0};
    struct device_copy down = {host, up.target, up.bytes, 0};
    uint64_t ticket;
    int32_t done = 0;
    for (int which = 0; which < DEVICE_LANES; which++) {
        enum device_lane lane = (enum device_lane)which;
        uint64_t start_ns = store_now_ns(store);
        memset(host, which == DEVICE_UP ? 0x5c : 0, up.bytes);
        if (device->ops->copy_submit(device, lane, which == DEVICE_UP ? &up : &down, &ticket) !=
            SL_OK)
            break;
        while (device->ops->copy_progress(device, lane) < ticket &&
               !device->ops->lane_fault(device, lane) &&
               store_now_ns(store) - start_ns <= LINK_CHECK_PATIENCE * store->patience_ns)
            device->ops->wait(device, store->patience_ns);
        if (device->ops->copy_progress(device, lane) < ticket) break;
        done++;
    }
    for (size_t i = 0; i < up.bytes; i++) {
        if (done == DEVICE_LANES && host[i] == 0x5c) continue;
        const char *fault = device->ops->lane_fault(device, DEVICE_UP);
        if (!fault) fault = device->ops->lane_fault(device, DEVICE_DOWN);
        return sl_error_set(error, SL_ERR_IO, 0,
                            "%s does not give back the bytes it was sent%s%s; run without it",
                            device->ops->describe(device), fault ? ": " : "", fault ? fault : "");
    }
    return SL_OK;
}

/* As many device slots as were asked for, or as the device gives. */
static enum sl_status take_device_memory(struct expert_store *store, int32_t *slots, void **memory,
                                         struct sl_error *error)
{
    struct device *device = store->options.device;
    size_t slot_bytes = store->options.source->slot_bytes;
    uint64_t fit = store->options.device_bytes / slot_bytes;
    int32_t asked = fit < (uint64_t)store->expert_count ? (int32_t)fit : store->expert_count;
    struct sl_error refusal;
    if (asked < 1)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "%llu bytes of device memory hold no expert of %zu bytes",
                            (unsigned long long)store->options.device_bytes, slot_bytes);
    for (*slots = asked; *slots > 0; *slots -= max_i32(1, asked / 16))
        if (device->ops->memory_alloc(device, (size_t)*slots * slot_bytes, memory, &refusal) ==
            SL_OK)
            break;
    if (*slots < 1) return sl_error_set(error, refusal.status, 0, "%s", refusal.message);
    if (*slots < asked)
        store_notice(store, "%d device slots instead of %d: %s", (int)*slots, (int)asked,
                     refusal.message);
    return SL_OK;
}

static enum sl_status make_device_tier(struct expert_store *store, struct sl_error *error)
{
    int32_t slots, spare = store->host.pool.count - max_i32(store->options.slots_min, 1);
    void *memory;
    transfer_init(&store->transfer, store->options.device, &store->options.clock,
                  store->patience_ns, store->options.source->slot_bytes);
    SL_TRY(take_device_memory(store, &slots, &memory, error));
    enum sl_status status = make_tier(&store->device, memory, slots, store, error);
    if (status != SL_OK && !store->device.pool.memory)
        store->options.device->ops->memory_free(store->options.device, memory);
    SL_TRY(status);
    store->device_slots = calloc((size_t)slots, sizeof *store->device_slots);
    if (!store->device_slots)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory to keep track of %d slots",
                            (int)slots);
    for (int32_t i = 0; i < slots; i++)
        store->device_slots[i].source = -1;
    store->exclusive = store->options.sharing == EXPERT_EXCLUSIVE ||
                       (store->options.sharing == EXPERT_SHARING_AUTO &&
                        store->host.pool.count < store->expert_count);
    if (!store->exclusive && store->host.pool.count < store->expert_count && slots > spare)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "inclusive tiers keep every expert of the device in RAM: %d device "
                            "slots ask for %d more slots of %zu bytes there; or use exclusive ones",
                            (int)slots, (int)(slots - spare), store->options.source->slot_bytes);
    if (store->exclusive) {
        store->down_max = min_i32(DOWN_MAX, spare);
        store->device_reserve = min_i32(DEVICE_RESERVE_MAX, slots / 8);
    }
    SL_TRY(stream_init(store, error));
    store->device_bytes = (uint64_t)slots * store->options.source->slot_bytes;
    SL_ASSERT(store->device_bytes <= store->options.device_bytes);
    return check_link(store, error);
}

static enum sl_status open_fetcher(struct expert_store *store, struct sl_error *error)
{
    struct expert_fetcher_options fetcher = {
        .source = store->options.source,
        .slots = slot_pool_memory(&store->host.pool, 0),
        .slot_count = store->host.pool.count,
        .depth = store->options.depth,
        .io = store->options.io,
        .io_override = store->options.io_override,
    };
    return expert_fetcher_create(&fetcher, &store->fetcher, error);
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
    SL_TRY(expert_plan_check_source(source, error));
    SL_TRY(count_slots(options, &slots, &staging_bytes, error));
    struct expert_store *store = calloc(1, sizeof *store);
    if (!store) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for the expert store");
    store->options = *options;
    store->expert_count = source->layers * source->experts;
    store->queue_first = store->queue_last = store->shadow_first = store->shadow_last = -1;
    store->pass_tokens = 1;
    store->patience_ns = options->patience_ns ? options->patience_ns : TRANSFER_PATIENCE_NS;
    enum sl_status status = make_host_tier(store, slots, error);
    if (status == SL_OK) status = choose_init(store, error);
    if (status == SL_OK && options->device) status = make_device_tier(store, error);
    if (status == SL_OK) status = open_fetcher(store, error);
    if (status != SL_OK) {
        expert_store_destroy(store);
        return status;
    }
    store->ram_bytes = store->arena.bytes + staging_bytes;
    SL_ASSERT(store->ram_bytes <= options->ram_bytes);
    report_describe_memory(store);
    *out = store;
    return SL_OK;
}

/* Waits for copies in flight, which write into memory that is about to go. What a lane that hangs
 * has not done it drops when its device memory is taken from it. */
static void destroy_device_tier(struct expert_store *store)
{
    struct device *device = store->options.device;
    bool stuck = false;
    if (!device) return;
    for (uint64_t start_ns = store_now_ns(store); moves_in_flight(store) > 0 && !stuck;) {
        stuck = store_now_ns(store) - start_ns > store->patience_ns;
        if (moves_turn(store, false) == 0) device->ops->wait(device, STORE_LOOK_NS);
    }
    for (int32_t i = 0; store->host_slots && i < store->host.pool.count; i++)
        if (store->host_slots[i].pinned)
            device->ops->host_unpin(device, slot_pool_memory(&store->host.pool, i),
                                    store->host.pool.slot_bytes);
    device->ops->memory_free(device, store->device.pool.memory);
    slot_pool_deinit(&store->device.pool);
    free(store->device_slots);
    free(store->device.slot_of);
    SL_ASSERT(stuck || store->host.pool.pinned_count == 0);
}

void expert_store_destroy(struct expert_store *store)
{
    if (!store) return;
    store->stream.count = 0;                /* nothing new is begun */
    expert_fetcher_destroy(store->fetcher); /* first: reads in flight write into slots */
    destroy_device_tier(store);
    choose_deinit(store);
    stream_deinit(store);
    slot_pool_deinit(&store->host.pool);
    arena_close(&store->arena);
    free(store->host_slots);
    free(store->host.slot_of);
    free(store);
}
