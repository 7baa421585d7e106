/* The records of a trace: bounds, layout, checksums; see the header. */
#include "offload/trace.h"

#include <string.h>

#include <xxhash.h>

#define HEAD_CHECKSUM_AT  (TRACE_HEAD_BYTES - 8)
#define BLOCK_CHECKSUM_AT (TRACE_BLOCK_HEAD_BYTES - 8)
#define BLOCK_MAGIC       0x42544c53u /* "SLTB" */
#define END_MAGIC         0x45544c53u /* "SLTE" */

static const char head_magic[8] = {'S', 'L', 'U', 'I', 'C', 'E', 'T', 'R'};

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "records are written as they lie");

/* The head as it lies in the file. */
struct head_record {
    char magic[8];
    uint32_t version, layers, hash_layers, experts, top, list_count, guesses, zero;
    struct trace_list lists[TRACE_LISTS_MAX];
    uint8_t zeros[2];
    uint64_t slot_bytes, fingerprint;
    char source[TRACE_SOURCE_BYTES];
    uint8_t rest[80];
    uint64_t checksum;
};

_Static_assert(sizeof(struct head_record) == TRACE_HEAD_BYTES, "the head has no padding");
_Static_assert(offsetof(struct head_record, checksum) == HEAD_CHECKSUM_AT, "checksum last");

struct block_record {
    uint32_t magic, payload_bytes, steps, zero;
    uint64_t first_step, checksum;
};

_Static_assert(sizeof(struct block_record) == TRACE_BLOCK_HEAD_BYTES, "no padding");

static bool within(int32_t value, int32_t min, int32_t max)
{
    return value >= min && value <= max;
}

/* The field that is out of bounds, or NULL. */
static const char *find_fault(const struct trace_head *head)
{
    if (!within(head->layers, 1, TRACE_LAYERS_MAX)) return "layers";
    if (!within(head->hash_layers, 0, head->layers)) return "hash layers";
    if (!within(head->experts, 1, TRACE_EXPERTS_MAX)) return "experts";
    if (!within(head->top, 1, min_i32(head->experts, TRACE_TOP_MAX))) return "experts per token";
    if (!within(head->list_count, 0, TRACE_LISTS_MAX)) return "lists of guesses";
    if (!within(head->guesses, 0, TRACE_GUESSES_MAX)) return "guesses of a list";
    if ((head->list_count == 0) != (head->guesses == 0)) return "guesses of a list";
    for (int32_t i = 0; i < head->list_count; i++) {
        if (!within(head->lists[i].distance, 1, PREDICTOR_DISTANCE_MAX)) return "distance";
        if (head->lists[i].variant > PREDICTOR_AFTER) return "state of a list";
    }
    if (!memchr(head->source, 0, sizeof head->source)) return "source";
    return NULL;
}

enum sl_status trace_head_check(const struct trace_head *head, struct sl_error *error)
{
    const char *fault = find_fault(head);
    if (!fault) return SL_OK;
    return sl_error_set(error, SL_ERR_ARGUMENT, 0, "a trace cannot hold this shape: %s", fault);
}

void trace_head_encode(const struct trace_head *head, uint8_t bytes[TRACE_HEAD_BYTES])
{
    struct head_record record = {
        .version = TRACE_VERSION,
        .layers = (uint32_t)head->layers,
        .hash_layers = (uint32_t)head->hash_layers,
        .experts = (uint32_t)head->experts,
        .top = (uint32_t)head->top,
        .list_count = (uint32_t)head->list_count,
        .guesses = (uint32_t)head->guesses,
        .slot_bytes = head->slot_bytes,
        .fingerprint = head->fingerprint,
    };
    SL_ASSERT(!find_fault(head));
    memcpy(record.magic, head_magic, sizeof record.magic);
    for (int32_t i = 0; i < head->list_count; i++)
        record.lists[i] = head->lists[i];
    memcpy(record.source, head->source, strlen(head->source));
    record.checksum = XXH3_64bits(&record, HEAD_CHECKSUM_AT);
    memcpy(bytes, &record, sizeof record);
}

