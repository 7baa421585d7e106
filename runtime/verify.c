/* sl_verify: reads a packed file from end to end and compares every checksum, and its origin. */
#include "offload/file_range.h"
#include "runtime/pack.h"
#include "runtime/sl.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

struct verifier {
    const struct expert_source *source;
    uint8_t *slot; /* [slot_bytes] */
    sl_progress_fn progress;
    void *context;
    uint64_t bad_count;
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

static enum sl_status check_all(struct verifier *verifier, struct sl_error *error)
{
    const struct expert_source *source = verifier->source;
    const char *path = source->files->path;
    uint64_t count = (uint64_t)source->layers * (uint64_t)source->experts;
    uint64_t done = 0;
    SL_ASSERT(!source->files->direct && source->checksums);
    for (int32_t layer = 0; layer < source->layers; layer++) {
        for (int32_t expert = 0; expert < source->experts; expert++) {
            check_expert(verifier, (struct expert_ref){layer, expert});
            done++;
            if (verifier->progress &&
                !verifier->progress(verifier->context, "checking", done * source->slot_bytes,
                                    count * source->slot_bytes))
                return sl_error_set(error, SL_ERR_CANCELLED, 0,
                                    "cancelled after %" PRIu64 " of %" PRIu64 " experts of %s",
                                    done, count, path);
        }
    }
    SL_ASSERT(done == count);
    if (verifier->bad_count == 0) return SL_OK;
    return sl_error_set(error, SL_ERR_CHECKSUM, 0,
                        "%s: %" PRIu64 " of %" PRIu64 " experts are damaged, the first is expert "
                        "%" PRId32 " of layer %" PRId32 " (%s); copy the file again or pack again",
                        path, verifier->bad_count, count, verifier->bad_first.expert,
                        verifier->bad_first.layer, verifier->bad_reason);
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

enum sl_status sl_verify(const char *packed_file, const char *model_dir, sl_progress_fn progress,
                         void *context, struct sl_error *error)
{
    struct model_file *file = NULL;
    struct verifier verifier = {.progress = progress, .context = context};
    if (!packed_file) return sl_error_set(error, SL_ERR_ARGUMENT, 0, "verify needs a packed file");
    SL_TRY(model_file_open(packed_file, false, &file, error));
    verifier.source = model_file_source(file);
    enum sl_status status = model_dir ? check_origin(file, model_dir, error) : SL_OK;
    if (status != SL_OK) goto out;
    verifier.slot = malloc(verifier.source->slot_bytes);
    if (!verifier.slot) {
        status = sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for a slot of %zu bytes",
                              verifier.source->slot_bytes);
        goto out;
    }
    /* What the page cache holds would hide what the disk has lost; only a request. */
    (void)posix_fadvise(verifier.source->files->fd, 0, 0, POSIX_FADV_DONTNEED);
    (void)posix_fadvise(verifier.source->files->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    status = check_all(&verifier, error);
    if (status == SL_OK) status = io_file_check_unchanged(verifier.source->files, error);
out:
    free(verifier.slot);
    model_file_close(file);
    return status;
}
