/* Counter-based random numbers, and their shaping; see the header. */
#include "runtime/synth_values.h"
#include "kernels/lowp.h"

#include <math.h>
#include <string.h>
#include <xxhash.h>

/* The n-th number of a stream: SplitMix64, whose state after n steps is known without taking them.
 */
static inline uint64_t stream_at(uint64_t stream, uint64_t n)
{
    uint64_t z = stream + (n + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Near enough to a standard normal number: the sum of four uniform ones, within +-3.47. */
static inline float normal_from(uint64_t bits)
{
    uint64_t sum = (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
    return ((float)sum - 131070.0f) * (1.7320508f / 65536.0f);
}

/* x with P(normal < x) == probability, by bisection. */
static double normal_quantile(double probability)
{
    double low = -8, high = 8;
    for (int step = 0; step < 60; step++) {
        double middle = (low + high) / 2;
        if (0.5 * erfc(-middle / sqrt(2)) < probability)
            low = middle;
        else
            high = middle;
    }
    return (low + high) / 2;
}

void synth_values_init(struct synth_values *values, uint64_t seed)
{
    values->seed = seed;
    for (int i = 0; i < 256; i++)
        values->fp8_codes[i] =
            e4m3_encode(SYNTH_FP8_DEVIATION * (float)normal_quantile((i + 0.5) / 256));
}

static void fill_normal(const struct synth_tensor *tensor, uint64_t stream, uint64_t first,
                        uint64_t count, void *out)
{
    float *wide = out;
    uint16_t *narrow = out;
    for (uint64_t i = 0; i < count; i++) {
        float value = tensor->mean + tensor->deviation * normal_from(stream_at(stream, first + i));
        if (tensor->dtype == DTYPE_F32)
            wide[i] = value;
        else
            narrow[i] = bf16_encode(value);
    }
}

/* Random bytes, eight a step, through `table` if there is one. */
static void fill_bytes(const uint8_t *table, uint64_t stream, uint64_t first, uint64_t count,
                       uint8_t *out)
{
    for (uint64_t i = 0; i < count; i += 8) {
        uint64_t bits = stream_at(stream, (first + i) / 8);
        uint8_t bytes[8];
        memcpy(bytes, &bits, sizeof bytes);
        for (int k = 0; table && k < 8; k++)
            bytes[k] = table[bytes[k]];
        memcpy(out + i, bytes, count - i < 8 ? (size_t)(count - i) : 8);
    }
}

/* 2^e or 2^(e + 1), the larger one so often that the mean square is deviation^2. */
static void fill_scales(const struct synth_tensor *tensor, uint64_t stream, uint64_t first,
                        uint64_t count, uint8_t *out)
{
    int exponent = (int)floorf(log2f(tensor->deviation));
    float ratio = tensor->deviation / ldexpf(1.0f, exponent); /* 1 .. 2 */
    uint32_t chance = (uint32_t)((ratio * ratio - 1.0f) / 3.0f * 255.0f);
    uint8_t codes[256];
    SL_ASSERT(exponent > -127 && exponent < 127 && chance <= 255);
    for (uint32_t i = 0; i < 256; i++)
        codes[i] = (uint8_t)(exponent + 127 + (i < chance ? 1 : 0));
    fill_bytes(codes, stream, first, count, out);
}

/* Rows of distinct experts: a few draws a row, those seen before are drawn again. */
static void fill_token_experts(const struct synth_tensor *tensor, int32_t experts, uint64_t stream,
                               uint64_t first, uint64_t count, int64_t *out)
{
    uint64_t top = (uint64_t)tensor->shape[1];
    SL_ASSERT(first % top == 0 && count % top == 0 && top <= (uint64_t)experts);
    for (uint64_t row = 0; row < count / top; row++) {
        uint64_t row_stream = stream_at(stream, first / top + row);
        int64_t *entries = out + row * top;
        uint64_t draw = 0;
        for (uint64_t k = 0; k < top;) {
            uint64_t bits = stream_at(row_stream, draw++) >> 32;
            bool seen = false;
            entries[k] = (int64_t)(bits * (uint64_t)experts >> 32);
            for (uint64_t j = 0; j < k; j++)
                seen = seen || entries[j] == entries[k];
            if (!seen) k++;
        }
    }
}

void synth_values_fill(const struct synth_values *values, const struct synth_tensor *tensor,
                       int32_t experts, uint64_t first, uint64_t count, void *out)
{
    uint64_t stream = XXH3_64bits_withSeed(tensor->name, strlen(tensor->name), values->seed);
    SL_ASSERT(first % 8 == 0 || tensor->fill == SYNTH_TOKEN_EXPERTS);
    SL_ASSERT((first + count) * dtype_bytes(tensor->dtype) <= tensor->bytes);
    switch (tensor->fill) {
    case SYNTH_NORMAL: fill_normal(tensor, stream, first, count, out); break;
    case SYNTH_CODES_FP8: fill_bytes(values->fp8_codes, stream, first, count, out); break;
    case SYNTH_CODES_FP4: fill_bytes(NULL, stream, first, count, out); break;
    case SYNTH_SCALES: fill_scales(tensor, stream, first, count, out); break;
    case SYNTH_TOKEN_EXPERTS: fill_token_experts(tensor, experts, stream, first, count, out); break;
    }
}
