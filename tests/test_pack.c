/* labels: fault */
/* Packing and verifying checkpoints: the slots hold the checkpoint's bytes whatever interrupts the
 * pack, and damage, mix-ups and foreign files are told. */
#include "offload/file_range.h"
#include "runtime/pack.h"
#include "tests/support.h"
#include "tests/support_packed.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

struct fixture {
    struct packed_files packed;
    char *model_dir;
    uint64_t steps; /* progress calls of a pack */
};

static bool count_steps(void *context, const char *what, uint64_t done, uint64_t total)
{
    struct fixture *fixture = context;
    assert_string_equal(what, "packing");
    fixture->steps++;
    /* Every expert weighs the same. */
    assert_true(done <= total && total % (done / fixture->steps) == 0);
    return true;
}

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    struct sl_error error = {.message = ""};
    assert_non_null(fixture);
    packed_files_init(&fixture->packed, "pack", "model");
    fixture->model_dir = test_path(fixture->packed.directory, "model");
    if (sl_synth("tiny", fixture->model_dir, 0, 7, NULL, NULL, &error) != SL_OK ||
        sl_pack(fixture->model_dir, NULL, count_steps, fixture, &error) != SL_OK)
        fail_msg("%s", error.message);
    packed_files_keep(&fixture->packed);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    packed_files_deinit(&fixture->packed);
    free(fixture->model_dir);
    free(fixture);
    return 0;
}

/* ---- what is packed ----------------------------------------------------------------------- */

static void every_slot_holds_its_expert_in_tiles_and_zeros(void **state)
{
    const struct fixture *fixture = *state;
    struct model *model = NULL;
    struct model_file *file = NULL;
    struct model_file_spec want;
    assert_int_equal(pack_open_model(fixture->model_dir, &model, &want, NULL), SL_OK);
    assert_int_equal(model_file_open(fixture->packed.path, false, &file, NULL), SL_OK);
    const struct expert_source *from = &model->experts, *to = model_file_source(file);
    int32_t count = from->layers * from->experts;
    assert_int_equal(from->layers, model->config.layers + model->config.mtp_layers);
    assert_int_equal(to->layers, from->layers);
    assert_int_equal(to->experts, from->experts);
    assert_int_equal(to->slot_bytes, from->slot_bytes);
    assert_int_equal(fixture->steps, count);
    uint8_t *slot = malloc(from->slot_bytes);
    uint8_t *raw = malloc(from->slot_bytes);
    const uint8_t *parts[EXPERT_SEGMENTS_MAX];
    assert_non_null(slot);
    assert_non_null(raw);
    for (int32_t i = 0; i < count; i++) {
        memset(slot, 0xee, from->slot_bytes);
        for (int32_t s = 0; s < from->segments_per_expert; s++) {
            const struct expert_segment *segment =
                &from->segments[i * from->segments_per_expert + s];
            uint8_t *part = raw + segment->slot_offset_bytes;
            assert_int_equal(file_range_read(from->files[segment->file].fd, part, segment->bytes,
                                             segment->offset_bytes),
                             0);
            parts[s] = part;
        }
        expert_layout_place(&model->expert_layout, parts, slot);
        assert_memory_equal(fixture->packed.whole + to->segments[i].offset_bytes, slot,
                            to->slot_bytes);
    }
    free(raw);
    free(slot);
    model_file_close(file);
    model_close(model);
}

static void an_engine_finds_the_packed_file_with_and_without_the_mtp_block(void **state)
{
    const struct fixture *fixture = *state;
    struct sl_engine_options options = {.model_dir = fixture->model_dir};
    for (int with_mtp = 0; with_mtp <= 1; with_mtp++) {
        struct model_open_options open = {.directory = fixture->model_dir, .want_mtp = with_mtp};
        struct model *model = NULL;
        struct model_file *packed = NULL;
        struct expert_source source;
        assert_int_equal(model_open(&open, &model, NULL), SL_OK);
        options.experts_file = NULL;
        assert_int_equal(pack_open_source(model, &options, &packed, &source, NULL), SL_OK);
        assert_non_null(packed);
        assert_int_equal(source.layers, model->experts.layers);
        assert_int_equal(source.segments_per_expert, 1);
        model_file_close(packed);
        options.experts_file = "";
        assert_int_equal(pack_open_source(model, &options, &packed, &source, NULL), SL_OK);
        assert_null(packed);
        assert_ptr_equal(source.segments, model->experts.segments);
        options.experts_file = "no-such-file";
        assert_int_equal(pack_open_source(model, &options, &packed, &source, NULL), SL_ERR_IO);
        model_close(model);
    }
}

