/* labels: unit */
/* The packed experts file: what was written is read, and nothing else opens. */
#include "kernels/expert_layout.h"
#include "offload/model_file.h"
#include "tests/support.h"
#include "tests/support_packed.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEAD_CHECKSUM_AT 4088

static const struct model_file_spec spec = {
    .layers = 3, .experts = 5, .slot_bytes = 8192, .fingerprint = 0x1234567890abcdef};

static int setup(void **state)
{
    struct packed_files *files = malloc(sizeof *files);
    assert_non_null(files);
    packed_files_init(files, "model-file", NULL);
    assert_int_equal(packed_write(files->path, &spec, 7, 4, -1, NULL, NULL), SL_OK);
    packed_files_keep(files);
    *state = files;
    return 0;
}

static int teardown(void **state)
{
    packed_files_deinit(*state);
    free(*state);
    return 0;
}

/* Status of opening a file with these bytes; the message must name the file. */
static enum sl_status open_bytes(const struct packed_files *files, const uint8_t *data,
                                 size_t bytes)
{
    struct sl_error error = {.message = ""};
    struct model_file *file = NULL;
    char *path = test_path(files->directory, "changed");
    test_write_file(path, data, bytes);
    enum sl_status status = model_file_open(path, false, &file, &error);
    if (status == SL_OK)
        model_file_close(file);
    else
        assert_non_null(strstr(error.message, path));
    assert_true(status == SL_OK || file == NULL);
    free(path);
    return status;
}

static void put(uint8_t *data, size_t at, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        data[at + i] = (uint8_t)(value >> (8 * i));
}

/* Makes the head's checksum right again after a change. */
static void seal(uint8_t *head)
{
    put(head, HEAD_CHECKSUM_AT, model_file_checksum(head, HEAD_CHECKSUM_AT), 8);
}

static void what_was_put_is_what_is_read(void **state)
{
    struct packed_files *files = *state;
    packed_assert_whole(files->path, &spec, 7);
    uint64_t random = 11;
    for (int round = 0; round < 20; round++) {
        struct model_file_spec other = {.layers = 1 + (int32_t)test_random_below(&random, 6),
                                        .experts = 1 + (int32_t)test_random_below(&random, 200),
                                        .slot_bytes =
                                            SL_PAGE_BYTES * (1 + test_random_below(&random, 3)),
                                        .fingerprint = test_random(&random)};
        struct model_file *file = NULL;
        assert_int_equal(packed_write(files->path, &other, random, 50, -1, NULL, NULL), SL_OK);
        packed_assert_whole(files->path, &other, random);
        assert_int_equal(model_file_open(files->path, false, &file, NULL), SL_OK);
        const struct expert_source *source = model_file_source(file);
        assert_int_equal(source->layers, other.layers);
        assert_int_equal(source->experts, other.experts);
        assert_int_equal(source->slot_bytes, other.slot_bytes);
        assert_int_equal(source->segments_per_expert, 1);
        assert_int_equal(source->file_count, 1);
        assert_int_equal(source->segments[0].offset_bytes % SL_PAGE_BYTES, 0);
        assert_int_equal(model_file_fingerprint(file), other.fingerprint);
        assert_int_equal(model_file_match(file, &other, NULL), SL_OK);
        model_file_close(file);
    }
}

static void the_head_is_written_as_documented(void **state)
{
    const struct packed_files *files = *state;
    static const uint8_t expected[] = {
        'S',  'L',  'E',  'X',  'P',  'E',  'R',  'T', 1, 0,    0, 0, 2, 0, 0, 0,
        3,    0,    0,    0,    5,    0,    0,    0,   0, 0x20, 0, 0, 0, 0, 0, 0, /* 8192 */
        0,    0x10, 0,    0,    0,    0,    0,    0,                              /* 4096 */
        0,    0x20, 0,    0,    0,    0,    0,    0,                              /* 8192 */
        0,    0,    0x02, 0,    0,    0,    0,    0, /* 8192 + 15 * 8192 */
        0xef, 0xcd, 0xab, 0x90, 0x78, 0x56, 0x34, 0x12};
    assert_memory_equal(files->whole, expected, sizeof expected);
    assert_int_equal(files->whole_bytes, 16 * 8192);
}

