/* Packed experts files for tests; see the header. */
#include "tests/support_packed.h"
#include "offload/model_file.h"
#include "runtime/pack.h"
#include "tests/support.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

void packed_slot(const struct model_file_spec *spec, uint64_t seed, struct expert_ref ref,
                 uint8_t *slot)
{
    uint64_t state = seed ^ ((uint64_t)ref.layer << 32) ^ ((uint64_t)ref.expert << 8);
    for (size_t i = 0; i < spec->slot_bytes; i += 8) {
        uint64_t word = test_random(&state);
        memcpy(slot + i, &word, sizeof word);
    }
}

static enum sl_status write_all(struct model_file_writer *writer,
                                const struct model_file_spec *spec, uint64_t seed, int flush_every,
                                int stop_after, int *put_count, struct sl_error *error)
{
    enum sl_status status = SL_OK;
    int count = spec->layers * spec->experts;
    int first = (int)(seed % (uint64_t)count);
    int puts = 0;
    uint8_t *slot = malloc(spec->slot_bytes);
    assert_non_null(slot);
    for (int i = 0; i < count && status == SL_OK; i++) {
        /* 7919 is prime, so the steps visit every expert once. */
        int idx = (int)(((int64_t)i * 7919 + first) % count);
        struct expert_ref ref = {idx / spec->experts, idx % spec->experts};
        bool present;
        if (!model_file_holds(spec, (uint64_t)idx)) continue;
        if (stop_after >= 0 && puts >= stop_after) break;
        status = model_file_writer_recall(writer, ref, slot, &present, error);
        if (status != SL_OK || present) continue;
        packed_slot(spec, seed, ref, slot);
        status = model_file_writer_put(writer, ref, slot, error);
        puts++;
        if (status == SL_OK && puts % flush_every == 0)
            status = model_file_writer_flush(writer, error);
    }
    free(slot);
    if (put_count) *put_count = puts;
    return status;
}

enum sl_status packed_write(const char *path, const struct model_file_spec *spec, uint64_t seed,
                            int flush_every, int stop_after, int *put_count, struct sl_error *error)
{
    struct model_file_writer *writer = NULL;
    SL_TRY(model_file_writer_open(path, spec, &writer, error));
    enum sl_status status =
        write_all(writer, spec, seed, flush_every, stop_after, put_count, error);
    if (status == SL_OK && stop_after < 0) status = model_file_writer_finish(writer, error);
    model_file_writer_close(writer);
    return status;
}

void packed_assert_whole(const char *path, const struct model_file_spec *spec, uint64_t seed)
{
    struct sl_error error = {.message = ""};
    struct model_file *file = NULL;
    struct model_file_head head;
    size_t bytes;
    assert_true(model_file_head_make(spec, &head));
    if (model_file_open(path, false, &file, &error) != SL_OK) fail_msg("%s", error.message);
    char *data = test_read_file(path, &bytes);
    uint8_t *slot = malloc(spec->slot_bytes);
    assert_non_null(slot);
    const struct expert_source *source = model_file_source(file);
    assert_int_equal(bytes, head.file_bytes);
    for (int32_t i = 0; i < spec->layers * spec->experts; i++) {
        struct expert_ref ref = {i / spec->experts, i % spec->experts};
        const struct expert_segment *segment = &source->segments[i];
        if (!model_file_holds(spec, (uint64_t)i)) {
            assert_true(segment->file < 0);
            continue;
        }
        packed_slot(spec, seed, ref, slot);
        assert_int_equal(segment->file, 0);
        assert_int_equal(segment->offset_bytes,
                         model_file_slot_start(&head, model_file_slot_idx(spec, (uint64_t)i)));
        assert_true(segment->offset_bytes + spec->slot_bytes <= bytes);
        assert_memory_equal(data + segment->offset_bytes, slot, spec->slot_bytes);
        assert_int_equal(source->checksums[i], model_file_checksum(slot, spec->slot_bytes));
    }
    free(slot);
    free(data);
    model_file_close(file);
}

bool packed_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

void packed_files_init(struct packed_files *files, const char *name, const char *folder)
{
    *files = (struct packed_files){.directory = test_make_directory(name)};
    char *place = folder ? test_path(files->directory, folder) : strdup(files->directory);
    files->path = test_path(place, PACK_FILE_NAME);
    files->partial = test_path(place, PACK_FILE_NAME ".partial");
    free(place);
}

void packed_files_deinit(struct packed_files *files)
{
    test_remove_tree(files->directory);
    free(files->directory);
    free(files->path);
    free(files->partial);
    free(files->whole);
}

void packed_files_keep(struct packed_files *files)
{
    files->whole = (uint8_t *)test_read_file(files->path, &files->whole_bytes);
}

void packed_files_assert_same(const struct packed_files *files)
{
    size_t bytes;
    char *data = test_read_file(files->path, &bytes);
    assert_int_equal(bytes, files->whole_bytes);
    assert_memory_equal(data, files->whole, bytes);
    free(data);
    assert_false(packed_exists(files->partial));
}

bool packed_stop_at_step(void *context, const char *what, uint64_t done, uint64_t total)
{
    struct packed_stopper *stopper = context;
    (void)what, (void)done, (void)total;
    if (stopper->step++ < stopper->stop) return true;
    if (stopper->signal) raise(stopper->signal);
    return false;
}
