/* The products of expert_wide.cu: 256 rows of a matrix, or 128 of each of two, times up to 64
 * tokens.
 *
 * Each of four warps takes 64 rows, four bands, and all tokens. A stage is 64 columns of both
 * operands, brought by asynchronous copies: bands as they lie in the slot, tokens as bf16 rows
 * whose 16-byte pieces 0 .. 3 and 4 .. 7 change places in odd rows, so that eight lanes that load
 * together meet every bank once. Of a tile of 32 columns lane 4g + j owns columns 8j .. 8j + 7;
 * rows 2g and 2g + 1 of a band are rows g and g + 8 of the product. */
#ifndef SLUICE_KERNELS_CUDA_EXPERT_WIDE_PRODUCT_CUH
#define SLUICE_KERNELS_CUDA_EXPERT_WIDE_PRODUCT_CUH

#include "kernels/cuda/copy_async.cuh"
#include "kernels/cuda/expert_wide_tiles.cuh"
#include "kernels/cuda/fp4.cuh"

#define WIDE_WARPS   4
#define WIDE_THREADS (WIDE_WARPS * WARP_LANES)
#define WIDE_STAGES  4
#define WIDE_BANDS   4 /* of a warp */
#define WIDE_TILES   2 /* of 32 columns, in a stage */
#define WIDE_ROWS    (WIDE_WARPS * WIDE_BANDS * EXPERT_TILE_ROWS)

#define WIDE_BAND_BYTES  (WIDE_TILES * EXPERT_TILE_BYTES)
#define WIDE_BAND_SCALES (WIDE_TILES * EXPERT_TILE_ROWS)
#define WIDE_X_BYTES     (WIDE_TILES * EXPERT_TILE_COLUMNS * 2) /* of a token */
#define WIDE_SCALES_AT   (WIDE_WARPS * WIDE_BANDS * WIDE_BAND_BYTES)
#define WIDE_X_AT        (WIDE_SCALES_AT + WIDE_WARPS * WIDE_BANDS * WIDE_BAND_SCALES)
#define WIDE_STAGE_BYTES (WIDE_X_AT + WIDE_TOKENS * WIDE_X_BYTES)
#define WIDE_COPY_ROWS   (WIDE_THREADS / 8) /* tokens that the block copies at once */

/* What this thread copies, from the next stage on: one band of each warp, 16 bytes of each; the
 * scales of one of those; 16 bytes of every WIDE_COPY_ROWS'th token. */
struct wide_source {
    const uint8_t *codes, *scales;
    size_t codes_step; /* from one warp's band to the next one's */
    int32_t bands;     /* how many warps have one */
    int32_t tiles;     /* of 32 columns left */
    const uint8_t *x;
    uint32_t rows[WIDE_TOKENS / WIDE_COPY_ROWS]; /* of x, in units of 16 bytes */
    int32_t tokens;                              /* from this thread's first one on */
};

/* Bands from `band` of a matrix on, `step` apart, `bands` of them. */
static __device__ __forceinline__ void wide_source_bands(struct wide_source *source,
                                                         const struct wide &wide,
                                                         const uint8_t *slot, int part, int columns,
                                                         int band, int step, int bands)
{
    int lane = (int)threadIdx.x % WARP_LANES;
    size_t tiles = (size_t)(columns / EXPERT_TILE_COLUMNS);
    size_t at = (size_t)band * tiles;
    source->codes = slot + wide.ffn.layout.offset_bytes[part] + at * EXPERT_TILE_BYTES + lane * 16;
    source->codes_step = (size_t)step * tiles * EXPERT_TILE_BYTES;
    source->scales = slot + wide.ffn.layout.offset_bytes[part + 1] + at * EXPERT_TILE_ROWS +
                     (size_t)(lane / WIDE_TILES * step) * tiles * EXPERT_TILE_ROWS +
                     lane % WIDE_TILES * 16;
    source->bands = bands;
    source->tiles = (int32_t)tiles;
}

