/* labels: unit */
/* Both doors to the disk read what is in the file, at any depth, and report the end of the file and
 * errors; files open with a sentence for the user when they do not. */
#include "offload/io.h"

#include "offload/arena.h"
#include "tests/support.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_BYTES (3u * 65536u + 1234u)
#define SLOT_BYTES 65536u
#define DEPTH      5
#define ROUNDS     300

struct fixture {
    char *directory, *path;
    uint8_t *content; /* [FILE_BYTES] */
    uint8_t *memory;  /* [DEPTH, SLOT_BYTES] */
    struct iovec region;
    struct io_file file;
    struct io *io;
    struct io_read reads[DEPTH]; /* live until the door has closed */
};

static void make_file(struct fixture *fixture)
{
    uint64_t seed = 11;
    *fixture = (struct fixture){.directory = test_make_directory("io")};
    fixture->path = test_path(fixture->directory, "data");
    fixture->content = malloc(FILE_BYTES);
    assert_non_null(fixture->content);
    for (size_t i = 0; i < FILE_BYTES; i++)
        fixture->content[i] = (uint8_t)test_random(&seed);
    test_write_file(fixture->path, fixture->content, FILE_BYTES);
}

static void remove_file(struct fixture *fixture)
{
    test_remove_tree(fixture->directory);
    free(fixture->directory);
    free(fixture->path);
    free(fixture->content);
}

/* False when the system has no such door. */
static bool open_fixture(struct fixture *fixture, enum io_kind kind, bool direct)
{
    struct sl_error error;
    make_file(fixture);
    assert_int_equal(io_file_open(fixture->path, direct, &fixture->file, &error), SL_OK);
    fixture->memory = arena_map((size_t)DEPTH * SLOT_BYTES);
    assert_non_null(fixture->memory);
    fixture->region =
        (struct iovec){.iov_base = fixture->memory, .iov_len = (size_t)DEPTH * SLOT_BYTES};
    struct io_options options = {.files = &fixture->file,
                                 .file_count = 1,
                                 .regions = &fixture->region,
                                 .region_count = 1,
                                 .depth = DEPTH};
    enum sl_status status = io_open(kind, &options, &fixture->io, &error);
    if (status != SL_OK) print_message("no such door: %s\n", error.message);
    return status == SL_OK;
}

static void close_fixture(struct fixture *fixture)
{
    if (fixture->io) fixture->io->ops->close(fixture->io);
    arena_unmap(fixture->memory, (size_t)DEPTH * SLOT_BYTES);
    io_file_close(&fixture->file);
    remove_file(fixture);
}

static void check_read(const struct fixture *fixture, const struct io_read *read)
{
    uint64_t left = read->offset_bytes < FILE_BYTES ? FILE_BYTES - read->offset_bytes : 0;
    uint64_t most = left < read->bytes ? left : read->bytes;
    /* A short read is allowed by the contract, but a local file delivers what it has. */
    assert_int_equal(read->result, most);
    if (most > 0)
        assert_memory_equal(read->buffer, fixture->content + read->offset_bytes, (size_t)most);
}

static void fill_read(const struct fixture *fixture, struct io_read *read, int32_t lane,
                      uint64_t *state)
{
    uint64_t alignment = fixture->file.alignment_bytes;
    uint64_t offset = align_down(test_random_below(state, FILE_BYTES + 5000), alignment);
    size_t bytes = (size_t)align_up(1 + test_random_below(state, SLOT_BYTES), alignment);
    *read = (struct io_read){.offset_bytes = offset,
                             .bytes = bytes < SLOT_BYTES ? bytes : SLOT_BYTES,
                             .buffer = fixture->memory + (size_t)lane * SLOT_BYTES,
                             .region = test_random_below(state, 2) ? 0 : -1};
    memset(read->buffer, 0x5c, SLOT_BYTES);
}

/* Random batches, with between one and all lanes in flight. */
static void read_at_random(struct fixture *fixture)
{
    struct io_read *reads = fixture->reads, *batch[DEPTH], *done[DEPTH];
    bool busy[DEPTH] = {false};
    int32_t in_flight = 0;
    uint64_t state = 42;
    for (int round = 0; round < ROUNDS; round++) {
        int32_t count = 0;
        for (int32_t lane = 0; lane < DEPTH; lane++) {
            if (busy[lane] || test_random_below(&state, 3) == 0) continue;
            fill_read(fixture, &reads[lane], lane, &state);
            batch[count++] = &reads[lane];
            busy[lane] = true;
        }
        assert_int_equal(fixture->io->ops->submit(fixture->io, batch, count), SL_OK);
        in_flight += count;
        int32_t wait_for = (int32_t)test_random_below(&state, (uint32_t)in_flight + 1);
        int32_t finished = fixture->io->ops->reap(fixture->io, done, DEPTH, wait_for);
        assert_in_range(finished, wait_for, in_flight);
        in_flight -= finished;
        for (int32_t i = 0; i < finished; i++) {
            check_read(fixture, done[i]);
            busy[done[i] - reads] = false;
        }
    }
    /* Whatever is still in flight is the door's to wait for when it closes. */
}

static void check_door(enum io_kind kind, bool direct)
{
    struct fixture fixture;
    if (open_fixture(&fixture, kind, direct)) {
        print_message("%s, %s\n", fixture.io->ops->describe(fixture.io),
                      fixture.file.direct ? "O_DIRECT" : "buffered");
        read_at_random(&fixture);
    } else {
        assert_int_not_equal(kind, IO_PREAD);
        assert_int_not_equal(kind, IO_AUTO);
    }
    close_fixture(&fixture);
}

