/* The event feed: what was committed, published to whoever listens. Two frames: a topic that
 * subscribers filter by, and a JSON document.
 *
 *   verdict/RUN   the verdict document
 *   run/RUN       {"run", "program", "event": "opened" or "ended", "outcome"} */
#ifndef SEISMO_DAEMON_EVENTS_H
#define SEISMO_DAEMON_EVENTS_H

#include "daemon/worker.h"
#include "daemon/zsock.h"

/* A run was opened, or goes on under a client that has not streamed into it before. */
void events_opened(struct zsock *pub, const char *run, const char *program);

/* The verdicts of a job that is done, and the end of the run if one of them says so. */
void events_done(struct zsock *pub, const struct job *job);

#endif
