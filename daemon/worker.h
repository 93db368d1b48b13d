/* The worker thread: owns the run table, every detector state and the writing database connection.
 *
 * The loop hands it jobs; it scores the rows, commits a group of jobs in one transaction (10 ms or
 * `commit_rows` rows, whichever comes first), and only then gives the jobs back as done. So
 * whatever comes back from worker_drain is durable: acknowledgements, events and alerts hang on
 * that. When a commit fails (disk full, I/O error) the worker keeps the group, says so once, and
 * tries again until it succeeds; meanwhile the bounded queue fills and the loop stops reading:
 * backpressure, never a drop. */
#ifndef SEISMO_DAEMON_WORKER_H
#define SEISMO_DAEMON_WORKER_H

#include <stddef.h>

#include "daemon/aside.h"
#include "models/detector.h"
#include "proto/defaults.h"
#include "proto/err.h"
#include "proto/row.h"
#include "proto/wire.h"

struct worker;
struct config; /* daemon/config.h */
struct lane;   /* daemon/backlog.h */

enum job_type {
    JOB_OPEN,   /* HELLO: find or create the run */
    JOB_STEPS,  /* a batch of rows */
    JOB_CLOSE,  /* BYE */
    JOB_DETACH, /* the peer is gone without BYE; the run ends as "lost" after a grace period */
    JOB_LABEL,  /* `seismo label` */
    JOB_ALERT,  /* a hook has run: record its result */
    JOB_OUTBOX, /* reads alerts that were left in the table */
    JOB_NEWS,   /* made by the worker itself: verdicts no job asked for (silent, lost), undelivered
                   alerts at start */
};

/* A committed verdict, in the order of commits. */
struct news {
    struct news *next;
    int64_t verdict_id;
    int64_t run_id;
    char run[SEISMO_MAX_NAME + 16]; /* as shown */
    char *json;                     /* the verdict document with "id" added */
};

/* An alert that its hook still has to hear of; its verdict is committed. */
struct alert {
    struct alert *next;
    int64_t id;    /* alerts.id, stable over restarts */
    char hook[64]; /* section name in the configuration */
    char *json;    /* verdict document plus "alert" (id) and "event" (entered, resolved) */
};

struct job {
    struct job *next;
    enum job_type type;
    struct lane *lane; /* of the loop: whose turn it takes, NULL: nobody's */
    double due;        /* of the loop: not given to the worker before (s); 0: at any time */
    uint64_t owner;    /* of the loop: session or query to answer; given back untouched */
    int64_t run_id;    /* STEPS, CLOSE, DETACH: from the answer to OPEN */
    uint64_t batch;    /* STEPS, CLOSE */

    /* Filled in by the worker. */
    int err; /* 0 or SEISMO_E…; then nothing of the job was stored */
    char errmsg[SEISMO_ERRMSG];
    uint64_t last_batch; /* committed of this session */
    bool has_step;
    int64_t last_step;
    struct news *news;
    struct alert *alerts;

    union {
        struct {
            char name[SEISMO_MAX_NAME + 1], program[SEISMO_MAX_NAME + 1];
            uint8_t session[SEISMO_MAX_SESSION];
            uint32_t session_n, rank, world;
            char meta[SEISMO_MAX_META + 1];
            char ret_run[SEISMO_MAX_NAME + 16]; /* as shown: "name", "name#2", "name@3" */
        } open;
        struct {
            enum wire_outcome outcome;
            char text[SEISMO_MAX_TEXT + 1];
        } close;
        struct {
            char run[SEISMO_MAX_NAME + 16], outcome[64];
        } label;
        struct {
            int64_t id;
            bool delivered;
            char result[64];
        } alert;
        struct {
            int64_t after; /* ids above it, */
            uint32_t most; /* so many */
            bool ret_all;  /* there are no more than those in `alerts` */
        } outbox;
        struct {
            uint32_t n;
            struct seismo_row rows[]; /* n rows */
        } steps;
    };
};

/* A zeroed job with room for n_rows rows (0 for other types); NULL when out of memory. */
struct job *job_new(enum job_type type, uint32_t n_rows);
void job_free(struct job **job); /* with its news and alerts */
size_t job_bytes(const struct job *job);

/* Opens the database (migrating it; one that is damaged is set aside, and a new one begun),
 * restores every run that goes on, and starts the thread. `wake` is called from the worker thread
 * when worker_drain has something (uv_async_send). `config` is only read during the call, `model`
 * is borrowed until worker_free. `clock` gives seconds since the epoch and is called from both
 * threads; how long something takes is taken from its differences, at most 2 s from one look (there
 * is one a second) to the next, so that setting the clock or suspending the machine makes no run
 * silent or lost. */
int worker_new(const struct config *config, const struct model *model, double (*clock)(void),
               void (*wake)(void *), void *wake_arg, struct worker **ret_worker,
               char errmsg[SEISMO_ERRMSG]);

/* Takes the job, unless the queue is full: SEISMO_EBUSY, and the job stays the caller's. */
int worker_submit(struct worker *w, struct job *job);

/* All done jobs, oldest first, as a list that the caller now owns; NULL when there are none. */
struct job *worker_drain(struct worker *w);

struct worker_stats {
    uint64_t steps, batches, commits, verdicts; /* since start */
    uint64_t superseded;                        /* stored steps that resumed jobs took back */
    uint64_t duplicate_batches;
    uint64_t expired; /* runs deleted by retention */
    uint32_t runs;    /* that go on or have a peer */
    uint32_t queued_jobs, queued_rows;
    bool storage_failing;
    double storage_since;              /* s since the epoch, while storage_failing */
    char storage_error[SEISMO_ERRMSG]; /* while storage_failing */
    bool storage_damaged;              /* pages are damaged: only a new start helps (aside.h) */
    bool synchronous_full;             /* as configured */
    char set_aside[ASIDE_NAME];        /* latest damaged database that lies beside it, or "" */
    bool set_aside_now;                /* … by this start */
};
void worker_stats(struct worker *w, struct worker_stats *ret); /* any thread */

/* Configuration reloaded (SIGHUP): hooks and time-outs. Any thread. */
void worker_reconfigure(struct worker *w, const struct config *config);

/* Commits what is queued, stops the thread, closes the database, nulls the pointer. While the
 * database cannot be written, or a job goes back with row after row, what is queued is given up
 * instead; nobody was told that it is safe. */
void worker_free(struct worker **w);

#endif
