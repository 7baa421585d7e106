/* What the files of the expert store share: its state, and the steps they take for each other.
 * Nobody else includes this. One thread, the store's.
 *
 *   expert_store.c   the door: acquire, wait, release
 *   expert_setup.c   creation and end: budgets become slots
 *   expert_slots.c   which expert is in which slot of which tier: pins, victims, shadows
 *   expert_reads.c   disk to host: the queue of demanded reads, arrivals
 *   expert_moves.c   host to device and back: copies, demotions, promotions, lanes that fail
 *   expert_choose.c  who computes what, and what to fetch ahead: dispatch, prefetch and rates asked
 *   expert_stream.c  prefill: experts of the layers to come, through device slots set aside
 *   expert_report.c  what the user and the tests want to know
 *
 * A host slot that holds whole, unpinned bytes is a CANDIDATE for eviction or, when tiers are
 * exclusive and the expert is on the device as well, a SHADOW: the first to give way, since nothing
 * is lost with it. A slot whose bytes a copy is reading is held, which is one more pin. */
#ifndef SLUICE_OFFLOAD_EXPERT_STORE_STATE_H
#define SLUICE_OFFLOAD_EXPERT_STORE_STATE_H

#include "offload/arena.h"
#include "offload/expert_fetch.h"
#include "offload/expert_store.h"
#include "offload/slot_pool.h"
#include "offload/transfer.h"

#define STORE_NOTICE_BYTES_MAX 256
/* While reads and copies are both awaited the store looks at each in turn, this often. */
#define STORE_LOOK_NS 50000u
/* Copies nobody waits for, in flight at once: enough to keep the link busy, few enough that a
 * demanded one is soon at its turn. */
#define STORE_UNASKED_COPIES_MAX 2
#define STORE_RECENT_MAX         64 /* experts used from host slots, thought of for promotion */

enum host_class { HOST_NONE, HOST_CANDIDATE, HOST_SHADOW };

/* What the store knows of a host slot beyond the pool. */
struct host_slot {
    enum sl_status status; /* of a failed read, until its last waiter is gone */
    bool queued;           /* READING, but the read has not started */
    int32_t queue_next, queue_prev;
    bool held;     /* one of its pins is a copy's that reads it */
    bool wants_up; /* on arrival goes on to the device, where somebody will wait for it */
    bool by_copy;  /* READING from the device, not from disk */
    bool guessed;  /* READING because it was guessed */
    bool staged;   /* brought by prefill into room set aside: given back after use */
    bool streamed; /* READING because a prefill streams it */
    bool pinned;   /* known to the device, for fast copies */
    bool unpinned; /* the device could not be told when it should have been: later */
    enum host_class class;
    int32_t shadow_next, shadow_prev;
};

/* The same of a device slot. READING: a copy up is under way. */
struct device_slot {
    int32_t source; /* host slot held for the copy into this slot, or for waiters of its failure */
    bool candidate;
    bool leaving;   /* READY, and travelling down to RAM */
    bool staged;    /* as in host_slot */
    bool streamed;  /* takes a place of those set aside: staged, and nobody's victim */
    bool abandoned; /* READING, but nobody will get it: the owner's lookup does not lead here */
    uint64_t fence; /* of the last computation on it */
};

/* Transfers of one lane from the moment it had something to do until it has no more. */
struct store_burst {
    uint64_t start_ns;
    int32_t count; /* ended so far */
    int32_t depth; /* most at once */
};

/* What a prefill wants brought up, in order. */
struct store_stream {
    int32_t slots;   /* device slots set aside; 0: nothing streams */
    int32_t used;    /* device slots that are `streamed` */
    int32_t reads;   /* host slots that are `streamed`: each has a device slot promised */
    int32_t *order;  /* [EXPERT_STREAM_MAX or all experts] */
    uint8_t *wanted; /* [expert_count] named by the order, and not used yet */
    int32_t count;   /* of order */
    int32_t now;     /* of these, of the layer under way: they come first */
    int32_t next_up; /* looked at for copying; what was not in RAM comes by its read */
    int32_t next_read;
};

struct store_tier {
    struct slot_pool pool;
    struct residency residency; /* candidates only */
    int32_t *slot_of;           /* [expert_count], -1: neither resident nor on its way */
};

