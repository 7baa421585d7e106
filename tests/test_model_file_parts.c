/* labels: fault */
/* Packed experts in several files: the parts of a set are written, interrupted, joined in any order
 * and hold every expert once; what does not belong together is refused by name. */
#include "offload/file_range.h"
#include "offload/model_file.h"
#include "tests/support.h"
#include "tests/support_packed.h"

#include <string.h>
#include <unistd.h>

#define SEED 5

static const struct model_file_spec spec = {
    .layers = 3, .experts = 5, .slot_bytes = 4096, .fingerprint = 77};

struct folder {
    char *directory;
    char *paths[MODEL_FILE_PARTS_MAX + 1];
};

static int setup(void **state)
{
    struct folder *folder = calloc(1, sizeof *folder);
    assert_non_null(folder);
    folder->directory = test_make_directory("parts");
    for (int32_t i = 0; i <= MODEL_FILE_PARTS_MAX; i++) {
        char name[16];
        snprintf(name, sizeof name, "file-%d", i);
        folder->paths[i] = test_path(folder->directory, name);
    }
    *state = folder;
    return 0;
}

static int teardown(void **state)
{
    struct folder *folder = *state;
    test_remove_tree(folder->directory);
    for (int32_t i = 0; i <= MODEL_FILE_PARTS_MAX; i++)
        free(folder->paths[i]);
    free(folder->directory);
    free(folder);
    return 0;
}

static struct model_file_spec part_of(const struct model_file_spec *whole, int32_t part,
                                      int32_t parts)
{
    struct model_file_spec made = *whole;
    made.part = part, made.parts = parts;
    return made;
}

/* Writes part `part` of `parts` of `whole` (0 of 0: all) to `path`. */
static void write_part(const char *path, const struct model_file_spec *whole, int32_t part,
                       int32_t parts)
{
    struct model_file_spec made = part_of(whole, part, parts);
    assert_int_equal(packed_write(path, &made, SEED, 4, -1, NULL, NULL), SL_OK);
    packed_assert_whole(path, &made, SEED);
}

static struct model_file *open_one(const char *path)
{
    struct model_file *file = NULL;
    struct sl_error error = {.message = ""};
    if (model_file_open(path, false, &file, &error) != SL_OK) fail_msg("%s", error.message);
    return file;
}

/* ---- format ------------------------------------------------------------------------------- */

static void the_head_of_a_part_is_written_as_documented(void **state)
{
    const struct folder *folder = *state;
    static const uint8_t expected[] = {
        3, 0,    0, 0, 5, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, /* 16: layers, experts, 4096 */
        0, 0x10, 0, 0, 0, 0, 0, 0,                            /* index at 4096 */
        0, 0x20, 0, 0, 0, 0, 0, 0,                            /* data at 8192 */
        0, 0x60, 0, 0, 0, 0, 0, 0,                            /* 8192 + 4 * 4096 */
    };
    static const uint8_t expected_part[] = {3, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0};
    size_t bytes;
    write_part(folder->paths[0], &spec, 2, 4);
    write_part(folder->paths[1], &spec, 3, 4); /* experts 3, 7 and 11 */
    char *data = test_read_file(folder->paths[0], &bytes);
    assert_memory_equal(data + 16, expected, sizeof expected);
    assert_int_equal(bytes, 8192 + 4 * 4096);
    free(data);
    data = test_read_file(folder->paths[1], &bytes);
    assert_memory_equal(data + 72, expected_part, sizeof expected_part);
    assert_int_equal(bytes, 8192 + 3 * 4096);
    uint8_t slot[4096];
    packed_slot(&spec, SEED, (struct expert_ref){1, 2}, slot);
    assert_memory_equal(data + 8192 + 4096, slot, sizeof slot);
    free(data);
}

