/* Linears against their twin: every format and way, real and odd shapes. */
#include "kernels/cuda/linear_choice.h"
#include "kernels/lowp.h"
#include "tests/gpu/twin.h"

#include <math.h>
#include <string.h>

struct product {
    enum matrix_format format;
    int32_t tokens, rows, columns, groups;
    bool quantise, round, bf16_input;
};

struct operands {
    struct twin_array x, weight, scale, out;
    size_t x_count, out_count;
};

static void fill(struct twin *twin, const struct product *p, struct operands *o)
{
    size_t count = (size_t)p->rows * (size_t)p->columns;
    o->x_count = (size_t)p->tokens * (size_t)p->groups * (size_t)p->columns;
    o->out_count = (size_t)p->tokens * (size_t)p->rows;
    size_t scales = (size_t)ceil_div_i32(p->rows, 128) * (size_t)ceil_div_i32(p->columns, 128);
    size_t element = p->format == MATRIX_F32 ? 4 : p->format == MATRIX_BF16 ? 2 : 1;
    o->x = twin_array_make(twin, o->x_count * 4);
    o->weight = twin_array_make(twin, count * element);
    o->scale = twin_array_make(twin, scales);
    o->out = twin_array_make(twin, o->out_count * 4);
    twin_fill(twin, o->x.host, o->x_count, 1, p->bf16_input);
    /* Blocks of one channel far above the others, tiny ones, and zeros: scales of every size. */
    for (size_t i = 0; i < o->x_count; i++) {
        float *x = (float *)o->x.host + i;
        if (i % 1000 == 3) *x *= 512.0f;
        if (i / 128 % 5 == 1) *x *= 0x1p-12f;
        if (i / 128 % 7 == 2) *x = 0.0f;
    }
    if (p->format == MATRIX_F32) twin_fill(twin, o->weight.host, count, 1, false);
    if (p->format == MATRIX_BF16) twin_fill_bf16(twin, o->weight.host, count, 1);
    if (p->format == MATRIX_FP8) twin_fill_e4m3(twin, o->weight.host, count);
    twin_fill_e8m0(twin, o->scale.host, scales, -12, -4);
    twin_upload(twin, &o->x), twin_upload(twin, &o->weight), twin_upload(twin, &o->scale);
}

static struct linear_args arguments(const struct product *p, const struct operands *o, bool device)
{
    struct linear_args args = {
        .x = device ? o->x.device : o->x.host,
        .weight = {device ? o->weight.device : o->weight.host,
                   device ? o->scale.device : o->scale.host, p->format, p->rows, p->columns},
        .out = device ? o->out.device : o->out.host,
        .tokens = p->tokens,
        .groups = p->groups,
        .quantise_input = p->quantise,
        .round = p->round,
        .bf16_input = p->bf16_input,
    };
    return args;
}

static void release(struct twin *twin, struct operands *o)
{
    twin_array_free(twin, &o->x), twin_array_free(twin, &o->weight);
    twin_array_free(twin, &o->scale), twin_array_free(twin, &o->out);
}

static void multiply(struct twin *twin, const struct product *p)
{
    struct operands o;
    char what[100];
    fill(twin, p, &o);
    struct linear_args args = arguments(p, &o, false);
    twin->cpu->linear(twin->cpu_stream, &args);
    args = arguments(p, &o, true);
    twin->gpu->linear(twin->gpu_stream, &args);
    snprintf(what, sizeof what, "%d tokens, [%d, %d] of format %d in %d groups", (int)p->tokens,
             (int)p->rows, (int)p->columns, (int)p->format, (int)p->groups);
    /* f32 sums in another order; a rounding that goes the other way is one bf16 step. A GPU's
     * tensor cores truncate every sum, and for many tokens one sum runs over all columns. */
    double rms = p->tokens > 16 && !twin->device.emulated ? 3e-5 : 4e-6;
    twin_check_close(twin, what, twin_download(twin, &o.out), o.out.host, o.out_count,
                     p->round ? 2e-3 : rms, p->round ? 0x1p-7 : 2 * rms);
    release(twin, &o);
}

/* What the device makes of all tokens, in one launch; the caller's. */
static float *multiply_together(struct twin *twin, const struct product *p, struct operands *o)
{
    struct linear_args args = arguments(p, o, true);
    float *together = twin_host(o->out.bytes);
    twin->gpu->linear(twin->gpu_stream, &args);
    memcpy(together, twin_download(twin, &o->out), o->out.bytes);
    return together;
}

/* And of each by itself. Borrowed, until the next download. */
static const float *multiply_alone(struct twin *twin, const struct product *p, struct operands *o)
{
    struct linear_args args = arguments(p, o, true);
    args.tokens = 1;
    for (int32_t t = 0; t < p->tokens; t++) {
        args.x = (const float *)o->x.device + (size_t)t * (size_t)p->groups * (size_t)p->columns;
        args.out = (float *)o->out.device + (size_t)t * (size_t)p->rows;
        twin->gpu->linear(twin->gpu_stream, &args);
    }
    return twin_download(twin, &o->out);
}

