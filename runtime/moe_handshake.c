/* Flags, tables, and the host's part of a layer; see the header. */
#include "runtime/moe_handshake.h"

#include "runtime/lookahead.h"
#include "runtime/moe_parts.h"

#include <sched.h>
#include <string.h>
#include <time.h>

/* While a flag is awaited: looks between turns of the store; looks before the core is given up, and
 * before this thread sleeps between looks. A GPU's layer takes some hundred microseconds. */
#define LOOKS_A_TURN  64
#define LOOKS_BUSY    4096
#define LOOKS_PATIENT 65536
#define SLEEP_NS      50000

enum meeting { MEETING_CHOSEN, MEETING_HITS, MEETING_LATE, MEETINGS };

struct moe_handshake {
    struct expert_ref refs[MOE_HANDSHAKE_PAIRS_MAX];
    int32_t tokens[MOE_HANDSHAKE_PAIRS_MAX];
    struct expert_view views[MOE_HANDSHAKE_PAIRS_MAX]; /* pinned: of the layer last served */
    struct expert_view pending[MOE_HANDSHAKE_PAIRS_MAX];
    int32_t active, waiting; /* of views, of pending */
    struct expert_task on_host[MOE_HANDSHAKE_PAIRS_MAX];
    int32_t late_count, gather_count; /* in the second table; rows the host computed */
    uint64_t started_ns;              /* when the tasks before the last wait were given */
};

enum sl_status moe_handshake_create(struct moe_handshake **out)
{
    *out = calloc(1, sizeof **out);
    return *out ? SL_OK : SL_ERR_NO_MEMORY;
}

void moe_handshake_destroy(struct moe_handshake *handshake)
{
    SL_ASSERT(!handshake || handshake->active == 0);
    free(handshake);
}

bool moe_handshake_fits(struct forward *forward, int32_t tokens)
{
    const struct model_config *config = &forward->model->config;
    int32_t pairs = tokens * config->experts_per_token;
    return forward->handshake && pairs <= MOE_HANDSHAKE_PAIRS_MAX &&
           min_i32(pairs, config->experts) <= expert_store_views_max(forward->store);
}

/* ---- flags ---- */

static uint32_t *flag_of(const struct forward *forward, enum meeting meeting, int32_t idx)
{
    return forward->workspace->flags + (int32_t)meeting * forward->model->config.layers + idx;
}

static void set_flag(const struct forward *forward, enum meeting meeting, int32_t idx)
{
    __atomic_store_n(flag_of(forward, meeting, idx), 1u, __ATOMIC_RELEASE);
}

void moe_handshake_begin(struct forward *forward)
{
    SL_ASSERT(forward->handshake->active == 0);
    expert_store_pin(forward->store);
    for (int32_t idx = 0; idx < forward->model->config.layers; idx++)
        for (int meeting = 0; meeting < MEETINGS; meeting++)
            __atomic_store_n(flag_of(forward, (enum meeting)meeting, idx), 0u, __ATOMIC_RELEASE);
    forward->gpu->gpu_ops->set_fenceless(forward->gpu, true);
}

/* Waits for the GPU's choice; the store goes on with its copies meanwhile. */
static enum sl_status await_choice(struct forward *forward, int32_t idx)
{
    const uint32_t *flag = flag_of(forward, MEETING_CHOSEN, idx);
    const struct timespec sleep = {.tv_nsec = SLEEP_NS};
    for (uint32_t looks = 1; !__atomic_load_n(flag, __ATOMIC_ACQUIRE); looks++) {
        if (looks % LOOKS_A_TURN == 0) {
            expert_store_poll(forward->store);
            /* Before its choice a GPU that works is never done. */
            if (forward->gpu->gpu_ops->is_idle(forward->gpu) &&
                !__atomic_load_n(flag, __ATOMIC_ACQUIRE))
                return SL_ERR_IO;
        }
        if (looks > LOOKS_PATIENT)
            (void)nanosleep(&sleep, NULL);
        else if (looks > LOOKS_BUSY)
            sched_yield();
    }
    return SL_OK;
}

/* ---- the GPU's side ---- */

