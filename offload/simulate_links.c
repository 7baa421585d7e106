/* Who is where in a simulation, and what travels without being asked for; see simulate_state.h. */
#include "offload/simulate_state.h"

#include <math.h>

/* A promotion must be worth that much more than what it evicts: each costs a transfer. */
#define PROMOTION_MARGIN 1.2f
/* Draws for a wrong guess among what is missing. */
#define WRONG_TRIES 16

/* ---- slots ---- */

static void drop_host(struct sim *sim, int32_t idx)
{
    residency_remove(&sim->host, idx);
    sim->state[idx] &= (uint8_t)~AT_HOST;
    sim->host_used--;
}

/* `anyway`: whatever the victim is worth. */
static bool keep_in_host(struct sim *sim, int32_t idx, bool anyway)
{
    if (sim->state[idx] & AT_HOST) return true;
    int32_t pending = sim->options.inclusive ? 0 : sim->pending_up;
    if (sim->host_used - pending >= sim->options.host_slots) {
        int32_t victim = residency_victim(&sim->host, idx / sim->options.experts);
        if (victim < 0 || (sim->state[victim] & GOING_UP) ||
            !(anyway || residency_admits(&sim->host, idx, victim)))
            return false;
        drop_host(sim, victim);
    }
    residency_insert(&sim->host, idx);
    sim->state[idx] |= AT_HOST;
    sim->host_used++;
    return true;
}

bool sim_keep_in_host(struct sim *sim, int32_t idx)
{
    return keep_in_host(sim, idx, false);
}

static void evict_device(struct sim *sim, int32_t victim)
{
    residency_remove(&sim->device, victim);
    sim->state[victim] &= (uint8_t)~AT_DEVICE;
    sim->device_used--;
    sim->layer_used[victim / sim->options.experts]--;
    if (sim->options.inclusive || sim->options.host_slots == 0 || (sim->state[victim] & AT_HOST))
        return;
    if (sim_keep_in_host(sim, victim)) sim->result.bytes_down += sim->options.profile.expert_bytes;
}

static bool device_full(const struct sim *sim, int32_t layer)
{
    const struct simulate_options *options = &sim->options;
    if (options->by_layer) return sim->layer_used[layer] >= options->device_slots / options->layers;
    return sim->device_used >= options->device_slots;
}

/* Who would leave the device for an expert of this layer, or -1. */
static int32_t device_victim(struct sim *sim, int32_t layer)
{
    return sim->options.by_layer ? residency_victim_in(&sim->device, layer)
                                 : residency_victim(&sim->device, layer);
}

static void take_device_slot(struct sim *sim, int32_t idx)
{
    sim->device_used++;
    sim->layer_used[idx / sim->options.experts]++;
}

static void arrive_on_device(struct sim *sim, int32_t idx)
{
    residency_insert(&sim->device, idx);
    sim->state[idx] |= AT_DEVICE;
    if (!sim->options.inclusive && (sim->state[idx] & AT_HOST)) drop_host(sim, idx);
}

bool sim_admit_to_device(struct sim *sim, int32_t idx)
{
    int32_t layer = idx / sim->options.experts;
    int32_t victim = device_full(sim, layer) ? device_victim(sim, layer) : -1;
    if (device_full(sim, layer) && (victim < 0 || !residency_admits(&sim->device, idx, victim)))
        return false;
    /* Its place in RAM is free before the victim looks for one. */
    if (!sim->options.inclusive && (sim->state[idx] & AT_HOST)) drop_host(sim, idx);
    if (victim >= 0) evict_device(sim, victim);
    take_device_slot(sim, idx);
    arrive_on_device(sim, idx);
    return true;
}

/* ---- links in idle time ---- */

void sim_land(struct sim *sim)
{
    const struct simulate_options *options = &sim->options;
    for (int32_t i = 0; i < sim->flight_count;) {
        struct flight flight = sim->flights[i];
        if (flight.done_ns > sim->now_ns) {
            i++;
            continue;
        }
        sim->flights[i] = sim->flights[--sim->flight_count];
        int32_t idx = flight.expert_idx;
        if (flight.link == PREFETCH_UP) {
            sim->state[idx] &= (uint8_t)~GOING_UP;
            sim->pending_up--;
            arrive_on_device(sim, idx);
        } else {
            sim->state[idx] &= (uint8_t)~BEING_READ;
            /* A guess was likelier than its victim when it began. */
            if (options->inclusive || !(sim->state[idx] & AT_DEVICE))
                keep_in_host(sim, idx, flight.guess);
        }
        if (flight.guess) prefetch_done(&sim->prefetch, flight.link, idx, true);
    }
}

