/* labels: unit */
/* Victims equal those of a plain search over all candidates, whatever the sequence of calls. */
#include "offload/residency.h"

#include <math.h>
#include <string.h>

#include "tests/support.h"

#define LAYERS  4
#define EXPERTS 12
#define COUNT   (LAYERS * EXPERTS)

struct world {
    struct heat heat;
    struct residency residency;
    int64_t next_use[COUNT];
    double uses[COUNT]; /* the oracle's LFU counts */
    bool resident[COUNT];
    int32_t holds[COUNT];
    int64_t clock;
    uint64_t random;
};

static void world_init(struct world *world, enum residency_policy policy, uint64_t seed)
{
    struct sl_error error;
    memset(world, 0, sizeof *world);
    world->random = seed;
    assert_int_equal(heat_init(&world->heat, LAYERS, EXPERTS, &error), SL_OK);
    if (policy == RESIDENCY_STATIC) /* a profile's counts */
        for (int32_t i = 0; i < COUNT; i++)
            heat_use(&world->heat, i % 7 * 5, i);
    assert_int_equal(residency_init(&world->residency, &world->heat, policy, &error), SL_OK);
    for (int32_t i = 0; i < COUNT; i++)
        world->next_use[i] = INT64_MAX;
    if (policy == RESIDENCY_CLAIRVOYANT) residency_set_future(&world->residency, world->next_use);
    world->clock = 100;
}

static void world_deinit(struct world *world)
{
    residency_deinit(&world->residency);
    heat_deinit(&world->heat);
}

static void use(struct world *world, int32_t i, int64_t gap)
{
    if (gap)
        for (int32_t k = 0; k < COUNT; k++)
            world->uses[k] *= exp2(-(double)gap / 2000);
    world->clock += gap;
    heat_use(&world->heat, i, world->clock);
    world->uses[i] += 1;
    world->next_use[i] = test_random_below(&world->random, 8) == 0
                             ? INT64_MAX
                             : world->clock + 1 + test_random_below(&world->random, 200);
}

/* Lower is evicted sooner. */
static double oracle_score(const struct world *world, int32_t i)
{
    switch (world->residency.policy) {
    case RESIDENCY_LRU:
        return world->heat.last_use[i] == HEAT_NEVER ? -1 : (double)world->heat.last_use[i];
    case RESIDENCY_LFU: return world->uses[i];
    case RESIDENCY_STATIC: return world->residency.scores[i];
    case RESIDENCY_CLAIRVOYANT:
        return world->next_use[i] == INT64_MAX
                   ? -1e18
                   : -(double)(world->next_use[i] > world->clock ? world->next_use[i]
                                                                 : world->clock + 1);
    default: return (double)heat_rate(&world->heat, i);
    }
}

static double oracle_least(const struct world *world, int32_t layer)
{
    double least = INFINITY;
    for (int32_t i = 0; i < COUNT; i++)
        if (world->resident[i] && world->holds[i] == 0 && (layer < 0 || i / EXPERTS == layer))
            least = fmin(least, oracle_score(world, i));
    return least;
}

static void toggle(struct world *world, int32_t i)
{
    if (!world->resident[i]) {
        residency_insert(&world->residency, i);
        world->resident[i] = true;
    } else if (world->holds[i] == 0 && test_random_below(&world->random, 2)) {
        residency_remove(&world->residency, i);
        world->resident[i] = false;
    } else if (world->holds[i] > 0 && test_random_below(&world->random, 2)) {
        residency_unhold(&world->residency, i);
        world->holds[i]--;
    } else {
        residency_hold(&world->residency, i);
        world->holds[i]++;
    }
}

static void check_victim(struct world *world, int32_t victim, double least, double slack)
{
    if (isinf(least)) {
        assert_int_equal(victim, -1);
        return;
    }
    assert_in_range(victim, 0, COUNT - 1);
    assert_true(world->resident[victim] && world->holds[victim] == 0);
    double score = oracle_score(world, victim);
    if (!(score <= least + slack * fabs(least) + 1e-12))
        fail_msg("%s gives way with %g, the least is %g",
                 residency_policy_name(world->residency.policy), score, least);
}

/* A layer's least score is known as of the last look, so each layer is looked at once before. */
static void test_victims_equal_those_of_a_plain_search(void **state)
{
    (void)state;
    for (int32_t policy = 0; policy < RESIDENCY_POLICIES; policy++)
        for (uint64_t seed = 1; seed <= 4; seed++) {
            struct world world;
            world_init(&world, policy, seed);
            for (int32_t step = 0; step < 4000; step++) {
                int32_t i = (int32_t)test_random_below(&world.random, COUNT);
                int32_t layer = (int32_t)test_random_below(&world.random, LAYERS);
                use(&world, i, test_random_below(&world.random, 3));
                for (int32_t k = 0; k < 2; k++)
                    toggle(&world, (int32_t)test_random_below(&world.random, COUNT));
                check_victim(&world, residency_victim_in(&world.residency, layer),
                             oracle_least(&world, layer), 1e-4);
                for (int32_t l = 0; l < LAYERS; l++) /* as a pass comes by */
                    residency_victim(&world.residency, l);
                check_victim(&world, residency_victim(&world.residency, layer),
                             oracle_least(&world, -1), 1e-4);
                if (step % 16 == 0) residency_check(&world.residency);
            }
            world_deinit(&world);
        }
}

static void test_pinned_layers_give_way_last(void **state)
{
    (void)state;
    struct world world;
    world_init(&world, RESIDENCY_LRU, 1);
    for (int32_t i = 0; i < 2 * EXPERTS; i++) {
        use(&world, i, 1);
        residency_insert(&world.residency, i);
    }
    assert_int_equal(residency_victim(&world.residency, 0), 0);
    residency_pin_layer(&world.residency, 0, true);
    for (int32_t i = EXPERTS; i < 2 * EXPERTS; i++) {
        assert_int_equal(residency_victim(&world.residency, 0), i);
        residency_remove(&world.residency, i);
    }
    assert_int_equal(residency_victim(&world.residency, 0), 0);
    world_deinit(&world);
}

static void test_an_expert_that_comes_back_is_recognised(void **state)
{
    (void)state;
    struct world world;
    world_init(&world, RESIDENCY_BLEND, 1);
    for (int32_t k = 0; k < 50; k++)
        use(&world, 1, 1);
    use(&world, 2, 1);
    residency_insert(&world.residency, 2); /* 1 is gone, but its history is not */
    assert_true(residency_value(&world.residency, 1) > residency_value(&world.residency, 2));
    assert_true(residency_admits(&world.residency, 1, 2));
    assert_false(residency_admits(&world.residency, 3, 2));
    world_deinit(&world);
}

static void test_policies_have_names(void **state)
{
    (void)state;
    for (int32_t i = 0; i < RESIDENCY_POLICIES; i++)
        assert_int_equal(residency_policy_find(residency_policy_name(i)), i);
    assert_int_equal(residency_policy_find("mru"), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_victims_equal_those_of_a_plain_search),
        cmocka_unit_test(test_pinned_layers_give_way_last),
        cmocka_unit_test(test_an_expert_that_comes_back_is_recognised),
        cmocka_unit_test(test_policies_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
