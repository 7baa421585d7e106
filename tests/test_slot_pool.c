/* labels: unit */
/* Slots of one tier: taken, advanced, pinned and given back, and never lost or given out twice. */
#include "offload/slot_pool.h"

#include "tests/support.h"

#include <string.h>

#define SLOTS 5

static void open_pool(struct slot_pool *pool)
{
    struct sl_error error;
    static _Alignas(SL_PAGE_BYTES) uint8_t memory[SLOTS * 2 * SL_PAGE_BYTES];
    assert_int_equal(slot_pool_init(pool, memory, SLOTS, 2 * SL_PAGE_BYTES, &error), SL_OK);
    slot_pool_check(pool);
}

static void test_every_slot_is_taken_once_and_memory_does_not_overlap(void **state)
{
    struct slot_pool pool;
    bool seen[SLOTS] = {false};
    (void)state;
    open_pool(&pool);
    for (int32_t i = 0; i < SLOTS; i++) {
        int32_t slot = slot_pool_take(&pool, 100 + i);
        assert_in_range(slot, 0, SLOTS - 1);
        assert_false(seen[slot]);
        seen[slot] = true;
        assert_int_equal(pool.slots[slot].owner, 100 + i);
        assert_int_equal((uintptr_t)slot_pool_memory(&pool, slot) % SL_PAGE_BYTES, 0);
        memset(slot_pool_memory(&pool, slot), slot + 1, pool.slot_bytes);
        slot_pool_check(&pool);
    }
    assert_int_equal(slot_pool_take(&pool, 200), -1);
    for (int32_t slot = 0; slot < SLOTS; slot++) {
        const uint8_t *memory = slot_pool_memory(&pool, slot);
        assert_int_equal(memory[0], slot + 1);
        assert_int_equal(memory[pool.slot_bytes - 1], slot + 1);
    }
    slot_pool_put(&pool, 3);
    slot_pool_check(&pool);
    assert_int_equal(slot_pool_take(&pool, 200), 3);
    slot_pool_deinit(&pool);
}

static void test_a_failed_slot_is_free_when_its_last_waiter_has_gone(void **state)
{
    struct slot_pool pool;
    (void)state;
    open_pool(&pool);
    int32_t slot = slot_pool_take(&pool, 7);
    assert_int_equal(slot_pool_pin(&pool, slot), 1);
    assert_int_equal(slot_pool_pin(&pool, slot), 2);
    slot_pool_fail(&pool, slot);
    slot_pool_check(&pool);
    assert_int_equal(pool.slots[slot].state, SLOT_EMPTY);
    assert_int_equal(pool.slots[slot].owner, 7);
    assert_int_equal(pool.free_count, SLOTS - 1);
    assert_int_equal(slot_pool_unpin(&pool, slot), 1);
    assert_int_equal(pool.free_count, SLOTS - 1);
    assert_int_equal(slot_pool_unpin(&pool, slot), 0);
    assert_int_equal(pool.free_count, SLOTS);
    assert_int_equal(pool.slots[slot].owner, -1);
    slot_pool_check(&pool);
    slot = slot_pool_take(&pool, 8);
    slot_pool_fail(&pool, slot); /* nobody waits: free at once */
    assert_int_equal(pool.free_count, SLOTS);
    slot_pool_deinit(&pool);
}

static void test_counts_follow_the_states(void **state)
{
    struct slot_pool pool;
    (void)state;
    open_pool(&pool);
    int32_t a = slot_pool_take(&pool, 1), b = slot_pool_take(&pool, 2);
    slot_pool_advance(&pool, a, SLOT_STAGED);
    assert_int_equal(pool.ready_count, 0);
    slot_pool_advance(&pool, a, SLOT_READY);
    slot_pool_pin(&pool, a);
    slot_pool_pin(&pool, b);
    assert_int_equal(pool.ready_count, 1);
    assert_int_equal(pool.pinned_count, 2);
    slot_pool_check(&pool);
    slot_pool_unpin(&pool, a);
    slot_pool_put(&pool, a);
    assert_int_equal(pool.ready_count, 0);
    assert_int_equal(pool.pinned_count, 1);
    slot_pool_unpin(&pool, b);
    slot_pool_check(&pool);
    slot_pool_deinit(&pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_slot_is_taken_once_and_memory_does_not_overlap),
        cmocka_unit_test(test_a_failed_slot_is_free_when_its_last_waiter_has_gone),
        cmocka_unit_test(test_counts_follow_the_states),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
