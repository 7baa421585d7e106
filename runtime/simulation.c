/* sl_simulate: a trace through the offload engine's decisions under a virtual clock. */
#include "runtime/simulation.h"
#include "offload/synthetic_trace.h"
#include "offload/trace_reader.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include <jansson.h>

#define GB 1e9

struct sl_simulation sl_simulation_default(void)
{
    return (struct sl_simulation){.preset = "base",
                                  .policy = "blend",
                                  .machine = {.gpu_bytes = UINT64_C(64) << 30,
                                              .ram_bytes = UINT64_C(112) << 30,
                                              .gpu_rate = 2000 * GB,
                                              .link_rate = 52 * GB,
                                              .cpu_rate = 150 * GB,
                                              .disk_rate = 7 * GB,
                                              .memory_rate = 178 * GB},
                                  .layers = 43,
                                  .experts = 256,
                                  .top = 6,
                                  .hash_layers = 3,
                                  .expert_bytes = 13369344,
                                  .dense_seconds = 4.3e-3,
                                  .recall = {SIMULATE_RECALL_1, SIMULATE_RECALL_2},
                                  .precision = {SIMULATE_PRECISION_1, SIMULATE_PRECISION_2},
                                  .hash_exact = true,
                                  .warm_tokens = 2000,
                                  .tokens = 4000,
                                  .seed = 1};
}

struct rates_machine simulation_rates(const struct sl_machine *machine)
{
    return (struct rates_machine){machine->gpu_rate, machine->link_rate, machine->cpu_rate,
                                  machine->disk_rate, machine->memory_rate};
}

/* ---- sources ---- */

static bool next_synthetic(void *context, int32_t *token_id, uint16_t *chosen)
{
    synthetic_trace_next(context, token_id, chosen);
    return true;
}

/* Tokens of a recorded trace one by one, prompts included; a step that stopped early is left out.
 */
struct recording {
    struct trace_reader *reader;
    const struct trace_step *step;
    int32_t next; /* token of the step */
    int32_t layers, top;
    enum sl_status status; /* of the last read */
    struct sl_error error;
};

static bool next_recorded(void *context, int32_t *token_id, uint16_t *chosen)
{
    struct recording *recording = context;
    while (!recording->step || recording->next >= recording->step->tokens ||
           recording->step->layers < recording->layers) {
        recording->next = 0;
        recording->status =
            trace_reader_next(recording->reader, &recording->step, &recording->error);
        if (recording->status != SL_OK || !recording->step) return false;
    }
    const struct trace_step *step = recording->step;
    size_t top = (size_t)recording->top;
    for (size_t layer = 0; layer < (size_t)recording->layers; layer++)
        memcpy(chosen + layer * top,
               step->chosen + (layer * (size_t)step->tokens + (size_t)recording->next) * top,
               top * sizeof *chosen);
    *token_id = step->ids[recording->next++];
    return true;
}

/* ---- running ---- */

static int32_t slots_of(uint64_t bytes, uint64_t expert_bytes, int32_t all)
{
    uint64_t slots = bytes / expert_bytes;
    return slots < (uint64_t)all ? (int32_t)slots : all;
}

static enum sl_status make_options(const struct sl_simulation *simulation,
                                   struct simulate_options *out, struct sl_error *error)
{
    int32_t policy = residency_policy_find(simulation->policy);
    if (policy < 0)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "there is no policy \"%s\"",
                            simulation->policy);
    if (simulation->expert_bytes == 0)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "the size of an expert is not known: give --expert-bytes");
    const struct rates_machine machine = simulation_rates(&simulation->machine);
    int32_t all = simulation->layers * simulation->experts;
    *out = (struct simulate_options){
        .layers = simulation->layers,
        .experts = simulation->experts,
        .top = simulation->top,
        .hash_layers = simulation->hash_layers,
        .device_slots = slots_of(simulation->machine.gpu_bytes, simulation->expert_bytes, all),
        .host_slots = slots_of(simulation->machine.ram_bytes, simulation->expert_bytes, all),
        .timed = true,
        .inclusive = simulation->inclusive,
        .hash_exact = simulation->hash_exact,
        .ahead = {{simulation->recall[0], simulation->precision[0]},
                  {simulation->recall[1], simulation->precision[1]}},
        .look_ns = SIMULATE_LOOK_NS,
        .policy = (enum residency_policy)policy,
        .dense_ns = simulation->dense_seconds * 1e9,
        .warm_tokens =
            (int64_t)(simulation->warm_tokens < INT32_MAX ? simulation->warm_tokens : INT32_MAX),
        .tokens = (int64_t)(simulation->tokens < INT32_MAX ? simulation->tokens : INT32_MAX),
        .seed = simulation->seed};
    if (simulation->machine.gpu_bytes && out->device_slots == 0)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "the GPU has no room for one expert");
    rates_profile_make(&out->profile, simulation->expert_bytes, &machine);
    return SL_OK;
}

