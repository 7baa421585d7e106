/* The queues of guesses, one a link; see the header. */
#include "offload/prefetch.h"

#include <math.h>

/* Guesses that halve the weight of older experience. */
#define BELIEF_HALF_LIFE 64
/* Guesses come true as promised until so many say otherwise. */
#define BELIEF_PRIOR 2.0
/* A visit that took longer (shorter) than the estimate moves it up (down) by this part. */
#define VISIT_STEP 0.04
/* What moves the estimate of the time between demands half of the way, in gaps. */
#define GAP_HALF_LIFE 16
/* Of a trial that promises nothing: less than of anything that does. */
#define TRIAL_WORTH 1e-6
/* A gap counts as so many means at most: between two answers lies any time. */
#define GAP_MAX 8

static int32_t layer_of(const struct prefetch *prefetch, const struct prefetch_guess *guess)
{
    return guess->expert_idx / prefetch->options.experts;
}

static struct prefetch_counts *counts_of(struct prefetch *prefetch,
                                         const struct prefetch_guess *guess)
{
    return &prefetch->counts[layer_of(prefetch, guess)];
}

enum sl_status prefetch_init(struct prefetch *prefetch, const struct prefetch_options *options,
                             struct sl_error *error)
{
    SL_ASSERT(options->layers > 0 && options->experts > 0);
    *prefetch = (struct prefetch){.options = *options, .visit = -1, .last_ns = -1};
    for (int32_t i = 0; i < PREFETCH_LINKS; i++) {
        prefetch->queues[i].changed_ns = -1;
        if (options->flight_max[i] < 0 || options->flight_max[i] > PREFETCH_FLIGHT_MAX)
            return sl_error_set(error, SL_ERR_ARGUMENT, 0, "%d prefetches in flight: give 0 to %d",
                                (int)options->flight_max[i], PREFETCH_FLIGHT_MAX);
    }
    prefetch->counts = calloc((size_t)options->layers, sizeof *prefetch->counts);
    if (!prefetch->counts)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory to count guesses");
    return SL_OK;
}

void prefetch_deinit(struct prefetch *prefetch)
{
    free(prefetch->counts);
    *prefetch = (struct prefetch){0};
}

/* ---- belief ---- */

/* Certain guesses teach nothing about the uncertain ones. */
static void learn(struct prefetch_queue *queue, float probability, bool came)
{
    if (probability >= 1) return;
    double keep = exp2(-1.0 / BELIEF_HALF_LIFE);
    queue->hoped = queue->hoped * keep + (double)probability;
    queue->came = queue->came * keep + (came ? 1 : 0);
}

float prefetch_believe(const struct prefetch *prefetch, enum prefetch_link link, float probability)
{
    const struct prefetch_queue *queue = &prefetch->queues[link];
    if (probability >= 1) return 1;
    double trust = (queue->came + BELIEF_PRIOR) / (queue->hoped + BELIEF_PRIOR);
    return (float)fmin((double)probability * trust, 0.999);
}

static void settle(struct prefetch *prefetch, struct prefetch_queue *queue,
                   struct prefetch_entry *entry, bool used)
{
    struct prefetch_counts *counts = counts_of(prefetch, &entry->guess);
    SL_ASSERT(!entry->settled);
    entry->settled = true;
    entry->awaited = used && entry->in_flight;
    if (!used)
        counts->wasted++;
    else if (entry->awaited)
        counts->late++;
    else
        counts->useful++;
    learn(queue, entry->guess.probability, used);
}

/* ---- lists ---- */

static void drop_waiting(struct prefetch_queue *queue, int32_t i)
{
    queue->waiting[i] = queue->waiting[--queue->waiting_count];
}

static void drop_started(struct prefetch_queue *queue, int32_t i)
{
    queue->started[i] = queue->started[--queue->started_count];
}

static int32_t find_waiting(const struct prefetch_queue *queue, int32_t expert_idx)
{
    for (int32_t i = 0; i < queue->waiting_count; i++)
        if (queue->waiting[i].expert_idx == expert_idx) return i;
    return -1;
}

static int32_t find_started(const struct prefetch_queue *queue, int32_t expert_idx)
{
    for (int32_t i = 0; i < queue->started_count; i++)
        if (queue->started[i].guess.expert_idx == expert_idx) return i;
    return -1;
}

/* ---- where decode is ---- */

static void bury(struct prefetch *prefetch, struct prefetch_queue *queue)
{
    for (int32_t i = queue->waiting_count - 1; i >= 0; i--) {
        if (queue->waiting[i].visit >= prefetch->visit) continue;
        counts_of(prefetch, &queue->waiting[i])->dropped++;
        drop_waiting(queue, i);
    }
    for (int32_t i = queue->started_count - 1; i >= 0; i--) {
        struct prefetch_entry *entry = &queue->started[i];
        if (entry->guess.visit >= prefetch->visit) continue;
        if (!entry->settled) settle(prefetch, queue, entry, false);
        if (!entry->in_flight) drop_started(queue, i);
    }
}

