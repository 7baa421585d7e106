/* A logistic model that learns while it is used; see the header. */
#include "offload/predictor.h"

#include <math.h>
#include <string.h>

enum feature { FEATURE_BIAS, FEATURE_MARGIN, FEATURE_RECENCY, FEATURE_COACTIVATION, FEATURES };

#define MARGIN_MAX      4.0f  /* in usual distances; further out nothing more is said */
#define SCALE_RATE      0.02f /* of the running mean of the best margin */
#define AGE_LOG2_MAX    12.0f /* tokens: older is never */
#define LEARNING_RATE   0.25f
#define FORGETTING      0.9998f /* of the sums of squared gradients: the model keeps moving */
#define WEIGHT_MAX      20.0f
#define FOLLOWS_MAX     60000u /* a row of the co-activation table is halved before it overflows */
#define PROBABILITY_MIN 0.001f
#define PROBABILITY_MAX 0.999f

/* One weight and the sum of its squared gradients (AdaGrad). */
struct weight {
    float value, squares;
};

/* Candidates of one layer and distance, until the layer says what it chose. */
struct pending {
    int32_t count;
    int32_t experts[PREDICTOR_CANDIDATES_MAX];
    float features[PREDICTOR_CANDIDATES_MAX][FEATURES];
    float probabilities[PREDICTOR_CANDIDATES_MAX];
};

struct predictor {
    struct predictor_options options;
    struct weight shared[PREDICTOR_DISTANCE_MAX][FEATURES]; /* but the bias, which is a layer's */
    struct weight *bias;                                    /* [PREDICTOR_DISTANCE_MAX, layers] */
    float *scale;            /* [PREDICTOR_DISTANCE_MAX, layers] usual best margin; 0: none yet */
    struct pending *pending; /* [PREDICTOR_DISTANCE_MAX, layers] */
    int32_t *clock;          /* [layers] outcomes of each */
    int32_t *last_use;       /* [layers, experts] clock of the layer; 0: never */
    int32_t *last_chosen;    /* [layers, top]; -1: none yet */
    uint16_t *follows;       /* [layers, experts before, experts]; NULL without co-activation */
    uint16_t *follow_totals; /* [layers, experts before] */
    uint8_t *chosen;         /* [experts] marks during an outcome */
    struct predictor_stats stats[PREDICTOR_DISTANCE_MAX];
};

static void *table(size_t count, size_t bytes)
{
    return calloc(count, bytes);
}

static bool make_tables(struct predictor *p)
{
    size_t layers = (size_t)p->options.layers, experts = (size_t)p->options.experts;
    size_t rows = PREDICTOR_DISTANCE_MAX * layers, top = (size_t)p->options.top;
    p->bias = table(rows, sizeof *p->bias);
    p->scale = table(rows, sizeof *p->scale);
    p->pending = table(rows, sizeof *p->pending);
    p->clock = table(layers, sizeof *p->clock);
    p->last_use = table(layers * experts, sizeof *p->last_use);
    p->last_chosen = table(layers * top, sizeof *p->last_chosen);
    p->chosen = table(experts, 1);
    if (p->options.coactivation) {
        p->follows = table(layers * experts * experts, sizeof *p->follows);
        p->follow_totals = table(layers * experts, sizeof *p->follow_totals);
        if (!p->follows || !p->follow_totals) return false;
    }
    return p->bias && p->scale && p->pending && p->clock && p->last_use && p->last_chosen &&
           p->chosen;
}

/* What is believed before anything was seen: three of four of the best at distance 1, and three of
 * five at distance 2, are used; the further above the border, the surer. */
static void set_beliefs(struct predictor *p)
{
    static const float bias[PREDICTOR_DISTANCE_MAX] = {-0.2f, -0.5f};
    static const float margin[PREDICTOR_DISTANCE_MAX] = {2.5f, 1.6f};
    for (int32_t d = 0; d < PREDICTOR_DISTANCE_MAX; d++) {
        p->shared[d][FEATURE_MARGIN].value = margin[d];
        p->shared[d][FEATURE_RECENCY].value = 0.5f;
        for (int32_t layer = 0; layer < p->options.layers; layer++)
            p->bias[d * p->options.layers + layer].value = bias[d];
    }
    for (int32_t i = 0; i < p->options.layers * p->options.top; i++)
        p->last_chosen[i] = -1;
}

enum sl_status predictor_create(const struct predictor_options *options, struct predictor **out,
                                struct sl_error *error)
{
    *out = NULL;
    if (options->layers < 1 || options->experts < 1 || options->top < 1 ||
        options->top > options->experts || options->hash_layers < 0 ||
        options->hash_layers > options->layers)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "a predictor for %d layers, %d of them from a table, with %d of %d "
                            "experts: no model has that shape",
                            options->layers, options->hash_layers, options->top, options->experts);
    struct predictor *p = calloc(1, sizeof *p);
    if (p) p->options = *options;
    if (!p || !make_tables(p)) {
        predictor_destroy(p);
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for the predictor");
    }
    set_beliefs(p);
    *out = p;
    return SL_OK;
}

