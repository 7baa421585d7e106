/* `sluice chat`: a conversation of several turns. */
#include "runtime/cli/command.h"

#include "runtime/cli/conversation.h"
#include "runtime/cli/engine_args.h"
#include "runtime/cli/generate.h"
#include "runtime/cli/interrupt.h"
#include "runtime/cli/line_input.h"
#include "runtime/cli/stats_print.h"

#include <string.h>

struct chat_options {
    bool no_history;
    struct engine_args engine;
    struct answer_args answer;
};

static const struct option_spec chat_specs[] = {
    {"no-history", 0, OPTION_FLAG, false, offsetof(struct chat_options, no_history),
     .help = "neither read nor write the file of earlier lines"},
    {0},
};

/* Everything a turn needs; one thread. */
struct chat {
    const struct chat_options *options;
    struct progress progress;
    struct line_input input;
    struct conversation conversation;
    struct generate_result last; /* of the latest turn */
    sl_engine *engine;
    sl_session *session;
    sl_sampler *sampler;
    bool answered; /* `last` holds something */
    bool failed;   /* something went wrong on the way */
    bool over;     /* /quit */
};

static void complain(struct chat *chat, const struct sl_error *error)
{
    (void)command_fail(error);
    chat->failed = true;
}

/* ---- commands ----------------------------------------------------------------------------- */

/* `argument` is what follows the name, "" without. */
typedef void (*chat_command_fn)(struct chat *chat, const char *argument);

static void chat_help(struct chat *chat, const char *argument)
{
    (void)chat, (void)argument;
    fputs("/help            this list\n"
          "/reset           forget the conversation, keep the system message\n"
          "/system TEXT     replace the system message; no TEXT: take it away\n"
          "/think LEVEL     none, high or max; low too with a 0731 checkpoint\n"
          "/stats           figures of the last answer\n"
          "/save FILE       write the conversation as JSON\n"
          "/quit            leave, as Ctrl-D does\n"
          "A backslash at the end of a line continues the message on the next one. A message that\n"
          "starts with a slash is written with two. Ctrl-C stops an answer.\n",
          stderr);
}

static void chat_reset(struct chat *chat, const char *argument)
{
    (void)argument;
    conversation_reset(&chat->conversation);
    sl_session_reset(chat->session);
}

static void chat_system(struct chat *chat, const char *argument)
{
    struct sl_error error = {0};
    if (conversation_set_system(&chat->conversation, argument, &error) != SL_OK)
        complain(chat, &error);
}

static void chat_think(struct chat *chat, const char *argument)
{
    struct sl_error error = {0};
    for (int level = 0; answer_args_think_names[level]; level++) {
        if (strcmp(answer_args_think_names[level], argument) != 0) continue;
        if (conversation_set_think(&chat->conversation, (enum think_level)level, &error) != SL_OK)
            complain(chat, &error);
        return;
    }
    (void)sl_error_set(&error, SL_ERR_ARGUMENT, 0,
                       "/think: expected none, low, high or max, found \"%.80s\"", argument);
    complain(chat, &error);
}

static void chat_stats(struct chat *chat, const char *argument)
{
    (void)argument;
    if (chat->answered)
        stats_print_text(&chat->last, stderr);
    else
        fputs("There is no answer yet.\n", stderr);
}

static void chat_save(struct chat *chat, const char *argument)
{
    struct sl_error error = {0};
    if (!*argument) {
        (void)sl_error_set(&error, SL_ERR_ARGUMENT, 0, "/save: expected a file name");
        complain(chat, &error);
    } else if (conversation_save(&chat->conversation, argument, &error) != SL_OK) {
        complain(chat, &error);
    }
}

static void chat_quit(struct chat *chat, const char *argument)
{
    (void)argument;
    chat->over = true;
}

/* Runs a line that starts with one slash. */
static void run_command(struct chat *chat, const char *line)
{
    static const struct {
        const char *name;
        chat_command_fn run;
    } commands[] = {
        {"help", chat_help},   {"reset", chat_reset}, {"system", chat_system},
        {"think", chat_think}, {"stats", chat_stats}, {"save", chat_save},
        {"quit", chat_quit},
    };
    size_t name_bytes = strcspn(line + 1, " ");
    const char *argument = line + 1 + name_bytes;
    argument += strspn(argument, " ");
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (strlen(commands[i].name) != name_bytes ||
            memcmp(commands[i].name, line + 1, name_bytes) != 0)
            continue;
        commands[i].run(chat, argument);
        return;
    }
    struct sl_error error = {0};
    (void)sl_error_set(&error, SL_ERR_ARGUMENT, 0,
                       "there is no command /%.*s; /help lists them, // starts a message with a "
                       "slash",
                       (int)(name_bytes < 40 ? name_bytes : 40), line + 1);
    complain(chat, &error);
}

/* ---- turns -------------------------------------------------------------------------------- */

static enum sl_status answer(struct chat *chat, struct sl_error *error)
{
    struct ids_input ids = {0};
    generate_result_deinit(&chat->last);
    chat->answered = false;
    enum sl_status status = conversation_render(&chat->conversation, &ids, error);
    if (status == SL_OK) {
        struct generate_args args = {
            .engine = chat->engine,
            .session = chat->session,
            .sampler = chat->sampler,
            .prompt = ids.ids,
            .prompt_tokens = ids.count,
            .tokens_max = chat->options->answer.tokens,
            .thinking = chat->conversation.think != THINK_NONE,
            .output = stdout,
            .progress = &chat->progress,
        };
        status = generate(&args, &chat->last, error);
        chat->answered = true;
    }
    ids_input_deinit(&ids);
    return status;
}

