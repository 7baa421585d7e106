/* labels: unit */
/* Production experts: every instruction set this machine has against products in double and against
 * the twin, and the tiles they read. */
#include "kernels/cpu/expert_batch.h"
#include "kernels/cpu/quantise.h"
#include "kernels/cpu_isa.h"
#include "tests/support_expert.h"
#include "tests/support_ops.h"

#include <math.h>

/* As stated beside expert_kernel.multiply. */
#define PRODUCT_ERROR_MAX 2e-5
/* A middle value at the edge of a rounding may fall to either side: a few percent of itself. */
#define EXPERT_ERROR_MAX 6e-3

struct variant {
    const char *name;
    const struct expert_kernel *kernel;
    const struct ops *ops;
};

/* The variants this machine supports; at most three. */
static int find_variants(struct variant *variants)
{
    int count = 0;
#if defined(__x86_64__)
    if (cpu_isa_supported(CPU_ISA_AVX2))
        variants[count++] =
            (struct variant){"avx2", &expert_kernel_avx2, ops_cpu_isa(CPU_ISA_AVX2)};
    if (cpu_isa_supported(CPU_ISA_AVX512))
        variants[count++] =
            (struct variant){"avx512", &expert_kernel_avx512, ops_cpu_isa(CPU_ISA_AVX512)};
    if (cpu_isa_supported(CPU_ISA_AMX))
        variants[count++] = (struct variant){"amx", &expert_kernel_amx, ops_cpu_isa(CPU_ISA_AMX)};
#endif
    return count;
}

/* ---- the tiles ---------------------------------------------------------------------------- */

static void check_tiles(const struct test_expert *expert, enum expert_part part, int32_t rows,
                        int32_t columns)
{
    const uint8_t *tiles = expert->slot + expert->layout.offset_bytes[part];
    const uint8_t *scales = expert->slot + expert->layout.offset_bytes[part + 1];
    for (int32_t row = 0; row < rows; row++) {
        for (int32_t column = 0; column < columns; column++) {
            size_t tile = (size_t)(row / 16) * (size_t)(columns / 32) + (size_t)(column / 32);
            size_t lane = tile * 64 + (size_t)(column % 32 / 8 * 16 + row % 16);
            int shift = column % 2 * 16 + column % 8 / 2 * 4;
            uint32_t word;
            memcpy(&word, tiles + 4 * lane, sizeof word);
            double value = ops_test_e2m1_value((word >> shift) & 15) *
                           ops_test_e8m0_value(scales[tile * 16 + (size_t)(row % 16)]);
            assert_true(value == test_expert_weight(expert, part, row, column));
        }
    }
}

static void placing_puts_every_element_where_the_layout_says(void **state)
{
    static const int32_t shapes[][2] = {{32, 32}, {96, 160}, {160, 32}, {512, 256}};
    uint64_t seed = 1;
    (void)state;
    for (size_t i = 0; i < SL_COUNT_OF(shapes); i++) {
        int32_t hidden = shapes[i][0];
        int32_t width = shapes[i][1];
        struct test_expert *expert = test_expert_make(&seed, hidden, width, 1, 250);
        const struct expert_layout *layout = &expert->layout;
        memset(expert->slot, 0xee, layout->slot_bytes);
        test_expert_place(expert);
        check_tiles(expert, EXPERT_W1, width, hidden);
        check_tiles(expert, EXPERT_W3, width, hidden);
        check_tiles(expert, EXPERT_W2, hidden, width);
        for (int part = 0; part < EXPERT_PARTS; part++) {
            size_t end =
                part + 1 < EXPERT_PARTS ? layout->offset_bytes[part + 1] : layout->slot_bytes;
            for (size_t at = layout->offset_bytes[part] + layout->part_bytes[part]; at < end; at++)
                assert_int_equal(expert->slot[at], 0);
        }
    }
}

/* ---- products ----------------------------------------------------------------------------- */

static struct expert_band band_of(const struct test_expert *expert, int32_t row)
{
    size_t tile = expert_layout_tile(expert->layout.hidden, row, 0);
    return (struct expert_band){
        .codes = expert->slot + expert->layout.offset_bytes[EXPERT_W1] + tile * EXPERT_TILE_BYTES,
        .scales = expert->slot + expert->layout.offset_bytes[EXPERT_S1] + tile * EXPERT_TILE_ROWS,
        .tiles = expert->layout.hidden / EXPERT_TILE_COLUMNS,
    };
}

