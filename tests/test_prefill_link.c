/* labels: unit */
/* Prompts of the full model under a virtual clock (bench/prefill_pass.h): the link is busy, and
 * what the program decides is no worse than always asking or always bringing ahead. */
#include "bench/prefill_pass.h"
#include "tests/support.h"

#define HALF 5140 /* of 11,008 experts */

static struct prefill_result run(int32_t tokens, enum prefill_mode mode)
{
    struct prefill_options options = {.link = 52e9,
                                      .device_slots = HALF,
                                      .stream_slots = 2 * PREFILL_EXPERTS,
                                      .chunk_tokens = 8192,
                                      .prompt_tokens = tokens,
                                      .mode = mode,
                                      .seed = 3};
    struct prefill_result result;
    struct sl_error error;
    if (prefill_pass_run(&options, &result, &error) != SL_OK) fail_msg("%s", error.message);
    printf("%d tokens, mode %d: %.3f s, at best %.3f; link %.3f, GPU %.3f busy, %.3f ahead\n",
           (int)tokens, (int)mode, result.seconds, result.floor_seconds, result.link_share,
           result.gpu_share, result.ahead_share);
    return result;
}

static void the_link_is_busy_through_a_long_prompt(void **state)
{
    (void)state;
    struct prefill_result result = run(4096, PREFILL_AUTO);
    assert_true(result.link_share >= 0.90 && result.link_share <= 1.001);
    assert_true(result.seconds <= result.floor_seconds / 0.90);
    assert_true(result.seconds >= result.floor_seconds);
    assert_true(result.resident > 0.4 && result.resident < 0.5);
    assert_true(result.ahead_share > 0.9);
}

static void the_choice_is_no_worse_than_either_way(void **state)
{
    static const int32_t prompts[] = {64, 1024};
    (void)state;
    for (size_t i = 0; i < SL_COUNT_OF(prompts); i++) {
        double seconds = run(prompts[i], PREFILL_AUTO).seconds;
        assert_true(seconds <= 1.01 * run(prompts[i], PREFILL_CHOSEN).seconds);
        assert_true(seconds <= 1.01 * run(prompts[i], PREFILL_AHEAD).seconds);
    }
}

static void more_on_the_device_is_never_slower(void **state)
{
    (void)state;
    struct prefill_options options = {
        .link = 52e9, .chunk_tokens = 8192, .prompt_tokens = 512, .seed = 3};
    double before = 1e9;
    for (int32_t slots = 1000; slots < 11008; slots += 4000) {
        struct prefill_result result;
        struct sl_error error;
        options.device_slots = slots;
        options.stream_slots = 2 * PREFILL_EXPERTS;
        if (prefill_pass_run(&options, &result, &error) != SL_OK) fail_msg("%s", error.message);
        assert_true(result.seconds <= before);
        before = result.seconds;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_link_is_busy_through_a_long_prompt),
        cmocka_unit_test(the_choice_is_no_worse_than_either_way),
        cmocka_unit_test(more_on_the_device_is_never_slower),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
