/* The operations of the model, once for every processor: one list makes the table's members and
 * the prototypes of both twins, so a missing twin does not link.
 *
 * Activations are row-major f32 arrays. With exact numerics every value between two ops is
 * representable in bf16 (`round` set); without (`round` clear) plain f32 arithmetic is done and
 * nothing is quantised. Formulas and names of quantities are those of docs/model.md.
 *
 * Contract of every op: shapes are checked by assertion, nothing is allocated, the environment is
 * not read, and the result for one token does not depend on the other tokens of the call, nor on
 * how many threads work on it. Arrays belong to the caller and must not overlap unless said. */
#ifndef SLUICE_KERNELS_OPS_H
#define SLUICE_KERNELS_OPS_H

#include "kernels/base.h"
#include "kernels/expert_layout.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Largest values any op must handle; model_config refuses a checkpoint beyond them. */
#define OPS_STREAMS_MAX           8    /* M */
#define OPS_HEAD_DIM_MAX          1024 /* dh, di */
#define OPS_EXPERTS_PER_TOKEN_MAX 32
#define OPS_EXPERTS_MAX           4096 /* a layer */

struct stream; /* a queue of work; on the CPU a set of worker threads, in order and blocking */

enum matrix_format { MATRIX_F32, MATRIX_BF16, MATRIX_FP8 };

/* A weight matrix, borrowed. `scale` belongs to MATRIX_FP8 alone: one e8m0 byte per 128 x 128
 * tile, [ceil(rows/128), ceil(columns/128)]. */
struct matrix {
    const void *data; /* [rows, columns] */
    const uint8_t *scale;
    enum matrix_format format;
    int32_t rows;    /* outputs */
    int32_t columns; /* inputs */
};

/* How cached rows are stored. ROW_KV: the first `plain` channels as e4m3 with one e8m0 scale per
 * 64, the last `rotary` as bf16. ROW_KEY: e2m1 nibbles (low first) with one e8m0 scale per 32 over
 * all channels. ROW_F32: plain f32, for the f32 numerics. KV and KEY lose nothing against the
 * rounded values of the published program. */
enum row_encoding { ROW_KV, ROW_KEY, ROW_F32 };

struct row_format {
    enum row_encoding encoding;
    int32_t plain;  /* channels before the rotary slice */
    int32_t rotary; /* channels of the rotary slice, at the end */
};

/* Bytes of one row: codes, then scales, then the bf16 slice, rounded up to 4. */
static inline size_t row_format_bytes(const struct row_format *format)
{
    size_t plain = (size_t)format->plain;
    size_t rotary = (size_t)format->rotary;
    switch (format->encoding) {
    case ROW_KV: return align_up(plain + (plain + 63) / 64 + 2 * rotary, 4);
    case ROW_KEY: return align_up((plain + rotary) / 2 + (plain + rotary + 31) / 32, 4);
    case ROW_F32: return 4 * (plain + rotary);
    }
    return 0;
}

/* out[t][m][:] = table[ids[t]][:] for m = 0 .. streams-1. */
struct embed_args {
    const int32_t *ids;  /* [tokens], each < table.rows */
    struct matrix table; /* [vocab, hidden] bf16 */
    float *out;          /* [tokens, streams, hidden] */
    int32_t tokens, streams;
};

/* RMS norm with weight ("RMS norm"): out = weight * x * rsqrt(mean(x^2) + epsilon). out may be x.
 */
struct norm_args {
    const float *x;         /* [rows, width] */
    const uint16_t *weight; /* [width] bf16 */
    float *out;             /* [rows, width] */
    int32_t rows, width;
    float epsilon;
    bool round;
};

/* Weightless RMS norm of every query head, in place. With `round` every elementary step rounds to
 * bf16 as in the note under "Attention": square, mean, + epsilon, rsqrt, product. */
struct head_norm_args {
    float *x; /* [rows, width] */
    int32_t rows, width;
    float epsilon;
    bool round;
};

