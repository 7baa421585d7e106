/* Printing figures; see the header. */
#include "runtime/cli/stats_print.h"

#include "runtime/cli/quantity.h"

#include <inttypes.h>

static double share(uint64_t part, uint64_t whole)
{
    return whole ? (double)part / (double)whole : 0;
}

static void print_device(FILE *file, const struct sl_stats *stats)
{
    uint64_t asked = stats->from_device + stats->from_ram + stats->from_disk;
    fprintf(file,
            "tiers    %.1f%% found on the device, %.1f%% in RAM, %.1f%% on disk; %" PRIu64
            " run on the device, %" PRIu64 " on the CPU\n",
            100 * share(stats->from_device, asked), 100 * share(stats->from_ram, asked),
            100 * share(stats->from_disk, asked), stats->on_device, stats->on_cpu);
    fprintf(file,
            "link     %s up and %s down; %" PRIu64 " promoted unasked, %" PRIu64
            " sent back to RAM, %" PRIu64 " copies given up\n",
            quantity_bytes(stats->bytes_up).text, quantity_bytes(stats->bytes_down).text,
            stats->promotions, stats->demotions, stats->redirects);
}

void stats_print_text(const struct generate_result *result, FILE *file)
{
    const struct sl_stats *stats = &result->stats;
    uint64_t elapsed_ns = result->prompt_ns + result->decode_ns;
    uint64_t asked = stats->expert_hits + stats->expert_misses;
    fprintf(file, "prompt   %zu tokens, %zu computed in %s: %.2f tokens/s; first token after %s\n",
            result->prompt_tokens, result->prompt_computed,
            quantity_duration(result->prompt_ns).text,
            quantity_per_second(result->prompt_computed, result->prompt_ns),
            result->first_token_ns ? quantity_duration(result->first_token_ns).text : "-");
    fprintf(file, "answer   %zu tokens in %s: %.2f tokens/s\n", result->count,
            quantity_duration(result->decode_ns).text,
            quantity_per_second(result->steps, result->decode_ns));
    fprintf(file, "experts  %.1f%% of %" PRIu64 " found in memory; %" PRIu64 " read, %s at %s",
            100 * share(stats->expert_hits, asked), asked, stats->expert_reads,
            quantity_bytes(stats->expert_bytes_read).text,
            quantity_rate(stats->expert_bytes_read, elapsed_ns).text);
    fprintf(file, "; %" PRIu64 " evicted, %" PRIu64 " retries, %" PRIu64 " failures\n",
            stats->expert_evictions, stats->expert_retries, stats->expert_failures);
    fprintf(file,
            "ahead    %" PRIu64 " read ahead by the hash table, %" PRIu64 " predicted, %" PRIu64
            " missed; %" PRIu64 " came late, %" PRIu64 " for nothing\n",
            stats->table_useful, stats->router_useful, stats->expert_misses,
            stats->table_late + stats->router_late, stats->table_wasted + stats->router_wasted);
    if (stats->lookahead_layers)
        fprintf(file, "guesses  %s looking ahead at %" PRIu64 " layers, %.2f%% of the time\n",
                quantity_duration(stats->lookahead_ns).text, stats->lookahead_layers,
                100 * share(stats->lookahead_ns, elapsed_ns));
    fprintf(file, "stalls   %s waiting for experts, %.1f%% of the time\n",
            quantity_duration(stats->stall_ns).text, 100 * share(stats->stall_ns, elapsed_ns));
    fprintf(file, "memory   %s for %d of %d experts; %s of other weights; %s for the session\n",
            quantity_bytes(stats->expert_ram_bytes).text, stats->expert_slots,
            stats->expert_slots_total, quantity_bytes(stats->dense_bytes).text,
            quantity_bytes(stats->session_bytes).text);
    if (stats->gpu[0])
        fprintf(file, "gpu      %s%s\n",
                stats->on_gpu ? "" : "none, the CPU computes: ", stats->gpu);
    if (stats->device_slots > 0) print_device(file, stats);
    fprintf(file, "slots    %s\n", stats->memory);
    fprintf(file, "reading  %s\n", stats->io);
    fprintf(file, "kernels  %s on %d thread%s, %d kept on a core each\n", stats->cpu_isa,
            stats->threads, stats->threads == 1 ? "" : "s", stats->threads_pinned);
}

