/* The device of kernels/device.h on the CUDA runtime: a stream a lane for copies, an event a
 * ticket, and events on the compute stream as fences. One thread, the store's, which is also the
 * one that launches kernels. Every call is checked; what fails ends its lane. */
#ifndef SLUICE_KERNELS_CUDA_COPY_LANES_H
#define SLUICE_KERNELS_CUDA_COPY_LANES_H

#include "kernels/cuda/stream.h"
#include "kernels/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Copies wait for what is launched on `compute`, which is borrowed. A first copy there and back is
 * compared. SL_ERR_IO, SL_ERR_NO_MEMORY. */
SL_MUST_USE enum sl_status copy_lanes_create(struct stream *compute, struct device **out,
                                             struct sl_error *error);

/* While set, fence is 0: who launches knows by itself when slots are read no more. */
void copy_lanes_set_fenceless(struct device *device, bool fenceless);

#ifdef __cplusplus
}
#endif
#endif
