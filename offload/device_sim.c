/* The simulated device: an arena, and two lanes of copies under a clock; see the header.
 *
 * Everything that a lane's thread and the owner share is guarded by one mutex; without threads it
 * is never contended. */
#include "offload/device_sim.h"

#include "offload/arena.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

#define PINNED_MAX      8192 /* pieces of host memory pinned at once */
#define TEXT_BYTES_MAX  192
#define SLEEP_NS_MAX    2000000u /* a lane's thread looks up this often while it holds a copy */
#define POISON          0x5a
#define ALLOCATIONS_MAX 8

struct sim_copy {
    struct device_copy copy;
    uint64_t duration_ns;
    uint64_t submit_ns;
};

struct sim_lane {
    struct sim_copy copies[DEVICE_COPIES_MAX]; /* a ring: ticket t is at t % DEVICE_COPIES_MAX */
    uint64_t submitted, done, seen;            /* tickets; seen: by copy_progress */
    uint64_t free_ns;                          /* when the last copy done ended */
    bool failed, fault_seen;
    bool copying; /* the lane's thread is at it, without the mutex */
    char fault[TEXT_BYTES_MAX];
    struct device_sim *owner;
    enum device_lane which;
    pthread_t thread;
    bool has_thread;
};

struct sim_range {
    uint8_t *memory;
    size_t bytes;
};

struct device_sim {
    struct device base;
    struct device_sim_options options;
    struct device_sim_plan plan;
    struct sim_range allocations[ALLOCATIONS_MAX];
    struct sim_range pinned[PINNED_MAX];
    int32_t allocation_count, pinned_count;
    uint64_t allocated_bytes, pinned_bytes, random;
    pthread_mutex_t mutex;
    pthread_cond_t work, finished;
    bool closing;
    struct sim_lane lanes[DEVICE_LANES];
    char description[TEXT_BYTES_MAX];
};

static struct device_sim *sim_of(struct device *device)
{
    return (struct device_sim *)device;
}

static uint64_t now_ns(const struct device_sim *sim)
{
    return clock_now_ns(&sim->options.clock);
}

