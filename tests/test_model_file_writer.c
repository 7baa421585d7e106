/* labels: fault */
/* Writing packed files: killed at any moment, out of room, against another writer or a foreign
 * file, the result is the same file or none. */
#include "offload/file_range.h"
#include "offload/model_file.h"
#include "offload/model_file_writer.h"
#include "tests/support.h"
#include "tests/support_packed.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SEED 21

static const struct model_file_spec spec = {
    .layers = 2, .experts = 4, .slot_bytes = 4096, .fingerprint = 99};
#define EXPERTS 8 /* in all */

static int setup(void **state)
{
    struct packed_files *files = malloc(sizeof *files);
    assert_non_null(files);
    packed_files_init(files, "writer", NULL);
    assert_int_equal(packed_write(files->path, &spec, SEED, 3, -1, NULL, NULL), SL_OK);
    packed_files_keep(files);
    unlink(files->path);
    *state = files;
    return 0;
}

static int teardown(void **state)
{
    packed_files_deinit(*state);
    free(*state);
    return 0;
}

/* After a kill: what opens under either name is whole. */
static void assert_nothing_half_opens(const struct packed_files *files)
{
    struct model_file *file = NULL;
    if (packed_exists(files->path)) packed_assert_whole(files->path, &spec, SEED);
    if (model_file_open(files->partial, false, &file, NULL) == SL_OK) {
        model_file_close(file);
        packed_assert_whole(files->partial, &spec, SEED);
    }
}

static void flip_byte(const char *path, uint64_t offset)
{
    uint8_t byte;
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(file_range_read(fd, &byte, 1, offset), 0);
    byte ^= 0x10;
    assert_int_equal(file_range_write(fd, &byte, 1, offset), 0);
    close(fd);
}

/* Runs a writer in a child and kills it on entry to its `stop`-th system call. False when the
 * child came to its end before. */
static bool write_and_kill(const char *path, int stop)
{
    int wait_status;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0) _exit(77);
        raise(SIGSTOP);
        _exit(packed_write(path, &spec, SEED, 3, -1, NULL, NULL) == SL_OK ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &wait_status, 0), child);
    if (WIFEXITED(wait_status)) {
        print_message("tracing a child is forbidden here\n");
        skip();
    }
    for (int stops = 0; !WIFEXITED(wait_status); stops++) {
        /* Every call stops twice, on entry and on return. */
        if (stops / 2 >= stop) {
            kill(child, SIGKILL);
            assert_int_equal(waitpid(child, &wait_status, 0), child);
            return true;
        }
        assert_int_equal(ptrace(PTRACE_SYSCALL, child, NULL, NULL), 0);
        assert_int_equal(waitpid(child, &wait_status, 0), child);
    }
    assert_int_equal(WEXITSTATUS(wait_status), 0);
    return false;
}

static void killed_at_any_system_call_it_goes_on_to_the_same_file(void **state)
{
    const struct packed_files *files = *state;
    int stop = 0, resumed = 0;
    for (; write_and_kill(files->path, stop); stop++) {
        int puts = 0;
        assert_nothing_half_opens(files);
        if (!packed_exists(files->path)) {
            assert_int_equal(packed_write(files->path, &spec, SEED, 3, -1, &puts, NULL), SL_OK);
            resumed += puts < EXPERTS;
        }
        packed_files_assert_same(files);
        unlink(files->path);
    }
    print_message("%d system calls, %d kills left something to go on from\n", stop, resumed);
    assert_true(stop > EXPERTS);
    assert_true(resumed > EXPERTS / 2);
}

static void killed_again_and_again_it_comes_to_its_end(void **state)
{
    const struct packed_files *files = *state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        uint64_t random = seed;
        int kills = 0;
        while (!packed_exists(files->path)) {
            write_and_kill(files->path, 20 + (int)test_random_below(&random, 60));
            assert_nothing_half_opens(files);
            assert_true(++kills < 200);
        }
        packed_files_assert_same(files);
        unlink(files->path);
    }
}

