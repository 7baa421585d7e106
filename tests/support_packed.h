/* Packed experts files for tests: random slots of a small spec, writing them in one go, and the
 * directory in which that happens. */
#ifndef SLUICE_TESTS_SUPPORT_PACKED_H
#define SLUICE_TESTS_SUPPORT_PACKED_H

#include "offload/model_file_writer.h"

/* The slot that a test of this seed puts for an expert, into `slot` [spec->slot_bytes]. */
void packed_slot(const struct model_file_spec *spec, uint64_t seed, struct expert_ref ref,
                 uint8_t *slot);

/* Writes, or goes on writing, all experts of `seed` that a file of `spec` holds in a shuffled
 * order, flushing each `flush_every` puts, and finishes unless `stop_after` puts (>= 0) were made
 * before. `*put_count`, if not NULL, is what was put rather than recalled. The first failure ends
 * it. */
SL_MUST_USE enum sl_status packed_write(const char *path, const struct model_file_spec *spec,
                                        uint64_t seed, int flush_every, int stop_after,
                                        int *put_count, struct sl_error *error);

/* Fails the test unless `path` opens and holds exactly the slots of `seed`. */
void packed_assert_whole(const char *path, const struct model_file_spec *spec, uint64_t seed);

bool packed_exists(const char *path);

/* Where a test packs, and the bytes it must come to. */
struct packed_files {
    char *directory; /* fresh, removed by packed_files_deinit */
    char *path;      /* of the packed file */
    char *partial;   /* of what it is before it is whole */
    uint8_t *whole;  /* [whole_bytes]: what an undisturbed writer makes; NULL until kept */
    size_t whole_bytes;
};

/* Makes the directory; the file will lie in its `folder`, or in itself when that is NULL. */
void packed_files_init(struct packed_files *files, const char *name, const char *folder);
void packed_files_deinit(struct packed_files *files);

/* What is at `path` now is what every later file must equal. */
void packed_files_keep(struct packed_files *files);

/* Fails the test unless `path` holds exactly these bytes and the partial file is gone. */
void packed_files_assert_same(const struct packed_files *files);

/* Ends a pack at its step `stop`, as its progress: cancels it, or raises a signal. */
struct packed_stopper {
    uint64_t step, stop;
    int signal; /* raised at `stop`; 0: cancel */
};

bool packed_stop_at_step(void *context, const char *what, uint64_t done, uint64_t total);

#endif
