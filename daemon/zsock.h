/* A ZeroMQ socket on a libuv loop.
 *
 * ZMQ_FD is edge-triggered: readable only means "ask ZMQ_EVENTS", and sending and receiving both
 * consume the signal. So the poll handle only wakes the loop; before each poll of the loop
 * (prepare) ZMQ_EVENTS is asked, and when there is something to do an idle handle keeps the loop
 * from sleeping; after the poll (check) at most ZSOCK_BURST messages are received and the outgoing
 * queue is tried. Nothing ever blocks.
 *
 * Invariants: messages to one peer keep their order; the outgoing queue holds at most
 * ZSOCK_MAX_QUEUED messages and ZSOCK_MAX_QUEUED_BYTES bytes; a peer that does not read holds up
 * nobody else. All functions are called on the loop's thread. */
#ifndef SEISMO_DAEMON_ZSOCK_H
#define SEISMO_DAEMON_ZSOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "proto/err.h"

#define ZSOCK_BURST 64                     /* messages received in one turn of the loop */
#define ZSOCK_MAX_QUEUED 256               /* messages waiting for room in libzmq's own queues */
#define ZSOCK_MAX_QUEUED_PEER 64           /* of them to one peer */
#define ZSOCK_MAX_QUEUED_BYTES (16u << 20) /* bytes of them */
#define ZSOCK_RCVHWM 16                    /* messages that a ROUTER reads ahead from each peer */
#define ZSOCK_SNDHWM 64          /* messages that a ROUTER's libzmq queues for each peer */
#define ZSOCK_HWM 1000           /* the same of other types; a PUB drops what is more */
#define ZSOCK_LINGER 1000        /* ms that unsent messages may hold up the end */
#define ZSOCK_HEARTBEAT 30000    /* ms between ZMTP heartbeats, for half-open connections */
#define ZSOCK_HANDSHAKE_MS 10000 /* that a handshake may take */
#define ZSOCK_FIRST (32u << 10)  /* bytes before a whole message: handshake, HELLO or a query */
#define ZSOCK_SUBSCRIPTIONS (64u << 10) /* bytes that the peer of a PUB may send in all */

struct zsock;

/* A received message. Everything is valid during the callback only. */
struct zsock_msg {
    const void *peer; /* ROUTER: routing id, 1..255 bytes; other types: NULL */
    size_t peer_n;
    const char *origin; /* the key or address that it comes from, as ZeroMQ knows it; NULL: none */
    const void *data;   /* the first frame after the routing id */
    size_t n;
    int frames;       /* after the routing id; a well-behaved peer of ours sends 1 */
    const char *user; /* the authenticated peer's user id; NULL: it came in without keys */
};
typedef void (*zsock_recv)(void *arg, const struct zsock_msg *msg);

/* `type` is ZMQ_ROUTER, ZMQ_DEALER, ZMQ_PUB …; `recv` is NULL for sockets that only send. Messages
 * larger than `max_message` bytes make libzmq drop the connection that sent them. */
int zsock_new(uv_loop_t *loop, void *zmq_ctx, int type, size_t max_message, zsock_recv recv,
              void *arg, struct zsock **ret_zsock, char errmsg[SEISMO_ERRMSG]);

/* How what is bound from now on is protected. With `secret` (a key as text, borrowed as long as the
 * socket lives; NULL: none) TCP endpoints talk CURVE, and the ZAP handler judges their peers in
 * `domain` (borrowed as well); socket files have to be bound before them. With `group` >= 0 socket
 * files are that group's too. */
void zsock_guard(struct zsock *z, const char *secret, const char *domain, int64_t group);

/* No more than `max` connections at a time; before the first bind. `name` is the limit's, for the
 * log, borrowed. */
int zsock_limit(struct zsock *z, void *zmq_ctx, uint32_t max, const char *name,
                char errmsg[SEISMO_ERRMSG]);
/* Another `max` for a socket that has one; whoever is connected stays. */
void zsock_limit_again(struct zsock *z, uint32_t max);
uint32_t zsock_connections(const struct zsock *z); /* 0 without a limit */

/* Before the first bind: takes less memory when everybody comes at once. Reads a message or two
 * ahead from each peer, and few connections can be waiting to be accepted, the others try again;
 * both cost time. */
void zsock_spare(struct zsock *z);

/* Before the first bind: how many messages libzmq queues for each peer, when they are large. */
void zsock_queue_ahead(struct zsock *z, int messages);

/* May be called more than once. A socket file that a dead process left is replaced; one that
 * somebody still answers on, and a file that is no socket, are errors. New socket files get mode
 * 0600, or 0660 with a group. */
int zsock_bind(struct zsock *z, const char *endpoint, char errmsg[SEISMO_ERRMSG]);
int zsock_connect(struct zsock *z, const char *endpoint, char errmsg[SEISMO_ERRMSG]);

/* The endpoint last bound, with wildcards filled in; borrowed until the next bind. */
const char *zsock_endpoint(const struct zsock *z);

/* Drops every connection of the endpoints that talk CURVE, so that all their peers are judged anew;
 * those that may come back do so by themselves. Nobody can connect meanwhile (milliseconds). */
void zsock_reopen(struct zsock *z);

/* Sends [head, data]: head is the peer for ROUTER and the topic for PUB; with head == NULL the
 * message is one frame. Both are copied. 0: sent or queued. SEISMO_EUNREACHABLE: a ROUTER knows no
 * such peer (any more). SEISMO_EBUSY: the queue is full, nothing was taken. SEISMO_ENOMEM. */
int zsock_send(struct zsock *z, const void *head, size_t head_n, const void *data, size_t n);

/* Messages in the outgoing queue. */
uint32_t zsock_queued(const struct zsock *z);

/* While paused nothing is received, so that libzmq's queues fill and senders feel it. May be called
 * from the receive callback; no further message comes after it. */
void zsock_pause(struct zsock *z, bool paused);

/* Stops the handles and nulls the pointer; once libuv has let go of them the socket is closed,
 * freed, and `closed` (may be NULL) is called. Accepts NULL and calls nothing then. */
void zsock_close(struct zsock **z, void (*closed)(void *arg), void *arg);

#endif
