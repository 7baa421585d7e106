/* The launches and the bookkeeping of a layer's experts; see the header. */
#include "runtime/moe_parts.h"

#include "offload/trace_writer.h"

#include <string.h>

/* ---- launches ---- */

struct fused_route_args moe_route_args(const struct forward *forward,
                                       const struct forward_chunk *chunk, int32_t idx,
                                       const float *x)
{
    const struct model_config *config = &forward->model->config;
    const struct layer_weights *layer = &forward->weights->layers[idx];
    const struct workspace *ws = forward->workspace;
    return (struct fused_route_args){.linear = {.x = x,
                                                .weight = layer->router,
                                                .out = ws->router_logits,
                                                .tokens = chunk->tokens,
                                                .groups = 1,
                                                .bf16_input = forward->round},
                                     .router = {.logits = ws->router_logits,
                                                .bias = layer->router_bias,
                                                .token_experts = layer->token_experts,
                                                .ids = forward->gpu ? chunk->gpu_ids : chunk->ids,
                                                .chosen = ws->chosen,
                                                .weights = ws->chosen_weights,
                                                .tokens = chunk->tokens,
                                                .experts = config->experts,
                                                .top = config->experts_per_token,
                                                .scale = config->route_scale},
                                     .host_x = ws->host_x,
                                     .host_chosen = ws->host_chosen,
                                     .host_weights = ws->host_chosen_weights};
}

void moe_launch_router(struct forward *forward, const struct forward_chunk *chunk, int32_t idx,
                       const float *x)
{
    struct fused_route_args args = moe_route_args(forward, chunk, idx, x);
    forward->ops->linear(forward->stream, &args.linear);
    forward->ops->router(forward->stream, &args.router);
}

void moe_launch_fetch_rows(struct forward *forward, int32_t tokens, const float *x)
{
    size_t floats = (size_t)tokens * (size_t)forward->model->config.hidden;
    forward->gpu->gpu_ops->copy(forward->gpu, forward->workspace->host_x, x, sizeof *x * floats);
}

void moe_launch_fetch(struct forward *forward, int32_t tokens, const float *x)
{
    const struct model_config *config = &forward->model->config;
    struct workspace *ws = forward->workspace;
    size_t pairs = (size_t)tokens * (size_t)config->experts_per_token;
    struct gpu *gpu = forward->gpu;
    if (!gpu) return;
    if (x) moe_launch_fetch_rows(forward, tokens, x);
    gpu->gpu_ops->copy(gpu, ws->host_chosen, ws->chosen, sizeof *ws->chosen * pairs);
    gpu->gpu_ops->copy(gpu, ws->host_chosen_weights, ws->chosen_weights,
                       sizeof *ws->chosen_weights * pairs);
}

static void launch_gated(struct forward *forward, const struct fused_gated_args *args)
{
    const struct fused_ops *fused = forward->ops->fused;
    const struct linear_args both[] = {args->gate, args->up};
    if (fused && fused->gated(forward->stream, args)) return;
    forward_linears(forward, both, SL_COUNT_OF(both));
    forward->ops->swiglu(forward->stream, &args->swiglu);
}

void moe_launch_shared(struct forward *forward, int32_t idx, int32_t tokens, const float *x,
                       float *out)
{
    const struct layer_weights *layer = &forward->weights->layers[idx];
    struct workspace *ws = forward->workspace;
    struct linear_args linear = {.x = x,
                                 .weight = layer->shared_gate,
                                 .out = ws->shared_gate,
                                 .tokens = tokens,
                                 .groups = 1,
                                 .quantise_input = forward->round,
                                 .round = forward->round};
    struct fused_gated_args gated = {.gate = linear,
                                     .up = linear,
                                     .swiglu = {.gate = ws->shared_gate,
                                                .up = ws->shared_up,
                                                .out = ws->shared_gate,
                                                .tokens = tokens,
                                                .width = forward->model->config.expert_width,
                                                .limit = forward->model->config.swiglu_limit,
                                                .round = forward->round}};
    gated.up.weight = layer->shared_up;
    gated.up.out = ws->shared_up;
    launch_gated(forward, &gated);
    linear.x = ws->shared_gate;
    linear.weight = layer->shared_down;
    linear.out = out;
    forward->ops->linear(forward->stream, &linear);
}

void moe_run_on_host(const struct forward *forward, const struct expert_task *tasks, int32_t count)
{
    const struct workspace *ws = forward->workspace;
    struct expert_ffn_args args = {.x = ws->host_x,
                                   .out = ws->host_routed,
                                   .tasks = tasks,
                                   .layout = &forward->model->expert_layout,
                                   .scratch = ws->host_scratch,
                                   .task_count = count,
                                   .scratch_rows = ws->chunk_tokens,
                                   .limit = forward->model->config.swiglu_limit,
                                   .round = forward->round};
    if (count > 0) forward->host_ops->expert_ffn(forward->host_stream, &args);
}

