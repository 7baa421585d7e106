/* Matrix products with AVX2 and FMA: f32 products of exactly decoded weights. Within 2e-6 of the
 * sum of the products' magnitudes; the two NaN codes of e4m3 count as +-480.
 *
 * fp8 and bf16 weights are decoded where they lie in a vector: even and odd columns come apart by
 * shifts, and inputs are put in that order once a token. The digits of e4m3 move into bf16's place,
 * or, where a code among those at hand is below 2^-6 (one in 5000 of trained weights), more slowly
 * into that of f16, which knows such values. One or two tokens meet the weights in registers, row
 * by row as they lie in memory; more find eight rows decoded in a panel, where tiles of four rows
 * and three tokens keep their sums in registers. */
#include "kernels/cpu/linear_float.h"
#include "kernels/cpu/variants.h"

#define FEW 2 /* tokens that take weights from registers */
/* Blocks of a row whose sums grow together, to hide how long each takes; half as many of bf16,
 * which is quick to decode and is read from memory faster in shorter leaps. */
#define SIDE_BY_SIDE 4
#define STEP         32 /* columns decoded at once */
#define STEP_VECTORS (STEP / SIMD_LANES)
#define PANEL        512 /* columns of a panel: its 16 KiB and the tile's inputs fit the L1 cache */
#define PANEL_BLOCKS (PANEL / LINEAR_BLOCK)
#define PANEL_QUADS  2 /* of LINEAR_ROWS */
#define TILE_TOKENS  3

/* Weights are fetched into L2 this far ahead, line by line. Rows follow each other in memory, so
 * the distance runs on from row to row. */
#define AHEAD_BYTES 4096
#define LINE_BYTES  64

/* What the codes decoded together may be. */
enum coding {
    CODING_BF16,
    CODING_E4M3,       /* none below 2^-6: the exponent of none is 0 */
    CODING_E4M3_SMALL, /* any */
};

SIMD_INLINE __m256i load_codes(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

/* How the e4m3 codes of STEP columns of `group` neighbouring blocks are to be decoded. */
SIMD_INLINE enum coding find_coding(enum matrix_format format, const uint8_t *codes, int group)
{
    const __m256i exponent = _mm256_set1_epi8(0x78);
    __m256i least = exponent;
    if (format == MATRIX_BF16) return CODING_BF16;
    for (int b = 0; b < group; b++)
        least = _mm256_min_epu8(least,
                                _mm256_and_si256(load_codes(codes + b * LINEAR_BLOCK), exponent));
    least = _mm256_cmpeq_epi8(least, _mm256_setzero_si256());
    return __builtin_expect(_mm256_movemask_epi8(least) != 0, 0) ? CODING_E4M3_SMALL : CODING_E4M3;
}

/* The even, then the odd values of 16 bf16 codes. */
SIMD_INLINE void split_bf16(__m256i codes, __m256 *even, __m256 *odd)
{
    *even = _mm256_castsi256_ps(_mm256_slli_epi32(codes, 16));
    *odd = _mm256_castsi256_ps(_mm256_and_si256(codes, _mm256_set1_epi32((int)0xffff0000u)));
}

/* STEP weights. Of bf16 codes the even columns of each sixteen, then the
 * odd ones. Of e4m3 codes columns 0 4 .. 28, 2 6 .. 30, 1 5 .. 29, 3 7 .. 31. */
SIMD_INLINE void decode_step(enum coding coding, const uint8_t *p, __m256 *out)
{
    __m256i codes = load_codes(p);
    if (coding == CODING_BF16) {
        split_bf16(codes, &out[0], &out[1]);
        split_bf16(load_codes(p + 32), &out[2], &out[3]);
        return;
    }
    __m256i even = _mm256_slli_epi16(codes, 8);
    if (coding == CODING_E4M3) { /* bf16's exponent counts from 127, that of e4m3 from 7 */
        const __m256i mask = _mm256_set1_epi16((int16_t)0x87f0);
        const __m256i bias = _mm256_set1_epi16((127 - 7) << 7);
        even = _mm256_and_si256(_mm256_srai_epi16(even, 4), mask);
        __m256i odd = _mm256_and_si256(_mm256_srai_epi16(codes, 4), mask);
        split_bf16(_mm256_add_epi16(even, bias), &out[0], &out[1]);
        split_bf16(_mm256_add_epi16(odd, bias), &out[2], &out[3]);
        return;
    }
    /* As f16, whose exponent counts from 15, also where it is 0. */
    const __m256 factor = _mm256_set1_ps(256.0f);
    const __m256i mask = _mm256_set1_epi16((int16_t)0xbf80);
    even = _mm256_and_si256(_mm256_srai_epi16(even, 1), mask);
    __m256i odd = _mm256_and_si256(_mm256_srai_epi16(codes, 1), mask);
    for (int i = 0; i < 2; i++) {
        /* Even words of each eight to the front, so that a half holds what split_bf16 gives. */
        const __m256i order =
            _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0, 1, 4, 5, 8, 9,
                             12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
        __m256i words = _mm256_shuffle_epi8(i ? odd : even, order);
        words = _mm256_permute4x64_epi64(words, 0xd8);
        out[2 * i] = _mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(words)), factor);
        out[2 * i + 1] = _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(words, 1)), factor);
    }
}

