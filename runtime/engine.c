/* Opening and closing an engine: model, experts' source, memory plan, store, tokenizer. */
#include "runtime/engine.h"

#include "offload/device_sim.h"
#include "offload/topology.h"
#include "offload/trace_writer.h"
#include "runtime/pack.h"

#include <string.h>
#include <unistd.h>

const char *sl_version(void)
{
    return SLUICE_VERSION;
}

struct sl_engine_options sl_engine_options_default(void)
{
    return (struct sl_engine_options){.numerics = SL_NUMERICS_EXACT, .io = SL_IO_AUTO};
}

static enum sl_status open_model(sl_engine *engine, const struct sl_engine_options *options,
                                 struct sl_error *error)
{
    struct model_open_options open = {.directory = options->model_dir,
                                      .want_mtp = options->with_mtp,
                                      .want_direct = !options->buffered_io,
                                      .read_dense = true,
                                      .progress = options->progress,
                                      .progress_context = options->progress_context};
    if (!options->model_dir)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "no model directory given");
    SL_TRY(model_open(&open, &engine->model, error));
    if (options->with_mtp && !engine->model->mtp.present)
        return sl_error_set(error, SL_ERR_UNSUPPORTED, 0,
                            "%s has no MTP block that this version can run", options->model_dir);
    return SL_OK;
}

/* "directory/name" in heap memory, or NULL. */
static char *join_path(const char *directory, const char *name)
{
    char *path = NULL;
    return asprintf(&path, "%s/%s", directory, name) < 0 ? NULL : path;
}

static enum sl_status make_plan(sl_engine *engine, const struct sl_engine_options *options,
                                struct sl_error *error)
{
    struct budget_request request = {.model = engine->model,
                                     .source = &engine->source,
                                     .ram_bytes = options->ram_bytes,
                                     .device_bytes = options->sim_device_bytes,
                                     .device_is_ram = true,
                                     .tiers = options->tiers,
                                     .context_tokens = options->context_tokens,
                                     .chunk_tokens = options->chunk_tokens,
                                     .numerics = options->numerics};
    SL_TRY(budget_plan(&request, &engine->budget, error));
    if (!engine->budget.fits)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "this does not fit: %s",
                            engine->budget.advice);
    return SL_OK;
}

/* The simulated link where nothing else is asked for: PCIe 4 with sixteen lanes. */
#define ENGINE_SIM_LINK_BYTES_PER_SECOND 25000000000u
#define ENGINE_SIM_LATENCY_NS            10000u

static enum sl_status open_device(sl_engine *engine, const struct sl_engine_options *options,
                                  struct sl_error *error)
{
    uint64_t rate = options->sim_link_bytes_per_second;
    if (!rate) rate = ENGINE_SIM_LINK_BYTES_PER_SECOND;
    struct device_sim_options device = {.memory_bytes = options->sim_device_bytes,
                                        .bytes_per_second = {rate, rate},
                                        .latency_ns = ENGINE_SIM_LATENCY_NS,
                                        .threads = true};
    if (engine->device || !options->sim_device_bytes) return SL_OK;
    return device_sim_create(&device, &engine->device, error);
}

static enum sl_status open_store(sl_engine *engine, const struct sl_engine_options *options,
                                 const struct engine_overrides *overrides, struct sl_error *error)
{
    struct expert_store_options store = {.source = &engine->source,
                                         .device = engine->device,
                                         .device_bytes = engine->budget.device_bytes,
                                         .sharing = (enum expert_sharing)options->tiers,
                                         .rule = overrides->rule,
                                         .policy = overrides->policy,
                                         .clock = overrides->clock,
                                         .prefetch_max = overrides->prefetch_max,
                                         .patience_ns = overrides->patience_ns,
                                         .ram_bytes = engine->budget.expert_ram_bytes,
                                         .slots_min = engine->budget.slots_min,
                                         .depth = BUDGET_READ_DEPTH,
                                         .io_override = overrides->io,
                                         .io = options->io == SL_IO_URING   ? IO_URING
                                               : options->io == SL_IO_PREAD ? IO_PREAD
                                                                            : IO_AUTO};
    return expert_store_create(&store, &engine->store, error);
}