/* ---- interrupted -------------------------------------------------------------------------- */

static void cancelled_at_any_expert_it_goes_on_to_the_same_file(void **state)
{
    const struct fixture *fixture = *state;
    for (uint64_t stop = 0; stop < fixture->steps; stop++) {
        struct packed_stopper stopper = {.stop = stop};
        struct sl_error error = {.message = ""};
        unlink(fixture->packed.path);
        assert_int_equal(sl_pack(fixture->model_dir, NULL, packed_stop_at_step, &stopper, &error),
                         SL_ERR_CANCELLED);
        assert_int_equal(stopper.step, stop + 1);
        assert_non_null(strstr(error.message, fixture->packed.partial));
        assert_false(packed_exists(fixture->packed.path));
        assert_true(packed_exists(fixture->packed.partial));
        assert_int_equal(sl_pack(fixture->model_dir, NULL, NULL, NULL, NULL), SL_OK);
        packed_files_assert_same(&fixture->packed);
    }
}

/* Starts a pack in a child; it ends with 0, or by a signal. */
static pid_t pack_in_child(const struct fixture *fixture, struct packed_stopper *stopper)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(sl_pack(fixture->model_dir, NULL, stopper ? packed_stop_at_step : NULL, stopper,
                      NULL) != SL_OK);
    return child;
}

static void assert_nothing_half_opens(const struct fixture *fixture)
{
    struct model_file *file = NULL;
    if (packed_exists(fixture->packed.path)) packed_files_assert_same(&fixture->packed);
    if (model_file_open(fixture->packed.partial, false, &file, NULL) == SL_OK) {
        model_file_close(file);
        assert_int_equal(sl_verify(fixture->packed.partial, fixture->model_dir, NULL, NULL, NULL),
                         SL_OK);
    }
}

static void killed_at_any_expert_it_goes_on_to_the_same_file(void **state)
{
    const struct fixture *fixture = *state;
    for (uint64_t stop = 0; stop < fixture->steps; stop++) {
        struct packed_stopper stopper = {.stop = stop, .signal = SIGKILL};
        int wait_status;
        unlink(fixture->packed.path);
        pid_t child = pack_in_child(fixture, &stopper);
        assert_int_equal(waitpid(child, &wait_status, 0), child);
        assert_true(WIFSIGNALED(wait_status));
        assert_false(packed_exists(fixture->packed.path));
        assert_nothing_half_opens(fixture);
        assert_int_equal(sl_pack(fixture->model_dir, NULL, NULL, NULL, NULL), SL_OK);
        packed_files_assert_same(&fixture->packed);
    }
}

static void killed_at_random_times_it_comes_to_the_same_file(void **state)
{
    const struct fixture *fixture = *state;
    uint64_t random = 3;
    int kills = 0;
    for (int round = 0; round < 40; round++) {
        int wait_status;
        unlink(fixture->packed.path);
        for (int tries = 0; tries < 4 && !packed_exists(fixture->packed.path); tries++) {
            pid_t child = pack_in_child(fixture, NULL);
            usleep(test_random_below(&random, 60000));
            kill(child, SIGKILL);
            assert_int_equal(waitpid(child, &wait_status, 0), child);
            kills += WIFSIGNALED(wait_status);
            assert_nothing_half_opens(fixture);
        }
        if (!packed_exists(fixture->packed.path))
            assert_int_equal(sl_pack(fixture->model_dir, NULL, NULL, NULL, NULL), SL_OK);
        packed_files_assert_same(&fixture->packed);
    }
    print_message("%d packs killed\n", kills);
}

/* ---- refused ------------------------------------------------------------------------------ */

struct meeting {
    const struct fixture *fixture;
    enum sl_status second;
    bool tried;
};

static bool pack_a_second_time(void *context, const char *what, uint64_t done, uint64_t total)
{
    struct meeting *meeting = context;
    (void)what, (void)done, (void)total;
    if (!meeting->tried)
        meeting->second = sl_pack(meeting->fixture->model_dir, NULL, NULL, NULL, NULL);
    meeting->tried = true;
    return true;
}

static void a_second_pack_is_refused_and_does_not_disturb_the_first(void **state)
{
    const struct fixture *fixture = *state;
    struct meeting meeting = {.fixture = fixture};
    unlink(fixture->packed.path);
    assert_int_equal(sl_pack(fixture->model_dir, NULL, pack_a_second_time, &meeting, NULL), SL_OK);
    assert_true(meeting.tried);
    assert_int_equal(meeting.second, SL_ERR_BUSY);
    packed_files_assert_same(&fixture->packed);
}

