/* Candidates of a tier and the least valuable among them; see the header. */
#include "offload/residency.h"

#include <assert.h>
#include <math.h>
#include <string.h>

static const char *const policy_names[RESIDENCY_POLICIES] = {"blend", "lru", "lfu", "static",
                                                             "clairvoyant"};
/* LRU scores count tokens from so long ago that newer ones are exact floats. */
#define LRU_WINDOW (INT64_C(1) << 23)

const char *residency_policy_name(enum residency_policy policy)
{
    SL_ASSERT(policy >= 0 && policy < RESIDENCY_POLICIES);
    return policy_names[policy];
}

int32_t residency_policy_find(const char *name)
{
    for (int32_t i = 0; i < RESIDENCY_POLICIES; i++)
        if (strcmp(name, policy_names[i]) == 0) return i;
    return -1;
}

/* ---- creation ---- */

static int32_t expert_count(const struct residency *residency)
{
    return residency->layers * residency->experts;
}

static bool allocate(struct residency *residency)
{
    size_t count = (size_t)expert_count(residency), layers = (size_t)residency->layers;
    residency->resident = calloc(count, sizeof *residency->resident);
    residency->holds = calloc(count, sizeof *residency->holds);
    residency->open = calloc(count, sizeof *residency->open);
    residency->scores = calloc(count, sizeof *residency->scores);
    residency->layer_pinned = calloc(layers, sizeof *residency->layer_pinned);
    residency->layer_open = calloc(layers, sizeof *residency->layer_open);
    residency->layer_least = calloc(layers, sizeof *residency->layer_least);
    residency->layer_poorest = calloc(layers, sizeof *residency->layer_poorest);
    residency->looked_clock = calloc(layers, sizeof *residency->looked_clock);
    residency->looked_pass = calloc(layers, sizeof *residency->looked_pass);
    residency->scratch = calloc((size_t)residency->experts, sizeof *residency->scratch);
    return residency->resident && residency->holds && residency->open && residency->scores &&
           residency->layer_pinned && residency->layer_open && residency->layer_least &&
           residency->layer_poorest && residency->looked_clock && residency->looked_pass &&
           residency->scratch;
}

enum sl_status residency_init(struct residency *residency, const struct heat *heat,
                              enum residency_policy policy, struct sl_error *error)
{
    SL_ASSERT(policy >= 0 && policy < RESIDENCY_POLICIES);
    *residency = (struct residency){
        .heat = heat, .policy = policy, .layers = heat->layers, .experts = heat->experts};
    if (!allocate(residency)) {
        residency_deinit(residency);
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory to keep track of %d experts",
                            (int)(heat->layers * heat->experts));
    }
    for (int32_t i = 0; i < expert_count(residency); i++) {
        residency->open[i] = INFINITY;
        residency->scores[i] = heat_count(heat, i, HEAT_LFU_TERM);
    }
    for (int32_t i = 0; i < residency->layers; i++) {
        residency->layer_least[i] = INFINITY;
        residency->looked_clock[i] = HEAT_NEVER;
    }
    return SL_OK;
}

void residency_deinit(struct residency *residency)
{
    free(residency->resident);
    free(residency->holds);
    free(residency->open);
    free(residency->scores);
    free(residency->layer_pinned);
    free(residency->layer_open);
    free(residency->layer_least);
    free(residency->layer_poorest);
    free(residency->looked_clock);
    free(residency->looked_pass);
    free(residency->scratch);
    *residency = (struct residency){0};
}

void residency_pin_layer(struct residency *residency, int32_t layer, bool pinned)
{
    SL_ASSERT(layer >= 0 && layer < residency->layers);
    residency->pinned_count += (int32_t)pinned - (int32_t)residency->layer_pinned[layer];
    residency->layer_pinned[layer] = pinned;
}

void residency_set_future(struct residency *residency, const int64_t *next_use)
{
    SL_ASSERT(residency->policy == RESIDENCY_CLAIRVOYANT);
    residency->future = next_use;
}

/* ---- scores: the policy's order, least first, never negative ---- */

static float score_recency(int64_t last_use, int64_t now)
{
    if (last_use == HEAT_NEVER || now - last_use >= LRU_WINDOW) return 0;
    return (float)(LRU_WINDOW - (now - last_use));
}

static float score_future(int64_t next_use, int64_t now)
{
    if (next_use == INT64_MAX) return 0;
    return 1 / (float)(next_use > now ? next_use - now : 1);
}

