/* Experts with AVX2, in integers.
 *
 * Per token and 32 columns the rounded activations are put on a grid of 16 bits, a power of two
 * apart, the largest value just inside; weights become twice their value. Sums of their products
 * are exact, and times half a unit of the grid and the row's scale they are added up in f32. Only
 * e4m3 values below 2^-11 of their 32 columns' largest are rounded by the grid. Where these are
 * many enough to matter, by more than 1.5e-5 of the columns' root of squares, what the grid left of
 * them is a third digit, exact in eighths of a unit, and its sum is added.
 *
 * A single token is bounded by how fast weights are decoded. They become the bytes 2 * e2m1 + 12
 * through a shuffle, and are multiplied by two int8 digits of the grid, q = 256 * high + low:
 *     sum = half_unit * (sum of bytes * q - 12 * sum of q),
 * where vpmaddubsw over 16 columns stays within 4 * 2 * 24 * 128 < 2^15. For more tokens weights
 * are decoded into words once, and vpmaddwd multiplies them by whole grid values: half the products
 * and no joining of digits. The integers are exact, so both ways give the same bits. */
#include "kernels/cpu/expert_batch.h"

#include "kernels/cpu/expert_values.h"

#include <immintrin.h>

/* Ahead of the tile at work, into L2: L1 has too few lines under way. */
#define PREFETCH_BYTES 8192

#define REST_STEPS 8 /* of a unit: e4m3 has no finer digits below the largest value's */

/* One token's 32 columns. Those of each eight digits are in the order the nibbles come apart: of
 * the low nibbles 0 4 1 5, then of the high ones 2 6 3 7. */
struct digits {
    union {
        struct { /* of a single token */
            int8_t high[EXPERT_TILE_COLUMNS];
            int8_t low[EXPERT_TILE_COLUMNS];
        };
        int16_t grid[EXPERT_TILE_COLUMNS]; /* of one of several, in the columns' order */
    };
    int8_t rest[EXPERT_TILE_COLUMNS]; /* what the grid leaves, in units / REST_STEPS */
    float half_unit;
    float half_rest;     /* half_unit / REST_STEPS; 0: no rest worth adding */
    int32_t offset;      /* 12 * sum of q; of a single token */
    int32_t rest_offset; /* 12 * sum of the rests */
};

static inline uint32_t add_lanes(__m256i lanes)
{
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    return (uint32_t)_mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1)));
}

/* 32 integers that fit in bytes, each eight in the order 0 4 1 5 2 6 3 7: packing leaves the halves
 * of all eights side by side. */
static inline void store_bytes(const __m256i *integers, int8_t *out)
{
    __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(integers[0], integers[1]),
                                       _mm256_packs_epi32(integers[2], integers[3]));
    __m128i front = _mm256_castsi256_si128(bytes), back = _mm256_extracti128_si256(bytes, 1);
    _mm_storeu_si128((__m128i *)(void *)out, _mm_unpacklo_epi8(front, back));
    _mm_storeu_si128((__m128i *)(void *)(out + 16), _mm_unpackhi_epi8(front, back));
}

/* 32 integers of 16 bits, in order. */
static inline void store_grid(const __m256i *integers, int16_t *out)
{
    for (int i = 0; i < 4; i += 2) {
        __m256i words = _mm256_packs_epi32(integers[i], integers[i + 1]);
        words = _mm256_permute4x64_epi64(words, 0xd8);
        _mm256_storeu_si256((__m256i *)(void *)(out + 8 * i), words);
    }
}

