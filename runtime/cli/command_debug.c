/* `sluice debug`: the parts of the program one at a time, for comparison with other programs. */
#include "runtime/cli/command.h"
#include "runtime/cli/debug_commands.h"

#include <string.h>

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} debug_commands[] = {
    {"tokens", debug_text_tokens, "text on standard input to token ids"},
    {"text", debug_text_bytes, "token ids to bytes"},
    {"render", debug_text_render, "a conversation as JSON to the prompt"},
    {"parse", debug_text_parse, "a completion as JSON to the message in it"},
    {"logits", debug_model_logits, "token ids to logits, raw float32"},
    {"route", debug_model_route, "token ids to the experts chosen, as JSON lines"},
};

#define DEBUG_COMMAND_COUNT (sizeof debug_commands / sizeof debug_commands[0])

static void print_help(FILE *file)
{
    fputs("usage: sluice debug WHAT [options]\n\n", file);
    for (size_t i = 0; i < DEBUG_COMMAND_COUNT; i++)
        fprintf(file, "  %-10s%s\n", debug_commands[i].name, debug_commands[i].summary);
    fputs("\n'sluice debug WHAT --help' explains one.\n", file);
}

int command_debug(int argc, char **argv)
{
    if (argc == 0) {
        print_help(stderr);
        return COMMAND_USAGE;
    }
    if (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0) {
        print_help(stdout);
        return command_flush(COMMAND_OK);
    }
    for (size_t i = 0; i < DEBUG_COMMAND_COUNT; i++)
        if (strcmp(debug_commands[i].name, argv[0]) == 0)
            return debug_commands[i].run(argc - 1, argv + 1);
    char message[160];
    snprintf(message, sizeof message,
             "expected tokens, text, render, parse, logits or route, found \"%.60s\"", argv[0]);
    return command_usage("debug", message);
}
