/* Running cases, one after another; see include/cmocka.h. */
#include "tests/support.h"

#include <fnmatch.h>
#include <stdio.h>

static struct {
    jmp_buf failed;
    const char *filter;
} state_of_run;

void cmocka_set_test_filter(const char *pattern)
{
    state_of_run.filter = pattern;
}

_Noreturn void bare_fail(const char *file, int line, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    printf("%s:%d: ", file, line);
    vprintf(format, list);
    printf("\n");
    va_end(list);
    longjmp(state_of_run.failed, 1);
}

void bare_assert(const char *file, int line, const char *what, bool holds)
{
    if (!holds) bare_fail(file, line, "does not hold: %s", what);
}

/* Whether it came to its end: a case, or a step before or after all of them. */
static bool passes(void (*run)(void **state), int (*step)(void **state), void **state)
{
    if (setjmp(state_of_run.failed) != 0) return false;
    if (run) run(state);
    return !step || step(state) == 0;
}

int bare_run(const struct CMUnitTest *tests, size_t count, int (*set_up)(void **state),
             int (*tear_down)(void **state))
{
    void *state = NULL;
    int failures = 0;
    if (!passes(NULL, set_up, &state)) {
        printf("FAILED: preparing\n");
        return 1;
    }
    for (size_t i = 0; i < count; i++) {
        if (state_of_run.filter && fnmatch(state_of_run.filter, tests[i].name, 0) != 0) continue;
        bool passed = passes(tests[i].run, NULL, &state);
        printf("%s: %s\n", passed ? "ok" : "FAILED", tests[i].name);
        fflush(stdout);
        failures += !passed;
    }
    return failures + !passes(NULL, tear_down, &state);
}
