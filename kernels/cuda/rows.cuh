/* Cached rows on the device, one value at a time, and which rows a query sees. The bytes are those
 * that ops.h describes. */
#ifndef SLUICE_KERNELS_CUDA_ROWS_CUH
#define SLUICE_KERNELS_CUDA_ROWS_CUH

#include "kernels/cuda/launch.cuh"
#include "kernels/lowp.h"

/* True for a format every op can read: widths in range, nibbles in whole bytes. */
static inline bool rows_supported(const struct row_format *format)
{
    int32_t width = format->plain + format->rotary;
    if (format->plain < 0 || format->rotary < 0) return false;
    if (width < 1 || width > OPS_HEAD_DIM_MAX) return false;
    return format->encoding != ROW_KEY || width % 2 == 0;
}

/* An e4m3 code's value without branches: its bits in a f32 are 2^-120 of it, subnormals too. */
__device__ __forceinline__ float rows_e4m3(uint32_t code)
{
    float value = lowp_from_bits((code & 0x80u) << 24 | (code & 0x7fu) << 20) * 0x1p120f;
    return (code & 0x7fu) == 0x7fu ? lowp_from_bits(0x7fc00000u) : value;
}

/* Channel i of a row. */
__device__ __forceinline__ float rows_value(const struct row_format &format, const uint8_t *row,
                                            int32_t i)
{
    int32_t width = format.plain + format.rotary;
    if (format.encoding == ROW_F32) return reinterpret_cast<const float *>(row)[i];
    if (format.encoding == ROW_KEY) {
        uint8_t nibble = (uint8_t)(row[i / 2] >> (i % 2 * 4) & 15);
        return e2m1_decode(nibble) * e8m0_decode(row[width / 2 + i / LOWP_FP4_BLOCK]);
    }
    const uint8_t *scales = row + format.plain;
    if (i < format.plain) return rows_e4m3(row[i]) * e8m0_decode(scales[i / LOWP_KV_BLOCK]);
    const uint8_t *code =
        scales + (format.plain + LOWP_KV_BLOCK - 1) / LOWP_KV_BLOCK + 2 * (i - format.plain);
    return bf16_decode((uint16_t)(code[0] | code[1] << 8));
}

/* Rows that a token sees: the window's from its oldest on, then compressed ones. */
struct rows_visible {
    const uint8_t *window, *compressed;
    const int32_t *selected; /* of the token, or NULL */
    int32_t oldest_slot, window_count, count;
    int32_t capacity; /* of the window's ring */
    int32_t row_bytes;
};

/* By all threads of the block, since it may have to count what is selected. */
__device__ __forceinline__ struct rows_visible rows_visible_make(const struct attention_args &args,
                                                                 int32_t row_bytes, int32_t t)
{
    int32_t position = args.positions[t];
    struct rows_visible rows;
    rows.window = args.window_rows;
    rows.compressed = args.rows;
    rows.selected = NULL;
    rows.capacity = args.window_capacity;
    rows.row_bytes = row_bytes;
    int32_t oldest = max(0, position - args.window + 1);
    rows.window_count = position + 1 - oldest;
    rows.oldest_slot = rows.window_count > 0 ? oldest % args.window_capacity : 0;
    rows.count = rows.window_count;
    if (args.ratio > 0 && !args.selected) {
        rows.count += (position + 1) / args.ratio;
    } else if (args.ratio > 0) {
        rows.selected = args.selected + (size_t)t * (size_t)args.top;
        for (int32_t first = 0; first < args.top; first += (int32_t)blockDim.x) {
            int32_t i = first + (int32_t)threadIdx.x;
            rows.count += __syncthreads_count(i < args.top && rows.selected[i] >= 0);
        }
    }
    return rows;
}

__device__ __forceinline__ const uint8_t *rows_address(const struct rows_visible &rows, int32_t i)
{
    /* Without branches, so that the loads of many rows can be under way together. */
    bool in_window = i < rows.window_count;
    int32_t slot = i + rows.oldest_slot;
    if (slot >= rows.capacity) slot -= rows.capacity;
    int32_t row = max(0, i - rows.window_count);
    if (rows.selected) row = rows.selected[row];
    const uint8_t *first = in_window ? rows.window : rows.compressed;
    row = in_window ? slot : row;
    return first + (size_t)row * (size_t)rows.row_bytes;
}

#endif
