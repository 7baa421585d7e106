/* labels: unit
 *
 * The simulated device under a virtual clock: copies are done in order, whole, and no sooner than
 * the link allows; lanes do not wait for each other; hangs, faults and refused pins are told as the
 * contract says. And transfer's view of it: live, stuck, dead. */
#include "offload/device_sim.h"
#include "offload/transfer.h"

#include "tests/support.h"

#include <string.h>

#define BYTES    16384
#define RATE     16384000u /* bytes/s: a copy takes a millisecond */
#define COPY_NS  1000000u
#define PATIENCE 10000000u

struct fixture {
    struct device *device;
    struct device_sim_plan plan;
    uint8_t *memory; /* the device's: four slots */
    uint8_t *host;   /* four slots */
    uint64_t now_ns;
};

static uint64_t now_ns(void *context)
{
    return ((const struct fixture *)context)->now_ns;
}

static void advance(void *context, uint64_t ns)
{
    ((struct fixture *)context)->now_ns += ns;
}

static void open_fixture(struct fixture *fixture, const struct device_sim_plan *plan)
{
    struct sl_error error;
    void *memory;
    *fixture = (struct fixture){.plan = *plan};
    struct device_sim_options options = {.memory_bytes = 4 * BYTES,
                                         .bytes_per_second = {RATE, RATE},
                                         .unpinned_percent = 50,
                                         .pin_bytes_max = 4 * BYTES,
                                         .clock = {now_ns, fixture},
                                         .advance = advance,
                                         .plan = *plan};
    assert_int_equal(device_sim_create(&options, &fixture->device, &error), SL_OK);
    const struct device_ops *ops = fixture->device->ops;
    assert_int_equal(ops->memory_alloc(fixture->device, 4 * BYTES, &memory, &error), SL_OK);
    fixture->memory = memory;
    fixture->host = aligned_alloc(SL_PAGE_BYTES, 4 * BYTES);
    assert_non_null(fixture->host);
    for (int i = 0; i < 4; i++)
        memset(fixture->host + i * BYTES, i + 1, BYTES);
    assert_int_equal(ops->host_pin(fixture->device, fixture->host, 4 * BYTES, &error), SL_OK);
}

static void close_fixture(struct fixture *fixture)
{
    const struct device_ops *ops = fixture->device->ops;
    ops->memory_free(fixture->device, fixture->memory);
    ops->host_unpin(fixture->device, fixture->host, 4 * BYTES);
    ops->destroy(fixture->device);
    free(fixture->host);
}

static uint64_t copy(struct fixture *fixture, enum device_lane lane, int device_slot, int host_slot)
{
    uint8_t *there = fixture->memory + device_slot * BYTES,
            *here = fixture->host + host_slot * BYTES;
    struct device_copy what = {.target = lane == DEVICE_UP ? there : here,
                               .source = lane == DEVICE_UP ? here : there,
                               .bytes = BYTES};
    uint64_t ticket = 0;
    if (fixture->device->ops->copy_submit(fixture->device, lane, &what, &ticket) != SL_OK) return 0;
    return ticket;
}

static uint64_t progress(const struct fixture *fixture, enum device_lane lane)
{
    return fixture->device->ops->copy_progress(fixture->device, lane);
}

static bool holds(const uint8_t *memory, uint8_t value)
{
    for (int i = 0; i < (int)BYTES; i++)
        if (memory[i] != value) return false;
    return true;
}

static void test_copies_end_in_order_and_no_sooner_than_the_link_allows(void **state)
{
    struct fixture fixture;
    (void)state;
    open_fixture(&fixture, &(struct device_sim_plan){.poison = true});
    assert_int_equal(copy(&fixture, DEVICE_UP, 0, 0), 1);
    assert_int_equal(copy(&fixture, DEVICE_UP, 1, 1), 2);
    assert_false(holds(fixture.memory, 1));
    fixture.now_ns = COPY_NS - 1;
    assert_int_equal(progress(&fixture, DEVICE_UP), 0);
    fixture.now_ns = COPY_NS;
    assert_int_equal(progress(&fixture, DEVICE_UP), 1);
    assert_true(holds(fixture.memory, 1));
    fixture.now_ns = 2 * COPY_NS - 1;
    assert_int_equal(progress(&fixture, DEVICE_UP), 1);
    fixture.now_ns = 2 * COPY_NS;
    assert_int_equal(progress(&fixture, DEVICE_UP), 2);
    assert_true(holds(fixture.memory + BYTES, 2));
    /* An idle lane starts when it is asked, not when it was last done. */
    fixture.now_ns = 10 * COPY_NS;
    assert_int_equal(copy(&fixture, DEVICE_UP, 2, 2), 3);
    fixture.now_ns += COPY_NS - 1;
    assert_int_equal(progress(&fixture, DEVICE_UP), 2);
    close_fixture(&fixture);
}

