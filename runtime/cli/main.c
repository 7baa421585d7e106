/* The `sluice` program: finds the command and hands over. */
#include "runtime/cli/command.h"

#include <locale.h>
#include <string.h>

struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
};

static const struct command commands[] = {
    {"run", command_run, "answer one prompt"},
    {"chat", command_chat, "converse"},
    {"inspect", command_inspect, "describe a checkpoint and its memory plan"},
    {"pack", command_pack, "write a checkpoint's experts as one fast file"},
    {"verify", command_verify, "check a packed file"},
    {"synth", command_synth, "write a random checkpoint"},
    {"plan", command_plan, "what a machine would make of a model, before downloading it"},
    {"simulate", command_simulate, "play routing through the offload engine's decisions"},
    {"bench", command_bench, "measure this machine"},
    {"trace", command_trace, "count a recorded trace"},
    {"debug", command_debug, "tokens, prompts, logits and routing, for checks"},
};

#define COMMAND_COUNT (sizeof commands / sizeof commands[0])

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(commands[i].name, name) == 0) return &commands[i];
    return NULL;
}

static void print_help(FILE *file)
{
    fputs("usage: sluice COMMAND [options]\n\n"
          "Runs DeepSeek-V4-Flash checkpoints whose experts do not fit in memory.\n\nCommands:\n",
          file);
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        fprintf(file, "  %-10s%s\n", commands[i].name, commands[i].summary);
    fputs("\n'sluice COMMAND --help' explains a command, 'man sluice' everything.\n", file);
}

static int unknown_command(const char *name)
{
    fprintf(stderr, "sluice: there is no command \"%.80s\", expected", name);
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        fprintf(stderr, "%s %s",
                i == 0                  ? ""
                : i + 1 < COMMAND_COUNT ? ","
                                        : " or",
                commands[i].name);
    fputs("\nTry 'sluice --help'.\n", stderr);
    return COMMAND_USAGE;
}

/* `sluice help [COMMAND]`. */
static int show_help(int argc, char **argv)
{
    if (argc == 0) {
        print_help(stdout);
        return command_flush(COMMAND_OK);
    }
    const struct command *command = find_command(argv[0]);
    char help[] = "--help";
    char *arguments[] = {help, NULL};
    return command ? command->run(1, arguments) : unknown_command(argv[0]);
}

int main(int argc, char **argv)
{
    setlocale(LC_CTYPE, ""); /* for line editing; numbers keep their point */
    if (argc < 2) {
        print_help(stderr);
        return COMMAND_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
        printf("sluice %s\n", sl_version());
        return command_flush(COMMAND_OK);
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0)
        return show_help(argc - 2, argv + 2);
    const struct command *command = find_command(name);
    return command ? command->run(argc - 2, argv + 2) : unknown_command(name);
}
