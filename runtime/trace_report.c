/* sl_trace_report: the statistics of a trace beside the published ones, for people and programs. */
#include "runtime/sl.h"

#include "runtime/json_report.h"
#include "runtime/text_buffer.h"
#include "runtime/trace_stats.h"

#include <string.h>

/* Figures published for the big model: 256 experts, 6 for a token. */
static const double published_covering[3] = {0.088, 0.252, 0.465};
static const double published_fixed[3] = {0.40, 0.46, 0.52};
static const double published_gini = 0.718;
static const double published_distinct[TRACE_STATS_WINDOWS] = {6.0,  10.5, 14.3, 17.5, 20.4, 23.0,
                                                               25.4, 27.6, 36.7, 0,    183,  193};
static const double published_repeat = 0.25;
static const double published_hits[TRACE_STATS_CACHES] = {0.46, 0.63, 0.78, 0.91, 0.94, 0.97};
static const char *const state_names[] = {"input", "streams", "shared", "after"};
_Static_assert(PREDICTOR_AFTER + 1 == SL_COUNT_OF(state_names), "a name for each state");

static double share(uint64_t part, uint64_t whole)
{
    return whole ? (double)part / (double)whole : 0;
}

static double per_second(uint64_t count, uint64_t elapsed_ns)
{
    return elapsed_ns ? 1e9 * (double)count / (double)elapsed_ns : 0;
}

/* Useless guesses for one that was right. */
static double waste(const struct trace_stats_hits *hits)
{
    return hits->right ? (double)(hits->guessed - hits->right) / (double)hits->right : 0;
}

/* ---- text --------------------------------------------------------------------------------- */

static void say_head(struct text_buffer *text, const char *path, const struct trace_stats *s)
{
    const struct trace_head *head = &s->head;
    text_buffer_say(text, "trace      %.160s\n", path);
    text_buffer_say(text, "           recorded by %s\n", head->source);
    text_buffer_say(text,
                    "shape      %d layers, the first %d from a table, %d experts, %d for a token\n",
                    head->layers, head->hash_layers, head->experts, head->top);
    text_buffer_say(text, "tokens     %llu in %llu passes; %llu decoded, %.2f a second\n",
                    (unsigned long long)s->tokens, (unsigned long long)s->steps,
                    (unsigned long long)s->decoded, per_second(s->decoded, s->decode_ns));
    if (s->timed_layers)
        text_buffer_say(text, "misses     %.2f a layer; %.1f%% of the time waiting for them\n",
                        share(s->missed, s->timed_layers), 100 * share(s->wait_ns, s->duration_ns));
}

static void say_popularity(struct text_buffer *text, const struct trace_stats *s)
{
    static const char *const parts[3] = {"50%", "80%", "95%"};
    static const char *const sets[3] = {"4.54%", "6.36%", "8.18%"};
    text_buffer_say(text, "\npopularity                              here   published\n");
    for (int p = 0; p < 3; p++)
        text_buffer_say(text, "  experts that cover %s of the uses   %5.1f%%      %5.1f%%\n",
                        parts[p], 100 * s->covering[p], 100 * published_covering[p]);
    for (int p = 0; p < 3; p++)
        text_buffer_say(text, "  uses of the best %s of experts    %5.1f%%      %5.1f%%\n", sets[p],
                        100 * s->fixed_set[p], 100 * published_fixed[p]);
    text_buffer_say(text, "  Gini coefficient                      %5.3f       %5.3f\n", s->gini,
                    published_gini);
    text_buffer_say(text, "  experts seen                         %llu of %llu\n",
                    (unsigned long long)s->live,
                    (unsigned long long)((uint64_t)s->head.layers * (uint64_t)s->head.experts));
}

