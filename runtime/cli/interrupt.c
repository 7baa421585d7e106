/* The interrupt flag; see the header. */
#include "runtime/cli/interrupt.h"

#include <signal.h>
#include <stddef.h>
#include <unistd.h>

/* The program's one mutable global: a signal handler gets no context, so nothing else can carry the
 * news from it to the loops. */
static volatile sig_atomic_t interrupt_flag;

static void on_signal(int number)
{
    if (interrupt_flag) _exit(128 + number);
    interrupt_flag = 1;
}

void interrupt_install(void)
{
    struct sigaction action = {.sa_handler = on_signal}; /* no SA_RESTART: reads must return */
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
}

bool interrupt_requested(void)
{
    return interrupt_flag != 0;
}

void interrupt_clear(void)
{
    interrupt_flag = 0;
}