enum sl_status trace_head_parse(const uint8_t bytes[TRACE_HEAD_BYTES], const char *name,
                                struct trace_head *out, struct sl_error *error)
{
    struct head_record record;
    memcpy(&record, bytes, sizeof record);
    if (memcmp(record.magic, head_magic, sizeof record.magic) != 0)
        return sl_error_set(error, SL_ERR_FORMAT, 0,
                            "%s is no trace: it does not start with \"SLUICETR\"", name);
    if (record.version != TRACE_VERSION)
        return sl_error_set(error, SL_ERR_UNSUPPORTED, 0,
                            "%s: a trace of version %u, this program reads version %d; record it "
                            "again",
                            name, record.version, TRACE_VERSION);
    if (record.checksum != XXH3_64bits(bytes, HEAD_CHECKSUM_AT))
        return sl_error_set(error, SL_ERR_CHECKSUM, 0,
                            "%s: the head at offset 0 is damaged; record the trace again", name);
    *out = (struct trace_head){
        .layers = (int32_t)record.layers,
        .hash_layers = (int32_t)record.hash_layers,
        .experts = (int32_t)record.experts,
        .top = (int32_t)record.top,
        .list_count = (int32_t)record.list_count,
        .guesses = (int32_t)record.guesses,
        .slot_bytes = record.slot_bytes,
        .fingerprint = record.fingerprint,
    };
    memcpy(out->lists, record.lists, sizeof out->lists);
    memcpy(out->source, record.source, sizeof out->source);
    const char *fault = find_fault(out);
    if (fault)
        return sl_error_set(error, SL_ERR_FORMAT, 0,
                            "%s: the head at offset 0 is out of bounds: %s", name, fault);
    return SL_OK;
}

bool trace_layout_make(const struct trace_head *head, int32_t layers, int32_t tokens,
                       uint32_t flags, struct trace_layout *out)
{
    SL_ASSERT(layers >= 0 && layers <= head->layers);
    SL_ASSERT(tokens >= 1 && tokens <= TRACE_STEP_TOKENS_MAX);
    /* Bounds of the head keep each product below 2^53. */
    uint64_t pairs = (uint64_t)layers * (uint64_t)tokens;
    uint64_t at = TRACE_STEP_HEAD_BYTES;
    *out = (struct trace_layout){.ids = TRACE_STEP_HEAD_BYTES};
    out->expert_bytes = head->experts > 256 ? 2 : 1;
    at += 4 * (uint64_t)tokens;
    out->chosen = at;
    at += pairs * (uint64_t)head->top * out->expert_bytes;
    out->guesses = at;
    if (flags & TRACE_FLAG_GUESSES)
        at += pairs * (uint64_t)head->list_count * (uint64_t)head->guesses * 4;
    out->timings = at;
    if (flags & TRACE_FLAG_TIMINGS) at += (uint64_t)layers * sizeof(struct trace_timing);
    out->bytes = at;
    return at <= TRACE_STEP_BYTES_MAX;
}

uint64_t trace_block_checksum(const uint8_t bytes[TRACE_BLOCK_HEAD_BYTES], const void *payload,
                              size_t payload_bytes)
{
    return XXH3_64bits_withSeed(payload, payload_bytes, XXH3_64bits(bytes, BLOCK_CHECKSUM_AT));
}

void trace_block_encode(const struct trace_block *block, const void *payload,
                        uint8_t bytes[TRACE_BLOCK_HEAD_BYTES])
{
    struct block_record record = {.magic = block->end ? END_MAGIC : BLOCK_MAGIC,
                                  .payload_bytes = block->payload_bytes,
                                  .steps = block->steps,
                                  .first_step = block->first_step};
    memcpy(bytes, &record, sizeof record);
    record.checksum = trace_block_checksum(bytes, payload, block->payload_bytes);
    memcpy(bytes, &record, sizeof record);
}

bool trace_block_parse(const uint8_t bytes[TRACE_BLOCK_HEAD_BYTES], struct trace_block *out,
                       uint64_t *checksum)
{
    struct block_record record;
    memcpy(&record, bytes, sizeof record);
    if (record.magic != BLOCK_MAGIC && record.magic != END_MAGIC) return false;
    *out = (struct trace_block){.end = record.magic == END_MAGIC,
                                .payload_bytes = record.payload_bytes,
                                .steps = record.steps,
                                .first_step = record.first_step};
    *checksum = record.checksum;
    if (record.zero != 0) return false;
    return out->end ? out->payload_bytes == 0 && out->steps == 0
                    : out->payload_bytes > 0 && out->steps > 0;
}
