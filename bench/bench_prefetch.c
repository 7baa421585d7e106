/* Paired runs of one model with RAM for a part of its experts: the same tokens with nothing read
 * ahead, with what the table tells, with routers looking ahead, and with a trace being recorded.
 * Every variant has an engine of its own; rounds take them in turn, from another one each time, so
 * that neighbours on the machine hurt all of them. Ratios are to the round's run without. */
#include "bench/bench.h"

#include "runtime/engine.h"

#include <string.h>
#include <unistd.h>

#define TOKENS_MAX 72
#define WARM       24 /* tokens before the clock starts, in every run */

static const struct variant {
    const char *name;
    enum sl_prefetch prefetch;
    int32_t depth;
    bool trace;
} variants[] = {
    {"off", SL_PREFETCH_OFF, 0, false},
    {"hash", SL_PREFETCH_HASH, 0, false},
    {"auto, depth 1", SL_PREFETCH_AUTO, 1, false},
    {"auto, depth 2", SL_PREFETCH_AUTO, 2, false},
    {"off, traced", SL_PREFETCH_OFF, 0, true},
    {"auto, traced", SL_PREFETCH_AUTO, 1, true},
};

#define VARIANTS SL_COUNT_OF(variants)

/* What one run came to. */
struct outcome {
    double token_ms, stall_ms; /* per token */
    struct sl_stats stats;     /* of the whole engine's life */
};

struct prefetch_bench {
    const struct bench_options *options;
    sl_engine *engines[VARIANTS];
    sl_session *sessions[VARIANTS];
    int32_t ids[TOKENS_MAX];
    int32_t tokens;
    double token_ms[VARIANTS][BENCH_SAMPLES_MAX], ratios[VARIANTS][BENCH_SAMPLES_MAX];
    double stall_ms[VARIANTS][BENCH_SAMPLES_MAX];
    char trace[64];
};

static bool say(const struct sl_error *error)
{
    fprintf(stderr, "sluice-bench: %s\n", error->message);
    return false;
}

/* RAM for --share percent of the experts. */
static uint64_t choose_ram(const sl_engine *engine, double share)
{
    double slots = share * engine->budget.experts_total;
    return (uint64_t)slots * engine->source.slot_bytes + engine->budget.staging_bytes;
}

static bool open_variant(struct prefetch_bench *bench, size_t v, uint64_t ram_bytes)
{
    struct sl_engine_options open = sl_engine_options_default();
    struct sl_error error;
    open.model_dir = bench->options->model;
    open.threads = bench->options->threads;
    open.context_tokens = TOKENS_MAX + WARM;
    open.ram_bytes = ram_bytes;
    open.prefetch = variants[v].prefetch;
    open.prefetch_depth = variants[v].depth;
    if (sl_engine_open(&open, &bench->engines[v], &error) != SL_OK) return say(&error);
    if (sl_session_create(bench->engines[v], &bench->sessions[v], &error) != SL_OK)
        return say(&error);
    return true;
}

/* A text of the model's own: tokens drawn from it, as a user's answer would be. */
static bool draw_tokens(struct prefetch_bench *bench)
{
    const struct sl_sampling sampling = {.temperature = 1, .top_p = 1};
    struct sl_engine_options open = sl_engine_options_default();
    struct sl_error error;
    sl_engine *engine = NULL;
    sl_session *session = NULL;
    sl_sampler *sampler = NULL;
    open.model_dir = bench->options->model;
    open.threads = bench->options->threads;
    open.context_tokens = TOKENS_MAX + WARM;
    bool good = sl_engine_open(&open, &engine, &error) == SL_OK &&
                sl_session_create(engine, &session, &error) == SL_OK &&
                sl_sampler_create(&sampling, sl_engine_info(engine).vocab, bench->options->seed,
                                  &sampler, &error) == SL_OK;
    int32_t id = good ? sl_engine_info(engine).bos_id : 0;
    for (int32_t i = 0; good && i < TOKENS_MAX; i++) {
        bench->ids[i] = id;
        good = sl_session_append(session, &id, 1, NULL, &error) == SL_OK;
        if (good) id = sl_sampler_next(sampler, sl_session_logits(session));
    }
    if (good) bench->tokens = TOKENS_MAX;
    sl_sampler_destroy(sampler);
    sl_session_destroy(session);
    uint64_t ram = good ? choose_ram(engine, bench->options->share) : 0;
    sl_engine_close(engine);
    if (!good) return say(&error);
    for (size_t v = 0; v < VARIANTS; v++)
        if (!open_variant(bench, v, ram)) return false;
    return true;
}

