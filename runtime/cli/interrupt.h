/* Ctrl-C as a flag that loops look at. One per process, as signals are. */
#ifndef SLUICE_CLI_INTERRUPT_H
#define SLUICE_CLI_INTERRUPT_H

#include <stdbool.h>

/* From now on SIGINT sets the flag and interrupts a blocking read; a second one while the flag is
 * still up ends the process at once, for a step that does not look at the flag. */
void interrupt_install(void);
bool interrupt_requested(void);
void interrupt_clear(void);

#endif
