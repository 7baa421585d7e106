/* Line input; see the header. */
#include "runtime/cli/line_input.h"

#include "runtime/cli/interrupt.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wchar.h>

static char *edit_prompt(EditLine *edit)
{
    struct line_input *input = NULL;
    el_get(edit, EL_CLIENTDATA, &input);
    /* The library's type lacks a const; it only reads. */
    return (char *)(uintptr_t)input->prompt;
}

/* Reads one character. The library's own reader goes on after a signal; this one stops. */
static int edit_read(EditLine *edit, wchar_t *out)
{
    (void)edit;
    mbstate_t state = {0};
    for (;;) {
        char byte = 0;
        ssize_t got = read(STDIN_FILENO, &byte, 1);
        if (got < 0 && errno == EINTR && !interrupt_requested()) continue;
        if (got <= 0) return (int)got;
        size_t used = mbrtowc(out, &byte, 1, &state);
        if (used == (size_t)-2) continue; /* more bytes belong to it */
        if (used == (size_t)-1) *out = L'?';
        return 1;
    }
}

/* Makes every directory above the last part of `path`, which is left as it was. */
static void make_parents(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(path, 0700);
        *slash = '/';
    }
}

/* Where the XDG rules put state; NULL when there is no such place. */
static char *find_history_path(void)
{
    const char *state = getenv("XDG_STATE_HOME");
    const char *home = getenv("HOME");
    char *path = NULL;
    int wrote = -1;
    if (state && state[0] == '/')
        wrote = asprintf(&path, "%s/sluice/history", state);
    else if (home && home[0] == '/')
        wrote = asprintf(&path, "%s/.local/state/sluice/history", home);
    return wrote < 0 ? NULL : path;
}

static void open_history(struct line_input *input)
{
    HistEvent event;
    input->history_path = find_history_path();
    if (!input->history_path) return;
    input->history = history_init();
    if (!input->history) return;
    history(input->history, &event, H_SETSIZE, LINE_INPUT_HISTORY_MAX);
    history(input->history, &event, H_SETUNIQUE, 1);
    history(input->history, &event, H_LOAD, input->history_path);
    el_set(input->edit, EL_HIST, history, input->history);
}

enum sl_status line_input_open(struct line_input *input, bool with_history, struct sl_error *error)
{
    *input = (struct line_input){.prompt = ""};
    if (isatty(STDIN_FILENO) != 1 || isatty(STDOUT_FILENO) != 1) return SL_OK;
    input->edit = el_init("sluice", stdin, stdout, stderr);
    if (!input->edit) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "line editing cannot start");
    el_set(input->edit, EL_CLIENTDATA, input);
    el_set(input->edit, EL_PROMPT, edit_prompt);
    el_set(input->edit, EL_EDITOR, "emacs");
    el_set(input->edit, EL_GETCFN, edit_read);
    el_source(input->edit, NULL);
    if (with_history) open_history(input);
    return SL_OK;
}

void line_input_close(struct line_input *input)
{
    if (input->edit) el_end(input->edit);
    if (input->history) {
        HistEvent event;
        make_parents(input->history_path);
        history(input->history, &event, H_SAVE, input->history_path);
        history_end(input->history);
    }
    free(input->history_path);
    free(input->line);
    *input = (struct line_input){0};
}

bool line_input_interactive(const struct line_input *input)
{
    return input->edit != NULL;
}

/* One line with its end, borrowed until the next; NULL at the end or after Ctrl-C. */
static const char *read_line(struct line_input *input, size_t *bytes)
{
    if (!input->edit) {
        ssize_t got = getline(&input->line, &input->line_capacity, stdin);
        if (got < 0) return NULL;
        *bytes = (size_t)got;
        return input->line;
    }
    int count = 0;
    el_resize(input->edit);
    const char *line = el_gets(input->edit, &count);
    if (!line || count <= 0) return NULL;
    *bytes = strlen(line);
    return line;
}

static void remember(struct line_input *input, const char *line)
{
    HistEvent event;
    if (input->history && line[0] && line[0] != '\n')
        history(input->history, &event, H_ENTER, line);
}

enum line_outcome line_input_read(struct line_input *input, struct grow_text *text)
{
    text->bytes = 0;
    input->prompt = "> ";
    for (;;) {
        size_t bytes = 0;
        const char *line = read_line(input, &bytes);
        if (!line && interrupt_requested()) return LINE_INTERRUPTED;
        if (!line) return text->bytes ? LINE_READ : LINE_END;
        remember(input, line);
        if (bytes && line[bytes - 1] == '\n') bytes--;
        bool more = bytes && line[bytes - 1] == '\\';
        if (more) bytes--;
        if (grow_text_append(text, line, bytes, NULL) != SL_OK) return LINE_END;
        if (!more) return LINE_READ;
        if (grow_text_append(text, "\n", 1, NULL) != SL_OK) return LINE_END;
        input->prompt = ". ";
    }
}