static void a_part_out_of_bounds_is_no_head(void **state)
{
    static const struct {
        int32_t part, parts;
    } bad[] = {{0, 1},  {1, 0},  {2, 2}, {-1, 2},        {0, -1},
               {0, 16}, {0, 17}, {3, 3}, {0, INT32_MAX}, {INT32_MAX, INT32_MAX}};
    struct model_file_head head;
    (void)state;
    for (size_t i = 0; i < SL_COUNT_OF(bad); i++) {
        /* 15 experts: 16 parts are one too many. */
        struct model_file_spec made = part_of(&spec, bad[i].part, bad[i].parts);
        assert_false(model_file_head_make(&made, &head));
    }
    struct model_file_spec most = part_of(&spec, 14, 15);
    assert_true(model_file_head_make(&most, &head));
    assert_int_equal(head.slot_count, 1);
}

static void no_changed_part_number_opens_even_under_a_right_checksum(void **state)
{
    const struct folder *folder = *state;
    size_t bytes;
    write_part(folder->paths[0], &spec, 1, 2);
    char *data = test_read_file(folder->paths[0], &bytes);
    uint8_t *head = (uint8_t *)data;
    for (size_t at = 72; at < 84; at++) {
        for (int bit = 0; bit < 8; bit++) {
            struct model_file *file = NULL;
            struct sl_error error = {.message = ""};
            head[at] ^= (uint8_t)(1u << bit);
            uint64_t checksum = model_file_checksum(head, MODEL_FILE_HEAD_BYTES - 8);
            memcpy(head + MODEL_FILE_HEAD_BYTES - 8, &checksum, sizeof checksum);
            test_write_file(folder->paths[1], data, bytes);
            assert_int_equal(model_file_open(folder->paths[1], false, &file, &error),
                             SL_ERR_FORMAT);
            assert_non_null(strstr(error.message, folder->paths[1]));
            head[at] ^= (uint8_t)(1u << bit);
        }
    }
    free(data);
}

static void the_largest_parts_stay_within_bounds(void **state)
{
    struct model_file_spec largest = {.layers = MODEL_FILE_LAYERS_MAX,
                                      .experts = MODEL_FILE_EXPERTS_MAX,
                                      .slot_bytes = MODEL_FILE_SLOT_BYTES_MAX};
    uint64_t count = (uint64_t)MODEL_FILE_LAYERS_MAX * MODEL_FILE_EXPERTS_MAX;
    (void)state;
    for (int32_t parts = 2; parts <= MODEL_FILE_PARTS_MAX; parts++) {
        uint64_t slots = 0;
        for (int32_t part = 0; part < parts; part++) {
            struct model_file_spec made = part_of(&largest, part, parts);
            struct model_file_head head, again;
            uint8_t data[MODEL_FILE_HEAD_BYTES];
            assert_true(model_file_head_make(&made, &head));
            model_file_head_encode(&head, data);
            assert_int_equal(
                model_file_parse_head(data, sizeof data, head.file_bytes, "a", &again, NULL),
                SL_OK);
            assert_int_equal(again.slot_count, head.slot_count);
            assert_int_equal(model_file_slot_start(&again, again.slot_count - 1) +
                                 MODEL_FILE_SLOT_BYTES_MAX,
                             head.file_bytes);
            slots += head.slot_count;
        }
        assert_int_equal(slots, count);
    }
}

/* ---- joined ------------------------------------------------------------------------------- */

/* Fails unless the source finds the slot of every expert of `whole` in its file. */
static void assert_source_whole(const struct model_file *file, const struct model_file_spec *whole)
{
    const struct expert_source *source = model_file_source(file);
    uint8_t *slot = malloc(2 * whole->slot_bytes);
    struct sl_error error = {.message = ""};
    assert_non_null(slot);
    if (expert_plan_check_source(source, &error) != SL_OK) fail_msg("%s", error.message);
    assert_true(expert_plan_is_straight(source));
    for (int32_t i = 0; i < whole->layers * whole->experts; i++) {
        const struct expert_segment *segment = &source->segments[i];
        uint8_t *found = slot + whole->slot_bytes;
        packed_slot(whole, SEED, (struct expert_ref){i / whole->experts, i % whole->experts}, slot);
        assert_int_equal(file_range_read(source->files[segment->file].fd, found, whole->slot_bytes,
                                         segment->offset_bytes),
                         0);
        assert_memory_equal(found, slot, whole->slot_bytes);
        assert_int_equal(source->checksums[i], model_file_checksum(slot, whole->slot_bytes));
    }
    free(slot);
}