static void split_digits(const float *x, bool is_single, struct digits *out)
{
    __m256i grids[4], high[4], low[4], rest[4];
    __m256i sum = _mm256_setzero_si256(), rest_sum = sum, squares = sum, rest_squares = sum;
    uint32_t exponent = expert_values_amax_bits(x, EXPERT_TILE_COLUMNS) >> 23;
    bool is_finite = exponent < 255;
    exponent = exponent > 15 ? exponent : 15; /* a block of zeros */
    __m256 inverse = _mm256_set1_ps(lowp_from_bits((268u - exponent) << 23));
    for (int i = 0; i < 4; i++) { /* NaN leaves anything in the grid */
        __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), inverse);
        __m256i grid = grids[i] = _mm256_cvtps_epi32(scaled);
        __m256 left = _mm256_sub_ps(scaled, _mm256_cvtepi32_ps(grid));
        __m256i coarse = _mm256_srai_epi32(grid, 7); /* whose squares fit in 32 bits */
        high[i] = _mm256_srai_epi32(_mm256_add_epi32(grid, _mm256_set1_epi32(128)), 8);
        low[i] = _mm256_sub_epi32(grid, _mm256_slli_epi32(high[i], 8));
        rest[i] = _mm256_cvtps_epi32(_mm256_mul_ps(left, _mm256_set1_ps(REST_STEPS)));
        sum = _mm256_add_epi32(sum, grid);
        rest_sum = _mm256_add_epi32(rest_sum, rest[i]);
        squares = _mm256_add_epi32(squares, _mm256_mullo_epi32(coarse, coarse));
        rest_squares = _mm256_add_epi32(rest_squares, _mm256_mullo_epi32(rest[i], rest[i]));
    }
    if (is_single) {
        store_bytes(high, out->high);
        store_bytes(low, out->low);
    } else {
        store_grid(grids, out->grid);
    }
    store_bytes(rest, out->rest);
    /* rests^2 / 64 > 2^-32 * q^2 */
    bool counts = is_finite && add_lanes(rest_squares) << 12 > add_lanes(squares);
    out->half_unit = lowp_from_bits(is_finite ? (exponent - 15) << 23 : 0x7fc00000u);
    out->half_rest = counts ? out->half_unit / REST_STEPS : 0.0f;
    out->offset = (int32_t)(12 * add_lanes(sum));
    out->rest_offset = (int32_t)(12 * add_lanes(rest_sum));
}

static void pack(const struct expert_panel *panel, int32_t token, int32_t first, int32_t count,
                 const float *x)
{
    float rounded[LOWP_FP8_BLOCK];
    struct digits *digits = (struct digits *)(void *)panel->data;
    digits += (size_t)(first / EXPERT_TILE_COLUMNS) * (size_t)panel->tokens + (size_t)token;
    for (int32_t block = 0; block < count; block += LOWP_FP8_BLOCK) {
        int32_t length = min_i32(LOWP_FP8_BLOCK, count - block);
        expert_values_quantise(x + block, length, rounded);
        for (int32_t i = 0; i < length; i += EXPERT_TILE_COLUMNS) {
            split_digits(rounded + i, panel->tokens == 1, digits);
            digits += panel->tokens;
        }
    }
}

/* 2^(code - 127) of 8 rows; the least, code 0, is subnormal. */
static inline __m256 load_scales(const uint8_t *codes)
{
    __m256i exponents = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)codes));
    __m256i bits = _mm256_slli_epi32(exponents, 23);
    return _mm256_castsi256_ps(_mm256_max_epu32(bits, _mm256_set1_epi32(0x400000)));
}

static inline __m256i broadcast(const void *digits)
{
    int32_t word;
    memcpy(&word, digits, sizeof word);
    return _mm256_set1_epi32(word);
}

/* Bytes of 8 columns of 8 rows times one digit of theirs. */
static inline __m256i multiply_digits(__m256i first, __m256i second, const int8_t *digits)
{
    return _mm256_add_epi16(_mm256_maddubs_epi16(first, broadcast(digits)),
                            _mm256_maddubs_epi16(second, broadcast(digits + 4)));
}

/* 256 * high + low, neighbours added: one integer a row. */
static inline __m256i join_digits(__m256i highs, __m256i lows)
{
    return _mm256_add_epi32(_mm256_madd_epi16(highs, _mm256_set1_epi16(256)),
                            _mm256_madd_epi16(lows, _mm256_set1_epi16(1)));
}

/* The weights of 8 columns of 8 rows as bytes: columns 0 4 1 5 of each row, then 2 6 3 7. */
static inline void decode_group(const uint8_t *codes, __m256i *weights)
{
    const __m256i table = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    const __m256i mask = _mm256_set1_epi8(15);
    __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)codes);
    __m256i high = _mm256_srli_epi16(low, 4);
    weights[0] = _mm256_shuffle_epi8(table, _mm256_and_si256(low, mask));
    weights[1] = _mm256_shuffle_epi8(table, _mm256_and_si256(high, mask));
}

static inline void prefetch_tile(const uint8_t *codes)
{
    for (int line = 0; line < EXPERT_TILE_BYTES; line += 64)
        _mm_prefetch((const char *)codes + PREFETCH_BYTES + line, _MM_HINT_T1);
}

/* The sum of 8 rows' digits as f32, without the row's scale. */
static inline __m256 scale_digits(__m256i whole, const struct digits *digits)
{
    return _mm256_mul_ps(_mm256_cvtepi32_ps(whole), _mm256_set1_ps(digits->half_unit));
}

