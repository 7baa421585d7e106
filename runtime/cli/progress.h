/* A progress line on stderr, drawn only where somebody watches: on a terminal and not --quiet.
 *
 * The two step functions have the shapes the library calls (sl_progress_fn, sl_prefill_fn); their
 * context is the struct progress. Both answer false once Ctrl-C was pressed, which cancels. */
#ifndef SLUICE_CLI_PROGRESS_H
#define SLUICE_CLI_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct progress {
    bool quiet;          /* say nothing */
    bool shown;          /* draw at all */
    bool bytes;          /* progress_step counts bytes: show a rate and the time left */
    bool drawn;          /* a line stands on the terminal */
    const char *what;    /* the step being drawn: borrowed, compared by address and text */
    uint64_t start_ns;   /* of this step */
    uint64_t start_done; /* its first `done`: work of an earlier run does not count as speed */
    uint64_t mark_ns[2], mark_done[2]; /* of seconds ago, the older one first: the pace of now */
    uint64_t last_ns;                  /* of the last drawing */
};

void progress_init(struct progress *progress, bool quiet, bool bytes);
bool progress_step(void *context, const char *what, uint64_t done, uint64_t total);
bool progress_prefill(void *context, size_t done, size_t total);
/* Lines of text (an sl_say_fn), unless quiet. */
void progress_say(void *context, const char *text);
/* Takes the line away; before anything else is printed. */
void progress_clear(struct progress *progress);

/* True when text on `file` may carry colour: a terminal that is not "dumb", and NO_COLOR unset. */
bool progress_colour(FILE *file);

#endif
