/* Decayed counts of uses, and the fit that weighs them; see the header. */
#include "offload/heat.h"

#include <math.h>
#include <string.h>

/* Added to the expected rate where residuals are weighted: what is hardly ever used counts for
 * something, but not for everything. */
#define FIT_RATE_FLOOR 0.005
/* Strength of the pull to the weights of the start, in parts of the sums. */
#define FIT_PULL 1e-3
/* Tokens after which what was used before the start (a loaded profile) no longer looks recent to
 * the horizon's counts. */
#define FIT_TOKENS_MIN ((int64_t)4 * HEAT_HORIZON)

static const double half_lives[HEAT_TERMS + 1] = {6, 40, 300, 2000, HEAT_HORIZON};
/* What the published traces suggest: as shares of a use, by term. */
static const double first_shares[HEAT_TERMS] = {0.2, 0.3, 0.2, 0.3};

/* 1 / growth_at, without a division. */
static float shrink_at(const struct heat *heat, int32_t term, int64_t age)
{
    if (age <= HEAT_EPOCH_TOKENS)
        return heat->growth[age * HEAT_GROWTH_STRIDE + HEAT_GROWTH_STRIDE / 2 + term];
    return (float)fmax(exp2((double)-age / half_lives[term]), 1e-30);
}

/* Growth of one term by `age` tokens. */
static float growth_at(const struct heat *heat, int32_t term, int64_t age)
{
    SL_DEBUG_ASSERT(age >= 0);
    if (age <= HEAT_EPOCH_TOKENS) return heat->growth[age * HEAT_GROWTH_STRIDE + term];
    return (float)fmin(exp2((double)age / half_lives[term]), 1e30);
}

/* ---- creation ---- */

static size_t expert_count(const struct heat *heat)
{
    return (size_t)heat->layers * (size_t)heat->experts;
}

static double first_weight(const struct heat *heat, int32_t term)
{
    return first_shares[term] * (1 - heat->decays[term]);
}

static bool allocate(struct heat *heat)
{
    size_t count = expert_count(heat), layers = (size_t)heat->layers;
    bool ok = true;
    for (int32_t i = 0; i <= HEAT_TERMS; i++)
        ok = (heat->counts[i] = calloc(count, sizeof *heat->counts[i])) && ok;
    heat->last_use = calloc(count, sizeof *heat->last_use);
    heat->layer_epoch = calloc(layers, sizeof *heat->layer_epoch);
    heat->layer_clock = calloc(layers, sizeof *heat->layer_clock);
    heat->fits = calloc(layers, sizeof *heat->fits);
    heat->growth =
        calloc(HEAT_GROWTH_STRIDE * (size_t)(HEAT_EPOCH_TOKENS + 1), sizeof *heat->growth);
    return ok && heat->last_use && heat->layer_epoch && heat->layer_clock && heat->fits &&
           heat->growth;
}

enum sl_status heat_init(struct heat *heat, int32_t layers, int32_t experts, struct sl_error *error)
{
    *heat = (struct heat){.layers = layers, .experts = experts, .token_clock = HEAT_NEVER};
    if (layers < 1 || layers > HEAT_LAYERS_MAX || experts < 1 || experts > HEAT_EXPERTS_MAX)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "no history for %d layers of %d experts: at most %d of %d", (int)layers,
                            (int)experts, HEAT_LAYERS_MAX, HEAT_EXPERTS_MAX);
    if (!allocate(heat)) {
        heat_deinit(heat);
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for the history of %d experts",
                            (int)(layers * experts));
    }
    for (int32_t term = 0; term <= HEAT_TERMS; term++) {
        heat->decays[term] = exp2(-1 / half_lives[term]);
        for (int32_t age = 0; age <= HEAT_EPOCH_TOKENS; age++) {
            float *row = heat->growth + age * HEAT_GROWTH_STRIDE;
            row[term] = (float)exp2(age / half_lives[term]);
            row[HEAT_GROWTH_STRIDE / 2 + term] = (float)exp2(-age / half_lives[term]);
        }
    }
    for (size_t i = 0; i < expert_count(heat); i++)
        heat->last_use[i] = HEAT_NEVER;
    for (int32_t layer = 0; layer < layers; layer++) {
        heat->layer_clock[layer] = HEAT_NEVER;
        for (int32_t term = 0; term < HEAT_TERMS; term++)
            heat->fits[layer].weights[term] = (float)first_weight(heat, term);
    }
    return SL_OK;
}

