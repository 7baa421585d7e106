/* A checkpoint opened: its configuration, and every weight bound by name, shape and dtype.
 *
 * The dense part is mapped and borrowed from the page cache; a tensor whose place in the file is
 * not aligned for its type is copied once. Routed experts are not touched: the model only knows
 * where their bytes lie and hands that to the expert store. */
#ifndef SLUICE_RUNTIME_MODEL_H
#define SLUICE_RUNTIME_MODEL_H

#include "kernels/ops.h"
#include "offload/expert_store.h"
#include "runtime/model_config.h"

/* A compressor ("Compressors"): of the attention, or of the indexer. */
struct compressor_weights {
    struct matrix keys, gates; /* [c * width, D] bf16 */
    const float *ape;          /* [ratio, c * width] */
    const uint16_t *norm;      /* [width] bf16 */
};

struct indexer_weights {
    struct matrix queries; /* [Hi * di, Q] fp8 */
    struct matrix weights; /* [Hi, D] bf16 */
    struct compressor_weights compressor;
};

struct attention_weights {
    struct matrix query_down;             /* wq_a [Q, D] fp8 */
    const uint16_t *query_norm;           /* [Q] bf16 */
    struct matrix query_up;               /* wq_b [H * dh, Q] fp8 */
    struct matrix kv;                     /* wkv [dh, D] fp8 */
    const uint16_t *kv_norm;              /* [dh] bf16 */
    struct matrix output_down;            /* wo_a [G * R, H * dh / G] fp8, input not quantised */
    struct matrix output_up;              /* wo_b [D, G * R] fp8 */
    const float *sink;                    /* [H] */
    struct compressor_weights compressor; /* ratio != 0 */
    struct indexer_weights indexer;       /* ratio 4 */
};

/* One hyper-connection site ("mHC"). */
struct hyper_weights {
    struct matrix fn;   /* [(2 + M) * M, M * D] f32; the head's: [M, M * D] */
    const float *base;  /* [(2 + M) * M]; head [M] */
    const float *scale; /* [3]; head [1] */
};

struct layer_weights {
    int32_t ratio;                        /* 0, 4 or 128 */
    const float *frequencies;             /* [rotary / 2] rope table of this layer */
    const uint16_t *attn_norm, *ffn_norm; /* [D] bf16 */
    struct hyper_weights hyper_attn, hyper_ffn;
    struct attention_weights attn;
    struct matrix router;         /* [E, D] bf16 */
    const float *router_bias;     /* [E], NULL in hash layers */
    const int64_t *token_experts; /* [V, K] in hash layers, else NULL; values checked < E */
    struct matrix shared_gate, shared_up, shared_down; /* w1, w3, w2 fp8 */
};

struct mtp_weights {
    bool present;
    struct matrix embed_proj, hidden_proj;           /* [D, D] fp8 */
    const uint16_t *embed_norm, *hidden_norm, *norm; /* [D] bf16 */
    struct hyper_weights hyper_head;
};

struct model {
    struct model_config config;
    struct matrix embed, head; /* [V, D] bf16 */
    const uint16_t *norm;      /* [D] bf16 */
    struct hyper_weights hyper_head;
    struct layer_weights *layers; /* [config.layers + (mtp.present ? 1 : 0)] */
    struct mtp_weights mtp;
    struct expert_layout expert_layout;
    struct expert_source experts; /* unpacked; layers counts the MTP block if present */
    uint64_t dense_bytes;         /* mapped or copied */
    uint64_t copied_bytes;        /* of these, copied for alignment */
    int32_t skipped_tensors;      /* mtp.* tensors of stages that this version does not run */
    int32_t unknown_tensors;      /* other tensors that no part of the model asks for */
    struct model_files *files;    /* private: mappings, open files, names */
    void *memory;                 /* of a model in a GPU's memory (model_upload) */
};

/* Progress of a long cold step: bytes (or items) done of all; return false to cancel. */
typedef bool (*model_progress_fn)(void *context, const char *what, uint64_t done, uint64_t total);

struct model_open_options {
    const char *directory;
    bool want_mtp;    /* bind the MTP block; without it the block's tensors are only checked */
    bool want_direct; /* open shards with O_DIRECT for expert reads */
    bool read_dense;  /* touch the mapped dense part now, with progress */
    model_progress_fn progress; /* may be NULL */
    void *progress_context;
};

SL_MUST_USE enum sl_status model_open(const struct model_open_options *options, struct model **out,
                                      struct sl_error *error);
void model_close(struct model *model); /* NULL is fine */

/* SL_OK while every file of the checkpoint is as it was when opened (size, time of change) and no
 * mapped page was lost to truncation; else SL_ERR_IO naming the file. Cheap: call per request. */
SL_MUST_USE enum sl_status model_check_unchanged(const struct model *model, struct sl_error *error);

/* A hash of the checkpoint's identity: config.json, every shard's header and size, and the first
 * and last 64 KiB of data of each. A packed file records it. */
SL_MUST_USE enum sl_status model_fingerprint(const struct model *model, uint64_t *out,
                                             struct sl_error *error);

#endif