/* Rms of the difference to the products in double, over the rms of these. */
static double product_error(const struct variant *variant, const struct test_expert *expert,
                            const float *x, int32_t tokens)
{
    int32_t columns = expert->layout.hidden;
    int32_t rows = expert->layout.width;
    double differences = 0;
    double squares = 0;
    struct expert_panel panel = {
        ops_test_alloc((size_t)(columns / 32 * tokens) * variant->kernel->panel_bytes), tokens};
    float *rounded = ops_test_floats((size_t)(tokens * columns));
    float sums[EXPERT_BLOCK_TOKENS][EXPERT_TILE_ROWS];
    for (int32_t t = 0; t < tokens; t++) {
        variant->kernel->pack(&panel, t, 0, columns, x + t * columns);
        quantise_aq128(x + t * columns, rounded + t * columns, columns);
    }
    for (int32_t row = 0; row < rows; row += EXPERT_TILE_ROWS) {
        struct expert_band band = band_of(expert, row);
        variant->kernel->multiply(&band, &panel, sums);
        for (int32_t t = 0; t < tokens; t++) {
            for (int32_t r = 0; r < EXPERT_TILE_ROWS; r++) {
                double want = 0;
                for (int32_t c = 0; c < columns; c++)
                    want += (double)rounded[t * columns + c] *
                            test_expert_weight(expert, EXPERT_W1, row + r, c);
                assert_true(isfinite(sums[t][r]));
                differences += pow((double)sums[t][r] - want, 2);
                squares += want * want;
            }
        }
    }
    return squares > 0 ? sqrt(differences / squares) : sqrt(differences);
}

static void check_products(const char *what, const struct test_expert *expert, const float *x,
                           int32_t tokens, double error_max)
{
    struct variant variants[3];
    int count = find_variants(variants);
    for (int v = 0; v < count; v++) {
        double error = product_error(&variants[v], expert, x, tokens);
        print_message("%s, %s, %d columns, %d tokens: %.1e\n", variants[v].name, what,
                      (int)expert->layout.hidden, (int)tokens, error);
        assert_true(error <= error_max);
    }
}

static void products_of_random_values_stay_within_the_limit(void **state)
{
    static const int32_t columns[] = {32, 96, 160, 4096};
    uint64_t seed = 2;
    (void)state;
    for (size_t i = 0; i < SL_COUNT_OF(columns); i++) {
        const struct test_expert *expert = test_expert_make(&seed, columns[i], 64, 118, 8);
        for (int32_t tokens = 1; tokens <= 8; tokens += tokens == 3 ? 5 : 1) {
            const float *x = ops_test_random_bf16(&seed, (size_t)(tokens * columns[i]), 3.0f);
            check_products("random", expert, x, tokens, PRODUCT_ERROR_MAX);
        }
    }
}

static void products_of_extreme_values_stay_within_the_limit(void **state)
{
    enum { COLUMNS = 256, TOKENS = 3 };
    uint64_t seed = 3;
    struct test_expert *expert = test_expert_make(&seed, COLUMNS, 32, 120, 4);
    float *x = ops_test_random_bf16(&seed, TOKENS * COLUMNS, 1.0f);
    (void)state;
    /* Magnitudes from the smallest to the largest code in every block. */
    for (int i = 0; i < TOKENS * COLUMNS; i++)
        x[i] = ldexpf(x[i], -(int)test_random_below(&seed, 20));
    check_products("wide range", expert, x, TOKENS, PRODUCT_ERROR_MAX);
    for (int i = 0; i < TOKENS * COLUMNS; i++)
        x[i] = i % 2 ? 1.5e36f : -1e36f; /* a tile's sum stays finite before its scale */
    check_products("huge", test_expert_make(&seed, COLUMNS, 32, 1, 4), x, TOKENS,
                   PRODUCT_ERROR_MAX);
    for (int i = 0; i < TOKENS * COLUMNS; i++)
        x[i] = 448.0f;
    memset(expert->parts[EXPERT_W1], 0x77, expert->layout.part_bytes[EXPERT_W1]);
    test_expert_place(expert);
    check_products("all largest", expert, x, TOKENS, PRODUCT_ERROR_MAX);
    memset(expert->parts[EXPERT_W1], 0xff, expert->layout.part_bytes[EXPERT_W1]);
    test_expert_place(expert);
    check_products("all lowest", expert, x, TOKENS, PRODUCT_ERROR_MAX);
    for (int i = 0; i < TOKENS * COLUMNS; i++)
        x[i] = 0;
    check_products("zeros", expert, x, TOKENS, PRODUCT_ERROR_MAX);
}

