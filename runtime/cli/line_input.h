/* Lines from the user: with editing and a history on a terminal, plainly from anything else.
 *
 * One thread. The history is read when opened and written when closed; that it cannot be kept is no
 * reason to stop, so those failures are silent. */
#ifndef SLUICE_CLI_LINE_INPUT_H
#define SLUICE_CLI_LINE_INPUT_H

#include "runtime/cli/grow_text.h"

#include <histedit.h>

/* Lines kept in the history. */
#define LINE_INPUT_HISTORY_MAX 1000

enum line_outcome {
    LINE_READ,
    LINE_END,         /* nothing more will come */
    LINE_INTERRUPTED, /* Ctrl-C; the flag is still up */
};

struct line_input {
    EditLine *edit;   /* NULL: not a terminal */
    History *history; /* NULL: without */
    char *history_path;
    const char *prompt; /* of the line being read */
    char *line;         /* getline's, without a terminal */
    size_t line_capacity;
};

SL_MUST_USE enum sl_status line_input_open(struct line_input *input, bool with_history,
                                           struct sl_error *error);
void line_input_close(struct line_input *input);
bool line_input_interactive(const struct line_input *input);

/* Reads one message into `text`, which is emptied first: a line, and the next ones while they end
 * in a backslash, which becomes the line break. */
enum line_outcome line_input_read(struct line_input *input, struct grow_text *text);

#endif