static enum sl_status run_synthetic(const struct sl_simulation *simulation,
                                    struct simulate_options *used, struct simulate_result *result,
                                    struct sl_error *error)
{
    struct synthetic_options options = {.layers = simulation->layers,
                                        .experts = simulation->experts,
                                        .top = simulation->top,
                                        .hash_layers = simulation->hash_layers,
                                        .seed = simulation->seed};
    if (!synthetic_preset(simulation->preset, &options))
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "there is no preset \"%s\"",
                            simulation->preset);
    options.dead = min_i32(options.dead, options.experts / 8);
    struct synthetic_trace *trace;
    SL_TRY(make_options(simulation, used, error));
    SL_TRY(synthetic_trace_create(&options, &trace, error));
    enum sl_status status = simulate_run(used, next_synthetic, trace, result, error);
    synthetic_trace_destroy(trace);
    return status;
}

static enum sl_status run_recorded(const struct sl_simulation *simulation,
                                   struct simulate_options *used, struct simulate_result *result,
                                   struct sl_error *error)
{
    struct recording recording = {0};
    SL_TRY(trace_reader_open(simulation->trace, &recording.reader, error));
    const struct trace_head *head = trace_reader_head(recording.reader);
    struct sl_simulation shaped = *simulation;
    shaped.layers = recording.layers = head->layers;
    shaped.top = recording.top = head->top;
    shaped.experts = head->experts;
    shaped.hash_layers = head->hash_layers;
    if (head->slot_bytes) shaped.expert_bytes = head->slot_bytes;
    enum sl_status status = make_options(&shaped, used, error);
    if (status == SL_OK) status = simulate_run(used, next_recorded, &recording, result, error);
    if (recording.status != SL_OK) { /* the trace is damaged: that comes first */
        if (error) *error = recording.error;
        status = recording.status;
    }
    trace_reader_close(recording.reader);
    return status;
}

enum sl_status simulation_run(const struct sl_simulation *simulation, struct simulate_options *used,
                              struct simulate_result *result, struct sl_error *error)
{
    return simulation->trace ? run_recorded(simulation, used, result, error)
                             : run_synthetic(simulation, used, result, error);
}

/* ---- reports ---- */

static void print_text(FILE *out, const struct sl_simulation *simulation,
                       const struct simulate_options *used, const struct simulate_result *r)
{
    double accesses = (double)r->accesses, tokens = (double)r->tokens;
    fprintf(out, "routing     %s, %" PRId32 " layers of %" PRId32 " experts, %" PRId32 " chosen\n",
            simulation->trace ? simulation->trace : simulation->preset, used->layers, used->experts,
            used->top);
    fprintf(out, "slots       %" PRId32 " on the GPU, %" PRId32 " in RAM (%s), policy %s\n",
            used->device_slots, used->host_slots, used->inclusive ? "inclusive" : "exclusive",
            residency_policy_name(used->policy));
    fprintf(out, "tokens      %" PRId64 " after %" PRId64 "\n\n", r->tokens, used->warm_tokens);
    fprintf(out, "on the GPU  %6.2f %% of accesses\n", 100 * simulate_hit_rate(r));
    fprintf(out, "on the way  %6.2f %%\n", 100 * (double)r->in_flight / accesses);
    fprintf(out, "in RAM      %6.2f %%\n", 100 * (double)r->from_host / accesses);
    fprintf(out, "on disk     %6.2f %%   (never used before: %.2f %%)\n",
            100 * (double)r->from_disk / accesses, 100 * (double)r->cold / accesses);
    fprintf(out, "computed   ");
    for (int32_t i = 0; i < DISPATCH_CHOICES; i++)
        fprintf(out, " %s %.2f %%%s", dispatch_choice_name((enum dispatch_choice)i),
                100 * (double)r->choices[i] / accesses, i + 1 < DISPATCH_CHOICES ? "," : "\n");
    fprintf(out,
            "moved       up %.1f, down %.1f, from disk %.1f MB a token; %" PRIu64 " promotions\n",
            (double)r->bytes_up / tokens / 1e6, (double)r->bytes_down / tokens / 1e6,
            (double)r->bytes_disk / tokens / 1e6, r->promotions);
    fprintf(out,
            "guesses     %" PRIu64 " started, %" PRIu64 " useful, %" PRIu64 " late, %" PRIu64
            " wasted, %" PRIu64 " dropped\n",
            r->guesses.started, r->guesses.useful, r->guesses.late, r->guesses.wasted,
            r->guesses.dropped);
    fprintf(out, "stalls      %.2f ms a token:", r->stall_ns / tokens / 1e6);
    for (int32_t i = 0; i < SIMULATE_LOST_COUNT; i++)
        fprintf(out, " %s %.2f%s", simulate_lost_name((enum simulate_lost)i),
                r->lost_ns[i] / tokens / 1e6, i + 1 < SIMULATE_LOST_COUNT ? "," : "\n");
    fprintf(out, "speed       %.1f tokens/s, a token in %.2f ms (median), %.2f ms (99 of 100)\n",
            r->tokens_per_second, r->token_p50_ns / 1e6, r->token_p99_ns / 1e6);
    fprintf(out, "bound       %.1f tokens/s at this hit rate, so %.2f of it;\n", r->bound,
            r->tokens_per_second / r->bound);
    fprintf(out, "            %.1f when each layer waits for its own experts, so %.2f\n",
            r->bound_by_layer, r->tokens_per_second / r->bound_by_layer);
}

