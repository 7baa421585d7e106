/* The reads of whole experts: ranges, staging, short reads, retries, placing and checksums.
 *
 * A fetcher owns the door, the staging memory and its fetches; the slots are the caller's. One
 * thread, the store's. A failed fetch leaves a sentence and a status and disturbs no other; a door
 * that fails as a whole fails all fetches under way and every later one. */
#ifndef SLUICE_OFFLOAD_EXPERT_FETCH_H
#define SLUICE_OFFLOAD_EXPERT_FETCH_H

#include "offload/expert_store.h"

struct expert_fetcher_options {
    const struct expert_source *source; /* checked; outlives the fetcher */
    uint8_t *slots;                     /* [slot_count, slot_bytes] */
    int32_t slot_count;
    int32_t depth; /* fetches at once from one disk, 1 .. 64; 64 in all */
    enum io_kind io;
    const struct io_ops *io_override; /* or NULL */
};

struct expert_fetch; /* one expert on its way */
struct expert_fetcher;

/* Different file systems among the source's files, which counts as disks to read from at once. */
int32_t expert_fetcher_disks(const struct expert_source *source);
/* Staging that a fetcher of this depth will take; 0 when the source can be read straight into
 * slots. */
uint64_t expert_fetcher_staging_bytes(const struct expert_source *source, int32_t depth);

SL_MUST_USE enum sl_status expert_fetcher_create(const struct expert_fetcher_options *options,
                                                 struct expert_fetcher **out,
                                                 struct sl_error *error);
/* Waits for reads in flight; NULL is fine. */
void expert_fetcher_destroy(struct expert_fetcher *fetcher);

/* Whether a fetch of any expert could start now, were its disk not busy. */
bool expert_fetcher_takes_more(const struct expert_fetcher *fetcher);
/* Whether the expert's fetch could start now: its disk has fewer than `depth` under way. */
bool expert_fetcher_has_room(const struct expert_fetcher *fetcher, int32_t expert_idx);
/* Prepares the reads of an expert into a slot; there must be room. They go out together at the next
 * expert_fetcher_submit. */
void expert_fetcher_start(struct expert_fetcher *fetcher, int32_t expert_idx, int32_t slot);
void expert_fetcher_submit(struct expert_fetcher *fetcher);

/* A fetch whose bytes have arrived or that has failed, or NULL. With `wait` it blocks until there
 * is one; some fetch must be under way then. */
struct expert_fetch *expert_fetcher_reap(struct expert_fetcher *fetcher, bool wait);
int32_t expert_fetch_slot(const struct expert_fetch *fetch);
int32_t expert_fetch_expert_idx(const struct expert_fetch *fetch);
/* Completes the slot from what arrived, verifies it and frees the fetch. SL_OK, SL_ERR_IO or
 * SL_ERR_CHECKSUM. */
enum sl_status expert_fetcher_finish(struct expert_fetcher *fetcher, struct expert_fetch *fetch);

/* Fetches started and not yet finished. */
int32_t expert_fetcher_active(const struct expert_fetcher *fetcher);
const char *expert_fetcher_last_failure(const struct expert_fetcher *fetcher);
const char *expert_fetcher_describe(const struct expert_fetcher *fetcher);
/* Fills bytes_read, reads, retries and failures. */
void expert_fetcher_stats_get(const struct expert_fetcher *fetcher, struct expert_store_stats *out);
/* Asserts that fetches and reads are accounted for. */
void expert_fetcher_check(const struct expert_fetcher *fetcher);

#endif
