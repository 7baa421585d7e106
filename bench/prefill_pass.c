/* The simulated prompt; see the header. */
#include "bench/prefill_pass.h"

#include "bench/virtual_disk.h"
#include "offload/device_sim.h"
#include "offload/synthetic_trace.h"
#include "runtime/moe_stream.h"

#include <math.h>
#include <string.h>

/* Assumed of an H100 until one has measured it: bf16 products of large matrices, memory as copies
 * see it (offload facts 4), and the ratios that the kernels are to reach (linears, routed experts,
 * attention with indexer; reading weights). */
#define MATRIX_RATE     650e12
#define COPY_RATE       2.8e12
#define LINEAR_RATIO    0.60
#define EXPERT_RATIO    0.45
#define ATTENTION_RATIO 0.40
#define READ_RATIO      0.80
#define LAUNCHES        50
#define LAUNCH_SECONDS  1.5e-6
#define STREAM_PASSES   6 /* over the residual streams, a layer */

/* Published shapes. */
#define HIDDEN       4096.0
#define WIDTH        2048.0
#define HEADS_DIM    (64.0 * 512)
#define INDEX_DIM    (64.0 * 128)
#define WINDOW       128
#define SELECTED     512
#define EXPERT_BYTES 13369344.0

#define SLOT_BYTES  4096
#define COUNT       (PREFILL_LAYERS * PREFILL_EXPERTS)
#define WARM_TOKENS 200
#define LOOK_NS     20000.0 /* between turns of the store while the GPU computes */
#define DEPTH       8
#define DISK_SLOTS  256 /* of RAM, where experts come from disk */

double prefill_experts_seconds(int32_t tokens, int32_t distinct)
{
    double flop = 2 * 3 * HIDDEN * WIDTH * tokens;
    return fmax(flop / (EXPERT_RATIO * MATRIX_RATE),
                distinct * EXPERT_BYTES / (READ_RATIO * COPY_RATE));
}

/* Layers 0 and 1 see a window alone; then ratio 4 with an indexer, and ratio 128, in turn. */
double prefill_dense_seconds(int32_t layer, int32_t tokens, int32_t position)
{
    bool csa = layer >= 2 && layer % 2 == 0, hca = layer >= 2 && layer % 2 == 1;
    double middle = position + tokens / 2.0;
    double weights = HIDDEN * (1024 + 512 + 8192 + 8192 + 3 * WIDTH) + 32768.0 * 1024;
    if (csa) weights += HIDDEN * (2 * 1024 + 64 + 2 * 256) + 8192 * 1024;
    if (hca) weights += HIDDEN * 2 * 512;
    double linears = fmax(2 * weights * tokens / (LINEAR_RATIO * MATRIX_RATE),
                          weights / (READ_RATIO * COPY_RATE));
    double rows = fmin(WINDOW, middle);
    if (csa) rows += fmin(SELECTED, middle / 4);
    if (hca) rows += middle / 128;
    double flop = rows * HEADS_DIM * 4 * tokens;
    if (csa) flop += middle / 4 * INDEX_DIM * 2 * tokens;
    double streams = STREAM_PASSES * 4 * HIDDEN * 4 * tokens / (READ_RATIO * COPY_RATE);
    return linears + flop / (ATTENTION_RATIO * MATRIX_RATE) + streams + LAUNCHES * LAUNCH_SECONDS;
}

/* ---- the world ---- */

struct running {
    struct expert_view view;
    double end_ns;
};

struct world {
    const struct prefill_options *options;
    uint64_t now_ns;
    struct device *device;
    struct expert_store *store;
    struct model model; /* its shape alone */
    struct forward forward;
    struct synthetic_trace *trace;
    struct running running[PREFILL_EXPERTS]; /* on the GPU, in the order of their ends */
    int32_t running_count;
    double gpu_free_ns, gpu_busy_ns, link_ns, disk_ns;
    double floor_link_ns, floor_disk_ns;
    int32_t whole, layers;
    int32_t (*counts)[PREFILL_EXPERTS]; /* [layers]: tokens of the chunk that chose each */
};

static uint64_t read_clock(void *context)
{
    return ((const struct world *)context)->now_ns;
}

static void advance_clock(void *context, uint64_t ns)
{
    ((struct world *)context)->now_ns += ns;
}

