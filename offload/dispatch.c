/* The search for a layer's best choices; see the header. */
#include "offload/dispatch.h"

#include <math.h>

static const char *const choice_names[DISPATCH_CHOICES] = {"device", "stream", "cpu", "read+stream",
                                                           "read+cpu"};

const char *dispatch_choice_name(enum dispatch_choice choice)
{
    SL_ASSERT(choice >= 0 && choice < DISPATCH_CHOICES);
    return choice_names[choice];
}

/* An expert with a choice, or one that runs on its device slot. */
struct item {
    double ready; /* in RAM, or in its slot */
    int32_t idx;  /* in problem->experts */
    int32_t tokens;
    bool read; /* from disk first */
    bool stream;
};

struct search {
    const struct dispatch_problem *problem;
    struct item runs[DISPATCH_EXPERTS_MAX];  /* on the device, as they become ready */
    struct item items[DISPATCH_EXPERTS_MAX]; /* with a choice, as they become ready */
    int32_t run_count, item_count;
    int32_t by_tokens[DISPATCH_EXPERTS_MAX]; /* items, most tokens first */
    bool can_stream, can_cpu;
    int32_t streams_max;
};

/* ---- order ---- */

static bool comes_first(const struct item *a, const struct item *b)
{
    if (a->ready != b->ready) return a->ready < b->ready;
    if (a->tokens != b->tokens) return a->tokens > b->tokens;
    return a->idx < b->idx;
}

/* Lists are short in decode and nearly sorted in prefill. */
static void sort_items(struct item *items, int32_t count)
{
    for (int32_t i = 1; i < count; i++) {
        struct item item = items[i];
        int32_t j = i;
        for (; j > 0 && comes_first(&item, &items[j - 1]); j--)
            items[j] = items[j - 1];
        items[j] = item;
    }
}

static void sort_by_tokens(struct search *search)
{
    for (int32_t i = 0; i < search->item_count; i++) {
        int32_t j = i;
        for (; j > 0 && search->items[i].tokens > search->items[search->by_tokens[j - 1]].tokens;
             j--)
            search->by_tokens[j] = search->by_tokens[j - 1];
        search->by_tokens[j] = i;
    }
}

/* ---- what there is to do ---- */

/* Reads end one after the other, those with the most tokens first. */
static bool plan_reads(struct search *search)
{
    const struct dispatch_problem *problem = search->problem;
    int32_t reads[DISPATCH_EXPERTS_MAX], count = 0;
    for (int32_t i = 0; i < search->item_count; i++) {
        if (!search->items[i].read) continue;
        int32_t j = count++;
        for (; j > 0 && search->items[i].tokens > search->items[reads[j - 1]].tokens; j--)
            reads[j] = reads[j - 1];
        reads[j] = i;
    }
    if (count == 0) return true;
    double each = rates_disk_ns(problem->rates,
                                max_i32(1, min_i32(64, count + problem->lanes.disk_in_flight)));
    if (isinf(each)) return false;
    double now = (double)problem->lanes.disk_ns;
    for (int32_t i = 0; i < count; i++)
        search->items[reads[i]].ready = now += each;
    return true;
}

static bool set_up(struct search *search, const struct dispatch_problem *problem)
{
    search->problem = problem;
    search->run_count = search->item_count = 0;
    bool device = rates_usable(problem->rates, RATES_DEVICE);
    search->can_stream = device && rates_usable(problem->rates, RATES_UP);
    search->can_cpu = rates_usable(problem->rates, RATES_CPU);
    search->streams_max = search->can_cpu ? problem->streams_max : problem->count;
    for (int32_t i = 0; i < problem->count; i++) {
        const struct dispatch_expert *expert = &problem->experts[i];
        SL_DEBUG_ASSERT(expert->tokens > 0);
        struct item item = {.ready = (double)expert->arrival_ns,
                            .idx = i,
                            .tokens = expert->tokens,
                            .read = expert->place == DISPATCH_AT_DISK};
        if (expert->place == DISPATCH_AT_DEVICE)
            search->runs[search->run_count++] = item;
        else
            search->items[search->item_count++] = item;
    }
    if (search->run_count > 0 && !device) return false;
    if (search->item_count > 0 && !search->can_stream && !search->can_cpu) return false;
    if (!plan_reads(search)) return false;
    sort_items(search->runs, search->run_count);
    sort_items(search->items, search->item_count);
    sort_by_tokens(search);
    return true;
}

/* ---- what a set of choices costs ---- */

struct costs {
    double stream; /* of one expert */
    bool shared;
    double up_ns, cpu_ns; /* lanes free, their share of a layer added */
};

static struct costs costs_of(const struct search *search, bool streams, bool cpu)
{
    const struct dispatch_problem *problem = search->problem;
    struct costs costs = {.shared = streams && cpu};
    if (streams) costs.stream = rates_expert_ns(problem->rates, RATES_UP, 1, costs.shared);
    costs.up_ns = (double)problem->lanes.up_ns + rates_layer_ns(problem->rates, RATES_UP);
    costs.cpu_ns = (double)problem->lanes.cpu_ns + rates_layer_ns(problem->rates, RATES_CPU);
    return costs;
}

/* Runs what is ready before `until` on the device. */
static int32_t run_until(const struct search *search, int32_t next, double until, double *device,
                         struct dispatch_decision *decisions)
{
    for (; next < search->run_count && search->runs[next].ready <= until; next++) {
        const struct item *item = &search->runs[next];
        double start = fmax(*device, item->ready);
        *device =
            start + rates_expert_ns(search->problem->rates, RATES_DEVICE, item->tokens, false);
        if (decisions)
            decisions[item->idx] = (struct dispatch_decision){
                DISPATCH_RUN, next, (int64_t)item->ready, (int64_t)start, (int64_t)*device};
    }
    return next;
}

