/* Opening packed experts files and joining them; see the header. */
#include "offload/model_file.h"
#include "offload/file_range.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct model_file {
    struct model_file_head head; /* of the first file */
    struct expert_source source;
    struct io_file files[MODEL_FILE_FILES_MAX]; /* [source.file_count] copies, or parts */
    uint32_t parts_held;                        /* bit p: part p is among the files */
    struct expert_segment *segments;            /* [layers, experts]; file -1: in no file yet */
    uint64_t *checksums;                        /* [layers, experts] */
};
static_assert(MODEL_FILE_PARTS_MAX <= 32, "parts_held has a bit for each");

static size_t expert_count(const struct model_file_spec *spec)
{
    return (size_t)spec->layers * (size_t)spec->experts;
}

/* ---- one file ----------------------------------------------------------------------------- */

/* Reads head and index through `fd`; fills head, and the checksums of what the file holds. */
static enum sl_status read_index(int fd, const char *path, struct model_file *file,
                                 struct sl_error *error)
{
    enum sl_status status;
    uint8_t *index = NULL;
    uint8_t head[MODEL_FILE_HEAD_BYTES];
    struct stat state;
    if (fstat(fd, &state) != 0)
        return sl_error_set(error, SL_ERR_IO, errno, "cannot look at %s: %s", path,
                            strerror(errno));
    if (!S_ISREG(state.st_mode))
        return sl_error_set(error, SL_ERR_FORMAT, 0, "%s is not a regular file", path);
    uint64_t file_bytes = (uint64_t)state.st_size;
    size_t bytes = file_bytes < sizeof head ? (size_t)file_bytes : sizeof head;
    int failure = file_range_read(fd, head, bytes, 0);
    if (failure) goto unreadable;
    SL_TRY(model_file_parse_head(head, bytes, file_bytes, path, &file->head, error));
    if (!file->head.finished)
        return sl_error_set(error, SL_ERR_FORMAT, 0,
                            "%s is unfinished: pack again, it goes on where it stopped", path);

    size_t index_bytes = (size_t)(file->head.data_start_bytes - file->head.index_start_bytes);
    const struct model_file_spec *spec = &file->head.spec;
    SL_ASSERT(index_bytes >= file->head.slot_count * sizeof(uint64_t));
    SL_ASSERT(file->head.data_start_bytes < file_bytes);
    index = malloc(index_bytes);
    file->checksums = calloc(expert_count(spec), sizeof *file->checksums);
    if (!index || !file->checksums) {
        status = sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for the index of %s", path);
        goto fail;
    }
    failure = file_range_read(fd, index, index_bytes, file->head.index_start_bytes);
    if (failure) goto unreadable;
    if (model_file_checksum(index, index_bytes) != file->head.index_checksum) {
        status = sl_error_set(error, SL_ERR_CHECKSUM, 0,
                              "the index of %s is damaged; copy it or pack again", path);
        goto fail;
    }
    for (size_t i = 0; i < expert_count(spec); i++) {
        uint64_t checksum;
        if (!model_file_holds(spec, i)) continue;
        memcpy(&checksum, index + model_file_slot_idx(spec, i) * sizeof checksum, sizeof checksum);
        file->checksums[i] = le64toh(checksum);
    }
    free(index);
    return SL_OK;
unreadable:
    status = sl_error_set(error, SL_ERR_IO, -failure, "cannot read the head of %s: %s", path,
                          strerror(-failure));
fail:
    free(index); /* the checksums are freed with the file */
    return status;
}

static enum sl_status make_source(struct model_file *file, struct sl_error *error)
{
    const struct model_file_spec *spec = &file->head.spec;
    size_t count = expert_count(spec);
    file->segments = malloc(count * sizeof *file->segments);
    if (!file->segments)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for the places of %zu experts",
                            count);
    for (size_t i = 0; i < count; i++) {
        file->segments[i] = (struct expert_segment){.bytes = spec->slot_bytes, .file = -1};
        if (!model_file_holds(spec, i)) continue;
        file->segments[i].file = 0;
        file->segments[i].offset_bytes =
            model_file_slot_start(&file->head, model_file_slot_idx(spec, i));
    }
    if (spec->parts) file->parts_held = 1u << spec->part;
    file->source = (struct expert_source){.layers = spec->layers,
                                          .experts = spec->experts,
                                          .slot_bytes = (size_t)spec->slot_bytes,
                                          .files = file->files,
                                          .file_count = 1,
                                          .segments = file->segments,
                                          .segments_per_expert = 1,
                                          .checksums = file->checksums};
    return SL_OK;
}

