/* fp8 linears of many tokens through cuBLASLt, on compute capability 9.0: the model's scales, a
 * block of 128 x 128 of the weight and 128 columns of a token, are the library's. The input becomes
 * e4m3 codes once for all products of it; the weight's scales become f32 for each call, 8 KiB of
 * them; outputs are rounded to bf16 in place, in a pass of its own.
 *
 * Sums of 128 columns stay inside the tensor core, which keeps about 14 bits of them, and are added
 * in f32, as the published program's are. Limit: rms over rms 1e-3, largest error 4e-3 of the
 * largest output. What surrounds the library's product is checked under emulation, with a stand-in
 * for it. No GPU has run any of it. */
#include "kernels/cuda/cublas.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/linear_choice.h"
#include "kernels/cuda/linear_input.cuh"
#include "kernels/cuda/linear_ways.h"
#include "kernels/cuda/numerics.cuh"

#define THREADS 256

/* Of the scratch memory: a weight's scales, then an input's with its codes, and behind them the
 * library's workspace, which is to be 32 MiB on this device. */
#define WEIGHT_SCALES_BYTES ((size_t)256 << 10)
#define OPERANDS_BYTES      ((size_t)32 << 20)
#define ALIGNMENT           256 /* of operands and outputs, which the library counts on */
#define TOKENS_STEP         128 /* of a pass: its outputs begin on such a boundary */
#define ROWS_STEP           16
#define TOKENS_MULTIPLE     4 /* what the library asks for: the rest takes the way of few tokens */

/* A weight's scales as f32, [row blocks, pitch]. */
static __global__ void __launch_bounds__(THREADS)
    linear_scales_kernel(const uint8_t *scales, float *out, int32_t blocks, int32_t pitch,
                         int32_t count)
{
    launch_chain();
    int32_t at = (int32_t)(blockIdx.x * THREADS + threadIdx.x);
    if (at >= count) return;
    int32_t column = at % pitch;
    out[at] = column < blocks ? e8m0_decode(scales[at / pitch * blocks + column]) : 0.0f;
}

/* Outputs to the nearest bf16 value, in place. */
static __global__ void __launch_bounds__(THREADS) linear_round_kernel(float4 *out, int64_t count)
{
    launch_chain();
    int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (at >= count) return;
    float4 in = out[at];
    out[at] = make_float4(bf16_round(in.x), bf16_round(in.y), bf16_round(in.z), bf16_round(in.w));
}

/* Tokens for the library, and how the operands of a pass lie in scratch. */
struct cublas_pass {
    int32_t whole, tokens; /* of all passes, and of one at most */
    int32_t blocks, pitch; /* scales of a row: those there are, and with room to a multiple of 4 */
    size_t codes;          /* of the input; its scales are at WEIGHT_SCALES_BYTES */
};

/* Depends on the input alone, so that products that share it share this. No tokens: no way. */
static struct cublas_pass plan_pass(const struct linear_args *args)
{
    struct cublas_pass pass = {};
    pass.blocks = args->weight.columns / LINEAR_COLUMNS;
    pass.pitch = ceil_div_i32(pass.blocks, 4) * 4;
    pass.whole = args->tokens / TOKENS_MULTIPLE * TOKENS_MULTIPLE;
    size_t token_bytes = (size_t)args->weight.columns + (size_t)pass.blocks * sizeof(float);
    size_t room = (OPERANDS_BYTES - WEIGHT_SCALES_BYTES - ALIGNMENT) / token_bytes;
    int32_t most = (int32_t)(room / TOKENS_STEP) * TOKENS_STEP;
    if (most == 0) return pass;
    int32_t even = ceil_div_i32(pass.whole, ceil_div_i32(pass.whole, most));
    pass.tokens = min_i32(pass.whole, ceil_div_i32(even, TOKENS_STEP) * TOKENS_STEP);
    size_t scales_bytes = (size_t)pass.blocks * (size_t)pass.tokens * sizeof(float);
    pass.codes = align_up(WEIGHT_SCALES_BYTES + scales_bytes, ALIGNMENT);
    return pass;
}

