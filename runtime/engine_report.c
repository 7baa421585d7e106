/* What an engine tells of itself: its model, its figures, its notices, and recorded traces. */
#include "runtime/engine.h"

#include "offload/trace_writer.h"

#include <string.h>

struct sl_model_info sl_engine_info(const sl_engine *engine)
{
    const struct model_config *config = &engine->model->config;
    return (struct sl_model_info){.vocab = config->vocab,
                                  .hidden = config->hidden,
                                  .layers = config->layers,
                                  .experts = config->experts,
                                  .experts_per_token = config->experts_per_token,
                                  .context_max = config->context_max,
                                  .context_tokens = engine->budget.context_tokens,
                                  .bos_id = config->bos_id,
                                  .eos_id = config->eos_id,
                                  .has_mtp = engine->model->mtp.present,
                                  .drafter_0731 = config->drafter_0731};
}

const sl_tokenizer *sl_engine_tokenizer(const sl_engine *engine)
{
    return engine->tokenizer;
}

/* Sums of the guesses by where they came from. */
static void add_guesses(const sl_engine *engine, struct sl_stats *out)
{
    for (int32_t layer = 0; layer < engine->model->config.layers; layer++) {
        struct expert_guess_stats guesses;
        expert_store_guess_stats_get(engine->store, layer, &guesses);
        bool table = engine->model->layers[layer].token_experts != NULL;
        *(table ? &out->table_useful : &out->router_useful) += guesses.useful;
        *(table ? &out->table_late : &out->router_late) += guesses.late;
        *(table ? &out->table_wasted : &out->router_wasted) += guesses.wasted;
    }
    struct lookahead_stats lookahead;
    lookahead_stats_get(engine->lookahead, &lookahead);
    out->lookahead_layers = lookahead.layers;
    out->lookahead_ns = lookahead.elapsed_ns;
}

void sl_engine_layer_stats(const sl_engine *engine, int32_t layer, struct sl_layer_stats *out)
{
    SL_ASSERT(layer >= 0 && layer < engine->model->config.layers);
    const struct forward_tally *tally = &engine->tally[layer];
    struct expert_guess_stats guesses;
    expert_store_guess_stats_get(engine->store, layer, &guesses);
    *out =
        (struct sl_layer_stats){.asked = tally->asked,
                                .missed = tally->missed,
                                .wait_ns = tally->wait_ns,
                                .useful = guesses.useful,
                                .late = guesses.late,
                                .wasted = guesses.wasted,
                                .from_table = engine->model->layers[layer].token_experts != NULL};
}

enum sl_status sl_trace_start(sl_engine *engine, const char *path, bool every_guess,
                              struct sl_error *error)
{
    const struct model_config *config = &engine->model->config;
    if (engine->trace)
        return sl_error_set(error, SL_ERR_BUSY, 0,
                            "a trace is being recorded already: stop that one first");
    struct trace_head head = {.layers = config->layers,
                              .hash_layers = config->hash_layers,
                              .experts = config->experts,
                              .top = config->experts_per_token,
                              .slot_bytes = engine->source.slot_bytes};
    snprintf(head.source, sizeof head.source, "sluice %s", sl_version());
    SL_TRY(model_fingerprint(engine->model, &head.fingerprint, error));
    lookahead_record(engine->lookahead, every_guess && !engine->gpu, &head);
    enum sl_status status =
        trace_writer_open(path, &head, engine->budget.chunk_tokens, &engine->trace, error);
    if (status != SL_OK) lookahead_record_end(engine->lookahead);
    return status;
}

enum sl_status sl_trace_stop(sl_engine *engine, struct sl_error *error)
{
    struct trace_writer *trace = engine->trace;
    engine->trace = NULL;
    if (engine->lookahead) lookahead_record_end(engine->lookahead);
    return trace_writer_close(trace, error);
}

void sl_engine_stats(const sl_engine *engine, struct sl_stats *out)
{
    struct expert_store_stats store;
    expert_store_stats_get(engine->store, &store);
    *out = (struct sl_stats){.expert_hits = store.hits,
                             .expert_misses = store.misses,
                             .expert_evictions = store.evictions,
                             .expert_bytes_read = store.bytes_read,
                             .expert_reads = store.reads,
                             .expert_retries = store.retries,
                             .expert_failures = store.failures,
                             .stall_ns = store.stall_ns,
                             .expert_ram_bytes = store.ram_bytes,
                             .expert_slots = store.slots,
                             .expert_slots_total = engine->budget.experts_total,
                             .dense_bytes = engine->budget.dense_bytes,
                             .session_bytes = engine->budget.session_bytes,
                             .threads = engine->compute.threads,
                             .threads_pinned = cpu_stream_pinned(engine->stream)};
    out->device_slots = store.device_slots;
    out->from_disk = store.from[EXPERT_TIER_DISK];
    out->from_ram = store.from[EXPERT_TIER_HOST];
    out->from_device = store.from[EXPERT_TIER_DEVICE];
    out->on_cpu = store.lanes[EXPERT_LANE_CPU];
    out->on_device = store.lanes[EXPERT_LANE_DEVICE];
    out->bytes_up = store.bytes_up;
    out->bytes_down = store.bytes_down;
    out->promotions = store.promotions;
    out->demotions = store.demotions;
    out->redirects = store.redirects;
    add_guesses(engine, out);
    snprintf(out->io, sizeof out->io, "%s", expert_store_describe_io(engine->store));
    snprintf(out->memory, sizeof out->memory, "%s", expert_store_describe_memory(engine->store));
    out->on_gpu = engine->gpu != NULL;
    snprintf(out->gpu, sizeof out->gpu, "%s",
             engine->gpu ? engine->gpu->gpu_ops->describe(engine->gpu) : engine->gpu_absent);
    snprintf(out->cpu_isa, sizeof out->cpu_isa, "%s", cpu_isa_name(engine->compute.isa));
}

const char *sl_engine_notice(const sl_engine *engine, int32_t idx)
{
    const struct profiles *profiles = &engine->profiles;
    SL_ASSERT(idx >= 0);
    if (engine->budget.notice[0] && idx-- == 0) return engine->budget.notice;
    if (idx < profiles->notice_count) return profiles->notices[idx];
    return expert_store_notice(engine->store, idx - profiles->notice_count);
}
