/* Mixture of experts of one layer; see the header. Experts are visited once a chunk, with all the
 * tokens that chose them: those already in RAM first, the others as their reads finish. */
#include "runtime/moe.h"

#include "runtime/lookahead.h"
#include "runtime/moe_parts.h"
#include "runtime/moe_stream.h"

#include <string.h>

/* Experts run in one call: of a GPU, whose call is the better filled the more there are, and of the
 * CPU, which gives their slots back in between. */
#define MOE_DEVICE_TASKS_MAX 256
#define MOE_CPU_TASKS_MAX    32

/* Experts of a layer on their way through a chunk. */
struct visit {
    const struct forward_chunk *chunk;
    int32_t idx;              /* the layer */
    const float *streams, *x; /* as given to moe_forward */
    float *out;
    struct expert_ref refs[OPS_EXPERTS_MAX];   /* chosen experts, resident ones first */
    int32_t tokens[OPS_EXPERTS_MAX];           /* that chose each of refs */
    struct expert_view views[OPS_EXPERTS_MAX]; /* acquired and not yet released */
    int32_t count;                             /* of refs */
    int32_t next;                              /* refs acquired so far */
    int32_t active;                            /* of views */
    int32_t missed;                            /* views that were not ready when acquired */
    int32_t sent;                              /* tasks that a GPU was given */
    bool whole;                                /* the layer has been coming whole */
    bool has_x;                                /* the host does: rows for the CPU's lane */
    uint64_t start_ns, wait_ns;                /* the clock before the first acquire; waited */
};

/* Lists the chosen experts, those in RAM first. */
static void list_experts(const struct forward *forward, int32_t idx, struct visit *visit)
{
    const struct workspace *ws = forward->workspace;
    for (int pass = 0; pass < 2; pass++) {
        for (int32_t expert = 0; expert < forward->model->config.experts; expert++) {
            struct expert_ref ref = {.layer = idx, .expert = expert};
            int32_t tokens = moe_tokens_of(ws, expert);
            if (tokens == 0) continue;
            if (expert_store_is_resident(forward->store, ref) == (pass == 0)) {
                visit->tokens[visit->count] = tokens;
                visit->refs[visit->count++] = ref;
            }
        }
    }
}

/* Acquires as many of the remaining experts as there are slots; their reads start. */
static enum sl_status acquire_more(struct forward *forward, struct visit *visit)
{
    int32_t room = expert_store_views_max(forward->store) - visit->active;
    int32_t count = visit->count - visit->next;
    if (visit->whole)
        count =
            moe_stream_pick(forward, visit->refs + visit->next, visit->tokens + visit->next, count);
    else if (expert_store_streams(forward->store))
        count = min_i32(count, MOE_STREAM_BATCH - visit->active);
    count = min_i32(count, room);
    if (count <= 0) return SL_OK;
    SL_TRY(expert_store_acquire(forward->store, visit->refs + visit->next,
                                visit->tokens + visit->next, count, visit->views + visit->active));
    for (int32_t i = 0; i < count; i++)
        visit->missed += visit->views[visit->active + i].state == EXPERT_VIEW_PENDING;
    visit->next += count;
    visit->active += count;
    if (visit->next == visit->count && !visit->whole)
        moe_stream_next(forward, visit->chunk, visit->idx);
    return SL_OK;
}

static enum sl_status first_failure(const struct visit *visit)
{
    for (int32_t i = 0; i < visit->active; i++)
        if (visit->views[i].state == EXPERT_VIEW_FAILED) return visit->views[i].status;
    return SL_OK;
}

/* Sends the sorted rows to the GPU's memory. */
static void send_sorted(const struct forward *forward)
{
    const struct workspace *ws = forward->workspace;
    size_t pairs = (size_t)(ws->output_rows - ws->token_rows);
    if (!forward->gpu) return;
    forward->gpu->gpu_ops->copy(forward->gpu, ws->gpu_rows, ws->token_rows,
                                3 * pairs * sizeof *ws->gpu_rows);
}

/* Sends tasks to the GPU's memory, behind those sent before for this layer: what is on its way is
 * not overwritten. */
