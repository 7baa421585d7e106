/* labels: unit
 * bpe: merges by rank, leftmost first, equal for short and long pieces. */
#include "tests/support.h"

#include "runtime/bpe.h"

#include <string.h>

#define LETTERS    3
#define MERGES_MAX 40

/* Ids: the byte itself for single bytes, 256 and up for results of merges. */
struct merge_list {
    int32_t left[MERGES_MAX], right[MERGES_MAX];
    int32_t count;
};

static struct bpe *make_bpe(const struct merge_list *merges)
{
    int32_t byte_ids[256];
    for (int32_t i = 0; i < 256; i++)
        byte_ids[i] = i;
    struct bpe *bpe = NULL;
    assert_int_equal(bpe_create((size_t)merges->count, byte_ids, &bpe), SL_OK);
    for (int32_t i = 0; i < merges->count; i++)
        assert_true(bpe_add(bpe, merges->left[i], merges->right[i], i, 256 + i));
    return bpe;
}

/* Random merges of tokens there are so far, no pair twice. */
static struct merge_list random_merges(uint64_t *state, int32_t count)
{
    struct merge_list merges = {.count = 0};
    while (merges.count < count) {
        int32_t pair[2];
        for (int32_t i = 0; i < 2; i++) {
            int32_t idx = (int32_t)test_random_below(state, (uint32_t)(LETTERS + merges.count));
            pair[i] = idx < LETTERS ? 'a' + idx : 256 + idx - LETTERS;
        }
        bool known = false;
        for (int32_t i = 0; i < merges.count; i++)
            known = known || (merges.left[i] == pair[0] && merges.right[i] == pair[1]);
        if (known) continue;
        merges.left[merges.count] = pair[0];
        merges.right[merges.count++] = pair[1];
    }
    return merges;
}

/* The definition, word for word: for the lowest rank there is, join its leftmost pair; again. */
static size_t join_plainly(const struct merge_list *merges, int32_t *ids, size_t count)
{
    for (int32_t rank = 0; rank < merges->count;) {
        size_t at = 0;
        while (at + 1 < count &&
               (ids[at] != merges->left[rank] || ids[at + 1] != merges->right[rank]))
            at++;
        if (at + 1 >= count) {
            rank++;
            continue;
        }
        ids[at] = 256 + rank;
        memmove(ids + at + 1, ids + at + 2, (count - at - 2) * sizeof *ids);
        count--;
        rank = 0;
    }
    return count;
}

static void pieces_of_all_lengths_join_as_the_definition_says(void **state)
{
    (void)state;
    enum { LENGTH_MAX = 400 };
    for (uint64_t seed = 1; seed <= 400; seed++) {
        uint64_t random = seed;
        struct merge_list merges = random_merges(&random, 1 + (int32_t)(seed % MERGES_MAX));
        struct bpe *bpe = make_bpe(&merges);
        size_t length = test_random_below(&random, seed % 2 ? 70 : LENGTH_MAX);
        uint32_t letters = 1 + test_random_below(&random, LETTERS);
        char piece[LENGTH_MAX];
        int32_t expected[LENGTH_MAX];
        for (size_t i = 0; i < length; i++)
            expected[i] = piece[i] = (char)('a' + test_random_below(&random, letters));
        size_t count = join_plainly(&merges, expected, length);

        struct bpe_ids ids = {0};
        assert_int_equal(bpe_encode(bpe, piece, length, &ids), SL_OK);
        if (ids.count != count ||
            (count > 0 && memcmp(ids.ids, expected, count * sizeof *expected) != 0))
            fail_msg("seed %llu differs", (unsigned long long)seed);
        free(ids.ids);
        bpe_destroy(bpe);
    }
}

static void encode_appends_to_what_is_there(void **state)
{
    (void)state;
    struct merge_list merges = {{'a'}, {'b'}, 1};
    struct bpe *bpe = make_bpe(&merges);
    struct bpe_ids ids = {0};
    assert_int_equal(bpe_encode(bpe, "abc", 3, &ids), SL_OK);
    assert_int_equal(bpe_encode(bpe, "cab", 3, &ids), SL_OK);
    const int32_t expected[] = {256, 'c', 'c', 256};
    assert_int_equal(ids.count, 4);
    assert_memory_equal(ids.ids, expected, sizeof expected);
    free(ids.ids);
    bpe_destroy(bpe);
}

static void a_pair_is_added_once(void **state)
{
    (void)state;
    int32_t byte_ids[256] = {0};
    struct bpe *bpe = NULL;
    assert_int_equal(bpe_create(2, byte_ids, &bpe), SL_OK);
    assert_true(bpe_add(bpe, 1, 2, 0, 3));
    assert_false(bpe_add(bpe, 1, 2, 1, 4));
    assert_true(bpe_add(bpe, 2, 1, 1, 4));
    bpe_destroy(bpe);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_of_all_lengths_join_as_the_definition_says),
        cmocka_unit_test(encode_appends_to_what_is_there),
        cmocka_unit_test(a_pair_is_added_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