static void a_shard_is_never_overwritten(void **state)
{
    const struct fixture *fixture = *state;
    struct sl_error error = {.message = ""};
    char *config = test_path(fixture->model_dir, "config.json");
    char *before = test_read_file(config, NULL);
    assert_int_equal(sl_pack(fixture->model_dir, config, NULL, NULL, &error), SL_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, config));
    char *after = test_read_file(config, NULL);
    assert_string_equal(after, before);
    free(before);
    free(after);
    free(config);
}

static void a_size_limit_is_told_and_leaves_nothing(void **state)
{
    const struct fixture *fixture = *state;
    int wait_status;
    unlink(fixture->packed.path);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct rlimit limit = {.rlim_cur = 20000, .rlim_max = 20000};
        struct sl_error error = {.message = ""};
        signal(SIGXFSZ, SIG_IGN);
        if (setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(9);
        if (sl_pack(fixture->model_dir, NULL, NULL, NULL, &error) != SL_ERR_IO) _exit(1);
        _exit(error.os_errno == EFBIG && strstr(error.message, "ulimit") ? 0 : 2);
    }
    assert_int_equal(waitpid(child, &wait_status, 0), child);
    assert_true(WIFEXITED(wait_status));
    assert_int_equal(WEXITSTATUS(wait_status), 0);
    assert_false(packed_exists(fixture->packed.partial));
    assert_false(packed_exists(fixture->packed.path));
}

static void what_is_no_checkpoint_or_no_name_is_refused(void **state)
{
    const struct fixture *fixture = *state;
    struct sl_error error = {.message = ""};
    assert_int_equal(sl_pack(NULL, NULL, NULL, NULL, NULL), SL_ERR_ARGUMENT);
    assert_int_equal(sl_pack(fixture->model_dir, "", NULL, NULL, NULL), SL_ERR_ARGUMENT);
    assert_int_not_equal(sl_pack(fixture->packed.directory, NULL, NULL, NULL, &error), SL_OK);
    assert_non_null(strstr(error.message, fixture->packed.directory));
}

/* Appends a byte to the shard that holds the experts, or cuts it, half way through the pack. */
struct meddler {
    char *shard;
    bool cut;
    uint64_t step;
};

static bool meddle(void *context, const char *what, uint64_t done, uint64_t total)
{
    struct meddler *meddler = context;
    struct stat state;
    (void)what, (void)done, (void)total;
    if (meddler->step++ != 0) return true;
    assert_int_equal(stat(meddler->shard, &state), 0);
    assert_int_equal(truncate(meddler->shard, meddler->cut ? 4096 : state.st_size + 1), 0);
    return true;
}

static void a_checkpoint_changed_meanwhile_is_told_and_leaves_nothing(void **state)
{
    const struct fixture *fixture = *state;
    for (int cut = 0; cut <= 1; cut++) {
        struct model *model = NULL;
        struct model_file_spec want;
        struct sl_error error = {.message = ""};
        assert_int_equal(pack_open_model(fixture->model_dir, &model, &want, NULL), SL_OK);
        const struct expert_segment *last =
            &model->experts.segments[model->experts.layers * model->experts.experts *
                                         model->experts.segments_per_expert -
                                     1];
        struct meddler meddler = {.shard = strdup(model->experts.files[last->file].path),
                                  .cut = cut};
        model_close(model);
        size_t bytes;
        char *saved = test_read_file(meddler.shard, &bytes);
        unlink(fixture->packed.path);
        assert_int_equal(sl_pack(fixture->model_dir, NULL, meddle, &meddler, &error), SL_ERR_IO);
        assert_non_null(strstr(error.message, meddler.shard));
        assert_false(packed_exists(fixture->packed.path));
        assert_false(packed_exists(fixture->packed.partial));
        test_write_file(meddler.shard, saved, bytes);
        free(saved);
        free(meddler.shard);
    }
    assert_int_equal(sl_pack(fixture->model_dir, NULL, NULL, NULL, NULL), SL_OK);
    packed_files_assert_same(&fixture->packed);
}

/* ---- verify ------------------------------------------------------------------------------- */