/* The instruction set named by the options, or the best one. */
static enum sl_status choose_isa(const char *name, enum cpu_isa *out, struct sl_error *error)
{
    *out = cpu_isa_best();
    if (!name) return SL_OK;
    if (!cpu_isa_parse(name, out))
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "no instruction set \"%s\": it must be portable, avx2, avx512 or amx",
                            name);
    if (!cpu_isa_supported(*out))
        return sl_error_set(error, SL_ERR_UNSUPPORTED, 0,
                            "this processor cannot run the %s kernels, it lacks %s: leave the "
                            "choice open, or use %s",
                            name, cpu_isa_missing(*out), cpu_isa_name(cpu_isa_best()));
    return SL_OK;
}

_Static_assert(TOPOLOGY_CORES_MAX <= ENGINE_THREADS_MAX, "a thread on each core must be allowed");

/* A stream with a thread on each core, or with `threads` of them. The caller's thread is left where
 * the system puts it: it is the user's, and threads it starts would be born with its CPU. */
static enum sl_status open_stream(sl_engine *engine, const struct ops *ops, int32_t threads,
                                  struct sl_error *error)
{
    struct topology topology;
    int32_t cpus[TOPOLOGY_CORES_MAX], nodes[TOPOLOGY_CORES_MAX];
    topology_detect(&topology);
    struct stream_options stream = {.threads = threads ? threads : topology.core_count};
    if (stream.threads < 1 || stream.threads > ENGINE_THREADS_MAX)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "%d threads: it must be 1 to %d",
                            stream.threads, ENGINE_THREADS_MAX);
    if (stream.threads <= topology.core_count) {
        topology_place(&topology, stream.threads, cpus, nodes);
        cpus[0] = -1;
        stream.cpus = cpus;
        stream.nodes = nodes;
    }
    enum sl_status status = ops->stream_create(&stream, &engine->stream);
    if (status == SL_ERR_UNSUPPORTED)
        return sl_error_set(error, status, 0,
                            "fast prefill with the %s kernels needs OpenBLAS, in the build and as "
                            "libopenblas.so.0 here: install it, or use exact prefill",
                            cpu_isa_name(engine->cpu_isa));
    if (status != SL_OK)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "cannot start %d threads", stream.threads);
    engine->threads = stream.threads;
    return SL_OK;
}

/* Routers that look ahead, at the state and as far as was found to pay (bench/README.md). */
static enum sl_status open_lookahead(sl_engine *engine, const struct sl_engine_options *options,
                                     struct sl_error *error)
{
    struct lookahead_options lookahead = {
        .model = engine->model,
        .mode = options->prefetch,
        .depth = options->prefetch_depth ? options->prefetch_depth : ENGINE_PREFETCH_DEPTH,
        .state = PREDICTOR_SHARED,
    };
    if (options->prefetch_depth < 0 || options->prefetch_depth > PREDICTOR_DISTANCE_MAX)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "a prefetch depth of %d layers: it must be 1 to %d",
                            options->prefetch_depth, PREDICTOR_DISTANCE_MAX);
    return lookahead_create(&lookahead, &engine->lookahead, error);
}

static enum sl_status open_compute(sl_engine *engine, const struct sl_engine_options *options,
                                   struct sl_error *error)
{
    SL_TRY(choose_isa(options->cpu_isa, &engine->cpu_isa, error));
    const struct ops *ops = options->fast_prefill ? ops_cpu_isa_fast_prefill(engine->cpu_isa)
                                                  : ops_cpu_isa(engine->cpu_isa);
    engine->forward.ops = ops;
    SL_TRY(open_stream(engine, ops, options->threads, error));
    if (workspace_create(&engine->model->config, engine->budget.chunk_tokens,
                         engine->budget.context_tokens, &engine->workspace) != SL_OK)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0,
                            "no memory for the workspace (%.1f MiB): use a smaller chunk",
                            (double)engine->budget.workspace_bytes / 1048576.0);
    engine->tally = calloc((size_t)engine->source.layers, sizeof *engine->tally);
    if (!engine->tally) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "out of memory");
    SL_TRY(open_lookahead(engine, options, error));
    engine->forward = (struct forward){.model = engine->model,
                                       .ops = ops,
                                       .stream = engine->stream,
                                       .store = engine->store,
                                       .workspace = engine->workspace,
                                       .lookahead = engine->lookahead,
                                       .tally = engine->tally,
                                       .experts_total = engine->budget.experts_total,
                                       .round = options->numerics == SL_NUMERICS_EXACT};
    return SL_OK;
}