/* Spread magnitudes, so that some tokens have digits that others lack. */
static void products_of_a_token_do_not_depend_on_its_neighbours(void **state)
{
    enum { COLUMNS = 384, TOKENS = 8 };
    struct variant variants[3];
    int count = find_variants(variants);
    uint64_t seed = 6;
    const struct test_expert *expert = test_expert_make(&seed, COLUMNS, 32, 118, 8);
    float *x = ops_test_random_bf16(&seed, TOKENS * COLUMNS, 1.0f);
    (void)state;
    for (int i = 0; i < TOKENS * COLUMNS; i++)
        x[i] = ldexpf(x[i], -(int)test_random_below(&seed, 1 + 5 * (uint32_t)(i / COLUMNS)));
    for (int v = 0; v < count; v++) {
        const struct expert_kernel *kernel = variants[v].kernel;
        struct expert_band band = band_of(expert, EXPERT_TILE_ROWS);
        float together[TOKENS][EXPERT_TILE_ROWS], alone[1][EXPERT_TILE_ROWS];
        struct expert_panel all = {ops_test_alloc(TOKENS * COLUMNS / 32 * kernel->panel_bytes),
                                   TOKENS};
        struct expert_panel one = {ops_test_alloc(COLUMNS / 32 * kernel->panel_bytes), 1};
        for (int32_t t = 0; t < TOKENS; t++)
            kernel->pack(&all, t, 0, COLUMNS, x + t * COLUMNS);
        kernel->multiply(&band, &all, together);
        for (int32_t t = 0; t < TOKENS; t++) {
            kernel->pack(&one, 0, 0, COLUMNS, x + t * COLUMNS);
            kernel->multiply(&band, &one, alone);
            ops_test_same_bits("products", alone[0], together[t], sizeof alone[0]);
        }
    }
}

/* Scale codes at both ends; sums near 2^-127 are subnormal, so few digits of them are left. */
static void scale_codes_at_the_ends_are_powers_of_two(void **state)
{
    enum { COLUMNS = 64 };
    uint64_t seed = 4;
    float x[COLUMNS];
    (void)state;
    for (int i = 0; i < COLUMNS; i++)
        x[i] = 256.0f;
    for (int code = 0; code < 255; code += code == 0 ? 1 : 23) {
        struct test_expert *expert = test_expert_make(&seed, COLUMNS, 32, (uint32_t)code, 1);
        memset(expert->parts[EXPERT_W1], 0x11, expert->layout.part_bytes[EXPERT_W1]);
        test_expert_place(expert);
        if (code > 230) continue; /* sums beyond f32 */
        check_products("scale code", expert, x, 1, PRODUCT_ERROR_MAX);
    }
}

static void nan_and_infinity_come_out_as_nan(void **state)
{
    enum { COLUMNS = 128 };
    static const float odd[] = {NAN, INFINITY, -INFINITY};
    struct variant variants[3];
    int count = find_variants(variants);
    uint64_t seed = 5;
    const struct test_expert *expert = test_expert_make(&seed, COLUMNS, 32, 120, 4);
    float *x = ops_test_random_bf16(&seed, COLUMNS, 1.0f);
    (void)state;
    for (int v = 0; v < count; v++) {
        for (size_t i = 0; i < SL_COUNT_OF(odd); i++) {
            float sums[1][EXPERT_TILE_ROWS];
            struct expert_band band = band_of(expert, 0);
            struct expert_panel panel = {ops_test_alloc(4 * variants[v].kernel->panel_bytes), 1};
            x[37] = odd[i];
            variants[v].kernel->pack(&panel, 0, 0, COLUMNS, x);
            variants[v].kernel->multiply(&band, &panel, sums);
            for (int r = 0; r < EXPERT_TILE_ROWS; r++)
                assert_true(isnan(sums[0][r]));
        }
    }
}