static const struct expert_task *send_tasks(const struct forward *forward, struct visit *visit,
                                            const struct expert_task *tasks, int32_t count)
{
    const struct workspace *ws = forward->workspace;
    struct expert_task *target = ws->tasks + visit->sent;
    memcpy(ws->host_tasks + visit->sent, tasks, sizeof *tasks * (size_t)count);
    forward->gpu->gpu_ops->copy(forward->gpu, target, ws->host_tasks + visit->sent,
                                sizeof *tasks * (size_t)count);
    visit->sent += count;
    return target;
}

/* The rows that the host computes with, if it lacks them. A fault of the GPU comes out of the next
 * wait as well. */
static void fetch_rows(struct forward *forward, struct visit *visit)
{
    if (visit->has_x || !forward->gpu) return;
    moe_launch_fetch_rows(forward, visit->chunk->tokens, visit->x);
    enum sl_status status = forward_sync(forward);
    (void)status;
    visit->has_x = true;
}

/* Runs tasks on one processor, from x to out in its memory. */
static void run_tasks(const struct forward *forward, struct visit *visit, enum expert_lane lane,
                      const struct expert_task *tasks, int32_t count)
{
    const struct workspace *ws = forward->workspace;
    if (forward->gpu && lane == EXPERT_LANE_CPU) {
        moe_run_on_host(forward, tasks, count);
        return;
    }
    if (count == 0) return;
    struct expert_ffn_args args = {.x = visit->x,
                                   .out = ws->routed,
                                   .tasks = tasks,
                                   .layout = &forward->model->expert_layout,
                                   .scratch = ws->expert_scratch,
                                   .task_count = count,
                                   .scratch_rows = ws->chunk_tokens,
                                   .limit = forward->model->config.swiglu_limit,
                                   .round = forward->round,
                                   .tokens = visit->chunk->tokens};
    for (int32_t i = 0; i < count; i++)
        args.pairs += tasks[i].count;
    if (forward->gpu) args.tasks = send_tasks(forward, visit, tasks, count);
    forward->ops->expert_ffn(forward->stream, &args);
}

/* Sends what the host has computed for the GPU to the rows where the sum looks for it. */
static void send_rows(const struct forward *forward, const struct expert_task *tasks, int32_t count)
{
    const struct workspace *ws = forward->workspace;
    size_t hidden = (size_t)forward->model->config.hidden;
    for (int32_t i = 0; i < count; i++) {
        for (int32_t row = 0; row < tasks[i].count; row++) {
            size_t first = (size_t)tasks[i].output_rows[row] * hidden;
            forward->gpu->gpu_ops->copy(forward->gpu, ws->routed + first, ws->host_routed + first,
                                        sizeof(float) * hidden);
        }
    }
}

/* Runs as many of the experts that are there as a call takes and gives them back; returns how many.
 */
static int32_t run_some(struct forward *forward, struct visit *visit)
{
    const struct workspace *ws = forward->workspace;
    static const int32_t tasks_max[EXPERT_LANES] = {
        [EXPERT_LANE_DEVICE] = MOE_DEVICE_TASKS_MAX, [EXPERT_LANE_CPU] = MOE_CPU_TASKS_MAX};
    struct expert_task tasks[EXPERT_LANES][MOE_DEVICE_TASKS_MAX];
    struct expert_view done[MOE_DEVICE_TASKS_MAX + MOE_CPU_TASKS_MAX];
    int32_t counts[EXPERT_LANES] = {0}, count = 0, kept = 0;
    for (int32_t i = 0; i < visit->active; i++) {
        const struct expert_view *view = &visit->views[i];
        /* Without a GPU the CPU computes for both lanes, in one call. */
        enum expert_lane lane = forward->gpu ? view->lane : EXPERT_LANE_CPU;
        if (view->state == EXPERT_VIEW_READY && counts[lane] < tasks_max[lane]) {
            bool there = lane == EXPERT_LANE_DEVICE;
            tasks[lane][counts[lane]++] = moe_task(ws, view, there ? ws->gpu_rows : ws->token_rows);
            done[count++] = *view;
        } else {
            visit->views[kept++] = *view;
        }
    }
    visit->active = kept;
    if (count == 0) return 0;
    uint64_t before_ns = forward->on_dispatch ? clock_now_ns(&forward->clock) : 0;
    if (counts[EXPERT_LANE_CPU] > 0) fetch_rows(forward, visit);
    /* The GPU's first: they run while the CPU computes its own. */
    for (int lane = EXPERT_LANE_DEVICE; lane >= EXPERT_LANE_CPU; lane--)
        run_tasks(forward, visit, (enum expert_lane)lane, tasks[lane], counts[lane]);
    if (forward->gpu) send_rows(forward, tasks[EXPERT_LANE_CPU], counts[EXPERT_LANE_CPU]);
    if (forward->on_dispatch) moe_explain(forward, visit->start_ns, done, count, before_ns);
    expert_store_release(forward->store, done, count);
    return count;
}

