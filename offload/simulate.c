/* Decode of a trace under a virtual clock; see the header. */
#include "offload/simulate_state.h"

#include <math.h>
#include <string.h>

/* ---- set-up ---- */

static enum sl_status check_options(const struct simulate_options *options, struct sl_error *error)
{
    if (options->layers < 1 || options->experts < 2 || options->top < 1 ||
        options->top > SIMULATE_TOP_MAX || options->top > options->experts ||
        options->hash_layers < 0 || options->hash_layers > options->layers)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "cannot simulate %d layers of %d experts, %d chosen, %d hash layers",
                            (int)options->layers, (int)options->experts, (int)options->top,
                            (int)options->hash_layers);
    if (options->tokens < 1 || options->warm_tokens < 0 ||
        options->tokens + options->warm_tokens > SIMULATE_TOKENS_MAX)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "simulate 1 to %lld tokens",
                            (long long)SIMULATE_TOKENS_MAX);
    if (options->device_slots < 0 || options->host_slots < 0 ||
        (options->device_slots > 0 && options->device_slots < options->top) ||
        (options->by_layer && options->device_slots < options->top * options->layers))
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "%d device slots are too few for one layer's %d experts",
                            (int)options->device_slots, (int)options->top);
    for (int32_t i = 0; i < SIMULATE_AHEAD_MAX; i++) {
        const struct simulate_ahead *ahead = &options->ahead[i];
        if (!(ahead->recall >= 0 && ahead->recall <= 1 && ahead->precision >= 0 &&
              ahead->precision <= 1) ||
            (ahead->recall > 0 && ahead->precision <= 0))
            return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                                "recall and precision of guesses lie within 0 and 1");
    }
    if (!(options->dense_ns >= 0) || !(options->look_ns >= 0))
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "a token takes no less than 0 ns");
    return SL_OK;
}

static bool allocate(struct sim *sim)
{
    const struct simulate_options *options = &sim->options;
    size_t row = (size_t)options->layers * (size_t)options->top;
    size_t experts = (size_t)options->layers * (size_t)options->experts;
    sim->state = calloc(experts, sizeof *sim->state);
    sim->next_use = calloc(experts, sizeof *sim->next_use);
    sim->layer_used = calloc((size_t)options->layers, sizeof *sim->layer_used);
    sim->tokens[0] = calloc(row, sizeof *sim->tokens[0]);
    sim->tokens[1] = calloc(row, sizeof *sim->tokens[1]);
    sim->token_times = calloc((size_t)options->tokens, sizeof *sim->token_times);
    bool ok = sim->state && sim->next_use && sim->layer_used && sim->tokens[0] && sim->tokens[1] &&
              sim->token_times;
    if (ok && options->policy == RESIDENCY_CLAIRVOYANT) {
        size_t all = (size_t)(options->tokens + options->warm_tokens) * row;
        sim->trace = malloc(all * sizeof *sim->trace);
        sim->following = malloc(all * sizeof *sim->following);
        ok = sim->trace && sim->following;
    }
    return ok;
}

static void sim_deinit(struct sim *sim)
{
    residency_deinit(&sim->device);
    residency_deinit(&sim->host);
    heat_deinit(&sim->heat);
    prefetch_deinit(&sim->prefetch);
    free(sim->state);
    free(sim->next_use);
    free(sim->layer_used);
    free(sim->tokens[0]);
    free(sim->tokens[1]);
    free(sim->trace);
    free(sim->following);
    free(sim->token_times);
    free(sim);
}

/* Memory starts full of the experts that come first in every layer, RAM before the device, as after
 * reading the file once. Counting hits alone starts with an empty device. */
static void fill_memory(struct sim *sim)
{
    const struct simulate_options *options = &sim->options;
    int32_t device = options->timed ? options->device_slots : 0;
    for (int32_t i = 0; i < options->layers * options->experts; i++) {
        int32_t layer = i % options->layers;
        int32_t idx = layer * options->experts + i / options->layers;
        bool in_host = sim->host_used < options->host_slots;
        if (in_host) {
            residency_insert(&sim->host, idx);
            sim->state[idx] |= AT_HOST;
            sim->host_used++;
        }
        if ((!in_host || options->inclusive) && sim->device_used < device) {
            residency_insert(&sim->device, idx);
            sim->state[idx] |= AT_DEVICE;
            sim->device_used++;
            sim->layer_used[layer]++;
        }
    }
}