static void no_changed_byte_of_head_or_index_opens(void **state)
{
    const struct packed_files *files = *state;
    for (size_t at = 0; at < 2 * MODEL_FILE_HEAD_BYTES; at++) {
        files->whole[at] ^= (uint8_t)(1u << at % 8);
        enum sl_status status = open_bytes(files, files->whole, files->whole_bytes);
        files->whole[at] ^= (uint8_t)(1u << at % 8);
        assert_int_equal(status, at < 8 ? SL_ERR_FORMAT : SL_ERR_CHECKSUM);
    }
    assert_int_equal(open_bytes(files, files->whole, files->whole_bytes), SL_OK);
}

static void no_file_of_another_length_opens(void **state)
{
    const struct packed_files *files = *state;
    for (size_t bytes = 0; bytes < files->whole_bytes; bytes += bytes < 64     ? 1
                                                                : bytes < 8192 ? 61
                                                                               : 4095)
        assert_int_equal(open_bytes(files, files->whole, bytes), SL_ERR_FORMAT);
    assert_int_equal(open_bytes(files, files->whole, files->whole_bytes - 1), SL_ERR_FORMAT);
    uint8_t *longer = calloc(1, files->whole_bytes + 1);
    assert_non_null(longer);
    memcpy(longer, files->whole, files->whole_bytes);
    assert_int_equal(open_bytes(files, longer, files->whole_bytes + 1), SL_ERR_FORMAT);
    free(longer);
}

static void a_senseless_field_is_refused_even_under_a_right_checksum(void **state)
{
    const struct packed_files *files = *state;
    static const struct {
        size_t at, bytes;
        uint64_t value;
        enum sl_status status;
    } cases[] = {
        {8, 4, 2, SL_ERR_UNSUPPORTED},
        {8, 4, 0, SL_ERR_UNSUPPORTED},
        {12, 4, EXPERT_LAYOUT_ID + 1, SL_ERR_UNSUPPORTED},
        {16, 4, 0, SL_ERR_FORMAT},
        {16, 4, 2, SL_ERR_FORMAT},
        {16, 4, 4, SL_ERR_FORMAT},
        {16, 4, MODEL_FILE_LAYERS_MAX + 1, SL_ERR_FORMAT},
        {16, 4, 0xffffffff, SL_ERR_FORMAT},
        {20, 4, 0, SL_ERR_FORMAT},
        {20, 4, 6, SL_ERR_FORMAT},
        {20, 4, MODEL_FILE_EXPERTS_MAX + 1, SL_ERR_FORMAT},
        {20, 4, 0x80000000, SL_ERR_FORMAT},
        {24, 8, 0, SL_ERR_FORMAT},
        {24, 8, 4096, SL_ERR_FORMAT},
        {24, 8, 8193, SL_ERR_FORMAT},
        {24, 8, MODEL_FILE_SLOT_BYTES_MAX * 2, SL_ERR_FORMAT},
        {24, 8, UINT64_MAX - 4095, SL_ERR_FORMAT},
        {32, 8, 0, SL_ERR_FORMAT},
        {32, 8, 8192, SL_ERR_FORMAT},
        {40, 8, 4096, SL_ERR_FORMAT},
        {40, 8, 12288, SL_ERR_FORMAT},
        {48, 8, 16 * 8192 + 4096, SL_ERR_FORMAT},
        {48, 8, UINT64_MAX, SL_ERR_FORMAT},
        {64, 8, 1, SL_ERR_CHECKSUM},
        {72, 1, 1, SL_ERR_FORMAT},
        {4087, 1, 1, SL_ERR_FORMAT},
    };
    for (size_t i = 0; i < SL_COUNT_OF(cases); i++) {
        uint8_t saved[MODEL_FILE_HEAD_BYTES];
        memcpy(saved, files->whole, sizeof saved);
        put(files->whole, cases[i].at, cases[i].value, cases[i].bytes);
        seal(files->whole);
        enum sl_status status = open_bytes(files, files->whole, files->whole_bytes);
        if (status != cases[i].status) fail_msg("case %zu: %s", i, sl_status_name(status));
        memcpy(files->whole, saved, sizeof saved);
    }
}