double sim_flight_end(const struct sim *sim, int32_t idx)
{
    for (int32_t i = 0; i < sim->flight_count; i++)
        if (sim->flights[i].expert_idx == idx) return sim->flights[i].done_ns;
    return sim->now_ns;
}

static void take_off(struct sim *sim, int32_t idx, enum prefetch_link link, bool guess,
                     double start_ns, double each_ns)
{
    SL_ASSERT(sim->flight_count < FLIGHTS_MAX);
    sim->link_free_ns[link] = start_ns + each_ns;
    sim->flights[sim->flight_count++] = (struct flight){idx, link, guess, sim->link_free_ns[link]};
    sim->state[idx] |= link == PREFETCH_UP ? GOING_UP : BEING_READ;
    if (link == PREFETCH_DISK) {
        sim->result.bytes_disk += sim->options.profile.expert_bytes;
        return;
    }
    int32_t layer = idx / sim->options.experts;
    sim->pending_up++;
    if (device_full(sim, layer)) evict_device(sim, device_victim(sim, layer));
    take_device_slot(sim, idx);
    sim->result.bytes_up += sim->options.profile.expert_bytes;
}

/* The most valuable of those lately computed elsewhere, if it deserves a place; else -1. */
static int32_t next_promotion(struct sim *sim)
{
    int32_t best = -1;
    float most = 0;
    for (int32_t i = 0; i < RECENT_MAX; i++) {
        int32_t idx = sim->recent[i];
        if (idx < 0) continue;
        if ((sim->state[idx] & (AT_DEVICE | GOING_UP)) || !(sim->state[idx] & AT_HOST)) {
            sim->recent[i] = -1;
            continue;
        }
        float value = residency_value(&sim->device, idx);
        if (best >= 0 && value <= most) continue;
        best = i;
        most = value;
    }
    if (best < 0) return -1;
    int32_t idx = sim->recent[best], layer = idx / sim->options.experts;
    if (device_full(sim, layer)) {
        int32_t victim = device_victim(sim, layer);
        if (victim < 0 || most <= PROMOTION_MARGIN * residency_value(&sim->device, victim)) {
            for (int32_t i = 0; i < RECENT_MAX; i++) /* the others are worth less */
                sim->recent[i] = -1;
            return -1;
        }
    }
    sim->recent[best] = -1;
    return idx;
}

static bool start_guess(struct sim *sim, enum prefetch_link link, double start_ns, double each_ns)
{
    struct prefetch_queue *queue = &sim->prefetch.queues[link];
    if (queue->waiting_count == 0) return false;
    struct prefetch_guess guess;
    float evicted = 0;
    int32_t layer = (int32_t)(sim->prefetch.visit % sim->options.layers);
    if (link == PREFETCH_UP && device_full(sim, layer) && !sim->options.by_layer) {
        int32_t victim = device_victim(sim, layer);
        if (victim < 0) return false;
        evicted = residency_value(&sim->device, victim);
    }
    if (link == PREFETCH_DISK && sim->host_used >= sim->options.host_slots) {
        int32_t victim = residency_victim(&sim->host, layer);
        if (victim < 0) return false;
        evicted = residency_value(&sim->host, victim);
    }
    const struct prefetch_transfer transfer = {.busy_ns = each_ns};
    while (prefetch_next(&sim->prefetch, link, transfer, evicted, &guess)) {
        uint8_t state = sim->state[guess.expert_idx];
        bool fit = link == PREFETCH_UP ? (state & AT_HOST) && !(state & (AT_DEVICE | GOING_UP))
                                       : !(state & (AT_HOST | AT_DEVICE | BEING_READ));
        int32_t guess_layer = guess.expert_idx / sim->options.experts;
        if (fit && link == PREFETCH_UP && device_full(sim, guess_layer) &&
            device_victim(sim, guess_layer) < 0)
            fit = false;
        if (fit) {
            take_off(sim, guess.expert_idx, link, true, start_ns, each_ns);
            return true;
        }
        prefetch_done(&sim->prefetch, link, guess.expert_idx, false);
    }
    return false;
}

