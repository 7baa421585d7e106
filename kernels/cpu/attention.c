/* Attention of each query over window rows and compressed rows, with a sink.
 *
 * A work item is a token and a block of heads, which share each decoded row. Rows go in groups of
 * 64: scores, a running maximum that rescales what was summed before, then the weighted rows. */
#include "kernels/cpu/dot.h"
#include "kernels/cpu/stream.h"
#include "kernels/cpu/visible_rows.h"

#define HEAD_BLOCK 16
#define ROW_GROUP  64

/* One head's sums over the groups so far. */
struct head_state {
    float max;
    float weight; /* sum of the weights, not rounded */
    float *sum;   /* [width] weighted rows */
};

/* Takes `count` decoded rows into a head's sums. */
static void attend_group(const struct attention_args *args, const float *query, const float *rows,
                         int32_t count, struct head_state *head)
{
    int32_t width = args->width;
    float weights[ROW_GROUP];
    float max = head->max;
    for (int32_t k = 0; k < count; k++) {
        weights[k] = dot_f32(query, rows + (size_t)k * (size_t)width, width) * args->scale;
        max = weights[k] > max ? weights[k] : max;
    }
    float correction = expf(head->max - max); /* 0 for the first group */
    float weight_sum = 0.0f;
    for (int32_t k = 0; k < count; k++) {
        weights[k] = expf(weights[k] - max);
        weight_sum += weights[k];
    }
    head->max = max;
    head->weight = head->weight * correction + weight_sum;
    for (int32_t c = 0; c < width; c++)
        head->sum[c] *= correction;
    for (int32_t k = 0; k < count; k++) {
        const float *row = rows + (size_t)k * (size_t)width;
        float weight = quantise_bf16_if(weights[k], args->round);
        for (int32_t c = 0; c < width; c++)
            head->sum[c] += weight * row[c];
    }
}

/* Divides by the sum of the weights, the sink's among them. */
static void finish_head(const struct attention_args *args, const struct head_state *head,
                        float sink, float *out)
{
    float total = head->weight + expf(sink - head->max);
    for (int32_t c = 0; c < args->width; c++)
        out[c] = quantise_bf16_if(head->sum[c] / total, args->round);
}

static void attend(const void *context, int32_t item)
{
    const struct attention_args *args = context;
    int32_t blocks = ceil_div_i32(args->heads, HEAD_BLOCK);
    int32_t t = item / blocks;
    int32_t head_first = item % blocks * HEAD_BLOCK;
    size_t head_count = (size_t)min_i32(HEAD_BLOCK, args->heads - head_first);
    size_t width = (size_t)args->width;
    size_t first = ((size_t)t * (size_t)args->heads + (size_t)head_first) * width;
    struct visible_rows visible = visible_rows_make(args, t);
    int32_t row_count = visible.window_count + visible.compressed_count;
    float rows[ROW_GROUP * OPS_HEAD_DIM_MAX];
    struct head_state heads[HEAD_BLOCK];

    memset(args->out + first, 0, head_count * width * sizeof(float));
    if (row_count == 0) return; /* all weight is the sink's */
    for (size_t h = 0; h < head_count; h++)
        heads[h] = (struct head_state){.max = -INFINITY, .sum = args->out + first + h * width};
    for (int32_t group = 0; group < row_count; group += ROW_GROUP) {
        int32_t count = min_i32(ROW_GROUP, row_count - group);
        for (int32_t k = 0; k < count; k++)
            row_codec_decode(&args->format, visible_row(&visible, group + k),
                             rows + (size_t)k * width);
        for (size_t h = 0; h < head_count; h++)
            attend_group(args, args->queries + first + h * width, rows, count, &heads[h]);
    }
    for (size_t h = 0; h < head_count; h++)
        finish_head(args, &heads[h], args->sink[(size_t)head_first + h], heads[h].sum);
}

void cpu_attention(struct stream *stream, const struct attention_args *args)
{
    visible_rows_check(args);
    stream_run(stream, args->tokens * ceil_div_i32(args->heads, HEAD_BLOCK), attend, args);
}