static enum sl_status sim_init(struct sim *sim, struct sl_error *error)
{
    const struct simulate_options *options = &sim->options;
    const struct prefetch_options prefetch = {.layers = options->layers,
                                              .experts = options->experts,
                                              .flight_max = {options->device_slots > 0 ? 2 : 0, 8}};
    if (!allocate(sim))
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory to simulate %lld tokens",
                            (long long)options->tokens);
    if (options->timed) {
        SL_TRY(rates_init(&sim->rates, &options->profile, error));
        enum rates_lane lane = options->device_slots > 0 ? RATES_DEVICE : RATES_CPU;
        sim->up_ns = rates_expert_ns(&sim->rates, RATES_UP, 1, false);
        sim->disk_ns = rates_disk_ns(&sim->rates, 4);
        sim->resident_ns = options->top * rates_expert_ns(&sim->rates, lane, 1, false);
    }
    SL_TRY(heat_init(&sim->heat, options->layers, options->experts, error));
    SL_TRY(residency_init(&sim->device, &sim->heat, options->policy, error));
    SL_TRY(residency_init(&sim->host, &sim->heat, options->policy, error));
    SL_TRY(prefetch_init(&sim->prefetch, &prefetch, error));
    if (options->policy == RESIDENCY_CLAIRVOYANT) {
        residency_set_future(&sim->device, sim->next_use);
        residency_set_future(&sim->host, sim->next_use);
        for (int32_t i = 0; i < options->layers * options->experts; i++)
            sim->next_use[i] = INT64_MAX;
    }
    random_seed(&sim->random, options->seed);
    for (int32_t i = 0; i < RECENT_MAX; i++)
        sim->recent[i] = -1;
    fill_memory(sim);
    return SL_OK;
}

/* ---- one layer ---- */

static void count_access(struct sim *sim, int32_t idx)
{
    struct simulate_result *result = &sim->result;
    uint8_t state = sim->state[idx];
    result->accesses++;
    if (state & AT_DEVICE) {
        result->device_hits++;
        return;
    }
    if (heat_last_use(&sim->heat, idx) == HEAT_NEVER) result->cold++;
    if (state & GOING_UP)
        result->in_flight++;
    else if (state & AT_HOST)
        result->from_host++;
    else
        result->from_disk++;
}

static void describe_expert(struct sim *sim, int32_t idx, struct dispatch_expert *out)
{
    uint8_t state = sim->state[idx];
    *out = (struct dispatch_expert){.expert_idx = idx, .tokens = 1, .place = DISPATCH_AT_DISK};
    if (state & AT_DEVICE) {
        out->place = DISPATCH_AT_DEVICE;
    } else if (state & GOING_UP) {
        double left = fmax(sim_flight_end(sim, idx) - sim->now_ns, 0);
        /* It is in RAM as well until it has arrived: the CPU may be sooner. */
        bool wait = left <= rates_expert_ns(&sim->rates, RATES_CPU, 1, true);
        out->place = wait ? DISPATCH_AT_DEVICE : DISPATCH_AT_HOST;
        out->arrival_ns = wait ? (int64_t)left : 0;
    } else if (state & AT_HOST) {
        out->place = DISPATCH_AT_HOST;
    } else if (state & BEING_READ) {
        out->place = DISPATCH_AT_HOST;
        out->arrival_ns = (int64_t)fmax(sim_flight_end(sim, idx) - sim->now_ns, 0);
    }
}

/* Tells prefetch from when to when the layer wants each link. */
static void watch_layer(struct sim *sim, const double *until_ns)
{
    for (int32_t link = 0; link < PREFETCH_LINKS; link++) {
        if (until_ns[link] <= sim->now_ns) continue;
        prefetch_watch(&sim->prefetch, (enum prefetch_link)link, true, (int64_t)sim->now_ns);
        prefetch_watch(&sim->prefetch, (enum prefetch_link)link, false, (int64_t)until_ns[link]);
    }
}

