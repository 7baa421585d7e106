/* labels: fault */
/* Packing into parts, finding them again and verifying them: together they hold what one packed
 * file holds, whatever interrupts the pack, and a wrong list of files is told. */
#include "offload/file_range.h"
#include "runtime/pack.h"
#include "tests/support.h"
#include "tests/support_packed.h"

#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PARTS 3

struct fixture {
    struct packed_files packed; /* the whole file, in the model's directory */
    char *model_dir;
    char *names[PARTS], *partials[PARTS];
    char *list; /* the names with commas */
    uint8_t *wholes[PARTS];
    size_t whole_bytes[PARTS];
    uint64_t steps; /* progress calls of a pack */
};

static bool count_steps(void *context, const char *what, uint64_t done, uint64_t total)
{
    struct fixture *fixture = context;
    (void)what;
    fixture->steps++;
    assert_true(done <= total);
    return true;
}

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    struct sl_error error = {.message = ""};
    assert_non_null(fixture);
    packed_files_init(&fixture->packed, "pack-parts", "model");
    fixture->model_dir = test_path(fixture->packed.directory, "model");
    for (int i = 0; i < PARTS; i++) {
        assert_true(asprintf(&fixture->names[i], "%s/part-%d", fixture->packed.directory, i) > 0);
        assert_true(asprintf(&fixture->partials[i], "%s.partial", fixture->names[i]) > 0);
    }
    assert_true(asprintf(&fixture->list, "%s,%s,%s", fixture->names[0], fixture->names[1],
                         fixture->names[2]) > 0);
    if (sl_synth("tiny", fixture->model_dir, 0, 7, NULL, NULL, &error) != SL_OK ||
        sl_pack(fixture->model_dir, NULL, NULL, NULL, &error) != SL_OK ||
        sl_pack(fixture->model_dir, fixture->list, count_steps, fixture, &error) != SL_OK)
        fail_msg("%s", error.message);
    packed_files_keep(&fixture->packed);
    for (int i = 0; i < PARTS; i++)
        fixture->wholes[i] = (uint8_t *)test_read_file(fixture->names[i], &fixture->whole_bytes[i]);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    packed_files_deinit(&fixture->packed);
    for (int i = 0; i < PARTS; i++)
        free(fixture->names[i]), free(fixture->partials[i]), free(fixture->wholes[i]);
    free(fixture->list);
    free(fixture->model_dir);
    free(fixture);
    return 0;
}

static void remove_parts(const struct fixture *fixture)
{
    for (int i = 0; i < PARTS; i++)
        unlink(fixture->names[i]);
}

static void assert_parts_same(const struct fixture *fixture)
{
    for (int i = 0; i < PARTS; i++) {
        size_t bytes;
        char *data = test_read_file(fixture->names[i], &bytes);
        assert_int_equal(bytes, fixture->whole_bytes[i]);
        assert_memory_equal(data, fixture->wholes[i], bytes);
        free(data);
        assert_false(packed_exists(fixture->partials[i]));
    }
}

/* Two or three names of the fixture as one list; the caller frees it. */
static char *list_of(const char *first, const char *second, const char *third)
{
    char *list = NULL;
    assert_true(asprintf(&list, "%s,%s%s%s", first, second, third ? "," : "", third ? third : "") >
                0);
    return list;
}

/* Status of opening `list` (freed) for the model; the message must hold both texts. */
static void assert_opens_as(const struct fixture *fixture, char *list, enum sl_status expected,
                            const char *says, const char *names)
{
    struct model_open_options open = {.directory = fixture->model_dir, .want_mtp = true};
    struct sl_engine_options options = {.model_dir = fixture->model_dir, .experts_file = list};
    struct model *model = NULL;
    struct model_file *packed = NULL;
    struct expert_source source;
    struct sl_error error = {.message = ""};
    assert_int_equal(model_open(&open, &model, NULL), SL_OK);
    enum sl_status status = pack_open_source(model, &options, &packed, &source, &error);
    if (status != expected) fail_msg("%s: %s", sl_status_name(status), error.message);
    if (status != SL_OK) {
        assert_null(packed);
        if (!strstr(error.message, says) || !strstr(error.message, names))
            fail_msg("\"%s\" and \"%s\" expected in: %s", says, names, error.message);
    }
    model_file_close(packed);
    model_close(model);
    free(list);
}

/* ---- what is packed ----------------------------------------------------------------------- */

