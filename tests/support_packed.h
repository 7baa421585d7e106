/* Packed experts files for tests: random slots of a small spec, and writing them in one go. */
#ifndef SLUICE_TESTS_SUPPORT_PACKED_H
#define SLUICE_TESTS_SUPPORT_PACKED_H

#include "offload/model_file_writer.h"

/* The slot that a test of this seed puts for an expert, into `slot` [spec->slot_bytes]. */
void packed_slot(const struct model_file_spec *spec, uint64_t seed, struct expert_ref ref,
                 uint8_t *slot);

/* Writes, or goes on writing, all experts of `seed` in a shuffled order, flushing each
 * `flush_every` puts, and finishes unless `stop_after` puts (>= 0) were made before. `*put_count`,
 * if not NULL, is what was put rather than recalled. The first failure ends it. */
SL_MUST_USE enum sl_status packed_write(const char *path, const struct model_file_spec *spec,
                                        uint64_t seed, int flush_every, int stop_after,
                                        int *put_count, struct sl_error *error);

/* Fails the test unless `path` opens and holds exactly the slots of `seed`. */
void packed_assert_whole(const char *path, const struct model_file_spec *spec, uint64_t seed);

bool packed_exists(const char *path);

/* Fails the test unless `path` holds exactly these bytes and the partial file is gone. */
void packed_assert_same(const char *path, const char *partial, const char *whole,
                        size_t whole_bytes);

#endif