static void only_flushed_experts_are_recalled(void **state)
{
    const struct packed_files *files = *state;
    int puts = 0;
    /* Flushes after 3 and 6 puts; the seventh is not recorded. */
    assert_int_equal(packed_write(files->path, &spec, SEED, 3, 7, &puts, NULL), SL_OK);
    assert_int_equal(puts, 7);
    assert_int_equal(packed_write(files->path, &spec, SEED, 3, -1, &puts, NULL), SL_OK);
    assert_int_equal(puts, EXPERTS - 6);
    packed_files_assert_same(files);
}

static void a_recorded_slot_that_was_damaged_is_written_again(void **state)
{
    const struct packed_files *files = *state;
    struct model_file_head head;
    int puts = 0;
    assert_true(model_file_head_make(&spec, &head));
    assert_int_equal(packed_write(files->path, &spec, SEED, 1, EXPERTS, &puts, NULL), SL_OK);
    flip_byte(files->partial, model_file_slot_start(&head, 4 * 1 + 2) + 77);
    flip_byte(files->partial, head.index_start_bytes + 8 * 3); /* entry of (0, 3) */
    assert_int_equal(packed_write(files->path, &spec, SEED, 3, -1, &puts, NULL), SL_OK);
    assert_int_equal(puts, 2);
    packed_files_assert_same(files);
}

static void a_partial_file_of_other_experts_is_dropped(void **state)
{
    const struct packed_files *files = *state;
    struct model_file_spec others[4] = {spec, spec, spec, spec};
    others[0].fingerprint++;
    others[1].experts = 5;
    others[2].slot_bytes = 8192;
    others[3].layers = 3;
    for (size_t i = 0; i < SL_COUNT_OF(others); i++) {
        int puts = 0;
        assert_int_equal(packed_write(files->path, &others[i], SEED, 1, 6, NULL, NULL), SL_OK);
        assert_int_equal(packed_write(files->path, &spec, SEED, 3, -1, &puts, NULL), SL_OK);
        assert_int_equal(puts, EXPERTS);
        packed_files_assert_same(files);
        unlink(files->path);
    }
}

static void a_damaged_partial_file_is_started_anew(void **state)
{
    const struct packed_files *files = *state;
    static const uint64_t offsets[] = {8, 20, 30, 60, 4000, 4090};
    for (size_t i = 0; i < SL_COUNT_OF(offsets); i++) {
        int puts = 0;
        assert_int_equal(packed_write(files->path, &spec, SEED, 1, 6, NULL, NULL), SL_OK);
        flip_byte(files->partial, offsets[i]);
        assert_int_equal(packed_write(files->path, &spec, SEED, 3, -1, &puts, NULL), SL_OK);
        assert_int_equal(puts, EXPERTS);
        packed_files_assert_same(files);
        unlink(files->path);
    }
    /* Cut short, a file may have lost any of its slots. */
    assert_int_equal(packed_write(files->path, &spec, SEED, 1, 6, NULL, NULL), SL_OK);
    assert_int_equal(truncate(files->partial, 20000), 0);
    assert_int_equal(packed_write(files->path, &spec, SEED, 3, -1, NULL, NULL), SL_OK);
    packed_files_assert_same(files);
}

static void an_older_packed_file_is_replaced(void **state)
{
    const struct packed_files *files = *state;
    assert_int_equal(packed_write(files->path, &spec, SEED + 1, 3, -1, NULL, NULL), SL_OK);
    assert_int_equal(packed_write(files->path, &spec, SEED, 3, 5, NULL, NULL), SL_OK);
    packed_assert_whole(files->path, &spec, SEED + 1);
    assert_int_equal(packed_write(files->path, &spec, SEED, 3, -1, NULL, NULL), SL_OK);
    packed_files_assert_same(files);
}