void prefetch_visit(struct prefetch *prefetch, int64_t visit, int64_t now_ns)
{
    SL_ASSERT(visit >= prefetch->visit);
    if (prefetch->last_ns >= 0 && visit > prefetch->visit && now_ns >= prefetch->last_ns) {
        double passed = (double)(visit - prefetch->visit);
        double each = (double)(now_ns - prefetch->last_ns) / passed;
        double known = prefetch->visit_ns;
        prefetch->visit_ns =
            known > 0 ? known * (each > known ? 1 + VISIT_STEP : 1 - VISIT_STEP) : each;
    }
    prefetch->visit = visit;
    prefetch->last_ns = now_ns;
    for (int32_t link = 0; link < PREFETCH_LINKS; link++)
        bury(prefetch, &prefetch->queues[link]);
}

/* ---- when a link is wanted ---- */

void prefetch_watch(struct prefetch *prefetch, enum prefetch_link link, bool wanted, int64_t now_ns)
{
    struct prefetch_queue *queue = &prefetch->queues[link];
    if (wanted == queue->wanted) return;
    queue->wanted = wanted;
    if (wanted && queue->changed_ns >= 0) {
        double gap = fmax((double)(now_ns - queue->changed_ns), 0);
        double keep = queue->gap_ns > 0 ? exp2(-1.0 / GAP_HALF_LIFE) : 0;
        if (queue->gap_ns > 0) gap = fmin(gap, GAP_MAX * queue->gap_ns);
        queue->gap_ns = queue->gap_ns * keep + gap * (1 - keep);
    }
    queue->changed_ns = now_ns;
}

int32_t prefetch_unasked(const struct prefetch *prefetch, enum prefetch_link link)
{
    const struct prefetch_queue *queue = &prefetch->queues[link];
    int32_t awaited = 0;
    for (int32_t i = 0; i < queue->started_count; i++)
        awaited += queue->started[i].in_flight && queue->started[i].awaited;
    return queue->flight_count - awaited;
}

/* ---- guesses ---- */

void prefetch_offer(struct prefetch *prefetch, enum prefetch_link link,
                    const struct prefetch_guess *guess)
{
    struct prefetch_queue *queue = &prefetch->queues[link];
    SL_ASSERT(guess->expert_idx >= 0 && layer_of(prefetch, guess) < prefetch->options.layers);
    if (prefetch->options.flight_max[link] == 0 || !(guess->probability > 0)) return;
    if (guess->visit <= prefetch->visit) {
        counts_of(prefetch, guess)->dropped++;
        return;
    }
    if (find_started(queue, guess->expert_idx) >= 0) return;
    int32_t found = find_waiting(queue, guess->expert_idx);
    if (found >= 0) {
        struct prefetch_guess *known = &queue->waiting[found];
        if (guess->probability > known->probability) *known = *guess;
        return;
    }
    if (queue->waiting_count < PREFETCH_QUEUE_MAX) {
        queue->waiting[queue->waiting_count++] = *guess;
        return;
    }
    int32_t least = 0;
    for (int32_t i = 1; i < queue->waiting_count; i++)
        if (queue->waiting[i].probability < queue->waiting[least].probability) least = i;
    bool better = guess->probability > queue->waiting[least].probability;
    counts_of(prefetch, better ? &queue->waiting[least] : guess)->dropped++;
    if (better) queue->waiting[least] = *guess;
}

/* What of a transfer falls into time in which the link would stand idle: before the guess matters,
 * and before anything is demanded. */
static double won_ns(const struct prefetch *prefetch, const struct prefetch_queue *queue,
                     const struct prefetch_guess *guess, struct prefetch_transfer transfer)
{
    double left = prefetch->visit_ns > 0
                      ? (double)(guess->visit - prefetch->visit) * prefetch->visit_ns
                      : INFINITY;
    if (queue->gap_ns > 0) left = fmin(left, queue->gap_ns);
    return fmin(fmax(left - transfer.wait_ns, 0), transfer.busy_ns);
}

/* What of it the next demand waits for, on average, if that comes after any time. */
static double delay_ns(const struct prefetch_queue *queue, struct prefetch_transfer transfer)
{
    double gap = queue->gap_ns;
    if (gap <= 0) return 0;
    double idle =
        gap * (exp(-transfer.wait_ns / gap) - exp(-(transfer.wait_ns + transfer.busy_ns) / gap));
    return transfer.busy_ns - idle;
}