/* Waits for `flag`, takes `pieces`, and runs the table at `first` of the two. */
static void launch_table(struct forward *forward, int32_t tokens, int32_t first, const float *x,
                         const uint32_t *flag, const struct gpu_piece *pieces, int32_t count)
{
    const struct fused_ops *fused = forward->ops->fused;
    struct workspace *ws = forward->workspace;
    struct fused_experts_args args = {
        .flag = flag,
        .value = 1,
        .pieces = pieces,
        .piece_count = count,
        .experts = {.x = x,
                    .out = ws->routed,
                    .tasks = ws->tasks + first,
                    .layout = &forward->model->expert_layout,
                    .scratch = ws->expert_scratch,
                    .task_count = tokens * forward->model->config.experts_per_token,
                    .scratch_rows = tokens,
                    .limit = forward->model->config.swiglu_limit,
                    .round = forward->round,
                    .tokens = tokens,
                    .pairs = tokens * forward->model->config.experts_per_token}};
    if (fused && fused->experts(forward->stream, &args)) return;
    forward->gpu->gpu_ops->take(forward->gpu, flag, args.value, pieces, count);
    forward->ops->expert_ffn(forward->stream, &args.experts);
}

/* The router; choices and inputs to the host. */
static void launch_route(struct forward *forward, const struct forward_chunk *chunk, int32_t idx,
                         const float *x)
{
    const struct fused_ops *fused = forward->ops->fused;
    struct fused_route_args args = moe_route_args(forward, chunk, idx, x);
    args.flag = flag_of(forward, MEETING_CHOSEN, idx);
    args.value = 1;
    if (fused && fused->route(forward->stream, &args)) return;
    size_t pairs = (size_t)chunk->tokens * (size_t)args.router.top;
    size_t floats = (size_t)chunk->tokens * (size_t)args.linear.weight.columns;
    const struct gpu_piece pieces[] = {
        {args.host_chosen, args.router.chosen, sizeof *args.host_chosen * pairs},
        {args.host_weights, args.router.weights, sizeof *args.host_weights * pairs},
        {args.host_x, x, sizeof *x * floats}};
    moe_launch_router(forward, chunk, idx, x);
    forward->gpu->gpu_ops->publish(forward->gpu, pieces, SL_COUNT_OF(pieces), args.flag,
                                   args.value);
}

void moe_handshake_launch(struct forward *forward, const struct forward_chunk *chunk, int32_t idx,
                          const float *x, float *out)
{
    const struct model_config *config = &forward->model->config;
    struct workspace *ws = forward->workspace;
    int32_t pairs = chunk->tokens * config->experts_per_token;
    int32_t pairs_max = ws->chunk_tokens * config->experts_per_token;
    size_t table_bytes = sizeof *ws->tasks * (size_t)pairs;

    launch_route(forward, chunk, idx, x);
    moe_launch_shared(forward, idx, chunk->tokens, x, out);

    size_t row_bytes = sizeof *ws->gpu_rows * (size_t)pairs; /* of as many as may be used */
    const struct gpu_piece hits[] = {
        {ws->gpu_rows, ws->token_rows, row_bytes},
        {ws->gpu_rows + pairs_max, ws->output_rows, row_bytes},
        {ws->gpu_rows + 2 * (size_t)pairs_max, ws->task_weights, row_bytes},
        {ws->tasks, ws->host_tasks, table_bytes}};
    launch_table(forward, chunk->tokens, 0, x, flag_of(forward, MEETING_HITS, idx), hits,
                 SL_COUNT_OF(hits));

    const struct gpu_piece late[] = {
        {ws->gather, ws->host_gather, sizeof *ws->gather * (size_t)pairs},
        {ws->tasks + pairs_max, ws->host_tasks + pairs_max, table_bytes}};
    launch_table(forward, chunk->tokens, pairs_max, x, flag_of(forward, MEETING_LATE, idx), late,
                 SL_COUNT_OF(late));
}

void moe_handshake_combine(struct forward *forward, int32_t tokens, float *out)
{
    const struct model_config *config = &forward->model->config;
    struct workspace *ws = forward->workspace;
    struct gather_rows_args gather = {.source = ws->host_routed,
                                      .rows = ws->gather,
                                      .out = ws->routed,
                                      .count = tokens * config->experts_per_token,
                                      .width = config->hidden};
    forward->ops->gather_rows(forward->stream, &gather);
    moe_launch_combine(forward, tokens, out);
}

/* ---- the host's side ---- */