void predictor_destroy(struct predictor *p)
{
    if (!p) return;
    free(p->bias);
    free(p->scale);
    free(p->pending);
    free(p->clock);
    free(p->last_use);
    free(p->last_chosen);
    free(p->follows);
    free(p->follow_totals);
    free(p->chosen);
    free(p);
}

/* ---- ranking ------------------------------------------------------------------------------ */

int32_t predictor_rank(const float *scores, int32_t experts, int32_t top, int32_t count,
                       struct predictor_candidate *candidates)
{
    /* The border needs the top + 1 best, whatever is asked for. */
    struct predictor_candidate best[PREDICTOR_CANDIDATES_MAX + 1];
    int32_t want = max_i32(count, min_i32(top + 1, PREDICTOR_CANDIDATES_MAX + 1)), found = 0;
    SL_ASSERT(count >= 1 && count <= PREDICTOR_CANDIDATES_MAX && top >= 1);
    for (int32_t e = 0; e < experts; e++) {
        float score = scores[e];
        /* Written so that what is no number fails the comparison and stays out. */
        if (!(score >= -INFINITY) || (found == want && !(score > best[found - 1].margin))) continue;
        int32_t at = found < want ? found++ : found - 1;
        for (; at > 0 && score > best[at - 1].margin; at--)
            best[at] = best[at - 1];
        best[at] = (struct predictor_candidate){.expert = e, .margin = score};
    }
    if (found == 0) return 0;
    int32_t inside = min_i32(top, found) - 1, outside = min_i32(top, found - 1);
    float border = 0.5f * (best[inside].margin + best[outside].margin);
    int32_t given = min_i32(count, found);
    for (int32_t i = 0; i < given; i++)
        candidates[i] = (struct predictor_candidate){.expert = best[i].expert,
                                                     .margin = best[i].margin - border};
    return given;
}

/* ---- guessing ----------------------------------------------------------------------------- */

static float clamp(float value, float low, float high)
{
    if (!(value > low)) return low; /* NaN too */
    return value < high ? value : high;
}

/* 1 for the token before, 0 for long ago or never. */
static float recency_of(const struct predictor *p, int32_t layer, int32_t expert)
{
    int32_t last = p->last_use[(size_t)layer * (size_t)p->options.experts + (size_t)expert];
    if (last == 0) return 0;
    float age = (float)(p->clock[layer] + 1 - last);
    return 1.0f - clamp(log2f(age), 0, AGE_LOG2_MAX) / AGE_LOG2_MAX;
}

/* Natural logarithm of how much more often than by chance the expert followed those that the layer
 * before has chosen; 0 where nothing is known. */
static float coactivation_of(const struct predictor *p, int32_t layer, int32_t expert)
{
    int32_t top = p->options.top, experts = p->options.experts, known = 0;
    if (!p->follows || layer == 0) return 0;
    const int32_t *before = p->last_chosen + (size_t)(layer - 1) * (size_t)top;
    float chance = (float)top / (float)experts, share = 0;
    for (int32_t k = 0; k < top; k++) {
        if (before[k] < 0) continue;
        size_t row = (size_t)layer * (size_t)experts + (size_t)before[k];
        float total = (float)p->follow_totals[row];
        float count = (float)p->follows[row * (size_t)experts + (size_t)expert];
        /* Ten uses at chance stand for what was not seen yet. */
        share += (count + 10 * chance) / (total + 10);
        known++;
    }
    return known ? logf(share / (float)known / chance) : 0;
}

static float probability_of(const struct predictor *p, int32_t d, const struct weight *bias,
                            const float features[FEATURES])
{
    float z = bias->value;
    for (int32_t f = FEATURE_MARGIN; f < FEATURES; f++)
        z += p->shared[d][f].value * features[f];
    return clamp(1.0f / (1.0f + expf(-z)), PROBABILITY_MIN, PROBABILITY_MAX);
}

