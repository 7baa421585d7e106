/* Attention over the window and compressed rows in their native form, 64 heads on one row.
 *
 * Two launches. The first makes the scores: a block decodes 16 rows at a time to bf16 in shared
 * memory, once for 64 heads, and multiplies them on the tensor cores with queries kept in
 * registers. The second sums the weighted rows: a block takes 16 heads and 32 channels of all rows,
 * its warps take groups of 64 rows in turn, and the warps' sums are added in order. Rows are split
 * over blocks in the first, channels in the second, so that neither needs the other blocks'
 * results, and the running maximum against which weights are rounded is the twin's: that of the
 * row's group of 64 and all before.
 *
 * Products are exact (both factors are bf16 values), sums f32. Against the twin: where a score
 * moves a weight over a rounding boundary, 1e-3 of the largest element, and a bf16 step of the
 * result. Other formats than 448 e4m3 and 64 bf16 channels, and plain f32 numerics, take
 * attention_plain. Passes of more than 16 tokens: attention_wide.cu. */
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/attention_plain.cuh"

#define POSITIONS_MAX (1 << 20) /* scratch is planned for so long a context */

/* Rows that a token may see, in whole groups. */
static int64_t rows_max(const struct attention_args *args)
{
    int64_t rows = args->window;
    if (args->ratio > 0) rows += args->selected ? args->top : POSITIONS_MAX / args->ratio;
    return (int64_t)align_up((uint64_t)rows, ATTENTION_TILE * ATTENTION_GROUP_TILES);
}

static void check(const struct attention_args *args)
{
    const struct row_format *format = &args->format;
    SL_ASSERT(rows_supported(format) && format->plain + format->rotary == args->width);
    SL_ASSERT(args->heads >= 1 && args->ratio >= 0);
    SL_ASSERT(args->window >= 0 && args->window <= args->window_capacity);
    SL_ASSERT(args->ratio == 0 || args->rows != NULL);
    SL_ASSERT((uintptr_t)args->queries % 16 == 0);
}

static bool is_native(const struct attention_args *args)
{
    const struct row_format *format = &args->format;
    uintptr_t places = (uintptr_t)args->window_rows | (uintptr_t)args->rows;
    return args->round && format->encoding == ROW_KV && format->plain == ATTENTION_PLAIN &&
           args->width == ATTENTION_WIDTH && places % 8 == 0;
}

bool attention_few(struct stream *stream, struct attention *work)
{
    const struct attention_args *args = &work->args;
    work->capacity = (int32_t)rows_max(args);
    size_t token_floats =
        (size_t)args->heads * (size_t)(work->capacity + work->capacity / ATTENTION_TILE);
    int32_t together = (int32_t)(CUDA_SCRATCH_BYTES / sizeof(float) / (token_floats + 1));
    check(args);
    if (!is_native(args) || together == 0) return false;
    work->scores = reinterpret_cast<float *>(stream->scratch);
    for (int32_t first = 0; first < args->tokens; first += together) {
        work->tokens = min_i32(together, args->tokens - first);
        work->first_token = first;
        work->maxima =
            work->scores + (size_t)work->tokens * (size_t)args->heads * (size_t)work->capacity;
        attention_score(stream, work);
        attention_sum(stream, work);
    }
    return true;
}

extern "C" void cuda_attention(struct stream *stream, const struct attention_args *args)
{
    struct attention work = {.args = *args};
    check(args);
    if (is_native(args) && attention_wide(stream, args)) return;
    if (!attention_few(stream, &work)) attention_plain(stream, args);
}
