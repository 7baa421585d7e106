/* labels: fault */
/* Faults of the disk, on real files and doors and on the simulated one: only the expert they touch
 * fails, the message names file and place, and what is mended can be read again. */
#include "offload/expert_store.h"

#include "tests/io_sim.h"
#include "tests/support.h"
#include "tests/support_experts.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LAYERS  2
#define EXPERTS 4
#define COUNT   (LAYERS * EXPERTS)

struct fixture {
    struct test_experts experts;
    struct expert_store *store;
};

static void open_store(struct fixture *fixture, enum io_kind kind, const struct io_ops *override)
{
    struct sl_error error;
    struct expert_store_options options = {
        .source = &fixture->experts.source,
        .ram_bytes = 4 << 20,
        .slots_min = COUNT,
        .depth = 4,
        .io = kind,
        .io_override = override,
    };
    assert_int_equal(expert_store_create(&options, &fixture->store, &error), SL_OK);
}

static void close_fixture(struct fixture *fixture)
{
    expert_store_destroy(fixture->store);
    test_experts_deinit(&fixture->experts);
}

/* Acquires everything, and checks that exactly the experts of `failing` (a bit each) fail, with
 * `status`. */
static void expect_failing(struct fixture *fixture, uint32_t failing, enum sl_status status)
{
    struct expert_ref refs[COUNT];
    struct expert_view views[COUNT];
    for (int32_t i = 0; i < COUNT; i++)
        refs[i] = (struct expert_ref){.layer = i / EXPERTS, .expert = i % EXPERTS};
    assert_int_equal(expert_store_acquire(fixture->store, refs, NULL, COUNT, views), SL_OK);
    for (int32_t i = 0; i < COUNT; i++)
        expert_store_wait(fixture->store, views, COUNT);
    for (int32_t i = 0; i < COUNT; i++) {
        if (failing >> i & 1) {
            assert_int_equal(views[i].state, EXPERT_VIEW_FAILED);
            assert_int_equal(views[i].status, status);
            assert_false(expert_store_is_resident(fixture->store, refs[i]));
        } else {
            assert_int_equal(views[i].state, EXPERT_VIEW_READY);
            assert_memory_equal(views[i].data, test_experts_slot(&fixture->experts, refs[i]),
                                fixture->experts.source.slot_bytes);
        }
    }
    expert_store_check(fixture->store);
    expert_store_release(fixture->store, views, COUNT);
    expert_store_check(fixture->store);
}

static void expect_message(const struct fixture *fixture, const char *part)
{
    const char *message = expert_store_last_failure(fixture->store);
    if (!strstr(message, part)) fail_msg("\"%s\" does not say \"%s\"", message, part);
}

static void overwrite(const struct io_file *file, uint64_t offset_bytes, uint8_t flip)
{
    uint8_t byte;
    int fd = open(file->path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, (off_t)offset_bytes), 1);
    byte ^= flip;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)offset_bytes), 1);
    close(fd);
}

/* Runs over both doors, buffered and direct; io_uring where the system has it. */
static void for_each_door(enum test_experts_form form, void (*body)(struct fixture *fixture))
{
    static const enum io_kind kinds[] = {IO_AUTO, IO_PREAD};
    for (int i = 0; i < 4; i++) {
        struct fixture fixture;
        test_experts_init(&fixture.experts, form, LAYERS, EXPERTS, i / 2, 9);
        open_store(&fixture, kinds[i % 2], NULL);
        print_message("%s\n", expert_store_describe_io(fixture.store));
        body(&fixture);
        close_fixture(&fixture);
    }
}

static void check_no_fault(struct fixture *fixture)
{
    struct expert_store_stats stats;
    expect_failing(fixture, 0, SL_OK);
    expect_failing(fixture, 0, SL_OK);
    expert_store_stats_get(fixture->store, &stats);
    assert_int_equal(stats.misses, COUNT);
    assert_int_equal(stats.hits, COUNT);
    assert_string_equal(expert_store_last_failure(fixture->store), "");
}