static void release(struct forward *forward)
{
    struct moe_handshake *handshake = forward->handshake;
    expert_store_release(forward->store, handshake->views, handshake->active);
    handshake->active = 0;
}

/* Pins what was chosen and starts what is missing. */
static enum sl_status acquire(struct forward *forward, int32_t idx, struct moe_visit_sum *sum)
{
    struct moe_handshake *handshake = forward->handshake;
    int32_t count = 0;
    for (int32_t expert = 0; expert < forward->model->config.experts; expert++) {
        int32_t tokens = moe_tokens_of(forward->workspace, expert);
        if (tokens == 0) continue;
        SL_ASSERT(count < MOE_HANDSHAKE_PAIRS_MAX);
        handshake->refs[count] = (struct expert_ref){.layer = idx, .expert = expert};
        handshake->tokens[count++] = tokens;
    }
    SL_TRY(expert_store_acquire(forward->store, handshake->refs, handshake->tokens, count,
                                handshake->views));
    handshake->active = sum->count = count;
    for (int32_t i = 0; i < count; i++)
        sum->missed += handshake->views[i].state == EXPERT_VIEW_PENDING;
    return SL_OK;
}

/* Clears `count` entries of a table, the host's copy. */
static struct expert_task *empty_table(struct forward *forward, int32_t first, int32_t count)
{
    struct expert_task *table = forward->workspace->host_tasks + first;
    memset(table, 0, sizeof *table * (size_t)count);
    return table;
}

/* What lies in device slots, for the GPU to begin with. */
static void give_hits(struct forward *forward, int32_t idx, int32_t pairs)
{
    struct moe_handshake *handshake = forward->handshake;
    const struct workspace *ws = forward->workspace;
    struct expert_task *table = empty_table(forward, 0, pairs);
    int32_t count = 0;
    for (int32_t i = 0; i < handshake->active; i++) {
        const struct expert_view *view = &handshake->views[i];
        if (view->state == EXPERT_VIEW_READY && view->lane == EXPERT_LANE_DEVICE)
            table[count++] = moe_task(ws, view, ws->gpu_rows);
    }
    set_flag(forward, MEETING_HITS, idx);
}

/* Computes those of the given views that are the host's, and notes their rows for the GPU. */
static void run_on_host(struct forward *forward, const struct expert_view *views, int32_t count)
{
    struct moe_handshake *handshake = forward->handshake;
    struct workspace *ws = forward->workspace;
    int32_t tasks = 0;
    for (int32_t i = 0; i < count; i++) {
        if (views[i].state != EXPERT_VIEW_READY || views[i].lane != EXPERT_LANE_CPU) continue;
        struct expert_task task = moe_task(ws, &views[i], ws->token_rows);
        handshake->on_host[tasks++] = task;
        for (int32_t row = 0; row < task.count; row++)
            ws->host_gather[handshake->gather_count++] = task.output_rows[row];
    }
    moe_run_on_host(forward, handshake->on_host, tasks);
}

static bool any_pending(const struct moe_handshake *handshake)
{
    for (int32_t i = 0; i < handshake->active; i++)
        if (handshake->views[i].state == EXPERT_VIEW_PENDING) return true;
    return false;
}

static enum sl_status first_failure(const struct moe_handshake *handshake)
{
    for (int32_t i = 0; i < handshake->active; i++)
        if (handshake->views[i].state == EXPERT_VIEW_FAILED) return handshake->views[i].status;
    return SL_OK;
}

/* What was on its way when acquired: waits for it; the host's is computed as it comes, the GPU's
 * goes into the second table. */
static enum sl_status take_late(struct forward *forward, int32_t pairs_max,
                                struct moe_visit_sum *sum)
{
    struct moe_handshake *handshake = forward->handshake;
    const struct workspace *ws = forward->workspace;
    struct expert_task *table = ws->host_tasks + pairs_max;
    for (;;) {
        int32_t pending = 0;
        bool was_pending[MOE_HANDSHAKE_PAIRS_MAX];
        for (int32_t i = 0; i < handshake->active; i++) {
            was_pending[i] = handshake->views[i].state == EXPERT_VIEW_PENDING;
            pending += was_pending[i];
        }
        SL_TRY(first_failure(handshake));
        if (pending == 0) return SL_OK;
        uint64_t start_ns = clock_now_ns(&forward->clock);
        expert_store_wait(forward->store, handshake->views, handshake->active);
        sum->wait_ns += clock_now_ns(&forward->clock) - start_ns;
        for (int32_t i = 0; i < handshake->active; i++) {
            const struct expert_view *view = &handshake->views[i];
            if (!was_pending[i] || view->state != EXPERT_VIEW_READY) continue;
            if (view->lane == EXPERT_LANE_DEVICE)
                table[handshake->late_count++] = moe_task(ws, view, ws->gpu_rows);
            else
                run_on_host(forward, view, 1);
        }
    }
}