static float score_of(const struct residency *residency, int32_t expert_idx)
{
    const struct heat *heat = residency->heat;
    switch (residency->policy) {
    case RESIDENCY_LRU: return score_recency(heat->last_use[expert_idx], heat->token_clock);
    case RESIDENCY_LFU: return heat_count(heat, expert_idx, HEAT_LFU_TERM);
    case RESIDENCY_STATIC: return residency->scores[expert_idx];
    case RESIDENCY_CLAIRVOYANT:
        SL_ASSERT(residency->future);
        return score_future(residency->future[expert_idx], heat->token_clock);
    case RESIDENCY_BLEND:
    case RESIDENCY_POLICIES: break;
    }
    return heat_rate(heat, expert_idx);
}

/* Scores of a layer's candidates, INFINITY for its other experts. */
static void score_layer(const struct residency *residency, int32_t layer, float *restrict out)
{
    int32_t count = residency->experts, first = layer * count;
    const float *restrict open = residency->open + first;
    if (residency->policy == RESIDENCY_BLEND) {
        float scales[HEAT_TERMS];
        heat_layer_scales(residency->heat, layer, scales);
        const float *restrict a = residency->heat->counts[0] + first;
        const float *restrict b = residency->heat->counts[1] + first;
        const float *restrict c = residency->heat->counts[2] + first;
        const float *restrict d = residency->heat->counts[3] + first;
        static_assert(HEAT_TERMS == 4, "one array a term");
        for (int32_t i = 0; i < count; i++)
            out[i] =
                scales[0] * a[i] + scales[1] * b[i] + scales[2] * c[i] + scales[3] * d[i] + open[i];
        return;
    }
    for (int32_t i = 0; i < count; i++)
        out[i] = isinf(open[i]) ? INFINITY : score_of(residency, first + i);
}

/* The first of the least scores, or -1 when all are infinite. Floats that are not negative order as
 * their bits do, and integers vectorise. */
static int32_t least_of(const float *scores, int32_t count, float *least)
{
    int32_t bits = INT32_MAX, found = -1;
    for (int32_t i = 0; i < count; i++) {
        int32_t value;
        memcpy(&value, &scores[i], sizeof value);
        bits = value < bits ? value : bits;
    }
    memcpy(least, &bits, sizeof *least);
    if (isinf(*least)) return -1;
    for (found = 0; scores[found] != *least;)
        found++;
    return found;
}

/* ---- the set ---- */

static void open_up(struct residency *residency, int32_t expert_idx)
{
    int32_t layer = expert_idx / residency->experts;
    float score = score_of(residency, expert_idx);
    residency->open[expert_idx] = 0;
    residency->layer_open[layer]++;
    residency->candidate_count++;
    if (score >= residency->layer_least[layer]) return;
    residency->layer_least[layer] = score;
    residency->layer_poorest[layer] = expert_idx;
}

static void close_down(struct residency *residency, int32_t expert_idx)
{
    int32_t layer = expert_idx / residency->experts;
    residency->open[expert_idx] = INFINITY;
    if (--residency->layer_open[layer] == 0) residency->layer_least[layer] = INFINITY;
    residency->candidate_count--;
    SL_ASSERT(residency->candidate_count >= 0);
}

void residency_insert(struct residency *residency, int32_t expert_idx)
{
    SL_ASSERT(!residency_contains(residency, expert_idx));
    residency->resident[expert_idx] = 1;
    residency->resident_count++;
    open_up(residency, expert_idx);
}

void residency_remove(struct residency *residency, int32_t expert_idx)
{
    SL_ASSERT(residency_contains(residency, expert_idx) && residency->holds[expert_idx] == 0);
    residency->resident[expert_idx] = 0;
    residency->resident_count--;
    close_down(residency, expert_idx);
}

void residency_hold(struct residency *residency, int32_t expert_idx)
{
    SL_ASSERT(residency_contains(residency, expert_idx) && residency->holds[expert_idx] < 255);
    if (residency->holds[expert_idx]++ == 0) close_down(residency, expert_idx);
}

void residency_unhold(struct residency *residency, int32_t expert_idx)
{
    SL_ASSERT(residency_contains(residency, expert_idx) && residency->holds[expert_idx] > 0);
    if (--residency->holds[expert_idx] == 0) open_up(residency, expert_idx);
}

bool residency_contains(const struct residency *residency, int32_t expert_idx)
{
    SL_ASSERT(expert_idx >= 0 && expert_idx < expert_count(residency));
    return residency->resident[expert_idx] != 0;
}

/* ---- victims ---- */

/* Whether the last look still holds: no time has passed, the one found is a candidate still and was
 * not used since; uses make the others more valuable, and a poorer newcomer was noted. */
