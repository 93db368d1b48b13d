/* Inside the worker thread: what its parts share. Only worker*.c and the parts named here use it.
 *
 *   worker.c   the thread, its clock and its start, and worker.h for the loop
 *   commit.c   groups into the database, again and again until it takes them
 *   admit.c    HELLO: which run a client belongs to
 *   work.c     batches, ends, silence
 *   retain.c   runs that ended long ago */
#ifndef SEISMO_DAEMON_WORK_H
#define SEISMO_DAEMON_WORK_H

#include <pthread.h>

#include "daemon/group.h"
#include "daemon/queue.h"
#include "daemon/retain.h"
#include "daemon/settings.h"
#include "daemon/store.h"
#include "daemon/worker.h"

struct worker {
    const struct model *model; /* borrowed */
    double (*clock)(void);
    void (*wake)(void *);
    void *wake_arg;
    struct queue queue;
    pthread_t thread;
    bool has_thread;

    /* Of the thread. */
    struct store *store;
    struct runs *runs;
    struct group *group;
    struct settings settings;
    struct retain retain;
    int64_t last_run;
    double wall;     /* s since the epoch, at the last look */
    double boot;     /* s since the machine's start, then */
    double interval; /* s, see advance_clock */
    bool abandoned;  /* stopped before all was written, see worker_free */
    struct worker_stats counts;
    char unreadable[SEISMO_ERRMSG]; /* while what looks damaged cannot be read, */
    double looked;                  /* as was found at this time, s since the epoch */

    pthread_mutex_t lock; /* guards the rest */
    struct worker_stats stats;
    struct settings next_settings;
    bool has_next_settings;
};

/* ---- commit.c ---- */

/* Makes the counters visible to worker_stats. */
void work_publish(struct worker *w);

/* Tries until `attempt` returns 0. False when the worker is stopped before that. */
bool work_insist(struct worker *w, int (*attempt)(struct worker *w, void *arg), void *arg);

/* Commits the group and gives its jobs back. False as above. */
bool work_commit(struct worker *w);

/* ---- admit.c ---- */

void work_open(struct worker *w, struct job *job);

/* Takes a run that is not in the table from the database. `job` gets the alerts that are over. */
int work_load_run(struct worker *w, int64_t id, struct job *job, struct run **ret_run);

/* ---- work.c ---- */

/* Bytes of the longest beginning of `s` within `max` bytes that does not cut a UTF-8 character. */
int work_fit(const char *s, int max);

/* Fills in what the loop tells the client. */
void work_answer(struct job *job, const struct run *run);

bool work_steps(struct worker *w, struct job *job); /* false: stopped before the end */
void work_close(struct worker *w, struct job *job);
void work_detach(struct worker *w, const struct job *job);

/* Who is silent, and who is lost? Their verdicts come with a job of the worker's own. */
void work_tick(struct worker *w);

#endif