static enum sl_status run_ready(struct forward *forward, struct visit *visit)
{
    SL_TRY(first_failure(visit));
    while (run_some(forward, visit) > 0) {
    }
    return SL_OK;
}

/* Waits for some of the experts that are on their way. */
static void wait_for_some(struct forward *forward, struct visit *visit)
{
    uint64_t start_ns = clock_now_ns(&forward->clock);
    expert_store_wait(forward->store, visit->views, visit->active);
    visit->wait_ns += clock_now_ns(&forward->clock) - start_ns;
}

/* Acquires, computes and gives back all experts of the visit. */
static enum sl_status run_visit(struct forward *forward, const struct forward_chunk *chunk,
                                struct visit *visit)
{
    /* Reads travel while the shared and the resident experts run. */
    SL_TRY(acquire_more(forward, visit));
    moe_launch_shared(forward, visit->idx, chunk->tokens, visit->x, visit->out);
    if (forward->gpu) {
        lookahead_remember(forward, chunk, visit->idx, forward->workspace->host_x);
        lookahead_from_input(forward, chunk, visit->idx);
    } else {
        lookahead_layer(forward, chunk, visit->idx, visit->streams, visit->x, visit->out);
    }
    SL_TRY(run_ready(forward, visit));
    while (visit->active > 0 || visit->next < visit->count) {
        SL_TRY(acquire_more(forward, visit));
        if (visit->active == 0) /* nothing has come yet; or never will, and is asked for */
            visit->whole = expert_store_step(forward->store);
        else
            wait_for_some(forward, visit);
        SL_TRY(run_ready(forward, visit));
    }
    return SL_OK;
}

enum sl_status moe_forward(struct forward *forward, const struct forward_chunk *chunk, int32_t idx,
                           const float *streams, const float *x, float *out)
{
    const struct model_config *config = &forward->model->config;
    struct workspace *ws = forward->workspace;
    struct visit visit; /* large: only the counts need a start */
    enum sl_status status;
    SL_ASSERT(config->experts <= OPS_EXPERTS_MAX && chunk->tokens <= ws->chunk_tokens);

    visit.count = visit.next = visit.active = visit.missed = visit.sent = 0;
    visit.wait_ns = 0;
    visit.chunk = chunk;
    visit.idx = idx;
    visit.streams = streams;
    visit.x = x;
    visit.out = out;
    moe_launch_router(forward, chunk, idx, x);
    /* A layer that comes whole leaves nothing to the CPU, as a rule. */
    visit.has_x = forward->stream_seen.coming != idx;
    moe_launch_fetch(forward, chunk->tokens, visit.has_x ? x : NULL);
    moe_stream_await(forward);
    if (forward->gpu) SL_TRY(forward_sync(forward));
    moe_tell_route(forward, chunk, idx);
    moe_sort_by_expert(config, chunk->tokens, ws);
    send_sorted(forward);
    list_experts(forward, idx, &visit);
    visit.start_ns = clock_now_ns(&forward->clock);
    expert_store_layer(forward->store, forward->token_clock, idx, chunk->tokens);
    visit.whole = moe_stream_begin(forward, chunk, idx, visit.refs, visit.count);
    status = run_visit(forward, chunk, &visit);
    if (status != SL_OK) {
        expert_store_release(forward->store, visit.views, visit.active);
        return status;
    }
    SL_ASSERT(visit.active == 0 && visit.next == visit.count);
    moe_finish_visit(forward, idx,
                     &(struct moe_visit_sum){.count = visit.count,
                                             .missed = visit.missed,
                                             .start_ns = visit.start_ns,
                                             .wait_ns = visit.wait_ns});
    return SL_OK;
}