static void a_foreign_file_is_never_overwritten(void **state)
{
    const struct packed_files *files = *state;
    const char *names[] = {files->path, files->partial};
    for (size_t i = 0; i < SL_COUNT_OF(names); i++) {
        struct sl_error error = {.message = ""};
        struct model_file_writer *writer = NULL;
        size_t bytes;
        test_write_file(names[i], "precious data", 13);
        assert_int_equal(model_file_writer_open(files->path, &spec, &writer, &error),
                         SL_ERR_ARGUMENT);
        assert_null(writer);
        assert_non_null(strstr(error.message, names[i]));
        char *data = test_read_file(names[i], &bytes);
        assert_string_equal(data, "precious data");
        free(data);
        unlink(names[i]);
    }
    assert_int_equal(mkdir(files->path, 0700), 0);
    assert_int_equal(packed_write(files->path, &spec, SEED, 3, -1, NULL, NULL), SL_ERR_ARGUMENT);
    assert_false(packed_exists(files->partial));
}

static void an_empty_or_zero_partial_file_is_taken_over(void **state)
{
    const struct packed_files *files = *state;
    static const char zeros[40960];
    test_write_file(files->partial, "", 0);
    assert_int_equal(packed_write(files->path, &spec, SEED, 3, -1, NULL, NULL), SL_OK);
    packed_files_assert_same(files);
    test_write_file(files->partial, zeros, sizeof zeros);
    assert_int_equal(packed_write(files->path, &spec, SEED, 3, -1, NULL, NULL), SL_OK);
    packed_files_assert_same(files);
}

static void a_second_writer_is_told_that_another_is_at_work(void **state)
{
    const struct packed_files *files = *state;
    struct model_file_writer *first = NULL, *second = NULL;
    struct sl_error error = {.message = ""};
    assert_int_equal(model_file_writer_open(files->path, &spec, &first, NULL), SL_OK);
    assert_int_equal(model_file_writer_open(files->path, &spec, &second, &error), SL_ERR_BUSY);
    assert_non_null(strstr(error.message, "another process"));
    assert_true(packed_exists(files->partial));
    model_file_writer_close(first);
    assert_int_equal(packed_write(files->path, &spec, SEED, 3, -1, NULL, NULL), SL_OK);
    packed_files_assert_same(files);
}

static void discard_leaves_nothing(void **state)
{
    const struct packed_files *files = *state;
    struct model_file_writer *writer = NULL;
    assert_int_equal(model_file_writer_open(files->path, &spec, &writer, NULL), SL_OK);
    assert_string_equal(model_file_writer_partial(writer), files->partial);
    model_file_writer_discard(writer);
    assert_false(packed_exists(files->partial));
}

static void a_missing_directory_is_named(void **state)
{
    const struct packed_files *files = *state;
    struct sl_error error = {.message = ""};
    struct model_file_writer *writer = NULL;
    char *path = test_path(files->directory, "none/experts.sluice");
    assert_int_equal(model_file_writer_open(path, &spec, &writer, &error), SL_ERR_IO);
    assert_int_equal(error.os_errno, ENOENT);
    assert_non_null(strstr(error.message, "none/experts.sluice"));
    free(path);
}

static void too_little_room_is_told_in_bytes_before_anything_is_written(void **state)
{
    const struct packed_files *files = *state;
    struct sl_error error = {.message = ""};
    struct model_file_writer *writer = NULL;
    /* Two pebibytes: more than any machine of this test has. */
    struct model_file_spec largest = {.layers = MODEL_FILE_LAYERS_MAX,
                                      .experts = MODEL_FILE_EXPERTS_MAX,
                                      .slot_bytes = MODEL_FILE_SLOT_BYTES_MAX};
    assert_int_equal(model_file_writer_open(files->path, &largest, &writer, &error), SL_ERR_IO);
    assert_int_equal(error.os_errno, ENOSPC);
    assert_non_null(strstr(error.message, "2251799847243776 bytes"));
    assert_non_null(strstr(error.message, "are free"));
    assert_false(packed_exists(files->partial));
}

