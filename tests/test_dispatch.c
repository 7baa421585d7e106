/* labels: unit */
/* Choices are as good as the best of all assignments and orders, respect what is forbidden or
 * broken, and agree with the times they promise. */
#include "offload/dispatch.h"

#include <math.h>
#include <string.h>

#include "tests/support.h"

#define COUNT_MAX 5

/* The oracle tries every assignment, and every order of everything on every lane: first the reads,
 * then one order of all experts, from which each lane takes its own. */
struct oracle {
    const struct dispatch_problem *problem;
    int32_t order[COUNT_MAX], reads[COUNT_MAX];
    bool stream[COUNT_MAX];
    double best;
};

static void try_order(struct oracle *oracle)
{
    const struct dispatch_problem *problem = oracle->problem;
    const struct rates *rates = problem->rates;
    double ready[COUNT_MAX];
    int32_t reads = 0, streams = 0, cpus = 0, runs = 0;
    for (int32_t i = 0; i < problem->count; i++) {
        const struct dispatch_expert *expert = &problem->experts[i];
        ready[i] = (double)expert->arrival_ns;
        reads += expert->place == DISPATCH_AT_DISK;
        runs += expert->place == DISPATCH_AT_DEVICE;
        if (expert->place == DISPATCH_AT_DEVICE) continue;
        *(oracle->stream[i] ? &streams : &cpus) += 1;
    }
    if (streams > problem->streams_max) return;
    double disk = (double)problem->lanes.disk_ns;
    for (int32_t k = 0; k < problem->count; k++)
        if (problem->experts[oracle->reads[k]].place == DISPATCH_AT_DISK)
            ready[oracle->reads[k]] = disk +=
                rates_disk_ns(rates, reads + problem->lanes.disk_in_flight);
    bool shared = streams > 0 && cpus > 0;
    double up = (double)problem->lanes.up_ns + rates_layer_ns(rates, RATES_UP);
    double cpu = (double)problem->lanes.cpu_ns + rates_layer_ns(rates, RATES_CPU);
    double device = (double)problem->lanes.device_ns + rates_layer_ns(rates, RATES_DEVICE);
    double finish = 0;
    for (int32_t k = 0; k < problem->count; k++) {
        int32_t i = oracle->order[k];
        const struct dispatch_expert *expert = &problem->experts[i];
        bool run = expert->place == DISPATCH_AT_DEVICE;
        if (!run && !oracle->stream[i]) {
            cpu = fmax(cpu, ready[i]) + rates_expert_ns(rates, RATES_CPU, expert->tokens, shared);
            finish = fmax(finish, cpu);
            continue;
        }
        if (!run) ready[i] = up = fmax(up, ready[i]) + rates_expert_ns(rates, RATES_UP, 1, shared);
        device =
            fmax(device, ready[i]) + rates_expert_ns(rates, RATES_DEVICE, expert->tokens, false);
        finish = fmax(finish, device);
    }
    oracle->best = fmin(oracle->best, finish);
}

static void permute(struct oracle *oracle, int32_t *list, int32_t from, bool reads)
{
    int32_t count = oracle->problem->count;
    if (from == count) {
        if (reads)
            permute(oracle, oracle->order, 0, false);
        else
            try_order(oracle);
        return;
    }
    for (int32_t i = from; i < count; i++) {
        int32_t kept = list[from];
        list[from] = list[i], list[i] = kept;
        permute(oracle, list, from + 1, reads);
        kept = list[from], list[from] = list[i], list[i] = kept;
    }
}

static double brute_force(const struct dispatch_problem *problem)
{
    struct oracle oracle = {.problem = problem, .best = INFINITY};
    bool any_read = false;
    for (int32_t i = 0; i < problem->count; i++) {
        oracle.order[i] = oracle.reads[i] = i;
        any_read = any_read || problem->experts[i].place == DISPATCH_AT_DISK;
    }
    for (uint32_t mask = 0; mask < 1u << problem->count; mask++) {
        for (int32_t i = 0; i < problem->count; i++)
            oracle.stream[i] = (mask >> i) & 1;
        permute(&oracle, any_read ? oracle.reads : oracle.order, 0, any_read);
    }
    return oracle.best;
}

