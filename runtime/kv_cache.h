/* The state one session carries from token to token: rings of recent key/value rows, the growing
 * lists of compressed rows and indexer keys, and the tokens of groups that are not complete yet.
 *
 * One allocation, made at creation for the whole context; owned by the session, used by the
 * engine's thread. Rows are stored in the model's own quantised form (584 bytes a row at Flash's
 * size), or in f32 for the f32 numerics.
 *
 * Rings hold `slack_tokens` more than the model looks back, so that up to that many tokens can be
 * taken back: a chunk that failed halfway, or a rejected draft. */
#ifndef SLUICE_RUNTIME_KV_CACHE_H
#define SLUICE_RUNTIME_KV_CACHE_H

#include "kernels/gpu.h"
#include "runtime/model_config.h"

struct kv_cache_options {
    const struct model_config *config;
    int32_t layers;         /* config->layers, one more with the MTP block */
    int32_t context_tokens; /* most tokens of the timeline */
    int32_t slack_tokens;   /* most tokens of one chunk, and of one truncation */
    bool f32_rows;
    struct gpu *gpu; /* in whose memory it lies, borrowed; NULL: in RAM */
};

struct kv_layer {
    int32_t ratio;    /* 0, 4 or 128 */
    int32_t rows_max; /* compressed rows there is room for; 0 when ratio is 0 */
    int32_t state_capacity, index_state_capacity; /* tokens */
    uint8_t *window_rows; /* [window_capacity, row bytes]; position p at p mod capacity */
    uint8_t *rows;        /* [rows_max, row bytes] */
    uint8_t *index_rows;  /* [rows_max, key bytes], ratio 4 only */
    float *state;         /* [state_capacity, 2, c * head_dim]: keys and gates */
    float *index_state;   /* [index_state_capacity, 2, c * index_dim], ratio 4 only */
};

struct kv_cache {
    struct row_format row_format, key_format;
    int32_t layer_count, context_tokens, slack_tokens;
    int32_t window_capacity; /* rows of a ring: window + slack */
    int32_t length_tokens;   /* tokens whose state is complete in every layer */
    int32_t written_tokens;  /* highest position ever written since the reset, + 1 */
    struct kv_layer *layers; /* [layer_count] */
    void *memory;
    size_t memory_bytes;
    struct gpu *gpu;
    void *empty; /* with a GPU: the states of an empty timeline, [states_bytes] in RAM it sees */
    size_t states_bytes;
};

/* Bytes that kv_cache_create takes for these options, or 0 if that overflows. */
uint64_t kv_cache_bytes(const struct kv_cache_options *options);

SL_MUST_USE enum sl_status kv_cache_create(const struct kv_cache_options *options,
                                           struct kv_cache **out);
void kv_cache_destroy(struct kv_cache *cache); /* NULL is fine */

/* Back to an empty timeline. */
void kv_cache_reset(struct kv_cache *cache);

/* A chunk of `tokens` (at most slack_tokens) is about to be written after the present length. */
void kv_cache_begin(struct kv_cache *cache, int32_t tokens);
/* It is complete in every layer. */
void kv_cache_commit(struct kv_cache *cache, int32_t tokens);

/* Shortens the timeline to `length` tokens if the rings still hold what that needs; else false and
 * unchanged, and the caller resets. */
bool kv_cache_truncate(struct kv_cache *cache, int32_t length);

#endif
