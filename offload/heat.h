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
 * are those of a least-squares fit, a layer each and made online, of what was used afterwards: they
 * adapt to how fast topics change. Residuals are weighted by one over the expected rate, as counts
 * vary by as much as they are; so that the rarely used experts, among whom the victims are, count
 * as much as the popular ones. */
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

/* The fit looks this many tokens ahead, by half. Not one of HEAT_HALF_LIVES. */
#define HEAT_HORIZON       16
#define HEAT_FIT_STRIDE    32   /* tokens between samples of the products */
#define HEAT_SOLVE_STRIDE  256  /* tokens between solutions */
#define HEAT_FIT_TOKENS    4000 /* half-life of what the fit remembers */
#define HEAT_GROWTH_STRIDE 16
#define HEAT_EPOCH_TOKENS  256 /* counts are kept as of an epoch at most this old */

/* Of one layer. */
struct heat_fit {
    double gram[HEAT_TERMS][HEAT_TERMS]; /* sums of products of counts */
    double future[HEAT_TERMS];           /* sums of counts times the uses that followed */
    float weights[HEAT_TERMS];           /* uses per token for one counted use */
    int64_t tokens;                      /* since the layer's first use */
    int64_t sampled, solved;             /* of these, at the last sample and solution */
};

struct heat {
    int32_t layers, experts;
    int64_t token_clock; /* of the latest use */
    /* [HEAT_TERMS][layers * experts]: decayed counts, times 2^(age of the epoch / half-life). The
     * last array, of half-life HEAT_HORIZON, serves the fit. */
    float *counts[HEAT_TERMS + 1];
    int64_t *last_use;     /* [layers * experts], HEAT_NEVER */
    int64_t *layer_epoch;  /* [layers] */
    int64_t *layer_clock;  /* [layers]: of the layer's latest use */
    struct heat_fit *fits; /* [layers] */
    double decays[HEAT_TERMS + 1];
    float *growth; /* [HEAT_EPOCH_TOKENS + 1, HEAT_GROWTH_STRIDE]: 2^(age / half-life) by
                              term, and from the middle of each row its inverse */
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
/* rate = sum over terms of scale[term] * counts[term][expert_idx] for every expert of the layer, at
 * the clock of now: for scans. */
void heat_layer_scales(const struct heat *heat, int32_t layer, float scales[HEAT_TERMS]);

/* The profile file, little-endian: 128 bytes of head
 *
 *      0  char[8] magic "SLHEAT" and two zeros
 *      8  u32 version, u32 layers, u32 experts of a layer, u32 terms
 *     24  u64 fingerprint of the model
 *     32  u64 XXH3-64 of the body
 *     40  zeros
 *    120  u64 XXH3-64 of the 120 bytes before
 *
 * then the body: f32 weights [layers, terms] and f32 counts [terms, layers, experts] as of the
 * save. heat_profile.c writes and reads it. */
#define HEAT_PROFILE_HEAD_BYTES 128

/* Writes beside `path` and renames; SL_ERR_IO, SL_ERR_NO_MEMORY. */
SL_MUST_USE enum sl_status heat_save(const struct heat *heat, const char *path,
                                     uint64_t fingerprint, struct sl_error *error);
/* Sets counts and weights of a heat without uses as they were saved, and as if saved just now. On
 * failure nothing changes: SL_ERR_IO; SL_ERR_FORMAT: no profile, cut short, or of another model,
 * saying what differs; SL_ERR_CHECKSUM: damaged; SL_ERR_UNSUPPORTED: another version. */
SL_MUST_USE enum sl_status heat_load(struct heat *heat, const char *path, uint64_t fingerprint,
                                     struct sl_error *error);
/* heat_load from memory; `name` for messages. */
SL_MUST_USE enum sl_status heat_parse(struct heat *heat, const void *data, size_t bytes,
                                      const char *name, uint64_t fingerprint,
                                      struct sl_error *error);

#endif
