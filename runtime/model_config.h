/* The model's configuration, as read from a checkpoint's config.json and checked for sense.
 *
 * Names follow the published file where it has one. Everything a later allocation depends on is
 * bounded here, so that an absurd file is refused before a byte is taken on its word. */
#ifndef SLUICE_RUNTIME_MODEL_CONFIG_H
#define SLUICE_RUNTIME_MODEL_CONFIG_H

#include "kernels/base.h"

#define MODEL_LAYERS_MAX  256 /* main layers and MTP blocks together */
#define MODEL_ROTARY_MAX  256 /* channels of the rotary slice */
#define MODEL_CONTEXT_MAX (1 << 24)

struct model_config {
    int32_t vocab;                      /* V */
    int32_t hidden;                     /* D */
    int32_t layers;                     /* main layers, ids 0 .. layers - 1 */
    int32_t mtp_layers;                 /* blocks of the classic MTP form that can run: 0 or 1 */
    int32_t hash_layers;                /* layers 0 .. hash_layers - 1 route by token id */
    int32_t heads, head_dim, rotary;    /* H, dh, dr */
    int32_t query_rank;                 /* Q */
    int32_t output_groups, output_rank; /* G, R */
    int32_t window;                     /* W */
    int32_t index_heads, index_dim, index_top; /* Hi, di, rows selected */
    int32_t expert_width;                      /* F, routed and shared */
    int32_t experts, experts_per_token;        /* E, K */
    int32_t streams, sinkhorn_iterations;      /* M */
    int32_t context_max;                       /* max_position_embeddings */
    int32_t bos_id, eos_id;
    float route_scale, swiglu_limit, norm_epsilon, hyper_epsilon;
    double rope_theta, compress_rope_theta;
    double yarn_factor, yarn_beta_fast, yarn_beta_slow;
    int32_t yarn_original_context;
    bool drafter_0731;                /* config has dspark_* fields: the later checkpoint */
    int32_t ratios[MODEL_LAYERS_MAX]; /* per layer, MTP included: 0, 4 or 128 */
};

/* Parses `text` (`bytes` long, need not end in zero); `path` is for messages only. SL_ERR_FORMAT
 * names the field, what was expected and what was found. */
SL_MUST_USE enum sl_status model_config_parse(const char *text, size_t bytes, const char *path,
                                              struct model_config *out, struct sl_error *error);

/* Reads DIR/config.json; a missing file says that the directory holds no checkpoint. */
SL_MUST_USE enum sl_status model_config_load(const char *directory, struct model_config *out,
                                             struct sl_error *error);

/* frequencies[j], j = 0 .. rotary/2 - 1, of a layer with compression `ratio` ("Rotary embedding"):
 * plain for 0, YaRN otherwise; computed in f32. */
void model_config_rope_frequencies(const struct model_config *config, int32_t ratio,
                                   float *frequencies);

#endif