/* splitmix64 */
static uint64_t draw(struct device_sim *sim)
{
    uint64_t z = sim->random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static struct timespec deadline_in(uint64_t ns)
{
    struct timespec at;
    SL_ASSERT(clock_gettime(CLOCK_MONOTONIC, &at) == 0);
    uint64_t end = (uint64_t)at.tv_nsec + ns % 1000000000u;
    at.tv_sec += (time_t)(ns / 1000000000u + end / 1000000000u);
    at.tv_nsec = (long)(end % 1000000000u);
    return at;
}

/* ---- memory ---- */

static enum sl_status sim_memory_alloc(struct device *device, size_t bytes, void **out,
                                       struct sl_error *error)
{
    struct device_sim *sim = sim_of(device);
    uint64_t left = sim->options.memory_bytes - sim->allocated_bytes;
    uint8_t *memory = NULL;
    SL_ASSERT(bytes > 0 && sim->allocation_count < ALLOCATIONS_MAX);
    if (bytes <= left) memory = arena_map(bytes);
    if (!memory)
        return sl_error_set(error, SL_ERR_NO_MEMORY, ENOMEM,
                            "the simulated device has no %zu bytes: %llu of %llu are left", bytes,
                            (unsigned long long)left,
                            (unsigned long long)sim->options.memory_bytes);
    sim->allocations[sim->allocation_count++] = (struct sim_range){memory, bytes};
    sim->allocated_bytes += bytes;
    *out = memory;
    return SL_OK;
}

/* Drops what a lane that hangs has not done; it would write into memory that is gone. */
static void cancel_copies(struct device_sim *sim)
{
    pthread_mutex_lock(&sim->mutex);
    for (int which = 0; which < DEVICE_LANES; which++) {
        struct sim_lane *lane = &sim->lanes[which];
        while (lane->copying)
            pthread_cond_wait(&sim->finished, &sim->mutex);
        if (lane->done == lane->submitted || lane->failed) continue;
        lane->failed = true;
        snprintf(lane->fault, sizeof lane->fault, "memory was freed while copies hung");
    }
    pthread_cond_broadcast(&sim->work);
    pthread_mutex_unlock(&sim->mutex);
}

static void sim_memory_free(struct device *device, void *memory)
{
    struct device_sim *sim = sim_of(device);
    if (memory) cancel_copies(sim);
    for (int32_t i = 0; memory && i < sim->allocation_count; i++) {
        if (sim->allocations[i].memory != memory) continue;
        arena_unmap(memory, sim->allocations[i].bytes);
        sim->allocated_bytes -= sim->allocations[i].bytes;
        sim->allocations[i] = sim->allocations[--sim->allocation_count];
        return;
    }
    SL_ASSERT(!memory); /* not this device's */
}

static bool covers(const struct sim_range *ranges, int32_t count, const void *memory, size_t bytes)
{
    for (int32_t i = 0; i < count; i++)
        if ((const uint8_t *)memory >= ranges[i].memory &&
            (const uint8_t *)memory + bytes <= ranges[i].memory + ranges[i].bytes)
            return true;
    return false;
}

static enum sl_status sim_host_pin(struct device *device, void *memory, size_t bytes,
                                   struct sl_error *error)
{
    struct device_sim *sim = sim_of(device);
    uint64_t max = sim->options.pin_bytes_max;
    SL_ASSERT(((uintptr_t)memory | bytes) % SL_PAGE_BYTES == 0 && bytes > 0);
    SL_ASSERT(!covers(sim->pinned, sim->pinned_count, memory, 1));
    if ((max && sim->pinned_bytes + bytes > max) || sim->pinned_count == PINNED_MAX)
        return sl_error_set(error, SL_ERR_NO_MEMORY, ENOMEM,
                            "the simulated device pins no more than %llu bytes of RAM",
                            (unsigned long long)sim->pinned_bytes);
    sim->pinned[sim->pinned_count++] = (struct sim_range){memory, bytes};
    sim->pinned_bytes += bytes;
    return SL_OK;
}

static void sim_host_unpin(struct device *device, void *memory, size_t bytes)
{
    struct device_sim *sim = sim_of(device);
    int32_t found = -1;
    for (int32_t i = 0; i < sim->pinned_count; i++)
        if (sim->pinned[i].memory == memory) found = i;
    SL_ASSERT(found >= 0 && sim->pinned[found].bytes == bytes);
    sim->pinned[found] = sim->pinned[--sim->pinned_count];
    sim->pinned_bytes -= bytes;
}

/* ---- lanes ---- */

static uint64_t duration_of(struct device_sim *sim, enum device_lane lane,
                            const struct device_copy *copy)
{
    const struct device_sim_plan *plan = &sim->plan;
    uint64_t rate = sim->options.bytes_per_second[lane], ns = sim->options.latency_ns;
    const void *host = lane == DEVICE_UP ? copy->source : copy->target;
    if (rate) {
        bool pinned = covers(sim->pinned, sim->pinned_count, host, copy->bytes);
        double percent = pinned ? 100 : sim->options.unpinned_percent;
        ns += (uint64_t)((double)copy->bytes * 1e11 / ((double)rate * percent));
    }
    if (plan->slower_times) ns *= plan->slower_times;
    if (plan->jitter_percent) ns += ns * (draw(sim) % (plan->jitter_percent + 1)) / 100;
    if (plan->stall_permille && draw(sim) % 1000 < plan->stall_permille) ns += plan->stall_ns;
    return ns;
}

static bool overlap(const void *a, const void *b, size_t bytes_a, size_t bytes_b)
{
    return (const uint8_t *)a < (const uint8_t *)b + bytes_b &&
           (const uint8_t *)b < (const uint8_t *)a + bytes_a;
}

/* No copy in flight writes what another reads or writes. */
static void check_copy(const struct device_sim *sim, enum device_lane lane,
                       const struct device_copy *copy)
{
    const void *device = lane == DEVICE_UP ? copy->target : copy->source;
    SL_ASSERT(covers(sim->allocations, sim->allocation_count, device, copy->bytes));
    for (int which = 0; which < DEVICE_LANES; which++) {
        const struct sim_lane *other = &sim->lanes[which];
        for (uint64_t t = other->done + 1; !other->failed && t <= other->submitted; t++) {
            const struct device_copy *there = &other->copies[t % DEVICE_COPIES_MAX].copy;
            SL_ASSERT(!overlap(copy->target, there->target, copy->bytes, there->bytes));
            SL_ASSERT(!overlap(copy->target, there->source, copy->bytes, there->bytes));
            SL_ASSERT(!overlap(copy->source, there->target, copy->bytes, there->bytes));
        }
    }
}

static enum sl_status sim_copy_submit(struct device *device, enum device_lane which,
                                      const struct device_copy *copy, uint64_t *ticket)
{
    struct device_sim *sim = sim_of(device);
    struct sim_lane *lane = &sim->lanes[which];
    enum sl_status status = SL_ERR_IO;
    SL_ASSERT(copy->bytes > 0);
    pthread_mutex_lock(&sim->mutex);
    if (!lane->failed) {
        SL_ASSERT(lane->submitted - lane->done < DEVICE_COPIES_MAX);
        check_copy(sim, which, copy);
        if (sim->plan.poison) memset(copy->target, POISON, copy->bytes);
        *ticket = ++lane->submitted;
        lane->copies[*ticket % DEVICE_COPIES_MAX] =
            (struct sim_copy){*copy, duration_of(sim, which, copy), now_ns(sim)};
        pthread_cond_broadcast(&sim->work);
        status = SL_OK;
    }
    pthread_mutex_unlock(&sim->mutex);
    return status;
}

/* The copy that is due next, and when it ends; NULL when the lane has none or is stuck. */
static const struct sim_copy *next_copy(const struct sim_lane *lane, uint64_t *end_ns)
{
    if (lane->failed || lane->done == lane->submitted) return NULL;
    if (lane->owner->plan.hangs[lane->which]) return NULL;
    const struct sim_copy *next = &lane->copies[(lane->done + 1) % DEVICE_COPIES_MAX];
    uint64_t start_ns = next->submit_ns > lane->free_ns ? next->submit_ns : lane->free_ns;
    *end_ns = start_ns + next->duration_ns;
    return next;
}

/* True when the lane fails now instead of doing another copy. */
static bool dies_now(struct sim_lane *lane)
{
    uint64_t after = lane->owner->plan.dies_after[lane->which];
    if (lane->failed || after == 0 || lane->done < after) return lane->failed;
    lane->failed = true;
    snprintf(lane->fault, sizeof lane->fault,
             "the simulated link %s failed after %llu copies, as planned",
             lane->which == DEVICE_UP ? "to the device" : "from the device",
             (unsigned long long)lane->done);
    return true;
}

/* Carries out what is due by now; for lanes without a thread. */
static void run_due(struct sim_lane *lane)
{
    uint64_t end_ns, now = now_ns(lane->owner);
    while (!lane->has_thread && !dies_now(lane)) {
        const struct sim_copy *next = next_copy(lane, &end_ns);
        if (!next || end_ns > now) return;
        memcpy(next->copy.target, next->copy.source, next->copy.bytes);
        lane->free_ns = end_ns;
        lane->done++;
    }
}

static void *lane_thread(void *argument)
{
    struct sim_lane *lane = argument;
    struct device_sim *sim = lane->owner;
    uint64_t end_ns;
    pthread_mutex_lock(&sim->mutex);
    while (!dies_now(lane)) {
        const struct sim_copy *next = next_copy(lane, &end_ns);
        if (!next) {
            if (sim->closing && lane->done == lane->submitted) break;
            struct timespec until = deadline_in(SLEEP_NS_MAX * 10);
            pthread_cond_timedwait(&sim->work, &sim->mutex, &until);
            continue;
        }
        struct device_copy copy = next->copy;
        lane->copying = true;
        pthread_mutex_unlock(&sim->mutex);
        memcpy(copy.target, copy.source, copy.bytes);
        pthread_mutex_lock(&sim->mutex);
        for (uint64_t now = now_ns(sim); now < end_ns; now = now_ns(sim)) {
            uint64_t left = end_ns - now;
            struct timespec until = deadline_in(left < SLEEP_NS_MAX ? left : SLEEP_NS_MAX);
            pthread_cond_timedwait(&sim->work, &sim->mutex, &until);
        }
        lane->copying = false;
        lane->free_ns = end_ns;
        lane->done++;
        pthread_cond_broadcast(&sim->finished);
    }
    pthread_cond_broadcast(&sim->finished);
    pthread_mutex_unlock(&sim->mutex);
    return NULL;
}

static uint64_t sim_copy_progress(struct device *device, enum device_lane which)
{
    struct device_sim *sim = sim_of(device);
    struct sim_lane *lane = &sim->lanes[which];
    pthread_mutex_lock(&sim->mutex);
    run_due(lane);
    uint64_t done = lane->seen = lane->done;
    pthread_mutex_unlock(&sim->mutex);
    return done;
}

/* Whether wait has something to tell; `end_ns` is when the next copy of any lane ends. */
static bool has_news(struct device_sim *sim, bool *in_flight, uint64_t *end_ns)
{
    bool news = false;
    *in_flight = false;
    *end_ns = UINT64_MAX;
    for (int which = 0; which < DEVICE_LANES; which++) {
        struct sim_lane *lane = &sim->lanes[which];
        uint64_t end;
        run_due(lane);
        news = news || lane->done > lane->seen || (lane->failed && !lane->fault_seen);
        lane->fault_seen = lane->failed;
        *in_flight = *in_flight || (!lane->failed && lane->done < lane->submitted);
        if (next_copy(lane, &end) && end < *end_ns) *end_ns = end;
    }
    return news;
}

static void sim_wait(struct device *device, uint64_t timeout_ns)
{
    struct device_sim *sim = sim_of(device);
    uint64_t start = now_ns(sim), end_ns, now;
    bool in_flight;
    pthread_mutex_lock(&sim->mutex);
    while (!has_news(sim, &in_flight, &end_ns) && in_flight) {
        now = now_ns(sim);
        if (now - start >= timeout_ns) break;
        uint64_t left = timeout_ns - (now - start);
        if (end_ns > now && end_ns - now < left) left = end_ns - now;
        if (sim->options.advance) {
            sim->options.advance(sim->options.clock.context, left);
            continue;
        }
        struct timespec until = deadline_in(left);
        pthread_cond_timedwait(&sim->finished, &sim->mutex, &until);
    }
    pthread_mutex_unlock(&sim->mutex);
}

static uint64_t sim_fence(struct device *device)
{
    (void)device;
    return 0; /* the CPU computes, and has ended when its call returns */
}

static const char *sim_lane_fault(const struct device *device, enum device_lane which)
{
    struct device_sim *sim = (struct device_sim *)(uintptr_t)device;
    pthread_mutex_lock(&sim->mutex);
    const char *fault = sim->lanes[which].failed ? sim->lanes[which].fault : NULL;
    pthread_mutex_unlock(&sim->mutex);
    return fault;
}

static const char *sim_describe(const struct device *device)
{
    return ((const struct device_sim *)device)->description;
}

/* ---- life ---- */

static void sim_destroy(struct device *device)
{
    struct device_sim *sim = sim_of(device);
    pthread_mutex_lock(&sim->mutex);
    sim->closing = true;
    memset(sim->plan.hangs, 0, sizeof sim->plan.hangs);
    pthread_cond_broadcast(&sim->work);
    pthread_mutex_unlock(&sim->mutex);
    for (int which = 0; which < DEVICE_LANES; which++)
        if (sim->lanes[which].has_thread)
            SL_ASSERT(pthread_join(sim->lanes[which].thread, NULL) == 0);
    SL_ASSERT(sim->allocation_count == 0 && sim->pinned_count == 0);
    pthread_cond_destroy(&sim->work);
    pthread_cond_destroy(&sim->finished);
    pthread_mutex_destroy(&sim->mutex);
    free(sim);
}

static const struct device_ops device_sim_ops = {
    .name = "simulated",
    .memory_alloc = sim_memory_alloc,
    .memory_free = sim_memory_free,
    .host_pin = sim_host_pin,
    .host_unpin = sim_host_unpin,
    .copy_submit = sim_copy_submit,
    .copy_progress = sim_copy_progress,
    .wait = sim_wait,
    .fence = sim_fence,
    .lane_fault = sim_lane_fault,
    .describe = sim_describe,
    .destroy = sim_destroy,
};

static int start_thread(struct sim_lane *lane)
{
    sigset_t all, before;
    sigfillset(&all);
    /* Signals are for the program's own threads, never for these. */
    SL_ASSERT(pthread_sigmask(SIG_BLOCK, &all, &before) == 0);
    int refused = pthread_create(&lane->thread, NULL, lane_thread, lane);
    lane->has_thread = refused == 0;
    SL_ASSERT(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
    return refused;
}

static void init_sync(struct device_sim *sim)
{
    pthread_condattr_t steady;
    pthread_mutex_init(&sim->mutex, NULL);
    SL_ASSERT(pthread_condattr_init(&steady) == 0);
    SL_ASSERT(pthread_condattr_setclock(&steady, CLOCK_MONOTONIC) == 0);
    pthread_cond_init(&sim->work, &steady);
    pthread_cond_init(&sim->finished, &steady);
    pthread_condattr_destroy(&steady);
}

enum sl_status device_sim_create(const struct device_sim_options *options, struct device **out,
                                 struct sl_error *error)
{
    SL_ASSERT(!options->threads || (!options->clock.now_ns && !options->advance));
    struct device_sim *sim = calloc(1, sizeof *sim);
    if (!sim)
        return sl_error_set(error, SL_ERR_NO_MEMORY, ENOMEM, "no memory for a simulated device");
    sim->base.ops = &device_sim_ops;
    sim->options = *options;
    sim->plan = options->plan;
    sim->random = options->seed;
    if (sim->options.unpinned_percent == 0)
        sim->options.unpinned_percent = DEVICE_SIM_UNPINNED_PERCENT;
    init_sync(sim);
    snprintf(sim->description, sizeof sim->description,
             "simulated device, %.1f MiB, %.1f GB/s up and %.1f down",
             (double)options->memory_bytes / 1048576.0,
             (double)options->bytes_per_second[DEVICE_UP] / 1e9,
             (double)options->bytes_per_second[DEVICE_DOWN] / 1e9);
    for (int which = 0; which < DEVICE_LANES; which++) {
        sim->lanes[which].owner = sim;
        sim->lanes[which].which = (enum device_lane)which;
    }
    for (int which = 0; which < DEVICE_LANES && options->threads; which++) {
        int refused = start_thread(&sim->lanes[which]);
        if (!refused) continue;
        sim_destroy(&sim->base);
        return sl_error_set(error, SL_ERR_NO_MEMORY, refused,
                            "cannot start a thread that copies: %s; raise the limit on processes "
                            "(ulimit -u)",
                            strerror(refused));
    }
    *out = &sim->base;
    return SL_OK;
}

void device_sim_set_plan(struct device *device, const struct device_sim_plan *plan)
{
    struct device_sim *sim = sim_of(device);
    pthread_mutex_lock(&sim->mutex);
    sim->plan = *plan;
    pthread_cond_broadcast(&sim->work);
    pthread_mutex_unlock(&sim->mutex);
}

uint64_t device_sim_pinned_bytes(const struct device *device)
{
    return ((const struct device_sim *)device)->pinned_bytes;
}

int32_t device_sim_in_flight(struct device *device, enum device_lane which)
{
    struct device_sim *sim = sim_of(device);
    struct sim_lane *lane = &sim->lanes[which];
    pthread_mutex_lock(&sim->mutex);
    int32_t count = lane->failed ? 0 : (int32_t)(lane->submitted - lane->done);
    pthread_mutex_unlock(&sim->mutex);
    return count;
}
