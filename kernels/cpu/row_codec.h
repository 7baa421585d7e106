/* Cached rows in the formats of struct row_format; see ops.h for the order of the bytes. */
#ifndef SLUICE_KERNELS_CPU_ROW_CODEC_H
#define SLUICE_KERNELS_CPU_ROW_CODEC_H

#include "kernels/cpu/code_table.h"
#include "kernels/cpu/quantise.h"
#include "kernels/ops.h"

static inline int32_t row_codec_width(const struct row_format *format)
{
    return format->plain + format->rotary;
}

/* True for a format every op can read: widths in range, nibbles in whole bytes. */
static inline bool row_codec_supported(const struct row_format *format)
{
    int32_t width = row_codec_width(format);
    if (format->plain < 0 || format->rotary < 0) return false;
    if (width < 1 || width > OPS_HEAD_DIM_MAX) return false;
    return format->encoding != ROW_KEY || width % 2 == 0;
}

static inline void row_codec_encode_kv(const struct row_format *format, const float *x,
                                       uint8_t *row)
{
    uint8_t *scales = row + format->plain;
    uint8_t *slice = scales + ceil_div_i32(format->plain, LOWP_KV_BLOCK);
    for (int32_t first = 0; first < format->plain; first += LOWP_KV_BLOCK) {
        int32_t length = min_i32(LOWP_KV_BLOCK, format->plain - first);
        scales[first / LOWP_KV_BLOCK] = e8m0_encode(quantise_fp8(x + first, length, row + first));
    }
    for (int32_t i = 0; i < format->rotary; i++) {
        uint16_t code = bf16_encode(x[format->plain + i]);
        memcpy(slice + 2 * i, &code, sizeof code);
    }
}

static inline void row_codec_encode_key(int32_t width, const float *x, uint8_t *row)
{
    uint8_t *scales = row + width / 2;
    uint8_t codes[LOWP_FP4_BLOCK];
    for (int32_t first = 0; first < width; first += LOWP_FP4_BLOCK) {
        int32_t length = min_i32(LOWP_FP4_BLOCK, width - first);
        scales[first / LOWP_FP4_BLOCK] = e8m0_encode(quantise_fp4(x + first, length, codes));
        for (int32_t i = 0; i < length; i += 2)
            row[(first + i) / 2] = (uint8_t)(codes[i] | codes[i + 1] << 4);
    }
}

/* x [plain + rotary] to row [row_format_bytes]; padding bytes are left as they are. */
static inline void row_codec_encode(const struct row_format *format, const float *x, uint8_t *row)
{
    switch (format->encoding) {
    case ROW_KV: row_codec_encode_kv(format, x, row); break;
    case ROW_KEY: row_codec_encode_key(row_codec_width(format), x, row); break;
    case ROW_F32: memcpy(row, x, row_format_bytes(format)); break;
    }
}

static inline void row_codec_decode_kv(const struct row_format *format, const uint8_t *row,
                                       float *x)
{
    const uint8_t *scales = row + format->plain;
    const uint8_t *slice = scales + ceil_div_i32(format->plain, LOWP_KV_BLOCK);
    for (int32_t first = 0; first < format->plain; first += LOWP_KV_BLOCK) {
        int32_t length = min_i32(LOWP_KV_BLOCK, format->plain - first);
        float scale = e8m0_decode(scales[first / LOWP_KV_BLOCK]);
        for (int32_t i = first; i < first + length; i++)
            x[i] = code_table_e4m3[row[i]] * scale;
    }
    for (int32_t i = 0; i < format->rotary; i++) {
        uint16_t code;
        memcpy(&code, slice + 2 * i, sizeof code);
        x[format->plain + i] = bf16_decode(code);
    }
}

/* e2m1 pairs times one e8m0 scale per LOWP_FP4_BLOCK; `count` even. */
static inline void row_codec_decode_fp4(const uint8_t *nibbles, const uint8_t *scales,
                                        int32_t count, float *x)
{
    for (int32_t first = 0; first < count; first += LOWP_FP4_BLOCK) {
        int32_t end = min_i32(first + LOWP_FP4_BLOCK, count);
        float scale = e8m0_decode(scales[first / LOWP_FP4_BLOCK]);
        for (int32_t i = first; i < end; i += 2) {
            const float *pair = code_table_e2m1[nibbles[i / 2]];
            x[i] = pair[0] * scale;
            x[i + 1] = pair[1] * scale;
        }
    }
}

static inline void row_codec_decode(const struct row_format *format, const uint8_t *row, float *x)
{
    int32_t width = row_codec_width(format);
    switch (format->encoding) {
    case ROW_KV: row_codec_decode_kv(format, row, x); break;
    case ROW_KEY: row_codec_decode_fp4(row, row + width / 2, width, x); break;
    case ROW_F32: memcpy(x, row, row_format_bytes(format)); break;
    }
}

#endif
