/* Paired runs of one model with RAM for a part of its experts: the same tokens with nothing read
 * ahead, with what the table tells, with routers looking ahead, and with a trace being recorded.
 * Every variant has an engine of its own. A disk and a machine that others use change from second
 * to second, so the variants take turns within a round, a few tokens each, in an order drawn anew
 * each time: what one leaves behind hurts all. Engines are opened anew after some rounds, because
 * where their memory lies makes two that are the same differ by some percent. Ratios are to the
 * round's run without; a second run without says how far two that are the same come apart.
 *
 * With --file each round is kept there as it ends, and the next call goes on from it: a measurement
 * may be made in several short calls, and one that is cut off loses a round. */
#include "bench/bench.h"

#include "offload/random_stream.h"
#include "runtime/engine.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

#define TOKENS_MAX 72
#define WARM       24 /* tokens before the clock starts, in every round */
#define TURN       6  /* tokens of a variant before the next one's turn */
#define REOPEN     4  /* rounds of one set of engines, after one to warm up */

static const struct variant {
    const char *name;
    enum sl_prefetch prefetch;
    int32_t depth;
    bool trace;
} variants[] = {
    {"off", SL_PREFETCH_OFF, 0, false},
    {"off again", SL_PREFETCH_OFF, 0, false},
    {"hash", SL_PREFETCH_HASH, 0, false},
    {"auto, depth 1", SL_PREFETCH_AUTO, 1, false},
    {"auto, depth 2", SL_PREFETCH_AUTO, 2, false},
    {"off, traced", SL_PREFETCH_OFF, 0, true},
};

#define VARIANTS SL_COUNT_OF(variants)

/* What a variant's turns of a round came to, per token. */
struct outcome {
    double token_ms, stall_ms;
};