static void test_real_files_give_the_right_bytes(void **state)
{
    (void)state;
    for_each_door(TEST_EXPERTS_PACKED, check_no_fault);
    for_each_door(TEST_EXPERTS_UNPACKED, check_no_fault);
}

static void check_truncated(struct fixture *fixture)
{
    const struct io_file *file = &fixture->experts.files[0];
    struct expert_ref first = {0, 0};
    struct expert_view view;
    fixture->experts.source.checksums = fixture->experts.checksums;
    assert_int_equal(expert_store_acquire(fixture->store, &first, NULL, 1, &view), SL_OK);
    expert_store_wait(fixture->store, &view, 1);
    /* The file now ends within the sixth expert, in the middle of a block. */
    assert_int_equal(truncate(file->path, 5 * 8192 + 5000), 0);
    expect_failing(fixture, 0xe0, SL_ERR_IO);
    expect_message(fixture, file->path);
    expect_message(fixture, "changed while in use");
    assert_int_equal(view.state, EXPERT_VIEW_READY);
    assert_memory_equal(view.data, test_experts_slot(&fixture->experts, first), 8192);
    expert_store_release(fixture->store, &view, 1);
}

static void test_a_truncated_file_fails_only_what_it_has_lost(void **state)
{
    (void)state;
    for_each_door(TEST_EXPERTS_PACKED, check_truncated);
}

static void check_rewritten(struct fixture *fixture)
{
    struct timespec later[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 5}};
    const struct io_file *file = &fixture->experts.files[0];
    overwrite(file, 3 * 8192 + 77, 1);
    assert_int_equal(utimensat(AT_FDCWD, file->path, later, 0), 0);
    expect_failing(fixture, 0xff, SL_ERR_IO);
    expect_message(fixture, "written to while in use");
}

static void test_without_checksums_a_file_written_to_is_not_trusted(void **state)
{
    (void)state;
    for_each_door(TEST_EXPERTS_PACKED, check_rewritten);
}

static void check_replaced(struct fixture *fixture)
{
    char *other = test_path(fixture->experts.directory, "other");
    test_write_file(other, "something else", 14);
    assert_int_equal(rename(other, fixture->experts.files[0].path), 0);
    expect_failing(fixture, 0, SL_OK);
    free(other);
}

static void test_a_file_replaced_by_another_is_read_from_the_open_one(void **state)
{
    (void)state;
    for_each_door(TEST_EXPERTS_PACKED, check_replaced);
    for_each_door(TEST_EXPERTS_UNPACKED, check_replaced);
}

static void check_damaged(struct fixture *fixture)
{
    const struct expert_segment *segment =
        &fixture->experts.segments[2 * fixture->experts.source.segments_per_expert];
    const struct io_file *file = &fixture->experts.files[segment->file];
    fixture->experts.source.checksums = fixture->experts.checksums;
    overwrite(file, segment->offset_bytes + 13, 0x40);
    expect_failing(fixture, 1 << 2, SL_ERR_CHECKSUM);
    expect_message(fixture, "layer 0 expert 2");
    expect_message(fixture, "checksum");
    expect_message(fixture, file->path);
    overwrite(file, segment->offset_bytes + 13, 0x40);
    expect_failing(fixture, 0, SL_OK); /* mended: the next acquire reads it again */
}

static void test_a_flipped_bit_fails_its_expert_until_mended(void **state)
{
    (void)state;
    for_each_door(TEST_EXPERTS_PACKED, check_damaged);
    for_each_door(TEST_EXPERTS_UNPACKED, check_damaged);
}

static void open_simulated(struct fixture *fixture, const struct io_sim_plan *plan)
{
    test_experts_init(&fixture->experts, TEST_EXPERTS_PACKED, LAYERS, EXPERTS, false, 4);
    io_sim_set_plan(plan);
    open_store(fixture, IO_AUTO, &io_sim_ops);
}

