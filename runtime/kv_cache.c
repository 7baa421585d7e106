/* Layout and bookkeeping of a session's state; see the header. */
#include "runtime/kv_cache.h"

#include <math.h>
#include <string.h>
#include <sys/mman.h>

#define KV_ALIGNMENT 64u

/* Channels of a compressor's products: two halves where groups overlap. */
static int32_t compressor_halves(int32_t ratio)
{
    return ratio == 4 ? 2 : 1;
}

static struct row_format make_row_format(const struct kv_cache_options *options)
{
    return (struct row_format){.encoding = options->f32_rows ? ROW_F32 : ROW_KV,
                               .plain = options->config->head_dim - options->config->rotary,
                               .rotary = options->config->rotary};
}

static struct row_format make_key_format(const struct kv_cache_options *options)
{
    return (struct row_format){.encoding = options->f32_rows ? ROW_F32 : ROW_KEY,
                               .plain = options->config->index_dim - options->config->rotary,
                               .rotary = options->config->rotary};
}

/* Hands out pieces of one block; without a block it only counts. */
struct carver {
    uint8_t *base;
    uint64_t used_bytes;
    bool overflow;
};

static void *carve(struct carver *carver, uint64_t count, uint64_t element_bytes)
{
    uint64_t bytes;
    uint64_t start = carver->used_bytes;
    if (!checked_mul(count, element_bytes, &bytes) ||
        !checked_add(start, align_up(bytes, KV_ALIGNMENT), &carver->used_bytes)) {
        carver->overflow = true;
        return NULL;
    }
    return carver->base ? carver->base + start : NULL;
}

static void carve_states(struct carver *carver, const struct kv_cache_options *options,
                         struct kv_layer *layers)
{
    for (int32_t idx = 0; idx < options->layers; idx++) {
        struct kv_layer *layer = &layers[idx];
        int32_t ratio = options->config->ratios[idx];
        int32_t halves = compressor_halves(ratio);
        *layer = (struct kv_layer){.ratio = ratio};
        if (ratio == 0) continue;
        layer->rows_max = options->context_tokens / ratio;
        layer->state_capacity = halves * ratio + options->slack_tokens;
        layer->state = carve(carver, (uint64_t)layer->state_capacity * 2 * (uint64_t)halves,
                             sizeof(float) * (uint64_t)options->config->head_dim);
        if (ratio != 4) continue;
        layer->index_state_capacity = layer->state_capacity;
        layer->index_state = carve(carver, (uint64_t)layer->state_capacity * 2 * (uint64_t)halves,
                                   sizeof(float) * (uint64_t)options->config->index_dim);
    }
}

static void carve_rows(struct carver *carver, const struct kv_cache_options *options,
                       struct kv_layer *layers)
{
    struct row_format row = make_row_format(options);
    struct row_format key = make_key_format(options);
    uint64_t capacity = (uint64_t)options->config->window + (uint64_t)options->slack_tokens;
    for (int32_t idx = 0; idx < options->layers; idx++) {
        struct kv_layer *layer = &layers[idx];
        layer->window_rows = carve(carver, capacity, row_format_bytes(&row));
        if (layer->ratio == 0) continue;
        layer->rows = carve(carver, (uint64_t)layer->rows_max, row_format_bytes(&row));
        if (layer->ratio != 4) continue;
        layer->index_rows = carve(carver, (uint64_t)layer->rows_max, row_format_bytes(&key));
    }
}

static void check_options(const struct kv_cache_options *options)
{
    SL_ASSERT(options->layers > 0 && options->layers <= MODEL_LAYERS_MAX);
    SL_ASSERT(options->context_tokens > 0 && options->context_tokens <= MODEL_CONTEXT_MAX);
    SL_ASSERT(options->slack_tokens > 0 && options->slack_tokens <= MODEL_CONTEXT_MAX);
}

uint64_t kv_cache_bytes(const struct kv_cache_options *options)
{
    struct kv_layer layers[MODEL_LAYERS_MAX];
    struct carver carver = {0};
    check_options(options);
    carve_states(&carver, options, layers);
    carve_rows(&carver, options, layers);
    return carver.overflow ? 0 : carver.used_bytes;
}

/* Tokens before the first count for nothing in a group: keys 0, gates minus infinity. */
static void reset_state(float *state, int32_t capacity, int32_t width)
{
    for (int32_t token = 0; token < capacity; token++) {
        float *keys = state + (size_t)token * 2 * (size_t)width;
        memset(keys, 0, sizeof(float) * (size_t)width);
        for (int32_t channel = 0; channel < width; channel++)
            keys[width + channel] = -INFINITY;
    }
}

static void reset_states(const struct kv_cache *cache, const struct kv_layer *layers)
{
    int32_t head_dim = cache->row_format.plain + cache->row_format.rotary;
    int32_t index_dim = cache->key_format.plain + cache->key_format.rotary;
    for (int32_t idx = 0; idx < cache->layer_count; idx++) {
        const struct kv_layer *layer = &layers[idx];
        int32_t halves = compressor_halves(layer->ratio);
        if (layer->state) reset_state(layer->state, layer->state_capacity, halves * head_dim);
        if (layer->index_state)
            reset_state(layer->index_state, layer->index_state_capacity, halves * index_dim);
    }
}