static void test_the_lanes_do_not_wait_for_each_other(void **state)
{
    struct fixture fixture;
    (void)state;
    open_fixture(&fixture, &(struct device_sim_plan){0});
    memset(fixture.memory + 3 * BYTES, 9, BYTES);
    assert_int_equal(copy(&fixture, DEVICE_UP, 0, 0), 1);
    assert_int_equal(copy(&fixture, DEVICE_DOWN, 3, 3), 1);
    fixture.now_ns = COPY_NS;
    assert_int_equal(progress(&fixture, DEVICE_UP), 1);
    assert_int_equal(progress(&fixture, DEVICE_DOWN), 1);
    assert_true(holds(fixture.host + 3 * BYTES, 9));
    close_fixture(&fixture);
}

static void test_waiting_moves_time_to_the_next_end_or_the_timeout(void **state)
{
    struct fixture fixture;
    (void)state;
    open_fixture(&fixture, &(struct device_sim_plan){0});
    fixture.device->ops->wait(fixture.device, 5 * COPY_NS);
    assert_int_equal(fixture.now_ns, 0); /* nothing is under way */
    copy(&fixture, DEVICE_UP, 0, 0);
    fixture.device->ops->wait(fixture.device, COPY_NS / 2);
    assert_int_equal(fixture.now_ns, COPY_NS / 2);
    fixture.device->ops->wait(fixture.device, 5 * COPY_NS);
    assert_int_equal(fixture.now_ns, COPY_NS);
    assert_int_equal(progress(&fixture, DEVICE_UP), 1);
    close_fixture(&fixture);
}

static void test_memory_that_is_not_pinned_is_copied_more_slowly(void **state)
{
    struct fixture fixture;
    struct sl_error error;
    (void)state;
    open_fixture(&fixture, &(struct device_sim_plan){0});
    const struct device_ops *ops = fixture.device->ops;
    uint8_t *more = aligned_alloc(SL_PAGE_BYTES, BYTES);
    assert_int_equal(ops->host_pin(fixture.device, more, BYTES, &error), SL_ERR_NO_MEMORY);
    assert_non_null(strstr(error.message, "pins no more than"));
    free(more);
    ops->host_unpin(fixture.device, fixture.host, 4 * BYTES);
    copy(&fixture, DEVICE_UP, 0, 0);
    fixture.now_ns = 2 * COPY_NS - 1;
    assert_int_equal(progress(&fixture, DEVICE_UP), 0);
    fixture.now_ns = 2 * COPY_NS;
    assert_int_equal(progress(&fixture, DEVICE_UP), 1);
    assert_int_equal(ops->host_pin(fixture.device, fixture.host, 4 * BYTES, &error), SL_OK);
    close_fixture(&fixture);
}

static void test_memory_beyond_the_device_is_refused(void **state)
{
    struct fixture fixture;
    struct sl_error error;
    void *more;
    (void)state;
    open_fixture(&fixture, &(struct device_sim_plan){0});
    assert_int_equal(fixture.device->ops->memory_alloc(fixture.device, 1, &more, &error),
                     SL_ERR_NO_MEMORY);
    assert_non_null(strstr(error.message, "0 of 65536 are left"));
    close_fixture(&fixture);
}

static void init_transfer(struct fixture *fixture, struct transfer *transfer)
{
    struct clock source = {now_ns, fixture};
    transfer_init(transfer, fixture->device, &source, PATIENCE, BYTES);
}

static bool start(struct fixture *fixture, struct transfer *transfer, int slot)
{
    struct transfer_copy what = {.expert_idx = slot, .host_slot = slot, .device_slot = slot};
    return transfer_start(transfer, DEVICE_UP, fixture->memory + slot * BYTES,
                          fixture->host + slot * BYTES, 0, &what);
}