/* Adds 8 columns of 8 rows of a single token to its digit sums. */
static inline void add_group(const uint8_t *codes, const struct digits *digits, int32_t column,
                             __m256i *highs, __m256i *lows)
{
    __m256i weights[2];
    decode_group(codes, weights);
    *highs =
        _mm256_add_epi16(*highs, multiply_digits(weights[0], weights[1], digits->high + column));
    *lows = _mm256_add_epi16(*lows, multiply_digits(weights[0], weights[1], digits->low + column));
}

/* Adds the rests of one tile, just used, for every token that has some. Apart, as it is seldom
 * called for. */
static void __attribute__((noinline))
add_rests(const uint8_t *codes, const uint8_t *scales, const struct digits *digits, int32_t tokens,
          float (*sums)[EXPERT_TILE_ROWS])
{
    for (int half = 0; half < 2; half++, codes += 32, scales += 8) {
        __m256i weights[8];
        for (int group = 0; group < 4; group++)
            decode_group(codes + EXPERT_TILE_BYTES / 4 * group, weights + 2 * group);
        for (int32_t t = 0; t < tokens; t++) {
            __m256i rests = _mm256_setzero_si256(); /* 32 columns: within 16 * 2 * 24 * 4 */
            float *target = &sums[t][8 * half];
            if (digits[t].half_rest == 0) continue;
            for (int i = 0; i < 8; i += 2)
                rests = _mm256_add_epi16(
                    rests, multiply_digits(weights[i], weights[i + 1], digits[t].rest + 4 * i));
            __m256i whole = _mm256_madd_epi16(rests, _mm256_set1_epi16(1));
            whole = _mm256_sub_epi32(whole, _mm256_set1_epi32(digits[t].rest_offset));
            __m256 sum =
                _mm256_mul_ps(_mm256_cvtepi32_ps(whole), _mm256_set1_ps(digits[t].half_rest));
            _mm256_storeu_ps(target,
                             _mm256_fmadd_ps(sum, load_scales(scales), _mm256_loadu_ps(target)));
        }
    }
}

/* Both halves of a tile together, so that the token's digits are loaded once, and sums in
 * registers.
 */
static void multiply_one(const struct expert_band *band, const struct digits *digits, float *out)
{
    const uint8_t *codes = band->codes;
    const uint8_t *scales = band->scales;
    __m256 sums[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int32_t tile = 0; tile < band->tiles; tile++, digits++) {
        __m256i whole[2];
        prefetch_tile(codes);
        whole[0] = whole[1] =
            _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_set1_epi32(digits->offset));
        for (int32_t column = 0; column < EXPERT_TILE_COLUMNS; column += 16) {
            __m256i highs[2], lows[2];
            for (int half = 0; half < 2; half++)
                highs[half] = lows[half] = _mm256_setzero_si256();
            for (int32_t group = column; group < column + 16; group += 8)
                for (int half = 0; half < 2; half++)
                    add_group(codes + 8 * group + 32 * half, digits, group, &highs[half],
                              &lows[half]);
            for (int half = 0; half < 2; half++)
                whole[half] = _mm256_add_epi32(whole[half], join_digits(highs[half], lows[half]));
        }
        for (int half = 0; half < 2; half++) {
            __m256 sum = scale_digits(whole[half], digits);
            sums[half] = _mm256_fmadd_ps(sum, load_scales(scales + 8 * half), sums[half]);
        }
        if (digits->half_rest != 0) {
            float kept[1][EXPERT_TILE_ROWS];
            _mm256_storeu_ps(kept[0], sums[0]);
            _mm256_storeu_ps(kept[0] + 8, sums[1]);
            add_rests(codes, scales, digits, 1, kept);
            sums[0] = _mm256_loadu_ps(kept[0]);
            sums[1] = _mm256_loadu_ps(kept[0] + 8);
        }
        codes += EXPERT_TILE_BYTES;
        scales += EXPERT_TILE_ROWS;
    }
    _mm256_storeu_ps(out, sums[0]);
    _mm256_storeu_ps(out + 8, sums[1]);
}

/* ---- several tokens ------------------------------------------------------------------------ */

#define PAIRS (EXPERT_TILE_COLUMNS / 2)

/* Twice the weights of a tile: of each row the columns 2k and 2k + 1, for rows 0 .. 7 and 8 .. 15.
 */
typedef __m256i tile_words[PAIRS][2];