/* Rotates the last `rotary` channels of every row by the token's position ("Rotary embedding"),
 * adjacent pairs, f32 angle = f32(position) * frequency; in place. */
struct rope_args {
    float *x;                 /* [tokens, heads, width] */
    const int32_t *positions; /* [tokens] */
    const float *frequencies; /* [rotary / 2] */
    int32_t tokens, heads, width, rotary;
    bool inverse, round;
};

/* out[t][g*R + r] = sum over c of x[t][g*C + c] * W[g*R + r][c], with C = weight.columns and
 * R = weight.rows / groups; groups = 1 is the plain product. `quantise_input` rounds x to e4m3 per
 * 128 columns first ("Activation quantisation"); `round` rounds the result to bf16. `bf16_input`
 * says that every x is a bf16 value, so that bf16 products lose nothing; the twin ignores it. */
struct linear_args {
    const float *x;       /* [tokens, groups * columns] */
    struct matrix weight; /* [rows, columns] */
    float *out;           /* [tokens, rows] */
    int32_t tokens, groups;
    bool quantise_input, round, bf16_input;
};

/* Writes key/value rows of positions into a ring: row of position p goes to slot p mod capacity.
 * With ROW_KV the plain channels are quantised here ("Fake quantisation", kvq). */
struct kv_store_args {
    const float *x;           /* [tokens, plain + rotary] */
    const int32_t *positions; /* [tokens] */
    uint8_t *rows;            /* [capacity, row bytes] */
    struct row_format format;
    int32_t tokens, capacity;
};

/* Folds groups of `ratio` tokens into compressed rows ("Compressors"). Keys and gates of tokens go
 * into `state` at position mod state_capacity, ape added to the gates; each token that completes
 * group i appends row i. Tokens have consecutive positions and every earlier token of the groups
 * concerned has been through this op with the same state.
 * ROW_KV and ROW_F32 without hadamard: an attention row. `hadamard`: an indexer key. */
struct kv_compress_args {
    const float *keys;        /* [tokens, c * width], c = 2 if overlap else 1 */
    const float *gates;       /* [tokens, c * width] */
    const float *ape;         /* [ratio, c * width] */
    const uint16_t *norm;     /* [width] bf16 */
    const float *frequencies; /* [rotary / 2] */
    float *state;             /* [state_capacity, 2, c * width]: keys and gates of a token */
    uint8_t *rows;            /* [rows_max, row bytes]; row i at i */
    struct row_format format; /* plain + rotary == width */
    const int32_t *positions; /* [tokens], consecutive */
    int32_t tokens;
    int32_t ratio, width, rows_max;
    int32_t state_capacity; /* >= c * ratio */
    float epsilon;
    bool overlap, hadamard, round;
};

/* Chooses compressed rows for each query ("Indexer"): Hadamard rotation and e2m1 rounding of the
 * queries (only with `round`; the rotation alone changes no product), scores against all rows
 * i < (position + 1) / ratio, the `top` largest (ties: the lower row). The scale of the weights
 * (width^-1/2 * heads^-1/2) is applied here. With `round` scores follow the published program's
 * bf16 steps. queries are overwritten. */
struct indexer_args {
    float *queries;           /* [tokens, heads, width], rotated by position */
    const float *weights;     /* [tokens, heads] */
    const uint8_t *rows;      /* [rows_max, row bytes] */
    const int32_t *positions; /* [tokens] */
    float *scores;            /* scratch [rows_max] */
    int32_t *selected;        /* [tokens, top]: row numbers ascending, then -1 */
    struct row_format format;
    int32_t tokens, heads, width, ratio, top, rows_max;
    bool round;
};

