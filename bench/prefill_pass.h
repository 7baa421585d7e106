/* A prompt of the full model on an H100 that is not there: the expert store and the streaming of
 * layers are the program's own, at their true number of experts, under a virtual clock; what
 * computes and what copies are modelled by rates.
 *
 * Experts are 4 KiB instead of 12.75 MiB and every rate is lowered as much, so times are those of
 * the full size. One at a time, one thread. */
#ifndef SLUICE_BENCH_PREFILL_PASS_H
#define SLUICE_BENCH_PREFILL_PASS_H

#include "kernels/base.h"

#define PREFILL_LAYERS  43
#define PREFILL_EXPERTS 256
#define PREFILL_TOP     6

/* How the next layer is brought: as the program decides, or always the one or the other. */
enum prefill_mode { PREFILL_AUTO, PREFILL_CHOSEN, PREFILL_AHEAD };

struct prefill_options {
    double link, disk;    /* bytes/s of experts at full size; disk 0: RAM holds every expert */
    int32_t device_slots; /* for experts that stay; 0 .. all */
    int32_t stream_slots; /* beside them */
    int32_t chunk_tokens;
    int32_t prompt_tokens;
    enum prefill_mode mode;
    uint64_t seed; /* of the routing, preset "base" */
};

struct prefill_result {
    double seconds;
    double floor_seconds; /* the longest of link, disk and GPU, each busy all the time with what the
                             routers chose */
    double link_share;    /* of the time, the link carried experts */
    double gpu_share;     /* of the time, the GPU computed */
    double ahead_share;   /* of the layers, those that came ahead of their router */
    double resident;      /* of all experts, those on the device before */
};

SL_MUST_USE enum sl_status prefill_pass_run(const struct prefill_options *options,
                                            struct prefill_result *out, struct sl_error *error);

/* Seconds that the GPU computes for a layer's experts, of which `distinct` have tokens, and for
 * everything else of it from a position on. Assumed rates: see the program. */
double prefill_experts_seconds(int32_t tokens, int32_t distinct);
double prefill_dense_seconds(int32_t layer, int32_t tokens, int32_t position);

#endif