void heat_deinit(struct heat *heat)
{
    for (int32_t i = 0; i <= HEAT_TERMS; i++)
        free(heat->counts[i]);
    free(heat->last_use);
    free(heat->layer_epoch);
    free(heat->layer_clock);
    free(heat->fits);
    free(heat->growth);
    *heat = (struct heat){0};
}

/* ---- the fit ---- */

/* Least squares with a pull to the first weights; weights below zero are dropped and the rest
 * solved again, since no use makes the next one less likely. */
static void solve_active(const struct heat *heat, const struct heat_fit *fit, const bool *active,
                         double *weights)
{
    double rows[HEAT_TERMS][HEAT_TERMS + 1];
    int32_t ids[HEAT_TERMS], count = 0;
    for (int32_t i = 0; i < HEAT_TERMS; i++)
        if (active[i]) ids[count++] = i;
    for (int32_t i = 0; i < count; i++) {
        double pull = FIT_PULL * fit->gram[ids[i]][ids[i]] + 1e-12;
        for (int32_t j = 0; j < count; j++)
            rows[i][j] = fit->gram[ids[i]][ids[j]] + (i == j ? pull : 0);
        rows[i][count] = fit->future[ids[i]] + pull * first_weight(heat, ids[i]);
    }
    for (int32_t i = 0; i < count; i++) /* positive definite by the pull: no pivoting */
        for (int32_t row = i + 1; row < count; row++) {
            double factor = rows[row][i] / rows[i][i];
            for (int32_t column = i; column <= count; column++)
                rows[row][column] -= factor * rows[i][column];
        }
    for (int32_t i = 0; i < HEAT_TERMS; i++)
        weights[i] = 0;
    for (int32_t i = count - 1; i >= 0; i--) {
        double sum = rows[i][count];
        for (int32_t j = i + 1; j < count; j++)
            sum -= rows[i][j] * weights[ids[j]];
        weights[ids[i]] = sum / rows[i][i];
    }
}

static void solve(const struct heat *heat, struct heat_fit *fit)
{
    bool active[HEAT_TERMS] = {true, true, true, true};
    double weights[HEAT_TERMS];
    for (int32_t attempt = 0; attempt < HEAT_TERMS; attempt++) {
        solve_active(heat, fit, active, weights);
        int32_t worst = 0;
        for (int32_t i = 1; i < HEAT_TERMS; i++)
            if (weights[i] < weights[worst]) worst = i;
        if (weights[worst] >= 0) break;
        active[worst] = false;
    }
    for (int32_t i = 0; i < HEAT_TERMS; i++)
        if (isfinite(weights[i])) fit->weights[i] = (float)fmin(fmax(weights[i], 0), 1);
}

/* Adds what the layer's experts look like now. */
static void sample_products(struct heat *heat, int32_t layer)
{
    struct heat_fit *fit = &heat->fits[layer];
    int64_t steps = fit->tokens - fit->sampled;
    double keep = exp2(-(double)steps / HEAT_FIT_TOKENS);
    float shrink[HEAT_TERMS], sums[HEAT_TERMS][HEAT_TERMS] = {{0}};
    int64_t age = heat->layer_clock[layer] - heat->layer_epoch[layer];
    for (int32_t i = 0; i < HEAT_TERMS; i++)
        shrink[i] = shrink_at(heat, i, age);
    size_t first = (size_t)layer * (size_t)heat->experts;
    for (size_t e = first; e < first + (size_t)heat->experts; e++) {
        float counts[HEAT_TERMS], rate = (float)FIT_RATE_FLOOR;
        for (int32_t i = 0; i < HEAT_TERMS; i++) {
            counts[i] = heat->counts[i][e] * shrink[i];
            rate += fit->weights[i] * counts[i];
        }
        for (int32_t i = 0; i < HEAT_TERMS; i++)
            for (int32_t j = 0; j <= i; j++)
                sums[i][j] += counts[i] * counts[j] / rate;
    }
    for (int32_t i = 0; i < HEAT_TERMS; i++) {
        fit->future[i] *= keep;
        for (int32_t j = 0; j < HEAT_TERMS; j++)
            fit->gram[i][j] =
                fit->gram[i][j] * keep + (double)steps * (double)(j <= i ? sums[i][j] : sums[j][i]);
    }
    fit->sampled = fit->tokens;
}

