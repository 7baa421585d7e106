/* Draws the next token from logits.
 *
 * The steps, in this order: softmax of logits / temperature; top_k keeps the k most likely; top_p
 * keeps, of what is left and made to sum to 1 again, the fewest most likely that reach top_p; min_p
 * drops what is less likely than min_p times the most likely. Then one draw, in proportion. At
 * least the most likely token always stays. Equal logits rank by id, lowest first. Temperature 0
 * takes the first in rank and draws nothing.
 *
 * A logit that is NaN or minus infinity is never chosen; if all are, the answer is token 0. If some
 * are plus infinity only those count, all alike.
 *
 * All memory is made in sl_sampler_create and freed in sl_sampler_destroy; one thread at a time. */
#include "kernels/base.h"
#include "runtime/sl.h"

#include <math.h>

/* A token in the running; `weight` is relative to the most likely, which has 1. */
struct candidate {
    double weight;
    float logit;
    int32_t id;
};

struct sl_sampler {
    struct sl_sampling options;
    int32_t vocab;
    uint64_t random[4];            /* state of the generator, never all zero */
    struct candidate candidates[]; /* [vocab] */
};

/* ---- random numbers ----------------------------------------------------------------------- */

/* SplitMix64, for seeding: any seed, zero included, gives a well-mixed state. */
static uint64_t mix_seed(uint64_t *seed)
{
    uint64_t z = (*seed += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t rotate_left(uint64_t value, int bits)
{
    return value << bits | value >> (64 - bits);
}

/* xoshiro256** (Blackman and Vigna). */
static uint64_t next_random(uint64_t state[4])
{
    uint64_t result = rotate_left(state[1] * 5, 7) * 9, shifted = state[1] << 17;
    state[2] ^= state[0];
    state[3] ^= state[1];
    state[1] ^= state[2];
    state[0] ^= state[3];
    state[2] ^= shifted;
    state[3] = rotate_left(state[3], 45);
    return result;
}

/* Uniform in [0, 1), 53 bits. */
static double next_uniform(uint64_t state[4])
{
    return (double)(next_random(state) >> 11) * 0x1p-53;
}

/* ---- creation ----------------------------------------------------------------------------- */

static enum sl_status check_options(const struct sl_sampling *options, int32_t vocab,
                                    struct sl_error *error)
{
    if (!(options->temperature >= 0) || isinf(options->temperature)) {
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "temperature: expected a number from 0 up, found %g",
                            (double)options->temperature);
    }
    if (!(options->top_p >= 0 && options->top_p <= 1)) {
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "top_p: expected a number from 0 to 1 (off), found %g",
                            (double)options->top_p);
    }
    if (!(options->min_p >= 0 && options->min_p <= 1)) {
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "min_p: expected a number from 0 (off) to 1, found %g",
                            (double)options->min_p);
    }
    if (options->top_k < 0) {
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "top_k: expected a count of tokens or 0 (off), found %d",
                            options->top_k);
    }
    if (vocab < 1) {
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "vocab: expected at least 1, found %d",
                            vocab);
    }
    return SL_OK;
}

enum sl_status sl_sampler_create(const struct sl_sampling *sampling, int32_t vocab, uint64_t seed,
                                 sl_sampler **out, struct sl_error *error)
{
    SL_ASSERT(sampling && out);
    SL_TRY(check_options(sampling, vocab, error));
    struct sl_sampler *sampler =
        malloc(sizeof *sampler + (size_t)vocab * sizeof sampler->candidates[0]);
    if (!sampler) {
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0,
                            "out of memory for a sampler over %d tokens", vocab);
    }
    sampler->options = *sampling;
    sampler->vocab = vocab;
    for (size_t i = 0; i < SL_COUNT_OF(sampler->random); i++)
        sampler->random[i] = mix_seed(&seed);
    *out = sampler;
    return SL_OK;
}

void sl_sampler_destroy(sl_sampler *sampler)
{
    free(sampler);
}

/* ---- ranking ------------------------------------------------------------------------------ */