struct prefetch_bench {
    const struct bench_options *options;
    sl_engine *engines[VARIANTS];
    sl_session *sessions[VARIANTS];
    int32_t ids[TOKENS_MAX];
    uint64_t ram_bytes;
    struct random_stream random; /* the order of turns */
    double token_ms[VARIANTS][BENCH_SAMPLES_MAX], ratios[VARIANTS][BENCH_SAMPLES_MAX];
    double stall_ms[VARIANTS][BENCH_SAMPLES_MAX];
    int32_t rounds; /* done */
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

/* The variants in an order drawn anew. */
static void shuffle(struct prefetch_bench *bench, size_t order[VARIANTS])
{
    for (size_t i = 0; i < VARIANTS; i++) {
        size_t at = random_u64(&bench->random) % (i + 1);
        order[i] = order[at];
        order[at] = i;
    }
}

static bool open_variant(struct prefetch_bench *bench, size_t v)
{
    struct sl_engine_options open = sl_engine_options_default();
    struct sl_error error;
    open.model_dir = bench->options->model;
    open.threads = bench->options->threads;
    open.context_tokens = TOKENS_MAX;
    open.ram_bytes = bench->ram_bytes;
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
    open.context_tokens = TOKENS_MAX;
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
    sl_sampler_destroy(sampler);
    sl_session_destroy(session);
    if (good) bench->ram_bytes = choose_ram(engine, bench->options->share);
    sl_engine_close(engine);
    return good || say(&error);
}

static void close_variants(struct prefetch_bench *bench)
{
    for (size_t v = 0; v < VARIANTS; v++) {
        sl_session_destroy(bench->sessions[v]);
        sl_engine_close(bench->engines[v]);
        bench->sessions[v] = NULL;
        bench->engines[v] = NULL;
    }
}

static bool open_variants(struct prefetch_bench *bench)
{
    size_t order[VARIANTS];
    close_variants(bench);
    shuffle(bench, order);
    for (size_t i = 0; i < VARIANTS; i++)
        if (!open_variant(bench, order[i])) return false;
    return true;
}

/* A variant's next tokens, each announced as soon as it is known, as `sluice run` does. */
static bool take_turn(struct prefetch_bench *bench, size_t v, int32_t first, struct outcome *out)
{
    sl_engine *engine = bench->engines[v];
    sl_session *session = bench->sessions[v];
    struct sl_error error;
    struct sl_stats before, after;
    sl_engine_stats(engine, &before);
    uint64_t start_ns = bench_now_ns();
    for (int32_t i = first; i < first + TURN; i++) {
        sl_session_expect(session, bench->ids + i, 1, 1);
        if (sl_session_append(session, bench->ids + i, 1, NULL, &error) != SL_OK)
            return say(&error);
    }
    double elapsed_ms = (double)(bench_now_ns() - start_ns) / 1e6;
    sl_engine_stats(engine, &after);
    if (first < WARM) return true;
    out->token_ms += elapsed_ms / (TOKENS_MAX - WARM);
    out->stall_ms += (double)(after.stall_ns - before.stall_ns) / 1e6 / (TOKENS_MAX - WARM);
    return true;
}

static bool run_round(struct prefetch_bench *bench, struct outcome *outcomes)
{
    struct sl_error error;
    for (size_t v = 0; v < VARIANTS; v++) {
        outcomes[v] = (struct outcome){0};
        sl_session_reset(bench->sessions[v]);
        if (variants[v].trace &&
            sl_trace_start(bench->engines[v], bench->trace, false, &error) != SL_OK)
            return say(&error);
    }
    for (int32_t turn = 0; turn < TOKENS_MAX / TURN; turn++) {
        size_t order[VARIANTS];
        shuffle(bench, order);
        for (size_t i = 0; i < VARIANTS; i++)
            if (!take_turn(bench, order[i], turn * TURN, &outcomes[order[i]])) return false;
    }
    for (size_t v = 0; v < VARIANTS; v++)
        if (variants[v].trace && sl_trace_stop(bench->engines[v], &error) != SL_OK)
            return say(&error);
    return true;
}

/* What became of the guesses of the last engines. */
static void say_guesses(size_t v, const struct sl_stats *stats)
{
    fprintf(stderr,
            "%-14s hits %.1f%%; table %llu useful %llu late %llu wasted; routers %llu useful %llu "
            "late %llu wasted; looking ahead %.3f ms a layer\n",
            variants[v].name,
            100.0 * (double)stats->expert_hits /
                (double)(stats->expert_hits + stats->expert_misses),
            (unsigned long long)stats->table_useful, (unsigned long long)stats->table_late,
            (unsigned long long)stats->table_wasted, (unsigned long long)stats->router_useful,
            (unsigned long long)stats->router_late, (unsigned long long)stats->router_wasted,
            (double)stats->lookahead_ns / 1e6 / fmax(1, (double)stats->lookahead_layers));
}

static void print_variant(struct prefetch_bench *bench, size_t v)
{
    const struct bench_options *options = bench->options;
    char name[96];
    snprintf(name, sizeof name, "%s, %.0f%% in RAM", variants[v].name, 100 * options->share);
    bench_print(options, &(struct bench_line){
                             .bench = "prefetch",
                             .name = name,
                             .unit = "ms/token",
                             .samples = bench->token_ms[v],
                             .count = bench->rounds,
                             .ceiling = bench_percentile(bench->token_ms[0], bench->rounds, 50),
                             .ratios = bench->ratios[v]});
    snprintf(name, sizeof name, "%s, %.0f%% in RAM, waiting", variants[v].name,
             100 * options->share);
    bench_print(options, &(struct bench_line){.bench = "prefetch",
                                              .name = name,
                                              .unit = "ms/token",
                                              .samples = bench->stall_ms[v],
                                              .count = bench->rounds});
}

static void close_bench(struct prefetch_bench *bench)
{
    close_variants(bench);
    unlink(bench->trace);
    free(bench);
}

static void add_round(struct prefetch_bench *bench, const struct outcome *outcomes)
{
    for (size_t v = 0; v < VARIANTS; v++) {
        bench->token_ms[v][bench->rounds] = outcomes[v].token_ms;
        bench->stall_ms[v][bench->rounds] = outcomes[v].stall_ms;
        bench->ratios[v][bench->rounds] = outcomes[v].token_ms / outcomes[0].token_ms;
    }
    bench->rounds++;
}

/* The rounds of earlier calls; a line that was cut off ends them. */
static void recall_rounds(struct prefetch_bench *bench, FILE *file)
{
    struct outcome outcomes[VARIANTS];
    while (bench->rounds < bench->options->rounds) {
        for (size_t v = 0; v < VARIANTS; v++)
            if (fscanf(file, "%lf %lf", &outcomes[v].token_ms, &outcomes[v].stall_ms) != 2 ||
                outcomes[v].token_ms <= 0)
                return;
        add_round(bench, outcomes);
    }
}

static void keep_round(const struct prefetch_bench *bench, FILE *file)
{
    for (size_t v = 0; v < VARIANTS; v++)
        fprintf(file, "%.4f %.4f%c", bench->token_ms[v][bench->rounds - 1],
                bench->stall_ms[v][bench->rounds - 1], v == VARIANTS - 1 ? '\n' : ' ');
    fflush(file);
}

/* Runs until there are as many rounds as are wanted. */
static bool run_rounds(struct prefetch_bench *bench, FILE *kept)
{
    struct outcome outcomes[VARIANTS];
    if (bench->rounds >= bench->options->rounds) return true;
    random_seed(&bench->random, bench->options->seed + (uint64_t)bench->rounds);
    if (!draw_tokens(bench)) return false;
    for (int32_t i = 0; bench->rounds < bench->options->rounds; i++) {
        bool warm = i % (REOPEN + 1) == 0;
        if (warm && !open_variants(bench)) return false;
        if (!run_round(bench, outcomes)) return false;
        if (warm) continue;
        add_round(bench, outcomes);
        if (kept) keep_round(bench, kept);
    }
    for (size_t v = 0; v < VARIANTS; v++) {
        struct sl_stats stats;
        sl_engine_stats(bench->engines[v], &stats);
        say_guesses(v, &stats);
    }
    return true;
}

int bench_prefetch(const struct bench_options *options)
{
    FILE *kept = NULL;
    if (!options->model) {
        fprintf(stderr, "sluice-bench: prefetch needs --model DIR\n");
        return 2;
    }
    if (options->file && !(kept = fopen(options->file, "a+e"))) {
        fprintf(stderr, "sluice-bench: cannot keep rounds in %s\n", options->file);
        return 1;
    }
    struct prefetch_bench *bench = calloc(1, sizeof *bench);
    if (!bench) {
        if (kept) fclose(kept);
        return 1;
    }
    bench->options = options;
    snprintf(bench->trace, sizeof bench->trace, "/tmp/sluice-bench-%ld.trace", (long)getpid());
    if (kept) recall_rounds(bench, kept);
    bool good = run_rounds(bench, kept);
    for (size_t v = 0; good && v < VARIANTS; v++)
        print_variant(bench, v);
    if (kept) good = fclose(kept) == 0 && good;
    close_bench(bench);
    return good ? 0 : 1;
}
