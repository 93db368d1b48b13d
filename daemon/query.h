/* The query socket: answers `[4, id, method, params]` on a ROUTER (proto/PROTOCOL.md, "Queries").
 *
 * The loop thread decodes requests and sends replies; the reading itself runs in libuv's thread
 * pool on one of QUERY_READERS read-only connections, so neither the loop nor other requests wait
 * for a slow one. Requests that find every reader busy wait in order, up to QUERY_MAX_WAITING;
 * beyond that they are answered "busy". `label` changes something and so goes through the worker as
 * JOB_LABEL. */
#ifndef SEISMO_DAEMON_QUERY_H
#define SEISMO_DAEMON_QUERY_H

#include <uv.h>

#include "daemon/limits.h"
#include "daemon/memory.h"
#include "daemon/worker.h"
#include "daemon/zsock.h"
#include "models/detector.h"
#include "proto/err.h"

#define QUERY_READERS 3       /* fewer than libuv's 4 pool threads */
#define QUERY_MAX_REQUESTS 16 /* being read for or waiting for a reader */
#define QUERY_MAX_LABELS 64   /* waiting for the worker; more are answered "busy" */

struct query;

/* What `status` says that the database does not know. Strings are borrowed during the call. */
struct query_live {
    double started;                    /* s since the epoch */
    uint32_t peers;                    /* clients attached */
    uint32_t alerts;                   /* that wait for their hooks, or whose hooks run */
    bool alerts_behind;                /* more wait in the table */
    bool hooks_lost;                   /* no hook runs just now */
    bool sandbox_files, sandbox_calls; /* which locks of the sandbox hold */
    uint64_t refused;                  /* messages at a limit, since the start */
    uint32_t connections;              /* to the ingest endpoints */
    const struct limits *limits;
    const struct memory *memory;
    struct worker_stats worker;
    const char *const *ingest; /* endpoints as bound, NULL-terminated */
    const char *query, *events;
};

struct query_ops {
    /* Loop thread: fill in the live numbers. */
    void (*live)(void *arg, struct query_live *ret);
    /* Loop thread: worker_submit. 0, and the job is taken; or SEISMO_EBUSY, and it is not. */
    int (*submit)(void *arg, struct job *job);
    double (*clock)(void); /* s since the epoch; any thread */
    uint32_t peers;        /* connections at most */
    bool scarce;           /* memory is: fewer answers wait for who does not read them */
    /* Loop thread: whether the user (zsock_msg.user) may ask, or change something; else why not.
     * NULL: everybody may. */
    bool (*may)(void *arg, const char *user, bool change, char errmsg[SEISMO_ERRMSG]);
    /* Protects the socket before it is bound. NULL: it is for local peers. */
    void (*guard)(void *arg, struct zsock *z);
};

/* Binds `endpoint` on `zmq_ctx` and opens the readers on the database at `path`, which must exist
 * (so after worker_new). `model` is borrowed until `closed`; `ops` and strings are copied. */
int query_new(uv_loop_t *loop, void *zmq_ctx, const char *endpoint, const char *path,
              const struct model *model, const struct query_ops *ops, void *arg,
              struct query **ret_query, char errmsg[SEISMO_ERRMSG]);

/* The endpoint as bound (a wildcard port filled in), borrowed. */
const char *query_endpoint(const struct query *q);

/* A JOB_LABEL that `submit` took is done: answers who asked. The job stays the caller's. */
void query_label_done(struct query *q, const struct job *job);

/* Stops reading requests, interrupts those being read for, then frees everything and calls `closed`
 * from the loop. `q` must not be used after this call; label jobs that come back later need not be
 * told. The loop must go on running until `closed`. */
void query_close(struct query *q, void (*closed)(void *arg), void *arg);

#endif
