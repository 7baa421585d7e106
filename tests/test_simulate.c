/* labels: unit */
/* The simulator counts what a plain cache would, keeps its books, and orders machines as they are.
 */
#include "offload/simulate.h"
#include "offload/synthetic_trace.h"

#include <math.h>
#include <string.h>

#include "tests/support.h"

#define LAYERS  4
#define EXPERTS 64
#define TOP     4
#define BYTES   13369344

static bool next_token(void *context, int32_t *token_id, uint16_t *chosen)
{
    synthetic_trace_next(context, token_id, chosen);
    return true;
}

static struct synthetic_trace *make_trace(const char *preset, int32_t hash_layers)
{
    struct synthetic_options options = {
        .layers = LAYERS, .experts = EXPERTS, .top = TOP, .hash_layers = hash_layers, .seed = 5};
    struct synthetic_trace *trace;
    struct sl_error error;
    assert_true(synthetic_preset(preset, &options));
    assert_int_equal(synthetic_trace_create(&options, &trace, &error), SL_OK);
    return trace;
}

static struct simulate_options make_options(void)
{
    struct simulate_options options = {.layers = LAYERS,
                                       .experts = EXPERTS,
                                       .top = TOP,
                                       .device_slots = LAYERS * 16,
                                       .host_slots = LAYERS * (EXPERTS - 16),
                                       .timed = true,
                                       .dense_ns = LAYERS * 1e5,
                                       .warm_tokens = 500,
                                       .tokens = 1500,
                                       .seed = 1};
    const struct rates_machine machine = {2e12, 52e9, 150e9, 7e9, 178e9};
    rates_profile_make(&options.profile, BYTES, &machine);
    return options;
}

static struct simulate_result run(const struct simulate_options *options, const char *preset)
{
    struct synthetic_trace *trace = make_trace(preset, options->hash_layers);
    struct simulate_result result;
    struct sl_error error;
    enum sl_status status = simulate_run(options, next_token, trace, &result, &error);
    if (status != SL_OK) fail_msg("%s", error.message);
    synthetic_trace_destroy(trace);
    return result;
}

/* Sequential LRU over each layer's accesses, by the definition. */
static void test_lru_counts_as_a_plain_cache_does(void **state)
{
    (void)state;
    enum { SLOTS = 12 };
    struct simulate_options options = make_options();
    options.timed = false, options.by_layer = true, options.in_turn = true;
    options.policy = RESIDENCY_LRU;
    options.device_slots = SLOTS * LAYERS;
    options.warm_tokens = 0, options.tokens = 800;
    struct simulate_result result = run(&options, "base");

    struct synthetic_trace *trace = make_trace("base", 0);
    int32_t recent[LAYERS][SLOTS], counts[LAYERS] = {0}, id;
    uint64_t hits = 0;
    for (int32_t token = 0; token < 800; token++) {
        uint16_t chosen[LAYERS * TOP];
        synthetic_trace_next(trace, &id, chosen);
        for (int32_t i = 0; i < LAYERS * TOP; i++) {
            int32_t *list = recent[i / TOP], *count = &counts[i / TOP], at = 0;
            while (at < *count && list[at] != chosen[i])
                at++;
            hits += at < *count;
            if (at == *count && *count < SLOTS) ++*count;
            if (at == SLOTS) at = SLOTS - 1;
            memmove(list + 1, list, (size_t)at * sizeof *list);
            list[0] = chosen[i];
        }
    }
    synthetic_trace_destroy(trace);
    assert_int_equal(result.accesses, 800 * LAYERS * TOP);
    /* Within a token the token clock cannot tell what was used first. */
    assert_in_range(result.device_hits, hits * 98 / 100, hits * 102 / 100);
}

static void test_the_default_beats_lru_and_lfu_and_nothing_beats_foresight(void **state)
{
    (void)state;
    static const char *const presets[] = {"base", "stress"};
    static const int32_t slots[] = {6, 12, 24};
    for (size_t p = 0; p < 2; p++)
        for (size_t s = 0; s < 3; s++) {
            double rates[RESIDENCY_POLICIES];
            for (int32_t policy = 0; policy < RESIDENCY_POLICIES; policy++) {
                struct simulate_options options = make_options();
                options.timed = false, options.by_layer = true;
                options.policy = policy;
                options.device_slots = slots[s] * LAYERS;
                options.warm_tokens = 2000, options.tokens = 4000;
                struct simulate_result result = run(&options, presets[p]);
                rates[policy] = simulate_hit_rate(&result);
            }
            assert_true(rates[RESIDENCY_BLEND] >= rates[RESIDENCY_LRU] - 0.005);
            assert_true(rates[RESIDENCY_BLEND] >= rates[RESIDENCY_LFU] - 0.005);
            assert_true(rates[RESIDENCY_CLAIRVOYANT] > rates[RESIDENCY_BLEND]);
        }
}

