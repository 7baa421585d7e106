/* Routed experts against their twin: real and odd shapes, tokens shared unevenly, and a token's
 * bits whatever it shares its experts with. */
#include "kernels/expert_layout.h"
#include "tests/gpu/twin.h"

#include <string.h>

#define EXPERTS_MAX    40
#define FEW_TOKENS_MAX 16
#define PAIRS_MAX      8192

struct experts {
    struct expert_layout layout;
    int32_t count;
    uint8_t *slots[EXPERTS_MAX]; /* the host's */
    void *device[EXPERTS_MAX];
};

/* Scales 2^low .. 2^high. */
static struct experts make_experts(struct twin *twin, int32_t count, int32_t hidden, int32_t width,
                                   int low, int high)
{
    struct experts experts = {.layout = expert_layout_make(hidden, width), .count = count};
    for (int32_t i = 0; i < count; i++) {
        const uint8_t *parts[EXPERT_PARTS];
        uint8_t *memory[EXPERT_PARTS];
        for (int part = 0; part < EXPERT_PARTS; part++) {
            size_t bytes = experts.layout.part_bytes[part];
            memory[part] = twin_host(bytes);
            parts[part] = memory[part];
            if (part % 2)
                twin_fill_e8m0(twin, memory[part], bytes, low, high);
            else
                for (size_t k = 0; k < bytes; k++)
                    memory[part][k] = (uint8_t)twin_random(twin);
        }
        SL_ASSERT(posix_memalign((void **)&experts.slots[i], 64, experts.layout.slot_bytes) == 0);
        expert_layout_place(&experts.layout, parts, experts.slots[i]);
        experts.device[i] = twin_put(twin, experts.slots[i], experts.layout.slot_bytes);
        for (int part = 0; part < EXPERT_PARTS; part++)
            free(memory[part]);
    }
    return experts;
}

static void free_experts(struct twin *twin, struct experts *experts)
{
    for (int32_t i = 0; i < experts->count; i++) {
        twin_free(twin, experts->device[i], experts->layout.slot_bytes);
        free(experts->slots[i]);
    }
}

/* Who goes where: pair p is token p / top with expert chosen[p]; its result is row p. */
struct routing {
    int32_t tokens, top;
    int32_t chosen[PAIRS_MAX];
    float weights[PAIRS_MAX];
};

/* Runs the op on the GPU for tokens [first, first + tokens) of x; out [tokens * top, hidden]. */
static void run_gpu(struct twin *twin, const struct experts *experts, const struct routing *routing,
                    int32_t first, int32_t tokens, const float *x, bool round, float *out)
{
    int32_t pairs = tokens * routing->top;
    size_t hidden = (size_t)experts->layout.hidden;
    int32_t token_rows[PAIRS_MAX], output_rows[PAIRS_MAX];
    float weights[PAIRS_MAX];
    struct expert_task tasks[EXPERTS_MAX];
    size_t x_bytes = (size_t)tokens * hidden * 4;
    size_t out_bytes = (size_t)pairs * hidden * 4;
    size_t scratch_bytes = (size_t)tokens * 3 * (size_t)experts->layout.width * 4;
    int32_t placed = 0;
    for (int32_t e = 0; e < experts->count; e++) {
        tasks[e] = (struct expert_task){.slot = experts->device[e]};
        tasks[e].count = placed; /* for now its first pair */
        for (int32_t p = 0; p < pairs; p++) {
            if (routing->chosen[first * routing->top + p] != e) continue;
            token_rows[placed] = p / routing->top;
            output_rows[placed] = p;
            weights[placed++] = routing->weights[first * routing->top + p];
        }
    }
    int32_t *device_rows = twin_put(twin, token_rows, sizeof token_rows);
    int32_t *device_outputs = twin_put(twin, output_rows, sizeof output_rows);
    float *device_weights = twin_put(twin, weights, sizeof weights);
    for (int32_t e = 0; e < experts->count; e++) {
        int32_t begin = tasks[e].count;
        int32_t end = e + 1 < experts->count ? tasks[e + 1].count : placed;
        tasks[e].token_rows = device_rows + begin;
        tasks[e].output_rows = device_outputs + begin;
        tasks[e].weights = device_weights + begin;
        tasks[e].count = end - begin;
    }
    struct expert_ffn_args args = {.x = twin_put(twin, x + (size_t)first * hidden, x_bytes),
                                   .out = twin_put(twin, NULL, out_bytes),
                                   .tasks = twin_put(twin, tasks, sizeof tasks),
                                   .layout = &experts->layout,
                                   .scratch = twin_put(twin, NULL, scratch_bytes),
                                   .task_count = experts->count,
                                   .scratch_rows = tokens,
                                   .limit = 10.0f,
                                   .round = round,
                                   .tokens = tokens,
                                   .pairs = pairs};
    twin->gpu->expert_ffn(twin->gpu_stream, &args);
    twin_get(twin, out, args.out, out_bytes);
    twin_free(twin, (void *)(uintptr_t)args.x, x_bytes);
    twin_free(twin, args.out, out_bytes);
    twin_free(twin, args.scratch, scratch_bytes);
    twin_free(twin, (void *)(uintptr_t)args.tasks, sizeof tasks);
    twin_free(twin, device_rows, sizeof token_rows);
    twin_free(twin, device_outputs, sizeof output_rows);
    twin_free(twin, device_weights, sizeof weights);
}

