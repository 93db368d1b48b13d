/* Inside ingest: its state, and what it says to peers. Only ingest.c and talk.c use it. */
#ifndef SEISMO_DAEMON_TALK_H
#define SEISMO_DAEMON_TALK_H

#include "daemon/ingest.h"
#include "daemon/log.h"
#include "daemon/session.h"

#define TALK_ASK_INTERVAL 1.0 /* s between two hello_required, or two out_of_order for one gap */

struct ingest {
    struct ingest_ops ops;
    void *arg;
    uint32_t probe_every;
    struct limits limits;
    struct session_table *sessions;
    struct session *dirty; /* an ACK is due */
    struct ingest_stats stats;
    struct log_limit errors, gone;
    struct rate strangers; /* errors to peers without a session */
    uint8_t out[LIMIT_ACK_BYTES];
};

double talk_now(const struct ingest *i);

/* An empty message to write into. */
struct wire_buf talk_buffer(struct ingest *i);

/* A peer that cannot be reached is only marked here, so that no caller loses its session under its
 * hands; ingest_tick draws the consequences. */
int talk_say(struct ingest *i, struct session *s, const struct wire_buf *b);

int talk_ping(struct ingest *i, struct session *s);

/* Tells the peer and the log what is wrong with a message; `ref` is its batch, 0 for none. */
void talk_complain(struct ingest *i, struct session *s, int err, uint64_t ref, const char *text);

/* The peer is at a limit of the configuration. */
void talk_refuse(struct ingest *i, struct session *s, int err, uint64_t ref, const char *limit,
                 uint32_t value, const char *what);
#define TALK_LIMIT(i, name) #name, (i)->limits.name

/* There is no room for this peer's session. */
void talk_turn_away(struct ingest *i, const struct zsock_msg *msg);

void talk_ask_hello(struct ingest *i, struct session *s, uint64_t ref);

/* An ACK is due, which ingest_flush sends. */
void talk_mark_dirty(struct ingest *i, struct session *s);
void talk_unmark_dirty(struct ingest *i, struct session *s);
void talk_ack(struct ingest *i, struct session *s);

/* Takes the news. A verdict that finds too many before it pushes the oldest out: a client that does
 * not read still finds them in the database. */
void talk_news(struct ingest *i, struct session *s, struct news *n);

#endif