static const int32_t token_counts[] = {0, 1, 2, 7, 16, 19};

/* What the emulator leaves out: it takes seconds for what a GPU does at once. */
static bool too_long(const struct twin *twin, int32_t tokens)
{
    return twin->device.emulated && (tokens == 2 || tokens == 16);
}

/* The matrices of a Flash layer; the emulator multiplies fewer rows of the large ones. */
static void real_shapes_are_close(struct twin *twin)
{
    static const struct product shapes[] = {
        {MATRIX_FP8, 0, 1024, 4096, 1, true, true, true},      /* wq_a */
        {MATRIX_FP8, 0, 32768, 1024, 1, true, true, true},     /* wq_b */
        {MATRIX_FP8, 0, 512, 4096, 1, true, true, true},       /* wkv */
        {MATRIX_FP8, 0, 8192, 4096, 8, false, true, true},     /* wo_a */
        {MATRIX_FP8, 0, 4096, 8192, 1, true, true, true},      /* wo_b */
        {MATRIX_FP8, 0, 2048, 4096, 1, true, true, true},      /* shared w1, w3 */
        {MATRIX_FP8, 0, 4096, 2048, 1, true, true, true},      /* shared w2 */
        {MATRIX_BF16, 0, 1024, 4096, 1, false, false, true},   /* compressors */
        {MATRIX_BF16, 0, 256, 4096, 1, false, false, true},    /* router */
        {MATRIX_BF16, 0, 64, 4096, 1, false, true, true},      /* indexer weights */
        {MATRIX_BF16, 0, 129280, 4096, 1, false, false, true}, /* head */
        {MATRIX_F32, 0, 24, 16384, 1, false, false, true},     /* residual streams */
        {MATRIX_F32, 0, 4, 16384, 1, false, false, true},      /* their head */
    };
    for (size_t i = 0; i < SL_COUNT_OF(shapes); i++)
        for (size_t j = 0; j < SL_COUNT_OF(token_counts); j++) {
            struct product p = shapes[i];
            p.tokens = token_counts[j];
            if (too_long(twin, p.tokens)) continue;
            if (twin->device.emulated && p.rows > 512) p.rows = p.groups > 1 ? 256 : 136;
            if (!twin->device.emulated && p.rows > 8192 && p.tokens > 2) p.rows /= 16;
            multiply(twin, &p);
        }
}

static void odd_shapes_are_close(struct twin *twin)
{
    static const int32_t shapes[][3] = {
        {1, 1, 1},     {3, 5, 1},     {8, 128, 1},   {16, 128, 2},   {24, 384, 3},  {9, 130, 1},
        {256, 127, 2}, {130, 257, 1}, {64, 1024, 8}, {2056, 128, 1}, {40, 1152, 5}, {6, 2052, 1},
    };
    for (size_t i = 0; i < SL_COUNT_OF(shapes); i++)
        for (size_t j = 0; j < SL_COUNT_OF(token_counts); j++)
            for (int format = MATRIX_F32; format <= MATRIX_FP8; format++)
                for (int mode = 0; mode < 8; mode++) {
                    /* A third of all; the emulator multiplies the tall one once. */
                    if ((i + j + (size_t)format + (size_t)mode) % 3) continue;
                    if (too_long(twin, token_counts[j])) continue;
                    if (shapes[i][0] > 1000 && twin->device.emulated && token_counts[j] != 1)
                        continue;
                    struct product p = {(enum matrix_format)format,
                                        token_counts[j],
                                        shapes[i][0],
                                        shapes[i][1],
                                        shapes[i][2],
                                        mode & 1,
                                        mode & 2,
                                        mode & 4};
                    multiply(twin, &p);
                }
}

/* Around the tiles of 64 and 128 tokens, rows that fill no tile, columns split and not; what one
 * pass holds is exceeded on a GPU alone. */