static void run_cpu(struct twin *twin, const struct experts *experts, const struct routing *routing,
                    const float *x, bool round, float *out)
{
    int32_t pairs = routing->tokens * routing->top;
    float *scratch = twin_host(sizeof(float) * 3 * (size_t)(experts->layout.width * pairs));
    for (int32_t p = 0; p < pairs; p++) {
        int32_t token = p / routing->top;
        struct expert_task task = {experts->slots[routing->chosen[p]], &token, &p,
                                   &routing->weights[p], 1};
        struct expert_ffn_args args = {.x = x,
                                       .out = out,
                                       .tasks = &task,
                                       .layout = &experts->layout,
                                       .scratch = scratch,
                                       .task_count = 1,
                                       .scratch_rows = 1,
                                       .limit = 10.0f,
                                       .round = round};
        twin->cpu->expert_ffn(twin->cpu_stream, &args);
    }
    free(scratch);
}

static void compare(struct twin *twin, struct experts *experts, const struct routing *routing,
                    float scale, bool round)
{
    size_t hidden = (size_t)experts->layout.hidden;
    size_t pairs = (size_t)(routing->tokens * routing->top);
    float *x = twin_host((size_t)routing->tokens * hidden * 4);
    float *want = twin_host(pairs * hidden * 4);
    float *got = twin_host(pairs * hidden * 4);
    float *alone = twin_host(pairs * hidden * 4);
    twin_fill(twin, x, (size_t)routing->tokens * hidden, scale, round);
    run_cpu(twin, experts, routing, x, round, want);
    run_gpu(twin, experts, routing, 0, routing->tokens, x, round, got);
    /* A step of e4m3 or bf16 where a sum falls on the other side of a boundary. */
    twin_check_close(twin, "experts", got, want, pairs * hidden, round ? 1e-3 : 1e-6,
                     round ? 0x1p-7 : 2e-6);
    for (int32_t t = 0; t < routing->tokens && routing->tokens <= FEW_TOKENS_MAX; t += 3) {
        run_gpu(twin, experts, routing, t, 1, x, round, alone);
        twin_check_bytes(twin, "a token alone", alone, got + (size_t)(t * routing->top) * hidden,
                         (size_t)routing->top * hidden * 4);
    }
    /* More tokens take other kernels, whose sums go in another order. */
    if (routing->tokens > 2 * FEW_TOKENS_MAX) {
        int32_t half = routing->tokens / 2;
        run_gpu(twin, experts, routing, half, routing->tokens - half, x, round, alone);
        twin_check_bytes(twin, "half of the tokens", alone,
                         got + (size_t)(half * routing->top) * hidden,
                         (size_t)((routing->tokens - half) * routing->top) * hidden * 4);
    }
    free(x), free(want), free(got), free(alone);
}

