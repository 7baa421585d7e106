/* One pass over a trace with everything counted on the way; see the header. */
#include "runtime/trace_stats.h"

#include <string.h>

/* 16, 26, 44, 90, 120 and 154 of 256. */
const double trace_stats_cache_shares[TRACE_STATS_CACHES] = {0.0625,    0.1015625, 0.171875,
                                                             0.3515625, 0.46875,   0.6015625};
const int32_t trace_stats_windows[TRACE_STATS_WINDOWS] = {1, 2, 3, 4, 5, 6, 7, 8, 13, 64, 427, 502};
const int32_t trace_stats_reaches[TRACE_STATS_REACHES] = {1, 2, 4, 8, 16, 64};
const float trace_stats_cuts[TRACE_STATS_CUTS] = {0.3f, 0.4f, 0.5f, 0.7f};

struct trace_stats_state {
    uint32_t *counts; /* [layers, experts] */
    int32_t *last;    /* [layers, experts] token number, from 1; 0: never */
    uint16_t *order;  /* [layers, experts], latest first */
    uint16_t *place;  /* [layers, experts] where in the order; experts: nowhere */
    int32_t *length;  /* [layers] of the order */
    uint8_t *chosen;  /* [experts] marks */
    uint64_t window_sums[TRACE_STATS_WINDOWS]; /* distinct in the window under way */
    uint64_t window_totals[TRACE_STATS_WINDOWS];
    uint64_t windows[TRACE_STATS_WINDOWS]; /* whole ones */
    struct predictor *predictors[TRACE_LISTS_MAX];
    int32_t token; /* number of the token under way, from 1 */
};

static enum sl_status make_state(struct trace_stats *stats, struct sl_error *error)
{
    const struct trace_head *head = &stats->head;
    size_t layers = (size_t)head->layers, experts = (size_t)head->experts;
    struct trace_stats_state *s = stats->state = calloc(1, sizeof *s);
    if (s) {
        s->counts = calloc(layers * experts, sizeof *s->counts);
        s->last = calloc(layers * experts, sizeof *s->last);
        s->order = calloc(layers * experts, sizeof *s->order);
        s->place = calloc(layers * experts, sizeof *s->place);
        s->length = calloc(layers, sizeof *s->length);
        s->chosen = calloc(experts, 1);
    }
    if (!s || !s->counts || !s->last || !s->order || !s->place || !s->length || !s->chosen)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory to count a trace");
    for (size_t i = 0; i < layers * experts; i++)
        s->place[i] = (uint16_t)experts;
    for (int32_t i = 0; i < head->list_count; i++) {
        struct predictor_options options = {.layers = head->layers,
                                            .experts = head->experts,
                                            .top = head->top,
                                            .hash_layers = head->hash_layers};
        SL_TRY(predictor_create(&options, &s->predictors[i], error));
    }
    return SL_OK;
}

void trace_stats_deinit(struct trace_stats *stats)
{
    struct trace_stats_state *s = stats->state;
    if (!s) return;
    for (int32_t i = 0; i < TRACE_LISTS_MAX; i++)
        predictor_destroy(s->predictors[i]);
    free(s->counts);
    free(s->last);
    free(s->order);
    free(s->place);
    free(s->length);
    free(s->chosen);
    free(s);
    stats->state = NULL;
}

/* ---- accesses ----------------------------------------------------------------------------- */

static size_t index_of(const struct trace_stats *stats, int32_t layer, int32_t expert)
{
    return (size_t)layer * (size_t)stats->head.experts + (size_t)expert;
}

/* Moves an expert to the front of its layer's order. */
static void touch(struct trace_stats *stats, int32_t layer, int32_t expert)
{
    struct trace_stats_state *s = stats->state;
    size_t base = index_of(stats, layer, 0);
    uint16_t *order = s->order + base, *place = s->place + base;
    int32_t at = place[expert] < stats->head.experts ? place[expert] : s->length[layer]++;
    for (; at > 0; at--) {
        order[at] = order[at - 1];
        place[order[at]] = (uint16_t)at;
    }
    order[0] = (uint16_t)expert;
    place[expert] = 0;
}

