/* Where the expert store asks others to decide: who computes what (dispatch), what to fetch ahead
 * (prefetch), and what all of it takes (rates); see expert_store_state.h. */
#include "offload/expert_store_state.h"

#include <math.h>

/* Before anything was measured; service corrects it. */
static enum sl_status init_rates(struct expert_store *store, struct sl_error *error)
{
    struct rates_profile profile;
    bool device = store->options.device != NULL;
    if (store->options.rates) return rates_init(&store->rates, store->options.rates, error);
    struct rates_machine machine = {.device = device ? RATES_DEVICE_BYTES_PER_SECOND : 0,
                                    .link = device ? RATES_LINK_BYTES_PER_SECOND : 0,
                                    .cpu = RATES_CPU_BYTES_PER_SECOND,
                                    .disk = RATES_DISK_BYTES_PER_SECOND};
    rates_profile_make(&profile, store->options.source->slot_bytes, &machine);
    return rates_init(&store->rates, &profile, error);
}

/* A profile that cannot be used costs a warm start and nothing else. It may be a file of another
 * kind, named by mistake: whoever saves asks expert_store_is_warm first. */
static void load_profile(struct expert_store *store)
{
    struct sl_error error;
    if (!store->options.profile_path) return;
    store->warm = heat_load(&store->heat, store->options.profile_path, store->options.fingerprint,
                            &error) == SL_OK;
    if (!store->warm)
        store_notice(store,
                     "starting without the profile of earlier runs, which is left as it is: %s",
                     error.message);
}

static void pin_layers(struct expert_store *store)
{
    for (int32_t layer = 0; layer < store->options.source->layers; layer++) {
        if (!store->options.pinned_layers || !store->options.pinned_layers[layer]) continue;
        residency_pin_layer(&store->host.residency, layer, true);
        if (store->options.device) residency_pin_layer(&store->device.residency, layer, true);
    }
    store->options.pinned_layers = NULL; /* the caller's, gone after the creation */
}

enum sl_status choose_init(struct expert_store *store, struct sl_error *error)
{
    const struct expert_source *source = store->options.source;
    int32_t flight = store->options.prefetch_max;
    if (flight == 0) flight = min_i32(store->options.depth, PREFETCH_FLIGHT_MAX);
    flight = min_i32(max_i32(flight, 0), PREFETCH_FLIGHT_MAX); /* below 0: none */
    struct prefetch_options prefetch = {
        .layers = source->layers,
        .experts = source->experts,
        .flight_max =
            {[PREFETCH_UP] = min_i32(flight, STORE_UNASKED_COPIES_MAX), [PREFETCH_DISK] = flight},
    };
    SL_TRY(heat_init(&store->heat, source->layers, source->experts, error));
    load_profile(store);
    SL_TRY(residency_init(&store->host.residency, &store->heat, store->options.policy, error));
    if (store->options.device)
        SL_TRY(
            residency_init(&store->device.residency, &store->heat, store->options.policy, error));
    pin_layers(store);
    SL_TRY(prefetch_init(&store->prefetch, &prefetch, error));
    SL_TRY(init_rates(store, error));
    store->plan_max = min_i32(store->expert_count, DISPATCH_EXPERTS_MAX);
    store->plan_experts = calloc((size_t)store->plan_max, sizeof *store->plan_experts);
    store->plan_decisions = calloc((size_t)store->plan_max, sizeof *store->plan_decisions);
    store->plan_order = calloc((size_t)store->plan_max, sizeof *store->plan_order);
    if (!store->plan_experts || !store->plan_decisions || !store->plan_order)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory to plan a layer of %d experts",
                            (int)source->experts);
    return SL_OK;
}

void choose_deinit(struct expert_store *store)
{
    residency_deinit(&store->host.residency);
    residency_deinit(&store->device.residency);
    heat_deinit(&store->heat);
    prefetch_deinit(&store->prefetch);
    free(store->plan_experts);
    free(store->plan_decisions);
    free(store->plan_order);
}

/* ---- where the pass is, and what was used ---- */

void choose_layer(struct expert_store *store)
{
    int64_t visit = store->token_clock * store->options.source->layers + store->layer;
    if (visit <= store->visit) return; /* another session's pass at the same clock */
    store->visit = visit;
    prefetch_visit(&store->prefetch, visit, (int64_t)store_now_ns(store));
}

void choose_used(struct expert_store *store, const struct expert_view *view)
{
    int32_t expert_idx = store_expert_idx(store, view->ref);
    /* A prompt reads nearly everything once, which says nothing of what decode will want. */
    if (!store_is_streaming(store)) heat_use(&store->heat, expert_idx, store->token_clock);
    if (store->stream.slots > 0) store->stream.wanted[expert_idx] = 0;
    prefetch_used(&store->prefetch, expert_idx);
}

/* ---- who computes what ---- */

