/* sl_pack: reads the experts of a checkpoint layer by layer, in the order of its files, and writes
 * them as slots. See pack.h; the file's format and its safety are offload/model_file.h's. */
#include "runtime/pack.h"
#include "offload/file_range.h"
#include "offload/model_file_writer.h"
#include "runtime/file_list.h"

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

enum sl_status pack_open_source(const struct model *model, const struct sl_engine_options *options,
                                struct model_file **packed, struct expert_source *source,
                                struct sl_error *error)
{
    struct model_file_spec spec;
    struct file_list list = {0};
    enum sl_status status = SL_OK;
    char *path =
        options->experts_file ? strdup(options->experts_file) : default_path(options->model_dir);
    *packed = NULL;
    *source = model->experts;
    if (!path) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory to open the experts");
    bool is_unpacked = !*path || (!options->experts_file && access(path, F_OK) != 0);
    if (is_unpacked) goto out;
    status = file_list_init(&list, path, error);
    if (status == SL_OK) status = file_list_open(&list, !options->buffered_io, packed, error);
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
    file_list_deinit(&list);
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
    struct model_file_writer *writers[MODEL_FILE_PARTS_MAX]; /* [writer_count], a part each */
    int32_t writer_count;
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

/* Whose part an expert is. */
static struct model_file_writer *writer_of(const struct packer *packer, struct expert_ref ref)
{
    int32_t idx = ref.layer * packer->model->experts.experts + ref.expert;
    SL_ASSERT(packer->writer_count > 0);
    return packer->writers[idx % packer->writer_count];
}

static enum sl_status pack_expert(struct packer *packer, struct expert_ref ref,
                                  struct sl_error *error)
{
    struct model_file_writer *writer = writer_of(packer, ref);
    bool present;
    SL_TRY(model_file_writer_recall(writer, ref, packer->slot, &present, error));
    if (!present) {
        SL_TRY(read_expert(packer, ref, error));
        SL_TRY(model_file_writer_put(writer, ref, packer->slot, error));
    }
    packer->done_bytes += packer->model->experts.slot_bytes;
    SL_ASSERT(packer->done_bytes <= packer->total_bytes);
    if (packer->progress &&
        !packer->progress(packer->context, "packing", packer->done_bytes, packer->total_bytes))
        return sl_error_set(error, SL_ERR_CANCELLED, 0,
                            "cancelled; what is packed stays in %s%s for the next run",
                            model_file_writer_partial(packer->writers[0]),
                            packer->writer_count > 1 ? " and the other parts" : "");
    return SL_OK;
}

/* Every writer, also after one has failed; the first failure is told. */
static enum sl_status flush_all(struct packer *packer, struct sl_error *error)
{
    enum sl_status status = SL_OK;
    for (int32_t i = 0; i < packer->writer_count; i++) {
        enum sl_status flushed =
            model_file_writer_flush(packer->writers[i], status == SL_OK ? error : NULL);
        if (status == SL_OK) status = flushed;
    }
    return status;
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
    enum sl_status flushed = flush_all(packer, status ? NULL : error);
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
    for (int32_t i = 0; i < packer->writer_count; i++)
        SL_TRY(model_file_writer_finish(packer->writers[i], error));
    return SL_OK;
}

/* Starts every file of the list: `spec` whole when it is one, else a part in each. What this call
 * created and a later run could not use is gone after a failure. */
static enum sl_status open_writers(struct packer *packer, const struct file_list *list,
                                   const struct model_file_spec *spec, struct sl_error *error)
{
    enum sl_status status = SL_OK;
    for (int32_t i = 0; i < list->count && status == SL_OK; i++) {
        struct model_file_spec part = *spec;
        if (list->count > 1) part.part = i, part.parts = list->count;
        status = model_file_writer_open(list->names[i], &part, &packer->writers[i], error);
        if (status == SL_OK) packer->writer_count++;
    }
    if (status == SL_OK) return SL_OK;
    for (int32_t i = 0; i < packer->writer_count; i++) {
        if (model_file_writer_is_empty(packer->writers[i]))
            model_file_writer_discard(packer->writers[i]);
        else
            model_file_writer_close(packer->writers[i]);
    }
    packer->writer_count = 0;
    return status;
}

static void close_writers(struct packer *packer, bool discard)
{
    for (int32_t i = 0; i < packer->writer_count; i++) {
        if (discard)
            model_file_writer_discard(packer->writers[i]);
        else
            model_file_writer_close(packer->writers[i]);
    }
}

/* The names to write to: `output`, or the usual place in the checkpoint's directory. */
static enum sl_status name_outputs(const char *model_dir, const char *output,
                                   struct file_list *list, struct sl_error *error)
{
    if (output) return file_list_init(list, output, error);
    char *path = default_path(model_dir);
    if (!path) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for a file name");
    /* One name, whatever commas the directory's has. */
    *list = (struct file_list){.text = path, .names = {path}, .count = 1};
    return SL_OK;
}

enum sl_status sl_pack(const char *model_dir, const char *output, sl_progress_fn progress,
                       void *context, struct sl_error *error)
{
    enum sl_status status;
    struct model *model = NULL;
    struct model_file_spec spec;
    struct packer packer = {.progress = progress, .context = context};
    struct sl_error reason = {.status = SL_OK};
    struct file_list list;
    if (!model_dir || (output && !*output))
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "pack needs a checkpoint's directory%s",
                            model_dir ? " and a name to write to" : "");
    SL_TRY(name_outputs(model_dir, output, &list, error));
    status = pack_open_model(model_dir, &model, &spec, error);
    if (status != SL_OK) goto out;
    packer.model = model;
    packer.total_bytes = (uint64_t)spec.layers * (uint64_t)spec.experts * spec.slot_bytes;
    packer.slot = aligned_alloc(SL_PAGE_BYTES, (size_t)spec.slot_bytes);
    packer.raw = malloc((size_t)spec.slot_bytes);
    packer.places = malloc((size_t)spec.experts * sizeof *packer.places);
    if (!packer.slot || !packer.raw || !packer.places) {
        status = sl_error_set(error, SL_ERR_NO_MEMORY, 0,
                              "no memory to pack experts of %" PRIu64 " bytes", spec.slot_bytes);
        goto out;
    }
    status = open_writers(&packer, &list, &spec, error);
    if (status != SL_OK) goto out;
    status = pack_all(&packer, &reason);
    if (status != SL_OK && error) *error = reason;
    close_writers(&packer, packer.hopeless || reason.os_errno == EFBIG);
out:
    free(packer.places);
    free(packer.raw);
    free(packer.slot);
    file_list_deinit(&list);
    model_close(model);
    return status;
}