static void say_reuse(struct text_buffer *text, const struct trace_stats *s)
{
    text_buffer_say(
        text, "\ndistinct experts of a layer in so many tokens (published: of 256)\n  tokens     ");
    for (int w = 0; w < TRACE_STATS_WINDOWS; w++)
        text_buffer_say(text, "%6d", trace_stats_windows[w]);
    text_buffer_say(text, "\n  here       ");
    for (int w = 0; w < TRACE_STATS_WINDOWS; w++)
        text_buffer_say(text, s->distinct[w] > 0 ? "%6.1f" : "     -", s->distinct[w]);
    text_buffer_say(text, "\n  published  ");
    for (int w = 0; w < TRACE_STATS_WINDOWS; w++)
        text_buffer_say(text, published_distinct[w] > 0 ? "%6.1f" : "     -",
                        published_distinct[w]);
    text_buffer_say(text, "\n\nused again within so many tokens\n  tokens     ");
    for (int r = 0; r < TRACE_STATS_REACHES; r++)
        text_buffer_say(text, "%6d", trace_stats_reaches[r]);
    text_buffer_say(text, "\n  here       ");
    for (int r = 0; r < TRACE_STATS_REACHES; r++)
        text_buffer_say(text, "%5.1f%%", 100 * share(s->reused[r], s->reusable));
    text_buffer_say(text, "\n  published  %5.1f%%\n", 100 * published_repeat);
    text_buffer_say(
        text,
        "\nfound in a cache of so many slots a layer, least recently used goes\n  slots      ");
    for (int c = 0; c < TRACE_STATS_CACHES; c++)
        text_buffer_say(text, "%6d", s->slots[c]);
    text_buffer_say(text, "\n  of experts ");
    for (int c = 0; c < TRACE_STATS_CACHES; c++)
        text_buffer_say(text, "%5.1f%%", 100 * trace_stats_cache_shares[c]);
    text_buffer_say(text, "\n  here       ");
    for (int c = 0; c < TRACE_STATS_CACHES; c++)
        text_buffer_say(text, "%5.1f%%", 100 * share(s->hits[c], s->accesses));
    text_buffer_say(text, "\n  published  ");
    for (int c = 0; c < TRACE_STATS_CACHES; c++)
        text_buffer_say(text, "%5.1f%%", 100 * published_hits[c]);
    text_buffer_say(text, "\n");
}

/* Recall over what the cache misses, and useless guesses for one that was right. */
static void say_over_misses(struct text_buffer *text, const struct trace_stats *s,
                            const struct trace_stats_list *list, const char *label, int which,
                            bool by_cut)
{
    text_buffer_say(text, "  %-24s", label);
    for (int c = 0; c < TRACE_STATS_CACHES; c++) {
        const struct trace_stats_hits *hits =
            by_cut ? &list->by_cut[c][which] : &list->by_depth[c][which];
        if (s->slots[c] == 0 || list->missed[c] == 0)
            text_buffer_say(text, "         -   ");
        else
            text_buffer_say(text, "  %5.1f%% %4.2f", 100 * share(hits->right, list->missed[c]),
                            waste(hits));
    }
    text_buffer_say(text, "\n");
}

static void say_list(struct text_buffer *text, const struct trace_stats *s,
                     const struct trace_stats_list *list)
{
    char label[64];
    if (list->chosen == 0) return;
    text_buffer_say(text, "\nguessed %d layer%s ahead from the %s; of all chosen, among the best",
                    list->list.distance, list->list.distance == 1 ? "" : "s",
                    state_names[list->list.variant]);
    for (int d = 0; d < TRACE_STATS_DEPTHS; d++)
        text_buffer_say(text, " %d: %.1f%%%s", list->depths[d],
                        100 * share(list->found[d], list->chosen),
                        d + 1 < TRACE_STATS_DEPTHS ? "," : "\n");
    text_buffer_say(text, "  of misses at slots      ");
    for (int c = 0; c < TRACE_STATS_CACHES; c++)
        text_buffer_say(text, "  %6d     ", s->slots[c]);
    text_buffer_say(text, "\n");
    for (int d = 0; d < TRACE_STATS_DEPTHS; d++) {
        snprintf(label, sizeof label, "the best %d", list->depths[d]);
        say_over_misses(text, s, list, label, d, false);
    }
    for (int p = 0; p < TRACE_STATS_CUTS; p++) {
        snprintf(label, sizeof label, "probability %.1f or more", (double)trace_stats_cuts[p]);
        say_over_misses(text, s, list, label, p, true);
    }
    text_buffer_say(text, "  promised and kept       ");
    for (int b = 0; b < PREDICTOR_BINS; b++)
        if (list->reliability.guessed[b])
            text_buffer_say(text, " %.2f/%.2f",
                            list->reliability.expected[b] / (double)list->reliability.guessed[b],
                            share(list->reliability.used[b], list->reliability.guessed[b]));
    text_buffer_say(text, "\n");
}

