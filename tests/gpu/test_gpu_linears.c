/* Products launched together against each launched alone. */
#include "kernels/fused.h"
#include "tests/gpu/twin.h"

#include <string.h>

struct shape {
    enum matrix_format format;
    int32_t rows, columns;
    bool round;
};

struct product {
    struct twin_array x, weights, scales, alone, together;
};

static struct product make_product(struct twin *twin, const struct shape *shape, int32_t tokens,
                                   struct linear_args *args)
{
    bool fp8 = shape->format == MATRIX_FP8;
    size_t elements = (size_t)shape->rows * (size_t)shape->columns;
    size_t blocks =
        (size_t)ceil_div_i32(shape->rows, 128) * (size_t)ceil_div_i32(shape->columns, 128);
    size_t out_bytes = (size_t)tokens * (size_t)shape->rows * sizeof(float);
    struct product product = {
        .x = twin_floats(twin, (size_t)tokens * (size_t)shape->columns, 1, true),
        .weights = twin_array_make(twin, elements * (fp8 ? 1 : 2)),
        .scales = twin_array_make(twin, blocks),
        .alone = twin_array_make(twin, out_bytes),
        .together = twin_array_make(twin, out_bytes)};
    if (fp8)
        twin_fill_e4m3(twin, product.weights.host, elements);
    else
        twin_fill_bf16(twin, product.weights.host, elements, 1);
    twin_fill_e8m0(twin, product.scales.host, blocks, -4, 4);
    twin_upload(twin, &product.weights);
    twin_upload(twin, &product.scales);
    *args = (struct linear_args){.x = product.x.device,
                                 .weight = {product.weights.device, product.scales.device,
                                            shape->format, shape->rows, shape->columns},
                                 .out = product.together.device,
                                 .tokens = tokens,
                                 .groups = 1,
                                 .quantise_input = fp8,
                                 .round = shape->round,
                                 .bf16_input = true};
    return product;
}

static void free_product(struct twin *twin, struct product *product)
{
    struct twin_array *all[] = {&product->x, &product->weights, &product->scales, &product->alone,
                                &product->together};
    for (size_t i = 0; i < SL_COUNT_OF(all); i++)
        twin_array_free(twin, all[i]);
}

/* All of them together, and one by one by the same processor: the same bits. The first `sharing`
 * read one input. Returns the launches that they take together. */
static uint64_t linears(struct twin *twin, const struct shape *shapes, int32_t count,
                        int32_t sharing, int32_t tokens)
{
    struct linear_args items[FUSED_LINEARS_MAX];
    struct product products[FUSED_LINEARS_MAX];
    for (int32_t i = 0; i < count; i++) {
        products[i] = make_product(twin, &shapes[i], tokens, &items[i]);
        if (i < sharing) items[i].x = items[0].x;
    }
    uint64_t launches = cuda_stream_launches(twin->gpu_stream);
    TWIN_CHECK(twin, twin->gpu->fused->linears(twin->gpu_stream, items, count), "refused");
    launches = cuda_stream_launches(twin->gpu_stream) - launches;
    for (int32_t i = 0; i < count; i++) {
        struct product *product = &products[i];
        struct linear_args alone = items[i];
        alone.out = product->alone.device;
        twin->gpu->linear(twin->gpu_stream, &alone);
        twin_check_bytes(twin, "products", twin_download(twin, &product->together),
                         twin_download(twin, &product->alone), product->alone.bytes);
    }
    for (int32_t i = 0; i < count; i++)
        free_product(twin, &products[i]);
    return launches;
}

static void linears_are_their_items(struct twin *twin)
{
    static const int32_t token_counts[] = {0, 1, 3, 16};
    static const struct shape layer[] = {
        {MATRIX_FP8, 256, 512, true},   {MATRIX_FP8, 128, 512, true},
        {MATRIX_BF16, 256, 512, false}, {MATRIX_BF16, 256, 512, false},
        {MATRIX_BF16, 64, 512, false},  {MATRIX_BF16, 8, 512, true},
        {MATRIX_BF16, 16, 512, false}};
    static const struct shape pair[] = {{MATRIX_FP8, 2048, 256, true}, {MATRIX_FP8, 8, 128, true}};
    for (size_t i = 0; i < SL_COUNT_OF(token_counts); i++) {
        linears(twin, layer, SL_COUNT_OF(layer), 0, token_counts[i]);
        linears(twin, pair, 2, 0, token_counts[i]);
        linears(twin, pair + 1, 1, 0, token_counts[i]);
    }
}

/* One conversion for the fp8 products of one input and one for the bf16 ones; another input, though
 * as wide, has its own. */
