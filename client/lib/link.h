/* The client's side of the protocol, without socket, thread or clock: rows come from a ring,
 * messages go out through `send`, time is passed in. proto/PROTOCOL.md says what is exchanged.
 *
 * Invariant: `batches` holds, in order of their numbers and without a gap, every batch that the
 * daemon has not acknowledged; the first `n_sent` of them have been sent since the last WELCOME. A
 * row is always in the ring or in a batch, until it is acknowledged, refused, or dropped by the
 * full ring. With a spool a row goes from the ring into a batch in its file, and the batches follow
 * one another from there; only while the file cannot be written they are made from the ring. */
#ifndef SEISMO_CLIENT_LIB_LINK_H
#define SEISMO_CLIENT_LIB_LINK_H

#include <pthread.h>
#include <stdatomic.h>

#include "client/lib/ring.h"
#include "client/lib/seismo.h"
#include "client/lib/spool.h"
#include "proto/wire.h"

#define LINK_ROWS 64             /* rows of a batch */
#define LINK_ROW_BYTES 256       /* of a row with all its fields as msgpack, at most */
#define LINK_WINDOW 64           /* batches in flight, at most */
#define LINK_DELAY 0.1           /* s that a row may wait for others to share its batch */
#define LINK_PATIENCE 5.0        /* s without an answer before saying HELLO again */
#define LINK_REFUSED_RETRY 30.0  /* s before trying a daemon again that refused the session */
#define LINK_BUSY_RETRY 0.2      /* s before sending again what found the daemon busy */
#define LINK_NEVER UINT64_MAX    /* no number of rows is worth waking up for */
#define LINK_MESSAGE (64 * 1024) /* bytes of the largest message: 64 rows, or a HELLO */
#define LINK_NAME (SEISMO_MAX_NAME + 16)
#define LINK_SESSION 16 /* random bytes */

enum link_state {
    LINK_IDLE,     /* nothing said yet, because there was nothing to say */
    LINK_GREETING, /* HELLO wants its WELCOME */
    LINK_OPEN,
    LINK_REFUSED, /* the daemon will not have this session: another version, a bad name */
};

struct link_batch {
    uint64_t number;
    uint32_t n;
    bool bye;           /* BYE instead of STEPS; n is 0 */
    bool sent;          /* at least once */
    uint64_t spool_end; /* of its record; 0: it is in memory only */
    struct seismo_row rows[LINK_ROWS];
};

/* Whom the daemon is told it is talking to. Strings are the link's own. */
struct link_identity {
    char run[SEISMO_MAX_NAME + 1], program[SEISMO_MAX_NAME + 1];
    char meta[SEISMO_MAX_META + 1]; /* JSON object */
    uint32_t rank, world;
    uint8_t session[LINK_SESSION];
};

struct link {
    struct ring *ring; /* borrowed */
    struct link_identity identity;
    bool (*send)(void *arg, const void *data, size_t n); /* false: not now */
    void *arg;
    bool verbose;

    _Atomic enum link_state state; /* written by the link's own thread */
    struct link_batch *batches;    /* circular, LINK_WINDOW of them */
    uint32_t first, n_batches, n_sent;
    uint64_t next_number;
    bool anew;                 /* the session has not been welcomed since begin_anew */
    bool greeted;              /* HELLO has been said in this session */
    uint32_t window, max_rows; /* as the daemon allows */
    uint64_t barrier;          /* highest number sent when last going back */
    double greeted_at;         /* last HELLO */
    double filled_at;          /* last batch taken from the ring */
    double progress_at;        /* last acknowledgement, or first batch in flight */
    double went_back_at, busy_until;
    _Atomic bool hurry; /* rows do not wait for company */
    bool barred;        /* what is noted says why there is no connection */
    bool closing, bye_made, bye_done;
    enum wire_outcome outcome;
    uint8_t *message;           /* LINK_MESSAGE bytes to encode into */
    struct spool spool;         /* fd -1: none */
    int64_t spool_shift;        /* of a batch's number against that in the file */
    struct link_batch *pending; /* made for the spool, which did not take it */
    bool has_pending;
    uint64_t settled; /* highest number acknowledged */

    _Atomic uint64_t acknowledged, rejected, retransmitted; /* rows, rows, batches */
    _Atomic uint64_t dropped;                               /* rows, by whoever pushes */
    _Atomic uint64_t inherited, spooled; /* rows: found in the spool; in it, not acknowledged */
    _Atomic uint64_t spool_errors;
    _Atomic bool connected;

    pthread_mutex_t lock; /* of what follows; held for a copy only */
    char run[LINK_NAME];  /* as the daemon calls it */
    char error[SEISMO_ERRMSG];
    struct seismo_verdict verdict;
};

/* `identity` but for its session, which is chosen at random, is copied. SEISMO_ENOMEM, SEISMO_EIO.
 */
int link_init(struct link *l, struct ring *ring, const struct link_identity *identity,
              bool (*send)(void *arg, const void *data, size_t n), void *arg, double now);
void link_close(struct link *l);

/* Keeps what is not acknowledged in `dir` from now on, and carries on what an earlier process of
 * the same run left there, in its session. Before anything else is done with the link. What goes
 * wrong is noted and counted; the link then works without. */
void link_spool(struct link *l, const char *dir);

/* The transport has a new connection to a daemon, which need not know this session. */
void link_connected(struct link *l, double now);

/* The connection is gone. */
void link_disconnected(struct link *l);

/* The daemon does not let us in, as `text` (copied) says; it is tried again until it does. */
void link_barred(struct link *l, const char *text);

/* One message from the daemon. Whatever it holds, the link survives it. */
void link_receive(struct link *l, const void *data, size_t n, double now);

/* No rows will come any more: send what is left, then BYE. */
void link_finish(struct link *l, enum wire_outcome outcome);

/* After link_finish: nothing is left to say, or nobody who would take it. */
bool link_done(const struct link *l);

/* Does all that is due at `now`. */
void link_run(struct link *l, double now);

/* When link_run wants to be called next: after *ret_timeout seconds (negative: whenever), or as
 * soon as the ring holds as many rows as the return value says. */
uint64_t link_wake(const struct link *l, double now, double *ret_timeout);

#endif
