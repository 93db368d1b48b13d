#include "daemon/doorman.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <zmq.h>

#include "daemon/limits.h"
#include "daemon/log.h"
#include "daemon/zsock.h"

#define MAX_FD (1u << 20) /* beyond the kernel's usual bound of a process */

struct doorman {
    uv_loop_t *loop;
    void *socket;          /* watched */
    struct zsock *monitor; /* hears of its connections */
    uint32_t max, n;
    uint8_t *open;   /* bit per file descriptor that is a connection */
    uint32_t n_open; /* bytes of it */
    const char *name;
    struct log_limit refused;
};

/* The byte and bit of a descriptor; NULL when there is no memory for it. */
static uint8_t *place(struct doorman *d, uint32_t fd, uint8_t *ret_bit)
{
    uint32_t at = fd / 8;
    if (fd >= MAX_FD)
        return NULL;
    if (at >= d->n_open) {
        uint32_t n = (at + 1) * 2;
        uint8_t *grown = realloc(d->open, n);
        if (!grown)
            return NULL;
        memset(grown + d->n_open, 0, n - d->n_open);
        d->open = grown;
        d->n_open = n;
    }
    *ret_bit = (uint8_t)(1 << fd % 8);
    return &d->open[at];
}

static void on_accepted(struct doorman *d, uint32_t fd)
{
    uint8_t bit, *byte = place(d, fd, &bit);
    if (byte && !(*byte & bit)) {
        *byte |= bit;
        d->n++;
    }
    if (byte && d->n <= d->max)
        return;
    /* Should the peer have gone in the meantime and the number belong to a newer connection, then
     * that one goes, which is as well. */
    shutdown((int)fd, SHUT_RDWR);
    uint32_t suppressed;
    if (log_limit_pass(&d->refused, (double)uv_now(d->loop) / 1000, &suppressed))
        log_warning("server", "a connection is refused: [limits] %s is %u (%u more before it)",
                    d->name, d->max, suppressed);
}

static void on_event(void *arg, const struct zsock_msg *msg)
{
    struct doorman *d = arg;
    uint16_t event;
    uint32_t fd;
    if (msg->n != sizeof(event) + sizeof(fd))
        return;
    memcpy(&event, msg->data, sizeof(event));
    memcpy(&fd, (const uint8_t *)msg->data + sizeof(event), sizeof(fd));
    uint8_t bit, *byte;
    if (event == ZMQ_EVENT_ACCEPTED) {
        on_accepted(d, fd);
    } else if ((byte = place(d, fd, &bit)) && (*byte & bit)) {
        *byte &= (uint8_t)~bit;
        d->n--;
    }
}

int doorman_new(uv_loop_t *loop, void *zmq_ctx, void *socket, uint32_t max, const char *name,
                struct doorman **ret_doorman, char errmsg[SEISMO_ERRMSG])
{
    struct doorman *d = calloc(1, sizeof(*d));
    char endpoint[64];
    if (!d) {
        snprintf(errmsg, SEISMO_ERRMSG, "no memory for a socket");
        return SEISMO_ENOMEM;
    }
    d->loop = loop;
    d->socket = socket;
    d->max = max;
    d->name = name;
    snprintf(endpoint, sizeof(endpoint), "inproc://doorman-%p", socket);
    int rc =
        zsock_new(loop, zmq_ctx, ZMQ_PAIR, SEISMO_MAX_MESSAGE, on_event, d, &d->monitor, errmsg);
    if (rc != 0) {
        free(d);
        return rc;
    }
    if (zmq_socket_monitor(socket, endpoint, ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_DISCONNECTED) != 0) {
        snprintf(errmsg, SEISMO_ERRMSG, "cannot watch a ZeroMQ socket's connections: %s",
                 zmq_strerror(errno));
        rc = SEISMO_EINTERNAL;
    } else {
        rc = zsock_connect(d->monitor, endpoint, errmsg);
    }
    *ret_doorman = d;
    if (rc != 0)
        doorman_close(ret_doorman);
    return rc;
}

void doorman_limit(struct doorman *d, uint32_t max)
{
    d->max = max;
}

uint32_t doorman_connections(const struct doorman *d)
{
    return d->n;
}

void doorman_forget_tcp(struct doorman *d)
{
    for (uint32_t fd = 0; fd < d->n_open * 8; fd++) {
        int domain = 0;
        socklen_t size = sizeof(domain);
        uint8_t bit = (uint8_t)(1 << fd % 8);
        if (!(d->open[fd / 8] & bit) ||
            (getsockopt((int)fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_UNIX))
            continue;
        d->open[fd / 8] &= (uint8_t)~bit;
        d->n--;
    }
}

static void on_closed(void *arg)
{
    struct doorman *d = arg;
    free(d->open);
    free(d);
}

void doorman_close(struct doorman **ref)
{
    struct doorman *d = *ref;
    if (!d)
        return;
    *ref = NULL;
    /* In this order, because libzmq would wait for ever to tell a monitor that is gone. */
    zmq_socket_monitor(d->socket, NULL, 0);
    zsock_close(&d->monitor, on_closed, d);
}
