/* labels: golden
 *
 * The published program's outputs, end to end (tests/support_golden_check.h), on the CPU. */
#include "tests/support.h"
#include "tests/support_golden_check.h"

/* ThreadSanitizer looks for races, of which a short sequence has as many as a long one, and slows
 * this down thirtyfold. */
#if defined(__SANITIZE_THREAD__)
#define TOKENS_MAX 130
#else
#define TOKENS_MAX INT32_MAX
#endif

/* One engine on a golden checkpoint, every expert in RAM. */
static sl_engine *open_engine(void *context, const char *directory, enum sl_numerics numerics)
{
    struct sl_engine_options options = sl_engine_options_default();
    struct sl_error error;
    sl_engine *engine;
    (void)context;
    options.model_dir = directory;
    options.numerics = numerics;
    options.with_mtp = true;
    options.threads = 2;
    options.context_tokens = 640;
    options.ram_bytes = 64u << 20;
    if (sl_engine_open(&options, &engine, &error) != SL_OK) fail_msg("%s", error.message);
    return engine;
}

static const struct golden_check check = {
    .open = open_engine, .tokens_max = TOKENS_MAX, .sequences_min = 3, .rows_min = 21};

static void f32_numerics_give_the_published_logits(void **state)
{
    (void)state;
    golden_check_f32(&check, "tiny-a");
    golden_check_f32(&check, "tiny-b");
}

static void exact_numerics_agree_statistically(void **state)
{
    (void)state;
    golden_check_exact(&check, "tiny-a");
    golden_check_exact(&check, "tiny-b");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f32_numerics_give_the_published_logits),
        cmocka_unit_test(exact_numerics_agree_statistically),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