void sim_use_idle_links(struct sim *sim)
{
    double up_ns = sim->up_ns, disk_ns = sim->disk_ns;
    for (; sim->options.device_slots > 0 && isfinite(up_ns);) {
        double start = fmax(sim->link_free_ns[PREFETCH_UP], sim->idle_from_ns);
        if (start >= sim->now_ns || sim->flight_count >= FLIGHTS_MAX / 2) break;
        if (start_guess(sim, PREFETCH_UP, start, up_ns)) continue;
        int32_t idx = next_promotion(sim);
        if (idx < 0) break;
        take_off(sim, idx, PREFETCH_UP, false, start, up_ns);
        sim->result.promotions++;
    }
    for (; isfinite(disk_ns);) {
        double start = fmax(sim->link_free_ns[PREFETCH_DISK], sim->idle_from_ns);
        if (start >= sim->now_ns || sim->flight_count >= FLIGHTS_MAX / 2) break;
        if (!start_guess(sim, PREFETCH_DISK, start, disk_ns)) break;
    }
    sim_land(sim);
}

/* ---- guesses ---- */

static void offer(struct sim *sim, int32_t idx, float probability, int64_t visit)
{
    uint8_t state = sim->state[idx];
    if (state & (AT_DEVICE | GOING_UP | BEING_READ)) return;
    bool host = state & AT_HOST;
    if (host && sim->options.device_slots == 0) return;
    const struct prefetch_guess guess = {idx, probability, visit};
    prefetch_offer(&sim->prefetch, host ? PREFETCH_UP : PREFETCH_DISK, &guess);
}

void sim_guess_by_table(struct sim *sim)
{
    const struct simulate_options *options = &sim->options;
    for (int32_t i = 0; i < options->hash_layers * options->top; i++) {
        int32_t layer = i / options->top;
        offer(sim, layer * options->experts + sim->tokens[1][i], 1,
              (sim->token + 1) * options->layers + layer);
    }
}

static bool is_chosen(const struct sim *sim, int32_t idx)
{
    int32_t layer = idx / sim->options.experts, top = sim->options.top;
    const uint16_t *chosen = sim->tokens[0] + layer * top;
    for (int32_t i = 0; i < top; i++)
        if (chosen[i] == idx - layer * sim->options.experts) return true;
    return false;
}

/* A missing expert of the layer that it does not choose, or -1 when none is found soon. */
static int32_t wrong_guess(struct sim *sim, int32_t layer)
{
    for (int32_t tries = 0; tries < WRONG_TRIES; tries++) {
        int32_t idx =
            layer * sim->options.experts + random_below(&sim->random, sim->options.experts);
        if (!(sim->state[idx] & (AT_DEVICE | GOING_UP)) && !is_chosen(sim, idx)) return idx;
    }
    return -1;
}

/* The router of `layer`, `distance` layers early: finds its recall of what is missing, with as many
 * wrong ones as its precision says. What is found from afar is found from near as well. False:
 * there is no such router. */
static bool guess_layer(struct sim *sim, int32_t layer, int32_t distance)
{
    const struct simulate_options *options = &sim->options;
    const struct simulate_ahead *ahead = &options->ahead[distance - 1];
    if (ahead->recall <= 0 || layer >= options->layers || layer < options->hash_layers)
        return false;
    int64_t visit = sim->token * options->layers + layer;
    double wrong = ahead->recall * (1 - ahead->precision) / ahead->precision;
    for (int32_t i = 0; i < options->top; i++) {
        int32_t idx = layer * options->experts + sim->tokens[0][layer * options->top + i];
        if (sim->state[idx] & (AT_DEVICE | GOING_UP)) continue;
        uint64_t key = random_mix(options->seed + (uint64_t)visit * SIMULATE_TOP_MAX + (uint64_t)i);
        if ((double)(key >> 11) * 0x1p-53 < ahead->recall)
            offer(sim, idx, (float)ahead->precision, visit);
        for (double left = wrong; left > 0; left -= 1) {
            if (random_unit(&sim->random) >= left) continue;
            int32_t other = wrong_guess(sim, layer);
            if (other >= 0) offer(sim, other, (float)ahead->precision, visit);
        }
    }
    return true;
}

int32_t sim_guess_ahead(struct sim *sim, int32_t layer)
{
    int32_t count = 0;
    for (int32_t distance = 1; distance <= SIMULATE_AHEAD_MAX; distance++)
        count += guess_layer(sim, layer + distance, distance);
    return count;
}