/* Attention of each query over window rows and compressed rows with a sink ("Attention"). Window:
 * positions max(0, p - window + 1) .. p, oldest first, from the ring; then compressed rows in
 * ascending order: `selected` if not NULL, else all i < (p + 1) / ratio; none when ratio is 0. With
 * `round`, weights are rounded to bf16 before the product and rows go in groups of 64 with a
 * running maximum, and out is rounded. */
struct attention_args {
    const float *queries;       /* [tokens, heads, width] */
    const int32_t *positions;   /* [tokens] */
    const uint8_t *window_rows; /* [window_capacity, row bytes] */
    const uint8_t *rows;        /* [.., row bytes] compressed, may be NULL when ratio is 0 */
    const int32_t *selected;    /* [tokens, top] or NULL */
    const float *sink;          /* [heads] */
    float *out;                 /* [tokens, heads, width] */
    struct row_format format;   /* plain + rotary == width */
    int32_t tokens, heads, width, window, window_capacity, ratio, top;
    float scale;
    bool round;
};

/* Experts of each token ("Mixture of experts"): activation sqrt(softplus(z)); by table when
 * `token_experts` is given, else the `top` largest of activation + bias (ties: the lower id).
 * Weights are the unbiased activations, normalised to sum `scale`. Ids ascend within a token. */
struct router_args {
    const float *logits;          /* [tokens, experts] */
    const float *bias;            /* [experts], or NULL with a table */
    const int64_t *token_experts; /* [vocab, top], or NULL */
    const int32_t *ids;           /* [tokens] token ids, used with the table */
    int32_t *chosen;              /* [tokens, top] */
    float *weights;               /* [tokens, top] */
    int32_t tokens, experts, top;
    float scale;
};

/* One expert's share of a layer: token rows and where their results go. */
struct expert_task {
    const uint8_t *slot;        /* layout->slot_bytes, 64-byte aligned */
    const int32_t *token_rows;  /* [count] rows of x */
    const int32_t *output_rows; /* [count] rows of out, no two alike in a call */
    const float *weights;       /* [count] routing weights */
    int32_t count;
};

/* out[output_rows[i]] = w2(bf16(weight * silu(min(w1 x, limit)) * clamp(w3 x, +-limit))) for each
 * task and row, fp4 weights; inputs of all three products are quantised with `round`. */
struct expert_ffn_args {
    const float *x; /* [tokens, hidden] */
    float *out;     /* [.., hidden] */
    const struct expert_task *tasks;
    const struct expert_layout *layout;
    float *scratch; /* [scratch_rows, 3 * width], scratch_rows >= the largest task's count */
    int32_t task_count, scratch_rows;
    float limit;
    bool round;
    /* For a GPU, which alone knows the tasks' counts, and at least what it will find there: */
    int32_t tokens; /* rows of x, no more than scratch_rows; a task has each at most once */
    int32_t pairs;  /* counts of all tasks together */
};

/* out[r] = source[r] for each row r of the list that is not -1; no row twice. */
struct gather_rows_args {
    const float *source; /* [.., width] */
    const int32_t *rows; /* [count] */
    float *out;          /* [.., width] */
    int32_t count, width;
};

/* out = silu(min(gate, limit)) * clamp(up, +-limit): the shared expert's middle. out may be gate.
 */
struct swiglu_args {
    const float *gate, *up; /* [tokens, width] */
    float *out;             /* [tokens, width] */
    int32_t tokens, width;
    float limit;
    bool round;
};

/* out[t] = sum over k (ascending) of routed[t][k] + shared[t]; out may be shared. */
struct moe_combine_args {
    const float *routed; /* [tokens, top, hidden] */
    const float *shared; /* [tokens, hidden] */
    float *out;          /* [tokens, hidden] */
    int32_t tokens, top, hidden;
    bool round;
};

/* Reads the residual streams ("mHC: hc_pre"): x = sum of pre_i * stream_i, and the factors for
 * hyper_post by Sinkhorn. `mix` is streams times fn transposed, not yet scaled by 1/rms. */
