/* Matrix products with AVX-512: bf16 products, two a lane, where inputs are bf16 values and weights
 * have at most as many digits, so that every product is exact; f32 products otherwise. Within 2e-6
 * of the sum of the products' magnitudes; bf16 products treat subnormal bf16 values as zero and
 * lose what is below 2^-126, f32 products take the two NaN codes of e4m3 for +-480.
 *
 * e4m3 codes become bf16 by table, a byte at a time. Interleaving the bytes leaves the columns of
 * 64 in another order; inputs are put in the same order once a token. */
#include "kernels/cpu/code_table.h"
#include "kernels/cpu/linear_float.h"
#include "kernels/cpu/variants.h"

#define FEW          4    /* tokens, also the width of the inner loop */
#define PANEL        1024 /* columns of a decoded panel: 8 KiB with its four rows */
#define PANEL_BLOCKS (PANEL / LINEAR_BLOCK)
#define STEPS        4 /* vectors of 32 values in a block */

/* Weights are fetched into L2 this far ahead. Rows follow each other in memory, so the distance
 * runs on from row to row. A pair of lines comes with its first. */
#define AHEAD_BYTES_FP8  8192
#define AHEAD_BYTES_BF16 4096
#define PAIR_BYTES       128

struct decoder {
    __m512i low[2], high[2]; /* bytes of the bf16 values of codes 0 .. 127 */
};

static struct decoder make_decoder(void)
{
    struct decoder decoder;
    for (int half = 0; half < 2; half++) {
        decoder.low[half] = _mm512_loadu_si512(code_table_e4m3_bf16[0] + 64 * half);
        decoder.high[half] = _mm512_loadu_si512(code_table_e4m3_bf16[1] + 64 * half);
    }
    return decoder;
}

SIMD_INLINE void decode_64(const struct decoder *decoder, const uint8_t *codes, __m512i *out)
{
    __m512i code = _mm512_loadu_si512(codes);
    /* Kept in its register: loading it again for each use would fill the load ports. */
    __asm__("" : "+v"(code));
    __m512i low = _mm512_permutex2var_epi8(decoder->low[0], code, decoder->low[1]);
    __m512i high = _mm512_permutex2var_epi8(decoder->high[0], code, decoder->high[1]);
    /* high | (code & sign) */
    high = _mm512_ternarylogic_epi32(high, code, _mm512_set1_epi8((char)0x80), 0xf8);
    out[0] = _mm512_unpacklo_epi8(low, high);
    out[1] = _mm512_unpackhi_epi8(low, high);
}

/* One row's block as bf16; `data` in `format`. */
SIMD_INLINE void decode_block(const struct decoder *decoder, enum matrix_format format,
                              const uint8_t *data, __m512i out[STEPS])
{
    if (format == MATRIX_BF16) {
        for (int i = 0; i < STEPS; i++)
            out[i] = _mm512_loadu_si512(data + 64 * i);
        return;
    }
    decode_64(decoder, data, out);
    decode_64(decoder, data + 64, out + 2);
}

/* The block of a row, a partial one completed with zeros in `tail`. */
SIMD_INLINE const uint8_t *find_block(const struct linear_rows *args, enum matrix_format format,
                                      int32_t row, int32_t block, uint8_t tail[2 * LINEAR_BLOCK])
{
    size_t bytes = linear_weight_bytes(format);
    size_t columns = (size_t)args->weight->columns;
    size_t column = (size_t)block * LINEAR_BLOCK;
    const uint8_t *data =
        (const uint8_t *)args->weight->data + ((size_t)row * columns + column) * bytes;
    if (columns - column >= LINEAR_BLOCK) return data;
    memset(tail, 0, LINEAR_BLOCK * bytes);
    memcpy(tail, data, (columns - column) * bytes);
    return tail;
}

SIMD_INLINE __m512 multiply_pairs(__m512 sum, __m512i weight, const uint16_t *x)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_loadu_si512(x), (__m512bh)weight);
}

/* kept[t] += `group` blocks of a row times up to FEW tokens, decoded in registers. Their sums grow
 * side by side, which hides how long each product takes. */
