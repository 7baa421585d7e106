/* The mixture-of-experts sublayer: router, acquisition of experts, their FFNs, and the sum. */
#ifndef SLUICE_RUNTIME_MOE_H
#define SLUICE_RUNTIME_MOE_H

#include "runtime/forward.h"

/* Experts of layer `idx` on the normed x [T, D] ("Mixture of experts"): the shared expert's output
 * into out [T, D], the routed ones' rows into workspace->routed [T, K, D]; moe_launch_combine, or
 * what does its work, adds them. Experts that are resident run while the others are read; which
 * came first changes nothing. While the reads travel, later layers are guessed from `streams` [T,
 * M, D], the residual streams after the layer's attention. On a failed read every pin is given back
 * and the status returned. */
SL_MUST_USE enum sl_status moe_forward(struct forward *forward, const struct forward_chunk *chunk,
                                       int32_t idx, const float *streams, const float *x,
                                       float *out);

#endif