void predictor_guess(struct predictor *p, int32_t layer, int32_t distance,
                     const struct predictor_candidate *candidates, int32_t count,
                     float *probabilities)
{
    SL_ASSERT(distance >= 1 && distance <= PREDICTOR_DISTANCE_MAX);
    SL_ASSERT(layer >= 0 && layer < p->options.layers);
    SL_ASSERT(count >= 0 && count <= PREDICTOR_CANDIDATES_MAX);
    int32_t d = distance - 1;
    size_t row = (size_t)(d * p->options.layers + layer);
    struct pending *pending = &p->pending[row];
    pending->count = count;
    if (count == 0) return;
    float best = candidates[0].margin;
    if (best > 0)
        p->scale[row] += (p->scale[row] == 0 ? 1.0f : SCALE_RATE) * (best - p->scale[row]);
    float unit = p->scale[row] > 0 ? 1.0f / p->scale[row] : 0;
    for (int32_t i = 0; i < count; i++) {
        int32_t expert = candidates[i].expert;
        float *features = pending->features[i];
        SL_ASSERT(expert >= 0 && expert < p->options.experts);
        features[FEATURE_BIAS] = 1;
        features[FEATURE_MARGIN] = clamp(candidates[i].margin * unit, -MARGIN_MAX, MARGIN_MAX);
        features[FEATURE_RECENCY] = recency_of(p, layer, expert);
        features[FEATURE_COACTIVATION] = distance == 1 ? coactivation_of(p, layer, expert) : 0;
        pending->experts[i] = expert;
        pending->probabilities[i] = probability_of(p, d, &p->bias[row], features);
        probabilities[i] = pending->probabilities[i];
    }
}

/* ---- learning ----------------------------------------------------------------------------- */

static void move_weight(struct weight *weight, float gradient)
{
    weight->squares = weight->squares * FORGETTING + gradient * gradient;
    weight->value -= LEARNING_RATE * gradient / sqrtf(1.0f + weight->squares);
    weight->value = clamp(weight->value, -WEIGHT_MAX, WEIGHT_MAX);
}

static void count_guess(struct predictor_stats *stats, float probability, bool used)
{
    int32_t bin = min_i32((int32_t)(probability * PREDICTOR_BINS), PREDICTOR_BINS - 1);
    stats->guessed[bin]++;
    stats->used[bin] += used;
    stats->expected[bin] += (double)probability;
}

static void learn(struct predictor *p, int32_t d, int32_t layer)
{
    size_t row = (size_t)(d * p->options.layers + layer);
    struct pending *pending = &p->pending[row];
    for (int32_t i = 0; i < pending->count; i++) {
        bool used = p->chosen[pending->experts[i]];
        float miss = pending->probabilities[i] - (used ? 1.0f : 0.0f);
        count_guess(&p->stats[d], pending->probabilities[i], used);
        move_weight(&p->bias[row], miss);
        for (int32_t f = FEATURE_MARGIN; f < FEATURES; f++)
            if (pending->features[i][f] != 0)
                move_weight(&p->shared[d][f], miss * pending->features[i][f]);
    }
    pending->count = 0;
}

static void count_follows(struct predictor *p, int32_t layer, const int32_t *chosen)
{
    int32_t top = p->options.top;
    size_t experts = (size_t)p->options.experts;
    if (!p->follows || layer == 0) return;
    const int32_t *before = p->last_chosen + (size_t)(layer - 1) * (size_t)top;
    for (int32_t k = 0; k < top; k++) {
        if (before[k] < 0) continue;
        size_t row = (size_t)layer * experts + (size_t)before[k];
        uint16_t *counts = p->follows + row * experts;
        for (int32_t j = 0; j < top; j++)
            counts[chosen[j]]++;
        if (++p->follow_totals[row] < FOLLOWS_MAX) continue;
        p->follow_totals[row] /= 2;
        for (size_t e = 0; e < experts; e++)
            counts[e] /= 2;
    }
}

void predictor_outcome(struct predictor *p, int32_t layer, const int32_t *chosen)
{
    int32_t top = p->options.top;
    SL_ASSERT(layer >= 0 && layer < p->options.layers);
    for (int32_t k = 0; k < top; k++) {
        SL_ASSERT(chosen[k] >= 0 && chosen[k] < p->options.experts);
        p->chosen[chosen[k]] = 1;
    }
    for (int32_t d = 0; d < PREDICTOR_DISTANCE_MAX; d++)
        learn(p, d, layer);
    count_follows(p, layer, chosen);
    int32_t now = ++p->clock[layer];
    int32_t *last = p->last_use + (size_t)layer * (size_t)p->options.experts;
    for (int32_t k = 0; k < top; k++) {
        last[chosen[k]] = now;
        p->chosen[chosen[k]] = 0;
    }
    memcpy(p->last_chosen + (size_t)layer * (size_t)top, chosen, sizeof *chosen * (size_t)top);
}

float predictor_join(float none, int32_t sampled, int32_t tokens)
{
    SL_ASSERT(sampled >= 1 && tokens >= sampled);
    if (sampled < tokens) none = powf(none, (float)tokens / (float)sampled);
    return 1.0f - none;
}

void predictor_stats_get(const struct predictor *p, int32_t distance, struct predictor_stats *out)
{
    SL_ASSERT(distance >= 1 && distance <= PREDICTOR_DISTANCE_MAX);
    *out = p->stats[distance - 1];
}