static enum sl_status open_store(struct world *world, const struct expert_source *source,
                                 struct sl_error *error)
{
    const struct prefill_options *options = world->options;
    double scale = SLOT_BYTES / EXPERT_BYTES;
    int32_t slots = min_i32(max_i32(options->device_slots, 1) + options->stream_slots, COUNT);
    const struct rates_machine machine = {2e12 * scale, options->link * scale, 0,
                                          (options->disk > 0 ? options->disk : 1e15) * scale, 0};
    struct rates_profile profile;
    rates_profile_make(&profile, SLOT_BYTES, &machine);
    struct device_sim_options device = {
        .memory_bytes = (uint64_t)slots * SLOT_BYTES,
        .bytes_per_second = {(uint64_t)(options->link * scale), (uint64_t)(options->link * scale)},
        .unpinned_percent = 100,
        .clock = {read_clock, world},
        .advance = advance_clock};
    SL_TRY(device_sim_create(&device, &world->device, error));
    struct expert_store_options store = {
        .source = source,
        .ram_bytes = (uint64_t)(options->disk > 0 ? DISK_SLOTS : COUNT) * SLOT_BYTES,
        .slots_min = PREFILL_TOP,
        .depth = DEPTH,
        .io_override = &virtual_disk_ops,
        .device = world->device,
        .device_bytes = (uint64_t)slots * SLOT_BYTES,
        .stream_slots = options->stream_slots,
        .rule = DISPATCH_ALWAYS_STREAM,
        .rates = &profile,
        .prefetch_max = -1,
        .patience_ns = UINT64_C(1) << 50,
        .clock = {read_clock, world}};
    return expert_store_create(&store, &world->store, error);
}

/* ---- before the prompt ---- */

static enum sl_status use(struct world *world, const struct expert_ref *refs, int32_t count)
{
    struct expert_view views[PREFILL_TOP];
    SL_TRY(expert_store_acquire(world->store, refs, NULL, count, views));
    for (int32_t pending = 1; pending > 0;) {
        expert_store_wait(world->store, views, count);
        pending = 0;
        for (int32_t i = 0; i < count; i++)
            pending += views[i].state == EXPERT_VIEW_PENDING;
    }
    expert_store_release(world->store, views, count);
    return SL_OK;
}

/* Reads everything once where RAM holds it, then decodes for a while: what is popular stays on the
 * device. */
static enum sl_status warm_up(struct world *world)
{
    struct expert_ref refs[PREFILL_TOP];
    uint16_t chosen[PREFILL_LAYERS * PREFILL_TOP];
    int32_t id;
    for (int32_t i = 0; i < COUNT && world->options->disk <= 0; i++) {
        refs[0] = (struct expert_ref){i / PREFILL_EXPERTS, i % PREFILL_EXPERTS};
        if (i % PREFILL_EXPERTS == 0) expert_store_layer(world->store, 0, refs[0].layer, 1);
        SL_TRY(use(world, refs, 1));
    }
    for (int32_t t = 0; t < WARM_TOKENS; t++) {
        synthetic_trace_next(world->trace, &id, chosen);
        for (int32_t layer = 0; layer < PREFILL_LAYERS; layer++) {
            for (int32_t i = 0; i < PREFILL_TOP; i++)
                refs[i] = (struct expert_ref){layer, chosen[layer * PREFILL_TOP + i]};
            expert_store_layer(world->store, t, layer, 1);
            SL_TRY(use(world, refs, PREFILL_TOP));
        }
    }
    for (int32_t i = 0; i < 200; i++) {
        world->now_ns += 1000000;
        expert_store_poll(world->store);
    }
    return SL_OK;
}

/* ---- a layer ---- */

static void release_ended(struct world *world)
{
    int32_t ended = 0;
    while (ended < world->running_count && world->running[ended].end_ns <= (double)world->now_ns)
        expert_store_release(world->store, &world->running[ended++].view, 1);
    world->running_count -= ended;
    memmove(world->running, world->running + ended,
            sizeof *world->running * (size_t)world->running_count);
}

/* The GPU computes until then; the host looks after the store. */
static void pass_time(struct world *world, double until_ns)
{
    while ((double)world->now_ns < until_ns) {
        double step = fmin(LOOK_NS, until_ns - (double)world->now_ns);
        world->now_ns += (uint64_t)fmax(step, 1);
        release_ended(world);
        expert_store_poll(world->store);
    }
}