static void the_parts_together_hold_the_slots_of_the_whole(void **state)
{
    const struct fixture *fixture = *state;
    struct model_open_options open = {.directory = fixture->model_dir, .want_mtp = true};
    struct sl_engine_options options = {.model_dir = fixture->model_dir};
    struct model *model = NULL;
    struct model_file *whole = NULL, *packed = NULL;
    struct expert_source from, to;
    struct sl_error error = {.message = ""};
    assert_int_equal(model_open(&open, &model, NULL), SL_OK);
    assert_int_equal(pack_open_source(model, &options, &whole, &from, NULL), SL_OK);
    options.experts_file = list_of(fixture->names[2], fixture->names[0], fixture->names[1]);
    if (pack_open_source(model, &options, &packed, &to, &error) != SL_OK)
        fail_msg("%s", error.message);
    assert_int_equal(to.file_count, PARTS);
    assert_int_equal(to.layers, from.layers);
    assert_int_equal(fixture->steps, to.layers * to.experts);
    uint8_t *slot = aligned_alloc(SL_PAGE_BYTES, to.slot_bytes); /* for direct reads */
    assert_non_null(slot);
    for (int32_t i = 0; i < to.layers * to.experts; i++) {
        const struct io_file *file = &to.files[to.segments[i].file];
        assert_string_equal(file->path, fixture->names[i % PARTS]);
        assert_int_equal(
            file_range_read(file->fd, slot, to.slot_bytes, to.segments[i].offset_bytes), 0);
        assert_memory_equal(slot, fixture->packed.whole + from.segments[i].offset_bytes,
                            to.slot_bytes);
        assert_int_equal(to.checksums[i], from.checksums[i]);
    }
    free(slot);
    free((char *)options.experts_file);
    model_file_close(whole);
    model_file_close(packed);
    model_close(model);
}

/* ---- interrupted -------------------------------------------------------------------------- */

static void cancelled_it_goes_on_to_the_same_parts(void **state)
{
    const struct fixture *fixture = *state;
    for (uint64_t stop = 0; stop < fixture->steps; stop += 5) {
        struct packed_stopper stopper = {.stop = stop};
        struct sl_error error = {.message = ""};
        remove_parts(fixture);
        assert_int_equal(
            sl_pack(fixture->model_dir, fixture->list, packed_stop_at_step, &stopper, &error),
            SL_ERR_CANCELLED);
        assert_non_null(strstr(error.message, fixture->partials[0]));
        for (int i = 0; i < PARTS; i++) {
            struct model_file *file = NULL;
            assert_false(packed_exists(fixture->names[i]));
            assert_int_equal(model_file_open(fixture->partials[i], false, &file, &error),
                             SL_ERR_FORMAT);
            assert_non_null(strstr(error.message, "unfinished"));
        }
        assert_int_equal(sl_pack(fixture->model_dir, fixture->list, NULL, NULL, NULL), SL_OK);
        assert_parts_same(fixture);
    }
}

static void killed_it_goes_on_to_the_same_parts(void **state)
{
    const struct fixture *fixture = *state;
    for (uint64_t stop = 0; stop < fixture->steps; stop += 7) {
        struct packed_stopper stopper = {.stop = stop, .signal = SIGKILL};
        int wait_status;
        remove_parts(fixture);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0)
            _exit(sl_pack(fixture->model_dir, fixture->list, packed_stop_at_step, &stopper, NULL) !=
                  SL_OK);
        assert_int_equal(waitpid(child, &wait_status, 0), child);
        assert_true(WIFSIGNALED(wait_status));
        assert_false(packed_exists(fixture->names[0]));
        assert_int_equal(sl_pack(fixture->model_dir, fixture->list, NULL, NULL, NULL), SL_OK);
        assert_parts_same(fixture);
    }
}

static void a_part_that_cannot_be_written_leaves_nothing_of_the_others(void **state)
{
    const struct fixture *fixture = *state;
    char *config = test_path(fixture->model_dir, "config.json");
    char *list = list_of(fixture->names[0], fixture->names[1], config);
    struct sl_error error = {.message = ""};
    remove_parts(fixture);
    assert_int_equal(sl_pack(fixture->model_dir, list, NULL, NULL, &error), SL_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, config));
    for (int i = 0; i < PARTS; i++) {
        assert_false(packed_exists(fixture->names[i]));
        assert_false(packed_exists(fixture->partials[i]));
    }
    free(list);
    /* What an earlier run has recorded is no rubbish. */
    struct packed_stopper stopper = {.stop = 40};
    assert_int_equal(
        sl_pack(fixture->model_dir, fixture->list, packed_stop_at_step, &stopper, NULL),
        SL_ERR_CANCELLED);
    list = list_of(fixture->names[0], fixture->names[1], "/nowhere/file");
    assert_int_equal(sl_pack(fixture->model_dir, list, NULL, NULL, &error), SL_ERR_IO);
    assert_true(packed_exists(fixture->partials[0]));
    free(list);
    free(config);
}

