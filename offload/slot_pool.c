/* Slots of one tier: states, pins and free list; see the header. */
#include "offload/slot_pool.h"

static struct slot *slot_at(const struct slot_pool *pool, int32_t slot)
{
    SL_ASSERT(slot >= 0 && slot < pool->count);
    return &pool->slots[slot];
}

static void push_free(struct slot_pool *pool, int32_t index)
{
    struct slot *slot = slot_at(pool, index);
    SL_ASSERT(slot->state == SLOT_EMPTY && slot->pins == 0);
    slot->owner = -1;
    slot->next_free = -1;
    if (pool->last_free >= 0)
        pool->slots[pool->last_free].next_free = index;
    else
        pool->first_free = index;
    pool->last_free = index;
    pool->free_count++;
}

enum sl_status slot_pool_init(struct slot_pool *pool, uint8_t *memory, int32_t count,
                              size_t slot_bytes, struct sl_error *error)
{
    SL_ASSERT(count > 0 && memory);
    SL_ASSERT(slot_bytes > 0 && slot_bytes % SL_PAGE_BYTES == 0);
    *pool = (struct slot_pool){.memory = memory,
                               .slot_bytes = slot_bytes,
                               .count = count,
                               .first_free = -1,
                               .last_free = -1};
    pool->slots = calloc((size_t)count, sizeof *pool->slots);
    if (!pool->slots) {
        *pool = (struct slot_pool){0};
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory to keep track of %d slots",
                            (int)count);
    }
    for (int32_t i = 0; i < count; i++)
        push_free(pool, i);
    return SL_OK;
}

void slot_pool_deinit(struct slot_pool *pool)
{
    free(pool->slots);
    *pool = (struct slot_pool){0};
}

int32_t slot_pool_take(struct slot_pool *pool, int32_t owner)
{
    int32_t index = pool->first_free;
    SL_ASSERT(owner >= 0);
    if (index < 0) return -1;
    struct slot *slot = slot_at(pool, index);
    SL_ASSERT(slot->state == SLOT_EMPTY && slot->pins == 0);
    pool->first_free = slot->next_free;
    if (pool->first_free < 0) pool->last_free = -1;
    pool->free_count--;
    slot->next_free = -1;
    slot->owner = owner;
    slot->state = SLOT_READING;
    return index;
}

void slot_pool_advance(struct slot_pool *pool, int32_t index, enum slot_state to)
{
    struct slot *slot = slot_at(pool, index);
    SL_ASSERT((slot->state == SLOT_READING && to == SLOT_STAGED) ||
              (slot->state == SLOT_STAGED && to == SLOT_READY));
    slot->state = to;
    if (to == SLOT_READY) pool->ready_count++;
}

void slot_pool_put(struct slot_pool *pool, int32_t index)
{
    struct slot *slot = slot_at(pool, index);
    SL_ASSERT(slot->state == SLOT_READY || slot->state == SLOT_READING);
    SL_ASSERT(slot->pins == 0);
    if (slot->state == SLOT_READY) pool->ready_count--;
    slot->state = SLOT_EMPTY;
    push_free(pool, index);
}

void slot_pool_fail(struct slot_pool *pool, int32_t index)
{
    struct slot *slot = slot_at(pool, index);
    SL_ASSERT(slot->state == SLOT_READING || slot->state == SLOT_STAGED);
    slot->state = SLOT_EMPTY;
    if (slot->pins == 0) push_free(pool, index);
}

int32_t slot_pool_pin(struct slot_pool *pool, int32_t index)
{
    struct slot *slot = slot_at(pool, index);
    SL_ASSERT(slot->state != SLOT_EMPTY && slot->pins < INT32_MAX);
    if (slot->pins++ == 0) pool->pinned_count++;
    return slot->pins;
}

int32_t slot_pool_unpin(struct slot_pool *pool, int32_t index)
{
    struct slot *slot = slot_at(pool, index);
    SL_ASSERT(slot->pins > 0);
    if (--slot->pins > 0) return slot->pins;
    pool->pinned_count--;
    if (slot->state == SLOT_EMPTY) push_free(pool, index);
    return 0;
}

uint8_t *slot_pool_memory(const struct slot_pool *pool, int32_t slot)
{
    SL_ASSERT(slot >= 0 && slot < pool->count);
    return pool->memory + (size_t)slot * pool->slot_bytes;
}

void slot_pool_check(const struct slot_pool *pool)
{
    int32_t ready = 0, pinned = 0, unowned = 0, listed = 0;
    for (int32_t i = 0; i < pool->count; i++) {
        const struct slot *slot = &pool->slots[i];
        SL_ASSERT(slot->pins >= 0);
        ready += slot->state == SLOT_READY;
        pinned += slot->pins > 0;
        unowned += slot->owner < 0;
        if (slot->owner < 0)
            SL_ASSERT(slot->state == SLOT_EMPTY && slot->pins == 0);
        else if (slot->state == SLOT_EMPTY)
            SL_ASSERT(slot->pins > 0); /* a failed read whose waiters do not know yet */
    }
    int32_t last = -1;
    for (int32_t i = pool->first_free; i >= 0; i = pool->slots[i].next_free) {
        last = i;
        SL_ASSERT(i < pool->count && pool->slots[i].owner < 0);
        SL_ASSERT(++listed <= pool->count); /* no cycle */
    }
    SL_ASSERT(last == pool->last_free);
    SL_ASSERT(ready == pool->ready_count && pinned == pool->pinned_count);
    SL_ASSERT(listed == pool->free_count && listed == unowned);
}
