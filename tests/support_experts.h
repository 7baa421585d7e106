/* Experts made up for tests: files of random bytes, a source over them, and what each slot must
 * hold. */
#ifndef SLUICE_TESTS_SUPPORT_EXPERTS_H
#define SLUICE_TESTS_SUPPORT_EXPERTS_H

#include "offload/expert_store.h"

enum test_experts_form {
    TEST_EXPERTS_PACKED,   /* one aligned segment of slot_bytes */
    TEST_EXPERTS_UNPACKED, /* several segments at odd offsets, in two files */
};

struct test_experts {
    char *directory;
    struct io_file files[2];
    struct expert_segment *segments;
    uint64_t *checksums;
    uint8_t *slots; /* [layers, experts, slot_bytes], what a READY view must show */
    struct expert_source source;
};

/* Writes the files into a fresh directory and opens them, with O_DIRECT if `direct` and possible.
 * checksums are filled in but not yet part of the source. */
void test_experts_init(struct test_experts *experts, enum test_experts_form form, int32_t layers,
                       int32_t experts_per_layer, bool direct, uint64_t seed);
void test_experts_deinit(struct test_experts *experts);

/* Guesses these experts, all equally likely, for the pass at hand. */
void test_guess(struct expert_store *store, const struct expert_ref *refs, int32_t count);

/* What the slot of this expert must hold, [slot_bytes]. */
const uint8_t *test_experts_slot(const struct test_experts *experts, struct expert_ref ref);

#endif
