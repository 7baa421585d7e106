/* Prompt and decode speed of a model through sl.h, every expert in RAM, beside the time that
 * reading the bytes a decoded token touches takes at the memory's speed. */
#include "bench/bench.h"

#include "runtime/engine.h"

#include <string.h>

#define PROMPT_TOKENS 128
#define DECODE_TOKENS 16 /* a sample */

/* Weights that one decoded token reads: all of the dense part but the embedding, of which it takes
 * a row, and its experts. The cache adds little at these lengths and is left out. */
static double bytes_per_token(const sl_engine *engine)
{
    const struct model *model = engine->model;
    const struct model_config *config = &model->config;
    double embedding = 2.0 * config->vocab * config->hidden;
    double experts = (double)config->layers * config->experts_per_token *
                     (double)model->expert_layout.slot_bytes;
    return (double)model->dense_bytes - embedding + experts;
}

/* Appends `count` seeded tokens in one call each when `one_by_one`; returns tokens a second. */
static double append_tokens(sl_session *session, const sl_engine *engine, int32_t count,
                            bool one_by_one, uint64_t *seed)
{
    int32_t ids[PROMPT_TOKENS];
    struct sl_error error;
    SL_ASSERT(count <= PROMPT_TOKENS);
    for (int32_t i = 0; i < count; i++) {
        *seed = *seed * 6364136223846793005u + 1442695040888963407u;
        ids[i] = (int32_t)((*seed >> 33) % (uint64_t)engine->model->config.vocab);
    }
    uint64_t start_ns = bench_now_ns();
    size_t step = one_by_one ? 1 : (size_t)count;
    for (size_t at = 0; at < (size_t)count; at += step) {
        if (sl_session_append(session, ids + at, step, NULL, &error) == SL_OK) continue;
        fprintf(stderr, "sluice-bench: %s\n", error.message);
        return 0;
    }
    return count * 1e9 / (double)(bench_now_ns() - start_ns);
}

static int measure(const struct bench_options *options, sl_engine *engine, sl_session *session)
{
    double prompts[BENCH_SAMPLES_MAX], decodes[BENCH_SAMPLES_MAX], ceilings[BENCH_SAMPLES_MAX];
    double ratios[BENCH_SAMPLES_MAX];
    double bytes = bytes_per_token(engine);
    uint64_t seed = options->seed;
    char name[96];
    /* Warm: every expert a prompt of this length wants is read from disk once, outside the samples.
     */
    for (int pass = 0; pass < 4; pass++) {
        sl_session_reset(session);
        if (append_tokens(session, engine, PROMPT_TOKENS, false, &seed) == 0) return 1;
    }
    for (int32_t round = 0; round < options->rounds; round++) {
        sl_session_reset(session);
        prompts[round] = append_tokens(session, engine, PROMPT_TOKENS, false, &seed);
        decodes[round] = append_tokens(session, engine, DECODE_TOKENS, true, &seed);
        if (prompts[round] == 0 || decodes[round] == 0) return 1;
        ceilings[round] = bench_memory_rate(options->threads) * 1e9 / bytes;
        if (ceilings[round] == 0) return 1;
        ratios[round] = decodes[round] / ceilings[round];
    }
    snprintf(name, sizeof name, "prompt of %d tokens, %d threads", PROMPT_TOKENS,
             (int)options->threads);
    bench_print(options, &(struct bench_line){.bench = "generate",
                                              .name = name,
                                              .unit = "tokens/s",
                                              .samples = prompts,
                                              .count = options->rounds});
    snprintf(name, sizeof name, "decode, %.3f GB a token, %d threads", bytes * 1e-9,
             (int)options->threads);
    bench_print(options,
                &(struct bench_line){.bench = "generate",
                                     .name = name,
                                     .unit = "tokens/s",
                                     .samples = decodes,
                                     .count = options->rounds,
                                     .ceiling = bench_percentile(ceilings, options->rounds, 50),
                                     .ratio = bench_percentile(ratios, options->rounds, 50)});
    return 0;
}

int bench_generate(const struct bench_options *options)
{
    struct sl_engine_options open = sl_engine_options_default();
    struct sl_error error;
    sl_engine *engine;
    sl_session *session;
    if (!options->model) {
        fprintf(stderr, "sluice-bench: generate needs --model DIR\n");
        return 2;
    }
    open.model_dir = options->model;
    open.threads = options->threads;
    open.context_tokens = PROMPT_TOKENS + DECODE_TOKENS;
    if (sl_engine_open(&open, &engine, &error) != SL_OK) {
        fprintf(stderr, "sluice-bench: %s\n", error.message);
        return 1;
    }
    int status = 1;
    if (sl_session_create(engine, &session, &error) == SL_OK) {
        status = measure(options, engine, session);
        sl_session_destroy(session);
    } else {
        fprintf(stderr, "sluice-bench: %s\n", error.message);
    }
    sl_engine_close(engine);
    return status;
}
