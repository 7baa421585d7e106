/* Several products of few tokens in one launch: each item as a launch of its own would compute it,
 * bit for bit. Blocks are shared out by the bytes of the matrices, at least one each; a block works
 * for one item. More tokens share the conversion of their input (linear.cu). */
#include "kernels/cuda/linear_tiles.cuh"
#include "kernels/fused.h"

static_assert(FUSED_LINEARS_MAX <= LINEAR_ITEMS_MAX, "as many of a chunk");

struct group_item {
    struct linear_args args;
    struct tile_plan plan;
    int32_t first_block, blocks;
};

struct linear_group {
    struct group_item items[FUSED_LINEARS_MAX];
    int32_t count;
};

static __global__ void __launch_bounds__(TILE_THREADS, 2)
    linear_group_kernel(const struct linear_group group)
{
    int32_t i = 0;
    while (i + 1 < group.count && (int32_t)blockIdx.x >= group.items[i + 1].first_block)
        i++;
    const struct linear_args args = group.items[i].args;
    const struct tile_plan plan = group.items[i].plan;
    struct tile_share share = {(int32_t)blockIdx.x - group.items[i].first_block,
                               group.items[i].blocks, 0};
    if (args.weight.format == MATRIX_FP8)
        multiply_tiles<fp8_quantised>(args, plan, share);
    else
        multiply_tiles<bf16_plain>(args, plan, share);
}

static bool takes(const struct linear_args *args)
{
    if (!linear_tiles_fit(args)) return false;
    if (args->weight.format == MATRIX_FP8) return args->quantise_input;
    return args->weight.format == MATRIX_BF16 && args->bf16_input && !args->quantise_input;
}

/* Plans an item; the bytes of shared memory that it needs. */
static size_t plan_item(struct stream *stream, const struct linear_args *args,
                        struct group_item *item)
{
    bool fp8 = args->weight.format == MATRIX_FP8;
    item->args = *args;
    item->plan = plan_tiles(stream, args, fp8 ? fp8_quantised::DEPTH : bf16_plain::DEPTH);
    item->plan.tokens = args->tokens;
    return fp8 ? tile_bytes<fp8_quantised>(args, &item->plan, args->tokens)
               : tile_bytes<bf16_plain>(args, &item->plan, args->tokens);
}

static double weight_bytes(const struct linear_args *args)
{
    double elements = (double)args->weight.rows * (double)args->weight.columns;
    return args->weight.format == MATRIX_FP8 ? elements : 2 * elements;
}

/* Hands `blocks` to the items; the number given, which rounding up may make larger. */
static int32_t share_blocks(struct linear_group *group, int32_t blocks)
{
    double bytes = 0;
    int32_t given = 0;
    for (int32_t i = 0; i < group->count; i++)
        bytes += weight_bytes(&group->items[i].args);
    for (int32_t i = 0; i < group->count; i++) {
        struct group_item *item = &group->items[i];
        double part = (double)blocks * weight_bytes(&item->args) / bytes;
        item->first_block = given;
        item->blocks = min_i32(item->plan.steps, max_i32(1, (int32_t)part));
        given += item->blocks;
    }
    return given;
}

extern "C" bool cuda_fused_linears(struct stream *stream, const struct linear_args *items,
                                   int32_t count)
{
    struct linear_group group = {};
    size_t shared_bytes = 0;
    SL_ASSERT(count >= 1 && count <= FUSED_LINEARS_MAX);
    for (int32_t i = 0; i < count; i++)
        SL_ASSERT(items[i].tokens == items[0].tokens && items[i].groups == 1);
    if (items[0].tokens > LINEAR_TOKENS_FEW) return linear_many(stream, items, count);
    group.count = count;
    for (int32_t i = 0; i < count; i++) {
        if (!takes(&items[i])) return false;
        size_t bytes = plan_item(stream, &items[i], &group.items[i]);
        shared_bytes = bytes > shared_bytes ? bytes : shared_bytes;
    }
    size_t room = (size_t)stream->shared_bytes_max;
    if (shared_bytes > room) return false;
    if (items[0].tokens == 0) return true;
    int32_t blocks = share_blocks(&group, stream->processors * (2 * shared_bytes > room ? 1 : 2));
    SL_ALLOW_SHARED(stream, linear_group_kernel, shared_bytes);
    SL_LAUNCH(stream, linear_group_kernel, (unsigned)blocks, TILE_THREADS, shared_bytes, group);
    return true;
}
