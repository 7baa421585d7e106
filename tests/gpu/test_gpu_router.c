/* The router and the sum of experts against their twins. */
#include "tests/gpu/twin.h"

#include <math.h>
#include <string.h>

enum logits { LOGITS_RANDOM, LOGITS_TIES, LOGITS_EXTREME, LOGITS_NAN };

struct route {
    int32_t tokens, experts, top;
    enum logits logits;
    bool by_table;
};

#define VOCAB 50

static float logit(struct twin *twin, enum logits kind, int32_t expert)
{
    static const float extremes[] = {-INFINITY, -120.0f, -1e30f, 20.0f, 20.000002f,
                                     88.9f,     1e30f,   0.0f,   -0.0f};
    switch (kind) {
    case LOGITS_TIES: return (float)(int)(twin_random(twin) % 3);
    case LOGITS_EXTREME: return extremes[twin_random(twin) % SL_COUNT_OF(extremes)];
    case LOGITS_NAN: return expert % 3 ? NAN : twin_uniform(twin, -4, 4);
    case LOGITS_RANDOM: break;
    }
    return twin_uniform(twin, -8, 8);
}

static void route(struct twin *twin, const struct route *route)
{
    size_t scores = (size_t)route->tokens * (size_t)route->experts;
    size_t picks = (size_t)route->tokens * (size_t)route->top;
    struct twin_array logits = twin_array_make(twin, scores * 4);
    struct twin_array bias = twin_array_make(twin, (size_t)route->experts * 4);
    struct twin_array table = twin_array_make(twin, (size_t)VOCAB * (size_t)route->top * 8);
    struct twin_array ids = twin_array_make(twin, (size_t)route->tokens * 4);
    struct twin_array chosen = twin_array_make(twin, picks * 4);
    struct twin_array weights = twin_array_make(twin, picks * 4);
    for (size_t i = 0; i < scores; i++)
        ((float *)logits.host)[i] =
            logit(twin, route->logits, (int32_t)(i % (size_t)route->experts));
    if (route->logits == LOGITS_RANDOM)
        twin_fill(twin, bias.host, (size_t)route->experts, 1, false);
    for (size_t i = 0; i < table.bytes / 8; i++)
        ((int64_t *)table.host)[i] = (int64_t)(twin_random(twin) % (uint32_t)route->experts);
    for (int32_t t = 0; t < route->tokens; t++)
        ((int32_t *)ids.host)[t] = (int32_t)(twin_random(twin) % VOCAB);
    struct router_args args = {.logits = logits.host,
                               .bias = bias.host,
                               .chosen = chosen.host,
                               .weights = weights.host,
                               .tokens = route->tokens,
                               .experts = route->experts,
                               .top = route->top,
                               .scale = 1.5f};
    if (route->by_table) {
        args.token_experts = table.host;
        args.ids = ids.host;
        args.bias = NULL;
    }
    twin->cpu->router(twin->cpu_stream, &args);
    twin_upload(twin, &logits), twin_upload(twin, &bias);
    twin_upload(twin, &table), twin_upload(twin, &ids);
    args.logits = logits.device;
    args.chosen = chosen.device, args.weights = weights.device;
    if (route->by_table)
        args.token_experts = table.device, args.ids = ids.device;
    else
        args.bias = bias.device;
    twin->gpu->router(twin->gpu_stream, &args);
    twin_check_bytes(twin, "chosen", twin_download(twin, &chosen), chosen.host, chosen.bytes);
    twin_check_close(twin, "weights", twin_download(twin, &weights), weights.host, picks, 2e-6,
                     2e-6);
    twin_array_free(twin, &logits), twin_array_free(twin, &bias), twin_array_free(twin, &table);
    twin_array_free(twin, &ids), twin_array_free(twin, &chosen), twin_array_free(twin, &weights);
}

static const int32_t token_counts[] = {0, 1, 2, 7, 16};

static void router_is_equal(struct twin *twin)
{
    static const int32_t shapes[][2] = {{256, 6}, {8, 2}, {1, 1}, {33, 32}, {32, 32}, {4096, 6}};
    for (size_t i = 0; i < SL_COUNT_OF(token_counts); i++)
        for (size_t j = 0; j < SL_COUNT_OF(shapes); j++)
            for (int kind = LOGITS_RANDOM; kind <= LOGITS_NAN; kind++)
                for (int table = 0; table < 2; table++) {
                    struct route one = {token_counts[i], shapes[j][0], shapes[j][1],
                                        (enum logits)kind, table};
                    route(twin, &one);
                }
}

static void combine(struct twin *twin, int32_t tokens, int32_t top, int32_t hidden, bool round)
{
    size_t row = (size_t)tokens * (size_t)hidden;
    struct twin_array routed = twin_array_make(twin, row * (size_t)top * 4);
    struct twin_array shared = twin_array_make(twin, row * 4);
    twin_fill(twin, routed.host, row * (size_t)top, 1, round);
    twin_fill(twin, shared.host, row, 1, round);
    twin_upload(twin, &routed), twin_upload(twin, &shared);
    struct moe_combine_args args = {routed.host, shared.host, shared.host, tokens,
                                    top,         hidden,      round};
    twin->cpu->moe_combine(twin->cpu_stream, &args);
    args.routed = routed.device;
    args.shared = args.out = shared.device; /* in place */
    twin->gpu->moe_combine(twin->gpu_stream, &args);
    twin_check_bytes(twin, "out", twin_download(twin, &shared), shared.host, shared.bytes);
    twin_array_free(twin, &routed), twin_array_free(twin, &shared);
}

static void moe_combine_is_equal(struct twin *twin)
{
    for (size_t i = 0; i < SL_COUNT_OF(token_counts); i++)
        for (int round = 0; round < 2; round++) {
            combine(twin, token_counts[i], 6, 4096, round);
            combine(twin, token_counts[i], 0, 33, round);
            combine(twin, token_counts[i], 11, 1, round);
        }
}

int main(int argc, char **argv)
{
    static const struct twin_case cases[] = {
        {"router chooses as its twin", router_is_equal},
        {"moe_combine equals its twin", moe_combine_is_equal},
    };
    return twin_main(argc, argv, cases, SL_COUNT_OF(cases));
}
