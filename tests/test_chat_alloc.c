/* labels: fault */
/* Every allocation of render, parse and the sampler fails in turn: each time the call says that
 * memory ran out, leaves its result alone and frees what it held. */
#include "kernels/base.h"
#include "runtime/sl.h"
#include "tests/support.h"
#include "tests/support_alloc.h"

#include <string.h>

typedef enum sl_status (*chat_fn)(const char *, size_t, char **, size_t *, struct sl_error *);

/* Returns how many allocations the call makes. */
static int64_t fail_each_allocation(chat_fn function, const char *input)
{
    for (int64_t failing = 0;; failing++) {
        char *output = NULL;
        size_t bytes = 0;
        struct sl_error error = {0};
        alloc_watch(failing);
        enum sl_status status = function(input, strlen(input), &output, &bytes, &error);
        if (alloc_seen() <= failing) {
            assert_int_equal(status, SL_OK);
            free(output);
            assert_int_equal(alloc_held(), 0);
            return failing;
        }
        assert_int_equal(status, SL_ERR_NO_MEMORY);
        assert_non_null(strstr(error.message, "out of memory"));
        assert_null(output);
        assert_int_equal(alloc_held(), 0);
    }
}

static void rendering_survives_every_failed_allocation(void **state)
{
    (void)state;
    static const char input[] =
        "{\"thinking_mode\":\"thinking\",\"messages\":["
        "{\"role\":\"system\",\"content\":\"s\\n\",\"tools\":[{\"function\":{\"name\":\"f\"}}]},"
        "{\"role\":\"user\",\"content\":\"u\"},"
        "{\"role\":\"assistant\",\"tool_calls\":["
        "{\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"x\\\":1.5,\\\"y\\\":2}\"}}"
        ","
        "{\"id\":\"b\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"x\\\":1}\"}}]},"
        "{\"role\":\"tool\",\"tool_call_id\":\"b\",\"content\":\"1\"},"
        "{\"role\":\"tool\",\"tool_call_id\":\"a\",\"content\":\"2\"}]}";
    assert_in_range(fail_each_allocation(sl_chat_render, input), 15, 200);
}

static void parsing_survives_every_failed_allocation(void **state)
{
    (void)state;
    static const char input[] =
        "{\"thinking_mode\":\"chat\",\"text\":\"c\\n\\n<｜DSML｜tool_calls>\\n<｜DSML｜invoke "
        "name=\\\"f\\\">\\n<｜DSML｜parameter name=\\\"a\\\" string=\\\"true\\\">x"
        "</｜DSML｜parameter>\\n</｜DSML｜invoke>\\n</｜DSML｜tool_calls>\"}";
    assert_in_range(fail_each_allocation(sl_chat_parse, input), 6, 50);
}

static void drawing_allocates_nothing(void **state)
{
    (void)state;
    static const float logits[5] = {1, 2, 3, 4, 5};
    static const struct sl_sampling sampling = {
        .temperature = 1, .top_p = 0.9f, .top_k = 4, .min_p = 0.01f};
    sl_sampler *sampler = NULL;
    struct sl_error error = {0};
    alloc_watch(0);
    assert_int_equal(sl_sampler_create(&sampling, 5, 1, &sampler, &error), SL_ERR_NO_MEMORY);
    assert_null(sampler);
    alloc_watch(ALLOC_NONE);
    assert_int_equal(sl_sampler_create(&sampling, 5, 1, &sampler, &error), SL_OK);
    alloc_watch(ALLOC_NONE);
    for (int i = 0; i < 100; i++)
        assert_in_range(sl_sampler_next(sampler, logits), 1, 4);
    assert_int_equal(alloc_seen(), 0);
    sl_sampler_destroy(sampler);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rendering_survives_every_failed_allocation),
        cmocka_unit_test(parsing_survives_every_failed_allocation),
        cmocka_unit_test(drawing_allocates_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