struct expert_store {
    struct expert_store_options options;
    int32_t expert_count;             /* layers * experts */
    bool exclusive;                   /* of two tiers */
    struct arena arena;               /* the host slots' */
    struct store_tier host, device;   /* device.pool.count is 0 without one */
    struct host_slot *host_slots;     /* [host.pool.count] */
    struct device_slot *device_slots; /* [device.pool.count] */
    struct expert_fetcher *fetcher;
    struct transfer transfer;
    struct heat heat; /* of all tiers */
    struct prefetch prefetch;
    struct rates rates;
    struct store_stream stream;
    struct dispatch_expert *plan_experts;     /* [plan_max], of the layer being acquired */
    struct dispatch_decision *plan_decisions; /* [plan_max] */
    int32_t *plan_order;                      /* [plan_max] */
    int32_t plan_max;
    int32_t queue_first, queue_last;   /* demanded slots whose read waits for its turn, or -1 */
    int32_t shadow_first, shadow_last; /* or -1 */
    int32_t staging_slots;             /* host slots that prefill may use at once */
    int32_t device_reserve;            /* device slots kept free for what only passes through */
    int32_t down_max; /* copies down at once, so that enough host slots stay usable */
    int32_t leaving_count, abandoned_count;
    int32_t recent[STORE_RECENT_MAX];
    int32_t recent_first, recent_count, hand; /* hand: of the search through host slots */
    int64_t token_clock, visit;
    int32_t layer, pass_tokens;
    uint64_t read_ns; /* of the last arrival from disk, or start of the first read under way */
    /* While the store waits, it sees ends as they happen, and learns what transfers take. */
    bool waiting;
    uint64_t wait_ns; /* when it began to */
    struct store_burst read_burst, copy_bursts[DEVICE_LANES];
    bool told_slow[RATES_LANES];
    uint64_t patience_ns; /* with a disk or a lane that does not move */
    bool pin_refused;
    int32_t unpinned_count;          /* of host slots */
    struct expert_store_stats stats; /* the counters; sizes are filled in when asked for */
    uint64_t ram_bytes, device_bytes;
    char notices[EXPERT_NOTICES_MAX][STORE_NOTICE_BYTES_MAX];
    const char
        *notice_formats[EXPERT_NOTICES_MAX]; /* each kind of notice is kept once, its latest */
    bool warm;                               /* the profile of earlier runs was loaded */
    int32_t notice_count;
    char memory_text[384];
};

static inline bool store_has_device(const struct expert_store *store)
{
    return store->device.pool.count > 0;
}

static inline uint64_t store_now_ns(const struct expert_store *store)
{
    return clock_now_ns(&store->options.clock);
}

static inline int32_t store_expert_idx(const struct expert_store *store, struct expert_ref ref)
{
    const struct expert_source *source = store->options.source;
    SL_ASSERT(ref.layer >= 0 && ref.layer < source->layers);
    SL_ASSERT(ref.expert >= 0 && ref.expert < source->experts);
    return ref.layer * source->experts + ref.expert;
}

static inline bool store_is_prefill(const struct expert_store *store)
{
    return store->pass_tokens > EXPERT_DECODE_TOKENS_MAX;
}

/* A prefill that has room of its own leaves alone what decode has. */
static inline bool store_is_streaming(const struct expert_store *store)
{
    return store_is_prefill(store) && store->stream.slots > 0;
}

/* Free device slots that are not set aside. */
static inline int32_t store_device_free(const struct expert_store *store)
{
    return store->device.pool.free_count - (store->stream.slots - store->stream.used);
}

/* Slots set aside that neither hold an expert nor wait for one that is being read. */
static inline int32_t store_stream_free(const struct expert_store *store)
{
    return store->stream.slots - store->stream.used - store->stream.reads;
}

/* Whether the tier holds the expert whole. */
static inline bool store_tier_holds(const struct store_tier *tier, int32_t expert_idx)
{
    int32_t slot = tier->pool.count ? tier->slot_of[expert_idx] : -1;
    return slot >= 0 && tier->pool.slots[slot].state == SLOT_READY;
}

/* A sentence about degraded service; beyond EXPERT_NOTICES_MAX nothing is added. */
void store_notice(struct expert_store *store, const char *format, ...) SL_PRINTF(2, 3);

/* ---- expert_slots.c ---- */

void slots_pin_host(struct expert_store *store, int32_t slot);
/* The last pin gone, a read that has not started is not wanted any more, and what prefill staged is
 * given back. */
void slots_unpin_host(struct expert_store *store, int32_t slot);
void slots_hold_host(struct expert_store *store, int32_t slot);
void slots_unhold_host(struct expert_store *store, int32_t slot);
void slots_pin_device(struct expert_store *store, int32_t slot);
void slots_unpin_device(struct expert_store *store, int32_t slot);

