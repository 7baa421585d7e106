/* The head of a packed experts file, made, written and read; the header describes the format. */
#include "offload/model_file_head.h"
#include "kernels/expert_layout.h"

#include <assert.h>
#include <endian.h>
#include <inttypes.h>
#include <string.h>
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
    AT_PART = 72,
    AT_PARTS = 76,
    AT_END = 80,
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

/* A whole file is part 0 of 0: a set of one part would be a second name for it. */
static bool part_is_sound(const struct model_file_spec *spec, uint64_t expert_count)
{
    if (spec->parts == 0) return spec->part == 0;
    return spec->parts >= 2 && spec->parts <= MODEL_FILE_PARTS_MAX &&
           (uint64_t)spec->parts <= expert_count && spec->part >= 0 && spec->part < spec->parts;
}

bool model_file_head_make(const struct model_file_spec *spec, struct model_file_head *out)
{
    if (spec->layers < 1 || spec->layers > MODEL_FILE_LAYERS_MAX) return false;
    if (spec->experts < 1 || spec->experts > MODEL_FILE_EXPERTS_MAX) return false;
    if (spec->slot_bytes < SL_PAGE_BYTES || spec->slot_bytes > MODEL_FILE_SLOT_BYTES_MAX ||
        spec->slot_bytes % SL_PAGE_BYTES)
        return false;
    uint64_t count = (uint64_t)spec->layers * (uint64_t)spec->experts;
    if (!part_is_sound(spec, count)) return false;
    if (spec->parts) count = (count - (uint64_t)spec->part - 1) / (uint64_t)spec->parts + 1;
    *out = (struct model_file_head){
        .spec = *spec, .slot_count = count, .index_start_bytes = MODEL_FILE_HEAD_BYTES};
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
    put_u32(out + AT_PART, (uint32_t)head->spec.part);
    put_u32(out + AT_PARTS, (uint32_t)head->spec.parts);
    put_u64(out + AT_HEAD_CHECKSUM, model_file_checksum(out, AT_HEAD_CHECKSUM));
}

bool model_file_holds(const struct model_file_spec *spec, uint64_t expert_idx)
{
    SL_ASSERT(expert_idx < (uint64_t)spec->layers * (uint64_t)spec->experts);
    return spec->parts == 0 || expert_idx % (uint64_t)spec->parts == (uint64_t)spec->part;
}

uint64_t model_file_slot_idx(const struct model_file_spec *spec, uint64_t expert_idx)
{
    SL_ASSERT(model_file_holds(spec, expert_idx));
    return spec->parts == 0 ? expert_idx : expert_idx / (uint64_t)spec->parts;
}

uint64_t model_file_slot_start(const struct model_file_head *head, uint64_t slot_idx)
{
    SL_ASSERT(slot_idx < head->slot_count);
    return head->data_start_bytes + slot_idx * head->spec.slot_bytes;
}

/* True and the head's fields, where they agree with each other. */
static bool decode_fields(const uint8_t *data, struct model_file_head *out)
{
    uint32_t layers = get_u32(data + AT_LAYERS);
    uint32_t experts = get_u32(data + AT_EXPERTS);
    uint32_t part = get_u32(data + AT_PART), parts = get_u32(data + AT_PARTS);
    if (layers > INT32_MAX || experts > INT32_MAX || part > INT32_MAX || parts > INT32_MAX)
        return false;
    struct model_file_spec spec = {.layers = (int32_t)layers,
                                   .experts = (int32_t)experts,
                                   .slot_bytes = get_u64(data + AT_SLOT_BYTES),
                                   .fingerprint = get_u64(data + AT_FINGERPRINT),
                                   .part = (int32_t)part,
                                   .parts = (int32_t)parts};
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