static void many_tokens_are_close(struct twin *twin)
{
    static const struct product shapes[] = {
        {MATRIX_FP8, 17, 8, 128, 1, true, true, true},
        {MATRIX_FP8, 31, 136, 512, 1, true, false, true},
        {MATRIX_FP8, 64, 264, 384, 1, true, false, false},
        {MATRIX_FP8, 65, 128, 256, 2, false, false, true},
        {MATRIX_FP8, 128, 56, 640, 1, false, true, true},
        {MATRIX_FP8, 129, 520, 128, 1, true, false, true},
        {MATRIX_FP8, 130, 640, 128, 2, true, false, true},
        {MATRIX_FP8, 33, 16, 256, 2, true, false, true}, /* rows of a group share scales */
        {MATRIX_BF16, 17, 72, 1024, 1, false, false, true},
        {MATRIX_BF16, 64, 128, 128, 1, false, true, true},
        {MATRIX_BF16, 129, 264, 384, 1, false, false, true},
        {MATRIX_BF16, 70, 48, 256, 3, false, false, true},
        {MATRIX_BF16, 1000, 24, 128, 1, false, false, true},
        {MATRIX_FP8, 1000, 2048, 4096, 1, true, true, true},
        {MATRIX_FP8, 1000, 8192, 4096, 8, false, true, true},
        {MATRIX_FP8, 4096, 1024, 4096, 1, true, false, true},
        {MATRIX_FP8, 4096, 512, 8192, 1, true, true, true},
        {MATRIX_BF16, 4096, 256, 4096, 1, false, false, true},
        {MATRIX_F32, 600, 12, 2052, 1, false, false, true},
    };
    for (size_t i = 0; i < SL_COUNT_OF(shapes); i++) {
        struct product p = shapes[i];
        bool large = (int64_t)p.tokens * p.rows * p.columns > 100000000;
        if (!large || !twin->device.emulated) multiply(twin, &p);
    }
}

/* As above through cuBLASLt, where it can be had; under emulation through what stands in for it.
 * Tokens that are no multiple of 4, row blocks and scales of a row that fill no unit of the
 * library's; on a GPU more than one pass as well. */
static void products_of_the_library_are_close(struct twin *twin)
{
    static const struct product shapes[] = {
        {MATRIX_FP8, 17, 16, 128, 1, true, true, true},
        {MATRIX_FP8, 64, 272, 384, 1, true, false, false},
        {MATRIX_FP8, 131, 144, 640, 1, true, true, true},
        {MATRIX_FP8, 1000, 2048, 4096, 1, true, true, true},
        {MATRIX_FP8, 4099, 512, 8192, 1, true, false, true},
        {MATRIX_FP8, 8192, 1024, 4096, 1, true, true, true},
    };
    struct sl_error error;
    if (cuda_stream_linears(twin->gpu_stream, CUDA_LINEARS_CUBLAS, &error) != SL_OK) {
        printf("skipped: %s\n", error.message);
        return;
    }
    /* On a GPU sums of 128 columns stay in the tensor core, with about 14 bits. */
    double rms = twin->device.emulated ? 4e-6 : 1e-3;
    for (size_t i = 0; i < SL_COUNT_OF(shapes); i++) {
        struct product p = shapes[i];
        struct operands o;
        if (p.tokens > 200 && twin->device.emulated) continue;
        fill(twin, &p, &o);
        struct linear_args args = arguments(&p, &o, false);
        twin->cpu->linear(twin->cpu_stream, &args);
        args = arguments(&p, &o, true);
        TWIN_CHECK(twin, cuda_linear_by_cublas(twin->gpu_stream, &args), "case %zu: not taken", i);
        twin->gpu->linear(twin->gpu_stream, &args);
        twin_check_close(twin, "product of the library", twin_download(twin, &o.out), o.out.host,
                         o.out_count, p.round ? 2e-3 : rms, p.round ? 0x1p-7 : 4 * rms);
        release(twin, &o);
    }
    TWIN_CHECK(twin, cuda_stream_linears(twin->gpu_stream, CUDA_LINEARS_MEASURED, &error) == SL_OK,
               "no way back");
}

/* A table's lines, and that what none of them names takes our kernel. */
static void choices_are_the_tables_lines(struct twin *twin)
{
    static const struct linear_choice table[] = {
        {90, 512, 4096, 128, 1024}, {90, 512, 4096, 8192, 8192}, {0, 0, 0, 0, 0}};
    static const struct {
        int32_t arch, rows, columns, tokens;
        bool named;
    } cases[] = {
        {90, 512, 4096, 128, true},  {90, 512, 4096, 1024, true},  {90, 512, 4096, 8192, true},
        {90, 512, 4096, 127, false}, {90, 512, 4096, 1025, false}, {90, 1024, 4096, 128, false},
        {90, 512, 2048, 128, false}, {80, 512, 4096, 128, false},
    };
    for (size_t i = 0; i < SL_COUNT_OF(cases); i++)
        TWIN_CHECK(twin,
                   linear_choice_has(table, cases[i].arch, cases[i].rows, cases[i].columns,
                                     cases[i].tokens) == cases[i].named,
                   "case %zu", i);
    TWIN_CHECK(twin, linear_choice_has_arch(table, 90) && !linear_choice_has_arch(table, 80),
               "devices");
    for (const struct linear_choice *line = linear_choices(); line->arch != 0; line++)
        TWIN_CHECK(twin, line->tokens_from > 16 && line->tokens_from <= line->tokens_to,
                   "%d to %d tokens", (int)line->tokens_from, (int)line->tokens_to);
}