static void test_books_balance(void **state)
{
    (void)state;
    for (int32_t way = 0; way < 16; way++) {
        struct simulate_options options = make_options();
        options.inclusive = way & 1;
        options.hash_layers = way & 2 ? 1 : 0;
        options.hash_exact = way & 2;
        options.ahead[0] = (struct simulate_ahead){way & 4 ? 0.5 : 0, 0.7};
        if (way & 8) options.host_slots /= 3; /* some on disk */
        struct simulate_result r = run(&options, "stress");
        assert_int_equal(r.tokens, 1500);
        assert_int_equal(r.accesses, r.tokens * LAYERS * TOP);
        assert_int_equal(r.device_hits + r.in_flight + r.from_host + r.from_disk, r.accesses);
        uint64_t computed = 0;
        for (int32_t i = 0; i < DISPATCH_CHOICES; i++)
            computed += r.choices[i];
        assert_int_equal(computed, r.accesses);
        assert_true((r.from_disk == 0) == (r.choices[DISPATCH_READ_CPU] == 0 &&
                                           r.choices[DISPATCH_READ_STREAM] == 0) ||
                    r.from_disk > 0);
        if (!(way & 9)) assert_int_equal(r.from_disk + r.bytes_disk, 0); /* nothing is lost */
        if (options.ahead[0].recall <= 0 && !options.hash_exact)
            assert_int_equal(r.guesses.started, 0);
        assert_true(r.token_p50_ns <= r.token_p99_ns && r.token_p50_ns >= options.dense_ns);
        assert_true(r.tokens_per_second > 0 && r.stall_ns < r.total_ns);
        double lost = 0;
        for (int32_t i = 0; i < SIMULATE_LOST_COUNT; i++) {
            assert_true(r.lost_ns[i] >= 0);
            lost += r.lost_ns[i];
        }
        assert_true(fabs(lost - r.stall_ns) <= 1e-6 * r.stall_ns);
        assert_true((r.lost_ns[SIMULATE_LOST_DISK] > 0) == (r.from_disk > 0));
    }
}

static void test_better_machines_are_faster(void **state)
{
    (void)state;
    struct simulate_options options = make_options();
    const struct rates_machine slow_link = {2e12, 13e9, 0, 7e9, 0},
                               no_cpu = {2e12, 52e9, 0, 7e9, 0};
    struct simulate_result both = run(&options, "stress");
    rates_profile_make(&options.profile, BYTES, &no_cpu);
    struct simulate_result stream = run(&options, "stress");
    rates_profile_make(&options.profile, BYTES, &slow_link);
    struct simulate_result slow = run(&options, "stress");
    assert_true(both.tokens_per_second > stream.tokens_per_second);
    assert_true(stream.tokens_per_second > slow.tokens_per_second);
    assert_int_equal(stream.choices[DISPATCH_CPU], 0);
    options.host_slots = LAYERS * 8;
    struct simulate_result disk = run(&options, "stress");
    assert_true(disk.tokens_per_second < slow.tokens_per_second && disk.from_disk > 0);
    options = make_options();
    options.device_slots = LAYERS * EXPERTS, options.host_slots = 0;
    struct simulate_result all = run(&options, "stress");
    assert_int_equal(all.device_hits, all.accesses);
    assert_true(all.stall_ns < 1);
}

static void test_prefetch_hides_what_the_link_has_time_for(void **state)
{
    (void)state;
    struct simulate_options options = make_options();
    const struct rates_machine no_cpu = {2e12, 52e9, 0, 0, 0};
    rates_profile_make(&options.profile, BYTES, &no_cpu);
    options.dense_ns = LAYERS * 2e6; /* ample */
    struct simulate_result without = run(&options, "stress");
    options.ahead[0] = (struct simulate_ahead){1, 1};
    struct simulate_result with = run(&options, "stress");
    assert_true(with.stall_ns < 0.5 * without.stall_ns);
    assert_true(with.guesses.useful > 10 * with.guesses.wasted);
}

static void what_comes_too_late_from_one_layer_ahead_is_there_from_two(void **state)
{
    (void)state;
    struct simulate_options options = make_options();
    options.dense_ns = LAYERS * 1.5e5; /* a copy takes 2.6e5 */
    struct simulate_result none = run(&options, "stress");
    options.ahead[0] = (struct simulate_ahead){1, 0.9};
    struct simulate_result one = run(&options, "stress");
    options.ahead[1] = (struct simulate_ahead){1, 0.9};
    struct simulate_result two = run(&options, "stress");
    assert_true(two.device_hits > one.device_hits && one.stall_ns < none.stall_ns);
    assert_true(two.guesses.useful > 1000 + one.guesses.useful);
    assert_true(two.stall_ns < 0.9 * one.stall_ns);
    options.ahead[1].recall = 0.5;
    struct simulate_result some = run(&options, "stress");
    assert_true(some.stall_ns > two.stall_ns && some.stall_ns < one.stall_ns);
    options.look_ns = 1e5; /* known too late */
    struct simulate_result slow = run(&options, "stress");
    assert_true(slow.guesses.useful < some.guesses.useful);
}