/* sums[b][t] += STEP columns of `group` blocks times one or two tokens. */
SIMD_INLINE void multiply_step(enum coding coding, const uint8_t *data, int block_bytes, int group,
                               const float *x, size_t x_stride, int tokens, __m256 (*sums)[FEW])
{
    /* Else the compiler loads the inputs for all codings before it knows which, and spills them. */
    __asm__("" : "+r"(x));
    for (int b = 0; b < group; b++) {
        __m256 weights[STEP_VECTORS];
        decode_step(coding, data + b * block_bytes, weights);
        for (int t = 0; t < tokens; t++)
            for (int i = 0; i < STEP_VECTORS; i++)
                sums[b][t] = _mm256_fmadd_ps(
                    _mm256_loadu_ps(x + (size_t)t * x_stride + b * LINEAR_BLOCK + i * SIMD_LANES),
                    weights[i], sums[b][t]);
    }
}

/* kept[t] += `group` blocks of a row times one or two tokens. */
SIMD_INLINE void multiply_group(enum matrix_format format, const uint8_t *data, const float *scales,
                                int group, const float *x, size_t x_stride, int tokens,
                                __m256 *kept)
{
    int bytes = format == MATRIX_BF16 ? 2 : 1;
    __m256 sums[SIDE_BY_SIDE][FEW];
    for (int i = 0; i < group * LINEAR_BLOCK * bytes; i += LINE_BYTES)
        _mm_prefetch((const char *)((uintptr_t)data + AHEAD_BYTES + (size_t)i), _MM_HINT_T1);
    for (int b = 0; b < group; b++)
        for (int t = 0; t < tokens; t++)
            sums[b][t] = _mm256_setzero_ps();
    for (int c = 0; c < LINEAR_BLOCK; c += STEP) {
        const uint8_t *step = data + c * bytes;
        switch (find_coding(format, step, group)) {
        case CODING_BF16:
            multiply_step(CODING_BF16, step, 2 * LINEAR_BLOCK, group, x + c, x_stride, tokens,
                          sums);
            break;
        case CODING_E4M3:
            multiply_step(CODING_E4M3, step, LINEAR_BLOCK, group, x + c, x_stride, tokens, sums);
            break;
        case CODING_E4M3_SMALL:
            multiply_step(CODING_E4M3_SMALL, step, LINEAR_BLOCK, group, x + c, x_stride, tokens,
                          sums);
            break;
        }
    }
    for (int b = 0; b < group; b++)
        for (int t = 0; t < tokens; t++)
            kept[t] = _mm256_fmadd_ps(sums[b][t], _mm256_set1_ps(scales[b]), kept[t]);
}