/* ---- lists -------------------------------------------------------------------------------- */

static void a_wrong_list_of_files_says_which_and_what_to_do(void **state)
{
    const struct fixture *fixture = *state;
    char *const *names = fixture->names;
    char *config = test_path(fixture->model_dir, "config.json");
    assert_opens_as(fixture, list_of(names[1], names[2], names[0]), SL_OK, "", "");
    assert_opens_as(fixture, strdup(names[0]), SL_ERR_FORMAT, "part 2 is missing", names[0]);
    assert_opens_as(fixture, list_of(names[0], names[2], NULL), SL_ERR_FORMAT, "part 2 is missing",
                    names[0]);
    assert_opens_as(fixture, list_of(names[0], fixture->packed.path, NULL), SL_ERR_FORMAT,
                    "is whole", fixture->packed.path);
    assert_opens_as(fixture, list_of(fixture->packed.path, names[1], NULL), SL_ERR_FORMAT,
                    "is part 2 of 3", names[1]);
    assert_opens_as(fixture, list_of(names[0], names[0], NULL), SL_ERR_ARGUMENT, "named twice",
                    names[0]);
    assert_opens_as(fixture, list_of(names[0], "", names[1]), SL_ERR_ARGUMENT, "a name is missing",
                    "comma");
    assert_opens_as(fixture, list_of(names[0], "", NULL), SL_ERR_ARGUMENT, "a name is missing",
                    "comma");
    assert_opens_as(fixture, list_of(names[0], config, NULL), SL_ERR_FORMAT,
                    "not a packed experts file", config);
    assert_opens_as(fixture, strdup("a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q"), SL_ERR_LIMIT,
                    "one too many", "q");
    /* A copy of a part is that part again. */
    char *copy = test_path(fixture->packed.directory, "copy");
    test_write_file(copy, fixture->wholes[1], fixture->whole_bytes[1]);
    assert_opens_as(fixture, list_of(names[1], copy, NULL), SL_ERR_FORMAT, "both are part 2 of 3",
                    copy);
    free(copy);
    /* In the checkpoint's own directory a part is found, and is not enough. */
    test_write_file(fixture->packed.path, fixture->wholes[1], fixture->whole_bytes[1]);
    assert_opens_as(fixture, NULL, SL_ERR_FORMAT, "is part 2 of 3 and part 1 is missing",
                    fixture->packed.path);
    free(config);
}

static void parts_of_another_checkpoint_are_refused(void **state)
{
    const struct fixture *fixture = *state;
    char *other = test_path(fixture->packed.directory, "other");
    char *first = test_path(fixture->packed.directory, "first");
    char *second = test_path(fixture->packed.directory, "second");
    char *third = test_path(fixture->packed.directory, "third");
    char *list = list_of(first, second, third);
    struct sl_error error = {.message = ""};
    assert_int_equal(sl_synth("tiny", other, 0, 8, NULL, NULL, NULL), SL_OK);
    assert_int_equal(sl_pack(other, list, NULL, NULL, NULL), SL_OK);
    assert_int_equal(sl_verify(list, other, NULL, NULL, NULL), SL_OK);
    assert_int_equal(sl_verify(list, fixture->model_dir, NULL, NULL, &error), SL_ERR_FORMAT);
    assert_non_null(strstr(error.message, "another checkpoint"));
    assert_int_equal(sl_verify(second, fixture->model_dir, NULL, NULL, &error), SL_ERR_FORMAT);
    assert_non_null(strstr(error.message, second));
    assert_opens_as(fixture, list_of(fixture->names[0], second, fixture->names[2]), SL_ERR_FORMAT,
                    "different checkpoints", second);
    assert_opens_as(fixture, list, SL_ERR_FORMAT, "another checkpoint", first);
    free(first), free(second), free(third), free(other);
}

/* A name with a comma is one file where it exists, and the list of two where it does not. */
static void a_name_with_a_comma_that_exists_is_one_file(void **state)
{
    const struct fixture *fixture = *state;
    char *comma = test_path(fixture->packed.directory, "one,file");
    test_write_file(comma, fixture->packed.whole, fixture->packed.whole_bytes);
    assert_int_equal(sl_verify(comma, fixture->model_dir, NULL, NULL, NULL), SL_OK);
    assert_opens_as(fixture, strdup(comma), SL_OK, "", "");
    assert_int_equal(sl_pack(fixture->model_dir, comma, NULL, NULL, NULL), SL_OK);
    assert_int_equal(sl_verify(comma, fixture->model_dir, NULL, NULL, NULL), SL_OK);
    free(comma);
}