static bool is_fresh(const struct residency *residency, int32_t layer)
{
    const struct heat *heat = residency->heat;
    if (residency->policy == RESIDENCY_CLAIRVOYANT ||
        residency->looked_clock[layer] == HEAT_NEVER ||
        residency->looked_clock[layer] != heat->token_clock ||
        residency->looked_pass[layer] != heat->layer_clock[layer])
        return false;
    int32_t found = residency->layer_poorest[layer];
    return residency->open[found] == 0 && heat->last_use[found] != heat->token_clock;
}

static int32_t look_at(struct residency *residency, int32_t layer)
{
    if (is_fresh(residency, layer)) return residency->layer_poorest[layer];
    score_layer(residency, layer, residency->scratch);
    int32_t found =
        least_of(residency->scratch, residency->experts, &residency->layer_least[layer]);
    SL_ASSERT((found >= 0) == (residency->layer_open[layer] > 0));
    if (found < 0) return -1;
    residency->layer_poorest[layer] = layer * residency->experts + found;
    residency->looked_clock[layer] = residency->heat->token_clock;
    residency->looked_pass[layer] = residency->heat->layer_clock[layer];
    return residency->layer_poorest[layer];
}

int32_t residency_victim_in(struct residency *residency, int32_t layer)
{
    SL_ASSERT(layer >= 0 && layer < residency->layers);
    return residency->layer_open[layer] ? look_at(residency, layer) : -1;
}

/* The layer whose least score, as far as known, is the least; -1 when none has candidates. */
static int32_t poorest_layer(const struct residency *residency, bool pinned)
{
    int32_t poorest = -1;
    float least;
    if (residency->pinned_count == 0)
        return pinned ? -1 : least_of(residency->layer_least, residency->layers, &least);
    for (int32_t i = 0; i < residency->layers; i++) {
        if (residency->layer_open[i] == 0 || residency->layer_pinned[i] != pinned) continue;
        if (poorest < 0 || residency->layer_least[i] < residency->layer_least[poorest]) poorest = i;
    }
    return poorest;
}

/* What is known of a layer may be out of date, for uses raise scores and time lowers them. So the
 * poorest is looked at again until it stays the poorest, and the layer of the pass in any case:
 * then nothing known is older than one pass. CLAIRVOYANT jumps both ways and looks at all. */
int32_t residency_victim(struct residency *residency, int32_t layer)
{
    SL_ASSERT(layer >= 0 && layer < residency->layers);
    if (residency->candidate_count == 0) return -1;
    int32_t first = residency->policy == RESIDENCY_CLAIRVOYANT ? 0 : layer;
    int32_t last = residency->policy == RESIDENCY_CLAIRVOYANT ? residency->layers - 1 : layer;
    for (int32_t i = first; i <= last; i++)
        if (residency->layer_open[i]) look_at(residency, i);
    for (int32_t pinned = 0; pinned <= 1; pinned++) {
        int32_t looked = -1, found = -1;
        for (;;) {
            int32_t poorest = poorest_layer(residency, pinned != 0);
            if (poorest < 0 || poorest == looked) break;
            looked = poorest;
            found = look_at(residency, poorest);
        }
        if (found >= 0) return found;
    }
    SL_ASSERT(false); /* candidates are counted */
    return -1;
}

float residency_value(const struct residency *residency, int32_t expert_idx)
{
    SL_ASSERT(expert_idx >= 0 && expert_idx < expert_count(residency));
    if (residency->policy == RESIDENCY_CLAIRVOYANT) return score_of(residency, expert_idx);
    return heat_rate(residency->heat, expert_idx);
}

bool residency_admits(const struct residency *residency, int32_t expert_idx, int32_t victim_idx)
{
    if (residency->policy == RESIDENCY_LRU || residency->policy == RESIDENCY_LFU) return true;
    return score_of(residency, expert_idx) > score_of(residency, victim_idx);
}

void residency_check(const struct residency *residency)
{
    int32_t residents = 0, candidates = 0;
    for (int32_t layer = 0; layer < residency->layers; layer++) {
        int32_t open = 0;
        for (int32_t i = 0; i < residency->experts; i++) {
            int32_t idx = layer * residency->experts + i;
            bool is_open = !isinf(residency->open[idx]);
            SL_ASSERT(is_open == (residency->resident[idx] && residency->holds[idx] == 0));
            SL_ASSERT(residency->resident[idx] || residency->holds[idx] == 0);
            residents += residency->resident[idx];
            open += is_open;
        }
        SL_ASSERT(open == residency->layer_open[layer]);
        candidates += open;
    }
    SL_ASSERT(residents == residency->resident_count);
    SL_ASSERT(candidates == residency->candidate_count);
}