enum sl_status model_file_open(const char *path, bool want_direct, struct model_file **out,
                               struct sl_error *error)
{
    enum sl_status status;
    struct stat state;
    *out = NULL;
    /* Without O_NONBLOCK, a pipe of this name would keep us waiting for a writer. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return sl_error_set(error, SL_ERR_IO, errno, "cannot open %s: %s", path, strerror(errno));
    struct model_file *file = calloc(1, sizeof *file);
    if (!file) {
        close(fd);
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory to open %s", path);
    }
    file->files[0].fd = -1;
    status = read_index(fd, path, file, error);
    if (status == SL_OK) status = make_source(file, error);
    if (status != SL_OK) goto fail;
    status = io_file_open(path, want_direct, &file->files[0], error);
    if (status != SL_OK) {
        file->files[0].fd = -1;
        goto fail;
    }
    /* The name may have come to mean another file since the index was read. */
    if (fstat(fd, &state) != 0 || state.st_ino != file->files[0].inode ||
        state.st_dev != file->files[0].device || file->files[0].bytes != file->head.file_bytes) {
        status = sl_error_set(error, SL_ERR_IO, 0, "%s was replaced while it was opened", path);
        goto fail;
    }
    close(fd);
    *out = file;
    return SL_OK;
fail:
    close(fd);
    model_file_close(file);
    return status;
}

void model_file_close(struct model_file *file)
{
    if (!file) return;
    for (int32_t i = 0; i < file->source.file_count; i++)
        if (file->files[i].fd >= 0) io_file_close(&file->files[i]);
    free(file->segments);
    free(file->checksums);
    free(file);
}

/* ---- several files ------------------------------------------------------------------------ */

#define KIND_CHARS 48

/* "whole" or "part 1 of 2", as users count. */
static const char *kind_of(const struct model_file_spec *spec, char text[KIND_CHARS])
{
    if (spec->parts == 0)
        snprintf(text, KIND_CHARS, "whole");
    else
        snprintf(text, KIND_CHARS, "part %" PRId32 " of %" PRId32, spec->part + 1, spec->parts);
    return text;
}

static enum sl_status check_copy(const struct model_file *file, const struct model_file *copy,
                                 struct sl_error *error)
{
    const struct model_file_head *have = &file->head, *other = &copy->head;
    /* The index holds every slot's checksum. */
    if (have->file_bytes == other->file_bytes &&
        have->spec.fingerprint == other->spec.fingerprint &&
        have->index_checksum == other->index_checksum)
        return SL_OK;
    return sl_error_set(error, SL_ERR_FORMAT, 0,
                        "%s is no copy of %s: pack one and copy it to the other disk",
                        copy->files[0].path, file->files[0].path);
}

/* The file that holds part `part`. */
static const char *path_of_part(const struct model_file *file, int32_t part)
{
    SL_ASSERT(file->parts_held & 1u << part);
    return file->files[file->segments[part].file].path; /* expert i < parts is in part i */
}

static enum sl_status check_part(const struct model_file *file, const struct model_file *other,
                                 struct sl_error *error)
{
    const struct model_file_spec *have = &file->head.spec, *spec = &other->head.spec;
    if (have->fingerprint != spec->fingerprint)
        return sl_error_set(error, SL_ERR_FORMAT, 0,
                            "%s and %s were packed from different checkpoints (fingerprints "
                            "%016" PRIx64 " and %016" PRIx64 "); pack all parts again",
                            file->files[0].path, other->files[0].path, have->fingerprint,
                            spec->fingerprint);
    if (have->layers != spec->layers || have->experts != spec->experts ||
        have->slot_bytes != spec->slot_bytes)
        return sl_error_set(error, SL_ERR_FORMAT, 0,
                            "%s belongs to %" PRId32 " layers of %" PRId32 " experts of %" PRIu64
                            " bytes, %s to %" PRId32 " of %" PRId32 " of %" PRIu64
                            "; pack all parts again",
                            file->files[0].path, have->layers, have->experts, have->slot_bytes,
                            other->files[0].path, spec->layers, spec->experts, spec->slot_bytes);
    if (file->parts_held & 1u << spec->part)
        return sl_error_set(
            error, SL_ERR_FORMAT, 0,
            "%s and %s both are part %" PRId32 " of %" PRId32 ": name every part once",
            path_of_part(file, spec->part), other->files[0].path, spec->part + 1, spec->parts);
    return SL_OK;
}