static void make_rates(struct rates *rates, double link, double cpu, double disk)
{
    struct rates_profile profile;
    struct sl_error error;
    const struct rates_machine machine = {
        .device = 0.95e12, .link = link, .cpu = cpu, .disk = disk, .memory = 0.9 * (link + cpu)};
    rates_profile_make(&profile, 13369344, &machine);
    assert_int_equal(rates_init(rates, &profile, &error), SL_OK);
}

static int32_t random_experts(uint64_t *random, int32_t count_max, struct dispatch_expert *experts)
{
    int32_t count = 1 + (int32_t)test_random_below(random, (uint32_t)count_max);
    bool alike = test_random_below(random, 2);
    for (int32_t i = 0; i < count; i++) {
        experts[i] = (struct dispatch_expert){
            .expert_idx = i,
            .tokens = alike ? 1 : 1 + (int32_t)test_random_below(random, 12),
            .place = test_random_below(random, 4) == 0 ? DISPATCH_AT_DISK
                                                       : 1 + test_random_below(random, 2)};
        if (experts[i].place != DISPATCH_AT_DISK && test_random_below(random, 3) == 0)
            experts[i].arrival_ns = test_random_below(random, 600000);
    }
    return count;
}

static void test_layers_end_within_5_percent_of_the_optimum(void **state)
{
    (void)state;
    uint64_t random = 11;
    double worst = 1, sum = 0;
    int32_t cases = 600;
    for (int32_t step = 0; step < cases; step++) {
        struct rates rates;
        struct dispatch_expert experts[COUNT_MAX];
        struct dispatch_decision decisions[COUNT_MAX];
        const double links[] = {12e9, 26e9, 52e9}, cpus[] = {30e9, 100e9, 200e9, 330e9};
        make_rates(&rates, links[test_random_below(&random, 3)],
                   cpus[test_random_below(&random, 4)], 7e9);
        struct dispatch_problem problem = {
            .rates = &rates,
            .experts = experts,
            .count = random_experts(&random, step % 20 ? 4 : COUNT_MAX, experts),
            .streams_max = (int32_t)test_random_below(&random, 7),
            .lanes = {.up_ns = test_random_below(&random, 2) * 200000,
                      .cpu_ns = test_random_below(&random, 2) * 100000}};
        double finish = (double)dispatch_choose(&problem, decisions), best = brute_force(&problem);
        assert_true(finish >= best - 2); /* the oracle is a bound */
        worst = fmax(worst, finish / best);
        sum += finish / best;
    }
    print_message("against brute force, %d cases: mean %.4f, worst %.4f\n", cases, sum / cases,
                  worst);
    assert_true(worst <= 1.05);
}

static void test_promised_times_hold_together(void **state)
{
    (void)state;
    uint64_t random = 12;
    for (int32_t step = 0; step < 500; step++) {
        enum { MANY = 60 };
        struct rates rates;
        struct dispatch_expert experts[MANY];
        struct dispatch_decision decisions[MANY];
        make_rates(&rates, 52e9, 150e9, 7e9);
        struct dispatch_problem problem = {.rates = &rates,
                                           .experts = experts,
                                           .count = random_experts(&random, MANY, experts),
                                           .streams_max = 8};
        int64_t finish = dispatch_choose(&problem, decisions), last = 0;
        int32_t streams = 0;
        for (int32_t i = 0; i < problem.count; i++) {
            const struct dispatch_decision *d = &decisions[i];
            bool read = d->choice == DISPATCH_READ_STREAM || d->choice == DISPATCH_READ_CPU;
            assert_int_equal(read, experts[i].place == DISPATCH_AT_DISK);
            assert_int_equal(d->choice == DISPATCH_RUN, experts[i].place == DISPATCH_AT_DEVICE);
            streams += d->choice == DISPATCH_STREAM || d->choice == DISPATCH_READ_STREAM;
            assert_true(d->ready_ns >= experts[i].arrival_ns && d->start_ns >= d->ready_ns);
            assert_true(d->finish_ns > d->start_ns);
            if (d->finish_ns > last) last = d->finish_ns;
        }
        assert_true(streams <= 8);
        assert_in_range(finish, last, last + 1);
    }
}