/* Where the layer's experts are after it. */
static void settle_layer(struct sim *sim, const struct dispatch_expert *experts,
                         const struct dispatch_decision *decisions, int32_t count)
{
    double began = sim->now_ns, until_ns[PREFETCH_LINKS] = {0};
    for (int32_t i = 0; i < count; i++) {
        int32_t idx = experts[i].expert_idx;
        enum dispatch_choice choice = decisions[i].choice;
        bool read = choice == DISPATCH_READ_STREAM || choice == DISPATCH_READ_CPU;
        bool streamed = choice == DISPATCH_STREAM || choice == DISPATCH_READ_STREAM;
        double arrival = began + (double)experts[i].arrival_ns;
        enum prefetch_link link = sim->state[idx] & GOING_UP ? PREFETCH_UP : PREFETCH_DISK;
        until_ns[link] = fmax(until_ns[link], arrival);
        sim->result.choices[choice]++;
        double ready = began + (double)decisions[i].ready_ns;
        if (read) {
            double *free_ns = &sim->link_free_ns[PREFETCH_DISK];
            double landed =
                streamed ? ready - rates_expert_ns(&sim->rates, RATES_UP, 1, true) : ready;
            *free_ns = fmax(*free_ns, landed);
            until_ns[PREFETCH_DISK] = fmax(until_ns[PREFETCH_DISK], landed);
            sim->result.bytes_disk += sim->options.profile.expert_bytes;
        }
        if (streamed) {
            sim->link_free_ns[PREFETCH_UP] = fmax(sim->link_free_ns[PREFETCH_UP], ready);
            until_ns[PREFETCH_UP] = fmax(until_ns[PREFETCH_UP], ready);
            sim->result.bytes_up += sim->options.profile.expert_bytes;
        }
        if (choice == DISPATCH_RUN || (sim->state[idx] & GOING_UP)) continue;
        if (streamed && sim_admit_to_device(sim, idx)) continue;
        if (read) sim_keep_in_host(sim, idx);
        sim->recent[sim->recent_next++ % RECENT_MAX] = idx;
    }
    watch_layer(sim, until_ns);
}

/* Computes the layer's experts, some of which are missing; when the CPU is through with its share
 * of them. */
static double compute_layer(struct sim *sim, const int32_t *ids)
{
    const struct simulate_options *options = &sim->options;
    struct dispatch_expert experts[SIMULATE_TOP_MAX];
    struct dispatch_decision decisions[SIMULATE_TOP_MAX];
    for (int32_t i = 0; i < options->top; i++)
        describe_expert(sim, ids[i], &experts[i]);
    const struct dispatch_problem problem = {
        .rates = &sim->rates,
        .experts = experts,
        .count = options->top,
        .streams_max = options->device_slots > 0 ? options->top : 0,
        .lanes = {.up_ns = (int64_t)fmax(sim->link_free_ns[PREFETCH_UP] - sim->now_ns, 0),
                  .disk_ns = (int64_t)fmax(sim->link_free_ns[PREFETCH_DISK] - sim->now_ns, 0)},
        .rule = options->rule};
    double finish = (double)dispatch_choose(&problem, decisions);
    SL_ASSERT(finish >= 0); /* the options were checked for a lane */
    settle_layer(sim, experts, decisions, options->top);
    sim_charge(sim, decisions, finish);
    double cpu_end = sim->now_ns + sim_cpu_share(decisions, options->top);
    sim->now_ns += finish;
    return cpu_end;
}

static void bring_at_once(struct sim *sim, const int32_t *ids, int32_t count)
{
    for (int32_t i = 0; i < count; i++)
        if (!(sim->state[ids[i]] & AT_DEVICE)) sim_admit_to_device(sim, ids[i]);
}

/* Before anything of the layer moves. */
static void count_least(struct sim *sim, const int32_t *ids)
{
    int32_t hits = 0, host = 0, top = sim->options.top;
    for (int32_t i = 0; i < top; i++) {
        uint8_t state = sim->state[ids[i]];
        hits += (state & (AT_DEVICE | GOING_UP)) != 0;
        host += !(state & (AT_DEVICE | GOING_UP)) && (state & AT_HOST);
    }
    sim->least_ns += sim->options.dense_ns / sim->options.layers +
                     simulate_layer_least_ns(&sim->options, hits, host, top - hits - host);
}