static char *make_json(const struct sl_simulation *simulation, const struct simulate_options *used,
                       const struct simulate_result *r)
{
    json_t *choices = json_object();
    for (int32_t i = 0; i < DISPATCH_CHOICES; i++)
        json_object_set_new(choices, dispatch_choice_name((enum dispatch_choice)i),
                            json_integer((json_int_t)r->choices[i]));
    json_t *root = json_pack(
        "{s:s, s:s, s:i, s:i, s:i, s:i, s:b, s:I, s:I, s:f, s:I, s:I, s:I, s:I, s:o}", "routing",
        simulation->trace ? simulation->trace : simulation->preset, "policy",
        residency_policy_name(used->policy), "layers", used->layers, "experts", used->experts,
        "gpu_slots", used->device_slots, "ram_slots", used->host_slots, "inclusive",
        used->inclusive, "tokens", (json_int_t)r->tokens, "accesses", (json_int_t)r->accesses,
        "hit_rate", simulate_hit_rate(r), "on_the_way", (json_int_t)r->in_flight, "from_ram",
        (json_int_t)r->from_host, "from_disk", (json_int_t)r->from_disk, "never_used_before",
        (json_int_t)r->cold, "computed", choices);
    json_t *more = json_pack(
        "{s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:{s:I, s:I, s:I, s:I, s:I}}",
        "bytes_up", (json_int_t)r->bytes_up, "bytes_down", (json_int_t)r->bytes_down, "bytes_disk",
        (json_int_t)r->bytes_disk, "promotions", (json_int_t)r->promotions, "stall_seconds",
        r->stall_ns / 1e9, "tokens_per_second", r->tokens_per_second, "token_p50_seconds",
        r->token_p50_ns / 1e9, "token_p99_seconds", r->token_p99_ns / 1e9, "bound", r->bound,
        "bound_by_layer", r->bound_by_layer, "guesses", "started", (json_int_t)r->guesses.started,
        "useful", (json_int_t)r->guesses.useful, "late", (json_int_t)r->guesses.late, "wasted",
        (json_int_t)r->guesses.wasted, "dropped", (json_int_t)r->guesses.dropped);
    json_t *lost = json_object();
    for (int32_t i = 0; i < SIMULATE_LOST_COUNT; i++)
        json_object_set_new(lost, simulate_lost_name((enum simulate_lost)i),
                            json_real(r->lost_ns[i] / 1e9));
    if (root) json_object_set_new(root, "stall_seconds_by_cause", lost);
    char *text = NULL;
    if (root && more && json_object_update(root, more) == 0)
        text = json_dumps(root, JSON_INDENT(2));
    json_decref(more);
    json_decref(root);
    return text;
}

enum sl_status sl_simulate(const struct sl_simulation *simulation, bool json, char **report,
                           struct sl_error *error)
{
    struct simulate_options used;
    struct simulate_result result;
    size_t bytes = 0;
    *report = NULL;
    SL_TRY(simulation_run(simulation, &used, &result, error));
    if (json) {
        *report = make_json(simulation, &used, &result);
    } else {
        FILE *out = open_memstream(report, &bytes);
        if (out) {
            print_text(out, simulation, &used, &result);
            if (fclose(out) != 0) *report = NULL;
        }
    }
    return *report ? SL_OK : sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for the report");
}