static enum sl_status check_joins(const struct model_file *file, const struct model_file *other,
                                  struct sl_error *error)
{
    const struct model_file_spec *have = &file->head.spec, *spec = &other->head.spec;
    char kinds[2][KIND_CHARS];
    if (have->parts != spec->parts)
        return sl_error_set(error, SL_ERR_FORMAT, 0,
                            "%s is %s, %s is %s: name copies of one whole file, or all parts of "
                            "one set",
                            file->files[0].path, kind_of(have, kinds[0]), other->files[0].path,
                            kind_of(spec, kinds[1]));
    if (file->source.file_count == MODEL_FILE_FILES_MAX)
        return sl_error_set(error, SL_ERR_LIMIT, 0,
                            "%s is one too many: at most %d files of packed experts",
                            other->files[0].path, MODEL_FILE_FILES_MAX);
    return have->parts ? check_part(file, other, error) : check_copy(file, other, error);
}

enum sl_status model_file_join(struct model_file *file, struct model_file *other,
                               struct sl_error *error)
{
    int32_t at = file->source.file_count;
    SL_ASSERT(at >= 1 && other->source.file_count == 1);
    enum sl_status status = check_joins(file, other, error);
    if (status == SL_OK) {
        file->files[at] = other->files[0];
        other->files[0].fd = -1; /* given away */
        file->source.file_count = at + 1;
        file->parts_held |= other->parts_held;
        for (size_t i = 0; i < expert_count(&file->head.spec); i++) {
            if (file->head.spec.parts == 0) {
                file->segments[i].file = (int32_t)(i % (size_t)(at + 1));
            } else if (other->segments[i].file == 0) {
                SL_ASSERT(file->segments[i].file < 0);
                file->segments[i] = other->segments[i];
                file->segments[i].file = at;
                file->checksums[i] = other->checksums[i];
            }
        }
    }
    model_file_close(other);
    return status;
}

enum sl_status model_file_check_complete(const struct model_file *file, struct sl_error *error)
{
    const struct model_file_spec *spec = &file->head.spec;
    char kind[KIND_CHARS];
    SL_ASSERT(file->source.file_count <= spec->parts || spec->parts == 0);
    for (int32_t part = 0; part < spec->parts; part++)
        if (!(file->parts_held & 1u << part))
            return sl_error_set(error, SL_ERR_FORMAT, 0,
                                "%s is %s and part %" PRId32
                                " is missing: name the files of all parts, with commas between",
                                file->files[0].path, kind_of(spec, kind), part + 1);
    return SL_OK;
}

bool model_file_is_part(const struct model_file *file)
{
    return file->head.spec.parts > 0;
}

const struct expert_source *model_file_source(const struct model_file *file)
{
    return &file->source;
}

uint64_t model_file_fingerprint(const struct model_file *file)
{
    return file->head.spec.fingerprint;
}

enum sl_status model_file_match(const struct model_file *file, const struct model_file_spec *spec,
                                struct sl_error *error)
{
    const struct model_file_spec *have = &file->head.spec;
    SL_ASSERT(file->head.finished && spec->layers > 0);
    if (have->fingerprint != spec->fingerprint)
        return sl_error_set(error, SL_ERR_FORMAT, 0,
                            "%s was packed from another checkpoint (fingerprint %016" PRIx64
                            ", the checkpoint has %016" PRIx64 "); pack again",
                            file->files[0].path, have->fingerprint, spec->fingerprint);
    if (have->layers < spec->layers || have->experts != spec->experts ||
        have->slot_bytes != spec->slot_bytes)
        return sl_error_set(error, SL_ERR_FORMAT, 0,
                            "%s holds %" PRId32 " layers of %" PRId32 " experts of %" PRIu64
                            " bytes, the checkpoint needs %" PRId32 " of %" PRId32 " of %" PRIu64
                            "; pack again",
                            file->files[0].path, have->layers, have->experts, have->slot_bytes,
                            spec->layers, spec->experts, spec->slot_bytes);
    return SL_OK;
}
