/* labels: unit */
/* Synthetic routing has the statistics of offload facts 3.3, repeats by seed, and keeps its
 * promises: distinct experts, fixed sets for token ids. */
#include "offload/synthetic_trace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support.h"

#define LAYERS  20
#define EXPERTS 256
#define TOP     6

static struct synthetic_trace *make(const char *preset, int32_t hash_layers, uint64_t seed)
{
    struct synthetic_options options = {
        .layers = LAYERS, .experts = EXPERTS, .top = TOP, .hash_layers = hash_layers, .seed = seed};
    struct synthetic_trace *trace;
    struct sl_error error;
    assert_true(synthetic_preset(preset, &options));
    assert_int_equal(synthetic_trace_create(&options, &trace, &error), SL_OK);
    return trace;
}

static void expect_near(const char *what, double value, double wanted, double tolerance)
{
    print_message("%-40s %.3f, facts %.3f\n", what, value, wanted);
    if (!(fabs(value - wanted) <= tolerance))
        fail_msg("%s: %g, expected %g within %g", what, value, wanted, tolerance);
}

static int descending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

/* Means over layers of the counts of one run. */
struct statistics {
    double distinct_13, distinct_427, distinct_502, live; /* experts of a layer */
    double covered[3];                                    /* by 8.8, 25.2 and 46.5 % of experts */
    double gini;
    double repeats; /* picks that the token before made as well */
};

static void finish_layer(const double *uses, struct statistics *out)
{
    double sorted[EXPERTS], sum = 0, weighted = 0, running = 0;
    static const double parts[3] = {0.088, 0.252, 0.465};
    memcpy(sorted, uses, sizeof sorted);
    qsort(sorted, EXPERTS, sizeof *sorted, descending);
    for (int32_t i = 0; i < EXPERTS; i++) {
        sum += sorted[i];
        weighted += sorted[i] * (EXPERTS - i);
    }
    for (int32_t i = 0, part = 0; i < EXPERTS && part < 3; i++) {
        running += sorted[i];
        if (i + 1 >= lround(parts[part] * EXPERTS)) out->covered[part++] += running / sum / LAYERS;
    }
    out->gini += (2 * weighted / (EXPERTS * sum) - (EXPERTS + 1.0) / EXPERTS) / LAYERS;
}

static void measure(const char *preset, struct statistics *out)
{
    static double uses[LAYERS][EXPERTS];
    uint16_t chosen[LAYERS * TOP], before[LAYERS * TOP] = {0};
    int32_t id;
    struct synthetic_trace *trace = make(preset, 0, 1);
    *out = (struct statistics){0};
    memset(uses, 0, sizeof uses);
    for (int32_t token = 1; token <= 14000; token++) {
        synthetic_trace_next(trace, &id, chosen);
        for (int32_t i = 0; i < LAYERS * TOP; i++) {
            int32_t layer = i / TOP;
            uses[layer][chosen[i]] += 1;
            for (int32_t k = layer * TOP; k < (layer + 1) * TOP; k++)
                out->repeats += before[k] == chosen[i] && token > 1;
        }
        memcpy(before, chosen, sizeof before);
        for (int32_t layer = 0; layer < LAYERS; layer++) {
            double distinct = 0;
            if (token == 2000) finish_layer(uses[layer], out);
            if (token != 13 && token != 427 && token != 502 && token != 14000) continue;
            for (int32_t i = 0; i < EXPERTS; i++)
                distinct += uses[layer][i] > 0;
            *(token == 13    ? &out->distinct_13
              : token == 427 ? &out->distinct_427
              : token == 502 ? &out->distinct_502
                             : &out->live) += distinct / LAYERS;
        }
    }
    out->repeats /= 14000.0 * LAYERS * TOP;
    synthetic_trace_destroy(trace);
}

