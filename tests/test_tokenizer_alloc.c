/* labels: fault
 * Every allocation of ours while a tokenizer is loaded and used fails once, in turn. */
#include "tests/support.h"

#include "runtime/sl.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Linked with --wrap: these stand in for the allocator in our own objects, not in libraries. */
void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *memory, size_t bytes);
void __real_free(void *memory);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *memory, size_t bytes);
void __wrap_free(void *memory);

static int64_t allocations_left; /* until one fails; negative: none does */

static bool fails_now(void)
{
    if (allocations_left < 0) return false;
    return allocations_left-- == 0;
}

void *__wrap_malloc(size_t bytes)
{
    return fails_now() ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
    return fails_now() ? NULL : __real_calloc(count, bytes);
}

void *__wrap_realloc(void *memory, size_t bytes)
{
    return fails_now() ? NULL : __real_realloc(memory, bytes);
}

void __wrap_free(void *memory)
{
    __real_free(memory);
}

/* Loads the small tokenizer and encodes a text with short, long and invalid parts. */
static enum sl_status load_and_encode(struct sl_error *error)
{
    char text[300];
    memset(text, 'a', sizeof text);
    memcpy(text, "Hello <think>\xff ", 15);
    sl_tokenizer *tokenizer = NULL;
    enum sl_status status =
        sl_tokenizer_open("tests/golden/tokenizer/tokenizer.json", &tokenizer, error);
    if (status != SL_OK) return status;
    int32_t *ids = NULL;
    size_t count;
    status = sl_tokenizer_encode(tokenizer, text, sizeof text, &ids, &count, error);
    if (status == SL_OK) free(ids);
    sl_tokenizer_close(tokenizer);
    return status;
}

static void each_failed_allocation_is_reported_and_leaves_nothing_behind(void **state)
{
    (void)state;
    int64_t failures = 0;
    for (;; failures++) {
        struct sl_error error = {0};
        allocations_left = failures;
        enum sl_status status = load_and_encode(&error);
        bool all_succeeded = allocations_left >= 0;
        allocations_left = -1;
        if (all_succeeded) {
            assert_int_equal(status, SL_OK);
            break;
        }
        assert_int_equal(status, SL_ERR_NO_MEMORY);
        assert_int_equal(error.status, SL_ERR_NO_MEMORY);
        assert_non_null(strstr(error.message, "memory"));
    }
    print_message("%lld allocations failed in turn\n", (long long)failures);
    assert_in_range(failures, 10, 1000);
}

int main(void)
{
    allocations_left = -1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_failed_allocation_is_reported_and_leaves_nothing_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