static struct dispatch_expert place_of(struct expert_store *store, const struct expert_view *view)
{
    struct dispatch_expert place = {.expert_idx = store_expert_idx(store, view->ref),
                                    .tokens = max_i32(view->tokens, 1),
                                    .place = DISPATCH_AT_HOST};
    if (view->tier == EXPERT_TIER_DEVICE) {
        place.place = DISPATCH_AT_DEVICE;
        if (store->device.pool.slots[view->slot].state != SLOT_READY)
            place.arrival_ns = (int64_t)rates_expert_ns(&store->rates, RATES_UP, 1, true);
    } else if (store->host_slots[view->slot].queued) {
        place.place = DISPATCH_AT_DISK;
    } else if (store->host.pool.slots[view->slot].state != SLOT_READY) {
        place.arrival_ns = (int64_t)rates_disk_ns(
            &store->rates, max_i32(1, expert_fetcher_active(store->fetcher)));
    }
    return place;
}

/* Device slots that can be had at once. */
static int32_t streams_max(const struct expert_store *store)
{
    if (!store_has_device(store) || !transfer_has_room(&store->transfer, DEVICE_UP)) return 0;
    int32_t room = DEVICE_COPIES_MAX - store->transfer.lanes[DEVICE_UP].count;
    int32_t slots = store_device_free(store);
    if (store_is_prefill(store)) slots += max_i32(store_stream_free(store), 0);
    bool at_once = !store->exclusive || store->transfer.lanes[DEVICE_DOWN].state != TRANSFER_LIVE;
    if (at_once && !store_is_prefill(store)) slots += store->device.residency.candidate_count;
    return min_i32(room, slots);
}

/* When the store expects the lanes to be through with what they have. */
static struct dispatch_lanes busy_lanes(const struct expert_store *store)
{
    int32_t reads = expert_fetcher_active(store->fetcher);
    struct dispatch_lanes lanes = {.disk_in_flight = reads};
    if (reads > 0) lanes.disk_ns = (int64_t)(reads * rates_disk_ns(&store->rates, reads));
    if (store_has_device(store) && rates_usable(&store->rates, RATES_UP))
        lanes.up_ns = (int64_t)(store->transfer.lanes[DEVICE_UP].count *
                                rates_expert_ns(&store->rates, RATES_UP, 1, true));
    return lanes;
}

/* Starts what is to be streamed, or has it started on arrival. */
static void stream(struct expert_store *store, struct expert_view *view)
{
    int32_t slot = view->slot;
    view->lane = EXPERT_LANE_DEVICE;
    if (store->host.pool.slots[slot].state == SLOT_READY) {
        if (!moves_up(store, store_expert_idx(store, view->ref), TRANSFER_DEMAND, INFINITY))
            view->lane = EXPERT_LANE_CPU;
    } else {
        store->host_slots[slot].wants_up = true;
    }
}

static bool streams(enum dispatch_choice choice)
{
    return choice == DISPATCH_STREAM || choice == DISPATCH_READ_STREAM;
}

void choose_lanes(struct expert_store *store, struct expert_view *views, int32_t count)
{
    int32_t planned = min_i32(count, store->plan_max), stream_count = 0;
    struct dispatch_decision *decisions = store->plan_decisions;
    if (planned == 0 || (!store_has_device(store) && !store->options.rates)) return;
    for (int32_t i = 0; i < planned; i++)
        store->plan_experts[i] = place_of(store, &views[i]);
    struct dispatch_problem problem = {
        .rates = &store->rates,
        .experts = store->plan_experts,
        .count = planned,
        .streams_max = streams_max(store),
        .lanes = busy_lanes(store),
        .rule = store->options.rule,
    };
    if (dispatch_choose(&problem, decisions) < 0) return; /* as they are pinned: on the CPU */
    for (int32_t i = 0; i < planned; i++) {
        views[i].predicted_ns = (uint64_t)decisions[i].ready_ns;
        if (views[i].tier != EXPERT_TIER_HOST || !streams(decisions[i].choice)) continue;
        /* Insertion by order: few, and nearly sorted. */
        int32_t at = stream_count++;
        for (; at > 0 && decisions[store->plan_order[at - 1]].order > decisions[i].order; at--)
            store->plan_order[at] = store->plan_order[at - 1];
        store->plan_order[at] = i;
    }
    for (int32_t i = 0; i < stream_count; i++)
        stream(store, &views[store->plan_order[i]]);
}

/* ---- what to fetch ahead ---- */

void choose_guess(struct expert_store *store, const struct expert_guess *guess)
{
    int32_t layers = store->options.source->layers;
    struct prefetch_guess offer = {.expert_idx = store_expert_idx(store, guess->ref),
                                   .probability = guess->probability,
                                   .visit = guess->token_clock * layers + guess->ref.layer};
    bool on_host = store->host.slot_of[offer.expert_idx] >= 0;
    bool on_device = store_has_device(store) && store->device.slot_of[offer.expert_idx] >= 0;
    if (on_device) return;
    if (!on_host)
        prefetch_offer(&store->prefetch, PREFETCH_DISK, &offer);
    else if (store_has_device(store))
        prefetch_offer(&store->prefetch, PREFETCH_UP, &offer);
}

