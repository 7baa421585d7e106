/* How much of what a cache misses was guessed ahead: a model decodes text of its own, or answers
 * the questions of --file, while every way of guessing is recorded, and the trace is counted. For
 * each list, cache size and selection, one line for the share of the misses found and one for the
 * share of guesses that were right. --trace keeps a smaller trace of the same. */
#include "bench/bench.h"
#include "bench/question_trace.h"

#include "runtime/engine.h"
#include "runtime/trace_stats.h"

#include <string.h>
#include <unistd.h>

#define TOKENS 512

static bool say(const struct sl_error *error)
{
    fprintf(stderr, "sluice-bench: %s\n", error->message);
    return false;
}

/* Draws TOKENS tokens. */
static enum sl_status sample_text(const struct bench_options *options, sl_engine *engine,
                                  struct sl_error *error)
{
    const struct sl_sampling sampling = {.temperature = 1, .top_p = 1};
    struct sl_model_info info = sl_engine_info(engine);
    sl_session *session = NULL;
    sl_sampler *sampler = NULL;
    enum sl_status status = sl_session_create(engine, &session, error);
    if (status == SL_OK)
        status = sl_sampler_create(&sampling, info.vocab, options->seed, &sampler, error);
    int32_t id = info.bos_id;
    for (int32_t i = 0; status == SL_OK && i < TOKENS; i++) {
        /* A full context, or the end of a turn: the next text. */
        if ((i > 0 && id == info.eos_id) ||
            sl_session_length(session) == (size_t)info.context_tokens) {
            sl_session_reset(session);
            id = info.bos_id;
        }
        status = sl_session_append(session, &id, 1, NULL, error);
        if (status == SL_OK) id = sl_sampler_next(sampler, sl_session_logits(session));
    }
    sl_sampler_destroy(sampler);
    sl_session_destroy(session);
    return status;
}

/* With every guess recorded into `path`; with `is_kept`, only those that were used. */
static bool record(const struct bench_options *options, const char *path, bool is_kept)
{
    struct sl_engine_options open = sl_engine_options_default();
    struct sl_error error;
    sl_engine *engine = NULL;
    open.model_dir = options->model;
    open.threads = options->threads;
    open.context_tokens = 0;
    enum sl_status status = sl_engine_open(&open, &engine, &error);
    if (status == SL_OK) status = sl_trace_start(engine, path, !is_kept, &error);
    if (status == SL_OK)
        status = options->file ? question_trace_ask(engine, options->file, &error)
                               : sample_text(options, engine, &error);
    if (status == SL_OK) status = sl_trace_stop(engine, &error);
    sl_engine_close(engine);
    return status == SL_OK || say(&error);
}

static void print_share(const struct bench_options *options, const char *name, uint64_t part,
                        uint64_t whole)
{
    double value = whole ? (double)part / (double)whole : 0;
    bench_print(options, &(struct bench_line){.bench = "prediction",
                                              .name = name,
                                              .unit = "share",
                                              .samples = &value,
                                              .count = 1,
                                              .ceiling = 1,
                                              .ratio = value});
}

static void print_list(const struct bench_options *options, const struct trace_stats *stats,
                       const struct trace_stats_list *list)
{
    static const char *const states[] = {"input", "streams", "shared", "after"};
    static const int sizes[] = {1, 2, 4}; /* of the caches: 10, 17 and 47 % */
    char name[128], start[64];
    snprintf(start, sizeof start, "%d ahead, %s", list->list.distance, states[list->list.variant]);
    snprintf(name, sizeof name, "%s, best %d, recall of all", start, list->depths[1]);
    print_share(options, name, list->found[1], list->chosen);
    for (size_t s = 0; s < SL_COUNT_OF(sizes); s++) {
        int c = sizes[s];
        for (int which = 0; which < 4; which++) {
            const struct trace_stats_hits *hits =
                which < 2 ? &list->by_depth[c][which] : &list->by_cut[c][which - 1];
            char selection[32];
            if (which < 2)
                snprintf(selection, sizeof selection, "best %d", list->depths[which]);
            else
                snprintf(selection, sizeof selection, "p >= %.1f",
                         (double)trace_stats_cuts[which - 1]);
            if (stats->slots[c] == 0 || list->missed[c] == 0) continue;
            snprintf(name, sizeof name, "%s, %d slots, %s, recall of misses", start,
                     stats->slots[c], selection);
            print_share(options, name, hits->right, list->missed[c]);
            snprintf(name, sizeof name, "%s, %d slots, %s, precision", start, stats->slots[c],
                     selection);
            print_share(options, name, hits->right, hits->guessed);
        }
    }
}

int bench_prediction(const struct bench_options *options)
{
    char path[64];
    struct trace_reader *reader = NULL;
    struct sl_error error;
    if (!options->model) {
        fprintf(stderr, "sluice-bench: prediction needs --model DIR\n");
        return 2;
    }
    struct trace_stats *stats = calloc(1, sizeof *stats);
    if (options->trace && !record(options, options->trace, true)) {
        free(stats);
        return 1;
    }
    snprintf(path, sizeof path, "/tmp/sluice-bench-%ld.trace", (long)getpid());
    bool good = stats && record(options, path, false);
    if (good && trace_reader_open(path, &reader, &error) != SL_OK) good = say(&error);
    if (good && trace_stats_init(stats, reader, &error) != SL_OK) good = say(&error);
    for (int32_t i = 0; good && i < stats->head.list_count; i++)
        print_list(options, stats, &stats->lists[i]);
    if (stats) trace_stats_deinit(stats);
    trace_reader_close(reader);
    free(stats);
    unlink(path);
    return good ? 0 : 1;
}
