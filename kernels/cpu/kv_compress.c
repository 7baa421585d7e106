/* Keys and gates of tokens folded into compressed rows.
 *
 * Channels are pooled independently, so a block of channels goes through all tokens in order on
 * one thread, with its own columns of the state ring; then the pooled rows are normed, rotated and
 * encoded. What is computed for a group does not depend on how its tokens came in calls. */
#include "kernels/cpu/hadamard.h"
#include "kernels/cpu/rms.h"
#include "kernels/cpu/rotation.h"
#include "kernels/cpu/row_codec.h"
#include "kernels/cpu/stream.h"

#define CHANNEL_BLOCK 32

/* Consecutive tokens whose pooled rows fit into the stream's scratch. */
struct compress_tile {
    const struct kv_compress_args *args;
    float *pooled; /* [row_count, width] */
    int32_t token; /* the first, within the call */
    int32_t token_count;
    int32_t row; /* the first row completed by the tile */
    int32_t row_count;
};

/* The softmax over a group, for channels pooled together. */
struct channel_sums {
    float max[CHANNEL_BLOCK];
    float weight[CHANNEL_BLOCK];
    float key[CHANNEL_BLOCK];
};

static int32_t halves(const struct kv_compress_args *args)
{
    return args->overlap ? 2 : 1;
}

/* Keys of the slot of a position; the gates follow after `columns` elements. */
static float *state_slot(const struct kv_compress_args *args, int32_t position)
{
    size_t columns = (size_t)halves(args) * (size_t)args->width;
    size_t slot = (size_t)(position % args->state_capacity);
    return args->state + slot * 2 * columns;
}

/* Stores the token's keys and gates, channels [first, first + count) of each half. */
static void remember(const struct kv_compress_args *args, int32_t t, int32_t first, int32_t count)
{
    size_t columns = (size_t)halves(args) * (size_t)args->width;
    int32_t position = args->positions[t];
    const float *ape = args->ape + (size_t)(position % args->ratio) * columns;
    float *keys = state_slot(args, position);
    float *gates = keys + columns;
    for (int32_t half = 0; half < halves(args); half++) {
        size_t begin = (size_t)(half * args->width + first);
        for (size_t c = begin; c < begin + (size_t)count; c++) {
            keys[c] = args->keys[(size_t)t * columns + c];
            gates[c] = args->gates[(size_t)t * columns + c] + ape[c];
        }
    }
}

/* Largest gates of the `ratio` tokens from `position` on, columns from `column` on. */
static void raise_max(const struct kv_compress_args *args, int32_t position, int32_t column,
                      int32_t count, struct channel_sums *sums)
{
    int32_t columns = halves(args) * args->width;
    for (int32_t i = 0; i < args->ratio; i++) {
        const float *gates = state_slot(args, position + i) + columns + column;
        for (int32_t c = 0; c < count; c++)
            sums->max[c] = gates[c] > sums->max[c] ? gates[c] : sums->max[c];
    }
}

static void add_weighted(const struct kv_compress_args *args, int32_t position, int32_t column,
                         int32_t count, struct channel_sums *sums)
{
    int32_t columns = halves(args) * args->width;
    for (int32_t i = 0; i < args->ratio; i++) {
        const float *keys = state_slot(args, position + i) + column;
        const float *gates = keys + columns;
        for (int32_t c = 0; c < count; c++) {
            float weight = expf(gates[c] - sums->max[c]);
            sums->weight[c] += weight;
            sums->key[c] += weight * keys[c];
        }
    }
}

/* Pools group `row` for channels [first, first + count). */
static void pool_group(const struct kv_compress_args *args, int32_t row, int32_t first,
                       int32_t count, float *out)
{
    int32_t position = row * args->ratio;
    bool previous = args->overlap && row > 0; /* before group 0 there is nothing */
    int32_t column = args->overlap ? args->width + first : first;
    struct channel_sums sums = {0};
    for (int32_t c = 0; c < count; c++)
        sums.max[c] = -INFINITY;
    if (previous) raise_max(args, position - args->ratio, first, count, &sums);
    raise_max(args, position, column, count, &sums);
    if (previous) add_weighted(args, position - args->ratio, first, count, &sums);
    add_weighted(args, position, column, count, &sums);
    for (int32_t c = 0; c < count; c++)
        out[c] = sums.key[c] / sums.weight[c];
}

static void pool_channels(const void *context, int32_t block)
{
    const struct compress_tile *tile = context;
    const struct kv_compress_args *args = tile->args;
    int32_t first = block * CHANNEL_BLOCK;
    int32_t count = min_i32(CHANNEL_BLOCK, args->width - first);
    int32_t row = tile->row;
    for (int32_t t = tile->token; t < tile->token + tile->token_count; t++) {
        remember(args, t, first, count);
        if ((args->positions[t] + 1) % args->ratio != 0) continue;
        size_t pooled = (size_t)(row - tile->row) * (size_t)args->width + (size_t)first;
        pool_group(args, row, first, count, tile->pooled + pooled);
        row++;
    }
    SL_DEBUG_ASSERT(row == tile->row + tile->row_count);
}

static void finish_row(const void *context, int32_t idx)
{
    const struct compress_tile *tile = context;
    const struct kv_compress_args *args = tile->args;
    float *x = tile->pooled + (size_t)idx * (size_t)args->width;
    int32_t row = tile->row + idx;
    struct rotation rotation;
    if (args->round)
        for (int32_t c = 0; c < args->width; c++)
            x[c] = bf16_round(x[c]);
    rms_norm(x, args->norm, x, args->width, args->epsilon, args->round);
    rotation_init(&rotation, row * args->ratio, args->frequencies, args->format.rotary / 2);
    rotation_apply(&rotation, x + args->format.plain, false, args->round);
    /* Without rounding the queries are not rotated either; no product changes. */
    if (args->hadamard && args->round) hadamard_rotate(x, args->width);
    row_codec_encode(&args->format, x, args->rows + (size_t)row * row_format_bytes(&args->format));
}

void cpu_kv_compress(struct stream *stream, const struct kv_compress_args *args)
{
    SL_ASSERT(row_codec_supported(&args->format));
    SL_ASSERT(row_codec_width(&args->format) == args->width);
    SL_ASSERT(args->format.rotary % 2 == 0);
    SL_ASSERT(args->ratio >= 1 && args->tokens >= 0);
    if (args->tokens == 0) return;
    int32_t position = args->positions[0];
    SL_ASSERT(position >= 0 && args->positions[args->tokens - 1] == position + args->tokens - 1);
    SL_ASSERT(args->state_capacity >= halves(args) * args->ratio);
    SL_ASSERT((position + args->tokens) / args->ratio <= args->rows_max);
    struct compress_tile tile = {.args = args, .pooled = stream->scratch};
    /* One row less than fit, for the group the tile begins in. */
    int64_t tokens_max = (int64_t)(STREAM_SCRATCH_FLOATS / args->width - 1) * args->ratio;
    for (int32_t token = 0; token < args->tokens; token += tile.token_count) {
        tile.token = token;
        tile.token_count = args->tokens - token;
        if (tile.token_count > tokens_max) tile.token_count = (int32_t)tokens_max;
        tile.row = (position + token) / args->ratio;
        tile.row_count = (position + token + tile.token_count) / args->ratio - tile.row;
        stream_run(stream, ceil_div_i32(args->width, CHANNEL_BLOCK), pool_channels, &tile);
        stream_run(stream, tile.row_count, finish_row, &tile);
    }
}
