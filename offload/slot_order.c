/* Least recently used: a list of candidates through the slots; see the header. */
#include "offload/slot_order.h"

static struct slot_order_link *link_at(const struct slot_order *order, int32_t slot)
{
    SL_ASSERT(slot >= 0 && slot < order->slot_count);
    return &order->links[slot];
}

enum sl_status slot_order_init(struct slot_order *order, int32_t slot_count, struct sl_error *error)
{
    SL_ASSERT(slot_count > 0);
    *order = (struct slot_order){.slot_count = slot_count, .newest = -1, .oldest = -1};
    order->links = calloc((size_t)slot_count, sizeof *order->links);
    if (!order->links)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory to keep track of %d experts",
                            (int)slot_count);
    return SL_OK;
}

void slot_order_deinit(struct slot_order *order)
{
    free(order->links);
    *order = (struct slot_order){0};
}

void slot_order_touch(struct slot_order *order, int32_t slot)
{
    slot_order_forget(order, slot);
    struct slot_order_link *link = link_at(order, slot);
    *link = (struct slot_order_link){.newer = -1, .older = order->newest, .candidate = true};
    if (order->newest >= 0)
        link_at(order, order->newest)->newer = slot;
    else
        order->oldest = slot;
    order->newest = slot;
    order->candidate_count++;
}

void slot_order_forget(struct slot_order *order, int32_t slot)
{
    struct slot_order_link *link = link_at(order, slot);
    if (!link->candidate) return;
    if (link->newer >= 0)
        link_at(order, link->newer)->older = link->older;
    else
        order->newest = link->older;
    if (link->older >= 0)
        link_at(order, link->older)->newer = link->newer;
    else
        order->oldest = link->newer;
    link->candidate = false;
    order->candidate_count--;
    SL_ASSERT(order->candidate_count >= 0);
}

int32_t slot_order_victim(const struct slot_order *order)
{
    SL_ASSERT((order->oldest >= 0) == (order->candidate_count > 0));
    return order->oldest;
}

bool slot_order_is_candidate(const struct slot_order *order, int32_t slot)
{
    return link_at(order, slot)->candidate;
}

void slot_order_check(const struct slot_order *order)
{
    int32_t listed = 0, newer = -1;
    for (int32_t i = order->newest; i >= 0; i = order->links[i].older) {
        SL_ASSERT(i < order->slot_count && order->links[i].candidate);
        SL_ASSERT(order->links[i].newer == newer);
        SL_ASSERT(++listed <= order->slot_count); /* no cycle */
        newer = i;
    }
    SL_ASSERT(newer == order->oldest && listed == order->candidate_count);
}