static inline void decode_tile(const uint8_t *codes, tile_words words)
{
    const __m256i table = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12));
    const __m256i mask = _mm256_set1_epi8(15);
    for (int i = 0; i < 8; i++, codes += 32) {
        __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)codes);
        __m256i high = _mm256_srli_epi16(low, 4);
        low = _mm256_shuffle_epi8(table, _mm256_and_si256(low, mask)); /* columns 0 4 1 5 */
        high = _mm256_shuffle_epi8(table, _mm256_and_si256(high, mask));
        __m256i(*pairs)[2] = &words[i / 2 * 4];
        pairs[0][i % 2] = _mm256_srai_epi16(_mm256_slli_epi16(low, 8), 8);
        pairs[1][i % 2] = _mm256_srai_epi16(_mm256_slli_epi16(high, 8), 8);
        pairs[2][i % 2] = _mm256_srai_epi16(low, 8);
        pairs[3][i % 2] = _mm256_srai_epi16(high, 8);
    }
}

/* Adds a tile for up to four tokens. */
static inline __attribute__((always_inline)) void add_tile(const tile_words words,
                                                           const uint8_t *scales,
                                                           const struct digits *digits, int tokens,
                                                           float (*sums)[EXPERT_TILE_ROWS])
{
    __m256i wholes[4][2];
    for (int t = 0; t < tokens; t++)
        for (int half = 0; half < 2; half++)
            wholes[t][half] = _mm256_setzero_si256();
#pragma GCC unroll 4
    for (int k = 0; k < PAIRS; k++) {
        for (int t = 0; t < tokens; t++) {
            __m256i pair = broadcast(digits[t].grid + 2 * k);
            for (int half = 0; half < 2; half++)
                wholes[t][half] =
                    _mm256_add_epi32(wholes[t][half], _mm256_madd_epi16(words[k][half], pair));
        }
    }
    for (int half = 0; half < 2; half++) {
        __m256 scale = load_scales(scales + 8 * half);
        for (int t = 0; t < tokens; t++) {
            float *target = &sums[t][8 * half];
            __m256 sum = scale_digits(wholes[t][half], &digits[t]);
            _mm256_storeu_ps(target, _mm256_fmadd_ps(sum, scale, _mm256_loadu_ps(target)));
        }
    }
}

static inline void add_tile_of(const tile_words words, const uint8_t *scales,
                               const struct digits *digits, int32_t tokens,
                               float (*sums)[EXPERT_TILE_ROWS])
{
    switch (tokens) {
    case 1: add_tile(words, scales, digits, 1, sums); break;
    case 2: add_tile(words, scales, digits, 2, sums); break;
    case 3: add_tile(words, scales, digits, 3, sums); break;
    default: add_tile(words, scales, digits, 4, sums); break;
    }
}

static void multiply_several(const struct expert_band *band, const struct digits *digits,
                             int32_t tokens, float sums[][EXPERT_TILE_ROWS])
{
    const uint8_t *codes = band->codes;
    const uint8_t *scales = band->scales;
    tile_words words;
    memset(sums, 0, (size_t)tokens * sizeof *sums);
    for (int32_t tile = 0; tile < band->tiles; tile++) {
        bool any = false;
        prefetch_tile(codes);
        decode_tile(codes, words);
        for (int32_t t = 0; t < tokens; t += 4)
            add_tile_of(words, scales, digits + t, tokens - t, sums + t);
        for (int32_t t = 0; t < tokens; t++)
            any |= digits[t].half_rest != 0;
        if (any) add_rests(codes, scales, digits, tokens, sums);
        codes += EXPERT_TILE_BYTES;
        scales += EXPERT_TILE_ROWS;
        digits += tokens;
    }
}

/* -------------------------------------------------------------------------------------------- */

static void multiply(const struct expert_band *band, const struct expert_panel *panel,
                     float sums[][EXPERT_TILE_ROWS])
{
    const struct digits *digits = (const struct digits *)(const void *)panel->data;
    if (panel->tokens == 1)
        multiply_one(band, digits, sums[0]);
    else
        multiply_several(band, digits, panel->tokens, sums);
}

static void activate(const float *gate, const float *up, float weight, float limit, float *out)
{
    expert_values_activate(gate, up, weight, limit, EXPERT_TILE_ROWS, out);
}

const struct expert_kernel expert_kernel_avx2 = {
    .panel_bytes = sizeof(struct digits),
    .pack = pack,
    .multiply = multiply,
    .activate = activate,
};

void cpu_expert_ffn_avx2(struct stream *stream, const struct expert_ffn_args *args)
{
    if (args->round)
        expert_batch_run(stream, args, &expert_kernel_avx2);
    else
        cpu_expert_ffn(stream, args);
}
