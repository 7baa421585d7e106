/* The engine: a loaded model with everything its sessions share. One thread at a time. */
#ifndef SLUICE_RUNTIME_ENGINE_H
#define SLUICE_RUNTIME_ENGINE_H

#include "kernels/device.h"
#include "offload/model_file.h"
#include "runtime/budget.h"
#include "runtime/compute.h"
#include "runtime/forward.h"
#include "runtime/lookahead.h"
#include "runtime/model.h"
#include "runtime/profiles.h"
#include "runtime/sl.h"

/* Layers that routers look ahead where nothing else is asked for. */
#define ENGINE_PREFETCH_DEPTH 1
/* A copy to a GPU takes about two of its layers (bench/offload.md); fewer are tried as well. */
#define ENGINE_PREFETCH_DEPTH_GPU 2

struct sl_engine {
    struct model *model;
    struct model_file *packed;   /* NULL when experts come from the checkpoint */
    struct expert_source source; /* packed's or the model's */
    struct budget budget;
    struct stream *stream;
    struct device *device;   /* NULL: none; the GPU's, when there is one */
    struct gpu *gpu;         /* NULL: the CPU computes everything */
    struct model *gpu_model; /* the dense weights in its memory */
    struct model *placed;    /* the dense weights in large pages; NULL: used as they are mapped */
    struct moe_handshake *handshake;
    char gpu_absent[192]; /* why a GPU that would have been used is not; else "" */
    struct workspace *workspace;
    struct profiles profiles;
    struct expert_store *store;
    struct lookahead *lookahead;
    struct forward_tally *tally; /* [source.layers] */
    struct trace_writer *trace;  /* NULL: no recording */
    sl_tokenizer *tokenizer;     /* NULL without tokenizer.json */
    struct forward forward;
    enum sl_numerics numerics;
    struct compute compute;
    int32_t sessions; /* open */
};

/* What tests put in the place of the usual. */
struct engine_overrides {
    const struct io_ops *io; /* the door to the disk; NULL: the usual one */
    struct device *device;   /* NULL: the options'; else theirs for its bytes, and the engine's
                                from here on, also when opening fails */
    struct gpu *gpu;         /* NULL: the options'; else this one, and the engine's, likewise */
    enum dispatch_rule rule;
    enum residency_policy policy; /* unless the options name one */
    struct clock clock;
    int32_t prefetch_max; /* 0: the usual; below 0: none */
    uint64_t patience_ns; /* 0: the usual */
    int32_t stream_slots; /* 0: the plan's; below 0: none */
};

/* sl_engine_open with some things replaced; NULL: none. */
SL_MUST_USE enum sl_status engine_open_with(const struct sl_engine_options *options,
                                            const struct engine_overrides *overrides,
                                            sl_engine **out, struct sl_error *error);

/* The same with another door to the disk. For tests of faults. */
SL_MUST_USE enum sl_status engine_open_with_io(const struct sl_engine_options *options,
                                               const struct io_ops *io, sl_engine **out,
                                               struct sl_error *error);

/* SL_OK while the files the engine reads are those it opened; else names what changed. */
SL_MUST_USE enum sl_status engine_check_files(const struct sl_engine *engine,
                                              struct sl_error *error);

#endif
