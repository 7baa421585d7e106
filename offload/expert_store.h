/* The expert store: which expert lies where among device memory, RAM and disk, and the reads and
 * copies that move them.
 *
 * Three tiers: device slots <- host slots <- disk; without a device the first is missing. Experts
 * never change, so nothing is written back to disk, and a copy may be dropped wherever another is.
 * Owned by one thread, the engine's. All memory is taken at creation; budgets are hard. A short
 * read, -EINTR and -EAGAIN are retried; every other failure, an early end of the file and a wrong
 * checksum fail the views that wait for that expert and nothing else. A copy that fails or hangs
 * fails nothing: its views go on from the RAM it came from, and the store says why. */
#ifndef SLUICE_OFFLOAD_EXPERT_STORE_H
#define SLUICE_OFFLOAD_EXPERT_STORE_H

#include "kernels/base.h"
#include "kernels/device.h"
#include "offload/clock.h"
#include "offload/dispatch.h"
#include "offload/io.h"
#include "offload/prefetch.h"
#include "offload/residency.h"

#define EXPERT_SEGMENTS_MAX 6
#define EXPERT_DEPTH_MAX    64
/* Transient failures in a row before a read counts as failed. */
#define EXPERT_READ_RETRIES_MAX 16
/* Sentences about degraded service that are kept. */
#define EXPERT_NOTICES_MAX 8
/* Passes of more tokens than this are prefill: what they bring does not displace what decode uses.
 */
#define EXPERT_DECODE_TOKENS_MAX 16
#define EXPERT_STREAM_MAX        (2 * DISPATCH_EXPERTS_MAX) /* experts: two layers */

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

enum expert_tier { EXPERT_TIER_DISK, EXPERT_TIER_HOST, EXPERT_TIER_DEVICE, EXPERT_TIERS };

/* Who computes an expert. On the CPU backend both run the same kernels on the bytes of the view. */
enum expert_lane { EXPERT_LANE_CPU, EXPERT_LANE_DEVICE, EXPERT_LANES };

/* Exclusive: an expert in device memory gives its host slot away when another needs it, and a
 * victim leaving the device travels back into RAM. Inclusive: what is in device memory keeps its
 * host slot. AUTO: inclusive where RAM holds every expert, else exclusive. */
enum expert_sharing { EXPERT_SHARING_AUTO, EXPERT_EXCLUSIVE, EXPERT_INCLUSIVE };

/* Whether a device tier beside so many host slots for so many experts is exclusive of them. */
static inline bool expert_sharing_is_exclusive(enum expert_sharing sharing, int32_t host_slots,
                                               int32_t experts)
{
    return sharing == EXPERT_EXCLUSIVE || (sharing == EXPERT_SHARING_AUTO && host_slots < experts);
}

struct expert_store_options {
    const struct expert_source *source;
    uint64_t ram_bytes; /* hard bound on slots and staging together */
    int32_t slots_min;  /* creation fails with SL_ERR_NO_MEMORY if fewer fit */
    int32_t depth;      /* experts read at once from one disk, 1 .. 64 */
    enum io_kind io;
    const struct io_ops *io_override; /* tests: a simulated door; else NULL */
    struct device *device;            /* borrowed; NULL: no device tier */
    uint64_t device_bytes;            /* hard bound on device slots */
    int32_t stream_slots; /* of them, set aside for prefill to pass experts through: decode never
                             has them. At least one slot is left to decode */
    enum expert_sharing sharing;
    enum residency_policy policy;
    const bool *pinned_layers; /* [layers]: whose experts give way last; NULL: none. Not kept */
    int32_t prefetch_max;      /* guesses under way at once on a link; 0: depth, below 0: none */
    enum dispatch_rule rule;
    const struct rates_profile *rates;          /* measured; NULL: defaults, corrected in service */
    const struct topology_placement *placement; /* of the RAM; NULL: in turn. Not kept */
    const char
        *profile_path;    /* heat of earlier runs; NULL: none. One that cannot be used is noted */
    uint64_t fingerprint; /* of the model, which the profile must be of */
    uint64_t patience_ns; /* with a disk or a lane that does not move; 0: two seconds */
    struct clock clock;
};

