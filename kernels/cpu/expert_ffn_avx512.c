/* Experts with AVX-512 and its bf16 products.
 *
 * e2m1 weights and e4m3 activations with their power-of-two scale are exact in bf16, and so are
 * their products; sums are f32. Each 32-column tile is summed in two chains (even and odd column
 * pairs), which hides the latency of vdpbf16ps for a single token, then multiplied by the row
 * scales and added to the row's sum. A panel holds the bf16 pairs of adjacent columns,
 * [columns / 2, tokens]. */
#include "kernels/cpu/expert_batch.h"

#include "kernels/cpu/expert_tile_avx512.h"
#include "kernels/cpu/expert_values.h"

#include <immintrin.h>

#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif
#define INLINE static inline __attribute__((always_inline))

/* Ahead of the tile at work, into L2: L1 can wait for few lines at once. */
#define PREFETCH_BYTES 8192
#define TILE_PAIRS     (EXPERT_TILE_COLUMNS / 2)

static void pack(const struct expert_panel *panel, int32_t token, int32_t first, int32_t count,
                 const float *x)
{
    float rounded[LOWP_FP8_BLOCK];
    uint32_t *pairs = (uint32_t *)(void *)panel->data;
    pairs += (size_t)(first / 2) * (size_t)panel->tokens + (size_t)token;
    for (int32_t block = 0; block < count; block += LOWP_FP8_BLOCK) {
        int32_t length = min_i32(LOWP_FP8_BLOCK, count - block);
        expert_values_quantise(x + block, length, rounded);
        for (int32_t i = 0; i < length; i += 2) {
            *pairs = lowp_bits(rounded[i]) >> 16 | (lowp_bits(rounded[i + 1]) & 0xffff0000u);
            pairs += panel->tokens;
        }
    }
}

/* Adds the products of one column pair of 16 rows with every token. */
INLINE void add_pair(__m512i indices, __m512i table, const uint32_t *pairs, __m512 *sums,
                     const int tokens)
{
    __m512bh weights = (__m512bh)_mm512_permutexvar_epi16(indices, table);
    UNROLL for (int t = 0; t < tokens; t++)
    {
        __m512bh x = (__m512bh)_mm512_set1_epi32((int32_t)pairs[t]);
        sums[t] = _mm512_dpbf16_ps(sums[t], weights, x);
    }
}

INLINE void multiply_tokens(const struct expert_band *band, const uint8_t *data,
                            float out[][EXPERT_TILE_ROWS], const int tokens)
{
    const uint8_t *codes = band->codes;
    const uint32_t *pairs = (const uint32_t *)(const void *)data;
    __m512i table = expert_tile_table();
    __m512 sums[EXPERT_BLOCK_TOKENS];
    UNROLL for (int t = 0; t < tokens; t++) sums[t] = _mm512_setzero_ps();
    for (int32_t tile = 0; tile < band->tiles; tile++) {
        __m512 even[EXPERT_BLOCK_TOKENS];
        __m512 odd[EXPERT_BLOCK_TOKENS];
        UNROLL for (int t = 0; t < tokens; t++) even[t] = odd[t] = _mm512_setzero_ps();
        UNROLL for (int group = 0; group < 4; group++)
        {
            __m512i lanes = _mm512_loadu_si512(codes);
            _mm_prefetch((const char *)codes + PREFETCH_BYTES, _MM_HINT_T1);
            add_pair(lanes, table, pairs, even, tokens);
            add_pair(_mm512_srli_epi16(lanes, 4), table, pairs + tokens, odd, tokens);
            add_pair(_mm512_srli_epi16(lanes, 8), table, pairs + 2 * tokens, even, tokens);
            add_pair(_mm512_srli_epi16(lanes, 12), table, pairs + 3 * tokens, odd, tokens);
            codes += EXPERT_TILE_BYTES / 4;
            pairs += TILE_PAIRS / 4 * tokens;
        }
        __m512 scales = expert_tile_scales(band->scales + tile * EXPERT_TILE_ROWS);
        UNROLL for (int t = 0; t < tokens; t++) sums[t] =
            _mm512_fmadd_ps(_mm512_add_ps(even[t], odd[t]), scales, sums[t]);
    }
    UNROLL for (int t = 0; t < tokens; t++) _mm512_storeu_ps(out[t], sums[t]);
}

static void multiply(const struct expert_band *band, const struct expert_panel *panel,
                     float sums[][EXPERT_TILE_ROWS])
{
    switch (panel->tokens) {
    case 1: multiply_tokens(band, panel->data, sums, 1); break;
    case 2: multiply_tokens(band, panel->data, sums, 2); break;
    case 3: multiply_tokens(band, panel->data, sums, 3); break;
    case 4: multiply_tokens(band, panel->data, sums, 4); break;
    case 5: multiply_tokens(band, panel->data, sums, 5); break;
    case 6: multiply_tokens(band, panel->data, sums, 6); break;
    case 7: multiply_tokens(band, panel->data, sums, 7); break;
    default: multiply_tokens(band, panel->data, sums, 8); break;
    }
}

static void activate(const float *gate, const float *up, float weight, float limit, float *out)
{
    expert_values_activate(gate, up, weight, limit, EXPERT_TILE_ROWS, out);
}

const struct expert_kernel expert_kernel_avx512 = {
    .panel_bytes = TILE_PAIRS * sizeof(uint32_t),
    .pack = pack,
    .multiply = multiply,
    .activate = activate,
};

void cpu_expert_ffn_avx512(struct stream *stream, const struct expert_ffn_args *args)
{
    if (args->round)
        expert_batch_run(stream, args, &expert_kernel_avx512);
    else
        cpu_expert_ffn(stream, args);
}