static enum sl_status report_text(const char *path, const struct trace_stats *s, char **out,
                                  struct sl_error *error)
{
    struct text_buffer text = {0};
    size_t bytes;
    say_head(&text, path, s);
    say_popularity(&text, s);
    say_reuse(&text, s);
    if (s->head.list_count)
        text_buffer_say(
            &text,
            "\nGuesses: share of the misses found, and useless guesses for one that was right\n"
            "(published, 1 layer ahead from the input, the best 4: 46%% and 0.4)\n");
    for (int32_t i = 0; i < s->head.list_count; i++)
        say_list(&text, s, &s->lists[i]);
    enum sl_status status = text_buffer_take(&text, out, &bytes, error);
    text_buffer_deinit(&text);
    return status;
}

/* ---- JSON --------------------------------------------------------------------------------- */

static json_t *shares_json(const uint64_t *parts, int count, uint64_t whole)
{
    json_t *array = json_array();
    for (int i = 0; array && i < count; i++)
        json_array_append_new(array, json_real(share(parts[i], whole)));
    return array;
}

static json_t *whole_numbers(const int32_t *values, int count)
{
    json_t *array = json_array();
    for (int i = 0; array && i < count; i++)
        json_array_append_new(array, json_integer(values[i]));
    return array;
}

/* One entry a cache: what a selection of guesses finds of its misses. */
static json_t *hits_json(const struct trace_stats *s, const struct trace_stats_list *list,
                         int which, bool by_cut)
{
    json_t *array = json_array();
    for (int c = 0; array && c < TRACE_STATS_CACHES; c++) {
        const struct trace_stats_hits *hits =
            by_cut ? &list->by_cut[c][which] : &list->by_depth[c][which];
        json_array_append_new(array,
                              json_pack("{s:i, s:I, s:I, s:I, s:f, s:f}", "slots", (int)s->slots[c],
                                        "missed", (json_int_t)list->missed[c], "guessed",
                                        (json_int_t)hits->guessed, "right", (json_int_t)hits->right,
                                        "recall", share(hits->right, list->missed[c]), "precision",
                                        share(hits->right, hits->guessed)));
    }
    return array;
}

static json_t *list_json(const struct trace_stats *s, const struct trace_stats_list *list)
{
    json_t *best = json_array(), *likely = json_array(), *bins = json_array();
    for (int d = 0; d < TRACE_STATS_DEPTHS; d++)
        json_array_append_new(best, json_pack("{s:i, s:f, s:o}", "guesses", (int)list->depths[d],
                                              "recall", share(list->found[d], list->chosen),
                                              "of_misses", hits_json(s, list, d, false)));
    for (int p = 0; p < TRACE_STATS_CUTS; p++)
        json_array_append_new(likely,
                              json_pack("{s:f, s:o}", "probability", (double)trace_stats_cuts[p],
                                        "of_misses", hits_json(s, list, p, true)));
    for (int b = 0; b < PREDICTOR_BINS; b++) {
        uint64_t guessed = list->reliability.guessed[b];
        double expected = guessed ? list->reliability.expected[b] / (double)guessed : 0;
        json_array_append_new(bins, json_pack("{s:I, s:f, s:f}", "guessed", (json_int_t)guessed,
                                              "promised", expected, "kept",
                                              share(list->reliability.used[b], guessed)));
    }
    return json_pack("{s:i, s:s, s:I, s:o, s:o, s:o}", "distance", (int)list->list.distance,
                     "state", state_names[list->list.variant], "chosen", (json_int_t)list->chosen,
                     "best", best, "likely", likely, "reliability", bins);
}

