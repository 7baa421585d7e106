/* The expert store: which expert lies in which slot of the RAM tier, and the reads that bring the
 * others from disk.
 *
 * Owned by one thread, the engine's. Slots go EMPTY -> READING -> (STAGED ->) READY; only READY
 * slots without pins may be evicted; a failed read goes back to EMPTY and its waiters get the
 * status. All memory is taken at creation. A short read, -EINTR and -EAGAIN are retried; every
 * other failure, an early end of the file and a wrong checksum fail the views that wait for that
 * expert and nothing else. */
#ifndef SLUICE_OFFLOAD_EXPERT_STORE_H
#define SLUICE_OFFLOAD_EXPERT_STORE_H

#include "kernels/base.h"
#include "offload/io.h"

#define EXPERT_SEGMENTS_MAX       6
#define EXPERT_DEPTH_MAX          64
#define EXPERT_PREFETCH_QUEUE_MAX 64 /* hints that wait for a read; older ones are dropped */
/* Transient failures in a row before a read counts as failed. */
#define EXPERT_READ_RETRIES_MAX 16

struct expert_ref {
    int32_t layer, expert;
};

/* One contiguous piece of an expert on disk, and where it goes in the slot. */
struct expert_segment {
    uint64_t offset_bytes; /* in the file */
    uint64_t bytes;
    uint64_t slot_offset_bytes;
    int32_t file;
};

/* Where every expert's bytes lie on disk; borrowed by the store for its whole life. A packed file
 * has one page-aligned segment of slot_bytes an expert, read straight into the slot; an unpacked
 * checkpoint has several unaligned ones, read into staging and placed: copied, or, with `place`,
 * rearranged. Bytes of a slot that no segment covers are zero. */
struct expert_source {
    int32_t layers, experts;
    size_t slot_bytes; /* a multiple of SL_PAGE_BYTES */
    const struct io_file *files;
    int32_t file_count;
    const struct expert_segment *segments; /* [layers, experts, segments_per_expert] */
    int32_t segments_per_expert;           /* 1 .. EXPERT_SEGMENTS_MAX */
    const uint64_t *checksums;             /* [layers, experts] XXH3-64 of the slot, or NULL */
    /* Fills a whole slot from an expert's segments, in their order as they lie on disk; NULL: they
     * are copied to their slot_offset_bytes. */
    void (*place)(const void *context, const uint8_t *const segments[], uint8_t *slot);
    const void *place_context; /* borrowed */
};

struct expert_store_options {
    const struct expert_source *source;
    uint64_t ram_bytes; /* hard bound on slots and staging together */
    int32_t slots_min;  /* creation fails with SL_ERR_NO_MEMORY if fewer fit */
    int32_t depth;      /* experts read at once, 1 .. 64 */
    enum io_kind io;
    const struct io_ops *io_override; /* tests: a simulated door; else NULL */
};

enum expert_view_state { EXPERT_VIEW_PENDING, EXPERT_VIEW_READY, EXPERT_VIEW_FAILED };

/* A pinned expert. The caller's memory; the store keeps no pointer to it. `data` is valid while
 * READY and until release. */
struct expert_view {
    struct expert_ref ref;
    int32_t slot;        /* -1 when FAILED */
    const uint8_t *data; /* slot_bytes, page-aligned */
    enum expert_view_state state;
    enum sl_status status; /* of a FAILED view */
};

struct expert_store_stats {
    uint64_t hits, misses; /* acquired views that were READY, that were not */
    uint64_t evictions;
    uint64_t bytes_read; /* from disk, alignment included */
    uint64_t reads, retries, failures;
    uint64_t stall_ns; /* spent waiting for reads, in wait and in acquire */
    int32_t slots, slots_ready, slots_pinned;
    uint64_t slot_bytes, ram_bytes; /* of one slot; taken in all */
};

struct expert_store;

SL_MUST_USE enum sl_status expert_store_create(const struct expert_store_options *options,
                                               struct expert_store **out, struct sl_error *error);
void expert_store_destroy(struct expert_store *store); /* NULL is fine; no pins may be left */

/* Pins `count` distinct experts and starts reading the missing ones; returns at once. Fails with
 * SL_ERR_BUSY, pinning nothing, when fewer than `count` slots could be had: keep the sum of pins at
 * or below stats.slots. It waits in one case alone, when hinted reads under way hold the slots that
 * are needed. Views come back READY or PENDING (another view may wait for the same expert), or
 * FAILED where the read could not even start. */
SL_MUST_USE enum sl_status expert_store_acquire(struct expert_store *store,
                                                const struct expert_ref *refs, int32_t count,
                                                struct expert_view *views);

/* Waits until at least one PENDING view among `views` is READY or FAILED, and updates all of them;
 * returns at once when none is pending. */
void expert_store_wait(struct expert_store *store, struct expert_view *views, int32_t count);

/* Gives up the pins, PENDING and FAILED views included. */
void expert_store_release(struct expert_store *store, struct expert_view *views, int32_t count);

/* A hint: reads these experts into free or unpinned slots when no demanded read waits its turn;
 * beyond EXPERT_PREFETCH_QUEUE_MAX the oldest hints are dropped. Counts no hit or miss. */
void expert_store_prefetch(struct expert_store *store, const struct expert_ref *refs,
                           int32_t count);

/* One turn of completions and new reads; never blocks. */
void expert_store_poll(struct expert_store *store);

bool expert_store_is_resident(const struct expert_store *store, struct expert_ref ref);

/* The sentence of the last failed read, naming file, offset and reason; "" if none failed yet. */
const char *expert_store_last_failure(const struct expert_store *store);

/* "io_uring, O_DIRECT, registered buffers and files" and the like, for the user. */
const char *expert_store_describe_io(const struct expert_store *store);

void expert_store_stats_get(const struct expert_store *store, struct expert_store_stats *out);

/* Asserts every invariant: no slot with two owners, states and pins consistent, lists whole,
 * reads in flight accounted for. */
void expert_store_check(const struct expert_store *store);

#endif