/* Row `rows[i]` of x, or row `first` + i without `rows`, for token i of `tokens`. */
static __device__ __forceinline__ void wide_source_tokens(struct wide_source *source,
                                                          const uint16_t *x, int columns,
                                                          const int32_t *rows, int first,
                                                          int tokens)
{
    int own = (int)threadIdx.x / 8;
    source->x = reinterpret_cast<const uint8_t *>(x) + threadIdx.x % 8 * 16;
    source->tokens = tokens - own;
#pragma unroll
    for (int i = 0; i < WIDE_TOKENS / WIDE_COPY_ROWS; i++) {
        int token = own + i * WIDE_COPY_ROWS;
        int row = token >= tokens ? 0 : rows ? rows[token] : first + token;
        source->rows[i] = (uint32_t)row * (uint32_t)(columns / 8);
    }
}

/* Starts the copies of the next stage for TILES tiles of 8 tokens, with zeros for what is not
 * there; always ends a group of copies. */
template <int TILES>
static __device__ __forceinline__ void wide_fetch(struct wide_source *source, uint8_t *stage)
{
    int lane = (int)threadIdx.x % WARP_LANES;
    int warp = (int)threadIdx.x / WARP_LANES;
    if (source->tiles > 0) {
        int bands = lane / 16 < source->tiles ? source->bands : 0;
        uint8_t *codes = stage + warp * WIDE_BAND_BYTES + lane * 16;
#pragma unroll
        for (int i = 0; i < WIDE_WARPS; i++)
            copy_async_16(codes + i * WIDE_BANDS * WIDE_BAND_BYTES,
                          source->codes + (size_t)i * source->codes_step, i < bands ? 16 : 0);
        if (lane < WIDE_WARPS * WIDE_TILES)
            copy_async_16(
                stage + WIDE_SCALES_AT +
                    (lane / WIDE_TILES * WIDE_BANDS + warp) * WIDE_BAND_SCALES +
                    lane % WIDE_TILES * 16,
                source->scales,
                lane / WIDE_TILES < source->bands && lane % WIDE_TILES < source->tiles ? 16 : 0);
        int row = (int)threadIdx.x / 8;
        int tokens = lane % 8 / 4 < source->tiles ? source->tokens : 0;
        uint8_t *x = stage + WIDE_X_AT + row * WIDE_X_BYTES + ((lane % 8) ^ (row % 2 * 4)) * 16;
#pragma unroll
        for (int i = 0; i * WIDE_COPY_ROWS < TILES * 8; i++)
            copy_async_16(x + i * WIDE_COPY_ROWS * WIDE_X_BYTES,
                          source->x + (size_t)source->rows[i] * 16,
                          i * WIDE_COPY_ROWS < tokens ? 16 : 0);
        source->codes += WIDE_BAND_BYTES;
        source->scales += WIDE_BAND_SCALES;
        source->x += WIDE_X_BYTES;
        source->tiles -= WIDE_TILES;
    }
    copy_async_commit();
}