SIMD_INLINE void multiply_group(const struct decoder *decoder, enum matrix_format format,
                                const uint8_t *data, const float *scales, int group,
                                const uint16_t *x, size_t x_stride, int tokens, __m512 *kept)
{
    bool is_fp8 = format == MATRIX_FP8;
    int block_bytes = is_fp8 ? LINEAR_BLOCK : 2 * LINEAR_BLOCK;
    __m512i weights[FEW][STEPS];
    __m512 sums[FEW][FEW];
    for (int i = 0; i < group * block_bytes; i += PAIR_BYTES)
        _mm_prefetch((const char *)data + (is_fp8 ? AHEAD_BYTES_FP8 : AHEAD_BYTES_BF16) + i,
                     _MM_HINT_T1);
    for (int b = 0; b < group; b++) {
        decode_block(decoder, format, data + b * block_bytes, weights[b]);
        for (int t = 0; t < tokens; t++)
            sums[b][t] = _mm512_setzero_ps();
    }
    for (int i = 0; i < STEPS; i++)
        for (int b = 0; b < group; b++)
            for (int t = 0; t < tokens; t++)
                sums[b][t] = multiply_pairs(sums[b][t], weights[b][i],
                                            x + (size_t)t * x_stride + LINEAR_BLOCK * b + 32 * i);
    for (int b = 0; b < group; b++)
        for (int t = 0; t < tokens; t++)
            kept[t] = is_fp8 ? _mm512_fmadd_ps(sums[b][t], _mm512_set1_ps(scales[b]), kept[t])
                             : _mm512_add_ps(sums[b][t], kept[t]);
}

/* totals[t] += `blocks` blocks of a row times up to FEW tokens. */
SIMD_INLINE void multiply_blocks(const struct decoder *decoder, enum matrix_format format,
                                 const uint8_t *data, const float *scales, int32_t blocks,
                                 const uint16_t *x, size_t x_stride, int tokens, __m512 *totals)
{
    size_t block_bytes = LINEAR_BLOCK * (format == MATRIX_FP8 ? 1 : 2);
    int group = FEW / tokens;
    __m512 kept[FEW];
    for (int t = 0; t < tokens; t++)
        kept[t] = totals[t];
    int32_t block = 0;
    for (; block + group <= blocks; block += group)
        multiply_group(decoder, format, data + (size_t)block * block_bytes, scales + block, group,
                       x + (size_t)block * LINEAR_BLOCK, x_stride, tokens, kept);
    for (; block < blocks; block++)
        multiply_group(decoder, format, data + (size_t)block * block_bytes, scales + block, 1,
                       x + (size_t)block * LINEAR_BLOCK, x_stride, tokens, kept);
    for (int t = 0; t < tokens; t++)
        totals[t] = kept[t];
}

/* Rows of so few blocks that a token's sums would grow one by one: four rows side by side. */
SIMD_INLINE void multiply_short(const struct linear_rows *args, enum matrix_format format,
                                const struct decoder *decoder, const struct linear_span *span,
                                int32_t row, __m512 *totals)
{
    size_t bytes = linear_weight_bytes(format);
    size_t row_bytes = (size_t)args->weight->columns * bytes;
    const uint8_t *data = (const uint8_t *)args->weight->data + (size_t)row * row_bytes;
    const uint16_t *x = args->input;
    int32_t blocks = args->weight->columns / LINEAR_BLOCK;
    for (size_t i = 0; i < LINEAR_ROWS * row_bytes; i += PAIR_BYTES)
        _mm_prefetch((const char *)data + AHEAD_BYTES_FP8 + i, _MM_HINT_T1);
    for (int r = 0; r < LINEAR_ROWS; r++)
        totals[r] = _mm512_setzero_ps();
    for (int32_t b = 0; b < blocks; b++) {
        __m512i weights[LINEAR_ROWS][STEPS];
        __m512 sums[LINEAR_ROWS];
        for (int r = 0; r < LINEAR_ROWS; r++) {
            decode_block(decoder, format,
                         data + (size_t)r * row_bytes + (size_t)b * LINEAR_BLOCK * bytes,
                         weights[r]);
            sums[r] = _mm512_setzero_ps();
        }
        for (int i = 0; i < STEPS; i++)
            for (int r = 0; r < LINEAR_ROWS; r++)
                sums[r] = multiply_pairs(sums[r], weights[r][i], x + LINEAR_BLOCK * b + 32 * i);
        for (int r = 0; r < LINEAR_ROWS; r++)
            totals[r] = format == MATRIX_FP8
                            ? _mm512_fmadd_ps(sums[r], _mm512_set1_ps(span->scales[b]), totals[r])
                            : _mm512_add_ps(sums[r], totals[r]);
    }
}

