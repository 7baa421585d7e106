/* The slots of one tier: memory cut into equal rooms for experts, their states and pins.
 *
 * The memory is the caller's, host or device; the pool only computes addresses. One thread, the
 * store's. A slot goes EMPTY -> READING -> STAGED -> READY and, by slot_pool_put or slot_pool_fail,
 * back to EMPTY. A pinned slot whose read failed keeps its owner and stays off the free list until
 * the last pin is gone, so that every waiter can learn of it. */
#ifndef SLUICE_OFFLOAD_SLOT_POOL_H
#define SLUICE_OFFLOAD_SLOT_POOL_H

#include "kernels/base.h"

enum slot_state {
    SLOT_EMPTY,   /* no valid bytes */
    SLOT_READING, /* a read or copy into it is queued or under way */
    SLOT_STAGED,  /* the bytes have arrived, and are being placed and verified */
    SLOT_READY,   /* holds its owner's bytes */
};

struct slot {
    enum slot_state state;
    int32_t pins;
    int32_t owner;     /* the expert it holds or held, -1 when free */
    int32_t next_free; /* -1 at the end, or when not free */
};

struct slot_pool {
    uint8_t *memory; /* [count, slot_bytes], borrowed */
    size_t slot_bytes;
    int32_t count;
    struct slot *slots;            /* [count] */
    int32_t first_free, last_free; /* or -1; taken from the front, put back at the end */
    int32_t free_count, ready_count, pinned_count;
};

/* `count` > 0 slots of `slot_bytes`, a multiple of SL_PAGE_BYTES, in `memory`. SL_ERR_NO_MEMORY
 * leaves nothing behind. */
SL_MUST_USE enum sl_status slot_pool_init(struct slot_pool *pool, uint8_t *memory, int32_t count,
                                          size_t slot_bytes, struct sl_error *error);
void slot_pool_deinit(struct slot_pool *pool);

/* The slot that is free for longest, now READING for `owner` (>= 0) without pins; -1 when none is
 * free. */
int32_t slot_pool_take(struct slot_pool *pool, int32_t owner);
/* READING -> STAGED -> READY, one step. */
void slot_pool_advance(struct slot_pool *pool, int32_t slot, enum slot_state to);
/* Back to EMPTY and free: an unpinned slot that is evicted or was never read. */
void slot_pool_put(struct slot_pool *pool, int32_t slot);
/* Back to EMPTY after a failed read; free at once, or when the last pin goes. */
void slot_pool_fail(struct slot_pool *pool, int32_t slot);

/* Both return the pins that are left. */
int32_t slot_pool_pin(struct slot_pool *pool, int32_t slot);
int32_t slot_pool_unpin(struct slot_pool *pool, int32_t slot);

/* The slot's bytes, [slot_bytes], page-aligned; valid as long as the pool. */
uint8_t *slot_pool_memory(const struct slot_pool *pool, int32_t slot);

/* Asserts that states, pins, counts and the free list agree. */
void slot_pool_check(const struct slot_pool *pool);

#endif
