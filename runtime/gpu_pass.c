/* Launching or replaying, and serving; see the header. */
#include "runtime/gpu_pass.h"

#include "runtime/moe_handshake.h"

/* A pass of some size is launched plainly before it is recorded: some sizes come once. */
#define PASSES_BEFORE_RECORDING 1
#define RECORDING_TRIES         3 /* a device gives up something after each that failed */

void gpu_pass_forget(struct gpu_pass_recordings *recordings, struct gpu *gpu)
{
    if (!gpu) return;
    for (size_t i = 0; i < SL_COUNT_OF(recordings->graphs); i++)
        gpu->gpu_ops->graph_destroy(gpu, recordings->graphs[i]);
    *recordings = (struct gpu_pass_recordings){0};
}

bool gpu_pass_fits(struct forward *forward, const struct forward_chunk *chunk)
{
    return forward->gpu && chunk->tokens <= GPU_PASS_TOKENS_MAX &&
           moe_handshake_fits(forward, chunk->tokens);
}

static void launch_all(struct forward *forward, const struct forward_chunk *chunk)
{
    forward_launch_begin(forward, chunk);
    for (int32_t idx = 0; idx < forward->model->config.layers; idx++)
        forward_launch_block(forward, chunk, idx);
}

/* No kernel may be launched for the first time while the GPU waits for the host. */
static void load_kernels(struct forward *forward, const struct forward_chunk *chunk)
{
    const struct gpu_ops *ops = forward->gpu->gpu_ops;
    struct gpu_pass_recordings *recordings = chunk->recordings;
    if (!ops->set_loading || (recordings && recordings->loaded[chunk->tokens])) return;
    ops->set_loading(forward->gpu, true);
    launch_all(forward, chunk);
    ops->set_loading(forward->gpu, false);
    if (recordings) recordings->loaded[chunk->tokens] = true;
}

/* The recording for this number of tokens, made now if it is time; NULL: launch plainly. */
static struct gpu_graph *find_recording(struct forward *forward, const struct forward_chunk *chunk)
{
    struct gpu_pass_recordings *recordings = chunk->recordings;
    const struct gpu_ops *ops = forward->gpu->gpu_ops;
    if (!recordings || recordings->refused) return NULL;
    struct gpu_graph **graph = &recordings->graphs[chunk->tokens];
    if (*graph) return *graph;
    if (recordings->passes[chunk->tokens]++ < PASSES_BEFORE_RECORDING) return NULL;
    for (int tries = 0; tries < RECORDING_TRIES && !*graph; tries++) {
        if (!ops->record || ops->record(forward->gpu, NULL) != SL_OK) break;
        launch_all(forward, chunk);
        if (ops->record_end(forward->gpu, graph, NULL) != SL_OK) *graph = NULL;
    }
    recordings->refused = !*graph;
    return *graph;
}

/* One layer ahead of what is served: a queue of launches has an end, and the host must not stand in
 * it while the GPU waits for the host. */
static enum sl_status run_plainly(struct forward *forward, const struct forward_chunk *chunk)
{
    forward_launch_begin(forward, chunk);
    for (int32_t idx = 0; idx < forward->model->config.layers; idx++) {
        forward_launch_block(forward, chunk, idx);
        SL_TRY(forward_serve_block(forward, chunk, idx));
    }
    return SL_OK;
}

static enum sl_status replay(struct forward *forward, const struct forward_chunk *chunk,
                             struct gpu_graph *graph)
{
    forward->gpu->gpu_ops->graph_launch(forward->gpu, graph);
    for (int32_t idx = 0; idx < forward->model->config.layers; idx++)
        SL_TRY(forward_serve_block(forward, chunk, idx));
    return SL_OK;
}

enum sl_status gpu_pass_layers(struct forward *forward, const struct forward_chunk *chunk)
{
    load_kernels(forward, chunk);
    moe_handshake_begin(forward);
    struct gpu_graph *graph = find_recording(forward, chunk);
    enum sl_status status = graph ? replay(forward, chunk, graph) : run_plainly(forward, chunk);
    if (status == SL_OK)
        moe_handshake_end(forward);
    else
        moe_handshake_abandon(forward);
    return status;
}