static void test_every_door_reads_what_is_in_the_file(void **state)
{
    (void)state;
    for (int direct = 0; direct < 2; direct++) {
        check_door(IO_URING, direct);
        check_door(IO_PREAD, direct);
        check_door(IO_AUTO, direct);
    }
}

static void test_without_io_uring_pread_takes_over_and_says_why(void **state)
{
    struct rlimit limit, lowered;
    struct sl_error error;
    struct io *io = NULL;
    struct io_options options = {.depth = 2};
    (void)state;
    /* A ring needs a file descriptor; threads do not. */
    int next_fd = dup(STDIN_FILENO);
    assert_true(next_fd >= 0);
    close(next_fd);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    lowered = (struct rlimit){.rlim_cur = (rlim_t)next_fd, .rlim_max = limit.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &lowered), 0);
    enum sl_status refused = io_open(IO_URING, &options, &io, &error);
    enum sl_status status = io_open(IO_AUTO, &options, &io, NULL);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(refused, SL_ERR_UNSUPPORTED);
    assert_non_null(strstr(error.message, "io_uring is not available"));
    assert_int_equal(status, SL_OK);
    assert_string_equal(io->ops->name, "pread");
    assert_non_null(strstr(io->ops->describe(io), "2 threads (io_uring is not available"));
    io->ops->close(io);
}

static void test_errors_of_reads_come_back_in_their_result(void **state)
{
    static const enum io_kind kinds[] = {IO_URING, IO_PREAD};
    (void)state;
    for (size_t i = 0; i < SL_COUNT_OF(kinds); i++) {
        struct fixture fixture;
        if (open_fixture(&fixture, kinds[i], false)) {
            struct io_read read = {.bytes = 100, .buffer = (void *)16, .region = -1};
            struct io_read *one = &read, *done = NULL;
            assert_int_equal(fixture.io->ops->submit(fixture.io, &one, 1), SL_OK);
            assert_int_equal(fixture.io->ops->reap(fixture.io, &done, 1, 1), 1);
            assert_ptr_equal(done, &read);
            assert_int_equal(read.result, -EFAULT);
        }
        close_fixture(&fixture);
    }
}

static void test_open_says_what_is_wrong_with_a_path(void **state)
{
    struct fixture fixture;
    struct io_file file;
    struct sl_error error;
    (void)state;
    make_file(&fixture);
    char *missing = test_path(fixture.directory, "missing"),
         *pipe = test_path(fixture.directory, "p");
    assert_int_equal(mkfifo(pipe, 0600), 0);
    assert_int_equal(io_file_open(missing, true, &file, &error), SL_ERR_IO);
    assert_int_equal(error.os_errno, ENOENT);
    assert_non_null(strstr(error.message, missing));
    assert_int_equal(io_file_open(fixture.directory, true, &file, &error), SL_ERR_IO);
    assert_non_null(strstr(error.message, "a directory"));
    assert_int_equal(io_file_open(pipe, true, &file, &error), SL_ERR_IO); /* and does not hang */
    assert_int_equal(io_file_open(missing, true, &file, NULL), SL_ERR_IO);
    if (geteuid() != 0) {
        assert_int_equal(chmod(fixture.path, 0), 0);
        assert_int_equal(io_file_open(fixture.path, true, &file, &error), SL_ERR_IO);
        assert_int_equal(error.os_errno, EACCES);
    }
    free(missing);
    free(pipe);
    remove_file(&fixture);
}

static void test_a_changed_file_is_noticed(void **state)
{
    struct fixture fixture;
    struct io_file file;
    struct sl_error error;
    (void)state;
    make_file(&fixture);
    assert_int_equal(io_file_open(fixture.path, false, &file, &error), SL_OK);
    assert_int_equal(file.bytes, FILE_BYTES);
    assert_int_equal(io_file_check_unchanged(&file, &error), SL_OK);
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1000, .tv_nsec = 7}};
    assert_int_equal(utimensat(AT_FDCWD, fixture.path, times, 0), 0);
    assert_int_equal(io_file_check_unchanged(&file, &error), SL_ERR_IO);
    assert_non_null(strstr(error.message, fixture.path));
    assert_int_equal(truncate(fixture.path, 17), 0);
    assert_int_equal(io_file_check_unchanged(&file, &error), SL_ERR_IO);
    assert_non_null(strstr(error.message, "17"));
    io_file_close(&file);
    remove_file(&fixture);
}

static void test_an_empty_file_opens_and_ends_at_once(void **state)
{
    struct fixture fixture;
    struct io_file file;
    struct sl_error error;
    (void)state;
    make_file(&fixture);
    assert_int_equal(truncate(fixture.path, 0), 0);
    assert_int_equal(io_file_open(fixture.path, true, &file, &error), SL_OK);
    assert_int_equal(file.bytes, 0);
    io_file_close(&file);
    remove_file(&fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_door_reads_what_is_in_the_file),
        cmocka_unit_test(test_without_io_uring_pread_takes_over_and_says_why),
        cmocka_unit_test(test_errors_of_reads_come_back_in_their_result),
        cmocka_unit_test(test_open_says_what_is_wrong_with_a_path),
        cmocka_unit_test(test_a_changed_file_is_noticed),
        cmocka_unit_test(test_an_empty_file_opens_and_ends_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
