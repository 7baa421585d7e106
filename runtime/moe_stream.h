/* A prompt's experts on their way through the device: what of the next layer is brought while this
 * one computes. For passes that are prefill on a store with slots set aside; elsewhere these do
 * nothing. The engine's thread. */
#ifndef SLUICE_RUNTIME_MOE_STREAM_H
#define SLUICE_RUNTIME_MOE_STREAM_H

#include "runtime/forward.h"

/* Experts acquired at once where host and device share a layer: few enough that each of those that
 * should travel finds a slot. */
#define MOE_STREAM_BATCH 32
/* Reads at once, taken for what a disk gives meanwhile. */
#define MOE_STREAM_READS 4

/* Waits for what was launched while the store goes on with its copies. */
void moe_stream_await(struct forward *forward);

/* Whether layer `idx`, whose tokens are now known, has been coming whole: then its chosen experts
 * `refs` [count] go on coming first, and the next layer behind them. */
bool moe_stream_begin(struct forward *forward, const struct forward_chunk *chunk, int32_t idx,
                      const struct expert_ref *refs, int32_t count);
/* All of the layer has been asked for: the next one may come, if that pays. For layers of which
 * moe_stream_begin was false. */
void moe_stream_next(struct forward *forward, const struct forward_chunk *chunk, int32_t idx);
/* Moves those that are on the device or on their way to the front, refs with their tokens; returns
 * how many. */
int32_t moe_stream_pick(const struct forward *forward, struct expert_ref *refs, int32_t *tokens,
                        int32_t count);
/* A pass has ended, or was given up. */
void moe_stream_end(struct forward *forward, const struct forward_chunk *chunk,
                    enum sl_status status);

#endif
