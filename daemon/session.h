/* The peers of the ingest sockets and what each has said: one session a routing id.
 *
 * Invariants: no session is added beyond the table's limit; an owner number is never used
 * again, so a job that comes back for a session that is gone finds nobody. */
#ifndef SEISMO_DAEMON_SESSION_H
#define SEISMO_DAEMON_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/backlog.h"
#include "daemon/limits.h"
#include "daemon/rate.h"
#include "daemon/worker.h"
#include "proto/keyfile.h"
#include "proto/wire.h"

enum session_state {
    SESSION_STRANGER, /* no valid HELLO: only its errors are counted */
    SESSION_OPENING,  /* its JOB_OPEN is under way */
    SESSION_OPEN,     /* streams */
    SESSION_CLOSING,  /* BYE received */
    SESSION_CLOSED,   /* BYE committed; kept for a BYE sent again */
};

struct session {
    struct session *chain;                   /* of the table */
    struct session *dirty_prev, *dirty_next; /* of ingest: those that an ACK is due to */
    bool dirty;
    enum session_state state;
    uint64_t owner; /* number of this session in jobs; never 0 */
    uint8_t peer[LIMIT_PEER_ID];
    uint8_t peer_n;
    char user[KEY_TEXT]; /* the key that it came in with, "" for none */
    bool gone;           /* its peer is unreachable: the session leaves at the next tick */
    bool told;           /* that its run was opened */

    uint8_t id[SEISMO_MAX_SESSION]; /* chosen by the client */
    uint32_t id_n;
    char name[SEISMO_MAX_NAME + 1]; /* as the client calls the run */
    char program[SEISMO_MAX_NAME + 1];
    char run[WIRE_MAX_SHOWN_RUN]; /* as the daemon calls it */
    uint32_t rank;
    int64_t run_id;
    struct wire_layout layout;

    uint64_t received;  /* last batch handed to the worker */
    uint64_t committed; /* last batch committed */
    bool any_batch;     /* the first batch may have any number up to first_max */
    uint64_t next;      /* which the client has named, 0: none */
    uint64_t first_max; /* see ingest.c */
    bool has_step;
    int64_t last_step; /* committed, of the run */
    struct news *news; /* verdicts to send with the next ACK, oldest first */
    uint32_t n_news;
    uint64_t gap;            /* batch that was missing in the last out_of_order */
    double gap_at, asked_at; /* s, of the last out_of_order and hello_required */
    double spoken_at;        /* s, last message to the peer */

    /* What it may still take. These four stay with the connection when it begins another session.
     */
    struct rate errors, hellos, runs;
    uint64_t origin;   /* hash of the address or key that it comes from, 0: not known */
    struct lane *lane; /* its jobs that wait; held */
    uint32_t pending;  /* batches with the worker or on the way to it */
    double paced;      /* s: up to when its steps use up steps_per_second */
};

struct session_table;

/* `max`: see session_table_limit. NULL when out of memory. */
struct session_table *session_table_new(uint32_t max);

/* At most `max` sessions from now on, at most LIMIT_SESSIONS; those that are there stay. */
void session_table_limit(struct session_table *t, uint32_t max);
void session_table_free(struct session_table **t);

/* A new STRANGER; NULL when the table is full or memory is out. 1 <= n <= LIMIT_PEER_ID. */
struct session *session_add(struct session_table *t, const void *peer, size_t n);
void session_remove(struct session_table *t, struct session *s);

bool session_table_is_full(const struct session_table *t);

struct session *session_by_peer(const struct session_table *t, const void *peer, size_t n);
struct session *session_by_owner(const struct session_table *t, uint64_t owner);

/* Goes through all sessions in no order; start with *at = 0; NULL at the end. The one that was
 * returned may be removed. */
struct session *session_next(const struct session_table *t, uint32_t *at);

#endif
