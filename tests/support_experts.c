/* Experts made up for tests; see the header. */
#include "tests/support_experts.h"

#include "tests/support.h"

#include <string.h>
#include <xxhash.h>

/* Parts of an unpacked expert: sizes as odd as can be, most of a slot in all. */
static const uint32_t part_bytes[EXPERT_SEGMENTS_MAX] = {2051, 131, 1777, 64, 1500, 7};
#define SLOT_BYTES 8192u

struct writer {
    uint8_t *data;
    size_t bytes, bytes_max;
};

static uint64_t append_random(struct writer *writer, size_t bytes, uint64_t *state)
{
    uint64_t offset = writer->bytes;
    SL_ASSERT(writer->bytes + bytes <= writer->bytes_max);
    for (size_t i = 0; i < bytes; i++)
        writer->data[writer->bytes++] = (uint8_t)test_random(state);
    return offset;
}

static void lay_out_unpacked(struct test_experts *experts, struct writer *writers, int32_t index,
                             uint64_t *state)
{
    struct expert_segment *segments = &experts->segments[index * EXPERT_SEGMENTS_MAX];
    uint64_t slot_offset = 0;
    for (int32_t part = 0; part < EXPERT_SEGMENTS_MAX; part++) {
        int32_t file = part >= 4; /* the last two parts live in the other file */
        /* Some gaps are small enough to be read over, some are not. */
        size_t gap = test_random_below(state, 3) ? test_random_below(state, 600) : 70000;
        append_random(&writers[file], gap, state);
        segments[part] = (struct expert_segment){
            .offset_bytes = append_random(&writers[file], part_bytes[part], state),
            .bytes = part_bytes[part],
            .file = file,
        };
    }
    /* Another order in each slot, so that what one expert leaves lies in another's gaps. */
    for (int32_t i = 0; i < EXPERT_SEGMENTS_MAX; i++) {
        struct expert_segment *segment = &segments[(i + index) % EXPERT_SEGMENTS_MAX];
        segment->slot_offset_bytes = slot_offset;
        slot_offset = align_up(slot_offset + segment->bytes, 64);
    }
    SL_ASSERT(slot_offset <= SLOT_BYTES);
}

static void fill_slots(struct test_experts *experts, const struct writer *writers, int32_t count)
{
    int32_t parts = experts->source.segments_per_expert;
    for (int32_t i = 0; i < count; i++) {
        uint8_t *slot = experts->slots + (size_t)i * SLOT_BYTES;
        for (int32_t part = 0; part < parts; part++) {
            const struct expert_segment *segment = &experts->segments[i * parts + part];
            memcpy(slot + segment->slot_offset_bytes,
                   writers[segment->file].data + segment->offset_bytes, segment->bytes);
        }
        experts->checksums[i] = XXH3_64bits(slot, SLOT_BYTES);
    }
}

void test_experts_init(struct test_experts *experts, enum test_experts_form form, int32_t layers,
                       int32_t experts_per_layer, bool direct, uint64_t seed)
{
    bool packed = form == TEST_EXPERTS_PACKED;
    int32_t count = layers * experts_per_layer, parts = packed ? 1 : EXPERT_SEGMENTS_MAX;
    size_t bytes_max = (size_t)count * (SLOT_BYTES + 6 * 70000);
    struct writer writers[2];
    struct sl_error error;
    *experts = (struct test_experts){.directory = test_make_directory("experts")};
    experts->segments = calloc((size_t)(count * parts), sizeof *experts->segments);
    experts->checksums = calloc((size_t)count, sizeof *experts->checksums);
    experts->slots = calloc((size_t)count, SLOT_BYTES);
    SL_ASSERT(experts->segments && experts->checksums && experts->slots);
    experts->source = (struct expert_source){
        .layers = layers,
        .experts = experts_per_layer,
        .slot_bytes = SLOT_BYTES,
        .files = experts->files,
        .file_count = packed ? 1 : 2,
        .segments = experts->segments,
        .segments_per_expert = parts,
    };
    for (int i = 0; i < 2; i++) {
        writers[i] = (struct writer){.data = malloc(bytes_max), .bytes_max = bytes_max};
        SL_ASSERT(writers[i].data);
    }
    for (int32_t i = 0; i < count; i++) {
        if (packed)
            experts->segments[i] = (struct expert_segment){
                .offset_bytes = append_random(&writers[0], SLOT_BYTES, &seed), .bytes = SLOT_BYTES};
        else
            lay_out_unpacked(experts, writers, i, &seed);
    }
    fill_slots(experts, writers, count);
    for (int i = 0; i < experts->source.file_count; i++) {
        char *path = test_path(experts->directory, i ? "second" : "first");
        test_write_file(path, writers[i].data, writers[i].bytes);
        assert_int_equal(io_file_open(path, direct, &experts->files[i], &error), SL_OK);
        free(path);
    }
    for (int i = 0; i < 2; i++)
        free(writers[i].data);
}

void test_experts_deinit(struct test_experts *experts)
{
    for (int i = 0; i < experts->source.file_count; i++)
        io_file_close(&experts->files[i]);
    free(experts->segments);
    free(experts->checksums);
    free(experts->slots);
    test_remove_tree(experts->directory);
    free(experts->directory);
}

const uint8_t *test_experts_slot(const struct test_experts *experts, struct expert_ref ref)
{
    return experts->slots + (size_t)(ref.layer * experts->source.experts + ref.expert) * SLOT_BYTES;
}

void test_guess(struct expert_store *store, const struct expert_ref *refs, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        struct expert_guess guess = {.ref = refs[i], .probability = 0.5f};
        expert_store_guess(store, &guess, 1);
    }
}