/* One message and its answer. A turn that got no text at all is taken back, so that the next
 * message does not run into this one. */
static void take_turn(struct chat *chat, const char *text, size_t bytes)
{
    struct sl_error error = {0};
    if (conversation_add_user(&chat->conversation, text, bytes, &error) != SL_OK) {
        complain(chat, &error);
        return;
    }
    enum sl_status status = answer(chat, &error);
    const struct generate_result *last = &chat->last;
    if (last->text.bytes) putchar('\n');
    fflush(stdout);
    if (status != SL_OK) complain(chat, &error);
    bool complete = status == SL_OK && last->finish == GENERATE_STOP;
    if (!complete && !last->text.bytes)
        conversation_pop(&chat->conversation);
    else if (conversation_add_answer(&chat->conversation, &last->text, complete, &error) != SL_OK)
        complain(chat, &error);
    if (status == SL_OK && last->finish == GENERATE_LENGTH)
        fputs("(cut here: -n tokens, or the context, are used up)\n", stderr);
    if (chat->answered && chat->options->answer.stats) stats_print_text(last, stderr);
    interrupt_clear();
}

static int converse(struct chat *chat)
{
    struct grow_text text = {0};
    int exit_code = COMMAND_OK;
    bool interactive = line_input_interactive(&chat->input);
    while (!chat->over) {
        enum line_outcome outcome = line_input_read(&chat->input, &text);
        if (outcome == LINE_END) {
            if (interactive) putchar('\n');
            break;
        }
        if (outcome == LINE_INTERRUPTED && !interactive) {
            exit_code = COMMAND_INTERRUPTED;
            break;
        }
        if (outcome == LINE_INTERRUPTED) {
            interrupt_clear();
            fputs("\n(Ctrl-D or /quit leaves, /help lists the commands)\n", stderr);
        } else if (text.data[0] == '/' && text.data[1] != '/') {
            run_command(chat, text.data);
        } else if (text.bytes) {
            size_t skipped = text.data[0] == '/' ? 1 : 0;
            take_turn(chat, text.data + skipped, text.bytes - skipped);
        }
    }
    grow_text_deinit(&text);
    /* Somebody at a terminal has seen what failed; a script looks at the exit code. */
    if (exit_code == COMMAND_OK && chat->failed && !interactive) exit_code = COMMAND_FAILED;
    return command_flush(exit_code);
}

/* Opens what a conversation needs once there is an engine; close_chat undoes it in every case, but
 * for the engine. */
static enum sl_status open_chat(struct chat *chat, struct sl_error *error)
{
    const struct answer_args *args = &chat->options->answer;
    if (!sl_engine_tokenizer(chat->engine))
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "%s: no tokenizer.json to converse with",
                            chat->options->engine.model);
    enum sl_status status = conversation_init(&chat->conversation, chat->engine, error);
    if (status == SL_OK)
        status = conversation_set_think(&chat->conversation, (enum think_level)args->think, error);
    if (status == SL_OK) status = conversation_set_system(&chat->conversation, args->system, error);
    if (status == SL_OK)
        status =
            answer_args_sampler(args, sl_engine_info(chat->engine).vocab, &chat->sampler, error);
    if (status == SL_OK) status = sl_session_create(chat->engine, &chat->session, error);
    if (status == SL_OK) status = line_input_open(&chat->input, !chat->options->no_history, error);
    return status;
}

static void close_chat(struct chat *chat)
{
    line_input_close(&chat->input);
    generate_result_deinit(&chat->last);
    conversation_deinit(&chat->conversation);
    if (chat->session) sl_session_destroy(chat->session);
    if (chat->sampler) sl_sampler_destroy(chat->sampler);
}

int command_chat(int argc, char **argv)
{
    struct chat_options options = {.answer = answer_args_default()};
    const struct option_set sets[] = {{chat_specs, &options},
                                      {engine_args_specs, &options.engine},
                                      {answer_args_specs, &options.answer},
                                      {0}};
    const struct options_command command = {
        .name = "chat",
        .usage = "-m DIR [options]",
        .summary =
            "Converses: a message a line, on a terminal or from standard input. /help lists\n"
            "what else can be done; Ctrl-C stops an answer, Ctrl-D leaves.",
        .set = sets,
    };
    int exit_code = COMMAND_OK;
    if (!command_parse(&command, argc, argv, &exit_code)) return exit_code;

    struct chat chat = {.options = &options};
    struct sl_error error = {0};
    progress_init(&chat.progress, options.answer.quiet, false);
    interrupt_install();
    struct sl_engine_options wanted = engine_args_options(&options.engine, &chat.progress);
    enum sl_status status = sl_engine_open(&wanted, &chat.engine, &error);
    progress_clear(&chat.progress);
    if (status == SL_OK) engine_args_tell_gpu(chat.engine, &chat.progress);
    if (status == SL_OK) status = open_chat(&chat, &error);
    exit_code = status == SL_OK ? converse(&chat) : command_fail(&error);
    close_chat(&chat);
    return chat.engine ? command_close_engine(chat.engine, exit_code) : exit_code;
}
