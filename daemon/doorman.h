/* How many connections a socket has, and no more than it may; and what may come of one before it
 * makes a whole message.
 *
 * libzmq accepts whoever comes, some 28 kB each, and has no bound for it. So the doorman hears of
 * connections from the socket's monitor and shuts down the newest one when there are too many; its
 * peer tries again by itself. (Unbinding would end all connections, not only refuse new ones.)
 *
 * libzmq keeps the parts of a message until the last one has come, however many there are, and up
 * to ZMQ_MAXMSGSIZE of a stranger before any handshake. So the doorman looks at what the kernel has
 * received on a TCP connection since the last whole message of it, twenty times a second (less
 * often beyond a thousand connections), and shuts down one that is beyond the bound. Of a socket
 * file the kernel does not tell. */
#ifndef SEISMO_DAEMON_DOORMAN_H
#define SEISMO_DAEMON_DOORMAN_H

#include <uv.h>

#include "proto/err.h"

struct doorman;

/* Watches the ZeroMQ socket `socket`, which must not be bound yet. `name` is the limit's, for the
 * log, borrowed. `first`, `unfinished`: bytes that a connection may send before its first whole
 * message, and between two. */
int doorman_new(uv_loop_t *loop, void *zmq_ctx, void *socket, uint32_t max, const char *name,
                uint64_t first, uint64_t unfinished, struct doorman **ret_doorman,
                char errmsg[SEISMO_ERRMSG]);

/* A whole message came over this connection. */
void doorman_whole(struct doorman *d, int fd);

/* Another bound from now on; whoever is there stays. */
void doorman_limit(struct doorman *d, uint32_t max);

uint32_t doorman_connections(const struct doorman *d);

/* TCP endpoints were unbound just now: their connections end without a word of the monitor. */
void doorman_forget_tcp(struct doorman *d);

/* Before the socket is closed. Takes NULL; frees itself on the loop. */
void doorman_close(struct doorman **d);

#endif