enum expert_view_state { EXPERT_VIEW_PENDING, EXPERT_VIEW_READY, EXPERT_VIEW_FAILED };

/* A pinned expert. The caller's memory; the store keeps no pointer to it. While PENDING everything
 * but `ref` may still change: a copy that is given up leaves the view to the CPU. */
struct expert_view {
    struct expert_ref ref;
    int32_t slot;          /* of `tier`; -1 when FAILED */
    enum expert_tier tier; /* where the bytes are or will be, HOST or DEVICE */
    enum expert_lane lane; /* who is to compute it; DEVICE means that tier is DEVICE */
    const uint8_t *data;   /* slot_bytes, page-aligned; valid while READY and until release */
    enum expert_view_state state;
    enum sl_status status; /* of a FAILED view */
    int32_t tokens;        /* as given to acquire */
    enum expert_tier from; /* where the bytes were when it was acquired */
    uint64_t acquired_ns;  /* by the store's clock */
    uint64_t predicted_ns; /* when the store expected it to be READY, from the acquire on */
    uint64_t ready_ns;     /* and when it was; 0 while PENDING, or READY at once */
};

struct expert_store_stats {
    uint64_t hits, misses; /* acquired views that some tier held whole, that none did */
    uint64_t evictions;    /* from host slots, to make room */
    uint64_t bytes_read;   /* from disk, alignment included */
    uint64_t reads, retries, failures;
    uint64_t stall_ns; /* spent waiting for reads and copies, in wait and in acquire */
    int32_t slots, slots_ready, slots_pinned; /* of the host tier */
    uint64_t slot_bytes, ram_bytes;           /* of one slot; taken in all */
    /* With a device. */
    uint64_t from[EXPERT_TIERS];          /* acquired views by where the bytes were */
    uint64_t lanes[EXPERT_LANES];         /* released READY views by who computed them */
    uint64_t bytes_up, bytes_down;        /* over the link */
    uint64_t copies_up, copies_down;      /* done */
    uint64_t promotions;                  /* copies up in idle time, unasked */
    uint64_t streamed;                    /* copies up ahead of a prefill's layer */
    uint64_t device_evictions, demotions; /* victims that left the device; of these, into RAM */
    uint64_t redirects;                   /* views whose copy was given up */
    int32_t device_slots, device_ready, device_pinned;
    int32_t stream_slots, stream_used; /* of the device slots, set aside for prefill; in use now */
    uint64_t device_bytes;             /* taken in all */
    enum expert_sharing sharing;
};

/* What became of guesses about a layer, on all links. */
struct expert_guess_stats {
    uint64_t useful;  /* there when the router asked */
    uint64_t late;    /* still on its way, or waiting, when the router asked */
    uint64_t wasted;  /* moved, and its layer passed without asking */
    uint64_t dropped; /* never started: died, crowded out, or not worth it */
};

/* An expert that may be asked for. */
struct expert_guess {
    struct expert_ref ref;
    float probability;   /* 0 .. 1; 1: certain */
    int64_t token_clock; /* of the pass in which its layer is reached */
};

struct expert_store;

SL_MUST_USE enum sl_status expert_store_create(const struct expert_store_options *options,
                                               struct expert_store **out, struct sl_error *error);
void expert_store_destroy(struct expert_store *store); /* NULL is fine; no pins may be left */

/* Where the pass is: `token_clock` counts tokens and never goes back, `tokens` are in this pass.
 * Called before the acquires of each layer; guesses whose layer has passed die here. */
void expert_store_layer(struct expert_store *store, int64_t token_clock, int32_t layer,
                        int32_t tokens);

/* A pass of so many tokens begins: what it guesses is treated accordingly. expert_store_layer says
 * the same, later. */
void expert_store_pass(struct expert_store *store, int32_t tokens);

/* How many views may be held at once in this pass: all host slots in decode, fewer in prefill. */
int32_t expert_store_views_max(const struct expert_store *store);

/* Pins `count` distinct experts and starts moving the missing ones; returns at once. `tokens` is
 * how many tokens chose each (NULL: one). Chooses for each who computes it and from where. Fails
 * with SL_ERR_BUSY, pinning nothing, when fewer than `count` slots could be had: keep the sum of
 * views at or below expert_store_views_max. It waits in one case alone, when reads and copies that
 * nobody waits for hold the slots that are needed. Views come back READY or PENDING (another view
 * may wait for the same expert), or FAILED where the read could not even start. */
