/* `sluice debug tokens|text|render|parse`: the text side, without a model. */
#include "runtime/cli/command.h"
#include "runtime/cli/debug_commands.h"
#include "runtime/cli/grow_text.h"
#include "runtime/cli/ids_input.h"

#include <stdlib.h>

struct text_options {
    const char *model, *tokenizer, *ids, *ids_file;
};

#define FIELD(name) .offset = offsetof(struct text_options, name)

static const struct option_spec tokenizer_specs[] = {
    {"model", 'm', OPTION_TEXT, false, FIELD(model), .value = "DIR",
     .help = "checkpoint whose tokenizer.json is meant"},
    {"tokenizer", 0, OPTION_TEXT, false, FIELD(tokenizer), .value = "FILE",
     .help = "the tokenizer.json itself"},
    {0},
};

static const struct option_spec ids_specs[] = {
    {"ids", 0, OPTION_TEXT, false, FIELD(ids), .value = "IDS", .help = "token ids: 1,2,3"},
    {"ids-file", 0, OPTION_TEXT, false, FIELD(ids_file), .value = "FILE",
     .help = "the same from a file; \"-\" is standard input"},
    {0},
};

static enum sl_status open_tokenizer(const struct text_options *options, sl_tokenizer **out,
                                     struct sl_error *error)
{
    if (options->tokenizer) return sl_tokenizer_open(options->tokenizer, out, error);
    char *path = NULL;
    if (asprintf(&path, "%s/tokenizer.json", options->model) < 0)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for a file name");
    enum sl_status status = sl_tokenizer_open(path, out, error);
    free(path);
    return status;
}

static const char *find_conflict(const struct text_options *options)
{
    if (!options->model == !options->tokenizer) return "give either -m DIR or --tokenizer FILE";
    return NULL;
}

static int print_tokens(const struct text_options *options)
{
    struct sl_error error = {0};
    struct grow_text text = {0};
    sl_tokenizer *tokenizer = NULL;
    int32_t *ids = NULL;
    size_t count = 0;
    int exit_code = COMMAND_OK;
    if (grow_text_read(&text, NULL, &error) == SL_OK &&
        open_tokenizer(options, &tokenizer, &error) == SL_OK &&
        sl_tokenizer_encode(tokenizer, text.data, text.bytes, &ids, &count, &error) == SL_OK) {
        putchar('[');
        for (size_t i = 0; i < count; i++)
            printf(i ? ", %d" : "%d", ids[i]);
        puts("]");
        exit_code = command_flush(COMMAND_OK);
    } else {
        exit_code = command_fail(&error);
    }
    free(ids);
    if (tokenizer) sl_tokenizer_close(tokenizer);
    grow_text_deinit(&text);
    return exit_code;
}

int debug_text_tokens(int argc, char **argv)
{
    struct text_options options = {0};
    const struct option_set sets[] = {{tokenizer_specs, &options}, {0}};
    const struct options_command command = {
        .name = "debug tokens",
        .usage = "(-m DIR | --tokenizer FILE) < TEXT",
        .summary =
            "Prints the ids of standard input as a JSON array on one line. Added tokens are\n"
            "recognised; nothing is put in front.",
        .set = sets,
    };
    int exit_code = COMMAND_OK;
    if (!command_parse(&command, argc, argv, &exit_code)) return exit_code;
    const char *conflict = find_conflict(&options);
    return conflict ? command_usage(command.name, conflict) : print_tokens(&options);
}

