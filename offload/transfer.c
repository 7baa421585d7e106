/* Rings of copies in flight over a device's lanes; see the header. */
#include "offload/transfer.h"

static struct transfer_copy *copy_at(struct transfer_lane *lane, int32_t idx)
{
    SL_ASSERT(idx >= 0 && idx < lane->count);
    return &lane->copies[(lane->first + idx) % DEVICE_COPIES_MAX];
}

void transfer_init(struct transfer *transfer, struct device *device, const struct clock *clock,
                   uint64_t patience_ns, size_t slot_bytes)
{
    SL_ASSERT(device && slot_bytes > 0);
    *transfer = (struct transfer){
        .device = device,
        .clock = *clock,
        .patience_ns = patience_ns ? patience_ns : TRANSFER_PATIENCE_NS,
        .slot_bytes = slot_bytes,
    };
}

bool transfer_has_room(const struct transfer *transfer, enum device_lane which)
{
    const struct transfer_lane *lane = &transfer->lanes[which];
    return lane->state == TRANSFER_LIVE && lane->count < DEVICE_COPIES_MAX;
}

bool transfer_start(struct transfer *transfer, enum device_lane which, void *target,
                    const void *source, uint64_t after_fence, const struct transfer_copy *what)
{
    struct transfer_lane *lane = &transfer->lanes[which];
    struct device_copy copy = {target, source, transfer->slot_bytes, after_fence};
    uint64_t ticket;
    SL_ASSERT(transfer_has_room(transfer, which));
    /* The fault itself is found, and told, by the next look. */
    if (transfer->device->ops->copy_submit(transfer->device, which, &copy, &ticket) != SL_OK)
        return false;
    uint64_t now = clock_now_ns(&transfer->clock);
    if (lane->count == 0) lane->moved_ns = now;
    struct transfer_copy *entry = &lane->copies[(lane->first + lane->count++) % DEVICE_COPIES_MAX];
    *entry = *what;
    entry->ticket = ticket;
    entry->submit_ns = now;
    entry->abandoned = false;
    return true;
}

bool transfer_look(struct transfer *transfer, enum device_lane which)
{
    struct transfer_lane *lane = &transfer->lanes[which];
    const struct device_ops *ops = transfer->device->ops;
    enum transfer_state before = lane->state;
    if (before == TRANSFER_DEAD) return false;
    if (ops->lane_fault(transfer->device, which)) {
        lane->state = TRANSFER_DEAD;
        return true;
    }
    uint64_t done = ops->copy_progress(transfer->device, which);
    bool moved = lane->count == 0 || copy_at(lane, 0)->ticket <= done;
    uint64_t waited = moved ? 0 : clock_now_ns(&transfer->clock) - lane->moved_ns;
    lane->state = waited > transfer->patience_ns ? TRANSFER_STUCK : TRANSFER_LIVE;
    return lane->state != before;
}

bool transfer_reap(struct transfer *transfer, enum device_lane which, struct transfer_copy *out,
                   bool *arrived)
{
    struct transfer_lane *lane = &transfer->lanes[which];
    if (lane->count == 0) return false;
    const struct transfer_copy *oldest = copy_at(lane, 0);
    *arrived = oldest->ticket <= transfer->device->ops->copy_progress(transfer->device, which);
    if (!*arrived && lane->state != TRANSFER_DEAD) return false;
    uint64_t now = clock_now_ns(&transfer->clock);
    *out = *oldest;
    out->done_ns = now;
    out->busy_ns = now - (oldest->submit_ns > lane->moved_ns ? oldest->submit_ns : lane->moved_ns);
    lane->moved_ns = now;
    lane->first = (lane->first + 1) % DEVICE_COPIES_MAX;
    lane->count--;
    if (*arrived) {
        lane->copies_done++;
        lane->bytes_done += transfer->slot_bytes;
    }
    return true;
}

const struct transfer_copy *transfer_find(const struct transfer *transfer, enum device_lane which,
                                          int32_t device_slot)
{
    const struct transfer_lane *lane = &transfer->lanes[which];
    for (int32_t i = 0; i < lane->count; i++) {
        const struct transfer_copy *copy = &lane->copies[(lane->first + i) % DEVICE_COPIES_MAX];
        if (copy->device_slot == device_slot) return copy;
    }
    return NULL;
}

void transfer_check(const struct transfer *transfer)
{
    for (int which = 0; which < DEVICE_LANES; which++) {
        const struct transfer_lane *lane = &transfer->lanes[which];
        SL_ASSERT(lane->count >= 0 && lane->count <= DEVICE_COPIES_MAX);
        for (int32_t i = 1; i < lane->count; i++)
            SL_ASSERT(lane->copies[(lane->first + i) % DEVICE_COPIES_MAX].ticket >
                      lane->copies[(lane->first + i - 1) % DEVICE_COPIES_MAX].ticket);
    }
}
