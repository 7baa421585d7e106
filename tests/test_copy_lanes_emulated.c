/* labels: gpu emulated
 *
 * The CUDA device behind kernels/device.h, on the emulated runtime: lanes in order, fences, pinned
 * memory that is refused, memory that does not suffice, and a fault that reaches both lanes. */
#include "kernels/cuda/copy_lanes.h"
#include "kernels/cuda/cuda.h"
#include "tests/cuda_emulator/emulator.h"
#include "tests/support.h"

#include <math.h>
#include <string.h>

#define BYTES  (64u * SL_PAGE_BYTES)
#define COPIES 40

struct fixture {
    struct stream *stream;
    struct device *device;
    uint8_t *host, *back;
    void *memory;
};

static uint8_t *pages(size_t bytes)
{
    uint8_t *memory = aligned_alloc(SL_PAGE_BYTES, bytes);
    assert_non_null(memory);
    for (size_t i = 0; i < bytes; i++)
        memory[i] = (uint8_t)(i * 31 + i / 4096);
    return memory;
}

static void open_lanes(struct fixture *f)
{
    struct sl_error error;
    if (cuda_stream_create(&f->stream, &error) != SL_OK) fail_msg("%s", error.message);
    if (copy_lanes_create(f->stream, &f->device, &error) != SL_OK) fail_msg("%s", error.message);
    f->host = pages(BYTES);
    f->back = pages(BYTES);
    memset(f->back, 0, BYTES);
    if (f->device->ops->memory_alloc(f->device, BYTES, &f->memory, &error) != SL_OK)
        fail_msg("%s", error.message);
}

static void close_lanes(struct fixture *f)
{
    f->device->ops->memory_free(f->device, f->memory);
    f->device->ops->destroy(f->device);
    ops_cuda()->stream_destroy(f->stream);
    free(f->host);
    free(f->back);
    assert_int_equal(cuda_emulator_memory_used(), 0);
    assert_int_equal(cuda_emulator_registered(), 0);
}

static void wait_for(struct device *device, enum device_lane lane, uint64_t ticket)
{
    while (device->ops->copy_progress(device, lane) < ticket) {
        assert_null(device->ops->lane_fault(device, lane));
        device->ops->wait(device, 1000000);
    }
}

static void what_goes_up_comes_down_in_the_order_of_tickets(void **state)
{
    struct fixture f;
    uint64_t ticket = 0;
    (void)state;
    open_lanes(&f);
    struct device *device = f.device;
    struct sl_error error;
    assert_int_equal(device->ops->host_pin(device, f.host, BYTES, &error), SL_OK);
    for (uint64_t i = 0; i < COPIES; i++) {
        size_t at = i * SL_PAGE_BYTES;
        struct device_copy copy = {(uint8_t *)f.memory + at, f.host + at, SL_PAGE_BYTES, 0};
        assert_int_equal(device->ops->copy_submit(device, DEVICE_UP, &copy, &ticket), SL_OK);
        assert_int_equal(ticket, i + 1);
    }
    wait_for(device, DEVICE_UP, COPIES);
    struct device_copy down = {f.back, f.memory, COPIES * SL_PAGE_BYTES, 0};
    assert_int_equal(device->ops->copy_submit(device, DEVICE_DOWN, &down, &ticket), SL_OK);
    assert_int_equal(ticket, 1);
    wait_for(device, DEVICE_DOWN, 1);
    assert_memory_equal(f.back, f.host, COPIES * SL_PAGE_BYTES);
    device->ops->wait(device, UINT64_MAX); /* nothing is in flight: at once */
    device->ops->host_unpin(device, f.host, BYTES);
    close_lanes(&f);
}

/* A copy behind a fence must not overtake what was launched before it: a value that the stream
 * passes on after a long way. */
