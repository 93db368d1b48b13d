/* The way to the worker: jobs that find its queue full wait here, in order, and the sources of more
 * are paused until they have gone. Nothing is dropped. */
#ifndef SEISMO_DAEMON_BACKLOG_H
#define SEISMO_DAEMON_BACKLOG_H

#include <stdbool.h>

#include "daemon/worker.h"

struct backlog {
    /* worker_submit, or its double in a test. */
    int (*submit)(void *arg, struct job *job);
    /* Jobs wait (true), or the last one has gone (false). Called on each change. */
    void (*pause)(void *arg, bool paused);
    void *arg;
    struct job *first, **end; /* waiting */
    uint64_t in_flight;       /* jobs waiting or with the worker */
};

void backlog_init(struct backlog *b, int (*submit)(void *arg, struct job *job),
                  void (*pause)(void *arg, bool paused), void *arg);

/* Takes the job. */
void backlog_submit(struct backlog *b, struct job *job);

/* Takes the job only when it need not wait; otherwise SEISMO_EBUSY, and it stays the caller's. */
int backlog_try(struct backlog *b, struct job *job);

/* `n` jobs have come back, so there may be room. */
void backlog_done(struct backlog *b, uint64_t n);

/* Frees the jobs that wait. */
void backlog_close(struct backlog *b);

#endif
