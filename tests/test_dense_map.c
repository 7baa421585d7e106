/* labels: unit fault */
/* Mapped files: truncation is survived and reported, foreign faults keep their old meaning. */
#include "runtime/dense_map.h"
#include "tests/support.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGES = 8, PAGE = 4096 };

static char *make_file(const char *directory)
{
    char *path = test_path(directory, "data");
    uint8_t data[PAGES * PAGE];
    memset(data, 7, sizeof data);
    test_write_file(path, data, sizeof data);
    return path;
}

static void pages_lost_to_truncation_read_as_zeros_and_mark_the_mapping(void **state)
{
    char *directory = test_make_directory("dense");
    char *path = make_file(directory);
    struct dense_map map;
    struct sl_error error = {0};
    (void)state;
    assert_int_equal(dense_map_open(path, &map, NULL), SL_OK);
    assert_int_equal(dense_map_touch(&map, 5, PAGES * PAGE - 5, &error), SL_OK);
    assert_int_equal(truncate(path, 2 * PAGE), 0);
    assert_int_equal(((const volatile uint8_t *)map.base)[0], 7);
    assert_false(atomic_load(&map.lost));
    assert_int_equal(((const volatile uint8_t *)map.base)[5 * PAGE], 0);
    assert_int_equal(((const volatile uint8_t *)map.base)[3 * PAGE], 0);
    assert_true(atomic_load(&map.lost));
    assert_int_equal(dense_map_check(&map, &error), SL_ERR_IO);
    assert_non_null(strstr(error.message, path));
    /* Once lost it stays so, even when the file gets its size back. */
    assert_int_equal(truncate(path, PAGES * PAGE), 0);
    assert_int_equal(dense_map_touch(&map, 0, PAGE, &error), SL_ERR_IO);
    assert_non_null(strstr(error.message, "could not be read"));
    dense_map_close(&map);
    test_remove_tree(directory);
    free(path);
    free(directory);
}

static void two_mappings_are_told_apart(void **state)
{
    char *directory = test_make_directory("dense");
    char *path = make_file(directory);
    char *other_path = test_path(directory, "other");
    struct dense_map map, other;
    (void)state;
    test_write_file(other_path, "x", 1);
    assert_int_equal(dense_map_open(path, &map, NULL), SL_OK);
    assert_int_equal(dense_map_open(other_path, &other, NULL), SL_OK);
    assert_int_equal(truncate(path, 0), 0);
    assert_int_equal(*(const volatile uint8_t *)map.base, 0);
    assert_true(atomic_load(&map.lost));
    assert_false(atomic_load(&other.lost));
    assert_int_equal(dense_map_check(&other, NULL), SL_OK);
    dense_map_close(&map);
    dense_map_close(&other);
    test_remove_tree(directory);
    free(other_path);
    free(path);
    free(directory);
}

/* In a child: touches a page beyond the end of a file that dense_map does not know. Returns how
 * the child ended. */
static int foreign_fault(const char *path, void (*previous)(int))
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct dense_map map;
        FILE *file = fopen(path, "rb");
        if (!file || signal(SIGBUS, previous) == SIG_ERR) _exit(99);
        if (dense_map_open(path, &map, NULL) != SL_OK) _exit(98);
        const volatile uint8_t *foreign =
            mmap(NULL, 2 * PAGES * PAGE, PROT_READ, MAP_PRIVATE, fileno(file), 0);
        if (foreign == MAP_FAILED) _exit(97);
        _exit(foreign[PAGES * PAGE + 1]);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static void leave(int signal_number)
{
    (void)signal_number;
    _exit(42);
}

static void faults_elsewhere_go_to_the_previous_handler(void **state)
{
    char *directory = test_make_directory("dense");
    char *path = make_file(directory);
    (void)state;
    int status = foreign_fault(path, leave);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 42);
    status = foreign_fault(path, SIG_DFL);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGBUS);
    test_remove_tree(directory);
    free(path);
    free(directory);
}

static void an_empty_or_absent_file_is_refused(void **state)
{
    char *directory = test_make_directory("dense");
    char *path = test_path(directory, "data");
    struct dense_map map;
    struct sl_error error = {0};
    (void)state;
    assert_int_equal(dense_map_open(path, &map, &error), SL_ERR_IO);
    assert_non_null(strstr(error.message, path));
    test_write_file(path, "", 0);
    assert_int_equal(dense_map_open(path, &map, &error), SL_ERR_FORMAT);
    assert_non_null(strstr(error.message, "is empty"));
    test_remove_tree(directory);
    free(path);
    free(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_lost_to_truncation_read_as_zeros_and_mark_the_mapping),
        cmocka_unit_test(two_mappings_are_told_apart),
        cmocka_unit_test(faults_elsewhere_go_to_the_previous_handler),
        cmocka_unit_test(an_empty_or_absent_file_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
