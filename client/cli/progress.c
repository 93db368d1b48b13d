#include "client/cli/progress.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

#define INTERVAL 0.1 /* s */
#define BAR 24       /* columns */

void progress_draw(struct progress *p, double share, const char *text)
{
    struct timespec t;
    double now;
    int full = (int)(fmin(fmax(share, 0), 1) * BAR);
    char *shown;

    clock_gettime(CLOCK_MONOTONIC, &t);
    now = (double)t.tv_sec + (double)t.tv_nsec / 1e9;
    if (!p->term->tty || now - p->drawn_at < INTERVAL) {
        return;
    }
    p->drawn_at = now;
    fputs("\r\033[K", stderr);
    if (share >= 0) {
        for (int i = 0; i < BAR; i++) {
            fputs(p->term->utf8 ? (i < full ? "█" : "░") : (i < full ? "#" : "."), stderr);
        }
        fprintf(stderr, " %3.0f %%  ", 100 * fmin(share, 1));
    }
    shown = term_escape(text);
    if (shown != NULL) {
        fprintf(stderr, "%.*s", (int)term_fit(shown, p->term->width - BAR - 9), shown);
    }
    free(shown);
    fflush(stderr);
}

void progress_clear(struct progress *p)
{
    if (p->drawn_at > 0) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
        p->drawn_at = 0;
    }
}
