/* labels: unit */
/* The memory plan on machines of several sizes. */
#include "runtime/budget.h"
#include "runtime/pack.h"
#include "tests/support.h"
#include "tests/support_golden.h"

#include <stdlib.h>
#include <string.h>

struct fixture {
    char *directory;
    struct model *model;
    struct model_file *packed;
    struct expert_source source;
};

static struct budget plan(const struct fixture *f, uint64_t ram_bytes, uint64_t available_bytes)
{
    struct budget_request request = {.model = f->model,
                                     .source = &f->source,
                                     .ram_bytes = ram_bytes,
                                     .available_bytes = available_bytes};
    struct budget budget;
    struct sl_error error;
    if (budget_plan(&request, &budget, &error) != SL_OK) fail_msg("%s", error.message);
    return budget;
}

#define PLENTY (1ull << 40)

static void more_ram_than_experts_is_not_taken(void **state)
{
    const struct fixture *f = *state;
    struct budget budget = plan(f, PLENTY / 2, PLENTY);
    assert_true(budget.fits);
    assert_int_equal(budget.slots, budget.experts_total);
    assert_int_equal(budget.expert_ram_bytes, budget.expert_disk_bytes + budget.staging_bytes);
    assert_string_equal(budget.notice, "");
}

static void a_small_machine_gives_fewer_slots_and_says_so(void **state)
{
    const struct fixture *f = *state;
    struct budget whole = plan(f, PLENTY / 2, PLENTY);
    uint64_t rest = whole.session_bytes + whole.workspace_bytes;
    struct budget least = plan(f, 0, rest + whole.expert_ram_min_bytes);
    struct budget asked = plan(f, whole.expert_ram_bytes, rest + whole.expert_ram_min_bytes);
    assert_true(least.fits && asked.fits);
    assert_int_equal(asked.expert_ram_bytes, whole.expert_ram_min_bytes);
    assert_int_equal(asked.slots, whole.slots_min);
    assert_non_null(strstr(asked.notice, "free memory"));
    assert_string_equal(least.notice, ""); /* nothing was asked for */

    struct budget half = plan(f, whole.expert_ram_bytes, rest + whole.expert_ram_bytes / 2);
    assert_true(half.fits);
    assert_in_range(half.slots, whole.slots_min, whole.slots - 1);
    assert_int_equal(half.expert_ram_bytes, whole.expert_ram_bytes / 2);
}

static void a_machine_that_cannot_run_a_token_is_refused(void **state)
{
    const struct fixture *f = *state;
    struct budget whole = plan(f, PLENTY / 2, PLENTY);
    uint64_t rest = whole.session_bytes + whole.workspace_bytes;
    struct budget budget = plan(f, whole.expert_ram_bytes, rest + whole.expert_ram_min_bytes - 1);
    assert_false(budget.fits);
    assert_non_null(strstr(budget.advice, "lower --ram or --ctx"));
    budget = plan(f, whole.expert_ram_min_bytes - 1, PLENTY);
    assert_false(budget.fits);
    assert_non_null(strstr(budget.advice, "give --ram "));
}

static void what_is_spare_lies_beside_the_plan_and_a_reserve(void **state)
{
    const struct fixture *f = *state;
    struct budget budget = plan(f, PLENTY / 2, PLENTY);
    uint64_t taken = budget.session_bytes + budget.workspace_bytes + budget.expert_ram_bytes;
    assert_true(budget_spares(&budget, budget.dense_bytes));
    assert_true(budget_spares(&budget, PLENTY - taken - (1ull << 30)));
    assert_false(budget_spares(&budget, PLENTY - taken - (1ull << 30) + 1));
    budget.available_bytes = 0; /* nobody says */
    assert_false(budget_spares(&budget, 0));
}

static int make_fixture(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct sl_error error;
    assert_non_null(f);
    *state = f;
    f->directory = golden_directory("tiny-a");
    struct model_open_options open = {.directory = f->directory};
    struct sl_engine_options options = {.model_dir = f->directory, .experts_file = ""};
    if (model_open(&open, &f->model, &error) != SL_OK ||
        pack_open_source(f->model, &options, &f->packed, &f->source, &error) != SL_OK)
        fail_msg("%s", error.message);
    return 0;
}

static int remove_fixture(void **state)
{
    struct fixture *f = *state;
    model_file_close(f->packed);
    model_close(f->model);
    free(f->directory);
    free(f);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(more_ram_than_experts_is_not_taken),
        cmocka_unit_test(a_small_machine_gives_fewer_slots_and_says_so),
        cmocka_unit_test(a_machine_that_cannot_run_a_token_is_refused),
        cmocka_unit_test(what_is_spare_lies_beside_the_plan_and_a_reserve),
    };
    return cmocka_run_group_tests(tests, make_fixture, remove_fixture);
}