/* totals[t][r] = up to four rows, one after the other, times up to FEW tokens. */
SIMD_INLINE void multiply_few(const struct linear_rows *args, enum matrix_format format,
                              const struct decoder *decoder, struct linear_span *span,
                              const int32_t *row, int tokens, __m512 (*totals)[LINEAR_ROWS])
{
    __m512 sums[LINEAR_ROWS][FEW];
    uint8_t tail[2 * LINEAR_BLOCK];
    int32_t blocks = linear_blocks(args->weight);
    int32_t step = tokens == 1 ? LINEAR_SPAN : LINEAR_SPAN_FEW;
    int32_t whole = args->weight->columns / LINEAR_BLOCK;
    if (tokens == 1 && whole == blocks && whole < FEW && row[0] + LINEAR_ROWS - 1 == row[3] &&
        row[0] / LINEAR_BLOCK == row[3] / LINEAR_BLOCK) {
        linear_span_decode(span, args->weight, row[0], 0, LINEAR_SPAN);
        multiply_short(args, format, decoder, span, row[0], totals[0]);
        return;
    }
    for (int r = 0; r < LINEAR_ROWS; r++)
        for (int t = 0; t < tokens; t++)
            sums[r][t] = _mm512_setzero_ps();
    for (int32_t first = 0; first < blocks; first += step) {
        const uint16_t *x = (const uint16_t *)args->input + (size_t)first * LINEAR_BLOCK;
        int32_t count = min_i32(step, whole - first);
        for (int r = 0; r < LINEAR_ROWS; r++) {
            linear_span_decode(span, args->weight, row[r], first, step);
            multiply_blocks(decoder, format, find_block(args, format, row[r], first, tail),
                            span->scales, count, x, args->input_stride, tokens, sums[r]);
            if (first + count == blocks || first + step < blocks) continue;
            multiply_blocks(decoder, format, find_block(args, format, row[r], whole, tail),
                            span->scales + count, 1, x + (size_t)count * LINEAR_BLOCK,
                            args->input_stride, tokens, sums[r]);
        }
    }
    for (int r = 0; r < LINEAR_ROWS; r++)
        for (int t = 0; t < tokens; t++)
            totals[t][r] = sums[r][t];
}

struct panel {
    _Alignas(64) uint16_t values[PANEL_BLOCKS][LINEAR_ROWS][LINEAR_BLOCK];
    float scales[PANEL_BLOCKS][LINEAR_ROWS];
};

/* totals[t][r] += one block of the panel's rows times FEW tokens. */
SIMD_INLINE void multiply_block(const struct panel *panel, int32_t block, const uint16_t *const *x,
                                __m512 (*totals)[LINEAR_ROWS])
{
    __m512 sums[FEW][LINEAR_ROWS];
    for (int t = 0; t < FEW; t++)
        for (int r = 0; r < LINEAR_ROWS; r++)
            sums[t][r] = _mm512_setzero_ps();
    for (int i = 0; i < STEPS; i++) {
        __m512i weights[LINEAR_ROWS];
        for (int r = 0; r < LINEAR_ROWS; r++)
            weights[r] = _mm512_load_si512(panel->values[block][r] + 32 * i);
        for (int t = 0; t < FEW; t++)
            for (int r = 0; r < LINEAR_ROWS; r++)
                sums[t][r] = multiply_pairs(sums[t][r], weights[r], x[t] + 32 * i);
    }
    for (int t = 0; t < FEW; t++)
        for (int r = 0; r < LINEAR_ROWS; r++)
            totals[t][r] =
                _mm512_fmadd_ps(sums[t][r], _mm512_set1_ps(panel->scales[block][r]), totals[t][r]);
}

/* Four rows, the last repeated when there are fewer, against all tokens; totals for a whole number
 * of FEW tokens. */