static void test_a_bad_sector_fails_its_expert_until_it_reads_again(void **state)
{
    struct fixture fixture;
    struct expert_store_stats stats;
    struct io_sim_plan plan = {
        .latency_turns_max = 5,
        .fault_count = 1,
        .faults = {{.offset_bytes = 4 * 8192 + 100, .bytes = 4, .os_errno = EIO}},
    };
    (void)state;
    open_simulated(&fixture, &plan);
    expect_failing(&fixture, 1 << 4, SL_ERR_IO);
    expect_message(&fixture, "layer 1 expert 0");
    expect_message(&fixture, "at byte 32768");
    expect_message(&fixture, strerror(EIO));
    expect_failing(&fixture, 1 << 4, SL_ERR_IO);
    expert_store_stats_get(fixture.store, &stats);
    assert_int_equal(stats.failures, 2);
    assert_int_equal(stats.retries, 0);
    plan.fault_count = 0;
    io_sim_set_plan(&plan);
    expect_failing(&fixture, 0, SL_OK);
    close_fixture(&fixture);
}

static void test_transient_failures_are_retried_a_bounded_number_of_times(void **state)
{
    struct fixture fixture;
    struct expert_store_stats stats;
    struct io_sim_plan plan = {
        .fault_count = 1,
        .faults = {{.offset_bytes = 0, .bytes = 1, .os_errno = EINTR}},
    };
    (void)state;
    open_simulated(&fixture, &plan);
    expect_failing(&fixture, 1, SL_ERR_IO);
    expert_store_stats_get(fixture.store, &stats);
    assert_int_equal(stats.retries, EXPERT_READ_RETRIES_MAX);
    assert_int_equal(stats.reads, COUNT + EXPERT_READ_RETRIES_MAX);
    close_fixture(&fixture);
}

static void test_only_failures_in_a_row_count_against_a_read(void **state)
{
    struct fixture fixture;
    struct expert_store_stats stats;
    uint64_t retries = 0;
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        /* Every read is short, and nearly every other one fails: many failures, few in a row. */
        struct io_sim_plan plan = {.seed = seed, .short_permille = 1000, .transient_permille = 450};
        open_simulated(&fixture, &plan);
        expect_failing(&fixture, 0, SL_OK);
        expert_store_stats_get(fixture.store, &stats);
        if (stats.retries > retries) retries = stats.retries;
        close_fixture(&fixture);
    }
    assert_true(retries > 8 * COUNT);
}

static void test_a_released_wait_leaves_a_failing_read_to_itself(void **state)
{
    struct fixture fixture;
    struct expert_view view;
    struct expert_ref ref = {0, 1};
    struct io_sim_plan plan = {
        .fault_count = 1,
        .faults = {{.offset_bytes = 8192, .bytes = 1, .os_errno = EIO, .stall_turns = 50}},
    };
    (void)state;
    open_simulated(&fixture, &plan);
    assert_int_equal(expert_store_acquire(fixture.store, &ref, NULL, 1, &view), SL_OK);
    assert_int_equal(view.state, EXPERT_VIEW_PENDING);
    expert_store_release(fixture.store, &view, 1);
    for (int i = 0; i < 100; i++) {
        expert_store_poll(fixture.store);
        expert_store_check(fixture.store);
    }
    expect_message(&fixture, "layer 0 expert 1");
    plan.fault_count = 0;
    io_sim_set_plan(&plan);
    expect_failing(&fixture, 0, SL_OK);
    close_fixture(&fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_real_files_give_the_right_bytes),
        cmocka_unit_test(test_a_truncated_file_fails_only_what_it_has_lost),
        cmocka_unit_test(test_without_checksums_a_file_written_to_is_not_trusted),
        cmocka_unit_test(test_a_file_replaced_by_another_is_read_from_the_open_one),
        cmocka_unit_test(test_a_flipped_bit_fails_its_expert_until_mended),
        cmocka_unit_test(test_a_bad_sector_fails_its_expert_until_it_reads_again),
        cmocka_unit_test(test_transient_failures_are_retried_a_bounded_number_of_times),
        cmocka_unit_test(test_only_failures_in_a_row_count_against_a_read),
        cmocka_unit_test(test_a_released_wait_leaves_a_failing_read_to_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
