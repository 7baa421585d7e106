/* Synthetic routing by alias tables, one a layer and topic; see the header. */
#include "offload/synthetic_trace.h"
#include "offload/random_stream.h"

#include <string.h>

/* Draws by weights in constant time (Walker, Electronics Letters 10, 1974; Vose's construction). */
struct alias_entry {
    float keep; /* probability to stay, else go to other */
    int32_t other;
};

struct layer_state {
    struct alias_entry *alias; /* [experts] of the topic of now */
    float *weights;            /* [experts] without topic */
    uint16_t *past;            /* [SYNTHETIC_BACK_MAX, top], a ring by position */
    double topic_left;         /* tokens until the next topic */
    struct random_stream random;
};

struct synthetic_trace {
    struct synthetic_options options;
    struct layer_state *layers;     /* [layers] */
    struct alias_entry *vocabulary; /* [SYNTHETIC_VOCAB]; NULL without hash layers */
    struct random_stream ids;
    int64_t position;
    double *scaled;         /* [max of experts, vocab] of a table under construction */
    int32_t *small, *large; /* the same */
};

bool synthetic_preset(const char *name, struct synthetic_options *options)
{
    static const struct {
        const char *name;
        double s, tau, sigma, topic_tokens, rho, back_tokens;
    } presets[] = {
        {"base", 0.75, 100, 1.25, 100, 0.25, 10},
        {"long-topics", 1.0, 1500, 1.4, 1400, 0.11, 3},
        {"stress", 0.95, 300, 0.7, 400, 0.11, 3},
    };
    for (size_t i = 0; i < SL_COUNT_OF(presets); i++) {
        if (strcmp(name, presets[i].name) != 0) continue;
        options->s = presets[i].s;
        options->tau = presets[i].tau;
        options->sigma = presets[i].sigma;
        options->topic_tokens = presets[i].topic_tokens;
        options->rho = presets[i].rho;
        options->back_tokens = presets[i].back_tokens;
        options->dead = 12;
        return true;
    }
    return false;
}

/* ---- tables ---- */

/* `scaled` [count] holds the weights and is used up. */
static void build_alias(struct synthetic_trace *trace, struct alias_entry *table, int32_t count)
{
    double *scaled = trace->scaled;
    double sum = 0;
    for (int32_t i = 0; i < count; i++)
        sum += scaled[i];
    SL_ASSERT(sum > 0);
    int32_t small_count = 0, large_count = 0;
    for (int32_t i = 0; i < count; i++) {
        scaled[i] *= (double)count / sum;
        if (scaled[i] < 1)
            trace->small[small_count++] = i;
        else
            trace->large[large_count++] = i;
    }
    while (small_count > 0 && large_count > 0) {
        int32_t low = trace->small[--small_count], high = trace->large[large_count - 1];
        table[low] = (struct alias_entry){(float)scaled[low], high};
        scaled[high] -= 1 - scaled[low];
        if (scaled[high] < 1) {
            trace->small[small_count++] = high;
            large_count--;
        }
    }
    /* What is left is 1 but for rounding. */
    while (large_count > 0) {
        int32_t i = trace->large[--large_count];
        table[i] = (struct alias_entry){2, i};
    }
    while (small_count > 0) {
        int32_t i = trace->small[--small_count];
        table[i] = (struct alias_entry){2, i};
    }
}

static int32_t draw_alias(const struct alias_entry *table, int32_t count,
                          struct random_stream *random)
{
    uint64_t bits = random_u64(random);
    int32_t i = (int32_t)(((bits >> 32) * (uint64_t)count) >> 32);
    float keep = (float)(bits & 0xffffffu) * 0x1p-24f;
    return keep < table[i].keep ? i : table[i].other;
}

static void draw_topic(struct synthetic_trace *trace, struct layer_state *layer)
{
    int32_t experts = trace->options.experts;
    for (int32_t i = 0; i < experts; i++)
        trace->scaled[i] =
            (double)layer->weights[i] * exp(trace->options.sigma * random_normal(&layer->random));
    build_alias(trace, layer->alias, experts);
    layer->topic_left += random_exponential(&layer->random, trace->options.topic_tokens);
}

