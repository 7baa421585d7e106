/* Shared reporting of the commands; see the header. */
#include "runtime/cli/command.h"
#include "runtime/cli/interrupt.h"
#include "runtime/cli/progress.h"

#include <errno.h>
#include <string.h>

bool command_parse(const struct options_command *command, int argc, char **argv, int *exit_code)
{
    struct sl_error error = {0};
    bool help = false;
    if (options_parse(command, argc, argv, &help, &error) != SL_OK) {
        *exit_code = command_usage(command->name, error.message);
        return false;
    }
    if (help) {
        options_print_help(command, stdout);
        *exit_code = command_flush(COMMAND_OK);
        return false;
    }
    return true;
}

int command_usage(const char *command, const char *message)
{
    fprintf(stderr, "sluice: %s: %s\nTry 'sluice %s --help'.\n", command, message, command);
    return COMMAND_USAGE;
}

int command_fail(const struct sl_error *error)
{
    if (error->status == SL_ERR_CANCELLED) {
        fprintf(stderr, "sluice: interrupted\n");
        return COMMAND_INTERRUPTED;
    }
    const char *message = error->message[0] ? error->message : sl_status_name(error->status);
    fprintf(stderr, "sluice: %s\n", message);
    return COMMAND_FAILED;
}

int command_work(command_work_fn work, const void *options, bool quiet)
{
    struct sl_error error = {0};
    struct progress progress;
    progress_init(&progress, quiet, true);
    interrupt_install();
    enum sl_status status = work(options, progress_step, &progress, &error);
    progress_clear(&progress);
    return status == SL_OK ? COMMAND_OK : command_fail(&error);
}

int command_close_engine(sl_engine *engine, int exit_code)
{
    struct sl_error error;
    const char *notice;
    for (int32_t i = 0; (notice = sl_engine_notice(engine, i)); i++)
        fprintf(stderr, "sluice: note: %s\n", notice);
    if (sl_engine_save_heat(engine, &error) != SL_OK) {
        int failed = command_fail(&error);
        if (exit_code == COMMAND_OK) exit_code = failed;
    }
    sl_engine_close(engine);
    return exit_code;
}

int command_flush(int exit_code)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) return exit_code;
    fprintf(stderr, "sluice: cannot write the output: %s\n", strerror(errno));
    return COMMAND_FAILED;
}