static enum sl_status open_tokenizer(sl_engine *engine, const struct sl_engine_options *options,
                                     struct sl_error *error)
{
    char *path = join_path(options->model_dir, "tokenizer.json");
    if (!path) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "out of memory");
    enum sl_status status = SL_OK;
    if (access(path, F_OK) == 0) status = sl_tokenizer_open(path, &engine->tokenizer, error);
    free(path);
    return status;
}

enum sl_status sl_engine_open(const struct sl_engine_options *options, sl_engine **out,
                              struct sl_error *error)
{
    return engine_open_with(options, NULL, out, error);
}

enum sl_status engine_open_with_io(const struct sl_engine_options *options, const struct io_ops *io,
                                   sl_engine **out, struct sl_error *error)
{
    return engine_open_with(options, &(struct engine_overrides){.io = io}, out, error);
}

enum sl_status engine_open_with(const struct sl_engine_options *options,
                                const struct engine_overrides *overrides, sl_engine **out,
                                struct sl_error *error)
{
    static const struct engine_overrides none;
    if (!overrides) overrides = &none;
    *out = NULL;
    sl_engine *engine = calloc(1, sizeof *engine);
    if (!engine) {
        if (overrides->device) overrides->device->ops->destroy(overrides->device);
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "out of memory");
    }
    engine->device = overrides->device;
    engine->numerics = options->numerics;
    enum sl_status status = open_model(engine, options, error);
    if (status == SL_OK)
        status = pack_open_source(engine->model, options, &engine->packed, &engine->source, error);
    if (status == SL_OK) status = make_plan(engine, options, error);
    if (status == SL_OK) status = open_device(engine, options, error);
    if (status == SL_OK) status = open_store(engine, options, overrides, error);
    if (status == SL_OK) status = open_compute(engine, options, error);
    if (status == SL_OK) status = open_tokenizer(engine, options, error);
    if (status != SL_OK) {
        sl_engine_close(engine);
        return status;
    }
    *out = engine;
    return SL_OK;
}

void sl_engine_close(sl_engine *engine)
{
    if (!engine) return;
    SL_ASSERT(engine->sessions == 0);
    enum sl_status untold = sl_trace_stop(engine, NULL);
    (void)untold; /* who wants to know stops the recording first */
    sl_tokenizer_close(engine->tokenizer);
    lookahead_destroy(engine->lookahead);
    free(engine->tally);
    workspace_destroy(engine->workspace);
    if (engine->stream) engine->forward.ops->stream_destroy(engine->stream);
    expert_store_destroy(engine->store);
    if (engine->device) engine->device->ops->destroy(engine->device);
    model_file_close(engine->packed);
    model_close(engine->model);
    free(engine);
}

enum sl_status engine_check_files(const struct sl_engine *engine, struct sl_error *error)
{
    SL_TRY(model_check_unchanged(engine->model, error));
    if (engine->packed) {
        const struct expert_source *source = model_file_source(engine->packed);
        for (int32_t i = 0; i < source->file_count; i++)
            SL_TRY(io_file_check_unchanged(&source->files[i], error));
    }
    return SL_OK;
}

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
        struct lookahead_counts guesses = lookahead_counts_get(engine->lookahead, layer);
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
    struct lookahead_counts guesses = lookahead_counts_get(engine->lookahead, layer);
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
    lookahead_record(engine->lookahead, every_guess, &head);
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
                             .threads = engine->threads,
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
    snprintf(out->cpu_isa, sizeof out->cpu_isa, "%s", cpu_isa_name(engine->cpu_isa));
}

const char *sl_engine_notice(const sl_engine *engine, int32_t idx)
{
    return expert_store_notice(engine->store, idx);
}