static bool ranks_before(const struct candidate *a, const struct candidate *b)
{
    return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

static void swap_candidates(struct candidate *a, struct candidate *b)
{
    struct candidate kept = *a;
    *a = *b;
    *b = kept;
}

/* Restores the heap, first in rank on top, below `at`. */
static void sift_down(struct candidate *heap, int64_t count, int64_t at)
{
    for (;;) {
        int64_t child = 2 * at + 1;
        if (child >= count) return;
        if (child + 1 < count && ranks_before(&heap[child + 1], &heap[child])) child++;
        if (!ranks_before(&heap[child], &heap[at])) return;
        swap_candidates(&heap[child], &heap[at]);
        at = child;
    }
}

static void make_heap(struct candidate *heap, int64_t count)
{
    for (int64_t at = count / 2; at > 0; at--)
        sift_down(heap, count, at - 1);
}

/* Takes the first in rank out; it comes to lie behind the heap that is left. */
static struct candidate *pop_heap(struct candidate *heap, int64_t count)
{
    SL_DEBUG_ASSERT(count > 0);
    swap_candidates(&heap[0], &heap[count - 1]);
    sift_down(heap, count - 1, 0);
    return &heap[count - 1];
}

/* ---- drawing ------------------------------------------------------------------------------ */

/* The most likely token, or -1 if there is none. */
static int32_t find_best(const float *logits, int32_t vocab)
{
    int32_t best = -1;
    for (int32_t id = 0; id < vocab; id++) {
        if (isnan(logits[id]) || logits[id] == -INFINITY) continue;
        if (best < 0 || logits[id] > logits[best]) best = id;
    }
    return best;
}

/* Fills the candidates; returns how many, and the sum of their weights. */
static int64_t collect(struct sl_sampler *sampler, const float *logits, float best, double *total)
{
    double temperature = (double)sampler->options.temperature;
    int64_t count = 0;
    *total = 0;
    for (int32_t id = 0; id < sampler->vocab; id++) {
        float logit = logits[id];
        if (isnan(logit) || logit == -INFINITY) continue;
        double distance = logit == best ? 0 : (double)logit - (double)best;
        double weight = exp(distance / temperature);
        sampler->candidates[count++] = (struct candidate){weight, logit, id};
        *total += weight;
    }
    return count;
}

/* Pops what top_k, top_p and min_p keep: the candidates end up in [first, count), first in rank
 * last. Returns `first` and puts the sum of the kept weights into `*total`. */
static int64_t keep_likely(struct sl_sampler *sampler, int64_t count, double *total)
{
    struct candidate *heap = sampler->candidates;
    const struct sl_sampling *options = &sampler->options;
    int64_t first = 0;
    make_heap(heap, count);
    if (options->top_k > 0 && options->top_k < count) {
        int64_t left = count;
        for (*total = 0; count - left < options->top_k; left--)
            *total += pop_heap(heap, left)->weight;
        first = left;
    }
    bool is_sorted = first > 0;
    double enough = (double)options->top_p * *total, sum = 0;
    int64_t at = count;
    while (at > first) {
        struct candidate *next = is_sorted ? &heap[at - 1] : pop_heap(heap, at);
        if (at < count && next->weight < (double)options->min_p) break;
        sum += next->weight;
        at--;
        if (options->top_p < 1 && sum >= enough) break;
    }
    SL_ASSERT(at < count);
    *total = sum;
    return at;
}

int32_t sl_sampler_next(sl_sampler *sampler, const float *logits)
{
    SL_ASSERT(sampler && logits);
    const struct sl_sampling *options = &sampler->options;
    int32_t best = find_best(logits, sampler->vocab);
    if (best < 0) return 0;
    if (options->temperature == 0) return best;

    double total;
    int64_t count = collect(sampler, logits, logits[best], &total), first = 0;
    if (options->top_k > 0 || options->top_p < 1 || options->min_p > 0)
        first = keep_likely(sampler, count, &total);
    SL_ASSERT(first < count && total >= 1);

    /* Filtered candidates lie with the most likely last, so this begins where most draws end. */
    double left = next_uniform(sampler->random) * total;
    for (int64_t at = count; at > first; at--) {
        left -= sampler->candidates[at - 1].weight;
        if (left < 0) return sampler->candidates[at - 1].id;
    }
    return best; /* rounding ate the last bit of the draw */
}