SL_MUST_USE enum sl_status expert_store_acquire(struct expert_store *store,
                                                const struct expert_ref *refs,
                                                const int32_t *tokens, int32_t count,
                                                struct expert_view *views);

/* Waits until at least one PENDING view among `views` is READY or FAILED, and updates all of them;
 * returns at once when none is pending. */
void expert_store_wait(struct expert_store *store, struct expert_view *views, int32_t count);

/* Gives up the pins, PENDING and FAILED views included. On a device that computes behind the
 * host's back a slot is used again only after what has been launched so far. */
void expert_store_release(struct expert_store *store, struct expert_view *views, int32_t count);

/* Hints, in no order: the likeliest and most urgent travel first, into free slots or in place of
 * something less likely, when no demanded read or copy wants the link. Counts no hit or miss. */
void expert_store_guess(struct expert_store *store, const struct expert_guess *guesses,
                        int32_t count);

/* One turn of completions, new reads and copies; never blocks. */
void expert_store_poll(struct expert_store *store);

/* Between passes: pins the host memory that copies were made from while the device could not be
 * asked to (device.h, host_pin). */
void expert_store_pin(struct expert_store *store);

/* ---- prefill: whole layers through the device (expert_stream.c) ---- */

/* Whether this pass can stream: it is prefill, slots are set aside, and the link works. */
bool expert_store_streams(const struct expert_store *store);
/* What is to come through the slots set aside, in this order, in place of what was: first the
 * experts of the layer under way, then any of later ones; distinct, at most EXPERT_STREAM_MAX.
 * Copies start as slots become free, from RAM or by way of it from disk; what is on the device
 * stays where it is. What came, is in nobody's view and is no longer named gives up its slot at
 * once; an expert that was used gives it up when its last view is released. Neither residency of
 * decode nor heat changes. `count` 0: nothing more, as after the last layer or when a pass is given
 * up; a pass of decode says that by itself. */
void expert_store_stream(struct expert_store *store, const struct expert_ref *refs, int32_t count);
/* Whether it is on the device in a slot that is not set aside. */
bool expert_store_stays(const struct expert_store *store, struct expert_ref ref);
/* Whether it is on the device, or on its way there: an acquire would find it. */
bool expert_store_is_coming(const struct expert_store *store, struct expert_ref ref);
/* Waits for the next read or copy to end; false when none is under way on a lane that moves. */
bool expert_store_step(struct expert_store *store);

bool expert_store_is_resident(const struct expert_store *store, struct expert_ref ref);
/* The best tier that holds the expert whole. */
enum expert_tier expert_store_tier(const struct expert_store *store, struct expert_ref ref);

/* The sentence of the last failed read, naming file, offset and reason; "" if none failed yet. */
const char *expert_store_last_failure(const struct expert_store *store);

/* Sentences about degraded service (a lane that died, memory that could not be pinned), in order
 * of their appearance; NULL from the first index that is not taken on. */
const char *expert_store_notice(const struct expert_store *store, int32_t index);

/* "io_uring, O_DIRECT, registered buffers and files" and the like, for the user. */
const char *expert_store_describe_io(const struct expert_store *store);
/* "12 device slots exclusive of 40 in RAM (huge pages, locked)" and the like. */
const char *expert_store_describe_memory(const struct expert_store *store);

void expert_store_stats_get(const struct expert_store *store, struct expert_store_stats *out);
void expert_store_guess_stats_get(const struct expert_store *store, int32_t layer,
                                  struct expert_guess_stats *out);

/* The store's own, for those who load, save, observe or explain; valid as long as the store. */
struct heat *expert_store_heat(struct expert_store *store);
/* Whether the options' profile was there and could be used. */
bool expert_store_is_warm(const struct expert_store *store);
struct rates *expert_store_rates(struct expert_store *store);

/* Asserts every invariant: no slot with two owners, states and pins consistent, lists whole, reads
 * and copies in flight accounted for, budgets kept. */
void expert_store_check(const struct expert_store *store);

#endif