struct hyper_pre_args {
    const float *streams; /* [tokens, M, hidden] */
    const float *mix;     /* [tokens, (2 + M) * M] */
    const float *scale;   /* [3] */
    const float *base;    /* [(2 + M) * M] */
    float *x;             /* [tokens, hidden] */
    float *post;          /* [tokens, M] */
    float *comb;          /* [tokens, M source, M destination] */
    int32_t tokens, streams_count, hidden, iterations;
    float norm_epsilon, epsilon;
    bool round;
};

/* Writes them ("mHC: hc_post"): streams[j] = post_j * x + sum over i of comb[i][j] * streams[i],
 * in place. */
struct hyper_post_args {
    const float *x;    /* [tokens, hidden] */
    const float *post; /* [tokens, M] */
    const float *comb; /* [tokens, M, M] */
    float *streams;    /* [tokens, M, hidden] */
    int32_t tokens, streams_count, hidden;
    bool round;
};

/* The streams folded for the head ("Head"): x = sum of pre_i * stream_i. */
struct hyper_head_args {
    const float *streams; /* [tokens, M, hidden] */
    const float *mix;     /* [tokens, M], not yet scaled by 1/rms */
    const float *scale;   /* [1] */
    const float *base;    /* [M] */
    float *x;             /* [tokens, hidden] */
    int32_t tokens, streams_count, hidden;
    float norm_epsilon, epsilon;
    bool round;
};

/* Input of the MTP block: out[t][m] = embedding[t] + hidden[t][m]; out may be hidden. */
struct mtp_mix_args {
    const float *embedding; /* [tokens, hidden] */
    const float *hidden;    /* [tokens, M, hidden] */
    float *out;             /* [tokens, M, hidden] */
    int32_t tokens, streams_count, hidden_size;
    bool round;
};

#define SL_OPS(X)                                                                                  \
    X(embed)                                                                                       \
    X(norm)                                                                                        \
    X(head_norm)                                                                                   \
    X(rope)                                                                                        \
    X(linear)                                                                                      \
    X(kv_store)                                                                                    \
    X(kv_compress)                                                                                 \
    X(indexer)                                                                                     \
    X(attention)                                                                                   \
    X(router)                                                                                      \
    X(expert_ffn)                                                                                  \
    X(gather_rows)                                                                                 \
    X(swiglu)                                                                                      \
    X(moe_combine)                                                                                 \
    X(hyper_pre)                                                                                   \
    X(hyper_post)                                                                                  \
    X(hyper_head)                                                                                  \
    X(mtp_mix)

struct stream_options {
    int32_t threads;      /* that compute, the caller's among them; 1 <= threads */
    const int32_t *cpus;  /* [threads] CPU of each, as worker_pool_create takes them; or NULL */
    const int32_t *nodes; /* [threads] NUMA node of each, below threads; NULL: all on one */
};

struct fused_ops; /* kernels/fused.h */

struct ops {
    const char *name;              /* "cpu" */
    const struct fused_ops *fused; /* chains of ops in fewer launches; NULL: none */
    enum sl_status (*stream_create)(const struct stream_options *options, struct stream **out);
    void (*stream_destroy)(struct stream *stream);
    /* Waits for all work submitted; the first device fault since the last call. */
    enum sl_status (*stream_sync)(struct stream *stream);
#define X(op) void (*op)(struct stream * stream, const struct op##_args *args);
    SL_OPS(X)
#undef X
};

#define X(op)                                                                                      \
    void cpu_##op(struct stream *stream, const struct op##_args *args);                            \
    void cuda_##op(struct stream *stream, const struct op##_args *args);
SL_OPS(X)
#undef X

/* How many threads of a CPU stream run on the one CPU that was asked for them. */
int32_t cpu_stream_pinned(const struct stream *stream);

/* The CPU twins: plain C, the oracle of every faster version. Never NULL. */
const struct ops *ops_cpu(void);

#ifdef __cplusplus
}
#endif
#endif
