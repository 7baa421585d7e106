/* labels: unit */
/* The order of eviction equals that of a plain list, whatever the sequence of calls. */
#include "offload/slot_order.h"

#include "tests/support.h"

#define SLOTS 9
#define STEPS 20000

/* The oracle: when each slot was touched last, 0 for no candidate. */
static int32_t oracle_victim(const uint64_t *touched)
{
    int32_t victim = -1;
    for (int32_t i = 0; i < SLOTS; i++)
        if (touched[i] && (victim < 0 || touched[i] < touched[victim])) victim = i;
    return victim;
}

static void test_the_victim_is_the_candidate_touched_longest_ago(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        struct slot_order order;
        struct sl_error error;
        uint64_t touched[SLOTS] = {0}, random = seed;
        assert_int_equal(slot_order_init(&order, SLOTS, &error), SL_OK);
        assert_int_equal(slot_order_victim(&order), -1);
        for (uint64_t step = 1; step <= STEPS; step++) {
            int32_t slot = (int32_t)test_random_below(&random, SLOTS);
            if (test_random_below(&random, 2)) {
                slot_order_touch(&order, slot);
                touched[slot] = step;
            } else {
                slot_order_forget(&order, slot);
                touched[slot] = 0;
            }
            slot_order_check(&order);
            assert_int_equal(slot_order_victim(&order), oracle_victim(touched));
            assert_int_equal(slot_order_is_candidate(&order, slot), touched[slot] > 0);
        }
        slot_order_deinit(&order);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_victim_is_the_candidate_touched_longest_ago),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