static void verify_names_the_first_damaged_expert_and_counts_them(void **state)
{
    const struct fixture *fixture = *state;
    struct model_file *file = NULL;
    struct sl_error error = {.message = ""};
    char expected[96];
    assert_int_equal(sl_verify(fixture->packed.path, fixture->model_dir, NULL, NULL, &error),
                     SL_OK);
    assert_int_equal(sl_verify(fixture->packed.path, NULL, NULL, NULL, &error), SL_OK);
    assert_int_equal(model_file_open(fixture->packed.path, false, &file, NULL), SL_OK);
    const struct expert_source *source = model_file_source(file);
    int32_t count = source->layers * source->experts;
    uint64_t random = 5;
    for (int32_t i = 0; i < count; i++) {
        /* This one and the last of all. */
        uint64_t at = source->segments[i].offset_bytes +
                      test_random_below(&random, (uint32_t)source->slot_bytes);
        fixture->packed.whole[at] ^= 1;
        if (i < count - 1) fixture->packed.whole[fixture->packed.whole_bytes - 1] ^= 1;
        test_write_file(fixture->packed.path, fixture->packed.whole, fixture->packed.whole_bytes);
        assert_int_equal(sl_verify(fixture->packed.path, fixture->model_dir, NULL, NULL, &error),
                         SL_ERR_CHECKSUM);
        snprintf(expected, sizeof expected, "%d of %d experts are damaged, the first is expert %d",
                 i < count - 1 ? 2 : 1, count, i % source->experts);
        assert_non_null(strstr(error.message, expected));
        snprintf(expected, sizeof expected, "of layer %d ", i / source->experts);
        assert_non_null(strstr(error.message, expected));
        fixture->packed.whole[at] ^= 1;
        if (i < count - 1) fixture->packed.whole[fixture->packed.whole_bytes - 1] ^= 1;
    }
    model_file_close(file);
}

static void a_file_of_another_checkpoint_is_refused(void **state)
{
    const struct fixture *fixture = *state;
    struct sl_error error = {.message = ""};
    char *other = test_path(fixture->packed.directory, "other");
    struct model_open_options open = {.directory = other};
    struct sl_engine_options options = {.model_dir = other, .experts_file = fixture->packed.path};
    struct model *model = NULL;
    struct model_file *packed = NULL;
    struct expert_source source;
    assert_int_equal(sl_synth("tiny", other, 0, 8, NULL, NULL, NULL), SL_OK);
    assert_int_equal(sl_verify(fixture->packed.path, other, NULL, NULL, &error), SL_ERR_FORMAT);
    assert_non_null(strstr(error.message, "another checkpoint"));
    assert_int_equal(model_open(&open, &model, NULL), SL_OK);
    assert_int_equal(pack_open_source(model, &options, &packed, &source, NULL), SL_ERR_FORMAT);
    assert_null(packed);
    model_close(model);
    free(other);
}

static void verify_refuses_what_is_no_packed_file_and_can_be_cancelled(void **state)
{
    const struct fixture *fixture = *state;
    struct packed_stopper stopper = {.stop = 1};
    char *config = test_path(fixture->model_dir, "config.json");
    assert_int_equal(sl_verify(NULL, NULL, NULL, NULL, NULL), SL_ERR_ARGUMENT);
    assert_int_equal(sl_verify(config, NULL, NULL, NULL, NULL), SL_ERR_FORMAT);
    assert_int_equal(sl_verify(fixture->packed.partial, NULL, NULL, NULL, NULL), SL_ERR_IO);
    assert_int_equal(sl_verify(fixture->packed.path, NULL, packed_stop_at_step, &stopper, NULL),
                     SL_ERR_CANCELLED);
    assert_int_equal(stopper.step, 2);
    free(config);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(every_slot_holds_its_expert_in_tiles_and_zeros),
        CASE(an_engine_finds_the_packed_file_with_and_without_the_mtp_block),
        CASE(cancelled_at_any_expert_it_goes_on_to_the_same_file),
        CASE(killed_at_any_expert_it_goes_on_to_the_same_file),
        CASE(killed_at_random_times_it_comes_to_the_same_file),
        CASE(a_second_pack_is_refused_and_does_not_disturb_the_first),
        CASE(a_shard_is_never_overwritten),
        CASE(a_size_limit_is_told_and_leaves_nothing),
        CASE(what_is_no_checkpoint_or_no_name_is_refused),
        CASE(a_checkpoint_changed_meanwhile_is_told_and_leaves_nothing),
        CASE(verify_names_the_first_damaged_expert_and_counts_them),
        CASE(a_file_of_another_checkpoint_is_refused),
        CASE(verify_refuses_what_is_no_packed_file_and_can_be_cancelled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