/* ---- creation ---- */

static enum sl_status check_options(const struct synthetic_options *options, struct sl_error *error)
{
    if (options->layers < 1 || options->layers > SYNTHETIC_LAYERS_MAX)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "a trace of %d layers: give 1 to %d",
                            (int)options->layers, SYNTHETIC_LAYERS_MAX);
    if (options->experts < 2 || options->experts > SYNTHETIC_EXPERTS_MAX)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "a trace of %d experts: give 2 to %d",
                            (int)options->experts, SYNTHETIC_EXPERTS_MAX);
    if (options->top < 1 || options->top > min_i32(SYNTHETIC_TOP_MAX, options->experts / 2))
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "a trace that chooses %d of %d experts: give 1 to %d",
                            (int)options->top, (int)options->experts,
                            (int)min_i32(SYNTHETIC_TOP_MAX, options->experts / 2));
    if (options->hash_layers < 0 || options->hash_layers > options->layers)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "%d hash layers of %d",
                            (int)options->hash_layers, (int)options->layers);
    bool sane = options->s >= 0 && options->tau > 0 && options->sigma >= 0 &&
                options->topic_tokens > 0 && options->rho >= 0 && options->rho < 1 &&
                options->back_tokens > 0 && options->dead >= 0 &&
                options->dead <= options->experts - 2 * options->top;
    if (!sane)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "the trace's parameters are out of range: s, sigma >= 0; tau, topics, "
                            "back > 0; rho in [0, 1); dead in [0, %d]",
                            (int)(options->experts - 2 * options->top));
    return SL_OK;
}

static bool init_layer(struct synthetic_trace *trace, int32_t layer_idx)
{
    const struct synthetic_options *options = &trace->options;
    struct layer_state *layer = &trace->layers[layer_idx];
    size_t experts = (size_t)options->experts;
    layer->alias = calloc(experts, sizeof *layer->alias);
    layer->weights = calloc(experts, sizeof *layer->weights);
    layer->past = calloc((size_t)SYNTHETIC_BACK_MAX * (size_t)options->top, sizeof *layer->past);
    if (!layer->alias || !layer->weights || !layer->past) return false;
    random_seed(&layer->random, random_mix(options->seed) + (uint64_t)layer_idx);
    for (int32_t i = 0; i < options->experts; i++)
        trace->small[i] = i; /* expert of each rank, shuffled */
    for (int32_t i = options->experts - 1; i > 0; i--) {
        int32_t j = random_below(&layer->random, i + 1);
        int32_t kept = trace->small[i];
        trace->small[i] = trace->small[j];
        trace->small[j] = kept;
    }
    for (int32_t i = 0; i < options->experts; i++) {
        double rank = i + 1;
        double weight = pow(rank, -options->s) * exp(-rank / options->tau);
        if (i >= options->experts - options->dead) weight *= 1e-6;
        layer->weights[trace->small[i]] = (float)weight;
    }
    draw_topic(trace, layer);
    return true;
}

static bool init_all(struct synthetic_trace *trace)
{
    const struct synthetic_options *options = &trace->options;
    size_t widest = (size_t)max_i32(options->experts, options->hash_layers ? SYNTHETIC_VOCAB : 0);
    trace->layers = calloc((size_t)options->layers, sizeof *trace->layers);
    trace->scaled = calloc(widest, sizeof *trace->scaled);
    trace->small = calloc(widest, sizeof *trace->small);
    trace->large = calloc(widest, sizeof *trace->large);
    if (!trace->layers || !trace->scaled || !trace->small || !trace->large) return false;
    for (int32_t i = options->hash_layers; i < options->layers; i++)
        if (!init_layer(trace, i)) return false;
    random_seed(&trace->ids, random_mix(~options->seed));
    if (!options->hash_layers) return true;
    trace->vocabulary = calloc(SYNTHETIC_VOCAB, sizeof *trace->vocabulary);
    if (!trace->vocabulary) return false;
    for (int32_t i = 0; i < SYNTHETIC_VOCAB; i++)
        trace->scaled[i] = 1.0 / (i + 1);
    build_alias(trace, trace->vocabulary, SYNTHETIC_VOCAB);
    return true;
}

