#include "daemon/doorman.h"

#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <zmq.h>

#include "daemon/limits.h"
#include "daemon/log.h"
#include "daemon/zsock.h"

#define MAX_FD (1u << 20) /* beyond the kernel's usual bound of a process */

#define LOOK_MS 50   /* between looks at what has come, */
#define LOOK_AT 1024 /* at so many connections at most */
#define LOOK_DRIP 8  /* bytes more that each look allows: heartbeats */

/* By its file descriptor. */
struct connection {
    uint64_t base; /* bytes that had come of it when a message was last whole */
    bool open;
    bool whole; /* a message was, since the last look, */
    bool known; /* or ever */
};

struct doorman {
    uv_loop_t *loop;
    uv_timer_t timer;
    void *socket;          /* watched */
    struct zsock *monitor; /* hears of its connections */
    uint32_t max, n;
    uint64_t first, unfinished;    /* bytes: before any whole message, and after one */
    struct connection *connection; /* by file descriptor */
    uint32_t n_connections;        /* room */
    uint32_t next;                 /* to be looked at */
    const char *name;
    struct log_limit refused, cut;
    int handles; /* the timer and the monitor, until they are closed */
};

/* NULL when there is no memory for it. */
static struct connection *place(struct doorman *d, uint32_t fd)
{
    if (fd >= MAX_FD)
        return NULL;
    if (fd >= d->n_connections) {
        uint32_t n = (fd + 1) * 2;
        struct connection *grown = realloc(d->connection, n * sizeof(*grown));
        if (!grown)
            return NULL;
        memset(grown + d->n_connections, 0, (n - d->n_connections) * sizeof(*grown));
        d->connection = grown;
        d->n_connections = n;
    }
    return &d->connection[fd];
}

static bool may_log(struct doorman *d, struct log_limit *limit, uint32_t *ret_suppressed)
{
    return log_limit_pass(limit, (double)uv_now(d->loop) / 1000, ret_suppressed);
}

/* ---- what comes and makes no message ---- */

void doorman_whole(struct doorman *d, int fd)
{
    if (fd >= 0 && (uint32_t)fd < d->n_connections)
        d->connection[fd].whole = true;
}

/* What the kernel tells of a TCP connection: more than the C library's header knows of, and
 * <linux/tcp.h>, which has it all, cannot stand beside that. */
struct tcp_account {
    struct tcp_info info;
    uint64_t pacing_rate, max_pacing_rate, bytes_acked, bytes_received;
};
_Static_assert(offsetof(struct tcp_account, bytes_received) == 128, "as in the kernel");

/* Bytes of a TCP connection that libzmq has taken; false for others. */
static bool taken(int fd, uint64_t *ret_bytes)
{
    struct tcp_account account;
    socklen_t size = sizeof(account);
    int waiting;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &account, &size) != 0 || size < sizeof(account) ||
        ioctl(fd, FIONREAD, &waiting) != 0 || account.bytes_received < (uint64_t)waiting)
        return false;
    *ret_bytes = account.bytes_received - (uint64_t)waiting;
    return true;
}

static void look_at(struct doorman *d, uint32_t fd)
{
    struct connection *c = &d->connection[fd];
    uint64_t bytes;
    uint32_t suppressed;
    if (!taken((int)fd, &bytes))
        return;
    if (c->whole)
        c->base = bytes;
    c->known |= c->whole;
    c->whole = false;
    c->base += LOOK_DRIP;
    if (bytes <= c->base + (c->known ? d->unfinished : d->first))
        return;
    shutdown((int)fd, SHUT_RDWR);
    if (may_log(d, &d->cut, &suppressed))
        log_warning("server",
                    "a connection is cut: %" PRIu64 " bytes came that are no whole message (%u more"
                    " before it)",
                    bytes - c->base, suppressed);
}

static void on_timer(uv_timer_t *timer)
{
    struct doorman *d = timer->data;
    uint32_t looked = 0;
    if (d->n == 0) /* an idle daemon sleeps */
        uv_timer_stop(timer);
    for (uint32_t i = 0; i < d->n_connections && looked < LOOK_AT && looked < d->n; i++) {
        d->next = d->next + 1 < d->n_connections ? d->next + 1 : 0;
        if (!d->connection[d->next].open)
            continue;
        look_at(d, d->next);
        looked++;
    }
}

/* ---- the monitor ---- */

static void on_accepted(struct doorman *d, uint32_t fd)
{
    struct connection *c = place(d, fd);
    if (c && !c->open) {
        *c = (struct connection){.open = true};
        if (d->n++ == 0)
            uv_timer_start(&d->timer, on_timer, LOOK_MS, LOOK_MS);
    }
    if (c && d->n <= d->max)
        return;
    /* Should the peer have gone in the meantime and the number belong to a newer connection, then
     * that one goes, which is as well. */
    shutdown((int)fd, SHUT_RDWR);
    uint32_t suppressed;
    if (may_log(d, &d->refused, &suppressed))
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
    if (event == ZMQ_EVENT_ACCEPTED) {
        on_accepted(d, fd);
    } else if (fd < d->n_connections && d->connection[fd].open) {
        d->connection[fd].open = false;
        d->n--;
    }
}

int doorman_new(uv_loop_t *loop, void *zmq_ctx, void *socket, uint32_t max, const char *name,
                uint64_t first, uint64_t unfinished, struct doorman **ret_doorman,
                char errmsg[SEISMO_ERRMSG])
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
    d->first = first;
    d->unfinished = unfinished;
    snprintf(endpoint, sizeof(endpoint), "inproc://doorman-%p", socket);
    int rc =
        zsock_new(loop, zmq_ctx, ZMQ_PAIR, SEISMO_MAX_MESSAGE, on_event, d, &d->monitor, errmsg);
    if (rc != 0) {
        free(d);
        return rc;
    }
    uv_timer_init(loop, &d->timer);
    d->timer.data = d;
    d->handles = 2;
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
    for (uint32_t fd = 0; fd < d->n_connections; fd++) {
        int domain = 0;
        socklen_t size = sizeof(domain);
        if (!d->connection[fd].open ||
            (getsockopt((int)fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_UNIX))
            continue;
        d->connection[fd].open = false;
        d->n--;
    }
}

static void on_closed(void *arg)
{
    struct doorman *d = arg;
    if (--d->handles > 0)
        return;
    free(d->connection);
    free(d);
}

static void on_timer_closed(uv_handle_t *timer)
{
    on_closed(timer->data);
}

void doorman_close(struct doorman **ref)
{
    struct doorman *d = *ref;
    if (!d)
        return;
    *ref = NULL;
    uv_close((uv_handle_t *)&d->timer, on_timer_closed);
    /* In this order, because libzmq would wait for ever to tell a monitor that is gone. */
    zmq_socket_monitor(d->socket, NULL, 0);
    zsock_close(&d->monitor, on_closed, d);
}