static void compute(struct world *world, double ns)
{
    world->gpu_free_ns = fmax(world->gpu_free_ns, (double)world->now_ns) + ns;
    world->gpu_busy_ns += ns;
}

static void run_view(struct world *world, const struct expert_view *view)
{
    SL_ASSERT(view->state == EXPERT_VIEW_READY && world->running_count < PREFILL_EXPERTS);
    compute(world, prefill_experts_seconds(view->tokens, 1) * 1e9);
    world->running[world->running_count++] = (struct running){*view, world->gpu_free_ns};
}

static int32_t list_chosen(struct world *world, int32_t layer, struct expert_ref *refs,
                           int32_t *tokens)
{
    int32_t count = 0;
    for (int32_t expert = 0; expert < PREFILL_EXPERTS; expert++) {
        struct expert_ref ref = {layer, expert};
        if (world->counts[layer][expert] == 0) continue;
        if (!expert_store_stays(world->store, ref)) {
            world->floor_link_ns += EXPERT_BYTES / world->options->link * 1e9;
            if (!expert_store_is_resident(world->store, ref))
                world->floor_disk_ns += EXPERT_BYTES / world->options->disk * 1e9;
        }
        refs[count] = ref;
        tokens[count++] = world->counts[layer][expert];
    }
    return count;
}

/* As runtime/moe.c does it. */
static enum sl_status run_experts(struct world *world, const struct forward_chunk *chunk,
                                  int32_t layer)
{
    struct expert_ref refs[PREFILL_EXPERTS];
    int32_t tokens[PREFILL_EXPERTS], next = 0, active = 0;
    struct expert_view views[PREFILL_EXPERTS];
    struct forward *forward = &world->forward;
    bool ahead = world->options->mode != PREFILL_CHOSEN;
    int32_t count = list_chosen(world, layer, refs, tokens);
    expert_store_layer(world->store, forward->token_clock, layer, chunk->tokens);
    bool whole = ahead && moe_stream_begin(forward, chunk, layer, refs, count);
    world->whole += whole;
    world->layers++;
    while (next < count || active > 0) {
        int32_t more = count - next;
        if (whole)
            more = moe_stream_pick(forward, refs + next, tokens + next, more);
        else if (expert_store_streams(world->store))
            more = min_i32(more, MOE_STREAM_BATCH - active);
        more = min_i32(more, expert_store_views_max(world->store) - active);
        more = min_i32(more, PREFILL_EXPERTS - world->running_count - active);
        if (more > 0) {
            SL_TRY(expert_store_acquire(world->store, refs + next, tokens + next, more,
                                        views + active));
            next += more;
            active += more;
            if (next == count && !whole && ahead) moe_stream_next(forward, chunk, layer);
        }
        if (active > 0)
            expert_store_wait(world->store, views, active);
        else if (world->running_count > 0)
            pass_time(world, fmin(world->running[0].end_ns, (double)world->now_ns + LOOK_NS));
        else
            whole = whole && expert_store_step(world->store);
        release_ended(world);
        int32_t kept = 0;
        for (int32_t i = 0; i < active; i++) {
            if (views[i].state == EXPERT_VIEW_FAILED) return SL_ERR_IO;
            if (views[i].state == EXPERT_VIEW_READY)
                run_view(world, &views[i]);
            else
                views[kept++] = views[i];
        }
        active = kept;
    }
    return SL_OK;
}

static enum sl_status run_chunk(struct world *world, const struct forward_chunk *chunk)
{
    struct forward *forward = &world->forward;
    uint16_t chosen[PREFILL_LAYERS * PREFILL_TOP];
    int32_t id;
    memset(world->counts, 0, sizeof *world->counts * PREFILL_LAYERS);
    for (int32_t t = 0; t < chunk->tokens; t++) {
        synthetic_trace_next(world->trace, &id, chosen);
        for (int32_t i = 0; i < PREFILL_LAYERS * PREFILL_TOP; i++)
            world->counts[i / PREFILL_TOP][chosen[i]]++;
    }
    expert_store_pass(world->store, chunk->tokens);
    for (int32_t layer = 0; layer < PREFILL_LAYERS; layer++) {
        /* As if it had been waited for all along: then it pays to begin ahead. */
        forward->layer_ns = world->options->mode == PREFILL_AHEAD ? 0 : world->now_ns;
        compute(world, prefill_dense_seconds(layer, chunk->tokens, chunk->position) * 1e9);
        pass_time(world, world->gpu_free_ns);
        SL_TRY(run_experts(world, chunk, layer));
    }
    pass_time(world, world->gpu_free_ns);
    moe_stream_end(forward, chunk, SL_OK);
    forward->token_clock += chunk->tokens;
    return SL_OK;
}