/* ---- whole experts ------------------------------------------------------------------------ */

struct call {
    struct test_expert *experts[3];
    const float *x;
    const float *weights; /* [3, tokens] */
    float *scratch;
    int32_t tokens;
    int32_t *token_rows;     /* [tokens] */
    int32_t *output_rows[3]; /* [tokens] each */
};

static struct call *make_call(uint64_t *seed, int32_t hidden, int32_t width, int32_t tokens)
{
    struct call *call = ops_test_alloc(sizeof *call);
    call->tokens = tokens;
    call->x = ops_test_random_bf16(seed, (size_t)(tokens * hidden), 2.0f);
    call->weights = ops_test_random(seed, (size_t)(3 * tokens), 1.0f);
    call->scratch = ops_test_floats((size_t)(tokens * 3 * width));
    call->token_rows = ops_test_alloc((size_t)tokens * sizeof(int32_t));
    for (int e = 0; e < 3; e++) {
        call->experts[e] = test_expert_make(seed, hidden, width, 118, 3);
        call->output_rows[e] = ops_test_alloc((size_t)tokens * sizeof(int32_t));
    }
    for (int32_t t = 0; t < tokens; t++) {
        call->token_rows[t] = tokens - 1 - t;
        for (int32_t e = 0; e < 3; e++)
            call->output_rows[e][t] = call->token_rows[t] * 3 + e;
    }
    return call;
}

/* All experts over tokens first .. first + count - 1 in one call. */
static float *run_call(const struct call *call, const struct ops *ops, struct stream *stream,
                       int32_t first, int32_t count, float *out)
{
    struct expert_task tasks[3];
    for (int e = 0; e < 3; e++)
        tasks[e] = (struct expert_task){call->experts[e]->slot, call->token_rows + first,
                                        call->output_rows[e] + first,
                                        call->weights + e * call->tokens + first, count};
    struct expert_ffn_args args = {.x = call->x,
                                   .out = out,
                                   .tasks = tasks,
                                   .layout = &call->experts[0]->layout,
                                   .scratch = call->scratch,
                                   .task_count = 3,
                                   .scratch_rows = count,
                                   .limit = 10.0f,
                                   .round = true};
    ops->expert_ffn(stream, &args);
    return out;
}

static void check_against_the_twin(int32_t hidden, int32_t width, int32_t tokens)
{
    struct variant variants[3];
    int count = find_variants(variants);
    uint64_t seed = (uint64_t)(hidden + width + tokens);
    const struct call *call = make_call(&seed, hidden, width, tokens);
    size_t outputs = (size_t)(tokens * 3 * hidden);
    const float *twin =
        run_call(call, ops_cpu(), ops_test_stream(2), 0, tokens, ops_test_floats(outputs));
    double *want = ops_test_alloc(outputs * sizeof *want);
    for (size_t i = 0; i < outputs; i++)
        want[i] = (double)twin[i];
    for (int v = 0; v < count; v++) {
        const float *got = run_call(call, variants[v].ops, ops_test_stream(2), 0, tokens,
                                    ops_test_floats(outputs));
        double error = test_expert_relative_rms(got, want, outputs);
        print_message("%s, %d x %d, %d tokens: %.1e\n", variants[v].name, (int)hidden, (int)width,
                      (int)tokens, error);
        assert_true(error <= EXPERT_ERROR_MAX);
    }
    ops_test_teardown(NULL);
}

static void experts_agree_with_the_twin(void **state)
{
    static const int32_t tokens[] = {1, 2, 3, 7, 8, 9, 64, 65};
    (void)state;
    for (size_t i = 0; i < SL_COUNT_OF(tokens); i++) {
        check_against_the_twin(32, 32, tokens[i]);
        check_against_the_twin(160, 96, tokens[i]);
        check_against_the_twin(96, 288, tokens[i]);
    }
    check_against_the_twin(4096, 2048, 2);
}