static int32_t scale_count(const struct linear_args *args, const struct cublas_pass *pass)
{
    return ceil_div_i32(args->weight.rows, LOWP_FP8_BLOCK) * pass->pitch;
}

/* The pass that begins at token `first`. */
static struct cublas_product product_of(const struct stream *stream, const struct linear_args *args,
                                        const struct cublas_pass *pass, int32_t first)
{
    struct cublas_product product = {};
    product.format = CUBLAS_FP8_BLOCKS;
    product.weight = args->weight.data;
    product.x = stream->scratch + pass->codes;
    product.weight_scale = reinterpret_cast<const float *>(stream->scratch);
    product.x_scale = reinterpret_cast<const float *>(stream->scratch + WEIGHT_SCALES_BYTES);
    product.out = args->out + (size_t)first * (size_t)args->weight.rows;
    product.tokens = min_i32(pass->tokens, pass->whole - first);
    product.rows = args->weight.rows;
    product.columns = args->weight.columns;
    product.workspace_from = OPERANDS_BYTES;
    return product;
}

bool linear_cublas_takes(const struct stream *stream, const struct linear_args *args)
{
    const struct linear_ways *ways = linear_ways_of(stream);
    const struct matrix *weight = &args->weight;
    uintptr_t addresses =
        reinterpret_cast<uintptr_t>(weight->data) | reinterpret_cast<uintptr_t>(args->out);
    if (!ways->cublas || ways->linears == CUDA_LINEARS_OWN) return false;
    if (weight->format != MATRIX_FP8 || !args->quantise_input || args->groups != 1) return false;
    if (weight->rows % ROWS_STEP != 0 || addresses % ALIGNMENT != 0) return false;
    if (ways->linears == CUDA_LINEARS_MEASURED &&
        !linear_choice_has(linear_choices(), stream->arch, weight->rows, weight->columns,
                           args->tokens))
        return false;
    struct cublas_pass pass = plan_pass(args);
    if (pass.tokens == 0) return false;
    if ((size_t)scale_count(args, &pass) * sizeof(float) > WEIGHT_SCALES_BYTES) return false;
    struct cublas_product first = product_of(stream, args, &pass, 0);
    struct cublas_product last =
        product_of(stream, args, &pass, (pass.whole - 1) / pass.tokens * pass.tokens);
    return cublas_can(ways->cublas, &first) && cublas_can(ways->cublas, &last);
}

static void multiply(struct stream *stream, const struct linear_args *args,
                     const struct cublas_pass *pass, int32_t first)
{
    struct cublas_product product = product_of(stream, args, pass, first);
    int32_t count = scale_count(args, pass);
    int64_t vectors = (int64_t)product.tokens * product.rows / 4;
    SL_LAUNCH(stream, linear_scales_kernel, launch_blocks(count, THREADS), THREADS, 0,
              args->weight.scale, reinterpret_cast<float *>(stream->scratch), pass->blocks,
              pass->pitch, count);
    cublas_multiply(linear_ways_of(stream)->cublas, stream, &product);
    if (args->round)
        SL_LAUNCH(stream, linear_round_kernel, launch_blocks(vectors, THREADS), THREADS, 0,
                  static_cast<float4 *>(product.out), vectors);
}

void linear_cublas(struct stream *stream, const struct linear_args *items, int32_t count)
{
    struct cublas_pass pass = plan_pass(items);
    size_t columns = (size_t)items->weight.columns;
    for (int32_t first = 0; first < pass.whole; first += pass.tokens) {
        linear_input_fp8(stream, items->x + (size_t)first * columns,
                         min_i32(pass.tokens, pass.whole - first), items->weight.columns,
                         stream->scratch + pass.codes,
                         reinterpret_cast<float *>(stream->scratch + WEIGHT_SCALES_BYTES));
        for (int32_t i = 0; i < count; i++)
            multiply(stream, &items[i], &pass, first);
    }
    for (int32_t i = 0; i < count && pass.whole < items->tokens; i++) {
        struct linear_args rest = items[i];
        rest.tokens -= pass.whole;
        rest.x += (size_t)pass.whole * columns;
        rest.out += (size_t)pass.whole * (size_t)rest.weight.rows;
        cuda_linear(stream, &rest);
    }
}