enum sl_status moe_handshake_serve(struct forward *forward, const struct forward_chunk *chunk,
                                   int32_t idx)
{
    const struct model_config *config = &forward->model->config;
    struct moe_handshake *handshake = forward->handshake;
    struct workspace *ws = forward->workspace;
    struct moe_visit_sum sum = {0};
    int32_t pairs = chunk->tokens * config->experts_per_token;
    int32_t pairs_max = ws->chunk_tokens * config->experts_per_token;

    SL_TRY(await_choice(forward, idx));
    release(forward); /* of the layer before: the GPU is past it */
    moe_sort_by_expert(config, chunk->tokens, ws);
    sum.start_ns = clock_now_ns(&forward->clock);
    expert_store_layer(forward->store, forward->token_clock, idx, chunk->tokens);
    SL_TRY(acquire(forward, idx, &sum));
    give_hits(forward, idx, pairs);
    moe_tell_route(forward, chunk, idx);

    handshake->late_count = handshake->gather_count = 0;
    empty_table(forward, pairs_max, pairs);
    uint64_t before_ns = clock_now_ns(&forward->clock);
    lookahead_remember(forward, chunk, idx, ws->host_x); /* the next layer's will lie there */
    run_on_host(forward, handshake->views, handshake->active);
    bool waits = any_pending(handshake);
    if (waits) lookahead_from_input(forward, chunk, idx); /* while the copies travel */
    SL_TRY(take_late(forward, pairs_max, &sum));
    for (int32_t i = handshake->gather_count; i < pairs; i++)
        ws->host_gather[i] = -1;
    set_flag(forward, MEETING_LATE, idx);
    if (!waits) lookahead_from_input(forward, chunk, idx); /* while the GPU goes on */
    if (forward->on_dispatch)
        moe_explain(forward, sum.start_ns, handshake->views, handshake->active, before_ns);
    moe_finish_visit(forward, idx, &sum);
    return SL_OK;
}

void moe_handshake_end(struct forward *forward)
{
    forward->gpu->gpu_ops->set_fenceless(forward->gpu, false);
    release(forward);
}

/* The layer that has been given its first table and not its second, or -1. */
static int32_t layer_between_tables(const struct forward *forward)
{
    for (int32_t idx = 0; idx < forward->model->config.layers; idx++)
        if (!__atomic_load_n(flag_of(forward, MEETING_LATE, idx), __ATOMIC_RELAXED))
            return __atomic_load_n(flag_of(forward, MEETING_HITS, idx), __ATOMIC_RELAXED) ? idx
                                                                                          : -1;
    return -1;
}

void moe_handshake_abandon(struct forward *forward)
{
    const struct model_config *config = &forward->model->config;
    struct workspace *ws = forward->workspace;
    int32_t pairs_max = ws->chunk_tokens * config->experts_per_token;
    int32_t between = layer_between_tables(forward);
    empty_table(forward, pairs_max, pairs_max);
    for (int32_t i = 0; i < pairs_max; i++)
        ws->host_gather[i] = -1;
    if (between >= 0) {
        /* The GPU may be reading the first table: it is past it when it chooses again, or ends. */
        set_flag(forward, MEETING_LATE, between);
        enum sl_status status = SL_OK;
        if (between + 1 < config->layers)
            status = await_choice(forward, between + 1);
        else
            status = forward_sync(forward);
        (void)status; /* the reason for the failure is known already */
    }
    empty_table(forward, 0, pairs_max);
    for (int32_t idx = 0; idx < config->layers; idx++) {
        set_flag(forward, MEETING_HITS, idx);
        set_flag(forward, MEETING_LATE, idx);
    }
    enum sl_status ended = forward_sync(forward);
    (void)ended; /* as above */
    moe_handshake_end(forward);
}
