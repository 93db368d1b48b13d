/* A progress bar on stderr, drawn only where that is a terminal. */
#ifndef SEISMO_CLIENT_CLI_PROGRESS_H
#define SEISMO_CLIENT_CLI_PROGRESS_H

#include "client/cli/term.h"

struct progress {
    const struct term *term; /* borrowed */
    double drawn_at;         /* s, monotonic; 0 when nothing is on the screen */
};

/* `share` from 0 to 1, negative when unknown; `text` stands behind the bar. At most ten times a
 * second. */
void progress_draw(struct progress *p, double share, const char *text);

/* Takes the bar away, so that something else can be printed. */
void progress_clear(struct progress *p);

#endif
