/* sl_pack: reads the experts of a checkpoint layer by layer, in the order of its files, and writes
 * them as slots. See pack.h; the file's format and its safety are offload/model_file.h's. */
#include "runtime/pack.h"
#include "offload/file_range.h"
#include "offload/model_file_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

enum sl_status pack_spec(const struct model *model, struct model_file_spec *out,
                         struct sl_error *error)
{
    *out = (struct model_file_spec){.layers = model->experts.layers,
                                    .experts = model->experts.experts,
                                    .slot_bytes = model->experts.slot_bytes};
    SL_ASSERT(out->slot_bytes == model->expert_layout.slot_bytes);
    return model_fingerprint(model, &out->fingerprint, error);
}

enum sl_status pack_open_model(const char *model_dir, struct model **out,
                               struct model_file_spec *spec, struct sl_error *error)
{
    struct model_open_options options = {.directory = model_dir, .want_mtp = true};
    *out = NULL;
    SL_TRY(model_open(&options, out, error));
    enum sl_status status = pack_spec(*out, spec, error);
    if (status != SL_OK) {
        model_close(*out);
        *out = NULL;
    }
    return status;
}

/* DIR/experts.sluice in heap memory, or NULL. */
static char *default_path(const char *model_dir)
{
    char *path = NULL;
    return asprintf(&path, "%s/%s", model_dir, PACK_FILE_NAME) < 0 ? NULL : path;
}

/* Opens "FILE" or "FILE,FILE...", copies of each other; a name with a comma that exists is one
 * file. Cuts `paths` up. */
static enum sl_status open_copies(char *paths, bool want_direct, struct model_file **packed,
                                  struct sl_error *error)
{
    char *rest = paths;
    if (access(paths, F_OK) == 0) return model_file_open(paths, want_direct, packed, error);
    for (char *path = strsep(&rest, ","); path; path = strsep(&rest, ",")) {
        struct model_file *file;
        SL_TRY(model_file_open(path, want_direct, &file, error));
        if (*packed)
            SL_TRY(model_file_add_copy(*packed, file, error));
        else
            *packed = file;
    }
    return SL_OK;
}

enum sl_status pack_open_source(const struct model *model, const struct sl_engine_options *options,
                                struct model_file **packed, struct expert_source *source,
                                struct sl_error *error)
{
    struct model_file_spec spec;
    enum sl_status status = SL_OK;
    char *path =
        options->experts_file ? strdup(options->experts_file) : default_path(options->model_dir);
    *packed = NULL;
    *source = model->experts;
    if (!path) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory to open the experts");
    bool is_unpacked = !*path || (!options->experts_file && access(path, F_OK) != 0);
    if (is_unpacked) goto out;
    status = open_copies(path, !options->buffered_io, packed, error);
    if (status == SL_OK) status = pack_spec(model, &spec, error);
    if (status == SL_OK) status = model_file_match(*packed, &spec, error);
    if (status != SL_OK) {
        model_file_close(*packed);
        *packed = NULL;
        goto out;
    }
    *source = *model_file_source(*packed);
    SL_ASSERT(source->layers >= model->experts.layers);
    source->layers = model->experts.layers;
out:
    free(path);
    return status;
}

/* ---- packing ------------------------------------------------------------------------------ */

/* An expert of the layer at hand, and where its first byte lies. */
struct place {
    int32_t file, expert;
    uint64_t offset_bytes;
};

struct packer {
    const struct model *model;
    struct model_file_writer *writer;
    uint8_t *slot;        /* [slot_bytes] */
    uint8_t *raw;         /* [slot_bytes] an expert's segments as published */
    struct place *places; /* [experts] */
    sl_progress_fn progress;
    void *context;
    uint64_t done_bytes, total_bytes;
    bool hopeless; /* the failure is one that a later run would meet again */
};

static const struct expert_segment *segments_of(const struct expert_source *source,
                                                struct expert_ref ref)
{
    SL_ASSERT(ref.layer < source->layers && ref.expert < source->experts);
    size_t idx = (size_t)ref.layer * (size_t)source->experts + (size_t)ref.expert;
    return source->segments + idx * (size_t)source->segments_per_expert;
}

static int compare_places(const void *a, const void *b)
{
    const struct place *left = a, *right = b;
    if (left->file != right->file) return left->file < right->file ? -1 : 1;
    if (left->offset_bytes != right->offset_bytes)
        return left->offset_bytes < right->offset_bytes ? -1 : 1;
    return 0;
}

/* The experts of a layer in the order of the files, so that the disk is read forwards. */
static void order_layer(struct packer *packer, int32_t layer)
{
    const struct expert_source *source = &packer->model->experts;
    for (int32_t expert = 0; expert < source->experts; expert++) {
        const struct expert_segment *first =
            segments_of(source, (struct expert_ref){layer, expert});
        packer->places[expert] = (struct place){
            .file = first->file, .expert = expert, .offset_bytes = first->offset_bytes};
    }
    qsort(packer->places, (size_t)source->experts, sizeof *packer->places, compare_places);
}

/* Tells the system what will be read next; only a hint. */
static void announce(const struct expert_source *source, struct expert_ref ref)
{
    const struct expert_segment *segments = segments_of(source, ref);
    for (int32_t i = 0; i < source->segments_per_expert; i++)
        (void)posix_fadvise(source->files[segments[i].file].fd, (off_t)segments[i].offset_bytes,
                            (off_t)segments[i].bytes, POSIX_FADV_WILLNEED);
}