/* Puts the slot where its state and pins say: among the candidates, the shadows, or neither. */
void slots_refresh_host(struct expert_store *store, int32_t slot);
void slots_refresh_device(struct expert_store *store, int32_t slot);

/* A host slot, READING for an expert that has none; evicts a shadow or something of less value than
 * `limit` if need be. -1 when there is none. */
int32_t slots_take_host(struct expert_store *store, int32_t expert_idx, float limit);
/* A device slot for it, at once or not at all; a victim that is in RAM too is dropped, any other
 * starts on its way down. */
int32_t slots_take_device(struct expert_store *store, int32_t expert_idx, float limit,
                          enum transfer_cause cause);
/* Unpinned and READY: forgets what the slot holds. */
void slots_drop_host(struct expert_store *store, int32_t slot);
void slots_drop_device(struct expert_store *store, int32_t slot);

/* ---- expert_reads.c ---- */

void reads_demand(struct expert_store *store, int32_t host_slot);
void reads_forget(struct expert_store *store, int32_t host_slot); /* queued, and not wanted */
/* Starts a read into a slot that was taken for it; the fetcher has room. */
void reads_begin(struct expert_store *store, int32_t expert_idx, int32_t host_slot);
/* Starts what may start, demand first, then guesses when `with_guesses`. */
void reads_start(struct expert_store *store, bool with_guesses);
/* Takes in arrivals, after waiting for the first if `wait`. Returns how many. */
int32_t reads_settle(struct expert_store *store, bool wait);

/* ---- expert_moves.c ---- */

/* Starts bringing an expert that is whole in RAM and not on the device; false when no slot or no
 * place on the link is to be had now. */
bool moves_up(struct expert_store *store, int32_t expert_idx, enum transfer_cause cause,
              float limit);
/* Starts a victim on its way to RAM, or drops it where RAM or disk has it or nothing gives way. */
void moves_evict(struct expert_store *store, int32_t device_slot);
/* Takes in what has arrived, sees to lanes that fail or hang, and uses idle time. Returns how many
 * copies came to their end. */
int32_t moves_turn(struct expert_store *store, bool with_promotions);
/* Gives up a copy of a stuck lane that nobody waits for, so that its host slot can be used. */
bool moves_abandon_one(struct expert_store *store);
int32_t moves_in_flight(const struct expert_store *store);
/* Remembers a host slot's expert as used just now: it may deserve a device slot. */
void moves_note_use(struct expert_store *store, int32_t expert_idx);

/* ---- expert_stream.c ---- */

SL_MUST_USE enum sl_status stream_init(struct expert_store *store, struct sl_error *error);
void stream_deinit(struct expert_store *store);
/* Starts reads, and copies, that the stream has room for. */
void stream_read(struct expert_store *store);
void stream_turn(struct expert_store *store);
/* What the stream had read is in RAM. */
void stream_arrived(struct expert_store *store, int32_t expert_idx);
/* Gives a device slot's place among those set aside back, if it has one. */
void stream_leave(struct expert_store *store, int32_t device_slot);

/* ---- expert_report.c ---- */

void report_describe_memory(struct expert_store *store);

/* ---- expert_choose.c ---- */

SL_MUST_USE enum sl_status choose_init(struct expert_store *store, struct sl_error *error);
void choose_deinit(struct expert_store *store);
/* The pass has come to store->layer. */
void choose_layer(struct expert_store *store);
/* The router has chosen it. */
void choose_used(struct expert_store *store, const struct expert_view *view);
/* Who computes each view, and from where: sets lane, and on host slots still to be filled wants_up,
 * and starts copies of what shall be streamed. The views are pinned where their bytes are. */
void choose_lanes(struct expert_store *store, struct expert_view *views, int32_t count);
void choose_guess(struct expert_store *store, const struct expert_guess *guess);
/* The next guess to read, or to copy up; -1: none now. It counts as under way from here on, until
 * choose_guess_done. */
int32_t choose_next_read(struct expert_store *store);
int32_t choose_next_copy(struct expert_store *store);
/* Tells prefetch which links are wanted. */
void choose_watch(struct expert_store *store);
void choose_guess_done(struct expert_store *store, enum prefetch_link link, int32_t expert_idx,
                       bool arrived);
/* A transfer of the lane was started, `active` being under way with it. */
void choose_started(struct expert_store *store, struct store_burst *burst, int32_t active);
/* Some have ended, and `active` are left. When none is, what the burst took is learnt, if its end
 * was seen as it happened. */
void choose_ended(struct expert_store *store, enum rates_lane lane, struct store_burst *burst,
                  int32_t ended, int32_t active);

#endif
