/* Which resident expert gives way: the order of the slots that may be evicted.
 *
 * The store tells what happens to slots, and asks for a victim; everything is O(1), so another
 * policy can take this place without the store's knowing. This one evicts the least recently used.
 * Owns its links. One thread, the store's. */
#ifndef SLUICE_OFFLOAD_SLOT_ORDER_H
#define SLUICE_OFFLOAD_SLOT_ORDER_H

#include "kernels/base.h"

struct slot_order_link {
    int32_t newer, older; /* slots, -1 at an end */
    bool candidate;
};

struct slot_order {
    struct slot_order_link *links; /* [slot_count] */
    int32_t slot_count;
    int32_t newest, oldest; /* candidates, -1 when there is none */
    int32_t candidate_count;
};

/* No candidates among `slot_count` > 0 slots. */
SL_MUST_USE enum sl_status slot_order_init(struct slot_order *order, int32_t slot_count,
                                           struct sl_error *error);
void slot_order_deinit(struct slot_order *order);

/* The slot was used just now and may be evicted from here on. */
void slot_order_touch(struct slot_order *order, int32_t slot);
/* The slot may not be evicted: it is pinned, or holds nothing. */
void slot_order_forget(struct slot_order *order, int32_t slot);
/* The candidate to evict first, or -1; it stays a candidate. */
int32_t slot_order_victim(const struct slot_order *order);

bool slot_order_is_candidate(const struct slot_order *order, int32_t slot);

/* Asserts that the list is whole. */
void slot_order_check(const struct slot_order *order);

#endif