static void all_parts_in_any_order_are_the_whole(void **state)
{
    const struct folder *folder = *state;
    uint64_t random = 3;
    for (int round = 0; round < 30; round++) {
        struct model_file_spec whole = {.layers = 1 + (int32_t)test_random_below(&random, 5),
                                        .experts = 16 + (int32_t)test_random_below(&random, 20),
                                        .slot_bytes =
                                            SL_PAGE_BYTES * (1 + test_random_below(&random, 2)),
                                        .fingerprint = test_random(&random)};
        int32_t parts = 2 + (int32_t)test_random_below(&random, MODEL_FILE_PARTS_MAX - 1);
        int32_t order[MODEL_FILE_PARTS_MAX];
        for (int32_t i = 0; i < parts; i++) {
            int32_t other = (int32_t)test_random_below(&random, (uint32_t)i + 1);
            order[i] = order[other], order[other] = i;
            write_part(folder->paths[i], &whole, i, parts);
        }
        struct model_file *file = open_one(folder->paths[order[0]]);
        for (int32_t i = 1; i < parts; i++) {
            struct sl_error error = {.message = ""};
            /* Not usable before the last has come: the store would refuse the source. */
            assert_int_equal(model_file_check_complete(file, NULL), SL_ERR_FORMAT);
            assert_int_equal(expert_plan_check_source(model_file_source(file), NULL),
                             SL_ERR_ARGUMENT);
            if (model_file_join(file, open_one(folder->paths[order[i]]), &error) != SL_OK)
                fail_msg("%s", error.message);
        }
        assert_int_equal(model_file_check_complete(file, NULL), SL_OK);
        assert_true(model_file_is_part(file));
        assert_int_equal(model_file_match(file, &whole, NULL), SL_OK);
        const struct expert_source *source = model_file_source(file);
        assert_int_equal(source->file_count, parts);
        for (int32_t i = 0; i < whole.layers * whole.experts; i++)
            assert_string_equal(source->files[source->segments[i].file].path,
                                folder->paths[i % parts]);
        assert_source_whole(file, &whole);
        model_file_close(file);
    }
}

static void copies_are_read_in_turn(void **state)
{
    const struct folder *folder = *state;
    for (int32_t i = 0; i < 3; i++)
        write_part(folder->paths[i], &spec, 0, 0);
    struct model_file *file = open_one(folder->paths[0]);
    for (int32_t i = 1; i < 3; i++)
        assert_int_equal(model_file_join(file, open_one(folder->paths[i]), NULL), SL_OK);
    assert_int_equal(model_file_check_complete(file, NULL), SL_OK);
    assert_false(model_file_is_part(file));
    for (int32_t i = 0; i < spec.layers * spec.experts; i++)
        assert_int_equal(model_file_source(file)->segments[i].file, i % 3);
    assert_source_whole(file, &spec);
    model_file_close(file);
}

/* Joins file 1 to file 0, in this order and the other: refused, saying `reason` and both names. */
static void assert_refused(const struct folder *folder, const char *reason)
{
    for (int first = 0; first <= 1; first++) {
        struct sl_error error = {.message = ""};
        struct model_file *file = open_one(folder->paths[first]);
        assert_int_equal(model_file_join(file, open_one(folder->paths[1 - first]), &error),
                         SL_ERR_FORMAT);
        if (!strstr(error.message, reason)) fail_msg("\"%s\" is not in: %s", reason, error.message);
        assert_non_null(strstr(error.message, folder->paths[0]));
        assert_non_null(strstr(error.message, folder->paths[1]));
        /* What was there stays as it was. */
        assert_int_equal(model_file_source(file)->file_count, 1);
        model_file_close(file);
    }
}