int32_t choose_next_read(struct expert_store *store)
{
    struct prefetch_guess guess;
    float evicted = 0;
    int32_t active = expert_fetcher_active(store->fetcher);
    if (store->prefetch.queues[PREFETCH_DISK].waiting_count == 0) return -1;
    if (store->host.pool.free_count == 0 && store->shadow_first < 0) {
        int32_t victim = residency_victim(&store->host.residency, store->layer);
        if (victim < 0) return -1;
        evicted = residency_value(&store->host.residency, victim);
    }
    while (expert_fetcher_takes_more(store->fetcher)) {
        double each_ns = rates_disk_ns(&store->rates, active + 1);
        struct prefetch_transfer transfer = {.wait_ns = active * each_ns, .busy_ns = each_ns};
        if (!prefetch_next(&store->prefetch, PREFETCH_DISK, transfer, evicted, &guess)) break;
        bool somewhere = store->host.slot_of[guess.expert_idx] >= 0 ||
                         (store_has_device(store) && store->device.slot_of[guess.expert_idx] >= 0);
        if (!somewhere) return guess.expert_idx;
        prefetch_done(&store->prefetch, PREFETCH_DISK, guess.expert_idx, false);
    }
    return -1;
}

int32_t choose_next_copy(struct expert_store *store)
{
    struct prefetch_guess guess;
    float evicted = 0;
    if (store->prefetch.queues[PREFETCH_UP].waiting_count == 0) return -1;
    if (!rates_usable(&store->rates, RATES_UP)) return -1;
    if (store_device_free(store) <= store->device_reserve) {
        int32_t victim = residency_victim(&store->device.residency, store->layer);
        if (victim < 0 && store_device_free(store) == 0) return -1;
        if (victim >= 0) evicted = residency_value(&store->device.residency, victim);
    }
    double each_ns = rates_expert_ns(&store->rates, RATES_UP, 1, true);
    struct prefetch_transfer transfer = {
        .wait_ns = store->transfer.lanes[DEVICE_UP].count * each_ns, .busy_ns = each_ns};
    if (!prefetch_next(&store->prefetch, PREFETCH_UP, transfer, evicted, &guess)) return -1;
    return guess.expert_idx;
}

/* The clock is looked at for a change alone: every turn of the store asks. */
static void watch(struct expert_store *store, enum prefetch_link link, bool wanted)
{
    if (wanted == store->prefetch.queues[link].wanted) return;
    prefetch_watch(&store->prefetch, link, wanted, (int64_t)store_now_ns(store));
}

void choose_watch(struct expert_store *store)
{
    int32_t reads = expert_fetcher_active(store->fetcher) - store->stream.reads -
                    prefetch_unasked(&store->prefetch, PREFETCH_DISK);
    watch(store, PREFETCH_DISK, store->queue_first >= 0 || reads > 0);
    if (!store_has_device(store)) return;
    const struct transfer_lane *lane = &store->transfer.lanes[DEVICE_UP];
    bool wanted = false;
    for (int32_t i = 0; i < lane->count; i++)
        wanted |= lane->copies[(lane->first + i) % DEVICE_COPIES_MAX].cause == TRANSFER_DEMAND;
    watch(store, PREFETCH_UP, wanted);
}

void choose_guess_done(struct expert_store *store, enum prefetch_link link, int32_t expert_idx,
                       bool arrived)
{
    prefetch_done(&store->prefetch, link, expert_idx, arrived);
}

/* ---- what it took ---- */

void choose_started(struct expert_store *store, struct store_burst *burst, int32_t active)
{
    if (active == 1) *burst = (struct store_burst){.start_ns = store_now_ns(store)};
    burst->depth = max_i32(burst->depth, active);
}

void choose_ended(struct expert_store *store, enum rates_lane lane, struct store_burst *burst,
                  int32_t ended, int32_t active)
{
    burst->count += ended;
    if (active > 0 || burst->count == 0) return;
    uint64_t elapsed_ns = store_now_ns(store) - burst->start_ns;
    /* The CPU computed from RAM in the meantime, unless the store waited all along. */
    bool shared = store->wait_ns > burst->start_ns + elapsed_ns / 4;
    if (store->waiting && elapsed_ns > 0 && rates_usable(&store->rates, lane))
        rates_observe(&store->rates, lane, burst->count, burst->depth, shared, (double)elapsed_ns);
    burst->count = 0;
    /* Against a profile that was measured; the defaults may be far off. */
    const char *reason = store->options.rates ? rates_reason(&store->rates, lane) : NULL;
    if (reason && !store->told_slow[lane]) store_notice(store, "%s; decided anew", reason);
    store->told_slow[lane] = reason != NULL;
}