/* sums += this warp's rows times the tokens, over the stage's columns. */
template <int TILES, bool LARGE>
static __device__ __forceinline__ void wide_multiply(
    const uint8_t *stage, const uint32_t (&scales)[WIDE_TILES][WIDE_BANDS],
    float (&sums)[WIDE_BANDS][TILES][4])
{
    int g = (int)threadIdx.x % WARP_LANES / 4;
    int j = (int)threadIdx.x % 4;
    const uint8_t *codes =
        stage + (int)threadIdx.x / WARP_LANES * WIDE_BANDS * WIDE_BAND_BYTES + j * 64 + g * 8;
    const uint8_t *x = stage + WIDE_X_AT + g * WIDE_X_BYTES + j * 16;
#pragma unroll
    for (int tile = 0; tile < WIDE_TILES; tile++) {
        uint32_t rows[WIDE_BANDS][2][4]; /* pairs of columns of rows 2g and 2g + 1 */
#pragma unroll
        for (int m = 0; m < WIDE_BANDS; m++) {
            const uint2 words = *reinterpret_cast<const uint2 *>(codes + m * WIDE_BAND_BYTES +
                                                                 tile * EXPERT_TILE_BYTES);
            uint32_t scale[2] = {scales[tile][m] & 0xffu, scales[tile][m] >> 8};
#pragma unroll
            for (int lower = 0; lower < 2; lower++) {
                uint32_t first = LARGE ? min(scale[lower], FP4_SCALE_MAX) : scale[lower];
                fp4_to_bf16_times(lower ? words.y : words.x, fp4_factor(first), rows[m][lower]);
#pragma unroll
                for (int k = 0; k < 4; k++)
                    if (LARGE)
                        rows[m][lower][k] =
                            multiply_bf16(rows[m][lower][k], fp4_second_factor(scale[lower]));
            }
        }
        const uint8_t *from = x + ((tile ^ (g % 2)) * EXPERT_TILE_COLUMNS * 2);
#pragma unroll
        for (int n = 0; n < TILES; n++) {
            const uint4 b = *reinterpret_cast<const uint4 *>(from + n * 8 * WIDE_X_BYTES);
#pragma unroll
            for (int step = 0; step < 2; step++)
#pragma unroll
                for (int m = 0; m < WIDE_BANDS; m++) {
                    const uint32_t a[4] = {rows[m][0][2 * step], rows[m][1][2 * step],
                                           rows[m][0][2 * step + 1], rows[m][1][2 * step + 1]};
                    mma_bf16(sums[m][n], a, step ? b.z : b.x, step ? b.w : b.y);
                }
        }
    }
}

/* All columns; afterwards the stages' memory is free. By the whole block; `busy` unless this warp
 * has no rows. */
template <int TILES>
static __device__ __forceinline__ void wide_multiply_all(struct wide_source source, uint8_t *stages,
                                                         bool busy,
                                                         float (&sums)[WIDE_BANDS][TILES][4])
{
    int g = (int)threadIdx.x % WARP_LANES / 4;
    const int scales_at =
        WIDE_SCALES_AT + (int)threadIdx.x / WARP_LANES * WIDE_BANDS * WIDE_BAND_SCALES + 2 * g;
    int count = (source.tiles + WIDE_TILES - 1) / WIDE_TILES;
    for (int i = 0; i < WIDE_STAGES - 1; i++)
        wide_fetch<TILES>(&source, stages + i * WIDE_STAGE_BYTES);
    int here = 0;
    for (int i = 0; i < count; i++) {
        copy_async_wait<WIDE_STAGES - 2>();
        __syncthreads(); /* the stage is there, and the one before has been read */
        wide_fetch<TILES>(&source,
                          stages + (here == 0 ? WIDE_STAGES - 1 : here - 1) * WIDE_STAGE_BYTES);
        const uint8_t *stage = stages + here * WIDE_STAGE_BYTES;
        here = here + 1 == WIDE_STAGES ? 0 : here + 1;
        if (!busy) continue;
        uint32_t scales[WIDE_TILES][WIDE_BANDS], all = 0;
#pragma unroll
        for (int k = 0; k < WIDE_TILES * WIDE_BANDS; k++) {
            int tile = k % WIDE_TILES, m = k / WIDE_TILES;
            scales[tile][m] = *reinterpret_cast<const uint16_t *>(
                stage + scales_at + m * WIDE_BAND_SCALES + tile * EXPERT_TILE_ROWS);
            all |= scales[tile][m];
        }
        if (__any_sync(WARP_ALL, (all & 0x8080u) != 0)) /* a scale of 2 or more: hardly ever */
            wide_multiply<TILES, true>(stage, scales, sums);
        else
            wide_multiply<TILES, false>(stage, scales, sums);
    }
    copy_async_wait<0>();
    __syncthreads();
}

#endif