static void run_layer(struct sim *sim, int32_t layer)
{
    const struct simulate_options *options = &sim->options;
    const uint16_t *chosen = sim->tokens[0] + layer * options->top;
    int32_t ids[SIMULATE_TOP_MAX];
    bool held[SIMULATE_TOP_MAX];
    int32_t hits = 0;
    if (options->timed) {
        sim->now_ns += options->dense_ns / options->layers;
        sim_use_idle_links(sim);
        prefetch_visit(&sim->prefetch, sim->token * options->layers + layer, (int64_t)sim->now_ns);
    }
    for (int32_t i = 0; i < options->top; i++) {
        ids[i] = layer * options->experts + chosen[i];
        count_access(sim, ids[i]);
        heat_use(&sim->heat, ids[i], sim->token);
        if (sim->following)
            sim->next_use[ids[i]] =
                sim->following[(sim->token * options->layers + layer) * options->top + i];
        if (options->timed) prefetch_used(&sim->prefetch, ids[i]);
        if (options->in_turn) bring_at_once(sim, &ids[i], 1);
        held[i] = !options->in_turn && (sim->state[ids[i]] & AT_DEVICE);
        hits += held[i];
    }
    bool whole = hits == options->top; /* nothing moves that could drive one out */
    for (int32_t i = 0; i < options->top && !whole; i++)
        if (held[i]) residency_hold(&sim->device, ids[i]);
    if (options->timed) {
        count_least(sim, ids);
        sim->idle_from_ns = sim->now_ns;
        if (whole) {
            sim->result.choices[DISPATCH_RUN] += (uint64_t)options->top;
            sim->now_ns += sim->resident_ns;
        } else {
            sim->idle_from_ns = compute_layer(sim, ids);
        }
        sim->idle_from_ns += sim_guess_ahead(sim, layer) * options->look_ns;
    } else if (!options->in_turn) {
        bring_at_once(sim, ids, options->top);
    }
    for (int32_t i = 0; i < options->top && !whole; i++)
        if (held[i]) residency_unhold(&sim->device, ids[i]);
    if (options->timed) sim_land(sim);
}

/* ---- the trace ---- */

/* For CLAIRVOYANT: the whole trace, and backwards the next use of each access. */
static void read_ahead(struct sim *sim, simulate_source_fn source, void *context)
{
    const struct simulate_options *options = &sim->options;
    int64_t row = (int64_t)options->layers * options->top;
    int32_t id;
    while (sim->trace_tokens < options->tokens + options->warm_tokens &&
           source(context, &id, sim->trace + sim->trace_tokens * row))
        sim->trace_tokens++;
    for (int64_t token = sim->trace_tokens - 1; token >= 0; token--)
        for (int64_t i = token * row; i < (token + 1) * row; i++) {
            int64_t layer = (i - token * row) / options->top;
            int64_t *next = &sim->next_use[layer * options->experts + sim->trace[i]];
            sim->following[i] = *next == INT64_MAX ? INT32_MAX : (int32_t)*next;
            *next = token;
        }
    for (int32_t i = 0; i < options->layers * options->experts; i++)
        sim->next_use[i] = INT64_MAX; /* what is in RAM at the start has no claim */
}

static bool next_token(struct sim *sim, simulate_source_fn source, void *context, int64_t token,
                       uint16_t *out)
{
    if (!sim->trace) return source(context, &sim->ids[1], out);
    size_t row = (size_t)sim->options.layers * (size_t)sim->options.top;
    if (token >= sim->trace_tokens) return false;
    memcpy(out, sim->trace + (size_t)token * row, row * sizeof *out);
    return true;
}