static void test_a_lane_that_dies_fails_what_it_has_not_done(void **state)
{
    struct fixture fixture;
    struct transfer transfer;
    struct transfer_copy done;
    bool arrived;
    (void)state;
    open_fixture(&fixture, &(struct device_sim_plan){.dies_after = {2, 0}});
    init_transfer(&fixture, &transfer);
    for (int slot = 0; slot < 4; slot++)
        assert_true(start(&fixture, &transfer, slot));
    assert_false(transfer_look(&transfer, DEVICE_UP));
    assert_false(transfer_reap(&transfer, DEVICE_UP, &done, &arrived));
    fixture.now_ns = 10 * COPY_NS;
    assert_int_equal(progress(&fixture, DEVICE_UP), 2);
    assert_true(transfer_look(&transfer, DEVICE_UP));
    assert_int_equal(transfer.lanes[DEVICE_UP].state, TRANSFER_DEAD);
    for (int slot = 0; slot < 4; slot++) {
        assert_true(transfer_reap(&transfer, DEVICE_UP, &done, &arrived));
        assert_int_equal(done.device_slot, slot);
        assert_int_equal(arrived, slot < 2);
        transfer_check(&transfer);
    }
    assert_false(transfer_reap(&transfer, DEVICE_UP, &done, &arrived));
    assert_false(transfer_has_room(&transfer, DEVICE_UP));
    assert_int_equal(copy(&fixture, DEVICE_UP, 0, 0), 0); /* refused */
    assert_int_equal(copy(&fixture, DEVICE_DOWN, 1, 1), 1);
    close_fixture(&fixture);
}

static void test_a_lane_that_hangs_is_stuck_until_it_moves(void **state)
{
    struct fixture fixture;
    struct transfer transfer;
    struct transfer_copy done;
    bool arrived;
    (void)state;
    open_fixture(&fixture, &(struct device_sim_plan){.hangs = {true, false}});
    init_transfer(&fixture, &transfer);
    assert_true(start(&fixture, &transfer, 0));
    fixture.now_ns = PATIENCE;
    assert_false(transfer_look(&transfer, DEVICE_UP));
    fixture.now_ns = PATIENCE + 1;
    assert_true(transfer_look(&transfer, DEVICE_UP));
    assert_int_equal(transfer.lanes[DEVICE_UP].state, TRANSFER_STUCK);
    assert_false(transfer_has_room(&transfer, DEVICE_UP));
    assert_true(transfer_has_room(&transfer, DEVICE_DOWN));
    device_sim_set_plan(fixture.device, &(struct device_sim_plan){0});
    assert_true(transfer_look(&transfer, DEVICE_UP));
    assert_int_equal(transfer.lanes[DEVICE_UP].state, TRANSFER_LIVE);
    assert_true(transfer_reap(&transfer, DEVICE_UP, &done, &arrived));
    assert_true(arrived && holds(fixture.memory, 1));
    close_fixture(&fixture);
}

static void test_memory_may_be_freed_while_copies_hang(void **state)
{
    struct sl_error error;
    (void)state;
    for (int threads = 0; threads < 2; threads++) {
        struct fixture fixture = {0};
        struct device_sim_options options = {.memory_bytes = BYTES,
                                             .bytes_per_second = {RATE, RATE},
                                             .threads = threads,
                                             .plan = {.hangs = {true, true}}};
        void *memory;
        uint64_t ticket;
        assert_int_equal(device_sim_create(&options, &fixture.device, &error), SL_OK);
        const struct device_ops *ops = fixture.device->ops;
        assert_int_equal(ops->memory_alloc(fixture.device, BYTES, &memory, &error), SL_OK);
        uint8_t *host = calloc(1, BYTES);
        struct device_copy what = {.target = memory, .source = host, .bytes = BYTES};
        assert_int_equal(ops->copy_submit(fixture.device, DEVICE_UP, &what, &ticket), SL_OK);
        assert_int_equal(device_sim_in_flight(fixture.device, DEVICE_UP), 1);
        ops->wait(fixture.device, 1000);
        ops->memory_free(fixture.device, memory);
        free(host);
        assert_int_equal(device_sim_in_flight(fixture.device, DEVICE_UP), 0);
        ops->destroy(fixture.device);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copies_end_in_order_and_no_sooner_than_the_link_allows),
        cmocka_unit_test(test_the_lanes_do_not_wait_for_each_other),
        cmocka_unit_test(test_waiting_moves_time_to_the_next_end_or_the_timeout),
        cmocka_unit_test(test_memory_that_is_not_pinned_is_copied_more_slowly),
        cmocka_unit_test(test_memory_beyond_the_device_is_refused),
        cmocka_unit_test(test_a_lane_that_dies_fails_what_it_has_not_done),
        cmocka_unit_test(test_a_lane_that_hangs_is_stuck_until_it_moves),
        cmocka_unit_test(test_memory_may_be_freed_while_copies_hang),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