static void what_does_not_belong_together_is_refused_by_name(void **state)
{
    const struct folder *folder = *state;
    struct model_file_spec others[4] = {spec, spec, spec, spec};
    others[0].fingerprint++;
    others[1].layers++;
    others[2].experts++;
    others[3].slot_bytes *= 2;
    write_part(folder->paths[0], &spec, 0, 2);
    write_part(folder->paths[1], &spec, 0, 2);
    assert_refused(folder, "both are part 1 of 2");
    write_part(folder->paths[1], &spec, 1, 3);
    assert_refused(folder, "is part 2 of 3");
    write_part(folder->paths[1], &spec, 0, 0);
    assert_refused(folder, "is whole");
    write_part(folder->paths[1], &others[0], 1, 2);
    assert_refused(folder, "different checkpoints");
    for (int i = 1; i < 4; i++) {
        write_part(folder->paths[1], &others[i], 1, 2);
        assert_refused(folder, "pack all parts again");
    }
    write_part(folder->paths[0], &spec, 0, 0);
    for (int i = 0; i < 4; i++) {
        write_part(folder->paths[1], &others[i], 0, 0);
        assert_refused(folder, "is no copy of");
    }
}

static void a_missing_part_is_told_by_number(void **state)
{
    const struct folder *folder = *state;
    struct sl_error error = {.message = ""};
    for (int32_t i = 0; i < 3; i++)
        write_part(folder->paths[i], &spec, i, 3);
    struct model_file *file = open_one(folder->paths[2]);
    assert_int_equal(model_file_join(file, open_one(folder->paths[0]), NULL), SL_OK);
    assert_int_equal(model_file_check_complete(file, &error), SL_ERR_FORMAT);
    assert_non_null(strstr(error.message, folder->paths[2]));
    assert_non_null(strstr(error.message, "is part 3 of 3 and part 2 is missing"));
    model_file_close(file);
}

static void one_copy_too_many_is_refused(void **state)
{
    const struct folder *folder = *state;
    struct sl_error error = {.message = ""};
    struct model_file *file = NULL;
    for (int32_t i = 0; i <= MODEL_FILE_FILES_MAX; i++) {
        write_part(folder->paths[i], &spec, 0, 0);
        if (i == 0)
            file = open_one(folder->paths[0]);
        else
            assert_int_equal(model_file_join(file, open_one(folder->paths[i]), &error),
                             i < MODEL_FILE_FILES_MAX ? SL_OK : SL_ERR_LIMIT);
    }
    assert_non_null(strstr(error.message, folder->paths[MODEL_FILE_FILES_MAX]));
    assert_source_whole(file, &spec);
    model_file_close(file);
}

/* ---- interrupted -------------------------------------------------------------------------- */

static void an_interrupted_part_goes_on_and_only_as_the_same_part(void **state)
{
    const struct folder *folder = *state;
    const char *path = folder->paths[0];
    static const int32_t earlier[][2] = {{1, 2}, {0, 2}, {1, 3}, {0, 0}};
    for (size_t i = 0; i < SL_COUNT_OF(earlier); i++) {
        struct model_file_spec before = part_of(&spec, earlier[i][0], earlier[i][1]);
        struct model_file_spec part = part_of(&spec, 1, 2);
        struct model_file *file = NULL;
        int puts = 0;
        unlink(path);
        assert_int_equal(packed_write(path, &before, SEED, 1, 3, NULL, NULL), SL_OK);
        assert_int_equal(model_file_open(path, false, &file, NULL), SL_ERR_IO);
        assert_int_equal(packed_write(path, &part, SEED, 1, -1, &puts, NULL), SL_OK);
        assert_int_equal(puts, i == 0 ? 7 - 3 : 7);
        packed_assert_whole(path, &part, SEED);
    }
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(the_head_of_a_part_is_written_as_documented),
        CASE(a_part_out_of_bounds_is_no_head),
        CASE(no_changed_part_number_opens_even_under_a_right_checksum),
        CASE(the_largest_parts_stay_within_bounds),
        CASE(all_parts_in_any_order_are_the_whole),
        CASE(copies_are_read_in_turn),
        CASE(what_does_not_belong_together_is_refused_by_name),
        CASE(a_missing_part_is_told_by_number),
        CASE(one_copy_too_many_is_refused),
        CASE(an_interrupted_part_goes_on_and_only_as_the_same_part),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
