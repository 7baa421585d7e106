/* Experts with AVX2, in integers.
 *
 * Per token and 32 columns the rounded activations are put on a grid of 16 bits (a power of two
 * apart, the largest value just inside) and split into two int8 digits, q = 256 * high + low;
 * weights become the bytes 2 * e2m1 + 12 through a shuffle. Sums of their products are exact:
 * vpmaddubsw over 16 columns stays within 4 * 2 * 24 * 128 < 2^15. Only e4m3 values below 2^-12 of
 * their 32 columns' largest are rounded by the grid. What remains is
 *     sum = half_unit * (sum of bytes * q - 12 * sum of q),
 * times the row's scale, added up in f32. */
#include "kernels/cpu/expert_batch.h"

#include "kernels/cpu/expert_values.h"

#include <immintrin.h>

#define PREFETCH_BYTES                                                                             \
    8192 /* ahead of the tile at work, into L2: L1 has too few lines under way                     \
          */

/* One token's 32 columns. Columns of each eight are in the order the nibbles come apart: of the
 * low nibbles 0 4 1 5, then of the high ones 2 6 3 7. */
struct digits {
    int8_t high[EXPERT_TILE_COLUMNS];
    int8_t low[EXPERT_TILE_COLUMNS];
    float half_unit;
    int32_t offset; /* 12 * sum of q */
};

static void split_digits(const float *x, struct digits *out)
{
    static const uint8_t order[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    int32_t grid[EXPERT_TILE_COLUMNS];
    uint32_t sum = 0; /* unsigned, as NaN leaves anything in the grid */
    uint32_t exponent = expert_values_amax_bits(x, EXPERT_TILE_COLUMNS) >> 23;
    bool is_finite = exponent < 255;
    exponent = exponent > 15 ? exponent : 15; /* a block of zeros */
    float inverse = lowp_from_bits((268u - exponent) << 23);
    for (int32_t i = 0; i < EXPERT_TILE_COLUMNS; i++) {
        /* The nearest integer lies in the low bits of the sum. */
        grid[i] = (int32_t)(lowp_bits(x[i] * inverse + 0x1.8p23f) - 0x4b400000u);
        sum += (uint32_t)grid[i];
    }
    for (int32_t i = 0; i < EXPERT_TILE_COLUMNS; i++) {
        int32_t q = grid[(i & ~7) + order[i & 7]];
        int32_t high = (q + 128) >> 8;
        out->high[i] = (int8_t)high;
        out->low[i] = (int8_t)(q - 256 * high);
    }
    out->half_unit = lowp_from_bits(is_finite ? (exponent - 15) << 23 : 0x7fc00000u);
    out->offset = (int32_t)(12 * sum);
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
            split_digits(rounded + i, digits);
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

static inline __m256i broadcast(const int8_t *digits)
{
    int32_t four;
    memcpy(&four, digits, sizeof four);
    return _mm256_set1_epi32(four);
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

/* The integer sum of 16 columns. */
static inline __m256i multiply_half(const __m256i *weights, const struct digits *digits,
                                    int32_t column)
{
    const int8_t *high = digits->high + column;
    const int8_t *low = digits->low + column;
    __m256i highs = _mm256_add_epi16(multiply_digits(weights[0], weights[1], high),
                                     multiply_digits(weights[2], weights[3], high + 8));
    __m256i lows = _mm256_add_epi16(multiply_digits(weights[0], weights[1], low),
                                    multiply_digits(weights[2], weights[3], low + 8));
    return join_digits(highs, lows);
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

/* Adds 8 rows of one tile for every token. */
static inline void add_rows(const uint8_t *codes, __m256 scales, const struct digits *digits,
                            int32_t tokens, float (*sums)[EXPERT_TILE_ROWS])
{
    __m256i weights[8];
    for (int group = 0; group < 4; group++)
        decode_group(codes + EXPERT_TILE_BYTES / 4 * group, weights + 2 * group);
    for (int32_t t = 0; t < tokens; t++, digits++) {
        __m256i whole = _mm256_add_epi32(multiply_half(weights, digits, 0),
                                         multiply_half(weights + 4, digits, 16));
        whole = _mm256_sub_epi32(whole, _mm256_set1_epi32(digits->offset));
        __m256 sum = _mm256_mul_ps(_mm256_cvtepi32_ps(whole), _mm256_set1_ps(digits->half_unit));
        _mm256_storeu_ps(sums[t], _mm256_fmadd_ps(sum, scales, _mm256_loadu_ps(sums[t])));
    }
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

/* A single token: both halves of a tile together, so that its digits are loaded once, and sums in
 * registers. The integers are exact, so the results are those of any number of tokens. */
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
            __m256 sum =
                _mm256_mul_ps(_mm256_cvtepi32_ps(whole[half]), _mm256_set1_ps(digits->half_unit));
            sums[half] = _mm256_fmadd_ps(sum, load_scales(scales + 8 * half), sums[half]);
        }
        codes += EXPERT_TILE_BYTES;
        scales += EXPERT_TILE_ROWS;
    }
    _mm256_storeu_ps(out, sums[0]);
    _mm256_storeu_ps(out + 8, sums[1]);
}

static void multiply(const struct expert_band *band, const struct expert_panel *panel,
                     float sums[][EXPERT_TILE_ROWS])
{
    const struct digits *digits = (const struct digits *)(const void *)panel->data;
    const uint8_t *codes = band->codes;
    const uint8_t *scales = band->scales;
    if (panel->tokens == 1) {
        multiply_one(band, digits, sums[0]);
        return;
    }
    memset(sums, 0, (size_t)panel->tokens * sizeof *sums);
    for (int32_t tile = 0; tile < band->tiles; tile++) {
        prefetch_tile(codes);
        for (int half = 0; half < 2; half++)
            add_rows(codes + 32 * half, load_scales(scales + 8 * half), digits, panel->tokens,
                     (float(*)[EXPERT_TILE_ROWS])(void *)&sums[0][8 * half]);
        codes += EXPERT_TILE_BYTES;
        scales += EXPERT_TILE_ROWS;
        digits += panel->tokens;
    }
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
