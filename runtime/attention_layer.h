/* The attention sublayer: projections, compressors, indexer, attention and output projection. */
#ifndef SLUICE_RUNTIME_ATTENTION_LAYER_H
#define SLUICE_RUNTIME_ATTENTION_LAYER_H

#include "runtime/forward.h"

/* out [T, D] = attention of layer `idx` on the normed x [T, D] ("Attention"), appending the chunk's
 * rows to the cache. workspace->positions holds the chunk's positions. */
void attention_layer_forward(struct forward *forward, const struct forward_chunk *chunk,
                             int32_t idx, const float *x, float *out);

#endif