/* totals[t] += `blocks` blocks of a row times one or two tokens. */
SIMD_INLINE void multiply_blocks(enum matrix_format format, const uint8_t *data,
                                 const float *scales, int32_t blocks, const float *x,
                                 size_t x_stride, int tokens, __m256 *totals)
{
    size_t block_bytes = LINEAR_BLOCK * linear_weight_bytes(format);
    __m256 kept[FEW];
    for (int t = 0; t < tokens; t++)
        kept[t] = totals[t];
    int32_t block = 0;
    const int group = format == MATRIX_BF16 ? SIDE_BY_SIDE / 2 : SIDE_BY_SIDE;
    for (; block + group <= blocks; block += group)
        multiply_group(format, data + (size_t)block * block_bytes, scales + block, group,
                       x + (size_t)block * LINEAR_BLOCK, x_stride, tokens, kept);
    for (; block < blocks; block++)
        multiply_group(format, data + (size_t)block * block_bytes, scales + block, 1,
                       x + (size_t)block * LINEAR_BLOCK, x_stride, tokens, kept);
    for (int t = 0; t < tokens; t++)
        totals[t] = kept[t];
}

/* totals[t][r] of up to four rows, one after the other, and one or two tokens. */
SIMD_INLINE void multiply_few(const struct linear_rows *args, enum matrix_format format,
                              const struct linear_float_rows *rows, struct linear_span *span,
                              int tokens, linear_float_totals *totals)
{
    uint8_t tail[4 * LINEAR_BLOCK];
    int32_t blocks = linear_blocks(args->weight);
    int32_t step = tokens == 1 ? LINEAR_SPAN : LINEAR_SPAN_FEW;
    int32_t whole = rows->columns / LINEAR_BLOCK;
    __m256 sums[LINEAR_ROWS][FEW];
    for (int r = 0; r < LINEAR_ROWS; r++)
        for (int t = 0; t < tokens; t++)
            sums[r][t] = _mm256_setzero_ps();
    for (int32_t first = 0; first < blocks; first += step) {
        const float *x = (const float *)args->input + (size_t)first * LINEAR_BLOCK;
        int32_t count = min_i32(step, whole - first);
        for (int r = 0; r < LINEAR_ROWS; r++) {
            linear_span_decode(span, args->weight, rows->number[r], first, step);
            multiply_blocks(format, linear_float_find(format, rows, r, first, tail), span->scales,
                            count, x, args->input_stride, tokens, sums[r]);
            if (first + count == blocks || first + step < blocks) continue;
            multiply_blocks(format, linear_float_find(format, rows, r, whole, tail),
                            span->scales + count, 1, x + (size_t)count * LINEAR_BLOCK,
                            args->input_stride, tokens, sums[r]);
        }
    }
    for (int r = 0; r < LINEAR_ROWS; r++)
        for (int t = 0; t < tokens; t++)
            totals[t][r] = sums[r][t];
}

/* Four rows of some blocks, decoded; eight columns of each in turn. */
struct panel {
    _Alignas(64) float weights[PANEL_BLOCKS][LINEAR_BLOCK / SIMD_LANES][LINEAR_ROWS][SIMD_LANES];
    float scales[PANEL_BLOCKS][LINEAR_ROWS];
};

SIMD_INLINE void decode_panel(const struct linear_rows *args, enum matrix_format format,
                              const struct linear_float_rows *rows, int32_t first, int32_t count,
                              struct panel *panel)
{
    uint8_t tail[4 * LINEAR_BLOCK];
    size_t bytes = linear_weight_bytes(format);
    for (int r = 0; r < LINEAR_ROWS; r++) {
        for (int32_t b = 0; b < count; b++) {
            const uint8_t *data = linear_float_find(format, rows, r, first + b, tail);
            panel->scales[b][r] = linear_scale(args->weight, rows->number[r], first + b);
            for (size_t i = 0; i < LINEAR_BLOCK * bytes; i += LINE_BYTES)
                _mm_prefetch((const char *)((uintptr_t)data + AHEAD_BYTES + i), _MM_HINT_T1);
            for (int c = 0; c < LINEAR_BLOCK; c += STEP) {
                __m256 weights[STEP_VECTORS];
                const uint8_t *step = data + (size_t)c * bytes;
                if (find_coding(format, step, 1) == CODING_E4M3_SMALL)
                    decode_step(CODING_E4M3_SMALL, step, weights);
                else
                    decode_step(format == MATRIX_BF16 ? CODING_BF16 : CODING_E4M3, step, weights);
                for (int i = 0; i < STEP_VECTORS; i++)
                    _mm256_store_ps(panel->weights[b][c / SIMD_LANES + i][r], weights[i]);
            }
        }
    }
}

