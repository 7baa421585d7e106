/* Experts with AMX, for processors that have its bf16 tiles. No machine has run this file yet.
 *
 * A 32-column tile of weights becomes bf16 pairs as with AVX-512, [16 pairs, 16 rows], which is the
 * form the second operand of tdpbf16ps wants; the panel's tokens are the rows of the first. Each
 * tile's products are stored, multiplied by the row scales and added, so that sums go in column
 * order and no scale can leave bf16's range. A panel is [tiles, tokens, 32 columns] of bf16. */
#include "kernels/cpu/expert_batch.h"

#include "kernels/cpu/expert_tile_avx512.h"
#include "kernels/cpu/expert_values.h"

#include <assert.h>
#include <immintrin.h>

/* Tile registers, which the intrinsics want as constants. */
#define TILE_SUMS    0
#define TILE_TOKENS  1
#define TILE_WEIGHTS 2

#define PAIRS          (EXPERT_TILE_COLUMNS / 2)
#define ROW_BYTES      64 /* of every operand: 16 pairs of a token, 16 rows of a pair, 16 sums */
#define PREFETCH_BYTES 8192

struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};
static_assert(sizeof(struct tile_config) == 64, "the processor reads 64 bytes");
static_assert(EXPERT_TILE_COLUMNS * sizeof(uint16_t) == ROW_BYTES, "a token's columns are a row");

static void configure(int32_t tokens)
{
    struct tile_config config = {.palette = 1};
    config.row_bytes[TILE_SUMS] = ROW_BYTES;
    config.rows[TILE_SUMS] = (uint8_t)tokens;
    config.row_bytes[TILE_TOKENS] = ROW_BYTES;
    config.rows[TILE_TOKENS] = (uint8_t)tokens;
    config.row_bytes[TILE_WEIGHTS] = ROW_BYTES;
    config.rows[TILE_WEIGHTS] = PAIRS;
    _tile_loadconfig(&config);
}

static void pack(const struct expert_panel *panel, int32_t token, int32_t first, int32_t count,
                 const float *x)
{
    float rounded[LOWP_FP8_BLOCK];
    for (int32_t block = 0; block < count; block += LOWP_FP8_BLOCK) {
        int32_t length = min_i32(LOWP_FP8_BLOCK, count - block);
        expert_values_quantise(x + block, length, rounded);
        for (int32_t i = 0; i < length; i++) {
            int32_t column = first + block + i;
            int32_t tile = column / EXPERT_TILE_COLUMNS, place = column % EXPERT_TILE_COLUMNS;
            uint16_t *row =
                (uint16_t *)(void *)panel->data +
                ((size_t)tile * (size_t)panel->tokens + (size_t)token) * EXPERT_TILE_COLUMNS;
            row[place] = (uint16_t)(lowp_bits(rounded[i]) >> 16); /* exact: fp8 times 2^k */
        }
    }
}

/* The tile's weights as [pairs, rows] of bf16 pairs. */
static void decode_tile(const uint8_t *codes, __m512i table, uint8_t weights[PAIRS * ROW_BYTES])
{
    for (int group = 0; group < 4; group++) {
        __m512i lanes = _mm512_loadu_si512(codes + group * ROW_BYTES);
        uint8_t *out = weights + group * 4 * ROW_BYTES;
        _mm_prefetch((const char *)codes + group * ROW_BYTES + PREFETCH_BYTES, _MM_HINT_T1);
        _mm512_storeu_si512(out, _mm512_permutexvar_epi16(lanes, table));
        _mm512_storeu_si512(out + ROW_BYTES,
                            _mm512_permutexvar_epi16(_mm512_srli_epi16(lanes, 4), table));
        _mm512_storeu_si512(out + 2 * ROW_BYTES,
                            _mm512_permutexvar_epi16(_mm512_srli_epi16(lanes, 8), table));
        _mm512_storeu_si512(out + 3 * ROW_BYTES,
                            _mm512_permutexvar_epi16(_mm512_srli_epi16(lanes, 12), table));
    }
}

static void multiply(const struct expert_band *band, const struct expert_panel *panel,
                     float sums[][EXPERT_TILE_ROWS])
{
    _Alignas(64) uint8_t weights[PAIRS * ROW_BYTES];
    _Alignas(64) float products[EXPERT_BLOCK_TOKENS][EXPERT_TILE_ROWS];
    __m512 totals[EXPERT_BLOCK_TOKENS];
    __m512i table = expert_tile_table();
    SL_DEBUG_ASSERT(panel->tokens >= 1 && panel->tokens <= EXPERT_BLOCK_TOKENS);
    configure(panel->tokens);
    for (int32_t t = 0; t < panel->tokens; t++)
        totals[t] = _mm512_setzero_ps();
    for (int32_t tile = 0; tile < band->tiles; tile++) {
        const uint8_t *tokens = panel->data + (size_t)tile * (size_t)panel->tokens * ROW_BYTES;
        decode_tile(band->codes + (size_t)tile * EXPERT_TILE_BYTES, table, weights);
        _tile_zero(TILE_SUMS);
        _tile_loadd(TILE_TOKENS, tokens, ROW_BYTES);
        _tile_loadd(TILE_WEIGHTS, weights, ROW_BYTES);
        _tile_dpbf16ps(TILE_SUMS, TILE_TOKENS, TILE_WEIGHTS);
        _tile_stored(TILE_SUMS, products, ROW_BYTES);
        __m512 scales = expert_tile_scales(band->scales + tile * EXPERT_TILE_ROWS);
        for (int32_t t = 0; t < panel->tokens; t++)
            totals[t] = _mm512_fmadd_ps(_mm512_load_ps(products[t]), scales, totals[t]);
    }
    for (int32_t t = 0; t < panel->tokens; t++)
        _mm512_storeu_ps(sums[t], totals[t]);
    _tile_release();
}

static void activate(const float *gate, const float *up, float weight, float limit, float *out)
{
    expert_values_activate(gate, up, weight, limit, EXPERT_TILE_ROWS, out);
}

const struct expert_kernel expert_kernel_amx = {
    .panel_bytes = ROW_BYTES,
    .pack = pack,
    .multiply = multiply,
    .activate = activate,
};

void cpu_expert_ffn_amx(struct stream *stream, const struct expert_ffn_args *args)
{
    if (args->round)
        expert_batch_run(stream, args, &expert_kernel_amx);
    else
        cpu_expert_ffn(stream, args);
}
