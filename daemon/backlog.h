/* The way to the worker, and who goes next.
 *
 * Each connection has a lane, a queue of its own jobs. Lanes take turns by what their jobs cost
 * (deficit round robin), and only BACKLOG_AHEAD groups of commits are with the worker at a time. So
 * a peer that sends a thousand times as much as another waits for itself and not the other for it.
 * Within a lane jobs keep their order. Nothing is dropped: when too much waits in all, the sources
 * of more are paused until it has gone. */
#ifndef SEISMO_DAEMON_BACKLOG_H
#define SEISMO_DAEMON_BACKLOG_H

#include <stdbool.h>

#include "daemon/limits.h"
#include "daemon/worker.h"

#define BACKLOG_AHEAD 2        /* groups of `commit_rows` rows with the worker */
#define BACKLOG_AHEAD_MIN 4096 /* rows, when groups are smaller */
#define BACKLOG_TURN 2048      /* cost of a lane's turn; a job that costs more waits for several */
#define BACKLOG_COST_BATCH 8   /* of a batch besides its rows, in rows */
#define BACKLOG_COST_BACK 100  /* of a row that goes back, for which the run is read again */
#define BACKLOG_COST_OPEN 256  /* of a HELLO, which looks into the database */
#define BACKLOG_COST_OTHER 32

/* Jobs of one connection that wait. It lives while somebody holds it or jobs are in it. */
struct lane {
    struct lane *next; /* in turn, while jobs wait */
    struct job *first, **end;
    uint64_t bytes; /* of the jobs */
    uint32_t credit;
    bool held;
};

struct lane *lane_new(void); /* held; NULL when out of memory */
void lane_leave(struct lane **lane);

struct backlog {
    /* worker_submit, or its double in a test. */
    int (*submit)(void *arg, struct job *job);
    /* Too much waits (true), or no more (false). Called on each change. */
    void (*pause)(void *arg, bool paused);
    double (*now)(void *arg); /* s, the clock of job.due */
    void *arg;
    uint64_t max_bytes, max_lane_bytes;
    uint64_t max_ahead; /* cost with the worker */
    struct lane own;    /* jobs of nobody's lane */
    struct lane *turn, **turn_end;
    uint64_t bytes;     /* waiting, */
    uint32_t jobs;      /* in so many jobs, */
    uint64_t rows;      /* with so many steps */
    uint64_t ahead;     /* cost with the worker */
    uint64_t in_flight; /* jobs waiting or with the worker */
    bool paused;
    bool early; /* the next job waits for nothing but its time */
    bool hurry; /* for a stop: no job waits for its time */
};

void backlog_init(struct backlog *b, int (*submit)(void *arg, struct job *job),
                  void (*pause)(void *arg, bool paused), double (*now)(void *arg), void *arg);

/* At the start and after a reload. */
void backlog_limit(struct backlog *b, const struct limits *limits, uint32_t commit_rows);

/* Takes the job into job.lane. */
void backlog_submit(struct backlog *b, struct job *job);

/* Takes the job only when it need not wait; otherwise SEISMO_EBUSY, and it stays the caller's. For
 * jobs without a lane. */
int backlog_try(struct backlog *b, struct job *job);

/* Bytes of jobs that one lane may have waiting now: the fuller, the fewer, so that one that comes
 * new finds room. */
uint64_t backlog_allowance(const struct backlog *b);

/* A job has come back (the caller frees it); then, after some of them, there may be room. */
void backlog_done(struct backlog *b, const struct job *job);
void backlog_pump(struct backlog *b);

/* Frees the jobs that wait. */
void backlog_close(struct backlog *b);

#endif