/* Lays one expert out in packer->slot. */
static enum sl_status read_expert(struct packer *packer, struct expert_ref ref,
                                  struct sl_error *error)
{
    const struct expert_source *source = &packer->model->experts;
    const struct expert_segment *segments = segments_of(source, ref);
    const uint8_t *parts[EXPERT_SEGMENTS_MAX];
    SL_ASSERT(source->place && source->segments_per_expert <= EXPERT_SEGMENTS_MAX);
    for (int32_t i = 0; i < source->segments_per_expert; i++) {
        const struct expert_segment *segment = &segments[i];
        const struct io_file *file = &source->files[segment->file];
        SL_ASSERT(!file->direct && segment->file < source->file_count);
        SL_ASSERT(segment->bytes <= source->slot_bytes &&
                  segment->slot_offset_bytes <= source->slot_bytes - segment->bytes);
        uint8_t *part = packer->raw + segment->slot_offset_bytes;
        int failure =
            file_range_read(file->fd, part, (size_t)segment->bytes, segment->offset_bytes);
        parts[i] = part;
        if (!failure) continue;
        packer->hopeless = failure == -ENODATA;
        return sl_error_set(error, SL_ERR_IO, -failure,
                            "cannot read expert %" PRId32 " of layer %" PRId32 " (%" PRIu64
                            " bytes at %" PRIu64 " of %s): %s",
                            ref.expert, ref.layer, segment->bytes, segment->offset_bytes,
                            file->path,
                            failure == -ENODATA ? "the file ends before" : strerror(-failure));
    }
    source->place(source->place_context, parts, packer->slot);
    return SL_OK;
}

static enum sl_status pack_expert(struct packer *packer, struct expert_ref ref,
                                  struct sl_error *error)
{
    bool present;
    SL_TRY(model_file_writer_recall(packer->writer, ref, packer->slot, &present, error));
    if (!present) {
        SL_TRY(read_expert(packer, ref, error));
        SL_TRY(model_file_writer_put(packer->writer, ref, packer->slot, error));
    }
    packer->done_bytes += packer->model->experts.slot_bytes;
    SL_ASSERT(packer->done_bytes <= packer->total_bytes);
    if (packer->progress &&
        !packer->progress(packer->context, "packing", packer->done_bytes, packer->total_bytes))
        return sl_error_set(error, SL_ERR_CANCELLED, 0,
                            "cancelled; what is packed stays in %s for the next run",
                            model_file_writer_partial(packer->writer));
    return SL_OK;
}

static enum sl_status pack_layer(struct packer *packer, int32_t layer, struct sl_error *error)
{
    const struct expert_source *source = &packer->model->experts;
    enum sl_status status = SL_OK;
    order_layer(packer, layer);
    for (int32_t i = 0; i < source->experts && status == SL_OK; i++) {
        if (i + 1 < source->experts)
            announce(source, (struct expert_ref){layer, packer->places[i + 1].expert});
        status = pack_expert(packer, (struct expert_ref){layer, packer->places[i].expert}, error);
    }
    /* Also when cut off here: what is on disk need not be packed again. */
    enum sl_status flushed = model_file_writer_flush(packer->writer, status ? NULL : error);
    return status != SL_OK ? status : flushed;
}

static enum sl_status pack_all(struct packer *packer, struct sl_error *error)
{
    for (int32_t layer = 0; layer < packer->model->experts.layers; layer++)
        SL_TRY(pack_layer(packer, layer, error));
    enum sl_status status = model_check_unchanged(packer->model, error);
    if (status != SL_OK) {
        packer->hopeless = true;
        return status;
    }
    return model_file_writer_finish(packer->writer, error);
}

enum sl_status sl_pack(const char *model_dir, const char *output, sl_progress_fn progress,
                       void *context, struct sl_error *error)
{
    enum sl_status status;
    struct model *model = NULL;
    struct model_file_spec spec;
    struct packer packer = {.progress = progress, .context = context};
    struct sl_error reason = {.status = SL_OK};
    char *path;
    if (!model_dir || (output && !*output))
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "pack needs a checkpoint's directory%s",
                            model_dir ? " and a name to write to" : "");
    SL_TRY(pack_open_model(model_dir, &model, &spec, error));
    packer.model = model;
    packer.total_bytes = (uint64_t)spec.layers * (uint64_t)spec.experts * spec.slot_bytes;
    path = output ? strdup(output) : default_path(model_dir);
    packer.slot = aligned_alloc(SL_PAGE_BYTES, (size_t)spec.slot_bytes);
    packer.raw = malloc((size_t)spec.slot_bytes);
    packer.places = malloc((size_t)spec.experts * sizeof *packer.places);
    if (!path || !packer.slot || !packer.raw || !packer.places) {
        status = sl_error_set(error, SL_ERR_NO_MEMORY, 0,
                              "no memory to pack experts of %" PRIu64 " bytes", spec.slot_bytes);
        goto out;
    }
    status = model_file_writer_open(path, &spec, &packer.writer, error);
    if (status != SL_OK) goto out;
    status = pack_all(&packer, &reason);
    if (status != SL_OK && error) *error = reason;
    if (packer.hopeless || reason.os_errno == EFBIG)
        model_file_writer_discard(packer.writer);
    else
        model_file_writer_close(packer.writer);
out:
    free(packer.places);
    free(packer.raw);
    free(packer.slot);
    free(path);
    model_close(model);
    return status;
}
