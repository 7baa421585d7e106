/* `sluice debug logits|route`: what the model computes for given token ids. */
#include "runtime/cli/command.h"
#include "runtime/cli/debug_commands.h"
#include "runtime/cli/engine_args.h"
#include "runtime/cli/ids_input.h"
#include "runtime/cli/interrupt.h"
#include "runtime/cli/output_file.h"

#include <stdlib.h>

/* Tokens computed, and rows of logits held, at once without --chunk. */
#define CHUNK_TOKENS_DEFAULT 256

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "logits are written as they lie");

struct model_options {
    const char *ids, *ids_file, *output;
    bool decode, mtp;
    struct engine_args engine;
};

#define FIELD(name) .offset = offsetof(struct model_options, name)

static const struct option_spec ids_specs[] = {
    {"ids", 0, OPTION_TEXT, false, FIELD(ids), .value = "IDS", .help = "token ids: 1,2,3"},
    {"ids-file", 0, OPTION_TEXT, false, FIELD(ids_file), .value = "FILE",
     .help = "the same from a file; \"-\" is standard input"},
    {"output", 'o', OPTION_TEXT, false, FIELD(output), .value = "FILE",
     .help = "where to write; \"-\" is standard output"},
    {"decode", 0, OPTION_FLAG, false, FIELD(decode), .help = "compute one token at a time"},
    {0},
};

static const struct option_spec logits_specs[] = {
    {"mtp", 0, OPTION_FLAG, false, FIELD(mtp),
     .help = "the logits of the MTP block instead, [tokens - 1, vocab]"},
    {0},
};

/* An engine with an empty session, the ids to compute and where the result goes. */
struct run {
    const struct model_options *options;
    struct ids_input ids;
    sl_engine *engine;
    sl_session *session;
    struct progress progress;
    struct output_file output;
    size_t step_tokens; /* given to the session at once */
    size_t vocab;
};

static enum sl_status open_run(struct run *run, struct sl_error *error)
{
    const struct model_options *options = run->options;
    enum sl_status status = ids_input_load(options->ids, options->ids_file, &run->ids, error);
    if (status != SL_OK) return status;
    struct sl_engine_options wanted = engine_args_options(&options->engine, &run->progress);
    wanted.with_mtp = options->mtp;
    if (!wanted.context_tokens && run->ids.count <= INT32_MAX)
        wanted.context_tokens = (int32_t)run->ids.count;
    status = sl_engine_open(&wanted, &run->engine, error);
    progress_clear(&run->progress);
    if (status != SL_OK) return status;
    int32_t vocab = sl_engine_info(run->engine).vocab;
    run->vocab = (size_t)vocab;
    status = ids_input_check(&run->ids, vocab, error);
    if (status != SL_OK) return status;
    run->step_tokens = options->engine.chunk ? (size_t)options->engine.chunk : CHUNK_TOKENS_DEFAULT;
    if (options->decode) run->step_tokens = 1;
    return sl_session_create(run->engine, &run->session, error);
}

static void close_run(struct run *run)
{
    if (run->session) sl_session_destroy(run->session);
    if (run->engine) sl_engine_close(run->engine);
    ids_input_deinit(&run->ids);
}

/* `rows` rows of logits, or NULL. */
static float *allocate_rows(const struct run *run, size_t rows, struct sl_error *error)
{
    size_t bytes = 0;
    float *logits = NULL;
    if (!__builtin_mul_overflow(rows, run->vocab * sizeof *logits, &bytes)) logits = malloc(bytes);
    if (!logits)
        (void)sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for %zu rows of logits", rows);
    return logits;
}

/* Feeds all tokens, a step at a time. With `logits`, room for the rows of one step, writes them. */
static enum sl_status feed(struct run *run, float *logits, struct sl_error *error)
{
    for (size_t done = 0; done < run->ids.count;) {
        if (!progress_prefill(&run->progress, done, run->ids.count))
            return sl_error_set(error, SL_ERR_CANCELLED, 0, "interrupted");
        size_t step = run->ids.count - done;
        if (step > run->step_tokens) step = run->step_tokens;
        enum sl_status status =
            sl_session_append(run->session, run->ids.ids + done, step, logits, error);
        if (status == SL_OK && logits)
            status =
                output_file_write(&run->output, logits, step * run->vocab * sizeof *logits, error);
        if (status != SL_OK) return status;
        done += step;
    }
    return SL_OK;
}

static enum sl_status write_logits(struct run *run, struct sl_error *error)
{
    size_t rows = run->ids.count < run->step_tokens ? run->ids.count : run->step_tokens;
    float *logits = allocate_rows(run, rows, error);
    if (!logits) return SL_ERR_NO_MEMORY;
    enum sl_status status = feed(run, logits, error);
    free(logits);
    return status;
}

