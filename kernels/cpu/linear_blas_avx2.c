/* fp8 matrix products through OpenBLAS, expanded with AVX2; see blas.h. The two NaN codes of e4m3
 * count as +-480. */
#include "kernels/cpu/blas.h"

#include "kernels/cpu/linear_blocked.h"
#include "kernels/cpu/quantise_vector.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/stream.h"
#include "kernels/cpu/variants.h"

_Static_assert(BLAS_TILE_COLUMNS % LINEAR_BLOCK == 0, "tiles hold whole blocks");

struct wide {
    const struct blas *blas;
    const struct linear_args *args;
    const float *x;        /* [tokens, groups * columns], as the caller gave it */
    float *prepared;       /* [tokens, groups, padded] rounded inputs; NULL: x will do */
    float *out;            /* [tokens, rows] */
    int32_t padded;        /* columns of a group in whole blocks, or of x */
    int32_t tokens;        /* at most BLAS_TOKENS_MAX */
    int32_t rows_of_group; /* of the weight */
    int32_t shares;        /* of a group */
};

static void prepare_token(const void *context, int32_t t)
{
    const struct wide *wide = context;
    int32_t columns = wide->args->weight.columns;
    for (int32_t g = 0; g < wide->args->groups; g++) {
        size_t idx = (size_t)t * (size_t)wide->args->groups + (size_t)g;
        quantise_vector_input(wide->x + idx * (size_t)columns, columns, wide->args->quantise_input,
                              wide->prepared + idx * (size_t)wide->padded);
    }
}

/* Columns first .. first + depth - 1 of one row, scaled. */
static void expand_row(const struct matrix *weight, int32_t row, int32_t first, int32_t depth,
                       float *out)
{
    const uint8_t *codes =
        (const uint8_t *)weight->data + (size_t)row * (size_t)weight->columns + first;
    for (int32_t block = 0; block < depth; block += LINEAR_BLOCK) {
        simd_f32 scale = simd_set1(linear_scale(weight, row, (first + block) / LINEAR_BLOCK));
        int32_t end = min_i32(block + LINEAR_BLOCK, depth);
        int32_t c = block;
        for (; c + SIMD_LANES <= end; c += SIMD_LANES)
            simd_store(out + c, simd_mul(simd_from_e4m3(codes + c), scale));
        if (c < end) {
            uint8_t last[SIMD_LANES] = {0};
            float values[SIMD_LANES];
            memcpy(last, codes + c, (size_t)(end - c));
            simd_store(values, simd_mul(simd_from_e4m3(last), scale));
            memcpy(out + c, values, (size_t)(end - c) * sizeof *out);
        }
    }
}

static void multiply_share(const void *context, int32_t idx)
{
    const struct wide *wide = context;
    const struct matrix *weight = &wide->args->weight;
    _Alignas(64) float tile[BLAS_TILE_ROWS][BLAS_TILE_COLUMNS];
    int32_t group = idx / wide->shares;
    int32_t first_row = idx % wide->shares * BLAS_TILE_ROWS;
    int32_t rows = min_i32(BLAS_TILE_ROWS, wide->rows_of_group - first_row);
    int32_t row = group * wide->rows_of_group + first_row;
    const float *input = wide->prepared ? wide->prepared : wide->x;
    input += (size_t)group * (size_t)wide->padded;
    float *out = wide->out + row;
    for (int32_t first = 0; first < weight->columns; first += BLAS_TILE_COLUMNS) {
        int32_t depth = min_i32(BLAS_TILE_COLUMNS, weight->columns - first);
        for (int32_t r = 0; r < rows; r++)
            expand_row(weight, row + r, first, depth, tile[r]);
        struct blas_product product = {
            .x = input + first,
            .weights = tile[0],
            .out = out,
            .tokens = wide->tokens,
            .rows = rows,
            .columns = depth,
            .x_stride = wide->args->groups * wide->padded,
            .weights_stride = BLAS_TILE_COLUMNS,
            .out_stride = weight->rows,
            .add = first > 0,
        };
        blas_multiply(wide->blas, &product);
    }
    if (!wide->args->round) return;
    for (int32_t t = 0; t < wide->tokens; t++, out += weight->rows)
        for (int32_t r = 0; r < rows; r++)
            out[r] = bf16_round(out[r]);
}

void cpu_linear_blas_avx2(struct stream *stream, const struct linear_args *args)
{
    const struct matrix *weight = &args->weight;
    SL_ASSERT(stream->blas && weight->format == MATRIX_FP8 && weight->scale != NULL);
    SL_ASSERT(args->groups >= 1 && weight->columns >= 1 && weight->rows % args->groups == 0);
    struct wide wide = {.blas = stream->blas,
                        .args = args,
                        .padded = weight->columns,
                        .rows_of_group = weight->rows / args->groups};
    int32_t tokens_max = BLAS_TOKENS_MAX;
    if (args->quantise_input) {
        wide.padded = linear_blocks(weight) * LINEAR_BLOCK;
        wide.prepared = stream->scratch;
        int64_t token_floats = (int64_t)args->groups * wide.padded;
        SL_ASSERT(token_floats <= STREAM_SCRATCH_FLOATS);
        tokens_max = min_i32(tokens_max, (int32_t)(STREAM_SCRATCH_FLOATS / token_floats));
    }
    wide.shares = ceil_div_i32(wide.rows_of_group, BLAS_TILE_ROWS);
    for (int32_t first = 0; first < args->tokens; first += wide.tokens) {
        wide.tokens = min_i32(tokens_max, args->tokens - first);
        wide.x = args->x + (size_t)first * (size_t)args->groups * (size_t)weight->columns;
        wide.out = args->out + (size_t)first * (size_t)weight->rows;
        if (wide.prepared) stream_run(stream, wide.tokens, prepare_token, &wide);
        stream_run(stream, args->groups * wide.shares, multiply_share, &wide);
    }
}

void cpu_linear_wide_avx2(struct stream *stream, const struct linear_args *args)
{
    if (args->weight.format == MATRIX_FP8 && args->tokens >= BLAS_LINEAR_TOKENS_MIN)
        cpu_linear_blas_avx2(stream, args);
    else
        cpu_linear_avx2(stream, args);
}