void stats_print_layers(const sl_engine *engine, FILE *file)
{
    int32_t layers = sl_engine_info(engine).layers;
    fprintf(file, "layer    asked  missed  useful    late  wasted   waited\n");
    for (int32_t layer = 0; layer < layers; layer++) {
        struct sl_layer_stats stats;
        sl_engine_layer_stats(engine, layer, &stats);
        fprintf(file,
                "%5d %8" PRIu64 " %7" PRIu64 " %7" PRIu64 " %7" PRIu64 " %7" PRIu64 " %8s%s\n",
                layer, stats.asked, stats.missed, stats.useful, stats.late, stats.wasted,
                quantity_duration(stats.wait_ns).text, stats.from_table ? "  by the table" : "");
    }
}

static double seconds(uint64_t elapsed_ns)
{
    return (double)elapsed_ns / 1e9;
}

static json_int_t whole(uint64_t value)
{
    return (json_int_t)value;
}

static json_t *experts_json(const struct sl_stats *stats, uint64_t elapsed_ns)
{
    return json_pack("{s:I, s:I, s:f, s:I, s:I, s:f, s:I, s:I, s:I, s:I, s:i, s:i}", "hits",
                     whole(stats->expert_hits), "misses", whole(stats->expert_misses), "hit_rate",
                     share(stats->expert_hits, stats->expert_hits + stats->expert_misses), "reads",
                     whole(stats->expert_reads), "bytes_read", whole(stats->expert_bytes_read),
                     "gb_per_s", quantity_per_second(stats->expert_bytes_read, elapsed_ns) / 1e9,
                     "evictions", whole(stats->expert_evictions), "retries",
                     whole(stats->expert_retries), "failures", whole(stats->expert_failures),
                     "ram_bytes", whole(stats->expert_ram_bytes), "slots", (int)stats->expert_slots,
                     "slots_total", (int)stats->expert_slots_total);
}

static json_t *guesses_json(uint64_t useful, uint64_t late, uint64_t wasted)
{
    return json_pack("{s:I, s:I, s:I}", "useful", whole(useful), "late", whole(late), "wasted",
                     whole(wasted));
}

static json_t *ahead_json(const struct sl_stats *stats)
{
    return json_pack("{s:o, s:o, s:I, s:f}", "table",
                     guesses_json(stats->table_useful, stats->table_late, stats->table_wasted),
                     "router",
                     guesses_json(stats->router_useful, stats->router_late, stats->router_wasted),
                     "lookahead_layers", whole(stats->lookahead_layers), "lookahead_s",
                     seconds(stats->lookahead_ns));
}

json_t *stats_print_json(const struct generate_result *result)
{
    const struct sl_stats *stats = &result->stats;
    uint64_t elapsed_ns = result->prompt_ns + result->decode_ns;
    return json_pack(
        "{s:I, s:I, s:f, s:f, s:I, s:f, s:f, s:f, s:f, s:f, s:o, s:o, s:I, s:I, s:s, s:s, s:i, "
        "s:i}",
        "prompt_tokens", whole(result->prompt_tokens), "prompt_computed",
        whole(result->prompt_computed), "prompt_s", seconds(result->prompt_ns),
        "prompt_tokens_per_s", quantity_per_second(result->prompt_computed, result->prompt_ns),
        "answer_tokens", whole(result->count), "answer_s", seconds(result->decode_ns),
        "answer_tokens_per_s", quantity_per_second(result->steps, result->decode_ns),
        "first_token_s", seconds(result->first_token_ns), "stall_s", seconds(stats->stall_ns),
        "stall_share", share(stats->stall_ns, elapsed_ns), "experts",
        experts_json(stats, elapsed_ns), "ahead", ahead_json(stats), "dense_bytes",
        whole(stats->dense_bytes), "session_bytes", whole(stats->session_bytes), "io", stats->io,
        "cpu_isa", stats->cpu_isa, "threads", (int)stats->threads, "threads_pinned",
        (int)stats->threads_pinned);
}