static enum sl_status write_mtp_logits(struct run *run, struct sl_error *error)
{
    size_t rows = run->ids.count - 1;
    if (rows == 0)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "--mtp needs at least two tokens");
    float *logits = allocate_rows(run, rows, error);
    if (!logits) return SL_ERR_NO_MEMORY;
    enum sl_status status =
        sl_session_append_mtp(run->session, run->ids.ids, run->ids.count, NULL, logits, error);
    if (status == SL_OK)
        status = output_file_write(&run->output, logits, rows * run->vocab * sizeof *logits, error);
    free(logits);
    return status;
}

/* Prints one JSON line a token. A failing write shows at the end, as ferror. */
static void print_route(void *context, int32_t layer, int32_t first_position, int32_t tokens,
                        int32_t top, const int32_t *experts, const float *weights)
{
    const struct run *run = context;
    FILE *file = run->output.file;
    for (int32_t t = 0; t < tokens; t++) {
        fprintf(file, "{\"layer\":%d,\"token\":%d,\"experts\":[", layer, first_position + t);
        for (int32_t i = 0; i < top; i++)
            fprintf(file, i ? ",%d" : "%d", experts[(size_t)t * (size_t)top + (size_t)i]);
        fputs("],\"weights\":[", file);
        for (int32_t i = 0; i < top; i++)
            fprintf(file, i ? ",%.9g" : "%.9g",
                    (double)weights[(size_t)t * (size_t)top + (size_t)i]);
        fputs("]}\n", file);
    }
}

static enum sl_status write_routes(struct run *run, struct sl_error *error)
{
    sl_session_on_route(run->session, print_route, run);
    enum sl_status status = feed(run, NULL, error);
    if (status == SL_OK && ferror(run->output.file))
        status = sl_error_set(error, SL_ERR_IO, 0, "cannot write %s", run->output.path);
    return status;
}

typedef enum sl_status (*write_fn)(struct run *run, struct sl_error *error);

static int compute(const struct model_options *options, write_fn write)
{
    struct sl_error error = {0};
    struct run run = {.options = options};
    progress_init(&run.progress, false, false);
    interrupt_install();
    enum sl_status status = open_run(&run, &error);
    if (status == SL_OK) status = output_file_open(&run.output, options->output, &error);
    if (status == SL_OK) {
        status = write(&run, &error);
        progress_clear(&run.progress);
        if (status == SL_OK)
            status = output_file_commit(&run.output, &error);
        else
            output_file_discard(&run.output);
    }
    close_run(&run);
    return status == SL_OK ? COMMAND_OK : command_fail(&error);
}

static const char *find_conflict(const struct model_options *options)
{
    if (!options->ids == !options->ids_file) return "give either --ids or --ids-file";
    if (options->mtp && options->decode) return "--mtp and --decode exclude each other";
    return NULL;
}

int debug_model_logits(int argc, char **argv)
{
    struct model_options options = {0};
    const struct option_set sets[] = {
        {ids_specs, &options}, {logits_specs, &options}, {engine_args_specs, &options.engine}, {0}};
    const struct options_command command = {
        .name = "debug logits",
        .usage = "-m DIR (--ids IDS | --ids-file FILE) -o FILE [options]",
        .summary = "Writes the logits after every token as little-endian float32, [tokens, vocab].",
        .set = sets,
    };
    int exit_code = COMMAND_OK;
    if (!command_parse(&command, argc, argv, &exit_code)) return exit_code;
    const char *conflict = find_conflict(&options);
    if (!conflict && !options.output) conflict = "option -o FILE is missing; \"-\" is stdout";
    if (conflict) return command_usage(command.name, conflict);
    return compute(&options, options.mtp ? write_mtp_logits : write_logits);
}

int debug_model_route(int argc, char **argv)
{
    struct model_options options = {.output = "-"};
    const struct option_set sets[] = {
        {ids_specs, &options}, {engine_args_specs, &options.engine}, {0}};
    const struct options_command command = {
        .name = "debug route",
        .usage = "-m DIR (--ids IDS | --ids-file FILE) [options]",
        .summary = "Writes the experts each layer chose for each token, a JSON object a line.",
        .set = sets,
    };
    int exit_code = COMMAND_OK;
    if (!command_parse(&command, argc, argv, &exit_code)) return exit_code;
    const char *conflict = find_conflict(&options);
    if (conflict) return command_usage(command.name, conflict);
    return compute(&options, write_routes);
}
