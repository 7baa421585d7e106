/* As much of cmocka as tests/gpu needs, for a machine that has only a compiler: SLUICE_GPU_ONLY
 * builds find this header in the library's place. A failed assertion ends its case; what the case
 * held is not given back. */
#ifndef SLUICE_TESTS_GPU_BARE_CMOCKA_H
#define SLUICE_TESTS_GPU_BARE_CMOCKA_H

#include <stdbool.h>
#include <stddef.h>

struct CMUnitTest {
    const char *name;
    void (*run)(void **state);
};

#define cmocka_unit_test(function)                                                                 \
    {                                                                                              \
#function, function                                                                        \
    }
#define cmocka_run_group_tests(tests, set_up, tear_down)                                           \
    bare_run((tests), sizeof(tests) / sizeof *(tests), (set_up), (tear_down))
#define fail_msg(...)                    bare_fail(__FILE__, __LINE__, __VA_ARGS__)
#define assert_true(condition)           bare_assert(__FILE__, __LINE__, #condition, (condition))
#define assert_non_null(pointer)         assert_true((pointer) != NULL)
#define assert_int_equal(a, b)           assert_true((long long)(a) == (long long)(b))
#define assert_memory_equal(a, b, bytes) assert_true(memcmp((a), (b), (bytes)) == 0)

void cmocka_set_test_filter(const char *pattern);
int bare_run(const struct CMUnitTest *tests, size_t count, int (*set_up)(void **state),
             int (*tear_down)(void **state));
_Noreturn void bare_fail(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void bare_assert(const char *file, int line, const char *what, bool holds);

#endif
