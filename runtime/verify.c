/* sl_verify: reads packed files from end to end and compares every checksum, and their origin. */
#include "offload/file_range.h"
#include "runtime/file_list.h"
#include "runtime/pack.h"
#include "runtime/sl.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

struct verifier {
    const struct expert_source *source; /* of the file at hand, alone */
    uint8_t *slot;                      /* [slot_bytes] */
    sl_progress_fn progress;
    void *context;
    uint64_t done_bytes, total_bytes; /* of all files */
    uint64_t bad_count;               /* in the file at hand */
    struct expert_ref bad_first;
    char bad_reason[128]; /* of the first */
};

static void check_expert(struct verifier *verifier, struct expert_ref ref)
{
    const struct expert_source *source = verifier->source;
    char reason[sizeof verifier->bad_reason];
    size_t idx = (size_t)ref.layer * (size_t)source->experts + (size_t)ref.expert;
    uint64_t expected = source->checksums[idx];
    int failure = file_range_read(source->files->fd, verifier->slot, source->slot_bytes,
                                  source->segments[idx].offset_bytes);
    uint64_t found = failure ? 0 : model_file_checksum(verifier->slot, source->slot_bytes);
    if (!failure && found == expected) return;
    if (failure)
        snprintf(reason, sizeof reason, "cannot be read: %s", strerror(-failure));
    else
        snprintf(reason, sizeof reason, "checksum %016" PRIx64 " expected, %016" PRIx64 " found",
                 expected, found);
    if (verifier->bad_count++ > 0) return;
    verifier->bad_first = ref;
    memcpy(verifier->bad_reason, reason, sizeof reason);
}

/* Experts that the source's files hold: fewer than all in a part that is alone. */
static uint64_t held_count(const struct expert_source *source)
{
    uint64_t held = 0;
    for (int32_t i = 0; i < source->layers * source->experts; i++)
        held += source->segments[i].file >= 0;
    return held;
}

static enum sl_status check_slots(struct verifier *verifier, struct sl_error *error)
{
    const struct expert_source *source = verifier->source;
    const char *path = source->files->path;
    uint64_t count = held_count(source), done = 0;
    SL_ASSERT(!source->files->direct && source->checksums && source->file_count == 1);
    for (int32_t i = 0; i < source->layers * source->experts; i++) {
        if (source->segments[i].file < 0) continue;
        check_expert(verifier, (struct expert_ref){i / source->experts, i % source->experts});
        done++;
        verifier->done_bytes += source->slot_bytes;
        if (verifier->progress && !verifier->progress(verifier->context, "checking",
                                                      verifier->done_bytes, verifier->total_bytes))
            return sl_error_set(error, SL_ERR_CANCELLED, 0,
                                "cancelled after %" PRIu64 " of %" PRIu64 " experts of %s", done,
                                count, path);
    }
    SL_ASSERT(done == count);
    if (verifier->bad_count == 0) return SL_OK;
    return sl_error_set(error, SL_ERR_CHECKSUM, 0,
                        "%s: %" PRIu64 " of %" PRIu64 " experts are damaged, the first is expert "
                        "%" PRId32 " of layer %" PRId32 " (%s); copy the file again or pack again",
                        path, verifier->bad_count, count, verifier->bad_first.expert,
                        verifier->bad_first.layer, verifier->bad_reason);
}

static enum sl_status check_file(struct verifier *verifier, const char *path,
                                 struct sl_error *error)
{
    struct model_file *file;
    SL_TRY(model_file_open(path, false, &file, error));
    verifier->source = model_file_source(file);
    verifier->bad_count = 0;
    /* What the page cache holds would hide what the disk has lost; only a request. */
    (void)posix_fadvise(verifier->source->files->fd, 0, 0, POSIX_FADV_DONTNEED);
    (void)posix_fadvise(verifier->source->files->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    enum sl_status status = check_slots(verifier, error);
    if (status == SL_OK) status = io_file_check_unchanged(verifier->source->files, error);
    model_file_close(file);
    return status;
}

static enum sl_status check_origin(const struct model_file *file, const char *model_dir,
                                   struct sl_error *error)
{
    struct model *model = NULL;
    struct model_file_spec spec;
    SL_TRY(pack_open_model(model_dir, &model, &spec, error));
    model_close(model);
    return model_file_match(file, &spec, error);
}

enum sl_status sl_verify(const char *packed_files, const char *model_dir, sl_progress_fn progress,
                         void *context, struct sl_error *error)
{
    struct model_file *file = NULL;
    struct file_list list;
    struct verifier verifier = {.progress = progress, .context = context};
    if (!packed_files) return sl_error_set(error, SL_ERR_ARGUMENT, 0, "verify needs a packed file");
    SL_TRY(file_list_init(&list, packed_files, error));
    /* A part may be looked at alone; several files must belong together. */
    enum sl_status status = list.count == 1 ? model_file_open(list.names[0], false, &file, error)
                                            : file_list_open(&list, false, &file, error);
    if (status == SL_OK && model_dir) status = check_origin(file, model_dir, error);
    if (status != SL_OK) goto out;
    const struct expert_source *source = model_file_source(file);
    verifier.total_bytes = held_count(source) * source->slot_bytes;
    if (!model_file_is_part(file)) verifier.total_bytes *= (uint64_t)list.count; /* copies */
    verifier.slot = malloc(source->slot_bytes);
    if (!verifier.slot) {
        status = sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for a slot of %zu bytes",
                              source->slot_bytes);
        goto out;
    }
    for (int32_t i = 0; i < list.count && status == SL_OK; i++)
        status = check_file(&verifier, list.names[i], error);
out:
    free(verifier.slot);
    model_file_close(file);
    file_list_deinit(&list);
    return status;
}