static void count_access(struct trace_stats *stats, int32_t layer, int32_t expert)
{
    struct trace_stats_state *s = stats->state;
    size_t at = index_of(stats, layer, expert);
    int32_t last = s->last[at], now = s->token;
    stats->accesses++;
    s->counts[at]++;
    for (int32_t c = 0; c < TRACE_STATS_CACHES; c++)
        stats->hits[c] += s->place[at] < stats->slots[c];
    for (int32_t w = 0; w < TRACE_STATS_WINDOWS; w++) {
        int32_t start = (now - 1) / trace_stats_windows[w] * trace_stats_windows[w] + 1;
        s->window_sums[w] += last < start;
    }
    if (now > 1) stats->reusable++;
    for (int32_t r = 0; r < TRACE_STATS_REACHES; r++)
        stats->reused[r] += last > 0 && last >= now - trace_stats_reaches[r];
}

/* One token's choice at a layer. */
static void count_choice(struct trace_stats *stats, int32_t layer, const uint16_t *chosen)
{
    struct trace_stats_state *s = stats->state;
    for (int32_t k = 0; k < stats->head.top; k++)
        count_access(stats, layer, chosen[k]);
    for (int32_t k = 0; k < stats->head.top; k++) {
        s->last[index_of(stats, layer, chosen[k])] = s->token;
        touch(stats, layer, chosen[k]);
    }
}

static void close_windows(struct trace_stats *stats)
{
    struct trace_stats_state *s = stats->state;
    for (int32_t w = 0; w < TRACE_STATS_WINDOWS; w++) {
        if (s->token % trace_stats_windows[w] != 0) continue;
        s->window_totals[w] += s->window_sums[w];
        s->window_sums[w] = 0;
        s->windows[w]++;
    }
}

/* ---- guesses ------------------------------------------------------------------------------ */

static void count_hit(struct trace_stats_hits *hits, bool right)
{
    hits->guessed++;
    hits->right += right;
}

/* One list about `layer`, whose choice is marked in state->chosen. */
static void count_list(struct trace_stats *stats, int32_t i, int32_t layer,
                       const struct predictor_candidate *candidates)
{
    struct trace_stats_state *s = stats->state;
    struct trace_stats_list *list = &stats->lists[i];
    float probabilities[TRACE_GUESSES_MAX];
    int32_t count = 0;
    while (count < stats->head.guesses && candidates[count].expert >= 0)
        count++;
    if (count == 0) return;
    predictor_guess(s->predictors[i], layer, list->list.distance, candidates, count, probabilities);
    list->chosen += (uint64_t)stats->head.top;
    for (int32_t g = 0; g < count; g++) {
        int32_t expert = candidates[g].expert;
        bool right = s->chosen[expert];
        for (int32_t d = 0; d < TRACE_STATS_DEPTHS; d++)
            list->found[d] += right && g < list->depths[d];
        for (int32_t c = 0; c < TRACE_STATS_CACHES; c++) {
            if (s->place[index_of(stats, layer, expert)] < stats->slots[c]) continue;
            for (int32_t d = 0; d < TRACE_STATS_DEPTHS; d++)
                if (g < list->depths[d]) count_hit(&list->by_depth[c][d], right);
            for (int32_t p = 0; p < TRACE_STATS_CUTS; p++)
                if (probabilities[g] >= trace_stats_cuts[p]) count_hit(&list->by_cut[c][p], right);
        }
    }
}

/* All lists about `layer` of a step of one token, before the choice itself is counted. */
static void count_guesses(struct trace_stats *stats, const struct trace_step *step, int32_t layer,
                          const uint16_t *chosen)
{
    struct trace_stats_state *s = stats->state;
    const struct trace_head *head = &stats->head;
    int32_t wide[TRACE_TOP_MAX];
    for (int32_t k = 0; k < head->top; k++) {
        s->chosen[chosen[k]] = 1;
        wide[k] = chosen[k];
    }
    for (int32_t i = 0; i < head->list_count; i++) {
        struct trace_stats_list *list = &stats->lists[i];
        int32_t from = layer - list->list.distance;
        uint64_t before = list->chosen;
        if (from >= 0 && step->guesses)
            count_list(stats, i, layer,
                       step->guesses + ((size_t)from * (size_t)head->list_count + (size_t)i) *
                                           (size_t)head->guesses);
        if (list->chosen != before) {
            for (int32_t c = 0; c < TRACE_STATS_CACHES; c++)
                for (int32_t k = 0; k < head->top; k++)
                    list->missed[c] +=
                        s->place[index_of(stats, layer, chosen[k])] >= stats->slots[c];
        }
        predictor_outcome(s->predictors[i], layer, wide);
    }
    for (int32_t k = 0; k < head->top; k++)
        s->chosen[chosen[k]] = 0;
}