static void test_the_base_preset_has_the_published_statistics(void **state)
{
    (void)state;
    struct statistics base;
    measure("base", &base);
    expect_near("distinct experts after 13 tokens", base.distinct_13, 36.5, 2.5);
    expect_near("after 427", base.distinct_427, 179, 6);
    expect_near("after 502", base.distinct_502, 188, 6);
    expect_near("live experts, 14,000 tokens", base.live, 244, 2);
    expect_near("covered by 8.8 %, 2,000 tokens", base.covered[0], 0.53, 0.04);
    expect_near("by 25.2 %", base.covered[1], 0.80, 0.04);
    expect_near("by 46.5 %", base.covered[2], 0.92, 0.03);
    expect_near("Gini", base.gini, 0.718, 0.04);
    expect_near("next-token repetition", base.repeats, 0.25, 0.03);
}

static void test_the_same_seed_makes_the_same_trace(void **state)
{
    (void)state;
    uint16_t a[LAYERS * TOP], b[LAYERS * TOP];
    int32_t id_a, id_b, differing = 0;
    struct synthetic_trace *one = make("stress", 3, 7), *same = make("stress", 3, 7);
    struct synthetic_trace *other = make("stress", 3, 8);
    for (int32_t token = 0; token < 300; token++) {
        synthetic_trace_next(one, &id_a, a);
        synthetic_trace_next(same, &id_b, b);
        assert_int_equal(id_a, id_b);
        assert_memory_equal(a, b, sizeof a);
        synthetic_trace_next(other, &id_b, b);
        differing += memcmp(a, b, sizeof a) != 0;
    }
    assert_true(differing > 290);
    synthetic_trace_destroy(one);
    synthetic_trace_destroy(same);
    synthetic_trace_destroy(other);
}

static void test_experts_are_distinct_and_ids_fix_those_of_hash_layers(void **state)
{
    (void)state;
    static uint16_t known[64][3 * TOP];
    static bool seen[64];
    int32_t again = 0;
    struct synthetic_trace *trace = make("long-topics", 3, 2);
    memset(seen, 0, sizeof seen);
    for (int32_t token = 0; token < 3000; token++) {
        uint16_t chosen[LAYERS * TOP];
        int32_t id;
        synthetic_trace_next(trace, &id, chosen);
        assert_in_range(id, 0, SYNTHETIC_VOCAB - 1);
        for (int32_t i = 0; i < LAYERS * TOP; i++) {
            assert_true(chosen[i] < EXPERTS);
            for (int32_t k = i / TOP * TOP; k < i; k++)
                assert_int_not_equal(chosen[k], chosen[i]);
        }
        if (id >= 64) continue;
        if (seen[id]) {
            assert_memory_equal(known[id], chosen, sizeof known[id]);
            again++;
        }
        memcpy(known[id], chosen, sizeof known[id]);
        seen[id] = true;
    }
    assert_true(again > 500); /* Zipf: the first ids are frequent */
    synthetic_trace_destroy(trace);
}

static void test_senseless_options_are_refused(void **state)
{
    (void)state;
    struct synthetic_options good = {.layers = 2, .experts = 32, .top = 4}, bad;
    struct synthetic_trace *trace;
    struct sl_error error;
    assert_true(synthetic_preset("base", &good));
    assert_false(synthetic_preset("bass", &good));
    bad = good, bad.top = 20;
    assert_int_equal(synthetic_trace_create(&bad, &trace, &error), SL_ERR_ARGUMENT);
    bad = good, bad.rho = 1;
    assert_int_equal(synthetic_trace_create(&bad, &trace, &error), SL_ERR_ARGUMENT);
    bad = good, bad.hash_layers = 3;
    assert_int_equal(synthetic_trace_create(&bad, &trace, &error), SL_ERR_ARGUMENT);
    bad = good, bad.tau = NAN;
    assert_int_equal(synthetic_trace_create(&bad, &trace, &error), SL_ERR_ARGUMENT);
    assert_int_equal(synthetic_trace_create(&good, &trace, &error), SL_OK);
    synthetic_trace_destroy(trace);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_base_preset_has_the_published_statistics),
        cmocka_unit_test(test_the_same_seed_makes_the_same_trace),
        cmocka_unit_test(test_experts_are_distinct_and_ids_fix_those_of_hash_layers),
        cmocka_unit_test(test_senseless_options_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
