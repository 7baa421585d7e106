/* Heat: how recently and how often every expert was used, resident or not, and how much that says
 * about its next use.
 *
 * Pure but for save and load: no clock, no thread; one owner, the store's thread or the simulator.
 * All experts are kept, so an expert that comes back is recognised: this is the ghost history of
 * the residency policies. Time is the token clock: the number of the token (or pass) in which a use
 * falls, which never goes back.
 *
 * For every expert a few counts of its uses are kept that halve after HEAT_HALF_LIVES tokens each.
 * Their weighted sum is the expected number of uses per token, the intensity of a self-exciting
 * (Hawkes) process whose kernel is a sum of exponentials (Hawkes, Biometrika 58, 1971). The weights
 * are those of a least-squares fit, made online, of what was used afterwards: they adapt to how
 * fast topics change. */
#ifndef SLUICE_OFFLOAD_HEAT_H
#define SLUICE_OFFLOAD_HEAT_H

#include "kernels/base.h"

#define HEAT_TERMS 4
/* Tokens after which a use counts half, one a term. */
#define HEAT_HALF_LIVES                                                                            \
    {                                                                                              \
        6, 40, 300, 2000                                                                           \
    }
#define HEAT_LFU_TERM        3 /* the term that aged LFU orders by */
#define HEAT_NEVER           INT64_MIN
#define HEAT_LAYERS_MAX      1024
#define HEAT_EXPERTS_MAX     4096
#define HEAT_PROFILE_VERSION 1

struct heat_fit {
    double gram[HEAT_TERMS][HEAT_TERMS]; /* decayed sums of products of terms */
    double future[HEAT_TERMS];           /* decayed sums of terms times uses that followed */
    float weights[HEAT_TERMS];           /* uses per token of one unit of each term */
    int64_t tokens;                      /* seen so far */
};

struct heat {
    int32_t layers, experts;
    int64_t token_clock; /* of the latest use */
    /* [HEAT_TERMS][layers * experts]: counts as they would be at the layer's epoch. */
    float *terms[HEAT_TERMS];
    int64_t *last_use;    /* [layers * experts], HEAT_NEVER */
    int64_t *layer_epoch; /* [layers] */
    int64_t *layer_clock; /* [layers]: of the layer's latest use */
    struct heat_fit fit;
};

/* No uses yet. SL_ERR_ARGUMENT out of bounds, SL_ERR_NO_MEMORY. */
SL_MUST_USE enum sl_status heat_init(struct heat *heat, int32_t layers, int32_t experts,
                                     struct sl_error *error);
void heat_deinit(struct heat *heat);

/* Expert `expert_idx` (layer * experts + expert) was used in the pass `token_clock`, which is not
 * below any given before. */
void heat_use(struct heat *heat, int32_t expert_idx, int64_t token_clock);

/* Token clock of the latest use, or HEAT_NEVER. */
int64_t heat_last_use(const struct heat *heat, int32_t expert_idx);
/* Uses that the term remembers, now. */
float heat_count(const struct heat *heat, int32_t expert_idx, int32_t term);
/* Expected uses per token from now on; comparable with the probability of a guess. */
float heat_rate(const struct heat *heat, int32_t expert_idx);
/* The same for all experts of a layer, out [experts]. */
void heat_layer_rates(const struct heat *heat, int32_t layer, float *out);

/* The profile file: 64 bytes of head (magic "SLHEAT\0\0", u32 version, u32 layers, u32 experts, u32
 * terms, u64 fingerprint of the model, f32 weights [HEAT_TERMS], zeros, u64 XXH3-64 of all other
 * bytes last), then f32 counts [HEAT_TERMS, layers, experts] as of the save; little-endian. */

/* Replaces `path` as a whole; SL_ERR_IO, SL_ERR_NO_MEMORY. */
SL_MUST_USE enum sl_status heat_save(const struct heat *heat, const char *path,
                                     uint64_t fingerprint, struct sl_error *error);
/* Sets the counts and weights as saved, as if saved at the clock of now; for a fresh heat. On
 * failure nothing changes: SL_ERR_IO; SL_ERR_FORMAT: no profile, cut short, or of another model,
 * with what differs; SL_ERR_CHECKSUM; SL_ERR_UNSUPPORTED: another version. */
SL_MUST_USE enum sl_status heat_load(struct heat *heat, const char *path, uint64_t fingerprint,
                                     struct sl_error *error);
/* heat_load from memory; `name` for messages. */
SL_MUST_USE enum sl_status heat_parse(struct heat *heat, const void *data, size_t bytes,
                                      const char *name, uint64_t fingerprint,
                                      struct sl_error *error);

#endif
