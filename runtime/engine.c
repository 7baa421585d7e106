/* Opening and closing an engine: model, experts' source, memory plan, store, tokenizer. */
#include "runtime/engine.h"

#include "offload/trace_writer.h"
#include "runtime/engine_gpu.h"
#include "runtime/layer_list.h"
#include "runtime/model_upload.h"
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
                                     .with_gpu = engine->gpu != NULL,
                                     .gpu_bytes = engine_gpu_bytes(engine, options),
                                     .tiers = options->tiers,
                                     .context_tokens = options->context_tokens,
                                     .chunk_tokens = options->chunk_tokens,
                                     .numerics = options->numerics};
    SL_TRY(budget_plan(&request, &engine->budget, error));
    engine_gpu_say_plan(engine, options);
    if (!engine->budget.fits)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "this does not fit: %s",
                            engine->budget.advice);
    return SL_OK;
}

static enum sl_status open_device(sl_engine *engine, const struct sl_engine_options *options,
                                  struct sl_error *error)
{
    if (engine->gpu) return engine_gpu_fill(engine, options, error);
    if (engine->device || !options->sim_device_bytes) return SL_OK;
    return compute_simulate_device(options->sim_device_bytes, options->sim_link_bytes_per_second,
                                   &engine->device, error);
}

static enum sl_status choose_policy(const struct sl_engine_options *options,
                                    const struct engine_overrides *overrides,
                                    enum residency_policy *out, struct sl_error *error)
{
    *out = overrides->policy;
    if (!options->policy) return SL_OK;
    int32_t found = residency_policy_find(options->policy);
    if (found < 0 || found == RESIDENCY_CLAIRVOYANT)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "no policy \"%s\": it must be blend, lru, lfu or static",
                            options->policy);
    *out = (enum residency_policy)found;
    return SL_OK;
}

static enum sl_status open_store(sl_engine *engine, const struct sl_engine_options *options,
                                 const struct engine_overrides *overrides, struct sl_error *error)
{
    struct profiles_subject subject = {.model = engine->model,
                                       .source = &engine->source,
                                       .isa = engine->compute.isa,
                                       .threads = engine->compute.threads};
    enum residency_policy policy;
    bool pinned[MODEL_LAYERS_MAX];
    char simulated[COMPUTE_DEVICE_NAME_BYTES];
    SL_TRY(choose_policy(options, overrides, &policy, error));
    if (engine->device) {
        uint64_t link = compute_simulated_link(options->sim_link_bytes_per_second, simulated);
        subject.link_bytes_per_second = (double)link;
        subject.device = engine->gpu ? engine->gpu->name : simulated;
    }
    if (engine->gpu) subject.pci = engine->gpu->pci;
    SL_TRY(profiles_open(options, &subject, &engine->profiles, error));
    if (options->pinned_layers)
        SL_TRY(layer_list_parse(options->pinned_layers, engine->source.layers, pinned, error));
    struct expert_store_options store = {
        .source = &engine->source,
        .device = engine->device,
        .device_bytes = engine->budget.device_bytes,
        .stream_slots = overrides->stream_slots ? max_i32(overrides->stream_slots, 0)
                                                : engine->budget.stream_slots,
        .sharing = (enum expert_sharing)options->tiers,
        .rule = overrides->rule,
        .policy = policy,
        .pinned_layers = options->pinned_layers ? pinned : NULL,
        .placement = &engine->profiles.placement,
        .rates = engine->profiles.measured ? &engine->profiles.rates : NULL,
        .profile_path = engine->profiles.heat_there ? engine->profiles.heat_path : NULL,
        .fingerprint = engine->profiles.fingerprint,
        .clock = overrides->clock,
        .prefetch_max = overrides->prefetch_max,
        .patience_ns = overrides->patience_ns,
        .ram_bytes = engine->budget.expert_ram_bytes,
        .slots_min = engine->budget.slots_min,
        .depth = BUDGET_READ_DEPTH,
        .io_override = overrides->io,
        .io = compute_io(options->io)};
    return expert_store_create(&store, &engine->store, error);
}