enum sl_status synthetic_trace_create(const struct synthetic_options *options,
                                      struct synthetic_trace **out, struct sl_error *error)
{
    *out = NULL;
    SL_TRY(check_options(options, error));
    struct synthetic_trace *trace = calloc(1, sizeof *trace);
    if (trace) trace->options = *options;
    if (!trace || !init_all(trace)) {
        synthetic_trace_destroy(trace);
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for a trace of %d x %d experts",
                            (int)options->layers, (int)options->experts);
    }
    *out = trace;
    return SL_OK;
}

void synthetic_trace_destroy(struct synthetic_trace *trace)
{
    if (!trace) return;
    for (int32_t i = 0; trace->layers && i < trace->options.layers; i++) {
        free(trace->layers[i].alias);
        free(trace->layers[i].weights);
        free(trace->layers[i].past);
    }
    free(trace->layers);
    free(trace->vocabulary);
    free(trace->scaled);
    free(trace->small);
    free(trace->large);
    free(trace);
}

/* ---- tokens ---- */

static bool is_chosen(const uint16_t *chosen, int32_t count, int32_t expert)
{
    for (int32_t i = 0; i < count; i++)
        if (chosen[i] == expert) return true;
    return false;
}

/* The same set for the same id, whatever came before. */
static void choose_by_id(const struct synthetic_trace *trace, int32_t layer_idx, int32_t token_id,
                         uint16_t *chosen)
{
    uint64_t key =
        random_mix(trace->options.seed) + ((uint64_t)layer_idx << 32) + (uint64_t)token_id;
    for (int32_t count = 0; count < trace->options.top;) {
        key = random_mix(key);
        int32_t expert = (int32_t)(((key >> 32) * (uint64_t)trace->options.experts) >> 32);
        if (!is_chosen(chosen, count, expert)) chosen[count++] = (uint16_t)expert;
    }
}

static int32_t pick(const struct synthetic_trace *trace, struct layer_state *layer)
{
    const struct synthetic_options *options = &trace->options;
    if (options->rho > 0 && random_unit(&layer->random) < options->rho) {
        double back = 1 + floor(random_exponential(&layer->random, options->back_tokens));
        if (back <= SYNTHETIC_BACK_MAX && back <= (double)trace->position) {
            int64_t past = (trace->position - (int64_t)back) % SYNTHETIC_BACK_MAX;
            return layer->past[past * options->top + random_below(&layer->random, options->top)];
        }
    }
    return draw_alias(layer->alias, options->experts, &layer->random);
}

void synthetic_trace_next(struct synthetic_trace *trace, int32_t *token_id, uint16_t *chosen)
{
    const struct synthetic_options *options = &trace->options;
    int32_t id = options->hash_layers ? draw_alias(trace->vocabulary, SYNTHETIC_VOCAB, &trace->ids)
                                      : random_below(&trace->ids, SYNTHETIC_VOCAB);
    int32_t top = options->top;
    for (int32_t i = 0; i < options->layers; i++, chosen += top) {
        struct layer_state *layer = &trace->layers[i];
        if (i < options->hash_layers) {
            choose_by_id(trace, i, id, chosen);
            continue;
        }
        for (; layer->topic_left <= 0;)
            draw_topic(trace, layer);
        layer->topic_left -= 1;
        for (int32_t count = 0; count < top;) {
            int32_t expert = pick(trace, layer);
            if (!is_chosen(chosen, count, expert)) chosen[count++] = (uint16_t)expert;
        }
        int64_t slot = trace->position % SYNTHETIC_BACK_MAX;
        memcpy(&layer->past[slot * top], chosen, (size_t)top * sizeof *chosen);
    }
    trace->position++;
    *token_id = id;
}