/* totals[t][r] += `count` blocks of a panel times up to TILE_TOKENS tokens. */
SIMD_INLINE void multiply_tile(const struct panel *panel, int32_t count, const float *x,
                               size_t x_stride, int tokens, linear_float_totals *totals)
{
    const float *weights = panel->weights[0][0][0];
    for (int32_t b = 0; b < count; b++) {
        __m256 sums[TILE_TOKENS][LINEAR_ROWS];
        /* Else the compiler loads the totals before the sums, and spills them. */
        __asm__ volatile("" ::: "memory");
        for (int t = 0; t < tokens; t++)
            for (int r = 0; r < LINEAR_ROWS; r++)
                sums[t][r] = _mm256_setzero_ps();
#pragma GCC unroll 4
        for (int c = 0; c < LINEAR_BLOCK; c += SIMD_LANES) {
            __m256 inputs[TILE_TOKENS];
            for (int t = 0; t < tokens; t++)
                inputs[t] = _mm256_loadu_ps(x + (size_t)t * x_stride);
            for (int r = 0; r < LINEAR_ROWS; r++) {
                __m256 weight = _mm256_load_ps(weights + r * SIMD_LANES);
                for (int t = 0; t < tokens; t++)
                    sums[t][r] = _mm256_fmadd_ps(inputs[t], weight, sums[t][r]);
            }
            x += SIMD_LANES;
            weights += LINEAR_ROWS * SIMD_LANES;
        }
        for (int r = 0; r < LINEAR_ROWS; r++) {
            __m256 scale = _mm256_set1_ps(panel->scales[b][r]);
            for (int t = 0; t < tokens; t++)
                totals[t][r] = _mm256_fmadd_ps(sums[t][r], scale, totals[t][r]);
        }
    }
}

/* All tokens against the panels of up to eight rows: by threes, the last two or four by twos. */
SIMD_INLINE void multiply_panels(const struct linear_rows *args, const struct panel *panels,
                                 int quads, int32_t first, int32_t count,
                                 linear_float_totals (*totals)[LINEAR_TOKENS_MAX])
{
    size_t stride = args->input_stride;
    int32_t left = args->tokens;
    for (int32_t t = 0; t < args->tokens; t = args->tokens - left) {
        const float *x =
            (const float *)args->input + (size_t)t * stride + (size_t)first * LINEAR_BLOCK;
        int32_t tokens = left == 4 || left < 3 ? min_i32(left, 2) : 3;
        for (int q = 0; q < quads; q++) {
            switch (tokens) {
            case 1: multiply_tile(&panels[q], count, x, stride, 1, &totals[q][t]); break;
            case 2: multiply_tile(&panels[q], count, x, stride, 2, &totals[q][t]); break;
            default: multiply_tile(&panels[q], count, x, stride, 3, &totals[q][t]); break;
            }
        }
        left -= tokens;
    }
}

/* Row first .. and up to seven more, for any number of tokens. */
SIMD_INLINE void multiply_many(const struct linear_rows *args, enum matrix_format format,
                               int32_t first)
{
    struct panel panels[PANEL_QUADS];
    linear_float_totals totals[PANEL_QUADS][LINEAR_TOKENS_MAX];
    struct linear_float_rows rows[PANEL_QUADS];
    int32_t blocks = linear_blocks(args->weight);
    int quads =
        ceil_div_i32(min_i32(args->row_count - first, PANEL_QUADS * LINEAR_ROWS), LINEAR_ROWS);
    for (int q = 0; q < quads; q++) {
        rows[q] = linear_float_take(args, format, first + q * LINEAR_ROWS);
        memset(totals[q], 0, (size_t)args->tokens * sizeof totals[q][0]);
    }
    for (int32_t block = 0; block < blocks; block += PANEL_BLOCKS) {
        int32_t count = min_i32(PANEL_BLOCKS, blocks - block);
        for (int q = 0; q < quads; q++)
            decode_panel(args, format, &rows[q], block, count, &panels[q]);
        multiply_panels(args, panels, quads, block, count, totals);
    }
    for (int q = 0; q < quads; q++)
        linear_float_finish(args, first + q * LINEAR_ROWS, totals[q]);
}

