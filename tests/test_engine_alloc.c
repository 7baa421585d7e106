/* labels: fault
 *
 * Every allocation that opening an engine and a session makes is failed in turn: each time a clear
 * error comes back and nothing leaks. And once a session is there, the token path allocates
 * nothing. The wrappers below stand in for the allocator of all our objects (see
 * tests/CMakeLists.txt). */
#include "runtime/sl.h"
#include "tests/support.h"
#include "tests/support_golden.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Test state: allocations seen since the last reset, and the one to fail (-1: none). */
static long allocations, failing = -1;

static int next_fails(void)
{
    return allocations++ == failing;
}

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *memory, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
int __real_posix_memalign(void **out, size_t alignment, size_t bytes);
char *__real_strdup(const char *text);
void __real_free(void *memory);
void *__real_mmap(void *address, size_t bytes, int protection, int flags, int fd, off_t offset);

void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *memory, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);
int __wrap_posix_memalign(void **out, size_t alignment, size_t bytes);
char *__wrap_strdup(const char *text);
void __wrap_free(void *memory);
void *__wrap_mmap(void *address, size_t bytes, int protection, int flags, int fd, off_t offset);

void *__wrap_malloc(size_t bytes)
{
    return next_fails() ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
    return next_fails() ? NULL : __real_calloc(count, bytes);
}

void *__wrap_realloc(void *memory, size_t bytes)
{
    return next_fails() ? NULL : __real_realloc(memory, bytes);
}

void *__wrap_aligned_alloc(size_t alignment, size_t bytes)
{
    return next_fails() ? NULL : __real_aligned_alloc(alignment, bytes);
}

int __wrap_posix_memalign(void **out, size_t alignment, size_t bytes)
{
    return next_fails() ? ENOMEM : __real_posix_memalign(out, alignment, bytes);
}

char *__wrap_strdup(const char *text)
{
    return next_fails() ? NULL : __real_strdup(text);
}

void __wrap_free(void *memory)
{
    __real_free(memory);
}

void *__wrap_mmap(void *address, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    if (next_fails()) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return __real_mmap(address, bytes, protection, flags, fd, offset);
}

static struct sl_engine_options test_options(const char *directory)
{
    struct sl_engine_options options = sl_engine_options_default();
    options.model_dir = directory;
    options.threads = 2;
    options.context_tokens = 64;
    options.chunk_tokens = 16;
    options.ram_bytes = 2u << 20;
    return options;
}

static void every_failed_allocation_of_opening_is_an_error(void **state)
{
    char *directory = golden_directory("tiny-b");
    struct sl_engine_options options = test_options(directory);
    enum sl_status status = SL_ERR_NO_MEMORY;
    long site;
    (void)state;
    for (site = 0; status != SL_OK; site++) {
        struct sl_error error = {0};
        sl_engine *engine = NULL;
        sl_session *session = NULL;
        allocations = 0;
        failing = site;
        status = sl_engine_open(&options, &engine, &error);
        if (status == SL_OK) status = sl_session_create(engine, &session, &error);
        bool reached = allocations > site;
        failing = -1;
        if (status != SL_OK) {
            assert_string_not_equal(error.message, "");
            assert_null(session);
        } else if (reached) {
            /* Something optional was given up: it must still work without. */
            static const int32_t ids[] = {1, 2, 3};
            assert_int_equal(sl_session_append(session, ids, 3, NULL, &error), SL_OK);
            status = SL_ERR_NO_MEMORY;
        }
        sl_session_destroy(session);
        sl_engine_close(engine);
        assert_true(site < 200000);
    }
    printf("%ld allocations failed in turn\n", site - 1);
    assert_true(site > 20);
    free(directory);
}

static void the_token_path_allocates_nothing(void **state)
{
    char *directory = golden_directory("tiny-b");
    struct sl_engine_options options = test_options(directory);
    struct sl_error error;
    sl_engine *engine;
    sl_session *session;
    int32_t ids[48];
    (void)state;
    for (int32_t i = 0; i < 48; i++)
        ids[i] = i * 7 % 512;
    assert_int_equal(sl_engine_open(&options, &engine, &error), SL_OK);
    assert_int_equal(sl_session_create(engine, &session, &error), SL_OK);
    allocations = 0;
    assert_int_equal(sl_session_append(session, ids, 40, NULL, &error), SL_OK);
    for (int32_t i = 40; i < 48; i++)
        assert_int_equal(sl_session_append(session, ids + i, 1, NULL, &error), SL_OK);
    assert_int_equal(allocations, 0);
    sl_session_destroy(session);
    sl_engine_close(engine);
    free(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_failed_allocation_of_opening_is_an_error),
        cmocka_unit_test(the_token_path_allocates_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
