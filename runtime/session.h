/* A session: one timeline of tokens with its state and the logits after its last token. */
#ifndef SLUICE_RUNTIME_SESSION_H
#define SLUICE_RUNTIME_SESSION_H

#include "runtime/engine.h"
#include "runtime/gpu_pass.h"
#include "runtime/kv_cache.h"

struct sl_session {
    struct sl_engine *engine; /* borrowed, outlives the session */
    struct kv_cache *cache;
    struct gpu_pass_recordings recordings; /* of passes over that cache */
    int32_t *ids;                          /* [context_tokens] the timeline */
    float *logits;                         /* [vocab] after the last token */
    bool logits_valid;
    sl_route_fn on_route; /* may be NULL */
    void *route_context;
    sl_dispatch_fn on_dispatch; /* may be NULL */
    void *dispatch_context;
};

#endif