/* Feeds all tokens one by one, each announced as soon as it is known, as `sluice run` does. */
static bool run_variant(struct prefetch_bench *bench, size_t v, struct outcome *out)
{
    sl_engine *engine = bench->engines[v];
    sl_session *session = bench->sessions[v];
    struct sl_error error;
    struct sl_stats before;
    uint64_t start_ns = 0;
    if (variants[v].trace && sl_trace_start(engine, bench->trace, false, &error) != SL_OK)
        return say(&error);
    sl_session_reset(session);
    for (int32_t i = 0; i < bench->tokens; i++) {
        if (i == WARM) {
            sl_engine_stats(engine, &before);
            start_ns = bench_now_ns();
        }
        sl_session_expect(session, bench->ids + i, 1, 1);
        if (sl_session_append(session, bench->ids + i, 1, NULL, &error) != SL_OK)
            return say(&error);
    }
    double tokens = bench->tokens - WARM;
    if (sl_trace_stop(engine, &error) != SL_OK) return say(&error);
    out->token_ms = (double)(bench_now_ns() - start_ns) / 1e6 / tokens;
    sl_engine_stats(engine, &out->stats);
    out->stall_ms = (double)(out->stats.stall_ns - before.stall_ns) / 1e6 / tokens;
    return true;
}

static void print_variant(struct prefetch_bench *bench, size_t v, const struct outcome *last)
{
    const struct bench_options *options = bench->options;
    const struct sl_stats *stats = &last->stats;
    char name[96];
    double ratio = bench_percentile(bench->ratios[v], options->rounds, 50);
    snprintf(name, sizeof name, "%s, %.0f%% in RAM", variants[v].name, 100 * options->share);
    bench_print(options, &(struct bench_line){
                             .bench = "prefetch",
                             .name = name,
                             .unit = "ms/token",
                             .samples = bench->token_ms[v],
                             .count = options->rounds,
                             .ceiling = bench_percentile(bench->token_ms[0], options->rounds, 50),
                             .ratio = ratio});
    snprintf(name, sizeof name, "%s, %.0f%% in RAM, waiting", variants[v].name,
             100 * options->share);
    bench_print(options, &(struct bench_line){.bench = "prefetch",
                                              .name = name,
                                              .unit = "ms/token",
                                              .samples = bench->stall_ms[v],
                                              .count = options->rounds});
    fprintf(stderr,
            "%-14s hits %.1f%%; table %llu useful %llu late %llu wasted; routers %llu useful %llu "
            "late %llu wasted; looking ahead %.2f ms a token\n",
            variants[v].name,
            100.0 * (double)stats->expert_hits /
                (double)(stats->expert_hits + stats->expert_misses),
            (unsigned long long)stats->table_useful, (unsigned long long)stats->table_late,
            (unsigned long long)stats->table_wasted, (unsigned long long)stats->router_useful,
            (unsigned long long)stats->router_late, (unsigned long long)stats->router_wasted,
            (double)stats->lookahead_ns / 1e6 / (double)(bench->tokens * options->rounds));
}

static void close_bench(struct prefetch_bench *bench)
{
    for (size_t v = 0; v < VARIANTS; v++) {
        sl_session_destroy(bench->sessions[v]);
        sl_engine_close(bench->engines[v]);
    }
    unlink(bench->trace);
    free(bench);
}

int bench_prefetch(const struct bench_options *options)
{
    if (!options->model) {
        fprintf(stderr, "sluice-bench: prefetch needs --model DIR\n");
        return 2;
    }
    struct prefetch_bench *bench = calloc(1, sizeof *bench);
    struct outcome outcomes[VARIANTS];
    if (!bench) return 1;
    bench->options = options;
    snprintf(bench->trace, sizeof bench->trace, "/tmp/sluice-bench-%ld.trace", (long)getpid());
    bool good = draw_tokens(bench);
    for (int32_t round = -1; good && round < options->rounds; round++) { /* -1: to warm up */
        for (size_t i = 0; good && i < VARIANTS; i++) {
            size_t v = (i + (size_t)(round + 1)) % VARIANTS;
            good = run_variant(bench, v, &outcomes[v]);
        }
        for (size_t v = 0; good && round >= 0 && v < VARIANTS; v++) {
            bench->token_ms[v][round] = outcomes[v].token_ms;
            bench->stall_ms[v][round] = outcomes[v].stall_ms;
            /* A trace is compared with the same run without one. */
            size_t base = variants[v].trace && variants[v].prefetch == SL_PREFETCH_AUTO ? 2 : 0;
            bench->ratios[v][round] = outcomes[v].token_ms / outcomes[base].token_ms;
        }
    }
    for (size_t v = 0; good && v < VARIANTS; v++)
        print_variant(bench, v, &outcomes[v]);
    close_bench(bench);
    return good ? 0 : 1;
}