static enum sl_status run_prompt(struct world *world, struct prefill_result *out)
{
    const struct prefill_options *options = world->options;
    struct expert_store_stats before, after;
    int32_t resident = 0;
    for (int32_t i = 0; i < COUNT; i++)
        resident += expert_store_stays(
            world->store, (struct expert_ref){i / PREFILL_EXPERTS, i % PREFILL_EXPERTS});
    expert_store_stats_get(world->store, &before);
    uint64_t start_ns = world->now_ns;
    world->forward.token_clock = WARM_TOKENS;
    for (int32_t done = 0; done < options->prompt_tokens; done += options->chunk_tokens) {
        int32_t left = options->prompt_tokens - done;
        struct forward_chunk chunk = {.tokens = min_i32(left, options->chunk_tokens),
                                      .position = done};
        chunk.next_tokens = min_i32(left - chunk.tokens, options->chunk_tokens);
        SL_TRY(run_chunk(world, &chunk));
    }
    expert_store_stats_get(world->store, &after);
    double elapsed_ns = (double)(world->now_ns - start_ns);
    double copies = (double)(after.copies_up - before.copies_up);
    *out = (struct prefill_result){
        .seconds = elapsed_ns / 1e9,
        .floor_seconds =
            fmax(world->gpu_busy_ns, fmax(world->floor_link_ns, world->floor_disk_ns)) / 1e9,
        .link_share = copies * EXPERT_BYTES / options->link * 1e9 / elapsed_ns,
        .gpu_share = world->gpu_busy_ns / elapsed_ns,
        .ahead_share = (double)world->whole / world->layers,
        .resident = (double)resident / COUNT};
    return SL_OK;
}

enum sl_status prefill_pass_run(const struct prefill_options *options, struct prefill_result *out,
                                struct sl_error *error)
{
    struct synthetic_options shape = {.layers = PREFILL_LAYERS,
                                      .experts = PREFILL_EXPERTS,
                                      .top = PREFILL_TOP,
                                      .hash_layers = 3,
                                      .seed = options->seed};
    bool known = synthetic_preset("base", &shape);
    SL_ASSERT(known && options->chunk_tokens > EXPERT_DECODE_TOKENS_MAX);
    struct world *world = calloc(1, sizeof *world);
    struct virtual_disk_model disk = {0};
    enum sl_status status = SL_ERR_NO_MEMORY;
    if (!world) return sl_error_set(error, status, 0, "out of memory");
    world->options = options;
    world->counts = calloc(PREFILL_LAYERS, sizeof *world->counts);
    if (world->counts)
        status =
            virtual_disk_open(&world->now_ns, COUNT, PREFILL_EXPERTS, SLOT_BYTES, &disk, error);
    if (status == SL_OK) status = synthetic_trace_create(&shape, &world->trace, error);
    if (status == SL_OK) status = open_store(world, &disk.source, error);
    if (status == SL_OK) {
        world->model.config.layers = PREFILL_LAYERS;
        world->model.config.experts = PREFILL_EXPERTS;
        world->forward = (struct forward){.model = &world->model,
                                          .store = world->store,
                                          .clock = {read_clock, world},
                                          .stream_seen = {.coming = -1}};
        status = warm_up(world);
    }
    if (status == SL_OK && options->disk > 0)
        virtual_disk_set_read_ns(EXPERT_BYTES / options->disk * 1e9);
    if (status == SL_OK) status = run_prompt(world, out);
    expert_store_destroy(world->store);
    if (world->device) world->device->ops->destroy(world->device);
    synthetic_trace_destroy(world->trace);
    virtual_disk_close(&disk);
    free(world->counts);
    free(world);
    return status;
}
