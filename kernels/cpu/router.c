/* Experts of each token and their weights. */
#include "kernels/cpu/stream.h"

#include <math.h>

/* sqrt(softplus(z)); above 20 softplus is z to f32 precision. */
static float activate(float z)
{
    return sqrtf(z > 20.0f ? z : log1pf(expf(z)));
}

/* The `top` largest of activation + bias; a NaN is taken only when nothing else is left. */
static void choose_best(const float *activations, const float *bias, int32_t experts, int32_t top,
                        int32_t *chosen)
{
    bool taken[OPS_EXPERTS_MAX] = {false};
    for (int32_t k = 0; k < top; k++) {
        int32_t best = -1;
        float best_score = NAN;
        for (int32_t e = 0; e < experts; e++) {
            float score = activations[e] + bias[e];
            if (taken[e] || (best >= 0 && !(score > best_score) && !isnan(best_score))) continue;
            if (best >= 0 && isnan(score)) continue;
            best = e;
            best_score = score;
        }
        taken[best] = true;
        chosen[k] = best;
    }
}

static void sort_ascending(int32_t *ids, int32_t count)
{
    for (int32_t i = 1; i < count; i++) {
        int32_t id = ids[i];
        int32_t j = i;
        for (; j > 0 && ids[j - 1] > id; j--)
            ids[j] = ids[j - 1];
        ids[j] = id;
    }
}

static void route_token(const void *context, int32_t t)
{
    const struct router_args *args = context;
    float activations[OPS_EXPERTS_MAX];
    const float *logits = args->logits + (size_t)t * (size_t)args->experts;
    int32_t *chosen = args->chosen + (size_t)t * (size_t)args->top;
    float *weights = args->weights + (size_t)t * (size_t)args->top;
    for (int32_t e = 0; e < args->experts; e++)
        activations[e] = activate(logits[e]);
    if (args->token_experts) {
        SL_ASSERT(args->ids[t] >= 0);
        const int64_t *row = args->token_experts + (size_t)args->ids[t] * (size_t)args->top;
        for (int32_t k = 0; k < args->top; k++) {
            SL_ASSERT(row[k] >= 0 && row[k] < args->experts);
            chosen[k] = (int32_t)row[k];
        }
    } else {
        choose_best(activations, args->bias, args->experts, args->top, chosen);
    }
    sort_ascending(chosen, args->top);
    float sum = 0.0f;
    for (int32_t k = 0; k < args->top; k++)
        sum += activations[chosen[k]];
    for (int32_t k = 0; k < args->top; k++)
        weights[k] = activations[chosen[k]] / sum * args->scale;
}

void cpu_router(struct stream *stream, const struct router_args *args)
{
    SL_ASSERT(args->experts >= 1 && args->experts <= OPS_EXPERTS_MAX);
    SL_ASSERT(args->top >= 1 && args->top <= OPS_EXPERTS_PER_TOKEN_MAX);
    SL_ASSERT(args->top <= args->experts);
    SL_ASSERT(args->token_experts ? args->ids != NULL : args->bias != NULL);
    stream_run(stream, args->tokens, route_token, args);
}
