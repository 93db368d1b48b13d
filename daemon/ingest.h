/* The clients' conversation: HELLO, STEPS and BYE in; WELCOME, ACK, ERROR and PING out.
 *
 * Decodes what a peer sends into jobs for the worker, and turns jobs that come back, which are
 * committed, into acknowledgements. Knows neither sockets nor the database, so tests drive it with
 * doubles and a clock of their own.
 *
 * Invariants: a batch is acknowledged only after its commit; the batches of a session reach the
 * worker in order and without a gap; what one peer sends has no effect on another's session, except
 * that two who name the same run are told apart; a session belongs to one key. */
#ifndef SEISMO_DAEMON_INGEST_H
#define SEISMO_DAEMON_INGEST_H

#include <stdint.h>

#include "daemon/limits.h"
#include "daemon/worker.h"
#include "daemon/zsock.h"

struct ingest;

struct ingest_ops {
    /* zsock_send: 0, SEISMO_EUNREACHABLE, SEISMO_EBUSY or SEISMO_ENOMEM. */
    int (*send)(void *arg, const void *peer, size_t peer_n, const void *data, size_t n);
    /* backlog_submit: takes the job. */
    void (*submit)(void *arg, struct job *job);
    /* A run was opened by a session that had not opened it before. */
    void (*opened)(void *arg, const char *run, const char *program);
    double (*now)(void *arg); /* s, never backwards */
    /* backlog_allowance; NULL: as much as it likes. */
    uint64_t (*allowance)(void *arg);
    /* Whether the user (zsock_msg.user) may be heard, and stream the run when `run` is not NULL;
     * else why not. NULL: everybody may everything. */
    bool (*may)(void *arg, const char *user, const char *run, size_t n,
                char errmsg[SEISMO_ERRMSG]);
};

/* `probe_every` is the hint in WELCOME; `limits` are copied, NULL: the defaults. NULL when out of
 * memory. */
struct ingest *ingest_new(const struct ingest_ops *ops, void *arg, uint32_t probe_every,
                          const struct limits *limits);
void ingest_free(struct ingest **i);

/* After a reload: those that do not need a restart. */
void ingest_limit(struct ingest *i, const struct limits *limits);
const struct limits *ingest_limits(const struct ingest *i);

/* A message from a peer (the zsock_recv of the socket). */
void ingest_receive(struct ingest *i, const struct zsock_msg *msg);

/* `may` answers otherwise than before: sessions that it does not allow any more are cut off. */
void ingest_recheck(struct ingest *i);

/* OPEN, STEPS, CLOSE, DETACH or NEWS came back. The job stays the caller's; its news are taken. */
void ingest_done(struct ingest *i, struct job *job);

/* Sends the acknowledgements that are due: after all jobs of one drain, so that one ACK covers all
 * batches of a session. */
void ingest_flush(struct ingest *i);

/* About once a second: pings peers that were not spoken to for a while, sends what did not go. */
void ingest_tick(struct ingest *i);

struct ingest_stats {
    uint32_t attached;                            /* sessions open now */
    uint64_t messages, errors, duplicate_batches; /* since start */
    uint64_t refused;                             /* of the errors: at a limit */
};
void ingest_stats(const struct ingest *i, struct ingest_stats *ret);

#endif
