/* `sluice run`: one prompt, one answer. */
#include "runtime/cli/command.h"

#include "runtime/cli/conversation.h"
#include "runtime/cli/engine_args.h"
#include "runtime/cli/generate.h"
#include "runtime/cli/interrupt.h"
#include "runtime/cli/quantity.h"
#include "runtime/cli/stats_print.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct run_options {
    const char *prompt, *file, *ids, *ids_file;
    const char *trace;
    bool raw, json, trace_all, explain, layers;
    struct engine_args engine;
    struct answer_args answer;
};

#define FIELD(name) .offset = offsetof(struct run_options, name)

static const struct option_spec run_specs[] = {
    {"prompt", 'p', OPTION_TEXT, false, FIELD(prompt), .value = "TEXT", .help = "the prompt"},
    {"file", 'f', OPTION_TEXT, false, FIELD(file), .value = "FILE",
     .help = "the prompt's file; \"-\" is standard input"},
    {"ids", 0, OPTION_TEXT, false, FIELD(ids), .value = "IDS",
     .help = "the prompt as token ids: 1,2,3; implies --raw"},
    {"ids-file", 0, OPTION_TEXT, false, FIELD(ids_file), .value = "FILE",
     .help = "the same from a file"},
    {"raw", 0, OPTION_FLAG, false, FIELD(raw), .help = "no chat prompt around the text"},
    {"json", 0, OPTION_FLAG, false, FIELD(json),
     .help = "one JSON object: text, ids, finish_reason, seed, stats"},
    {"trace", 0, OPTION_TEXT, false, FIELD(trace), .value = "FILE",
     .help = "record tokens, experts, guesses and times; 'sluice trace' counts them"},
    {"trace-guesses", 0, OPTION_FLAG, false, FIELD(trace_all),
     .help = "with --trace: record every way of guessing, not only the one used"},
    {"explain", 0, OPTION_FLAG, false, FIELD(explain),
     .help = "say for each expert where it was and when it was ready, on stderr"},
    {"layers", 0, OPTION_FLAG, false, FIELD(layers),
     .help = "with --stats: experts, guesses and waits of every layer"},
    {0},
};

/* Why the options do not go together, or NULL. */
static const char *find_conflict(const struct run_options *options)
{
    int sources = (options->prompt != NULL) + (options->file != NULL) + (options->ids != NULL) +
                  (options->ids_file != NULL);
    bool raw = options->raw || options->ids || options->ids_file;
    if (sources > 1) return "give one of -p, -f, --ids and --ids-file, found more";
    if (sources == 0 && isatty(STDIN_FILENO) == 1)
        return "there is no prompt: give -p TEXT or -f FILE, or a file on standard input";
    if (raw && options->answer.system)
        return "--system needs the chat prompt, which --raw leaves out";
    if (raw && options->answer.think != THINK_NONE)
        return "--think needs the chat prompt, which --raw leaves out";
    if (options->trace_all && !options->trace) return "--trace-guesses needs --trace FILE";
    if (options->layers && !options->answer.stats) return "--layers needs --stats";
    return NULL;
}

/* The prompt's text. From a file, the line break that ends its last line is not part of it unless
 * --raw asks for every byte. */
static enum sl_status read_text(const struct run_options *options, struct grow_text *text,
                                struct sl_error *error)
{
    if (options->prompt)
        return grow_text_append(text, options->prompt, strlen(options->prompt), error);
    enum sl_status status = grow_text_read(text, options->file, error);
    if (status != SL_OK || options->raw) return status;
    if (text->bytes && text->data[text->bytes - 1] == '\n') text->data[--text->bytes] = 0;
    return SL_OK;
}

static enum sl_status render(const struct run_options *options, const sl_engine *engine,
                             const struct grow_text *text, struct ids_input *ids,
                             struct sl_error *error)
{
    struct conversation conversation;
    enum sl_status status = conversation_init(&conversation, engine, error);
    if (status != SL_OK) return status;
    status = conversation_set_think(&conversation, (enum think_level)options->answer.think, error);
    if (status == SL_OK)
        status = conversation_set_system(&conversation, options->answer.system, error);
    if (status == SL_OK)
        status = conversation_add_user(&conversation, text->data, text->bytes, error);
    if (status == SL_OK) status = conversation_render(&conversation, ids, error);
    conversation_deinit(&conversation);
    return status;
}

static enum sl_status make_prompt(const struct run_options *options, const sl_engine *engine,
                                  const struct grow_text *text, struct ids_input *ids,
                                  struct sl_error *error)
{
    const sl_tokenizer *tokenizer = sl_engine_tokenizer(engine);
    if (options->ids || options->ids_file) {
        enum sl_status status = ids_input_load(options->ids, options->ids_file, ids, error);
        if (status != SL_OK) return status;
        return ids_input_check(ids, sl_engine_info(engine).vocab, error);
    }
    if (!tokenizer)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "%s: no tokenizer.json to read text with; give the prompt as --ids",
                            options->engine.model);
    if (options->raw)
        return sl_tokenizer_encode(tokenizer, text->data, text->bytes, &ids->ids, &ids->count,
                                   error);
    return render(options, engine, text, ids, error);
}

static enum sl_status print_json(const struct run_options *options,
                                 const struct generate_result *result, struct sl_error *error)
{
    json_t *ids = json_array();
    for (size_t i = 0; ids && i < result->count; i++) {
        if (json_array_append_new(ids, json_integer(result->ids[i])) == 0) continue;
        json_decref(ids);
        ids = NULL;
    }
    json_t *object = json_pack(
        "{s:s%, s:o, s:s, s:o, s:o}", "text", result->text.data ? result->text.data : "",
        result->text.bytes, "ids", ids, "finish_reason", generate_finish_name(result->finish),
        "seed", json_integer((json_int_t)options->answer.seed), "stats", stats_print_json(result));
    char *line = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(object);
    if (!line)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory to write the answer as JSON");
    puts(line);
    free(line);
    return SL_OK;
}