/* Routers that look ahead, at the state and as far as was found to pay (bench/README.md). */
static enum sl_status open_lookahead(sl_engine *engine, const struct sl_engine_options *options,
                                     struct sl_error *error)
{
    struct lookahead_options lookahead = {
        .model = engine->placed ? engine->placed : engine->model,
        .mode = options->prefetch,
        .depth = options->prefetch_depth ? options->prefetch_depth
                 : engine->gpu           ? ENGINE_PREFETCH_DEPTH_GPU
                                         : ENGINE_PREFETCH_DEPTH,
        /* From a GPU only the router's input comes to RAM, where routers look ahead. */
        .state = engine->gpu ? PREDICTOR_INPUT : PREDICTOR_SHARED,
    };
    if (options->prefetch_depth < 0 || options->prefetch_depth > PREDICTOR_DISTANCE_MAX)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "a prefetch depth of %d layers: it must be 1 to %d",
                            options->prefetch_depth, PREDICTOR_DISTANCE_MAX);
    return lookahead_create(&lookahead, &engine->lookahead, error);
}

/* Copies the weights to large pages where they are the CPU's and RAM is left for them. */
static enum sl_status place_weights(sl_engine *engine, const struct sl_engine_options *options,
                                    struct sl_error *error)
{
    if (engine->gpu || !budget_spares(&engine->budget, engine->budget.dense_bytes)) return SL_OK;
    SL_TRY(model_place(engine->model, options->progress, options->progress_context, &engine->placed,
                       error));
    return model_check_unchanged(engine->model, error);
}

static enum sl_status open_compute(sl_engine *engine, const struct sl_engine_options *options,
                                   struct sl_error *error)
{
    enum cpu_isa isa = engine->compute.isa;
    const struct ops *ops =
        options->fast_prefill ? ops_cpu_isa_fast_prefill(isa) : ops_cpu_isa(isa);
    struct gpu *gpu = engine->gpu;
    const struct model *weights = engine->placed ? engine->placed : engine->model;
    struct workspace_options workspace = {.config = &engine->model->config,
                                          .chunk_tokens = engine->budget.chunk_tokens,
                                          .context_tokens = engine->budget.context_tokens,
                                          .gpu = gpu};
    engine->forward.host_ops = ops;
    SL_TRY(compute_open_stream(&engine->compute, ops, &engine->stream, error));
    if (workspace_create(&workspace, &engine->workspace) != SL_OK)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0,
                            "no memory for the workspace (%.1f MiB): use a smaller chunk",
                            (double)engine->budget.workspace_bytes / 1048576.0);
    engine->tally = calloc((size_t)engine->source.layers, sizeof *engine->tally);
    if (!engine->tally) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "out of memory");
    SL_TRY(open_lookahead(engine, options, error));
    engine->forward = (struct forward){.model = engine->model,
                                       .weights = gpu ? engine->gpu_model : weights,
                                       .ops = gpu ? gpu->ops : ops,
                                       .stream = gpu ? gpu->stream : engine->stream,
                                       .gpu = gpu,
                                       .handshake = engine->handshake,
                                       .stream_seen = {.coming = -1},
                                       .host_ops = ops,
                                       .host_stream = engine->stream,
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
        if (overrides->gpu) overrides->gpu->gpu_ops->destroy(overrides->gpu);
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "out of memory");
    }
    engine->device = overrides->device;
    engine->numerics = options->numerics;
    enum sl_status status = engine_gpu_find(engine, options, overrides->gpu, error);
    if (status == SL_OK) status = open_model(engine, options, error);
    if (status == SL_OK)
        status = pack_open_source(engine->model, options, &engine->packed, &engine->source, error);
    if (status == SL_OK) status = make_plan(engine, options, error);
    if (status == SL_OK) status = open_device(engine, options, error);
    if (status == SL_OK)
        status = compute_choose(options->cpu_isa, options->threads, &engine->compute, error);
    if (status == SL_OK) status = open_store(engine, options, overrides, error);
    if (status == SL_OK) status = place_weights(engine, options, error);
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
    if (engine->stream) engine->forward.host_ops->stream_destroy(engine->stream);
    expert_store_destroy(engine->store);
    if (engine->device && !engine->gpu) engine->device->ops->destroy(engine->device);
    engine_gpu_close(engine);
    model_file_close(engine->packed);
    model_upload_free(engine->placed, NULL);
    model_close(engine->model);
    profiles_close(&engine->profiles);
    free(engine);
}

enum sl_status sl_engine_save_heat(const sl_engine *engine, struct sl_error *error)
{
    const struct profiles *profiles = &engine->profiles;
    bool refused = profiles->heat_there && !expert_store_is_warm(engine->store);
    if (!profiles->heat_path || refused) return SL_OK;
    return heat_save(expert_store_heat(engine->store), profiles->heat_path, profiles->fingerprint,
                     error);
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