SIMD_INLINE void multiply_many(const struct linear_rows *args, enum matrix_format format,
                               const struct decoder *decoder, const int32_t *row,
                               __m512 (*totals)[LINEAR_ROWS])
{
    struct panel panel;
    uint8_t tail[2 * LINEAR_BLOCK];
    int32_t blocks = linear_blocks(args->weight);
    for (int32_t first = 0; first < blocks; first += PANEL_BLOCKS) {
        int32_t count = min_i32(PANEL_BLOCKS, blocks - first);
        for (int r = 0; r < LINEAR_ROWS; r++) {
            for (int32_t b = 0; b < count; b++) {
                __m512i weights[STEPS];
                decode_block(decoder, format, find_block(args, format, row[r], first + b, tail),
                             weights);
                panel.scales[b][r] = linear_scale(args->weight, row[r], first + b);
                for (int i = 0; i < STEPS; i++)
                    _mm512_store_si512(panel.values[b][r] + 32 * i, weights[i]);
            }
        }
        for (int32_t t = 0; t < args->tokens; t += FEW) {
            const uint16_t *x[FEW];
            for (int i = 0; i < FEW; i++)
                x[i] = (const uint16_t *)args->input + (size_t)first * LINEAR_BLOCK +
                       (size_t)min_i32(t + i, args->tokens - 1) * args->input_stride;
            for (int32_t b = 0; b < count; b++) {
                multiply_block(&panel, b, x, totals + t);
                for (int i = 0; i < FEW; i++)
                    x[i] += LINEAR_BLOCK;
            }
        }
    }
}

SIMD_INLINE void multiply_rows(const struct linear_rows *args, enum matrix_format format)
{
    __m512 totals[LINEAR_TOKENS_MAX + FEW][LINEAR_ROWS];
    struct decoder decoder = make_decoder();
    struct linear_span span = {.count = 0};
    for (int32_t first = 0; first < args->row_count; first += LINEAR_ROWS) {
        int32_t count = min_i32(LINEAR_ROWS, args->row_count - first);
        int32_t row[LINEAR_ROWS];
        for (int32_t r = 0; r < LINEAR_ROWS; r++)
            row[r] = args->row + first + min_i32(r, count - 1);
        if (args->tokens > FEW) {
            memset(totals, 0, sizeof totals[0] * (size_t)(args->tokens + FEW - 1));
            multiply_many(args, format, &decoder, row, totals);
        } else {
            switch (args->tokens) {
            case 1: multiply_few(args, format, &decoder, &span, row, 1, totals); break;
            case 2: multiply_few(args, format, &decoder, &span, row, 2, totals); break;
            case 3: multiply_few(args, format, &decoder, &span, row, 3, totals); break;
            default: multiply_few(args, format, &decoder, &span, row, 4, totals); break;
            }
        }
        linear_float_finish(args, first, totals);
    }
}

static void multiply_bf16(const struct linear_rows *args)
{
    SL_DEBUG_ASSERT(args->tokens >= 1 && args->tokens <= LINEAR_TOKENS_MAX);
    if (args->weight->format == MATRIX_FP8)
        multiply_rows(args, MATRIX_FP8);
    else
        multiply_rows(args, MATRIX_BF16);
}

/* f32 values that bf16 holds, to bf16, `count` of them in whole blocks. */
static void narrow(const float *x, uint16_t *out)
{
    for (int32_t i = 0; i < LINEAR_BLOCK; i++)
        out[i] = (uint16_t)(lowp_bits(x[i]) >> 16);
}

static void prepare_natural(const float *x, int32_t columns, bool quantise, void *input)
{
    float block[LINEAR_BLOCK];
    uint16_t *out = input;
    for (int32_t first = 0; first < columns; first += LINEAR_BLOCK) {
        quantise_vector_input(x + first, min_i32(LINEAR_BLOCK, columns - first), quantise, block);
        narrow(block, out + first);
    }
}

/* In the order in which decode_64 leaves the weights. */
static void prepare_interleaved(const float *x, int32_t columns, bool quantise, void *input)
{
    uint16_t *out = input;
    prepare_natural(x, columns, quantise, input);
    for (int32_t first = 0; first < columns; first += 64) {
        __m512i a = _mm512_loadu_si512(out + first);
        __m512i b = _mm512_loadu_si512(out + first + 32);
        _mm512_storeu_si512(out + first, _mm512_shuffle_i64x2(a, b, 0x88));
        _mm512_storeu_si512(out + first + 32, _mm512_shuffle_i64x2(a, b, 0xdd));
    }
}

void cpu_linear_avx512(struct stream *stream, const struct linear_args *args)
{
    static const struct linear_kernel natural = {prepare_natural, multiply_bf16, 2, false};
    static const struct linear_kernel interleaved = {prepare_interleaved, multiply_bf16, 2, false};
    bool bf16 = args->quantise_input || args->bf16_input;
    if (args->weight.format == MATRIX_FP8 && bf16)
        linear_blocked_run(stream, args, &interleaved);
    else if (args->weight.format == MATRIX_BF16 && bf16)
        linear_blocked_run(stream, args, &natural);
    else
        linear_blocked_run(stream, args, &linear_float_kernel);
}