static int compare_times(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void summarise(struct sim *sim, double began_ns)
{
    struct simulate_result *result = &sim->result;
    double accesses = (double)result->accesses, tokens = (double)result->tokens;
    for (int32_t layer = 0; layer < sim->options.layers; layer++) {
        struct prefetch_counts counts = prefetch_counts_get(&sim->prefetch, layer);
        result->guesses.started += counts.started;
        result->guesses.useful += counts.useful;
        result->guesses.late += counts.late;
        result->guesses.wasted += counts.wasted;
        result->guesses.dropped += counts.dropped;
    }
    if (!sim->options.timed || accesses <= 0) return;
    result->total_ns = sim->now_ns - began_ns;
    result->tokens_per_second = tokens / result->total_ns * 1e9;
    qsort(sim->token_times, (size_t)result->tokens, sizeof *sim->token_times, compare_times);
    result->token_p50_ns = sim->token_times[result->tokens / 2] * 62.5;
    result->token_p99_ns = sim->token_times[result->tokens * 99 / 100] * 62.5;
    double misses = accesses - (double)result->device_hits;
    double disk = (double)result->from_disk;
    result->bound = simulate_bound(&sim->options, (double)result->device_hits / tokens,
                                   (misses - disk) / tokens, disk / tokens);
    result->bound_by_layer = tokens / sim->least_ns * 1e9;
}

static void run_tokens(struct sim *sim, simulate_source_fn source, void *context)
{
    const struct simulate_options *options = &sim->options;
    double began = 0, token_began = 0;
    sim->has_next = next_token(sim, source, context, 0, sim->tokens[1]);
    while (sim->has_next && sim->token < options->warm_tokens + options->tokens) {
        uint16_t *spent = sim->tokens[0];
        sim->tokens[0] = sim->tokens[1];
        sim->tokens[1] = spent;
        sim->has_next = next_token(sim, source, context, sim->token + 1, sim->tokens[1]);
        if (sim->token == options->warm_tokens) {
            sim->result = (struct simulate_result){0};
            sim->least_ns = 0;
            memset(sim->prefetch.counts, 0, (size_t)options->layers * sizeof *sim->prefetch.counts);
            began = sim->now_ns;
        }
        token_began = sim->now_ns;
        for (int32_t layer = 0; layer < options->layers; layer++) {
            run_layer(sim, layer);
            /* The next token is known when the last layer is done. */
            if (options->timed && options->hash_exact && sim->has_next &&
                layer == options->layers - 1) {
                sim_use_idle_links(sim);
                sim->idle_from_ns = sim->now_ns;
                sim_guess_by_table(sim);
            }
        }
        if (sim->token >= options->warm_tokens) {
            double units = (sim->now_ns - token_began) / 62.5;
            sim->token_times[sim->result.tokens++] = (uint32_t)fmin(units, 4e9);
        }
        sim->token++;
    }
    if (sim->token > options->warm_tokens) summarise(sim, began);
}

enum sl_status simulate_run(const struct simulate_options *options, simulate_source_fn source,
                            void *context, struct simulate_result *out, struct sl_error *error)
{
    SL_TRY(check_options(options, error));
    struct sim *sim = calloc(1, sizeof *sim);
    if (!sim) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for a simulation");
    sim->options = *options;
    enum sl_status status = sim_init(sim, error);
    if (status == SL_OK && options->timed) {
        bool device = options->device_slots == 0 || (rates_usable(&sim->rates, RATES_DEVICE) &&
                                                     rates_usable(&sim->rates, RATES_UP));
        bool whole =
            options->host_slots + options->device_slots >= options->layers * options->experts;
        if (!device || (options->device_slots == 0 && !rates_usable(&sim->rates, RATES_CPU)) ||
            (!whole && !rates_usable(&sim->rates, RATES_DISK)))
            status = sl_error_set(error, SL_ERR_ARGUMENT, 0,
                                  "no lane leads to some experts: give the rates of link and "
                                  "device, or of the CPU, and of the disk unless memory holds all");
    }
    if (status == SL_OK) {
        if (sim->trace) read_ahead(sim, source, context);
        run_tokens(sim, source, context);
        *out = sim->result;
        if (out->tokens == 0)
            status = sl_error_set(error, SL_ERR_LIMIT, 0,
                                  "the trace ended within the %lld tokens of warming up",
                                  (long long)options->warm_tokens);
    }
    sim_deinit(sim);
    return status;
}