/* When all is done with the choices in items[].stream; `decisions` may be NULL. */
static double finish_of(const struct search *search, struct dispatch_decision *decisions)
{
    const struct rates *rates = search->problem->rates;
    int32_t streams = 0, cpus = 0, next = 0;
    for (int32_t i = 0; i < search->item_count; i++)
        streams += search->items[i].stream;
    struct costs costs = costs_of(search, streams > 0, streams < search->item_count);
    double up = costs.up_ns, cpu = costs.cpu_ns;
    double device = (double)search->problem->lanes.device_ns +
                    (search->run_count + streams > 0 ? rates_layer_ns(rates, RATES_DEVICE) : 0);
    double finish = 0;
    streams = 0;
    for (int32_t i = 0; i < search->item_count; i++) {
        const struct item *item = &search->items[i];
        double start, ready = item->ready, end;
        if (item->stream) {
            ready = up = fmax(up, ready) + costs.stream;
            next = run_until(search, next, up, &device, decisions);
            start = fmax(device, up);
            end = device = start + rates_expert_ns(rates, RATES_DEVICE, item->tokens, false);
        } else {
            start = fmax(cpu, ready);
            end = cpu = start + rates_expert_ns(rates, RATES_CPU, item->tokens, costs.shared);
        }
        finish = fmax(finish, end);
        if (!decisions) continue;
        decisions[item->idx] = (struct dispatch_decision){
            item->read ? (item->stream ? DISPATCH_READ_STREAM : DISPATCH_READ_CPU)
                       : (item->stream ? DISPATCH_STREAM : DISPATCH_CPU),
            item->stream ? streams : cpus, (int64_t)ready, (int64_t)start, (int64_t)end};
        *(item->stream ? &streams : &cpus) += 1;
    }
    run_until(search, next, INFINITY, &device, decisions);
    return search->run_count > 0 ? fmax(finish, device) : finish;
}

/* ---- searches ---- */

/* Streams the first `count` by tokens. */
static void stream_prefix(struct search *search, int32_t count)
{
    for (int32_t i = 0; i < search->item_count; i++)
        search->items[search->by_tokens[i]].stream = i < count;
}

static int32_t best_prefix(struct search *search, double *best)
{
    int32_t found = -1;
    for (int32_t count = 0; count <= min_i32(search->item_count, search->streams_max); count++) {
        stream_prefix(search, count);
        double finish = finish_of(search, NULL);
        if (found < 0 || finish < *best) {
            *best = finish;
            found = count;
        }
    }
    stream_prefix(search, found);
    return found;
}

static void set_mask(struct search *search, uint32_t mask)
{
    for (int32_t i = 0; i < search->item_count; i++)
        search->items[i].stream = (mask >> i) & 1;
}

static void search_all(struct search *search)
{
    double best = INFINITY;
    uint32_t found = 0;
    for (uint32_t mask = 0; mask < 1u << search->item_count; mask++) {
        if (__builtin_popcount(mask) > search->streams_max) continue;
        set_mask(search, mask);
        double finish = finish_of(search, NULL);
        if (finish >= best) continue;
        best = finish;
        found = mask;
    }
    set_mask(search, found);
}

static void improve(struct search *search, int32_t streams, double best)
{
    for (bool better = true; better;) {
        better = false;
        for (int32_t i = 0; i < search->item_count; i++) {
            bool *stream = &search->items[i].stream;
            if (!*stream && streams == search->streams_max) continue;
            *stream = !*stream;
            double finish = finish_of(search, NULL);
            if (finish < best * (1 - 1e-9)) {
                best = finish;
                streams += *stream ? 1 : -1;
                better = true;
            } else {
                *stream = !*stream;
            }
        }
    }
}

static bool all_alike(const struct search *search)
{
    for (int32_t i = 1; i < search->item_count; i++)
        if (search->items[i].ready != search->items[0].ready ||
            search->items[i].tokens != search->items[0].tokens)
            return false;
    return true;
}

static void search_best(struct search *search)
{
    double best = INFINITY;
    if (!search->can_cpu) {
        stream_prefix(search, search->item_count);
    } else if (!search->can_stream || search->streams_max == 0) {
        stream_prefix(search, 0);
    } else if (search->item_count <= DISPATCH_EXACT_MAX && !all_alike(search)) {
        search_all(search);
    } else {
        int32_t streams = best_prefix(search, &best);
        if (search->item_count <= DISPATCH_IMPROVE_MAX && !all_alike(search))
            improve(search, streams, best);
    }
}

int64_t dispatch_choose(const struct dispatch_problem *problem, struct dispatch_decision *decisions)
{
    struct search search;
    SL_ASSERT(problem->count >= 0 && problem->count <= DISPATCH_EXPERTS_MAX);
    SL_ASSERT(problem->streams_max >= 0);
    if (problem->count == 0) return 0;
    if (!set_up(&search, problem)) return -1;
    bool cpu_only = problem->rule == DISPATCH_ALWAYS_CPU && search.can_cpu;
    bool stream_only = problem->rule == DISPATCH_ALWAYS_STREAM && search.can_stream;
    if (cpu_only)
        stream_prefix(&search, 0);
    else if (stream_only)
        stream_prefix(&search, min_i32(search.item_count, search.streams_max));
    else
        search_best(&search);
    return (int64_t)ceil(finish_of(&search, decisions));
}