static struct routing spread(struct twin *twin, int32_t tokens, int32_t top, int32_t experts)
{
    struct routing routing = {.tokens = tokens, .top = top};
    for (int32_t p = 0; p < tokens * top; p++) {
        int32_t start = p % top == 0 ? (int32_t)(twin_random(twin) % (uint32_t)experts)
                                     : routing.chosen[p - 1] + 1;
        routing.chosen[p] = start % experts;
        routing.weights[p] = twin_uniform(twin, 0.05f, 1.5f);
    }
    return routing;
}

static void odd_shapes_are_close(struct twin *twin)
{
    static const int32_t shapes[][2] = {{32, 32}, {96, 64}, {128, 160}, {288, 32}, {1056, 416}};
    static const int32_t token_counts[] = {0, 1, 2, 7, 16};
    for (size_t s = 0; s < SL_COUNT_OF(shapes); s++)
        for (int round = 0; round < 2; round++) {
            struct experts experts = make_experts(twin, 3, shapes[s][0], shapes[s][1], -6, -3);
            for (size_t i = 0; i < SL_COUNT_OF(token_counts); i++) {
                struct routing routing = spread(twin, token_counts[i], 2, 3);
                compare(twin, &experts, &routing, 1.0f, round);
            }
            free_experts(twin, &experts);
        }
}

static void all_tokens_on_one_expert(struct twin *twin)
{
    struct experts experts = make_experts(twin, 4, 256, 128, -5, -3);
    for (int32_t tokens = 1; tokens <= 17; tokens += 4) {
        struct routing routing = spread(twin, tokens, 1, 4);
        memset(routing.chosen, 0, sizeof routing.chosen);
        compare(twin, &experts, &routing, 2.0f, true);
    }
    free_experts(twin, &experts);
}

static void extremes_are_close(struct twin *twin)
{
    static const float scales[] = {0.0f, 1e-30f, 1e-4f, 3e4f};
    struct experts experts = make_experts(twin, 3, 160, 96, -30, 2);
    for (size_t i = 0; i < SL_COUNT_OF(scales); i++) {
        struct routing routing = spread(twin, 3, 3, 3);
        routing.weights[0] = 0.0f;
        compare(twin, &experts, &routing, scales[i], true);
        compare(twin, &experts, &routing, scales[i], false);
    }
    free_experts(twin, &experts);
}

static void many_tokens_are_close(struct twin *twin)
{
    static const int32_t shapes[][2] = {{128, 128}, {96, 160}, {544, 288}};
    static const int32_t token_counts[] = {17, 128, 129, 1000, 4096};
    for (size_t s = 0; s < SL_COUNT_OF(shapes); s++) {
        struct experts experts = make_experts(twin, 5, shapes[s][0], shapes[s][1], -6, -3);
        for (size_t i = 0; i < SL_COUNT_OF(token_counts); i++) {
            if (token_counts[i] > 129 && (s > 0 || twin->device.emulated)) continue;
            if (s > 1 && token_counts[i] == 128 && twin->device.emulated) continue;
            struct routing routing = spread(twin, token_counts[i], 2, 5);
            compare(twin, &experts, &routing, 1.0f, true);
        }
        free_experts(twin, &experts);
    }
}

/* Every number of tokens that has code of its own, tiles that are full and nearly empty, experts
 * without tokens, all tokens on one expert, and one token an expert. */
