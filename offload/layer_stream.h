/* Layer streaming: how many device slots a prefill has for passing experts through, and whether
 * the next layer comes whole, ahead of its router, or only what its router chooses.
 *
 * Pure arithmetic: no state, clock or memory. Copies that are asked for when the router has chosen
 * find a link that was idle since the layer before; copies made ahead use that wait, and bring
 * experts that nobody chose. */
#ifndef SLUICE_OFFLOAD_LAYER_STREAM_H
#define SLUICE_OFFLOAD_LAYER_STREAM_H

#include "kernels/base.h"

/* Fewer slots than this are not worth having; more than one of so many are not taken from decode.
 */
#define LAYER_STREAM_SLOTS_MIN  8
#define LAYER_STREAM_SLOTS_PART 8

/* Of `device_slots` slots for a model of `layers` layers of `experts`: two layers of experts, one
 * being computed and one arriving, or what the part allows; 0 when everything fits, or nothing. */
int32_t layer_stream_slots(int32_t device_slots, int32_t layers, int32_t experts);

struct layer_stream_problem {
    double cold;    /* experts of the layer that are not on the device */
    double chosen;  /* of these, those that the router is expected to choose */
    double copy_ns; /* of one expert to the device, from RAM or by way of it from disk */
    double wait_ns; /* from the end of the layer before until its router has chosen */
};

/* When the layer's experts are on the device, from the end of the layer before. */
double layer_stream_whole_ns(const struct layer_stream_problem *problem);
double layer_stream_chosen_ns(const struct layer_stream_problem *problem);
/* Whether to bring all of it ahead: what comes for nothing takes less time than the wait. */
bool layer_stream_is_whole(const struct layer_stream_problem *problem);

#endif