SIMD_INLINE void multiply_rows(const struct linear_rows *args, enum matrix_format format)
{
    struct linear_span span = {.count = 0};
    linear_float_totals totals[FEW];
    if (args->tokens > FEW) {
        for (int32_t first = 0; first < args->row_count; first += PANEL_QUADS * LINEAR_ROWS)
            multiply_many(args, format, first);
        return;
    }
    for (int i = 0; format != MATRIX_FP8 && i < LINEAR_SPAN; i++)
        span.scales[i] = 1.0f;
    for (int32_t first = 0; first < args->row_count; first += LINEAR_ROWS) {
        struct linear_float_rows rows = linear_float_take(args, format, first);
        if (args->tokens == 1)
            multiply_few(args, format, &rows, &span, 1, totals);
        else
            multiply_few(args, format, &rows, &span, 2, totals);
        linear_float_finish(args, first, totals);
    }
}

static void multiply_fp8(const struct linear_rows *args)
{
    multiply_rows(args, MATRIX_FP8);
}

static void multiply_bf16(const struct linear_rows *args)
{
    multiply_rows(args, MATRIX_BF16);
}

/* One token's inputs in the order in which decode_step leaves the weights. */
static void prepare_bf16(const float *x, int32_t columns, bool quantise, void *input)
{
    float *out = input;
    quantise_vector_input(x, columns, quantise, out);
    for (int32_t first = 0; first < columns; first += 2 * SIMD_LANES, out += 2 * SIMD_LANES) {
        __m256 front = _mm256_loadu_ps(out), back = _mm256_loadu_ps(out + SIMD_LANES);
        __m256 low = _mm256_permute2f128_ps(front, back, 0x20);
        __m256 high = _mm256_permute2f128_ps(front, back, 0x31);
        _mm256_storeu_ps(out, _mm256_shuffle_ps(low, high, 0x88));
        _mm256_storeu_ps(out + SIMD_LANES, _mm256_shuffle_ps(low, high, 0xdd));
    }
}

static void prepare_fp8(const float *x, int32_t columns, bool quantise, void *input)
{
    float *out = input;
    quantise_vector_input(x, columns, quantise, out);
    for (int32_t first = 0; first < columns; first += STEP, out += STEP) {
        __m256 v[STEP_VECTORS], four[STEP_VECTORS];
        for (int i = 0; i < STEP_VECTORS; i++)
            v[i] = _mm256_loadu_ps(out + i * SIMD_LANES);
        for (int i = 0; i < 2; i++) { /* columns 0 .. 3, 4 .. 7, 8 .. 11, 12 .. 15 of each half */
            four[2 * i] = _mm256_permute2f128_ps(v[i], v[2 + i], 0x20);
            four[2 * i + 1] = _mm256_permute2f128_ps(v[i], v[2 + i], 0x31);
        }
        __m256 low[2], high[2];
        for (int i = 0; i < 2; i++) {
            low[i] = _mm256_shuffle_ps(four[2 * i], four[2 * i + 1], 0x88);
            high[i] = _mm256_shuffle_ps(four[2 * i], four[2 * i + 1], 0xdd);
        }
        _mm256_storeu_ps(out, _mm256_shuffle_ps(low[0], low[1], 0x88));
        _mm256_storeu_ps(out + SIMD_LANES, _mm256_shuffle_ps(low[0], low[1], 0xdd));
        _mm256_storeu_ps(out + 2 * SIMD_LANES, _mm256_shuffle_ps(high[0], high[1], 0x88));
        _mm256_storeu_ps(out + 3 * SIMD_LANES, _mm256_shuffle_ps(high[0], high[1], 0xdd));
    }
}

void cpu_linear_avx2(struct stream *stream, const struct linear_args *args)
{
    static const struct linear_kernel fp8 = {prepare_fp8, multiply_fp8, 4, false};
    static const struct linear_kernel bf16 = {prepare_bf16, multiply_bf16, 4, false};
    switch (args->weight.format) {
    case MATRIX_FP8: linear_blocked_run(stream, args, &fp8); break;
    case MATRIX_BF16: linear_blocked_run(stream, args, &bf16); break;
    case MATRIX_F32: linear_blocked_run(stream, args, &linear_float_kernel); break;
    }
}