/* Scales up to the largest that leave outputs finite, and down to where weights are subnormal. */
static void extreme_scales_are_close(struct twin *twin)
{
    static const int ranges[][2] = {{5, 9}, {20, 60}, {100, 104}, {-118, -110}};
    for (size_t i = 0; i < SL_COUNT_OF(ranges); i++) {
        struct product p = {MATRIX_FP8, 20, 136, 512, 1, true, false, true};
        struct operands o;
        fill(twin, &p, &o);
        twin_fill_e8m0(twin, o.scale.host, o.scale.bytes, ranges[i][0], ranges[i][1]);
        twin_upload(twin, &o.scale);
        struct linear_args args = arguments(&p, &o, false);
        twin->cpu->linear(twin->cpu_stream, &args);
        args = arguments(&p, &o, true);
        twin->gpu->linear(twin->gpu_stream, &args);
        twin_check_close(twin, "extreme scales", twin_download(twin, &o.out), o.out.host,
                         o.out_count, 3e-5, 6e-5);
        release(twin, &o);
    }
}

/* The kernels for few and for many tokens, on the same tokens. */
static void chunks_are_close_to_decode(struct twin *twin)
{
    static const struct product shapes[] = {
        {MATRIX_FP8, 40, 72, 1024, 1, true, false, true},
        {MATRIX_FP8, 130, 128, 256, 2, false, false, true},
        {MATRIX_BF16, 70, 32, 1024, 1, false, false, true},
    };
    for (size_t i = 0; i < SL_COUNT_OF(shapes); i++) {
        struct product p = shapes[i];
        struct operands o;
        fill(twin, &p, &o);
        float *chunk = multiply_together(twin, &p, &o);
        twin_check_close(twin, "chunk and decode", chunk, multiply_alone(twin, &p, &o), o.out_count,
                         3e-5, 6e-5);
        free(chunk);
        release(twin, &o);
    }
}

/* A token alone and among others: the same bits. */
static void tokens_do_not_depend_on_neighbours(struct twin *twin)
{
    static const struct product shapes[] = {
        {MATRIX_FP8, 16, 64, 1024, 1, true, false, true},
        {MATRIX_FP8, 16, 64, 512, 2, false, false, true},
        {MATRIX_BF16, 16, 32, 1024, 1, false, false, true},
        {MATRIX_BF16, 16, 33, 1000, 1, true, false, false},
        {MATRIX_F32, 16, 24, 4096, 1, false, false, false},
    };
    for (size_t i = 0; i < SL_COUNT_OF(shapes); i++) {
        struct product p = shapes[i];
        struct operands o;
        fill(twin, &p, &o);
        float *together = multiply_together(twin, &p, &o);
        twin_check_bytes(twin, "tokens alone", multiply_alone(twin, &p, &o), together, o.out.bytes);
        free(together);
        release(twin, &o);
    }
}

static void nan_reaches_every_output(struct twin *twin)
{
    static const int32_t counts[] = {3, 20, 66};
    for (int way = 0; way < 2 * (int)SL_COUNT_OF(counts); way++) {
        struct product p = {MATRIX_FP8, counts[way / 2], 16, 256, 1, true, true, true};
        struct operands o;
        fill(twin, &p, &o);
        ((float *)o.x.host)[256 + 131] = way % 2 ? INFINITY : NAN;
        twin_upload(twin, &o.x);
        struct linear_args args = arguments(&p, &o, true);
        twin->gpu->linear(twin->gpu_stream, &args);
        const float *got = twin_download(twin, &o.out);
        for (int i = 0; i < 16 * p.tokens; i++)
            TWIN_CHECK(twin, isnan(got[i]) == (i / 16 == 1), "output %d is %g", i, (double)got[i]);
        release(twin, &o);
    }
}

int main(int argc, char **argv)
{
    static const struct twin_case cases[] = {
        {"linears of a Flash layer are close to their twin", real_shapes_are_close},
        {"linears of odd shapes are close to their twin", odd_shapes_are_close},
        {"linears of many tokens are close to their twin", many_tokens_are_close},
        {"linears through cuBLASLt are close to their twin", products_of_the_library_are_close},
        {"linears take the way that a table's line names", choices_are_the_tables_lines},
        {"linears with extreme scales are close to their twin", extreme_scales_are_close},
        {"tokens in a chunk are close to what decode makes of them", chunks_are_close_to_decode},
        {"a token's outputs do not depend on its neighbours", tokens_do_not_depend_on_neighbours},
        {"a NaN reaches every output of its token and no other", nan_reaches_every_output},
    };
    return twin_main(argc, argv, cases, SL_COUNT_OF(cases));
}
