#include "client/cli/interrupt.h"

#include <signal.h>
#include <time.h>

/* Global, because a signal handler knows nothing else. */
static volatile sig_atomic_t seen;

static void on_signal(int number)
{
    (void)number;
    seen = 1;
}

void interrupt_catch(void)
{
    const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    /* Sleeping and polling end early all the same; a write that a signal cuts short would look like
     * output that cannot be written. */
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};

    for (unsigned i = 0; i < sizeof(signals) / sizeof(*signals); i++) {
        sigaction(signals[i], &action, NULL);
    }
}

bool interrupt_seen(void)
{
    return seen != 0;
}

void interrupt_sleep(double seconds)
{
    struct timespec t;

    if (seconds > 0 && !interrupt_seen()) {
        t.tv_sec = (time_t)seconds;
        t.tv_nsec = (long)((seconds - (double)t.tv_sec) * 1e9);
        nanosleep(&t, NULL);
    }
}