static void experts_agree_with_double(void **state)
{
    enum { TOKENS = 9, HIDDEN = 160, WIDTH = 288 };
    struct variant variants[3];
    int count = find_variants(variants);
    uint64_t seed = 6;
    const struct call *call = make_call(&seed, HIDDEN, WIDTH, TOKENS);
    double *want = ops_test_alloc(TOKENS * 3 * HIDDEN * sizeof *want);
    (void)state;
    for (int e = 0; e < 3; e++)
        for (int32_t t = 0; t < TOKENS; t++)
            test_expert_in_double(call->experts[e], call->x + call->token_rows[t] * HIDDEN,
                                  (double)call->weights[e * TOKENS + t], true,
                                  want + call->output_rows[e][t] * HIDDEN);
    for (int v = 0; v < count; v++) {
        const float *got = run_call(call, variants[v].ops, ops_test_stream(1), 0, TOKENS,
                                    ops_test_floats(TOKENS * 3 * HIDDEN));
        assert_true(test_expert_relative_rms(got, want, TOKENS * 3 * HIDDEN) <= EXPERT_ERROR_MAX);
    }
}

static void a_token_depends_on_nothing_but_itself(void **state)
{
    enum { TOKENS = 75, HIDDEN = 288, WIDTH = 160 };
    struct stream *streams[] = {ops_test_stream(1), ops_test_stream(2), ops_test_stream(5)};
    static const int32_t steps[] = {1, 2, 5, 8, 13, 64, TOKENS};
    struct variant variants[3];
    int count = find_variants(variants);
    uint64_t seed = 7;
    const struct call *call = make_call(&seed, HIDDEN, WIDTH, TOKENS);
    size_t outputs = TOKENS * 3 * HIDDEN;
    float *again = ops_test_floats(outputs);
    (void)state;
    for (int v = 0; v < count; v++) {
        const float *whole =
            run_call(call, variants[v].ops, streams[0], 0, TOKENS, ops_test_floats(outputs));
        for (size_t s = 0; s < SL_COUNT_OF(steps); s++) {
            memset(again, 0xee, outputs * sizeof *again);
            for (int32_t first = 0; first < TOKENS; first += steps[s])
                run_call(call, variants[v].ops, streams[s % 3], first,
                         min_i32(steps[s], TOKENS - first), again);
            ops_test_same_bits(variants[v].name, again, whole, outputs * sizeof *again);
        }
    }
}

static void calls_without_tokens_or_without_rounding_work(void **state)
{
    struct variant variants[3];
    int count = find_variants(variants);
    uint64_t seed = 8;
    const struct call *call = make_call(&seed, 64, 32, 2);
    float out[2 * 3 * 64], twin[2 * 3 * 64];
    struct expert_task task = {call->experts[0]->slot, call->token_rows, call->output_rows[0],
                               call->weights, 2};
    struct expert_task none = task;
    none.count = 0;
    (void)state;
    for (int v = 0; v < count; v++) {
        struct stream *stream = ops_test_stream(2);
        struct expert_ffn_args args = {.x = call->x,
                                       .out = out,
                                       .tasks = &none,
                                       .layout = &call->experts[0]->layout,
                                       .scratch = call->scratch,
                                       .task_count = 1,
                                       .scratch_rows = 2,
                                       .limit = 10.0f,
                                       .round = true};
        memset(out, 0, sizeof out);
        memset(twin, 0, sizeof twin);
        variants[v].ops->expert_ffn(stream, &args);
        ops_test_same_bits("no tokens", out, twin, sizeof out);
        args.tasks = &task;
        args.round = false;
        variants[v].ops->expert_ffn(stream, &args);
        args.out = twin;
        cpu_expert_ffn(stream, &args);
        ops_test_same_bits("no rounding", out, twin, sizeof out);
    }
}

int main(void)
{
#define CASE(name) cmocka_unit_test_teardown(name, ops_test_teardown)
    const struct CMUnitTest tests[] = {
        CASE(placing_puts_every_element_where_the_layout_says),
        CASE(products_of_random_values_stay_within_the_limit),
        CASE(products_of_extreme_values_stay_within_the_limit),
        CASE(products_of_a_token_do_not_depend_on_its_neighbours),
        CASE(scale_codes_at_the_ends_are_powers_of_two),
        CASE(nan_and_infinity_come_out_as_nan),
        CASE(experts_agree_with_the_twin),
        CASE(experts_agree_with_double),
        CASE(a_token_depends_on_nothing_but_itself),
        CASE(calls_without_tokens_or_without_rounding_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
