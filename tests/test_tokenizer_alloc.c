/* labels: fault
 * Every allocation of ours while a tokenizer is loaded and used fails once, in turn. */
#include "runtime/sl.h"
#include "tests/support.h"
#include "tests/support_alloc.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

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
        alloc_watch(failures);
        enum sl_status status = load_and_encode(&error);
        bool all_succeeded = alloc_seen() <= failures;
        alloc_watch(ALLOC_NONE);
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
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_failed_allocation_is_reported_and_leaves_nothing_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
