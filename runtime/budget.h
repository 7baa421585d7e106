/* The memory plan: every large size, from the options and the model, before anything is taken. */
#ifndef SLUICE_RUNTIME_BUDGET_H
#define SLUICE_RUNTIME_BUDGET_H

#include "offload/expert_store.h"
#include "runtime/model.h"
#include "runtime/sl.h"

struct budget_request {
    const struct model *model;
    const struct expert_source *source; /* packed or unpacked */
    uint64_t ram_bytes;                 /* for routed experts; 0: what the machine can spare */
    uint64_t device_bytes;              /* of a device, for routed experts; 0: no device */
    bool device_is_ram;                 /* it is simulated: its memory is this machine's */
    bool with_gpu;      /* weights, session, workspace and device slots lie in a GPU's memory */
    uint64_t gpu_bytes; /* bound for all of that; the slots get what is left of it */
    enum sl_tiers tiers;
    int32_t context_tokens; /* 0: the default */
    int32_t chunk_tokens;   /* 0: the default */
    enum sl_numerics numerics;
    uint64_t available_bytes; /* taken for what the machine can spare; 0: looked up */
};

struct budget {
    int32_t context_tokens, chunk_tokens; /* defaults and limits applied */
    uint64_t dense_bytes;                 /* weights mapped, or copied to large pages */
    uint64_t session_bytes;               /* KV cache of one session at full context */
    uint64_t workspace_bytes;             /* arrays of one chunk, and logits */
    uint64_t expert_ram_bytes;            /* bound for the expert store: slots and staging */
    uint64_t expert_disk_bytes;           /* all routed experts */
    uint64_t available_bytes;             /* of this machine, now; 0: unknown */
    bool available_by_group;              /* a control group's limit is the tighter one */
    uint64_t staging_bytes;               /* of expert_ram_bytes: reads that do not land in slots */
    uint64_t expert_ram_min_bytes;        /* the smallest bound that runs one token */
    int32_t slots_min;                    /* fewer cannot run one token */
    int32_t slots;                        /* that expert_ram_bytes holds beside the staging */
    uint64_t device_bytes;                /* bound for device slots; 0 without a device */
    int32_t stream_slots;                 /* of them, for prompts to pass experts through */
    int32_t device_slots;                 /* that device_bytes holds */
    bool exclusive;                       /* what is on the device need not be in RAM */
    bool device_is_ram;
    bool with_gpu;
    uint64_t gpu_bytes; /* the bound; of it, beside device_bytes: */
    uint64_t gpu_dense_bytes, gpu_session_bytes, gpu_workspace_bytes;
    int32_t experts_total;
    bool fits;        /* all of it in available_bytes, and slots_min in the bound */
    char advice[384]; /* what to change when it does not; else "" */
    char notice[256]; /* what was asked for and not given, and why; else "" */
};

#define BUDGET_CONTEXT_DEFAULT 4096
#define BUDGET_CHUNK_DEFAULT   256
#define BUDGET_CHUNK_MAX       16384
/* On a GPU the chunk is as large as its share of the memory lets the workspace be: every expert
 * that is not there is copied once a chunk. */
#define BUDGET_GPU_CHUNK_DEFAULT 8192
#define BUDGET_GPU_KEPT_BYTES    (512ull << 20) /* free memory left to the driver and to graphs */
#define BUDGET_READ_DEPTH        8 /* whole experts in flight; more gains nothing on one drive */

/* Fills the plan; SL_ERR_ARGUMENT for options out of range (a context beyond the model's). */
SL_MUST_USE enum sl_status budget_plan(const struct budget_request *request, struct budget *out,
                                       struct sl_error *error);

/* Whether RAM for so much more is left beside the plan: not where nobody says what there is. */
bool budget_spares(const struct budget *budget, uint64_t bytes);

/* Where the GPU's memory goes, as lines of text; "" without a GPU. */
#define BUDGET_GPU_TEXT_BYTES 640
void budget_gpu_text(const struct budget *budget, char text[BUDGET_GPU_TEXT_BYTES]);

#endif