/* ---- the pass ----------------------------------------------------------------------------- */

static void count_step(struct trace_stats *stats, const struct trace_step *step)
{
    struct trace_stats_state *s = stats->state;
    size_t top = (size_t)stats->head.top;
    stats->steps++;
    stats->tokens += (uint64_t)step->tokens;
    stats->duration_ns += step->duration_ns;
    if (step->tokens == 1) {
        stats->decoded++;
        stats->decode_ns += step->duration_ns;
    }
    for (int32_t t = 0; t < step->tokens; t++) {
        s->token++;
        for (int32_t layer = 0; layer < step->layers; layer++) {
            const uint16_t *chosen =
                step->chosen + ((size_t)layer * (size_t)step->tokens + (size_t)t) * top;
            if (step->tokens == 1) count_guesses(stats, step, layer, chosen);
            count_choice(stats, layer, chosen);
        }
        close_windows(stats);
    }
    for (int32_t layer = 0; step->timings && layer < step->layers; layer++) {
        stats->wait_ns += step->timings[layer].wait_ns;
        stats->missed += step->timings[layer].missed;
        stats->timed_layers++;
    }
}

static int compare_counts(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* Popularity, from the counts, which it sorts. */
static void finish_popularity(struct trace_stats *stats)
{
    static const double parts[3] = {0.50, 0.80, 0.95};
    static const double sets[3] = {0.0454, 0.0636, 0.0818};
    size_t count = (size_t)stats->head.layers * (size_t)stats->head.experts;
    uint32_t *counts = stats->state->counts;
    double sum = 0, weighted = 0, total = (double)stats->accesses;
    qsort(counts, count, sizeof *counts, compare_counts);
    for (size_t i = 0; i < count; i++) {
        double before = sum;
        sum += counts[i];
        stats->live += counts[i] > 0;
        /* Ascending rank of the i-th largest is count - i. */
        weighted += (double)(count - i) * counts[i];
        for (int p = 0; p < 3; p++) {
            if (before < parts[p] * total && sum >= parts[p] * total)
                stats->covering[p] = (double)(i + 1) / (double)count;
            if ((double)(i + 1) <= sets[p] * (double)count) stats->fixed_set[p] = sum / total;
        }
    }
    if (total > 0)
        stats->gini = 2 * weighted / ((double)count * total) - (double)(count + 1) / (double)count;
}

static void finish(struct trace_stats *stats)
{
    struct trace_stats_state *s = stats->state;
    finish_popularity(stats);
    for (int32_t w = 0; w < TRACE_STATS_WINDOWS; w++)
        if (s->windows[w])
            stats->distinct[w] =
                (double)s->window_totals[w] / ((double)s->windows[w] * (double)stats->head.layers);
    for (int32_t i = 0; i < stats->head.list_count; i++)
        predictor_stats_get(s->predictors[i], stats->lists[i].list.distance,
                            &stats->lists[i].reliability);
}

enum sl_status trace_stats_init(struct trace_stats *stats, struct trace_reader *reader,
                                struct sl_error *error)
{
    const struct trace_step *step = NULL;
    *stats = (struct trace_stats){.head = *trace_reader_head(reader)};
    int32_t experts = stats->head.experts, top = stats->head.top;
    for (int32_t c = 0; c < TRACE_STATS_CACHES; c++)
        stats->slots[c] = (int32_t)(trace_stats_cache_shares[c] * experts + 0.5);
    for (int32_t i = 0; i < stats->head.list_count; i++) {
        int32_t all = stats->head.guesses;
        int32_t depths[TRACE_STATS_DEPTHS] = {4, top, 2 * top, all};
        stats->lists[i].list = stats->head.lists[i];
        for (int32_t d = 0; d < TRACE_STATS_DEPTHS; d++)
            stats->lists[i].depths[d] = min_i32(depths[d], all);
    }
    enum sl_status status = make_state(stats, error);
    while (status == SL_OK && (status = trace_reader_next(reader, &step, error)) == SL_OK && step) {
        if (stats->tokens + (uint64_t)step->tokens > INT32_MAX) {
            status = sl_error_set(error, SL_ERR_LIMIT, 0,
                                  "a trace of more than 2^31 tokens: count a part of it");
            break;
        }
        count_step(stats, step);
    }
    if (status == SL_OK)
        finish(stats);
    else
        trace_stats_deinit(stats);
    return status;
}