static void a_spec_beyond_the_format_is_refused(void **state)
{
    const struct packed_files *files = *state;
    struct model_file_spec others[6] = {spec, spec, spec, spec, spec, spec};
    others[0].layers = 0;
    others[1].layers = MODEL_FILE_LAYERS_MAX + 1;
    others[2].experts = -1;
    others[3].experts = MODEL_FILE_EXPERTS_MAX + 1;
    others[4].slot_bytes = 4095;
    others[5].slot_bytes = MODEL_FILE_SLOT_BYTES_MAX + 4096;
    for (size_t i = 0; i < SL_COUNT_OF(others); i++)
        assert_int_equal(packed_write(files->path, &others[i], SEED, 1, -1, NULL, NULL),
                         SL_ERR_UNSUPPORTED);
    assert_false(packed_exists(files->partial));
}

/* Runs `body` in a child that may change limits and mounts; its exit status. */
static int in_child(int (*body)(const struct packed_files *), const struct packed_files *files)
{
    int wait_status;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) _exit(body(files));
    assert_int_equal(waitpid(child, &wait_status, 0), child);
    assert_true(WIFEXITED(wait_status));
    return WEXITSTATUS(wait_status);
}

static int write_under_a_size_limit(const struct packed_files *files)
{
    struct sl_error error = {.message = ""};
    struct rlimit limit = {.rlim_cur = 20000, .rlim_max = 20000};
    signal(SIGXFSZ, SIG_IGN);
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 77;
    enum sl_status status = packed_write(files->path, &spec, SEED, 3, -1, NULL, &error);
    if (status != SL_ERR_IO || error.os_errno != EFBIG) return 1;
    return strstr(error.message, "forbids it") ? 0 : 2;
}

static void a_file_size_limit_is_told_and_leaves_nothing(void **state)
{
    const struct packed_files *files = *state;
    assert_int_equal(in_child(write_under_a_size_limit, files), 0);
    assert_false(packed_exists(files->partial));
    assert_false(packed_exists(files->path));
}

/* On a file system of 32 KiB: refused, and once room is made, done. */
static int write_on_a_small_disk(const struct packed_files *files)
{
    struct sl_error error = {.message = ""};
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("tmpfs", files->directory, "tmpfs", 0, "size=32k") != 0)
        return 77;
    enum sl_status status = packed_write(files->path, &spec, SEED, 3, -1, NULL, &error);
    if (status != SL_ERR_IO || error.os_errno != ENOSPC) return 1;
    if (!strstr(error.message, "needs 40960 bytes and has taken 0 of them, 32768 are free"))
        return 2;
    if (packed_exists(files->partial)) return 3;
    if (mount("tmpfs", files->directory, "tmpfs", MS_REMOUNT, "size=64k") != 0) return 77;
    return packed_write(files->path, &spec, SEED, 3, -1, NULL, &error) == SL_OK ? 0 : 4;
}

static void a_full_disk_is_told_and_leaves_nothing(void **state)
{
    int result = in_child(write_on_a_small_disk, *state);
    if (result == 77) {
        print_message("mounting a small file system is forbidden here\n");
        skip();
    }
    assert_int_equal(result, 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(killed_at_any_system_call_it_goes_on_to_the_same_file),
        CASE(killed_again_and_again_it_comes_to_its_end),
        CASE(only_flushed_experts_are_recalled),
        CASE(a_recorded_slot_that_was_damaged_is_written_again),
        CASE(a_partial_file_of_other_experts_is_dropped),
        CASE(a_damaged_partial_file_is_started_anew),
        CASE(an_older_packed_file_is_replaced),
        CASE(a_foreign_file_is_never_overwritten),
        CASE(an_empty_or_zero_partial_file_is_taken_over),
        CASE(a_second_writer_is_told_that_another_is_at_work),
        CASE(discard_leaves_nothing),
        CASE(a_missing_directory_is_named),
        CASE(too_little_room_is_told_in_bytes_before_anything_is_written),
        CASE(a_spec_beyond_the_format_is_refused),
        CASE(a_file_size_limit_is_told_and_leaves_nothing),
        CASE(a_full_disk_is_told_and_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