static void uneven_shares_are_close(struct twin *twin)
{
    static const int32_t counts[] = {0, 1, 16, 17, 40, 64, 0, 70};
    struct experts experts = make_experts(twin, 40, 96, 64, -6, -3);
    struct routing uneven = spread(twin, 208, 1, 1);
    struct routing one = spread(twin, 129, 1, 1);
    struct routing thin = spread(twin, 40, 1, 40);
    for (int32_t e = 0, token = 0; e < (int32_t)SL_COUNT_OF(counts); e++)
        for (int32_t i = 0; i < counts[e]; i++)
            uneven.chosen[token++] = 3 * e;
    for (int32_t token = 0; token < 40; token++)
        thin.chosen[token] = 39 - token;
    compare(twin, &experts, &uneven, 1.0f, true);
    compare(twin, &experts, &one, 1.0f, true);
    compare(twin, &experts, &thin, 1.0f, true);
    free_experts(twin, &experts);
}

/* More pairs than the middle has room for: six a token. */
static void passes_are_close(struct twin *twin)
{
    struct experts experts = make_experts(twin, 13, 64, 96, -6, -3);
    struct routing routing = spread(twin, 34, 13, 13);
    compare(twin, &experts, &routing, 1.0f, true);
    free_experts(twin, &experts);
}

/* Scales on both sides of 2, beyond which weights take another way. */
static void far_scales_are_close(struct twin *twin)
{
    struct experts experts = make_experts(twin, 40, 64, 32, -40, 2);
    struct routing thin = spread(twin, 40, 2, 40);
    compare(twin, &experts, &thin, 100.0f, true);
    compare(twin, &experts, &thin, 0.0f, true);
    free_experts(twin, &experts);
    experts = make_experts(twin, 2, 96, 64, 0, 60);
    struct routing routing = spread(twin, 17, 1, 2);
    compare(twin, &experts, &routing, 1.0f, true);
    free_experts(twin, &experts);
}

/* The same token in other places, of other tiles, beside other tokens. */
static void equal_tokens_have_equal_results(struct twin *twin)
{
    const int32_t tokens = 90;
    struct experts experts = make_experts(twin, 2, 96, 64, -6, -3);
    struct routing routing = spread(twin, tokens, 1, 2);
    float *x = twin_host((size_t)tokens * 96 * sizeof *x);
    float *out = twin_host((size_t)tokens * 96 * sizeof *out);
    twin_fill(twin, x, (size_t)tokens * 96, 1.0f, true);
    for (int32_t t = 0; t < tokens; t++) {
        routing.chosen[t] = t % 11 == 5; /* 82 and 8 tokens */
        routing.weights[t] = 0.75f;
    }
    for (int32_t t = 7; t < tokens; t += 7)
        memcpy(x + t * 96, x, 96 * sizeof *x);
    run_gpu(twin, &experts, &routing, 0, tokens, x, true, out);
    for (int32_t t = 7; t < tokens; t += 7)
        if (routing.chosen[t] == routing.chosen[0])
            twin_check_bytes(twin, "an equal token", out + t * 96, out, 96 * sizeof *out);
    free(x), free(out);
    free_experts(twin, &experts);
}

static void the_real_shape_is_close(struct twin *twin)
{
    struct experts experts = make_experts(twin, 1, 4096, 2048, -8, -5);
    struct routing routing = spread(twin, 2, 1, 1);
    compare(twin, &experts, &routing, 1.0f, true);
    free_experts(twin, &experts);
}

int main(int argc, char **argv)
{
    static const struct twin_case cases[] = {
        {"experts of odd shapes are close to their twin", odd_shapes_are_close},
        {"all tokens on one expert", all_tokens_on_one_expert},
        {"extreme inputs and scales", extremes_are_close},
        {"many tokens are close to their twin", many_tokens_are_close},
        {"uneven shares are close to their twin", uneven_shares_are_close},
        {"more pairs than one pass takes", passes_are_close},
        {"scales far apart", far_scales_are_close},
        {"equal tokens have equal results", equal_tokens_have_equal_results},
        {"the real shape is close to its twin", the_real_shape_is_close},
    };
    return twin_main(argc, argv, cases, SL_COUNT_OF(cases));
}