static void another_version_or_layout_says_pack_again(void **state)
{
    const struct packed_files *files = *state;
    struct model_file_head head;
    for (size_t at = 8; at <= 12; at += 4) {
        struct sl_error error = {.message = ""};
        uint8_t changed[MODEL_FILE_HEAD_BYTES];
        memcpy(changed, files->whole, sizeof changed);
        changed[at]++;
        seal(changed);
        assert_int_equal(model_file_parse_head(changed, sizeof changed, files->whole_bytes,
                                               "a-file", &head, &error),
                         SL_ERR_UNSUPPORTED);
        assert_non_null(strstr(error.message, "a-file"));
        assert_non_null(strstr(error.message, "pack again"));
    }
}

static void the_largest_claim_allocates_nothing(void **state)
{
    const struct packed_files *files = *state;
    struct model_file_head head;
    uint8_t data[MODEL_FILE_HEAD_BYTES];
    struct model_file_spec largest = {.layers = MODEL_FILE_LAYERS_MAX,
                                      .experts = MODEL_FILE_EXPERTS_MAX,
                                      .slot_bytes = MODEL_FILE_SLOT_BYTES_MAX};
    assert_true(model_file_head_make(&largest, &head));
    head.finished = true;
    model_file_head_encode(&head, data);
    assert_int_equal(open_bytes(files, data, sizeof data), SL_ERR_FORMAT);
    assert_int_equal(
        model_file_parse_head(data, sizeof data, head.file_bytes, "a-file", &head, NULL), SL_OK);
}

static void an_unfinished_file_does_not_open(void **state)
{
    const struct packed_files *files = *state;
    struct model_file *file = NULL;
    struct sl_error error = {.message = ""};
    char *partial = test_path(files->directory, "other.partial");
    char *path = test_path(files->directory, "other");
    /* Everything is in it but the last step. */
    assert_int_equal(packed_write(path, &spec, 7, 1, 15, NULL, NULL), SL_OK);
    assert_int_equal(model_file_open(partial, false, &file, &error), SL_ERR_FORMAT);
    assert_non_null(strstr(error.message, "unfinished"));
    assert_int_equal(model_file_open(path, false, &file, NULL), SL_ERR_IO);
    free(partial);
    free(path);
}

static void what_is_no_regular_file_is_refused_at_once(void **state)
{
    const struct packed_files *files = *state;
    struct model_file *file = NULL;
    char *pipe_path = test_path(files->directory, "pipe");
    assert_int_equal(mkfifo(pipe_path, 0600), 0);
    assert_int_equal(model_file_open(pipe_path, false, &file, NULL), SL_ERR_FORMAT);
    assert_int_equal(model_file_open(files->directory, false, &file, NULL), SL_ERR_FORMAT);
    free(pipe_path);
}

static void a_file_matches_only_its_checkpoint(void **state)
{
    const struct packed_files *files = *state;
    struct model_file *file = NULL;
    assert_int_equal(model_file_open(files->path, true, &file, NULL), SL_OK);
    struct model_file_spec want = spec;
    want.layers = 2; /* an engine that leaves the MTP block out */
    assert_int_equal(model_file_match(file, &want, NULL), SL_OK);
    want.layers = 4;
    assert_int_equal(model_file_match(file, &want, NULL), SL_ERR_FORMAT);
    want = spec, want.experts++;
    assert_int_equal(model_file_match(file, &want, NULL), SL_ERR_FORMAT);
    want = spec, want.slot_bytes += SL_PAGE_BYTES;
    assert_int_equal(model_file_match(file, &want, NULL), SL_ERR_FORMAT);
    want = spec, want.fingerprint++;
    struct sl_error error = {.message = ""};
    assert_int_equal(model_file_match(file, &want, &error), SL_ERR_FORMAT);
    assert_non_null(strstr(error.message, "another checkpoint"));
    model_file_close(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_was_put_is_what_is_read, setup, teardown),
        cmocka_unit_test_setup_teardown(the_head_is_written_as_documented, setup, teardown),
        cmocka_unit_test_setup_teardown(no_changed_byte_of_head_or_index_opens, setup, teardown),
        cmocka_unit_test_setup_teardown(no_file_of_another_length_opens, setup, teardown),
        cmocka_unit_test_setup_teardown(a_senseless_field_is_refused_even_under_a_right_checksum,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(another_version_or_layout_says_pack_again, setup, teardown),
        cmocka_unit_test_setup_teardown(the_largest_claim_allocates_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(an_unfinished_file_does_not_open, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_no_regular_file_is_refused_at_once, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_file_matches_only_its_checkpoint, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