static void linears_of_a_chunk_are_their_items(struct twin *twin)
{
    static const int32_t token_counts[] = {17, 128, 129};
    static const struct shape layer[] = {{MATRIX_FP8, 136, 256, true},
                                         {MATRIX_BF16, 72, 256, false},
                                         {MATRIX_FP8, 40, 256, true},
                                         {MATRIX_BF16, 8, 256, true},
                                         {MATRIX_FP8, 24, 256, true}};
    static const struct shape long_rows[] = {{MATRIX_FP8, 256, 4096, true},
                                             {MATRIX_FP8, 256, 4096, true}};
    for (size_t i = 0; i < SL_COUNT_OF(token_counts); i++) {
        uint64_t launches = linears(twin, layer, 5, 4, token_counts[i]);
        TWIN_CHECK(twin, launches == 8, "%d launches, not 8", (int)launches);
        launches = linears(twin, layer, 1, 1, token_counts[i]);
        TWIN_CHECK(twin, launches == 2, "%d launches, not 2", (int)launches);
    }
    /* More than one pass: the emulator would take minutes. */
    if (!twin->device.emulated) (void)linears(twin, long_rows, 2, 2, 6001);
}

/* Those that cuBLASLt may take share an input of their own. */
static void linears_of_both_ways_are_their_items(struct twin *twin)
{
    static const struct shape layer[] = {{MATRIX_FP8, 144, 256, true},
                                         {MATRIX_BF16, 24, 256, false},
                                         {MATRIX_FP8, 40, 256, true}, /* not of 16 rows: ours */
                                         {MATRIX_FP8, 32, 256, true}};
    struct sl_error error;
    if (cuda_stream_linears(twin->gpu_stream, CUDA_LINEARS_CUBLAS, &error) != SL_OK) {
        printf("skipped: %s\n", error.message);
        return;
    }
    (void)linears(twin, layer, 4, 4, 20);
    (void)linears(twin, layer, 4, 4, 131);
    TWIN_CHECK(twin, cuda_stream_linears(twin->gpu_stream, CUDA_LINEARS_MEASURED, &error) == SL_OK,
               "no way back");
}

static void linears_refuse_what_they_cannot_take(struct twin *twin)
{
    static const struct shape odd = {MATRIX_FP8, 12, 128, true}, good = {MATRIX_FP8, 8, 128, true};
    struct linear_args items[2];
    struct product products[] = {make_product(twin, &good, 1, &items[0]),
                                 make_product(twin, &odd, 1, &items[1])};
    TWIN_CHECK(twin, !twin->gpu->fused->linears(twin->gpu_stream, items, 2), "12 rows taken");
    items[0].tokens = items[1].tokens = 17;
    TWIN_CHECK(twin, !twin->gpu->fused->linears(twin->gpu_stream, items, 2), "12 rows taken");
    free_product(twin, &products[0]);
    free_product(twin, &products[1]);
}

/* ---- gated ---- */

/* Against its chain on the same processor: the same bits. */
static void gated(struct twin *twin, int32_t tokens, int32_t rows, int32_t columns)
{
    const struct shape shape = {MATRIX_FP8, rows, columns, true};
    struct fused_gated_args args;
    struct product gate = make_product(twin, &shape, tokens, &args.gate);
    struct product up = make_product(twin, &shape, tokens, &args.up);
    args.up.x = args.gate.x;
    args.swiglu =
        (struct swiglu_args){args.gate.out, args.up.out, args.gate.out, tokens, rows, 10.0f, true};
    TWIN_CHECK(twin, twin->gpu->fused->gated(twin->gpu_stream, &args), "refused");
    float *fused = twin_host(gate.together.bytes);
    memcpy(fused, twin_download(twin, &gate.together), gate.together.bytes);
    twin->gpu->linear(twin->gpu_stream, &args.gate);
    twin->gpu->linear(twin->gpu_stream, &args.up);
    twin->gpu->swiglu(twin->gpu_stream, &args.swiglu);
    twin_check_bytes(twin, "gated", fused, twin_download(twin, &gate.together),
                     gate.together.bytes);
    free(fused);
    free_product(twin, &gate);
    free_product(twin, &up);
}

static void gated_is_its_chain(struct twin *twin)
{
    static const int32_t token_counts[] = {0, 1, 3, 16};
    for (size_t i = 0; i < SL_COUNT_OF(token_counts); i++) {
        gated(twin, token_counts[i], 8, 128);
        gated(twin, token_counts[i], 136, 640);
        gated(twin, token_counts[i], 1024, 256);
    }
}

static void gated_refuses_what_it_cannot_take(struct twin *twin)
{
    static const struct shape odd = {MATRIX_FP8, 12, 128, true};
    struct fused_gated_args args;
    struct product gate = make_product(twin, &odd, 1, &args.gate);
    args.up = args.gate;
    args.swiglu =
        (struct swiglu_args){args.gate.out, args.up.out, args.gate.out, 1, 12, 10.0f, true};
    TWIN_CHECK(twin, !twin->gpu->fused->gated(twin->gpu_stream, &args), "12 rows taken");
    free_product(twin, &gate);
}

int main(int argc, char **argv)
{
    static const struct twin_case cases[] = {
        {"linears are their items", linears_are_their_items},
        {"linears of a chunk are their items", linears_of_a_chunk_are_their_items},
        {"linears of a chunk by both ways are their items", linears_of_both_ways_are_their_items},
        {"linears refuse what they cannot take", linears_refuse_what_they_cannot_take},
        {"gated is its chain", gated_is_its_chain},
        {"gated refuses what it cannot take", gated_refuses_what_it_cannot_take},
    };
    return twin_main(argc, argv, cases, SL_COUNT_OF(cases));
}
