/* The mixture of experts on a GPU that never waits for a launch: all of a pass is launched, or
 * replayed, at once, and host and GPU meet in mapped memory, three flags a layer.
 *
 *   GPU   router, choices -> RAM, post CHOSEN; shared expert; await HITS, run the first table;
 *         await LATE, run the second table, gather the host's rows; sum
 *   host  await CHOSEN; acquire; first table = what lies in device slots, set HITS; compute the
 *         CPU's lane, await the copies; second table = what arrived, set LATE
 *
 * A table is an array of tasks with room for every choice, count 0 where there is none, so that the
 * launches are the same whatever lies where. Slots of a layer stay pinned until the next layer's
 * CHOSEN: then the GPU has read them, and needs no fence. */
#ifndef SLUICE_RUNTIME_MOE_HANDSHAKE_H
#define SLUICE_RUNTIME_MOE_HANDSHAKE_H

#include "runtime/forward.h"

#define MOE_HANDSHAKE_PAIRS_MAX (16 * OPS_EXPERTS_PER_TOKEN_MAX)

/* What the host remembers from layer to layer of a pass. */
struct moe_handshake;

SL_MUST_USE enum sl_status moe_handshake_create(struct moe_handshake **out);
void moe_handshake_destroy(struct moe_handshake *handshake); /* NULL is fine */

/* Whether all experts that `tokens` tokens of a pass can choose fit into views at once. */
bool moe_handshake_fits(struct forward *forward, int32_t tokens);

/* A new pass: the GPU is idle, or at least past every flag of the one before. */
void moe_handshake_begin(struct forward *forward);
/* The GPU's side of layer `idx` on x [T, D]: the shared expert's result to out [T, D], routed ones
 * to the workspace. */
void moe_handshake_launch(struct forward *forward, const struct forward_chunk *chunk, int32_t idx,
                          const float *x, float *out);
/* Adds the routed experts' results to out, those that the host computed too. */
void moe_handshake_combine(struct forward *forward, int32_t tokens, float *out);
/* The host's side, in the order of the layers. SL_ERR_IO, SL_ERR_CHECKSUM: an expert could not be
 * read, or the GPU has a fault; then moe_handshake_abandon follows. */
SL_MUST_USE enum sl_status moe_handshake_serve(struct forward *forward,
                                               const struct forward_chunk *chunk, int32_t idx);
/* After the last layer is served: its slots are given back, to be reused when the GPU is done. */
void moe_handshake_end(struct forward *forward);
/* Lets what was launched run to its end without experts, waits for it, gives everything back. */
void moe_handshake_abandon(struct forward *forward);

#endif