static void a_copy_waits_for_its_fence(void **state)
{
    struct fixture f;
    uint64_t ticket = 0;
    (void)state;
    open_lanes(&f);
    struct device *device = f.device;
    assert_int_equal(device->ops->fence(device), 0); /* nothing is under way */
    for (int round = 0; round < 20; round++) {
        float *x = f.memory, *out = x + 4096;
        struct swiglu_args args = {x, x, out, 1, 4096, 10.0f, false};
        float value = (float)round, got;
        assert_int_equal(cuda_copy_in(f.stream, x + 4095, &value, sizeof value), SL_OK);
        for (int i = 0; i < 3; i++)
            ops_cuda()->swiglu(f.stream, &args);
        uint64_t fence = device->ops->fence(device);
        struct device_copy copy = {f.back, out, SL_PAGE_BYTES * 4, fence};
        assert_int_equal(device->ops->copy_submit(device, DEVICE_DOWN, &copy, &ticket), SL_OK);
        wait_for(device, DEVICE_DOWN, ticket);
        memcpy(&got, f.back + 4095 * sizeof got, sizeof got);
        float clamped = value > 10 ? 10 : value;
        float want = clamped / (1.0f + expf(-clamped)) * clamped;
        assert_true(got == want || fabsf(got - want) < 1e-5f * want);
    }
    copy_lanes_set_fenceless(device, true);
    assert_int_equal(device->ops->fence(device), 0);
    assert_int_equal(ops_cuda()->stream_sync(f.stream), SL_OK);
    close_lanes(&f);
}

static void refusals_say_what_stands_in_the_way(void **state)
{
    struct fixture f;
    struct sl_error error;
    void *none;
    uint64_t ticket;
    (void)state;
    open_lanes(&f);
    struct device *device = f.device;
    assert_int_equal(device->ops->memory_alloc(device, (size_t)1 << 40, &none, &error),
                     SL_ERR_NO_MEMORY);
    assert_non_null(strstr(error.message, "are free"));
    cuda_emulator_allow(false, true);
    assert_int_equal(device->ops->host_pin(device, f.host, BYTES, &error), SL_ERR_NO_MEMORY);
    assert_non_null(strstr(error.message, "ulimit -l"));
    cuda_emulator_allow(true, true);
    /* Not pinned, it can still be copied. */
    struct device_copy up = {f.memory, f.host, BYTES, 0}, down = {f.back, f.memory, BYTES, 0};
    assert_int_equal(device->ops->copy_submit(device, DEVICE_UP, &up, &ticket), SL_OK);
    wait_for(device, DEVICE_UP, ticket);
    assert_int_equal(device->ops->copy_submit(device, DEVICE_DOWN, &down, &ticket), SL_OK);
    wait_for(device, DEVICE_DOWN, ticket);
    assert_memory_equal(f.back, f.host, BYTES);
    close_lanes(&f);
}

static void a_fault_of_the_device_is_latched_on_both_lanes(void **state)
{
    struct fixture f;
    uint64_t ticket;
    (void)state;
    open_lanes(&f);
    struct device *device = f.device;
    struct swiglu_args args = {f.memory, f.memory, f.memory, 1, 256, 10.0f, false};
    cuda_emulator_fail_after(0);
    ops_cuda()->swiglu(f.stream, &args);
    assert_int_equal(ops_cuda()->stream_sync(f.stream), SL_ERR_IO);
    for (int lane = 0; lane < DEVICE_LANES; lane++) {
        void *ends[] = {f.memory, f.host};
        struct device_copy copy = {ends[lane], ends[1 - lane], SL_PAGE_BYTES, 0};
        assert_int_equal(device->ops->copy_submit(device, (enum device_lane)lane, &copy, &ticket),
                         SL_ERR_IO);
        assert_non_null(device->ops->lane_fault(device, (enum device_lane)lane));
    }
    assert_int_equal(device->ops->fence(device), 0);
    device->ops->wait(device, UINT64_MAX);
    cuda_emulator_revive();
    /* Latched for good, whatever the device does later. */
    assert_non_null(device->ops->lane_fault(device, DEVICE_UP));
    close_lanes(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_goes_up_comes_down_in_the_order_of_tickets),
        cmocka_unit_test(a_copy_waits_for_its_fence),
        cmocka_unit_test(refusals_say_what_stands_in_the_way),
        cmocka_unit_test(a_fault_of_the_device_is_latched_on_both_lanes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
