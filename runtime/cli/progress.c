/* The progress line; see the header. */
#include "runtime/cli/progress.h"

#include "runtime/cli/interrupt.h"
#include "runtime/cli/quantity.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BAR_COLUMNS   24
#define REDRAW_NS_MIN 100000000u
#define MARK_NS       2000000000u /* the pace is that of the last two to four seconds */

void progress_init(struct progress *progress, bool quiet, bool bytes)
{
    *progress = (struct progress){
        .quiet = quiet, .shown = !quiet && isatty(STDERR_FILENO) == 1, .bytes = bytes};
}

static void draw(const struct progress *progress, uint64_t done, uint64_t total, uint64_t now_ns)
{
    double share = total ? (double)done / (double)total : 0;
    if (share > 1) share = 1;
    int filled = (int)(share * BAR_COLUMNS);
    char bar[BAR_COLUMNS + 1];
    for (int i = 0; i < BAR_COLUMNS; i++)
        bar[i] = i < filled ? '#' : '.';
    bar[BAR_COLUMNS] = 0;
    fprintf(stderr, "\r\033[K%.40s [%s] %3.0f%%", progress->what, bar, share * 100);

    uint64_t elapsed_ns = now_ns - progress->start_ns;
    uint64_t fresh = done > progress->start_done ? done - progress->start_done : 0;
    if (progress->bytes) {
        fprintf(stderr, " %s", quantity_rate(fresh, elapsed_ns).text);
    } else {
        fprintf(stderr, " %" PRIu64 "/%" PRIu64, done, total);
    }
    uint64_t lately_ns = now_ns - progress->mark_ns[0], lately = done - progress->mark_done[0];
    if (lately_ns && lately && done < total) {
        double left_ns = (double)lately_ns * (double)(total - done) / (double)lately;
        fprintf(stderr, ", %s left", quantity_duration((uint64_t)left_ns).text);
    }
    fflush(stderr);
}

bool progress_step(void *context, const char *what, uint64_t done, uint64_t total)
{
    struct progress *progress = context;
    bool go_on = !interrupt_requested();
    if (!progress->shown) return go_on;
    uint64_t now_ns = quantity_now_ns();
    if (!progress->what || strcmp(progress->what, what) != 0) {
        progress->start_ns = now_ns;
        progress->start_done = done;
        progress->last_ns = 0;
        for (int i = 0; i < 2; i++) {
            progress->mark_ns[i] = now_ns;
            progress->mark_done[i] = done;
        }
    }
    if (now_ns - progress->mark_ns[1] >= MARK_NS) {
        progress->mark_ns[0] = progress->mark_ns[1];
        progress->mark_done[0] = progress->mark_done[1];
        progress->mark_ns[1] = now_ns;
        progress->mark_done[1] = done;
    }
    progress->what = what;
    if (now_ns - progress->last_ns >= REDRAW_NS_MIN || done >= total) {
        draw(progress, done, total, now_ns);
        progress->last_ns = now_ns;
        progress->drawn = true;
    }
    return go_on;
}

bool progress_prefill(void *context, size_t done, size_t total)
{
    return progress_step(context, "prompt", done, total);
}

void progress_say(void *context, const char *text)
{
    struct progress *progress = context;
    progress_clear(progress);
    if (!progress->quiet) fputs(text, stderr);
}

void progress_clear(struct progress *progress)
{
    if (progress->drawn) fputs("\r\033[K", stderr);
    progress->drawn = false;
    progress->what = NULL;
}

bool progress_colour(FILE *file)
{
    const char *no_colour = getenv("NO_COLOR");
    const char *terminal = getenv("TERM");
    if (no_colour && *no_colour) return false;
    if (!terminal || strcmp(terminal, "dumb") == 0) return false;
    return isatty(fileno(file)) == 1;
}