void moe_launch_combine(struct forward *forward, int32_t tokens, float *out)
{
    const struct model_config *config = &forward->model->config;
    const struct workspace *ws = forward->workspace;
    struct moe_combine_args combine = {.routed = ws->routed,
                                       .shared = out,
                                       .out = out,
                                       .tokens = tokens,
                                       .top = config->experts_per_token,
                                       .hidden = config->hidden,
                                       .round = forward->round};
    forward->ops->moe_combine(forward->stream, &combine);
}

/* ---- bookkeeping ---- */

void moe_tell_route(const struct forward *forward, const struct forward_chunk *chunk, int32_t idx)
{
    const struct workspace *ws = forward->workspace;
    if (forward->on_route)
        forward->on_route(forward->route_context, idx, chunk->position, chunk->tokens,
                          forward->model->config.experts_per_token, ws->host_chosen,
                          ws->host_chosen_weights);
    if (forward->trace) trace_writer_layer(forward->trace, idx, ws->host_chosen);
}

void moe_sort_by_expert(const struct model_config *config, int32_t tokens, struct workspace *ws)
{
    int32_t top = config->experts_per_token;
    int32_t *first = ws->expert_first;
    memset(first, 0, sizeof *first * ((size_t)config->experts + 1));
    for (int32_t pair = 0; pair < tokens * top; pair++) {
        SL_ASSERT(ws->host_chosen[pair] >= 0 && ws->host_chosen[pair] < config->experts);
        first[ws->host_chosen[pair] + 1]++;
    }
    for (int32_t expert = 0; expert < config->experts; expert++)
        first[expert + 1] += first[expert];
    /* Filling moves each start to its end, which is the next one's start: shift back after. */
    for (int32_t pair = 0; pair < tokens * top; pair++) {
        int32_t place = first[ws->host_chosen[pair]]++;
        ws->token_rows[place] = pair / top;
        ws->output_rows[place] = pair;
        ws->task_weights[place] = ws->host_chosen_weights[pair];
    }
    memmove(first + 1, first, sizeof *first * (size_t)config->experts);
    first[0] = 0;
}

int32_t moe_tokens_of(const struct workspace *ws, int32_t expert)
{
    return ws->expert_first[expert + 1] - ws->expert_first[expert];
}

struct expert_task moe_task(const struct workspace *ws, const struct expert_view *view,
                            const int32_t *rows)
{
    int32_t first = ws->expert_first[view->ref.expert];
    ptrdiff_t pairs = ws->output_rows - ws->token_rows;
    return (struct expert_task){
        .slot = view->data,
        .token_rows = rows + first,
        .output_rows = rows + pairs + first,
        .weights = (const float *)(rows + 2 * pairs) + first,
        .count = ws->expert_first[view->ref.expert + 1] - first,
    };
}

void moe_explain(const struct forward *forward, uint64_t start_ns, const struct expert_view *views,
                 int32_t count, uint64_t before_ns)
{
    static const char *const tiers[] = {"disk", "ram", "device"};
    static const char *const lanes[] = {"cpu", "device"};
    uint64_t now_ns = clock_now_ns(&forward->clock);
    for (int32_t i = 0; i < count; i++) {
        const struct expert_view *view = &views[i];
        struct sl_dispatch line = {
            .layer = view->ref.layer,
            .expert = view->ref.expert,
            .tokens = view->tokens,
            .from = tiers[view->from],
            .lane = lanes[view->lane],
            .predicted_ns = view->predicted_ns,
            .ready_ns = view->ready_ns,
            .started_ns = before_ns - start_ns,
            .finished_ns = now_ns - start_ns,
        };
        forward->on_dispatch(forward->dispatch_context, &line);
    }
}

void moe_finish_visit(struct forward *forward, int32_t idx, const struct moe_visit_sum *sum)
{
    struct forward_tally *tally = &forward->tally[idx];
    tally->asked += (uint64_t)sum->count;
    tally->missed += (uint64_t)sum->missed;
    tally->wait_ns += sum->wait_ns;
    if (!forward->trace) return;
    uint64_t times[3] = {sum->start_ns - forward->layer_ns,
                         clock_now_ns(&forward->clock) - sum->start_ns, sum->wait_ns};
    for (int i = 0; i < 3; i++)
        if (times[i] > UINT32_MAX) times[i] = UINT32_MAX;
    struct trace_timing timing = {.before_ns = (uint32_t)times[0],
                                  .experts_ns = (uint32_t)times[1],
                                  .wait_ns = (uint32_t)times[2],
                                  .missed = (uint32_t)sum->missed};
    trace_writer_timing(forward->trace, &timing);
}