/* The layer is reached in a new pass. */
static void begin_pass(struct heat *heat, int32_t layer, int64_t token_clock)
{
    struct heat_fit *fit = &heat->fits[layer];
    if (heat->layer_clock[layer] == HEAT_NEVER) {
        heat->layer_epoch[layer] = token_clock;
        heat->layer_clock[layer] = token_clock;
        return;
    }
    fit->tokens++;
    if (fit->tokens <= FIT_TOKENS_MIN)
        fit->sampled = fit->tokens;
    else if (fit->tokens - fit->sampled >= HEAT_FIT_STRIDE)
        sample_products(heat, layer);
    if (fit->tokens - fit->solved >= HEAT_SOLVE_STRIDE) {
        solve(heat, fit);
        fit->solved = fit->tokens;
    }
    int64_t age = token_clock - heat->layer_epoch[layer];
    if (age > HEAT_EPOCH_TOKENS) {
        size_t first = (size_t)layer * (size_t)heat->experts;
        for (int32_t term = 0; term <= HEAT_TERMS; term++) {
            float shrink = shrink_at(heat, term, age);
            for (size_t e = first; e < first + (size_t)heat->experts; e++)
                heat->counts[term][e] *= shrink;
        }
        heat->layer_epoch[layer] = token_clock;
    }
    heat->layer_clock[layer] = token_clock;
}

/* ---- uses ---- */

/* A use at s says of every earlier token t that the expert was to be used s - t tokens later. With
 * decays a of a count and d of the horizon, the sum over t of d^(s-1-t) (1 - d) times the count
 * at t is (1 - d) (A - D) / (a - d), where A and D are the decayed counts just before s. */
static void learn_from_use(struct heat *heat, int32_t layer, int32_t expert_idx, int64_t age)
{
    struct heat_fit *fit = &heat->fits[layer];
    const double *decays = heat->decays;
    double horizon = decays[HEAT_TERMS];
    double ahead =
        (double)(heat->counts[HEAT_TERMS][expert_idx] * shrink_at(heat, HEAT_TERMS, age));
    double counts[HEAT_TERMS], rate = FIT_RATE_FLOOR;
    for (int32_t i = 0; i < HEAT_TERMS; i++) {
        counts[i] = (double)(heat->counts[i][expert_idx] * shrink_at(heat, i, age));
        rate += (double)fit->weights[i] * counts[i];
    }
    double scale = (1 - horizon) / rate;
    for (int32_t i = 0; i < HEAT_TERMS; i++)
        fit->future[i] += scale * (counts[i] - ahead) / (decays[i] - horizon);
}

void heat_use(struct heat *heat, int32_t expert_idx, int64_t token_clock)
{
    SL_ASSERT(expert_idx >= 0 && (size_t)expert_idx < expert_count(heat));
    SL_ASSERT(token_clock >= heat->token_clock && token_clock > HEAT_NEVER);
    int32_t layer = expert_idx / heat->experts;
    heat->token_clock = token_clock;
    if (heat->layer_clock[layer] != token_clock) begin_pass(heat, layer, token_clock);
    int64_t age = token_clock - heat->layer_epoch[layer];
    if (heat->last_use[expert_idx] != token_clock && heat->fits[layer].tokens > FIT_TOKENS_MIN)
        learn_from_use(heat, layer, expert_idx, age);
    for (int32_t term = 0; term <= HEAT_TERMS; term++)
        heat->counts[term][expert_idx] += growth_at(heat, term, age);
    heat->last_use[expert_idx] = token_clock;
}

int64_t heat_last_use(const struct heat *heat, int32_t expert_idx)
{
    SL_DEBUG_ASSERT(expert_idx >= 0 && (size_t)expert_idx < expert_count(heat));
    return heat->last_use[expert_idx];
}

static int64_t age_of(const struct heat *heat, int32_t layer)
{
    return heat->layer_clock[layer] == HEAT_NEVER ? 0
                                                  : heat->token_clock - heat->layer_epoch[layer];
}

float heat_count(const struct heat *heat, int32_t expert_idx, int32_t term)
{
    SL_DEBUG_ASSERT(term >= 0 && term < HEAT_TERMS);
    int64_t age = age_of(heat, expert_idx / heat->experts);
    return heat->counts[term][expert_idx] * shrink_at(heat, term, age);
}

void heat_layer_scales(const struct heat *heat, int32_t layer, float scales[HEAT_TERMS])
{
    SL_DEBUG_ASSERT(layer >= 0 && layer < heat->layers);
    int64_t age = age_of(heat, layer);
    for (int32_t i = 0; i < HEAT_TERMS; i++)
        scales[i] = heat->fits[layer].weights[i] * shrink_at(heat, i, age);
}

float heat_rate(const struct heat *heat, int32_t expert_idx)
{
    float scales[HEAT_TERMS], rate = 0;
    heat_layer_scales(heat, expert_idx / heat->experts, scales);
    for (int32_t i = 0; i < HEAT_TERMS; i++)
        rate += scales[i] * heat->counts[i][expert_idx];
    return rate;
}
