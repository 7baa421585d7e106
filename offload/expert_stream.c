/* Prefill's own way through the device: experts of the layer under way and of those to come, copied
 * into slots set aside while the layer before computes; see expert_store_state.h.
 *
 * The order says what is wanted. One look runs through it for copies of what RAM holds, another for
 * reads of what only the disk has; a read is begun only when a slot on the device is promised to
 * what it brings. Copies for later layers wait until every read for the layer under way has begun,
 * so that they cannot take the slots it needs to go on. */
#include "offload/expert_store_state.h"
#include "offload/layer_stream.h"

#include <math.h>
#include <string.h>

/* Copies in flight for the layer under way: the link never idles between two looks, and a lane that
 * fails holds no more host slots than that. For layers to come see layer_stream_flight. */
#define STREAM_COPIES_MAX 32

enum sl_status stream_init(struct expert_store *store, struct sl_error *error)
{
    struct store_stream *stream = &store->stream;
    int32_t slots = min_i32(store->options.stream_slots, store->device.pool.count - 1);
    if (slots <= 0) return SL_OK;
    stream->order = calloc(EXPERT_STREAM_MAX, sizeof *stream->order);
    stream->wanted = calloc((size_t)store->expert_count, sizeof *stream->wanted);
    if (!stream->order || !stream->wanted)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory to stream %d experts",
                            (int)store->expert_count);
    stream->slots = slots;
    return SL_OK;
}

void stream_deinit(struct expert_store *store)
{
    free(store->stream.order);
    free(store->stream.wanted);
}

void stream_leave(struct expert_store *store, int32_t device_slot)
{
    struct device_slot *entry = &store->device_slots[device_slot];
    store->stream.used -= entry->streamed;
    entry->streamed = false;
    SL_ASSERT(store->stream.used >= 0);
}

/* ---- what is wanted ---- */

/* Slots of what is wanted no longer and in nobody's view. */
static void drop_unwanted(struct expert_store *store)
{
    struct slot_pool *pool = &store->device.pool;
    for (int32_t i = 0; i < pool->count; i++) {
        const struct slot *slot = &pool->slots[i];
        if (store->device_slots[i].streamed && slot->state == SLOT_READY && slot->pins == 0 &&
            !store->stream.wanted[slot->owner])
            slots_drop_device(store, i);
    }
}

void expert_store_stream(struct expert_store *store, const struct expert_ref *refs, int32_t count)
{
    struct store_stream *stream = &store->stream;
    SL_ASSERT(count >= 0 && count <= EXPERT_STREAM_MAX);
    if (stream->slots == 0 || (count == 0 && stream->count == 0)) return;
    memset(stream->wanted, 0, (size_t)store->expert_count * sizeof *stream->wanted);
    stream->count = count;
    stream->now = stream->next_up = stream->next_read = 0;
    for (int32_t i = 0; i < count; i++) {
        stream->order[i] = store_expert_idx(store, refs[i]);
        SL_ASSERT(!stream->wanted[stream->order[i]]);
        stream->wanted[stream->order[i]] = 1;
        stream->now += refs[i].layer == store->layer;
    }
    drop_unwanted(store);
    if (count > 0) expert_store_poll(store);
}

bool expert_store_streams(const struct expert_store *store)
{
    return store_is_streaming(store) && transfer_has_room(&store->transfer, DEVICE_UP);
}

bool expert_store_stays(const struct expert_store *store, struct expert_ref ref)
{
    int32_t expert_idx = store_expert_idx(store, ref);
    return store_tier_holds(&store->device, expert_idx) &&
           !store->device_slots[store->device.slot_of[expert_idx]].streamed;
}

bool expert_store_is_coming(const struct expert_store *store, struct expert_ref ref)
{
    return store_has_device(store) && store->device.slot_of[store_expert_idx(store, ref)] >= 0;
}

/* ---- how it comes ---- */

void stream_read(struct expert_store *store)
{
    struct store_stream *stream = &store->stream;
    for (; stream->next_read < stream->count; stream->next_read++) {
        int32_t expert_idx = stream->order[stream->next_read];
        if (!stream->wanted[expert_idx] || store->device.slot_of[expert_idx] >= 0 ||
            store->host.slot_of[expert_idx] >= 0)
            continue;
        if (!expert_store_streams(store) || store_stream_free(store) <= 0 ||
            stream->reads >= max_i32(1, store->staging_slots / 2) ||
            !expert_fetcher_takes_more(store->fetcher) ||
            !expert_fetcher_has_room(store->fetcher, expert_idx))
            return;
        int32_t slot = slots_take_host(store, expert_idx, INFINITY);
        if (slot < 0) return;
        store->host_slots[slot].streamed = true;
        stream->reads++;
        reads_begin(store, expert_idx, slot);
    }
}

void stream_arrived(struct expert_store *store, int32_t expert_idx)
{
    if (store->stream.wanted[expert_idx] && expert_store_streams(store))
        (void)moves_up(store, expert_idx, TRANSFER_STREAM, INFINITY);
}

void stream_turn(struct expert_store *store)
{
    struct store_stream *stream = &store->stream;
    if (stream->next_up >= stream->count) return;
    int32_t ahead = layer_stream_flight(rates_expert_ns(&store->rates, RATES_UP, 1, false));
    for (; stream->next_up < stream->count; stream->next_up++) {
        int32_t expert_idx = stream->order[stream->next_up];
        if (stream->next_up >= stream->now && stream->next_read < stream->now) return;
        if (!expert_store_streams(store) || store_stream_free(store) <= 0 ||
            store->transfer.lanes[DEVICE_UP].count >=
                (stream->next_up < stream->now ? STREAM_COPIES_MAX : ahead))
            return;
        if (!stream->wanted[expert_idx] || store->device.slot_of[expert_idx] >= 0) continue;
        if (!store_tier_holds(&store->host, expert_idx)) continue;
        (void)moves_up(store, expert_idx, TRANSFER_STREAM, INFINITY);
    }
}