/* Prints nothing unless every id is one. */
static enum sl_status print_bytes(const sl_tokenizer *tokenizer, const struct ids_input *ids,
                                  struct sl_error *error)
{
    struct grow_text text = {0};
    enum sl_status status = SL_OK;
    for (size_t i = 0; i < ids->count && status == SL_OK; i++) {
        size_t bytes = 0;
        const char *data = sl_tokenizer_bytes(tokenizer, ids->ids[i], &bytes);
        if (data)
            status = grow_text_append(&text, data, bytes, error);
        else
            status = sl_error_set(error, SL_ERR_ARGUMENT, 0,
                                  "token ids: expected ids of the tokenizer, below %d, found %d at "
                                  "place %zu",
                                  sl_tokenizer_vocab(tokenizer), ids->ids[i], i);
    }
    if (status == SL_OK && text.bytes) fwrite(text.data, 1, text.bytes, stdout);
    grow_text_deinit(&text);
    return status;
}

int debug_text_bytes(int argc, char **argv)
{
    struct text_options options = {0};
    const struct option_set sets[] = {{tokenizer_specs, &options}, {ids_specs, &options}, {0}};
    const struct options_command command = {
        .name = "debug text",
        .usage = "(-m DIR | --tokenizer FILE) (--ids IDS | --ids-file FILE)",
        .summary = "Writes the bytes of these tokens and nothing else.",
        .set = sets,
    };
    int exit_code = COMMAND_OK;
    if (!command_parse(&command, argc, argv, &exit_code)) return exit_code;
    const char *conflict = find_conflict(&options);
    if (!conflict && !options.ids == !options.ids_file)
        conflict = "give either --ids or --ids-file";
    if (conflict) return command_usage(command.name, conflict);

    struct sl_error error = {0};
    struct ids_input ids = {0};
    sl_tokenizer *tokenizer = NULL;
    if (ids_input_load(options.ids, options.ids_file, &ids, &error) == SL_OK &&
        open_tokenizer(&options, &tokenizer, &error) == SL_OK &&
        print_bytes(tokenizer, &ids, &error) == SL_OK)
        exit_code = command_flush(COMMAND_OK);
    else
        exit_code = command_fail(&error);
    if (tokenizer) sl_tokenizer_close(tokenizer);
    ids_input_deinit(&ids);
    return exit_code;
}

/* sl_chat_render and sl_chat_parse, which have one shape. */
typedef enum sl_status (*convert_fn)(const char *input, size_t input_bytes, char **output,
                                     size_t *bytes, struct sl_error *error);

/* Standard input through `convert` to standard output, then `end`. */
static int convert_input(convert_fn convert, const char *end)
{
    struct sl_error error = {0};
    struct grow_text input = {0};
    char *output = NULL;
    size_t bytes = 0;
    int exit_code = COMMAND_OK;
    if (grow_text_read(&input, NULL, &error) == SL_OK &&
        convert(input.data, input.bytes, &output, &bytes, &error) == SL_OK) {
        fwrite(output, 1, bytes, stdout);
        fputs(end, stdout);
        exit_code = command_flush(COMMAND_OK);
    } else {
        exit_code = command_fail(&error);
    }
    free(output);
    grow_text_deinit(&input);
    return exit_code;
}

static const struct option_set no_options[] = {{0}};

int debug_text_render(int argc, char **argv)
{
    const struct options_command command = {
        .name = "debug render",
        .usage = "< INPUT",
        .summary =
            "Reads a JSON object with messages and thinking_mode, and perhaps drop_thinking,\n"
            "add_bos, reasoning_effort and effort_profile; writes the prompt's bytes and\n"
            "nothing else.",
        .set = no_options,
    };
    int exit_code = COMMAND_OK;
    if (!command_parse(&command, argc, argv, &exit_code)) return exit_code;
    return convert_input(sl_chat_render, "");
}

int debug_text_parse(int argc, char **argv)
{
    const struct options_command command = {
        .name = "debug parse",
        .usage = "< INPUT",
        .summary = "Reads a JSON object with text and thinking_mode; writes the message in that\n"
                   "completion as JSON. Any deviation from the format is an error.",
        .set = no_options,
    };
    int exit_code = COMMAND_OK;
    if (!command_parse(&command, argc, argv, &exit_code)) return exit_code;
    return convert_input(sl_chat_parse, "\n");
}
