/* The packed experts file: its head, and opening it for the expert store. The format is described
 * in the header. */
#include "offload/model_file.h"
#include "kernels/expert_layout.h"
#include "offload/file_range.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define MAGIC_BYTES 8
static const char magic_finished[MAGIC_BYTES] = "SLEXPERT";
static const char magic_unfinished[MAGIC_BYTES] = "SLUNFNSH";

/* Places in the head. */
enum {
    AT_VERSION = 8,
    AT_LAYOUT = 12,
    AT_LAYERS = 16,
    AT_EXPERTS = 20,
    AT_SLOT_BYTES = 24,
    AT_INDEX_START = 32,
    AT_DATA_START = 40,
    AT_FILE_BYTES = 48,
    AT_FINGERPRINT = 56,
    AT_INDEX_CHECKSUM = 64,
    AT_END = 72,
    AT_HEAD_CHECKSUM = 4088,
};
static_assert(AT_HEAD_CHECKSUM + 8 == MODEL_FILE_HEAD_BYTES, "the checksum ends the head");
static_assert(MODEL_FILE_HEAD_BYTES % SL_PAGE_BYTES == 0, "what follows the head is aligned");

uint64_t model_file_checksum(const void *data, size_t bytes)
{
    return XXH3_64bits(data, bytes);
}

/* ---- head --------------------------------------------------------------------------------- */

static void put_u32(uint8_t *out, uint32_t value)
{
    value = htole32(value);
    memcpy(out, &value, sizeof value);
}

static void put_u64(uint8_t *out, uint64_t value)
{
    value = htole64(value);
    memcpy(out, &value, sizeof value);
}

static uint32_t get_u32(const uint8_t *data)
{
    uint32_t value;
    memcpy(&value, data, sizeof value);
    return le32toh(value);
}

static uint64_t get_u64(const uint8_t *data)
{
    uint64_t value;
    memcpy(&value, data, sizeof value);
    return le64toh(value);
}

/* The bounds leave no room for overflow: 2^22 slots of 2^29 bytes. */
static_assert(MODEL_FILE_LAYERS_MAX <= 1 << 10 && MODEL_FILE_EXPERTS_MAX <= 1 << 12,
              "file sizes stay far below 2^63");

bool model_file_head_make(const struct model_file_spec *spec, struct model_file_head *out)
{
    if (spec->layers < 1 || spec->layers > MODEL_FILE_LAYERS_MAX) return false;
    if (spec->experts < 1 || spec->experts > MODEL_FILE_EXPERTS_MAX) return false;
    if (spec->slot_bytes < SL_PAGE_BYTES || spec->slot_bytes > MODEL_FILE_SLOT_BYTES_MAX ||
        spec->slot_bytes % SL_PAGE_BYTES)
        return false;
    uint64_t count = (uint64_t)spec->layers * (uint64_t)spec->experts;
    *out = (struct model_file_head){.spec = *spec, .index_start_bytes = MODEL_FILE_HEAD_BYTES};
    out->data_start_bytes =
        align_up(out->index_start_bytes + count * sizeof(uint64_t), SL_PAGE_BYTES);
    out->file_bytes = out->data_start_bytes + count * spec->slot_bytes;
    return true;
}

void model_file_head_encode(const struct model_file_head *head, uint8_t *out)
{
    SL_ASSERT(head->index_start_bytes == MODEL_FILE_HEAD_BYTES);
    SL_ASSERT(head->finished || head->index_checksum == 0);
    memset(out, 0, MODEL_FILE_HEAD_BYTES);
    memcpy(out, head->finished ? magic_finished : magic_unfinished, MAGIC_BYTES);
    put_u32(out + AT_VERSION, MODEL_FILE_VERSION);
    put_u32(out + AT_LAYOUT, EXPERT_LAYOUT_ID);
    put_u32(out + AT_LAYERS, (uint32_t)head->spec.layers);
    put_u32(out + AT_EXPERTS, (uint32_t)head->spec.experts);
    put_u64(out + AT_SLOT_BYTES, head->spec.slot_bytes);
    put_u64(out + AT_INDEX_START, head->index_start_bytes);
    put_u64(out + AT_DATA_START, head->data_start_bytes);
    put_u64(out + AT_FILE_BYTES, head->file_bytes);
    put_u64(out + AT_FINGERPRINT, head->spec.fingerprint);
    put_u64(out + AT_INDEX_CHECKSUM, head->index_checksum);
    put_u64(out + AT_HEAD_CHECKSUM, model_file_checksum(out, AT_HEAD_CHECKSUM));
}

uint64_t model_file_slot_start(const struct model_file_head *head, int32_t layer, int32_t expert)
{
    SL_ASSERT(layer >= 0 && layer < head->spec.layers);
    SL_ASSERT(expert >= 0 && expert < head->spec.experts);
    uint64_t idx = (uint64_t)layer * (uint64_t)head->spec.experts + (uint64_t)expert;
    return head->data_start_bytes + idx * head->spec.slot_bytes;
}

/* True and the head's fields, where they agree with each other. */
static bool decode_fields(const uint8_t *data, struct model_file_head *out)
{
    uint32_t layers = get_u32(data + AT_LAYERS);
    uint32_t experts = get_u32(data + AT_EXPERTS);
    if (layers > INT32_MAX || experts > INT32_MAX) return false;
    struct model_file_spec spec = {.layers = (int32_t)layers,
                                   .experts = (int32_t)experts,
                                   .slot_bytes = get_u64(data + AT_SLOT_BYTES),
                                   .fingerprint = get_u64(data + AT_FINGERPRINT)};
    if (!model_file_head_make(&spec, out)) return false;
    out->finished = memcmp(data, magic_finished, MAGIC_BYTES) == 0;
    out->index_checksum = get_u64(data + AT_INDEX_CHECKSUM);
    for (size_t i = AT_END; i < AT_HEAD_CHECKSUM; i++)
        if (data[i] != 0) return false;
    return get_u64(data + AT_INDEX_START) == out->index_start_bytes &&
           get_u64(data + AT_DATA_START) == out->data_start_bytes &&
           get_u64(data + AT_FILE_BYTES) == out->file_bytes &&
           (out->finished || out->index_checksum == 0);
}

