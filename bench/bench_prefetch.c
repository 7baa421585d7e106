/* Paired runs of one model with RAM for a part of its experts: the same tokens with nothing read
 * ahead, with what the table tells, with routers looking ahead, and with a trace being recorded.
 * Two engines that are the same differ by a tenth, for as long as they live, and a machine and a
 * disk that others use change from second to second. So one engine serves all variants, each with a
 * lookahead of its own, in turns of a few tokens, in an order drawn anew each round. The first
 * tokens of a turn are not timed: they bring the experts in memory to what this variant makes of
 * them. Ratios are to the round's two turns without; that of one to the other says how far two that
 * are the same come apart.
 *
 * With --file each round is kept there as it ends, and the next call goes on from it: a measurement
 * may be made in several short calls, and one that is cut off loses a round. */
#include "bench/bench.h"

#include "offload/random_stream.h"
#include "runtime/engine.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

#define TEXT_TOKENS 144 /* drawn once; a round takes TURN of them */
#define TURN        36
#define SETTLE      12 /* of them, not timed */

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

#define VARIANTS  SL_COUNT_OF(variants)
#define OFF_TURNS 2 /* the first ones: the others are compared with their geometric mean */

/* What a variant's turn came to, per token. */
struct outcome {
    double token_ms, stall_ms;
};