/* ---- verify ------------------------------------------------------------------------------- */

struct watcher {
    uint64_t steps, done, total;
};

static bool watch(void *context, const char *what, uint64_t done, uint64_t total)
{
    struct watcher *watcher = context;
    assert_string_equal(what, "checking");
    assert_true(done > watcher->done && (watcher->steps == 0 || total == watcher->total));
    watcher->steps++;
    watcher->done = done;
    watcher->total = total;
    return true;
}

static void verify_takes_parts_together_or_alone_and_every_copy(void **state)
{
    const struct fixture *fixture = *state;
    struct sl_error error = {.message = ""};
    char *copy = test_path(fixture->packed.directory, "copy");
    char *copies = list_of(fixture->packed.path, copy, NULL);
    test_write_file(copy, fixture->packed.whole, fixture->packed.whole_bytes);
    const struct {
        const char *list;
        uint64_t steps;
    } cases[] = {
        {fixture->list, fixture->steps},
        {fixture->names[1], (fixture->steps + 1) / 3},
        {copies, 2 * fixture->steps},
    };
    for (size_t i = 0; i < SL_COUNT_OF(cases); i++) {
        struct watcher watcher = {0};
        if (sl_verify(cases[i].list, fixture->model_dir, watch, &watcher, &error) != SL_OK)
            fail_msg("%s", error.message);
        assert_int_equal(watcher.steps, cases[i].steps);
        assert_int_equal(watcher.done, watcher.total);
    }
    fixture->packed.whole[fixture->packed.whole_bytes - 1] ^= 1;
    test_write_file(copy, fixture->packed.whole, fixture->packed.whole_bytes);
    assert_int_equal(sl_verify(copies, NULL, NULL, NULL, &error), SL_ERR_CHECKSUM);
    assert_true(strncmp(error.message, copy, strlen(copy)) == 0);
    free(copies);
    free(copy);
}

static void verify_names_the_damaged_part_and_expert(void **state)
{
    const struct fixture *fixture = *state;
    struct sl_error error = {.message = ""};
    char expected[96];
    /* The last slot of part 2. */
    uint64_t idx = fixture->steps - 1;
    while (idx % PARTS != 1)
        idx--;
    fixture->wholes[1][fixture->whole_bytes[1] - 1] ^= 1;
    test_write_file(fixture->names[1], fixture->wholes[1], fixture->whole_bytes[1]);
    struct model_file *file = NULL;
    assert_int_equal(model_file_open(fixture->packed.path, false, &file, NULL), SL_OK);
    uint64_t experts = (uint64_t)model_file_source(file)->experts;
    model_file_close(file);
    snprintf(expected, sizeof expected,
             "1 of %d experts are damaged, the first is expert %d of layer %d ",
             (int)((fixture->steps + 1) / 3), (int)(idx % experts), (int)(idx / experts));
    const char *lists[] = {fixture->list, fixture->names[1]};
    for (size_t i = 0; i < SL_COUNT_OF(lists); i++) {
        assert_int_equal(sl_verify(lists[i], NULL, NULL, NULL, &error), SL_ERR_CHECKSUM);
        if (!strstr(error.message, expected)) fail_msg("%s", error.message);
        assert_non_null(strstr(error.message, fixture->names[1]));
    }
    assert_int_equal(sl_verify(fixture->names[0], NULL, NULL, NULL, NULL), SL_OK);
    unlink(fixture->names[2]);
    assert_int_equal(sl_verify(fixture->list, NULL, NULL, NULL, &error), SL_ERR_IO);
    assert_non_null(strstr(error.message, fixture->names[2]));
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(the_parts_together_hold_the_slots_of_the_whole),
        CASE(cancelled_it_goes_on_to_the_same_parts),
        CASE(killed_it_goes_on_to_the_same_parts),
        CASE(a_part_that_cannot_be_written_leaves_nothing_of_the_others),
        CASE(a_wrong_list_of_files_says_which_and_what_to_do),
        CASE(parts_of_another_checkpoint_are_refused),
        CASE(a_name_with_a_comma_that_exists_is_one_file),
        CASE(verify_takes_parts_together_or_alone_and_every_copy),
        CASE(verify_names_the_damaged_part_and_expert),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