bool model_file_has_magic(const void *data, size_t bytes)
{
    return bytes >= MAGIC_BYTES && (memcmp(data, magic_finished, MAGIC_BYTES) == 0 ||
                                    memcmp(data, magic_unfinished, MAGIC_BYTES) == 0);
}

enum sl_status model_file_parse_head(const void *data, size_t bytes, uint64_t file_bytes,
                                     const char *path, struct model_file_head *out,
                                     struct sl_error *error)
{
    const uint8_t *head = data;
    if (!model_file_has_magic(head, bytes))
        return sl_error_set(error, SL_ERR_FORMAT, 0, "%s is not a packed experts file", path);
    if (bytes < MODEL_FILE_HEAD_BYTES)
        return sl_error_set(error, SL_ERR_FORMAT, 0,
                            "%s is cut short: %zu bytes, less than its head of %u; pack again",
                            path, bytes, MODEL_FILE_HEAD_BYTES);
    uint64_t expected = get_u64(head + AT_HEAD_CHECKSUM);
    uint64_t found = model_file_checksum(head, AT_HEAD_CHECKSUM);
    if (found != expected)
        return sl_error_set(error, SL_ERR_CHECKSUM, 0,
                            "the head of %s is damaged: checksum %016" PRIx64
                            " expected, %016" PRIx64 " found; pack again",
                            path, expected, found);
    uint32_t version = get_u32(head + AT_VERSION);
    uint32_t layout = get_u32(head + AT_LAYOUT);
    if (version != MODEL_FILE_VERSION || layout != EXPERT_LAYOUT_ID)
        return sl_error_set(error, SL_ERR_UNSUPPORTED, 0,
                            "%s has format %" PRIu32 " with slot layout %" PRIu32
                            ", this version reads format %u with layout %u; pack again",
                            path, version, layout, MODEL_FILE_VERSION, EXPERT_LAYOUT_ID);
    if (!decode_fields(head, out))
        return sl_error_set(error, SL_ERR_FORMAT, 0,
                            "the head of %s makes no sense (%" PRIu32 " layers of %" PRIu32
                            " experts of %" PRIu64 " bytes); pack again",
                            path, get_u32(head + AT_LAYERS), get_u32(head + AT_EXPERTS),
                            get_u64(head + AT_SLOT_BYTES));
    if (file_bytes != out->file_bytes)
        return sl_error_set(error, SL_ERR_FORMAT, 0,
                            "%s is %" PRIu64 " bytes long, its head says %" PRIu64
                            ": copied in part? Copy it or pack again",
                            path, file_bytes, out->file_bytes);
    return SL_OK;
}

/* ---- opening ------------------------------------------------------------------------------ */

struct model_file {
    struct model_file_head head;
    struct expert_source source;
    struct io_file files[MODEL_FILE_COPIES_MAX]; /* [source.file_count], the same bytes in each */
    struct expert_segment *segments;             /* [layers, experts] */
    uint64_t *checksums;                         /* [layers, experts] */
};

/* Reads head and index through `fd`; fills head and checksums. */
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
    size_t count = (size_t)file->head.spec.layers * (size_t)file->head.spec.experts;
    SL_ASSERT(index_bytes >= count * sizeof(uint64_t) && file->head.data_start_bytes < file_bytes);
    index = malloc(index_bytes);
    file->checksums = malloc(count * sizeof *file->checksums);
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
    for (size_t i = 0; i < count; i++)
        file->checksums[i] = get_u64(index + i * sizeof(uint64_t));
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
    size_t count = (size_t)spec->layers * (size_t)spec->experts;
    file->segments = malloc(count * sizeof *file->segments);
    if (!file->segments)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for the places of %zu experts",
                            count);
    for (size_t i = 0; i < count; i++)
        file->segments[i] = (struct expert_segment){
            .offset_bytes = file->head.data_start_bytes + i * spec->slot_bytes,
            .bytes = spec->slot_bytes,
        };
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

enum sl_status model_file_add_copy(struct model_file *file, struct model_file *copy,
                                   struct sl_error *error)
{
    const struct model_file_head *have = &file->head, *other = &copy->head;
    int32_t at = file->source.file_count;
    size_t count = (size_t)have->spec.layers * (size_t)have->spec.experts;
    enum sl_status status = SL_OK;
    SL_ASSERT(at >= 1 && copy->source.file_count == 1);
    if (at == MODEL_FILE_COPIES_MAX)
        status = sl_error_set(error, SL_ERR_LIMIT, 0, "more than %d copies of the packed experts",
                              MODEL_FILE_COPIES_MAX);
    /* The index holds every slot's checksum. */
    else if (have->file_bytes != other->file_bytes ||
             have->spec.fingerprint != other->spec.fingerprint ||
             have->index_checksum != other->index_checksum)
        status = sl_error_set(error, SL_ERR_FORMAT, 0,
                              "%s is no copy of %s: pack one and copy it to the other disk",
                              copy->files[0].path, file->files[0].path);
    if (status == SL_OK) {
        file->files[at] = copy->files[0];
        copy->files[0].fd = -1; /* given away */
        file->source.file_count = at + 1;
        for (size_t i = 0; i < count; i++)
            file->segments[i].file = (int32_t)(i % (size_t)(at + 1));
    }
    model_file_close(copy);
    return status;
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