/* One line an expert and pass; a failing write shows at the end, as ferror. */
static void explain(void *context, const struct sl_dispatch *d)
{
    FILE *file = context;
    fprintf(file, "layer %2d expert %3d: %d token%s, from %s on the %s; ", d->layer, d->expert,
            d->tokens, d->tokens == 1 ? "" : "s", d->from, d->lane);
    fprintf(file, "ready after %s", quantity_duration(d->ready_ns).text);
    if (d->predicted_ns) fprintf(file, " (expected %s)", quantity_duration(d->predicted_ns).text);
    fprintf(file, ", run from %s", quantity_duration(d->started_ns).text);
    fprintf(file, " to %s\n", quantity_duration(d->finished_ns).text);
}

/* Shows the answer, or what there is of it after a failure. */
static int report(const struct run_options *options, const struct generate_result *result,
                  enum sl_status status, struct sl_error *error)
{
    if (!options->json && result->text.bytes) putchar('\n');
    fflush(stdout); /* before the figures, where both go to one file */
    if (options->json && status == SL_OK) status = print_json(options, result, error);
    if (options->answer.stats) stats_print_text(result, stderr);
    if (status != SL_OK) return command_fail(error);
    bool interrupted = result->finish == GENERATE_INTERRUPTED;
    return command_flush(interrupted ? COMMAND_INTERRUPTED : COMMAND_OK);
}

static int answer(const struct run_options *options, sl_engine *engine,
                  const struct grow_text *text, struct progress *progress)
{
    struct sl_error error = {0};
    struct ids_input ids = {0};
    struct generate_result result = {0};
    sl_sampler *sampler = NULL;
    sl_session *session = NULL;
    int32_t vocab = sl_engine_info(engine).vocab;
    int exit_code = COMMAND_FAILED;
    if (make_prompt(options, engine, text, &ids, &error) != SL_OK ||
        answer_args_sampler(&options->answer, vocab, &sampler, &error) != SL_OK ||
        sl_session_create(engine, &session, &error) != SL_OK) {
        exit_code = command_fail(&error);
        goto done;
    }
    struct generate_args args = {
        .engine = engine,
        .session = session,
        .sampler = sampler,
        .prompt = ids.ids,
        .prompt_tokens = ids.count,
        .tokens_max = options->answer.tokens,
        .thinking = options->answer.think != THINK_NONE,
        .output = options->json ? NULL : stdout,
        .progress = progress,
    };
    if (options->explain) {
        struct sl_stats stats;
        sl_engine_stats(engine, &stats);
        fprintf(stderr, "slots    %s\n", stats.memory);
        sl_session_on_dispatch(session, explain, stderr);
    }
    enum sl_status status = SL_OK;
    if (options->trace) status = sl_trace_start(engine, options->trace, options->trace_all, &error);
    if (status == SL_OK) status = generate(&args, &result, &error);
    struct sl_error late;
    enum sl_status stopped = sl_trace_stop(engine, status == SL_OK ? &error : &late);
    if (status == SL_OK) status = stopped;
    exit_code = report(options, &result, status, &error);
    if (options->layers) stats_print_layers(engine, stderr);
done:
    generate_result_deinit(&result);
    if (session) sl_session_destroy(session);
    if (sampler) sl_sampler_destroy(sampler);
    ids_input_deinit(&ids);
    return exit_code;
}

/* Reads the prompt before the model is opened: what is wrong with it should not take minutes. */
static int open_and_answer(const struct run_options *options)
{
    struct sl_error error = {0};
    struct grow_text text = {0};
    sl_engine *engine = NULL;
    struct progress progress;
    progress_init(&progress, options->answer.quiet, false);
    interrupt_install();
    enum sl_status status = SL_OK;
    if (!options->ids && !options->ids_file) status = read_text(options, &text, &error);
    if (status == SL_OK) {
        struct sl_engine_options wanted = engine_args_options(&options->engine, &progress);
        status = sl_engine_open(&wanted, &engine, &error);
        progress_clear(&progress);
        if (status == SL_OK) engine_args_tell_gpu(engine, &progress);
    }
    int exit_code = 0;
    if (status == SL_OK) {
        exit_code = answer(options, engine, &text, &progress);
        exit_code = command_close_engine(engine, exit_code);
    } else {
        exit_code = command_fail(&error);
    }
    grow_text_deinit(&text);
    return exit_code;
}

int command_run(int argc, char **argv)
{
    struct run_options options = {.answer = answer_args_default()};
    const struct option_set sets[] = {{run_specs, &options},
                                      {engine_args_specs, &options.engine},
                                      {answer_args_specs, &options.answer},
                                      {0}};
    const struct options_command command = {
        .name = "run",
        .usage = "-m DIR [-p TEXT | -f FILE] [options]",
        .summary =
            "Answers one prompt, given with -p or -f or on standard input. Text is shown as\n"
            "it comes; Ctrl-C stops it.",
        .set = sets,
    };
    int exit_code = COMMAND_OK;
    if (!command_parse(&command, argc, argv, &exit_code)) return exit_code;
    const char *conflict = find_conflict(&options);
    if (conflict) return command_usage(command.name, conflict);
    return open_and_answer(&options);
}