/* However busy the links are, however many guesses are wrong. */
static void guesses_cost_next_to_nothing(void **state)
{
    (void)state;
    static const double disks[] = {0.5e9, 2e9, 7e9, 14e9}, precisions[] = {0.1, 0.5, 0.8};
    struct simulate_options options = make_options();
    double worst = 1;
    for (size_t disk = 0; disk < SL_COUNT_OF(disks); disk++)
        for (int32_t host_slots = 8; host_slots <= 40; host_slots += 16) {
            const struct rates_machine machine = {2e12, 26e9, 100e9, disks[disk], 110e9};
            rates_profile_make(&options.profile, BYTES, &machine);
            options.host_slots = LAYERS * host_slots;
            options.ahead[0] = options.ahead[1] = (struct simulate_ahead){0};
            double without = run(&options, "stress").tokens_per_second;
            for (size_t i = 0; i < SL_COUNT_OF(precisions); i++) {
                options.ahead[0] = (struct simulate_ahead){0.46, precisions[i]};
                options.ahead[1] = (struct simulate_ahead){0.36, precisions[i]};
                worst = fmin(worst, run(&options, "stress").tokens_per_second / without);
            }
        }
    if (worst < 0.97) fail_msg("guesses lower the speed to %.3f of it", worst);
}

static bool three_tokens(void *context, int32_t *token_id, uint16_t *chosen)
{
    int32_t *left = context;
    *token_id = 0;
    for (int32_t i = 0; i < LAYERS * TOP; i++)
        chosen[i] = (uint16_t)(i % TOP);
    return (*left)-- > 0;
}

static void test_ends_and_refusals(void **state)
{
    (void)state;
    struct simulate_options options = make_options();
    struct simulate_result result;
    struct sl_error error;
    int32_t left = 3;
    assert_int_equal(simulate_run(&options, three_tokens, &left, &result, &error), SL_ERR_LIMIT);
    options.warm_tokens = 1;
    left = 3;
    assert_int_equal(simulate_run(&options, three_tokens, &left, &result, &error), SL_OK);
    assert_int_equal(result.tokens, 2);
    options.ahead[1] = (struct simulate_ahead){0.5, 0};
    assert_int_equal(simulate_run(&options, three_tokens, &left, &result, &error), SL_ERR_ARGUMENT);
    options = make_options();
    options.device_slots = TOP - 1;
    assert_int_equal(simulate_run(&options, three_tokens, &left, &result, &error), SL_ERR_ARGUMENT);
    options = make_options();
    options.profile.lanes[RATES_DISK] = (struct rate){0};
    options.host_slots--;
    assert_int_equal(simulate_run(&options, three_tokens, &left, &result, &error), SL_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "disk"));
}

static void no_schedule_beats_the_bounds(void **state)
{
    (void)state;
    struct simulate_options options = make_options();
    double up_ns = BYTES / 52e9 * 1e9, cpu_ns = BYTES / 150e9 * 1e9;
    /* One expert goes where it is done sooner; the device's own are computed meanwhile. */
    assert_true(fabs(simulate_layer_least_ns(&options, 3, 1, 0) - cpu_ns) < 1);
    /* Of many, the link takes its share. */
    double all_ns = simulate_layer_least_ns(&options, 0, 60, 0);
    assert_true(all_ns < 60 * cpu_ns && all_ns > 60.0 * BYTES / 178e9 * 1e9 - 1);
    assert_true(simulate_layer_least_ns(&options, 0, 0, 2) > 2 * BYTES / 7e9 * 1e9 - 1);
    assert_true(simulate_layer_least_ns(&options, 0, 0, 0) == 0);
    options.profile.lanes[RATES_CPU] = (struct rate){0};
    assert_true(fabs(simulate_layer_least_ns(&options, 0, 2, 0) - 2 * up_ns) < 1);
    options.device_slots = 0;
    assert_true(isinf(simulate_layer_least_ns(&options, 0, 1, 0)));

    for (int32_t with_cpu = 0; with_cpu < 2; with_cpu++) {
        options = make_options();
        if (!with_cpu) options.profile.lanes[RATES_CPU] = (struct rate){0};
        struct simulate_result result = run(&options, "base");
        assert_true(result.tokens_per_second <= result.bound_by_layer);
        assert_true(result.bound_by_layer <= result.bound * (1 + 1e-9));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lru_counts_as_a_plain_cache_does),
        cmocka_unit_test(test_the_default_beats_lru_and_lfu_and_nothing_beats_foresight),
        cmocka_unit_test(test_books_balance),
        cmocka_unit_test(test_better_machines_are_faster),
        cmocka_unit_test(test_prefetch_hides_what_the_link_has_time_for),
        cmocka_unit_test(guesses_cost_next_to_nothing),
        cmocka_unit_test(what_comes_too_late_from_one_layer_ahead_is_there_from_two),
        cmocka_unit_test(test_ends_and_refusals),
        cmocka_unit_test(no_schedule_beats_the_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
