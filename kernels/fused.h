/* Chains of ops in fewer launches, for a processor on which a launch costs as much as a short op.
 * Each is tested against the chain it replaces; who has none of them (the CPU) leaves the table
 * away.
 *
 * A call that cannot take these shapes, or so many tokens, returns false and has launched nothing:
 * the caller runs the chain. Arrays are as in kernels/ops.h; what the chain would leave in between
 * is left undefined. */
#ifndef SLUICE_KERNELS_FUSED_H
#define SLUICE_KERNELS_FUSED_H

#include "kernels/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

#define FUSED_TOKENS_MAX  16 /* of a pass; turn and linears take more, of a prompt's chunk */
#define FUSED_LINEARS_MAX 8

/* Between two sublayers: the output of one into the streams, the input of the next out of them. As
 * gather_rows and moe_combine into post.x, if `routed`; then hyper_post, linear with `fn` (f32, not
 * rounded), hyper_pre and norm in place. */
struct fused_turn_args {
    struct hyper_post_args post; /* x: the sublayer's output; with `routed` the shared expert's */
    struct hyper_pre_args pre;   /* streams: post's; mix is not used */
    const float *fn;             /* [(2 + M) * M, M * hidden] */
    const uint16_t *norm;        /* [hidden] bf16 */
    const float *routed;         /* [tokens, top, hidden], or NULL */
    const float *host_routed;    /* the same; rows of `gather` lie here, in mapped memory */
    const int32_t *gather;       /* [tokens * top] rows, or -1; NULL: all rows lie in `routed` */
    int32_t top;
};

/* What follows the products of a layer's input, row by row: norm of the query rank vectors in
 * place; norm, rope and kv_store of the window's rows; kv_compress for each of `compress`. */
struct fused_latents_args {
    struct norm_args query;     /* out is x */
    struct norm_args kv;        /* x is left as it was; out is not used */
    struct kv_store_args store; /* x is not used */
    const float *frequencies;   /* [rotary / 2] of the rope: of the last store.format.rotary */
    const struct kv_compress_args *compress; /* [compress_count], of the same tokens */
    int32_t compress_count;                  /* at most 2 */
};

/* rope of the queries, then indexer. */
struct fused_indexer_args {
    struct rope_args rope; /* x: indexer.queries */
    struct indexer_args indexer;
};

/* head_norm and rope of the queries, attention, rope of its result (inverse). Queries are left
 * undefined. */
struct fused_attention_args {
    struct head_norm_args heads; /* x: attention.queries */
    struct rope_args rope;       /* the same */
    struct attention_args attention;
    struct rope_args back; /* x: attention.out */
};

/* linear twice with one input, and swiglu of what they give: gate.out and up.out are the arrays
 * that swiglu names, swiglu.out may be one of them. */
struct fused_gated_args {
    struct linear_args gate, up;
    struct swiglu_args swiglu;
};

/* linear into router.logits, router, and both results and linear.x to the host: what it names is
 * mapped memory, and `*flag = value` follows all of it, as gpu_ops.publish does it. */
struct fused_route_args {
    struct linear_args linear;
    struct router_args router;
    float *host_x;        /* [tokens, columns] */
    int32_t *host_chosen; /* [tokens, top] */
    float *host_weights;  /* [tokens, top] */
    uint32_t *flag;
    uint32_t value;
};

/* gpu_ops.take, then expert_ffn. */
struct fused_experts_args {
    const uint32_t *flag; /* waited for until it is `value` or more */
    uint32_t value;
    const struct gpu_piece *pieces; /* [piece_count], read during the call; the tasks among them */
    int32_t piece_count;
    struct expert_ffn_args experts;
};

struct fused_ops {
    bool (*turn)(struct stream *stream, const struct fused_turn_args *args);
    /* linear for each of `count` items, which share tokens and have one group. More than
     * FUSED_TOKENS_MAX tokens are taken too, in fewer launches where items share their input x. */
    bool (*linears)(struct stream *stream, const struct linear_args *items, int32_t count);
    bool (*gated)(struct stream *stream, const struct fused_gated_args *args);
    bool (*latents)(struct stream *stream, const struct fused_latents_args *args);
    bool (*route)(struct stream *stream, const struct fused_route_args *args);
    bool (*experts)(struct stream *stream, const struct fused_experts_args *args);
    bool (*indexer)(struct stream *stream, const struct fused_indexer_args *args);
    bool (*attention)(struct stream *stream, const struct fused_attention_args *args);
};

bool cuda_fused_turn(struct stream *stream, const struct fused_turn_args *args);
bool cuda_fused_linears(struct stream *stream, const struct linear_args *items, int32_t count);
bool cuda_fused_gated(struct stream *stream, const struct fused_gated_args *args);
bool cuda_fused_latents(struct stream *stream, const struct fused_latents_args *args);
bool cuda_fused_route(struct stream *stream, const struct fused_route_args *args);
bool cuda_fused_experts(struct stream *stream, const struct fused_experts_args *args);
bool cuda_fused_indexer(struct stream *stream, const struct fused_indexer_args *args);
bool cuda_fused_attention(struct stream *stream, const struct fused_attention_args *args);

#ifdef __cplusplus
}
#endif
#endif