static void test_many_equal_misses_are_shared_by_the_lanes_rates(void **state)
{
    (void)state;
    struct rates rates;
    struct dispatch_expert experts[30];
    struct dispatch_decision decisions[30];
    make_rates(&rates, 50e9, 100e9, 0);
    for (int32_t i = 0; i < 30; i++)
        experts[i] = (struct dispatch_expert){i, 1, DISPATCH_AT_HOST, 0};
    struct dispatch_problem problem = {
        .rates = &rates, .experts = experts, .count = 30, .streams_max = 30};
    int64_t both = dispatch_choose(&problem, decisions);
    int32_t streams = 0;
    for (int32_t i = 0; i < 30; i++)
        streams += decisions[i].choice == DISPATCH_STREAM;
    assert_in_range(streams, 10, 13); /* 50 of 135 GB/s together */
    problem.rule = DISPATCH_ALWAYS_STREAM;
    assert_true(dispatch_choose(&problem, decisions) > both);
    problem.rule = DISPATCH_ALWAYS_CPU;
    assert_true(dispatch_choose(&problem, decisions) > both);
}

static void test_lanes_that_are_down_are_not_used(void **state)
{
    (void)state;
    struct rates rates;
    struct dispatch_expert experts[] = {{0, 1, DISPATCH_AT_HOST, 0}, {1, 1, DISPATCH_AT_HOST, 0}};
    struct dispatch_decision decisions[2];
    struct dispatch_problem problem = {.rates = &rates, .experts = experts, .count = 2};
    make_rates(&rates, 52e9, 150e9, 0);
    rates_set_down(&rates, RATES_CPU, "test");
    assert_true(dispatch_choose(&problem, decisions) > 0); /* whatever streams_max says */
    assert_int_equal(decisions[0].choice, DISPATCH_STREAM);
    assert_int_equal(decisions[1].choice, DISPATCH_STREAM);
    rates_set_down(&rates, RATES_CPU, NULL);
    rates_set_down(&rates, RATES_UP, "test");
    problem.streams_max = 2;
    problem.rule = DISPATCH_ALWAYS_STREAM;
    assert_true(dispatch_choose(&problem, decisions) > 0);
    assert_int_equal(decisions[0].choice, DISPATCH_CPU);
    rates_set_down(&rates, RATES_CPU, "test");
    assert_int_equal(dispatch_choose(&problem, decisions), -1);
    rates_set_down(&rates, RATES_CPU, NULL);
    experts[1].place = DISPATCH_AT_DISK; /* and there is no disk */
    assert_int_equal(dispatch_choose(&problem, decisions), -1);
    problem.count = 0;
    assert_int_equal(dispatch_choose(&problem, decisions), 0);
}

static void test_choices_have_names(void **state)
{
    (void)state;
    assert_string_equal(dispatch_choice_name(DISPATCH_RUN), "device");
    assert_string_equal(dispatch_choice_name(DISPATCH_READ_CPU), "read+cpu");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layers_end_within_5_percent_of_the_optimum),
        cmocka_unit_test(test_promised_times_hold_together),
        cmocka_unit_test(test_many_equal_misses_are_shared_by_the_lanes_rates),
        cmocka_unit_test(test_lanes_that_are_down_are_not_used),
        cmocka_unit_test(test_choices_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
