/* The forward pass: from token ids to logits, layer by layer. Read this first.
 *
 * Everything it touches hangs on one `struct forward`, owned by the engine and used by its thread.
 * Results go to the workspace; what has to outlive the call goes to the session's KV cache. */
#ifndef SLUICE_RUNTIME_FORWARD_H
#define SLUICE_RUNTIME_FORWARD_H

#include "kernels/ops.h"
#include "offload/expert_store.h"
#include "runtime/kv_cache.h"
#include "runtime/model.h"
#include "runtime/sl.h"
#include "runtime/workspace.h"

struct gpu_pass_recordings;
struct lookahead;
struct moe_handshake;
struct trace_writer;

/* What a layer's visits came to, since the engine was opened. */
struct forward_tally {
    uint64_t asked, missed; /* experts, once a visit; not in memory when asked for */
    uint64_t wait_ns;       /* waiting for them */
};

/* What a prefill's layer tells of the next, for moe_stream.c. */
struct moe_stream_seen {
    double share;   /* of its experts off the device, those chosen */
    double wait_ns; /* for its router */
    int32_t coming; /* the layer that is coming whole; -1: none */
};

struct forward {
    const struct model *model;   /* in RAM */
    const struct model *weights; /* what ops read: the model, or its copy in a GPU's memory */
    const struct ops *ops;
    struct stream *stream;
    struct gpu *gpu;            /* NULL: the ops are the CPU's */
    const struct ops *host_ops; /* the CPU's, which also compute experts that stay in RAM */
    struct stream *host_stream;
    struct expert_store *store;
    struct workspace *workspace;
    bool round; /* exact numerics */

    struct moe_handshake *handshake; /* with a GPU */
    struct moe_stream_seen stream_seen;
    struct sl_error fault; /* of the GPU, the sentence; SL_OK: none */

    struct lookahead *lookahead; /* NULL: nothing is guessed or recorded ahead */
    struct trace_writer *trace;  /* NULL: no recording */
    struct forward_tally *tally; /* [layers of the store] */
    struct clock clock;
    int64_t token_clock;   /* tokens of all sessions before this pass */
    int32_t experts_total; /* of all layers of the store */
    uint64_t layer_ns;     /* the clock at the start of the layer under way */
    bool input_ready;      /* of the next layer, in workspace->x: the layer before has read it */

    bool (*on_layer)(void *context, int32_t layer); /* after each but the last; false cancels */
    void *layer_context;
    sl_route_fn on_route; /* may be NULL */
    void *route_context;
    sl_dispatch_fn on_dispatch; /* may be NULL */
    void *dispatch_context;
};

/* Consecutive tokens of one session. */
struct forward_chunk {
    struct kv_cache *cache;
    const int32_t *ids;     /* [tokens] */
    const int32_t *gpu_ids; /* [tokens] the same in a GPU's memory; set on the way */
    int32_t tokens;         /* 1 .. workspace->chunk_tokens */
    int32_t position;       /* of the first */

    struct gpu_pass_recordings *recordings; /* of the session; NULL: nothing is recorded */

    const int32_t *next_ids; /* [next_tokens] of the chunk after this one, as far as known */
    int32_t next_tokens;
};

/* Embeds the chunk and runs all main layers: workspace->streams holds the residual streams after
 * the last one. The caller has begun the chunk in the cache and commits it on success. SL_ERR_IO,
 * SL_ERR_CHECKSUM: an expert could not be read; SL_ERR_CANCELLED: on_layer said so. */
SL_MUST_USE enum sl_status forward_layers(struct forward *forward,
                                          const struct forward_chunk *chunk);

/* One block ("Block"), positions and ids being in the workspace, with layer id `idx`
 * (config.layers: the MTP block) on `streams` [T, M, D]. */
SL_MUST_USE enum sl_status forward_block(struct forward *forward, const struct forward_chunk *chunk,
                                         int32_t idx, float *streams);

/* Logits ("Head") of rows first .. tokens - 1 of the streams: out is [tokens - first, vocab], in
 * RAM. SL_ERR_IO: the device failed. */
SL_MUST_USE enum sl_status forward_head(struct forward *forward, int32_t first, int32_t tokens,
                                        float *out);

/* The MTP block ("MTP block") after forward_layers of the same chunk: row t takes the streams of
 * token t and the embedding of next_ids[t]; `rows` of them; out is [rows, vocab]. Uses up the
 * streams. */
SL_MUST_USE enum sl_status forward_mtp(struct forward *forward, const struct forward_chunk *chunk,
                                       const int32_t *next_ids, int32_t rows, float *out);

/* linear for each of `count` items, which have the same tokens and one group: together where the
 * processor can. */
void forward_linears(struct forward *forward, const struct linear_args *items, int32_t count);

/* Waits for the device; a fault of it is kept in forward->fault. */
SL_MUST_USE enum sl_status forward_sync(struct forward *forward);

/* For gpu_pass.c. Ids and positions to where the GPU fetches them, before anything is launched;
 * then the launches: what comes before the first layer, and a layer, with chunk->gpu_ids set; and
 * the host's part of a layer. */
void forward_stage(struct forward *forward, const struct forward_chunk *chunk);
void forward_launch_begin(struct forward *forward, const struct forward_chunk *chunk);
void forward_launch_block(struct forward *forward, const struct forward_chunk *chunk, int32_t idx);
SL_MUST_USE enum sl_status forward_serve_block(struct forward *forward,
                                               const struct forward_chunk *chunk, int32_t idx);

#endif