struct prefetch_bench {
    const struct bench_options *options;
    sl_engine *engine;
    sl_session *session;
    struct lookahead *lookaheads[VARIANTS];
    struct sl_stats guesses[VARIANTS]; /* of the timed tokens: what became of them */
    int32_t ids[TEXT_TOKENS];
    struct random_stream random; /* the order of turns, and their tokens */
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

/* An engine with RAM for `ram_bytes` of experts, or for all if it is 0. */
static bool open_engine(struct prefetch_bench *bench, uint64_t ram_bytes)
{
    struct sl_engine_options open = sl_engine_options_default();
    struct sl_error error;
    open.model_dir = bench->options->model;
    open.threads = bench->options->threads;
    open.context_tokens = TEXT_TOKENS;
    open.ram_bytes = ram_bytes;
    if (sl_engine_open(&open, &bench->engine, &error) != SL_OK) return say(&error);
    return sl_session_create(bench->engine, &bench->session, &error) == SL_OK || say(&error);
}

static void close_engine(struct prefetch_bench *bench)
{
    sl_session_destroy(bench->session);
    sl_engine_close(bench->engine);
    bench->session = NULL;
    bench->engine = NULL;
}

/* A text of the model's own: tokens drawn from it, as a user's answer would be. */
static bool draw_tokens(struct prefetch_bench *bench)
{
    const struct sl_sampling sampling = {.temperature = 1, .top_p = 1};
    struct sl_error error;
    sl_sampler *sampler = NULL;
    int32_t vocab = sl_engine_info(bench->engine).vocab;
    int32_t id = sl_engine_info(bench->engine).bos_id;
    if (sl_sampler_create(&sampling, vocab, bench->options->seed, &sampler, &error) != SL_OK)
        return say(&error);
    bool good = true;
    for (int32_t i = 0; good && i < TEXT_TOKENS; i++) {
        bench->ids[i] = id;
        good = sl_session_append(bench->session, &id, 1, NULL, &error) == SL_OK || say(&error);
        if (good) id = sl_sampler_next(sampler, sl_session_logits(bench->session));
    }
    sl_sampler_destroy(sampler);
    return good;
}

static bool make_lookahead(struct prefetch_bench *bench, size_t v)
{
    struct sl_error error;
    const struct lookahead_options options = {.model = bench->engine->forward.model,
                                              .mode = variants[v].prefetch,
                                              .depth = max_i32(variants[v].depth, 1),
                                              .state = PREDICTOR_SHARED};
    return lookahead_create(&options, &bench->lookaheads[v], &error) == SL_OK || say(&error);
}

/* The text with everything in memory, then the engine that is measured. */
static bool open_bench(struct prefetch_bench *bench)
{
    if (!open_engine(bench, 0) || !draw_tokens(bench)) return false;
    uint64_t ram_bytes = choose_ram(bench->engine, bench->options->share);
    close_engine(bench);
    if (!open_engine(bench, ram_bytes)) return false;
    for (size_t v = 0; v < VARIANTS; v++)
        if (!make_lookahead(bench, v)) return false;
    return true;
}

static void close_bench(struct prefetch_bench *bench)
{
    close_engine(bench);
    for (size_t v = 0; v < VARIANTS; v++)
        lookahead_destroy(bench->lookaheads[v]);
    unlink(bench->trace);
    free(bench);
}

/* ---- rounds ---- */

static void add_guesses(struct sl_stats *sum, const struct sl_stats *from,
                        const struct sl_stats *until)
{
    sum->expert_hits += until->expert_hits - from->expert_hits;
    sum->expert_misses += until->expert_misses - from->expert_misses;
    sum->table_useful += until->table_useful - from->table_useful;
    sum->table_late += until->table_late - from->table_late;
    sum->table_wasted += until->table_wasted - from->table_wasted;
    sum->router_useful += until->router_useful - from->router_useful;
    sum->router_late += until->router_late - from->router_late;
    sum->router_wasted += until->router_wasted - from->router_wasted;
}

/* Feeds tokens one by one, each announced as soon as it is known, as `sluice run` does. */
static bool feed(struct prefetch_bench *bench, const int32_t *ids, int32_t count)
{
    struct sl_error error;
    for (int32_t i = 0; i < count; i++) {
        sl_session_expect(bench->session, ids + i, 1, 1);
        if (sl_session_append(bench->session, ids + i, 1, NULL, &error) != SL_OK)
            return say(&error);
    }
    return true;
}

static bool take_turn(struct prefetch_bench *bench, size_t v, const int32_t *ids,
                      struct outcome *out)
{
    sl_engine *engine = bench->engine;
    struct lookahead *own = engine->lookahead;
    struct sl_error error;
    struct sl_stats from, until;
    engine->lookahead = engine->forward.lookahead = bench->lookaheads[v];
    sl_session_reset(bench->session);
    bool good = !variants[v].trace ||
                sl_trace_start(engine, bench->trace, false, &error) == SL_OK || say(&error);
    good = good && feed(bench, ids, SETTLE);
    sl_engine_stats(engine, &from);
    uint64_t start_ns = bench_now_ns();
    good = good && feed(bench, ids + SETTLE, TURN - SETTLE);
    double elapsed_ms = (double)(bench_now_ns() - start_ns) / 1e6;
    sl_engine_stats(engine, &until);
    good = good && (!variants[v].trace || sl_trace_stop(engine, &error) == SL_OK || say(&error));
    engine->lookahead = engine->forward.lookahead = own;
    out->token_ms = elapsed_ms / (TURN - SETTLE);
    out->stall_ms = (double)(until.stall_ns - from.stall_ns) / 1e6 / (TURN - SETTLE);
    add_guesses(&bench->guesses[v], &from, &until);
    return good;
}

/* Every variant once, in an order drawn anew, on the same tokens. */
static bool run_round(struct prefetch_bench *bench, struct outcome *outcomes)
{
    size_t order[VARIANTS];
    const int32_t *ids = bench->ids + random_u64(&bench->random) % (TEXT_TOKENS - TURN + 1);
    for (size_t i = 0; i < VARIANTS; i++) {
        size_t at = random_u64(&bench->random) % (i + 1);
        order[i] = order[at];
        order[at] = i;
    }
    for (size_t i = 0; i < VARIANTS; i++)
        if (!take_turn(bench, order[i], ids, &outcomes[order[i]])) return false;
    return true;
}

static void say_guesses(const struct prefetch_bench *bench, size_t v)
{
    const struct sl_stats *stats = &bench->guesses[v];
    struct lookahead_stats looks;
    lookahead_stats_get(bench->lookaheads[v], &looks);
    fprintf(stderr,
            "%-14s hits %.1f%%; table %llu useful %llu late %llu wasted; routers %llu useful %llu "
            "late %llu wasted; looking ahead %.3f ms a layer\n",
            variants[v].name,
            100.0 * (double)stats->expert_hits /
                (double)(stats->expert_hits + stats->expert_misses),
            (unsigned long long)stats->table_useful, (unsigned long long)stats->table_late,
            (unsigned long long)stats->table_wasted, (unsigned long long)stats->router_useful,
            (unsigned long long)stats->router_late, (unsigned long long)stats->router_wasted,
            (double)looks.elapsed_ns / 1e6 / fmax(1, (double)looks.layers));
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

static void add_round(struct prefetch_bench *bench, const struct outcome *outcomes)
{
    double off_ms = sqrt(outcomes[0].token_ms * outcomes[1].token_ms);
    for (size_t v = 0; v < VARIANTS; v++) {
        bench->token_ms[v][bench->rounds] = outcomes[v].token_ms;
        bench->stall_ms[v][bench->rounds] = outcomes[v].stall_ms;
        bench->ratios[v][bench->rounds] =
            outcomes[v].token_ms / (v < OFF_TURNS ? outcomes[0].token_ms : off_ms);
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

/* Runs until there are as many rounds as are wanted, the first of a call to warm up. */
static bool run_rounds(struct prefetch_bench *bench, FILE *kept)
{
    struct outcome outcomes[VARIANTS];
    if (bench->rounds >= bench->options->rounds) return true;
    random_seed(&bench->random, bench->options->seed + (uint64_t)bench->rounds);
    if (!open_bench(bench)) return false;
    for (bool warm = true; bench->rounds < bench->options->rounds; warm = false) {
        if (!run_round(bench, outcomes)) return false;
        if (warm) continue;
        add_round(bench, outcomes);
        if (kept) keep_round(bench, kept);
    }
    for (size_t v = 0; v < VARIANTS; v++)
        say_guesses(bench, v);
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