static json_t *popularity_json(const struct trace_stats *s)
{
    return json_pack("{s:o, s:o, s:o, s:o, s:f, s:f, s:I}", "covering",
                     json_report_numbers(s->covering, 3), "covering_published",
                     json_report_numbers(published_covering, 3), "fixed_set",
                     json_report_numbers(s->fixed_set, 3), "fixed_set_published",
                     json_report_numbers(published_fixed, 3), "gini", s->gini, "gini_published",
                     published_gini, "live", (json_int_t)s->live);
}

static json_t *reuse_json(const struct trace_stats *s)
{
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:f, s:o, s:o, s:o}", "windows",
                     whole_numbers(trace_stats_windows, TRACE_STATS_WINDOWS), "distinct",
                     json_report_numbers(s->distinct, TRACE_STATS_WINDOWS), "distinct_published",
                     json_report_numbers(published_distinct, TRACE_STATS_WINDOWS), "reaches",
                     whole_numbers(trace_stats_reaches, TRACE_STATS_REACHES), "reused",
                     shares_json(s->reused, TRACE_STATS_REACHES, s->reusable), "repeat_published",
                     published_repeat, "slots", whole_numbers(s->slots, TRACE_STATS_CACHES),
                     "hit_rate", shares_json(s->hits, TRACE_STATS_CACHES, s->accesses),
                     "hit_rate_published", json_report_numbers(published_hits, TRACE_STATS_CACHES));
}

static enum sl_status report_json(const char *path, const struct trace_stats *s, char **out,
                                  struct sl_error *error)
{
    json_t *lists = json_array();
    for (int32_t i = 0; i < s->head.list_count; i++)
        json_array_append_new(lists, list_json(s, &s->lists[i]));
    json_t *report = json_pack(
        "{s:s, s:s, s:i, s:i, s:i, s:i, s:I, s:I, s:I, s:f, s:f, s:f, s:o, s:o, s:o}", "trace",
        path, "source", s->head.source, "layers", (int)s->head.layers, "hash_layers",
        (int)s->head.hash_layers, "experts", (int)s->head.experts, "top", (int)s->head.top,
        "tokens", (json_int_t)s->tokens, "passes", (json_int_t)s->steps, "decoded",
        (json_int_t)s->decoded, "decoded_per_s", per_second(s->decoded, s->decode_ns), "wait_share",
        share(s->wait_ns, s->duration_ns), "misses_a_layer", share(s->missed, s->timed_layers),
        "popularity", popularity_json(s), "reuse", reuse_json(s), "guesses", lists);
    return json_report_write(report, path, out, error);
}

enum sl_status sl_trace_report(const char *path, bool json, char **report, struct sl_error *error)
{
    struct trace_reader *reader;
    struct trace_stats *stats;
    *report = NULL;
    SL_TRY(trace_reader_open(path, &reader, error));
    enum sl_status status = SL_ERR_NO_MEMORY;
    stats = calloc(1, sizeof *stats); /* large for a stack */
    if (!stats)
        status = sl_error_set(error, status, 0, "no memory to count a trace");
    else
        status = trace_stats_init(stats, reader, error);
    if (status == SL_OK)
        status = json ? report_json(path, stats, report, error)
                      : report_text(path, stats, report, error);
    if (stats) trace_stats_deinit(stats);
    free(stats);
    trace_reader_close(reader);
    return status;
}