static size_t states_bytes(const struct kv_cache_options *options)
{
    struct kv_layer layers[MODEL_LAYERS_MAX];
    struct carver carver = {0};
    carve_states(&carver, options, layers);
    return (size_t)carver.used_bytes;
}

static bool take_memory(struct kv_cache *cache, const struct kv_cache_options *options)
{
    if (cache->gpu) {
        const struct gpu_ops *ops = cache->gpu->gpu_ops;
        cache->states_bytes = states_bytes(options);
        if (ops->alloc(cache->gpu, GPU_DEVICE, cache->memory_bytes, &cache->memory, NULL) != SL_OK)
            return false;
        return cache->states_bytes == 0 || ops->alloc(cache->gpu, GPU_MAPPED, cache->states_bytes,
                                                      &cache->empty, NULL) == SL_OK;
    }
    /* Anonymous memory: rows of a long context cost nothing until they are written. */
    void *memory =
        mmap(NULL, cache->memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return false;
    cache->memory = memory;
    return true;
}

/* The states as a new timeline has them, to be copied over at each reset. */
static void make_empty(struct kv_cache *cache, const struct kv_cache_options *options)
{
    struct kv_layer layers[MODEL_LAYERS_MAX];
    struct carver carver = {.base = cache->empty};
    if (!cache->empty) return;
    carve_states(&carver, options, layers);
    reset_states(cache, layers);
}

enum sl_status kv_cache_create(const struct kv_cache_options *options, struct kv_cache **out)
{
    uint64_t bytes = kv_cache_bytes(options);
    struct kv_cache *cache = NULL;
    *out = NULL;
    if (bytes == 0 || bytes > SIZE_MAX / 2) return SL_ERR_NO_MEMORY;
    cache = calloc(1, sizeof *cache);
    if (!cache) return SL_ERR_NO_MEMORY;
    cache->layers = calloc((size_t)options->layers, sizeof *cache->layers);
    if (!cache->layers) goto fail;
    cache->gpu = options->gpu;
    cache->memory_bytes = bytes;
    if (!take_memory(cache, options)) goto fail;
    cache->row_format = make_row_format(options);
    cache->key_format = make_key_format(options);
    cache->layer_count = options->layers;
    cache->context_tokens = options->context_tokens;
    cache->slack_tokens = options->slack_tokens;
    cache->window_capacity = options->config->window + options->slack_tokens;

    struct carver carver = {.base = cache->memory};
    carve_states(&carver, options, cache->layers);
    carve_rows(&carver, options, cache->layers);
    SL_ASSERT(carver.used_bytes == bytes && !carver.overflow);
    if (cache->gpu) make_empty(cache, options);
    kv_cache_reset(cache);
    *out = cache;
    return SL_OK;
fail:
    kv_cache_destroy(cache);
    return SL_ERR_NO_MEMORY;
}

void kv_cache_destroy(struct kv_cache *cache)
{
    if (!cache) return;
    if (cache->gpu) {
        cache->gpu->gpu_ops->free(cache->gpu, GPU_DEVICE, cache->memory);
        cache->gpu->gpu_ops->free(cache->gpu, GPU_MAPPED, cache->empty);
    } else if (cache->memory) {
        munmap(cache->memory, cache->memory_bytes);
    }
    free(cache->layers);
    free(cache);
}

void kv_cache_reset(struct kv_cache *cache)
{
    if (!cache->gpu)
        reset_states(cache, cache->layers);
    else if (cache->empty)
        cache->gpu->gpu_ops->copy(cache->gpu, cache->memory, cache->empty, cache->states_bytes);
    cache->length_tokens = 0;
    cache->written_tokens = 0;
}

void kv_cache_begin(struct kv_cache *cache, int32_t tokens)
{
    SL_ASSERT(tokens > 0 && tokens <= cache->slack_tokens);
    SL_ASSERT(tokens <= cache->context_tokens - cache->length_tokens);
    cache->written_tokens = max_i32(cache->written_tokens, cache->length_tokens + tokens);
}

void kv_cache_commit(struct kv_cache *cache, int32_t tokens)
{
    cache->length_tokens += tokens;
    SL_ASSERT(cache->length_tokens <= cache->written_tokens);
    SL_ASSERT(cache->written_tokens - cache->length_tokens <= cache->slack_tokens);
}

bool kv_cache_truncate(struct kv_cache *cache, int32_t length)
{
    SL_ASSERT(length >= 0 && length <= cache->length_tokens);
    /* A ring position holds its row until a position one capacity later is written. */
    if (cache->written_tokens - length > cache->slack_tokens) return false;
    cache->length_tokens = length;
    return true;
}