/* What starting it promises, 0 .. 2; 0 or less: nothing. */
static double worth_of(const struct prefetch *prefetch, const struct prefetch_queue *queue,
                       const struct prefetch_guess *guess, double believed,
                       struct prefetch_transfer transfer)
{
    if (believed >= 1) return 1 + 1 / (double)(guess->visit - prefetch->visit);
    double won = won_ns(prefetch, queue, guess, transfer);
    double lost = delay_ns(queue, transfer);
    return transfer.busy_ns > 0 ? (believed * won - (1 - believed) * lost) / transfer.busy_ns
                                : believed;
}

bool prefetch_next(struct prefetch *prefetch, enum prefetch_link link,
                   struct prefetch_transfer transfer, float evicted_value,
                   struct prefetch_guess *out)
{
    struct prefetch_queue *queue = &prefetch->queues[link];
    if (queue->flight_count >= prefetch->options.flight_max[link] ||
        queue->started_count == PREFETCH_QUEUE_MAX)
        return false;
    int32_t best = -1;
    double best_worth = 0;
    bool trial = prefetch->visit >= queue->trial_visit;
    for (int32_t i = 0; i < queue->waiting_count; i++) {
        const struct prefetch_guess *guess = &queue->waiting[i];
        if (guess->visit <= prefetch->visit) continue;
        float believed = prefetch_believe(prefetch, link, guess->probability);
        if (believed <= evicted_value) continue;
        double worth = worth_of(prefetch, queue, guess, (double)believed, transfer);
        if (believed < PREFETCH_PROBABILITY_MIN) worth = 0;
        if (trial) worth = fmax(worth, (double)believed * TRIAL_WORTH);
        if (worth <= best_worth) continue;
        best = i;
        best_worth = worth;
    }
    if (best < 0) return false;
    *out = queue->waiting[best];
    drop_waiting(queue, best);
    queue->started[queue->started_count++] =
        (struct prefetch_entry){.guess = *out, .in_flight = true};
    queue->flight_count++;
    queue->trial_visit = prefetch->visit + PREFETCH_TRIAL_VISITS;
    counts_of(prefetch, out)->started++;
    return true;
}

void prefetch_done(struct prefetch *prefetch, enum prefetch_link link, int32_t expert_idx,
                   bool arrived)
{
    struct prefetch_queue *queue = &prefetch->queues[link];
    int32_t found = find_started(queue, expert_idx);
    SL_ASSERT(found >= 0 && queue->started[found].in_flight);
    struct prefetch_entry *entry = &queue->started[found];
    entry->in_flight = false;
    queue->flight_count--;
    if (!arrived && !entry->settled) {
        /* No fault of the guess: nothing is learnt. */
        counts_of(prefetch, &entry->guess)->wasted++;
        entry->settled = true;
    }
    if (entry->settled) drop_started(queue, found);
}

void prefetch_used(struct prefetch *prefetch, int32_t expert_idx)
{
    for (int32_t link = 0; link < PREFETCH_LINKS; link++) {
        struct prefetch_queue *queue = &prefetch->queues[link];
        prefetch_forget(prefetch, (enum prefetch_link)link, expert_idx);
        int32_t found = find_started(queue, expert_idx);
        if (found < 0 || queue->started[found].settled) continue;
        settle(prefetch, queue, &queue->started[found], true);
        if (!queue->started[found].in_flight) drop_started(queue, found);
    }
}

void prefetch_forget(struct prefetch *prefetch, enum prefetch_link link, int32_t expert_idx)
{
    struct prefetch_queue *queue = &prefetch->queues[link];
    int32_t found = find_waiting(queue, expert_idx);
    if (found < 0) return;
    counts_of(prefetch, &queue->waiting[found])->dropped++;
    drop_waiting(queue, found);
}

struct prefetch_counts prefetch_counts_get(const struct prefetch *prefetch, int32_t layer)
{
    SL_ASSERT(layer >= 0 && layer < prefetch->options.layers);
    return prefetch->counts[layer];
}

void prefetch_check(const struct prefetch *prefetch)
{
    for (int32_t link = 0; link < PREFETCH_LINKS; link++) {
        const struct prefetch_queue *queue = &prefetch->queues[link];
        int32_t flying = 0;
        for (int32_t i = 0; i < queue->started_count; i++) {
            const struct prefetch_entry *entry = &queue->started[i];
            SL_ASSERT(entry->in_flight || !entry->settled);
            SL_ASSERT(find_started(queue, entry->guess.expert_idx) == i);
            SL_ASSERT(find_waiting(queue, entry->guess.expert_idx) < 0);
            flying += entry->in_flight;
        }
        for (int32_t i = 0; i < queue->waiting_count; i++)
            SL_ASSERT(find_waiting(queue, queue->waiting[i].expert_idx) == i);
        SL_ASSERT(flying == queue->flight_count);
        SL_ASSERT(flying <= prefetch->options.flight_max[link]);
    }
}
