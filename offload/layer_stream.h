/* Layer streaming: how many device slots a prefill has for passing experts through, and whether
 * the next layer's experts come ahead of its router, or only when it has chosen.
 *
 * Pure arithmetic: no state, clock or memory. Copies that are asked for when the router has chosen
 * find a link that was idle since the layer before; copies made ahead use that wait, and bring
 * experts that nobody chose: as many as the wait has room for, and those in flight at its end. */
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

/* Copies ahead of a router that are begun at once last about so long: what it does not choose of
 * them is in the way of what it does. */
#define LAYER_STREAM_AHEAD_NS  1500000.0
#define LAYER_STREAM_AHEAD_MAX 32
/* How many those are, at least two: one under way and one behind it. */
int32_t layer_stream_flight(double copy_ns);

struct layer_stream_problem {
    double cold;    /* experts of the layer that are not on the device */
    double chosen;  /* of these, those that the router is expected to choose */
    double copy_ns; /* of one expert to the device, from RAM or by way of it from disk */
    double wait_ns; /* from the end of the layer before until its router has chosen */
};

/* When the layer's experts are on the device, from the end of the layer before: asked for when the
 * router has chosen; or begun ahead, in any order, until then, and from then on only what it has
 * chosen. */
double layer_stream_asked_ns(const struct layer_stream_problem *problem);
double layer_stream_ahead_ns(const struct layer_stream_problem *problem);
/* Whether to begin ahead. */
bool layer_stream_is_ahead(const struct layer_stream_problem *problem);

#endif
